"""Where 300W keeps the faces of each split."""

from pathlib import Path

from .face_files import FaceFile, pair_annotations

# Each folder under the names it goes by: the private test set's archive unpacks to 300W/, but copies in Test/ or
# directly beside the others circulate.
_FOLDERS = {
    "train": [["afw"], ["helen/trainset"], ["lfpw/trainset"]],
    "common": [["helen/testset"], ["lfpw/testset"]],
    "challenging": [["ibug"]],
    "private": [
        [f"{parent}{name}" for parent in ("300W/", "300w/", "Test/", "")] for name in ("01_Indoor", "02_Outdoor")
    ],
}


def list_300w(root: Path) -> dict[str, list[FaceFile]]:
    """The annotated faces of each split below `root`; a split without folders is empty. Other files are ignored."""
    return {
        split: [face for names in folders for face in _list_folder(root, names)] for split, folders in _FOLDERS.items()
    }


def _list_folder(root: Path, names: list[str]) -> list[FaceFile]:
    present = [root / name for name in names if (root / name).is_dir()]
    return pair_annotations(root, present[0], ".pts") if present else []


def source_of(face: FaceFile) -> str:
    """The database of the photo: afw, helen, lfpw, ibug, indoor or outdoor."""
    folders = [name.lower().removeprefix("01_").removeprefix("02_") for name in face.image_id.split("/")[:-1]]
    return next(name for name in folders if name in ("afw", "helen", "lfpw", "ibug", "indoor", "outdoor"))
