"""Reading of COFW's MATLAB files, photos inside, and of the 68 points that COFW68 adds to the test photos."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .faces import Face
from .mat_files import MatFile

# The grey files hold the same variables; HRNet and others use the coloured ones.
_NAMES = {split: (f"COFW_{split}_color.mat", f"COFW_{split}.mat") for split in ("train", "test")}
_SUFFIXES = {"train": "Tr", "test": "T"}  # of the variables
_POINTS = 29
_LFPW_FACES = 845  # in front of COFW's own in the training set
_POINTS_68 = 68
# The archive of the repository unpacks to a folder named after its branch.
_FOLDERS_68 = [f"{parent}COFW68_Data/" for parent in ("", "cofw68-benchmark-master/", "cofw68-benchmark/")] + [""]


@dataclass(frozen=True)
class CofwFile:
    """The MATLAB file of a split, train or test."""

    path: Path
    split: str


@dataclass(frozen=True)
class Cofw68Files:
    """COFW's test photos, and what COFW68 adds: a file of points for each by its number, and perhaps boxes."""

    photos: CofwFile
    points: tuple[tuple[int, Path], ...]
    boxes: Path | None


def list_cofw(root: Path) -> dict[str, list[CofwFile]]:
    """The file of each split, at the root or in a folder below it; none where it is not there."""
    found = {split: _find(root, names) for split, names in _NAMES.items()}
    return {split: [CofwFile(path, split)] if path else [] for split, path in found.items()}


def list_cofw68(root: Path) -> dict[str, list[Cofw68Files]]:
    """The files of the one split, test: empty without COFW's test photos or without a file of points."""
    photos = list_cofw(root)["test"]
    for folder in (root / name for name in _FOLDERS_68):
        names = {path: re.fullmatch(r"(\d+)_points\.mat", path.name) for path in folder.glob("test_annotations/*.mat")}
        points = sorted((int(name[1]), path) for path, name in names.items() if name)
        if photos and points:
            boxes = folder / "cofw68_test_bboxes.mat"
            return {"test": [Cofw68Files(photos[0], tuple(points), boxes if boxes.is_file() else None)]}
    return {"test": []}


def _find(root: Path, names: tuple[str, ...]) -> Path | None:
    """The file of the first of these names that is there, nearest to the root."""
    found = [sorted(_visible(root, name), key=lambda path: (len(path.parts), path)) for name in names]
    return next((paths[0] for paths in found if paths), None)


def _visible(root: Path, name: str) -> list[Path]:
    """Files of this name below `root`, none in a hidden folder, such as that of a download that was killed."""
    found = root.rglob(name)
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts)]


def read_cofw(source: CofwFile) -> Iterator[Face]:
    """The faces in MATLAB's order, each photo read when its face is asked for.

    Raises:
        ValueError: naming the file, and the face, counted from 1, where one is to blame.
    """
    suffix = _SUFFIXES[source.split]
    with MatFile(source.path) as mat:
        phis = mat.read_array(f"phis{suffix}", None, 3 * _POINTS)
        boxes = mat.read_array(f"bboxes{suffix}", len(phis), 4)
        _check_count(mat, f"Is{suffix}", len(phis))
        for row, photo in enumerate(mat.read_cells(f"Is{suffix}", range(1, len(phis) + 1))):
            where = f"{source.path} row {row + 1}"
            x, y, flags = phis[row].reshape(3, _POINTS)
            lfpw = source.split == "train" and row < _LFPW_FACES
            yield Face(
                image_id=_image_id(source.split, row + 1),
                photo=_check_pixels(photo, where),
                landmarks=_from_one(np.stack([x, y], axis=1), where, "the landmarks"),
                where=where,
                box=_box(boxes[row], where),
                occluded=_check_flags(flags, where),
                columns={"source": "lfpw" if lfpw else "cofw"},
            )


def read_cofw68(source: Cofw68Files) -> Iterator[Face]:
    """The faces that have a file of points, in the order of their numbers, which are those of COFW's test photos.

    Raises:
        ValueError: naming the file, and the face, counted from 1, where one is to blame.
    """
    with MatFile(source.photos.path) as mat:
        count = mat.count_cells("IsT")
        for number, path in source.points:
            if not 1 <= number <= count:
                raise ValueError(f"{path} must belong to one of the {count} photos of {mat.path}, but got {number}")
        boxes = _read_boxes_68(source.boxes, count)
        photos = mat.read_cells("IsT", [number for number, _ in source.points])
        for (number, path), photo in zip(source.points, photos, strict=True):
            landmarks, occluded = read_points_68(path)
            yield Face(
                image_id=_image_id("test", number),
                photo=_check_pixels(photo, f"{mat.path} row {number}"),
                landmarks=landmarks,
                where=str(path),
                box=None if boxes is None else _box(boxes[number - 1], f"{source.boxes} row {number}"),
                occluded=occluded,
            )


def read_points_68(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks (68, 2), float64, in pixels of the photo, 0-based, and whether each is occluded, (68,) bool.

    Raises:
        ValueError: naming the file.
    """
    with MatFile(path) as mat:
        points = mat.read_array("Points", _POINTS_68, 2)
        occluded = mat.read_array("Occ", None, None)
    if occluded.shape not in ((1, _POINTS_68), (_POINTS_68, 1)):
        raise ValueError(f"{path}: Occ must be 1 x {_POINTS_68}, but got {' x '.join(map(str, occluded.shape))}")
    return _from_one(points, str(path), "the landmarks"), _check_flags(occluded.ravel(), str(path))


def _read_boxes_68(path: Path | None, count: int) -> np.ndarray | None:
    if path is None:
        return None
    with MatFile(path) as mat:
        return mat.read_array("bboxes", count, 4)


def _image_id(split: str, number: int) -> str:
    return f"{split}/{number:04d}"


def _check_count(mat: MatFile, name: str, count: int) -> None:
    found = mat.count_cells(name)
    if found != count:
        raise ValueError(f"{mat.path}: {name} must hold {count} photos, one for each face, but got {found}")


def _check_pixels(photo: np.ndarray, where: str) -> np.ndarray:
    colours = photo.shape[2:]
    if photo.dtype != np.uint8 or photo.ndim < 2 or colours not in ((), (3,)) or not photo.size:
        raise ValueError(
            f"{where}: the photo must be height x width x 3 or height x width of uint8, "
            f"but got {' x '.join(map(str, photo.shape))} of {photo.dtype}"
        )
    return photo


def _from_one(points: np.ndarray, where: str, name: str) -> np.ndarray:
    """From MATLAB's pixels, counted from 1, to ours."""
    if not np.isfinite(points).all():
        raise ValueError(f"{where}: {name} must be finite, but got {points[~np.isfinite(points)][0]}")
    return points - 1


def _box(box: np.ndarray, where: str) -> np.ndarray:
    """x0, y0, x1, y1 from x, y counted from 1, width, height."""
    if not np.isfinite(box).all():
        raise ValueError(f"{where}: the box must be finite, but got {box.tolist()}")
    x0, y0 = box[:2] - 1
    return np.array([x0, y0, x0 + box[2], y0 + box[3]])


def _check_flags(flags: np.ndarray, where: str) -> np.ndarray:
    if not np.isin(flags, (0, 1)).all():
        raise ValueError(
            f"{where}: the flags of occlusion must be 0 or 1, but got {flags[~np.isin(flags, (0, 1))][0]:g}"
        )
    return flags == 1
