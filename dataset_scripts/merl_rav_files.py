"""Where MERL-RAV keeps its faces, and reading of its labels: 68 points and whether each can be seen."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .aflw_files import list_aflw_photos
from .benchmarks import HIDDEN_BY_HEAD, HIDDEN_BY_OTHERS, VISIBLE
from .face_files import FaceFile, pair_annotations
from .faces import Face
from .pts import read_points

POSES = ("frontal", "left", "lefthalf", "right", "righthalf")
_SPLITS = {"train": "trainset", "test": "testset"}
_PARENTS = ("", "MERL-RAV_dataset-master/", "MERL-RAV_dataset/")  # what its archive and its repository unpack to
_POINTS = 68


def list_merl_rav(root: Path) -> dict[str, list[FaceFile]]:
    """The faces of each split: those of merl_rav_organized/, which has photos and labels side by side, or where it has
    none those of merl_rav_labels/ with the photos of an AFLW below `root`.

    Raises:
        ValueError: naming a label whose photo is not there.
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
    missing = [path for path in files if photo_name(path.stem) not in photos]
    if missing:
        others = f", nor those of {len(missing) - 1} others" if len(missing) > 1 else ""
        raise ValueError(
            f"{missing[0]} must have its photo {photo_name(missing[0].stem)}.jpg of AFLW below {root}, but it is not "
            f"there{others}"
        )
    found = [(photos[photo_name(path.stem)], path) for path in files]
    return [FaceFile(photo.relative_to(root).with_suffix("").as_posix(), photo, path) for photo, path in found]


def photo_name(stem: str) -> str:
    """That of AFLW: image00447 for the label image00447_2, the photo's second face."""
    return stem.partition("_")[0]


def read_merl_rav(face: FaceFile) -> Iterator[Face]:
    """The one face of a label. Coordinates are taken as they stand, as 0-based: the homepage does not say.

    Raises:
        ValueError: naming the file, and the row where one is to blame; see `read_points`.
    """
    landmarks, visibility = decode_visibility(read_points(face.annotation, _POINTS))
    folders = face.annotation.parts
    yield Face(
        image_id=photo_name(face.annotation.stem),  # faces of one photo share it
        photo=face.photo,
        landmarks=landmarks,
        where=str(face.annotation),
        occluded=visibility != VISIBLE,
        columns={"pose": next(part for part in reversed(folders) if part in POSES), "visibility": visibility.tolist()},
    )


def decode_visibility(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks (K, 2), NaN where the head hides them, and visibility (K,) int8, of what a label holds.

    (x, y) is visible, (-x, -y) hidden by something else, (-1, -1) hidden by the head. One negative coordinate is
    that of a point beyond the photo's left or upper edge, or of a hidden one beyond it: the reading nearer to the
    other points holds. A visible point beyond both edges cannot be told from a hidden one within.
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
