"""MERL-RAV: 68 points on AFLW's faces in any pose, and the visibility of each."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..benchmark_facts import (
    BOX_NORMALIZERS,
    HIDDEN_BY_HEAD,
    HIDDEN_BY_OTHERS,
    VISIBILITY,
    VISIBLE,
    Archive,
    Benchmark,
    Column,
    Subset,
)
from ..face import Face
from ..face_builder import FaceBuilder
from ..face_files import FaceFile, pair_annotations
from ..pts import read_points
from .aflw import AFLW_CITATION, list_aflw_photos
from .w300 import IBUG_68_NORMALIZERS, W300

_MERL_RAV_LABELS = Archive(
    "https://github.com/abhi1kumar/MERL-RAV_dataset/archive/master.zip",
    "MERL-RAV_dataset-master.zip",
    ("**/merl_rav_labels",),
)
_MERL_RAV_POSES = {"frontal": 2195, "lefthalf": 295, "left": 521, "righthalf": 306, "right": 548}
MERL_RAV = Benchmark(
    name="merl_rav",
    title="MERL-RAV",
    landmark_names=W300.landmark_names,
    flip_pairs=W300.flip_pairs,
    parts=W300.parts,
    normalizer_kinds={**BOX_NORMALIZERS, **IBUG_68_NORMALIZERS},
    crop_box="landmark_box",
    failure_threshold=0.07,
    splits={"train": 15449, "test": 3865},
    test_split="test",
    subsets={pose: Subset("test", faces, "pose", pose) for pose, faces in _MERL_RAV_POSES.items()},
    columns={
        "pose": Column("string", "pose of the head: frontal, lefthalf, left, righthalf or right"),
        "visibility": VISIBILITY,
    },
    occlusion=True,
    shares_photos=True,
    licence="The photos are AFLW's, for non-commercial research only; the labels come without a stated licence.",
    homepage="https://github.com/abhi1kumar/MERL-RAV_dataset",
    download=f"the labels ({_MERL_RAV_LABELS.url}), no form, and AFLW's photos after filling in its form",
    form=True,
    archives=(_MERL_RAV_LABELS,),
    citation="""@inproceedings{kumar2020luvli,
  title     = {LUVLi Face Alignment: Estimating Landmarks' Location, Uncertainty, and Visibility Likelihood},
  author    = {Kumar, Abhinav and Marks, Tim K. and Mou, Wenxuan and Wang, Ye and Jones, Michael and Cherian, Anoop and
               Koike-Akino, Toshiaki and Liu, Xiaoming and Feng, Chen},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2020}
}
"""
    + AFLW_CITATION,
    layout=(
        "merl_rav_organized/{frontal,left,lefthalf,right,righthalf}/{trainset,testset}/ with photos and labels, or "
        "merl_rav_labels/{frontal,left,lefthalf,right,righthalf}/{trainset,testset}/labels/ and AFLW's photos"
    ),
    sources={
        "landmark_names": "those of 300W, by the homepage",
        "flip_pairs": "those of 300W",
        "normalizer_kinds": "Kumar et al. 2020: sqrt(w*h) of the box around the annotated points",
        "crop_box": "Kumar et al. 2020: the box around the points",
        "failure_threshold": "Kumar et al. 2020: AUC at 7 % of the box",
        "splits": "the labels",
        "subsets": "the labels' folders",
        "columns": "the homepage: signs of the coordinates; the labels' folders",
        "occlusion": "the homepage: hidden by the head or by something else",
        "licence": "AFLW's homepage; the labels' homepage has none",
    },
)


# Reading -----------------------------------------------------------------------------------------------------------

POSES = ("frontal", "left", "lefthalf", "right", "righthalf")
_SPLITS = {"train": "trainset", "test": "testset"}
_PARENTS = ("", "MERL-RAV_dataset-master/", "MERL-RAV_dataset/")  # what its archive and its repository unpack to
_POINTS = 68


def list_merl_rav(root: Path) -> dict[str, list[FaceFile]]:
    """The faces of each split. They are from merl_rav_organized/, which has photos and labels side by side, or if it
    has none from merl_rav_labels/, with AFLW's photos below `root`.

    Raises:
        ValueError: if the photo of a label is missing; the message names the label.
    """
    organized, labels = (_find_folder(root, name) for name in ("merl_rav_organized", "merl_rav_labels"))
    faces = _list(organized, lambda folder: pair_annotations(root, folder, ".pts")) if organized else {}
    if any(faces.values()) or not labels:
        return faces
    photos = {path.stem: path for path in list_aflw_photos(root)}
    return _list(labels, lambda folder: _pair_with_aflw(root, folder, photos))


def _find_folder(root: Path, name: str) -> Path | None:
    return next((root / parent / name for parent in _PARENTS if (root / parent / name).is_dir()), None)


def _list(top: Path, list_folder) -> dict[str, list[FaceFile]]:
    folders = {split: [top / pose / folder for pose in POSES] for split, folder in _SPLITS.items()}
    return {
        split: [face for folder in paths if folder.is_dir() for face in list_folder(folder)]
        for split, paths in folders.items()
    }


def _pair_with_aflw(root: Path, folder: Path, photos: dict[str, Path]) -> list[FaceFile]:
    labels = folder / "labels" if (folder / "labels").is_dir() else folder
    files = sorted(
        path for path in labels.iterdir() if path.suffix.lower() == ".pts" and not path.name.startswith(".")
    )
    unpaired_files = [path for path in files if photo_name(path.stem) not in photos]
    if unpaired_files:
        others = f", nor those of {len(unpaired_files) - 1} others" if len(unpaired_files) > 1 else ""
        raise ValueError(
            f"{unpaired_files[0]} must have its photo {photo_name(unpaired_files[0].stem)}.jpg of AFLW below {root}, "
            f"but it is not there{others}"
        )
    pairs = [(photos[photo_name(path.stem)], path) for path in files]
    return [FaceFile(photo.relative_to(root).with_suffix("").as_posix(), photo, path) for photo, path in pairs]


def photo_name(stem: str) -> str:
    """AFLW's name of the photo of a label: image00447 for image00447_2, the photo's second face."""
    return stem.partition("_")[0]


def read_merl_rav(face: FaceFile) -> Iterator[Face]:
    """The face of a label. Coordinates are read as 0-based; the homepage does not say what they are.

    Raises:
        ValueError: as `read_points`.
    """
    landmarks, visibility = decode_visibility(read_points(face.annotation, _POINTS))
    folders = face.annotation.parts
    yield Face(
        image_id=photo_name(face.annotation.stem),  # faces of one photo share it
        photo=face.photo,
        landmarks=landmarks,
        where=str(face.annotation),
        occluded=visibility != VISIBLE,
        columns={"pose": next(name for name in reversed(folders) if name in POSES), "visibility": visibility.tolist()},
    )


def decode_visibility(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks (K, 2), NaN where the head hides them, and visibility (K,) int8, from a label's points (K, 2).

    (x, y) is visible, (-x, -y) is hidden by something else, (-1, -1) is hidden by the head. A point with one negative
    coordinate is either a visible one beyond the photo's left or upper edge, or a hidden one, also beyond an edge. The
    interpretation nearer to the other points is used. A visible point beyond both edges is read as a hidden one within
    the photo, because both have the same signs.
    """
    negative = points < 0
    by_head = (points == -1).all(axis=1)
    by_others = negative.all(axis=1) & ~by_head
    unclear = negative.any(axis=1) & ~negative.all(axis=1)
    landmarks = np.where(by_others[:, None], -points, points).astype(np.float64)
    landmarks[by_head] = np.nan
    clear = ~unclear & ~by_head
    if unclear.any() and clear.any():
        middle = np.median(landmarks[clear], axis=0)
        nearer = np.linalg.norm(-points - middle, axis=1) < np.linalg.norm(points - middle, axis=1)
        landmarks[unclear & nearer] *= -1
        by_others |= unclear & nearer
    visibility = np.select([by_head, by_others], [HIDDEN_BY_HEAD, HIDDEN_BY_OTHERS], VISIBLE).astype(np.int8)
    return landmarks, visibility


class FacesMERLRAV(FaceBuilder):
    """MERL-RAV as its script writes it, merl_rav_organized/, or its labels, merl_rav_labels/, and AFLW's photos.

    train: trainset of each pose. test: testset. Landmarks that the head hides are NaN. `box` is NaN: there is no
    annotated one. See `FaceBuilder` for columns and errors.
    """

    BENCHMARK = MERL_RAV

    @classmethod
    def list_sources(cls, root):
        return list_merl_rav(root)

    @classmethod
    def list_files(cls, root, sources):
        return [path for faces in sources.values() for face in faces for path in (face.photo, face.annotation)]

    def read_faces(self, source: FaceFile):
        yield from read_merl_rav(source)
