"""COFW: 29 points on faces that are often occluded, and COFW68: 68 points on its test photos."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..benchmark_facts import BOX_NORMALIZERS, HRNET, Archive, Benchmark, Column, Distance, Part, names_of
from ..face import Face
from ..face_builder import FaceBuilder
from ..mat_files import MatFile
from .w300 import IBUG_68_NORMALIZERS, W300

# Closed contours run around a part: outer end, top, inner end and bottom of the right brow, and so on.
_COFW_29_PARTS = {
    "right_brow": Part((0, 4, 2, 5), closed=True),
    "left_brow": Part((3, 6, 1, 7), closed=True),
    "right_eye": Part((8, 12, 10, 13), closed=True),
    "left_eye": Part((11, 14, 9, 15), closed=True),
    "right_pupil": Part((16,)),
    "left_pupil": Part((17,)),
    "nose": Part((18, 20, 19, 21), closed=True),
    "outer_lip": Part((22, 24, 23, 27), closed=True),
    "inner_lip": Part((25, 26)),
    "chin": Part((28,)),
}
_COFW_29_FLIP_PAIRS = (
    *((0, 1), (2, 3), (4, 6), (5, 7)),  # brows
    *((8, 9), (10, 11), (12, 14), (13, 15), (16, 17)),  # eyes
    *((18, 19), (22, 23)),  # nose, mouth
)

_COFW_COLOR = Archive(
    "https://data.caltech.edu/records/bc0bf-nc666/files/COFW_color.zip?download=1",
    "COFW_color.zip",
    ("**/COFW_train_color.mat", "**/COFW_test_color.mat"),
    md5="8b21d126c4e1fb307cb463578eef0511",
)
COFW = Benchmark(
    name="cofw",
    title="COFW",
    landmark_names=names_of(_COFW_29_PARTS),
    flip_pairs=_COFW_29_FLIP_PAIRS,
    parts=_COFW_29_PARTS,
    normalizer_kinds={
        "inter-ocular": Distance((8,), (9,)),
        "inter-pupil": Distance((16,), (17,)),
        **BOX_NORMALIZERS,
    },
    crop_box="landmark_box",
    failure_threshold=0.1,
    splits={"train": 1345, "test": 507},
    test_split="test",
    columns={"source": Column("string", "lfpw for the first 845 training faces, else cofw")},
    occlusion=True,
    licence="The annotations are CC BY 4.0 by the record's own statement; the photos belong to their owners.",
    homepage="https://data.caltech.edu/records/bc0bf-nc666",
    download="COFW_color.zip, no form",
    archives=(_COFW_COLOR,),
    citation="""@inproceedings{burgos2013robust,
  title     = {Robust Face Landmark Estimation under Occlusion},
  author    = {Burgos-Artizzu, Xavier P. and Perona, Pietro and Doll{\\'a}r, Piotr},
  booktitle = {IEEE International Conference on Computer Vision},
  year      = {2013}
}""",
    layout="COFW_train_color.mat (train) or COFW_test_color.mat (test)",
    sources={
        "landmark_names": "Burgos-Artizzu et al. 2013, figure 2; order checked on PIPNet's mean face",
        "flip_pairs": f"{HRNET}; mmpose, configs/_base_/datasets/cofw.py",
        "normalizer_kinds": "outer eye corners: HRNet, PIPNet, mmpose; pupils: SLPT, STAR, ADNet, AWing",
        "crop_box": HRNET,
        "failure_threshold": "Burgos-Artizzu et al. 2013: failures above 10 %",
        "splits": "Burgos-Artizzu et al. 2013",
        "columns": "Burgos-Artizzu et al. 2013: 845 faces of LFPW and 500 of COFW",
        "occlusion": "Burgos-Artizzu et al. 2013: the last third of phis",
        "licence": "the record on the homepage",
    },
)

_COFW68_ANNOTATIONS = Archive(
    "https://github.com/golnazghiasi/cofw68-benchmark/archive/master.zip",
    "cofw68-benchmark-master.zip",
    ("**/COFW68_Data/test_annotations",),
)
COFW68 = Benchmark(
    name="cofw68",
    title="COFW68",
    landmark_names=W300.landmark_names,
    flip_pairs=W300.flip_pairs,
    parts=W300.parts,
    normalizer_kinds=IBUG_68_NORMALIZERS,
    crop_box="landmark_box",
    failure_threshold=0.1,
    splits={"test": 507},
    test_split="test",
    occlusion=True,
    licence="COFW's photos, which belong to their owners; the 68 points come without a stated licence.",
    homepage="https://github.com/golnazghiasi/cofw68-benchmark",
    download=f"{_COFW68_ANNOTATIONS.url}, and the photos: COFW_color.zip of {COFW.homepage}, no form",
    archives=(_COFW68_ANNOTATIONS, replace(_COFW_COLOR, provides=("**/COFW_test_color.mat",))),
    citation="""@article{ghiasi2015occlusion,
  title   = {Occlusion Coherence: Detecting and Localizing Occluded Faces},
  author  = {Ghiasi, Golnaz and Fowlkes, Charless C.},
  journal = {arXiv preprint arXiv:1506.08347},
  year    = {2015}
}
"""
    + COFW.citation,
    layout=(
        "COFW_test_color.mat and COFW68_Data/test_annotations/ with 1_points.mat to 507_points.mat, below "
        "cofw68-benchmark-master/ or not"
    ),
    sources={
        "landmark_names": "those of 300W, by the homepage",
        "flip_pairs": "those of 300W",
        "normalizer_kinds": "outer eye corners: PIPNet, STAR",
        "crop_box": "as COFW",
        "failure_threshold": "PIPNet, STAR: FR at 10 %",
        "splits": "the homepage",
        "occlusion": "the homepage: Occ",
        "licence": "the homepage has none",
    },
)


# Reading -----------------------------------------------------------------------------------------------------------

# The grey files hold the same variables; HRNet and others use the coloured ones.
_NAMES = {split: (f"COFW_{split}_color.mat", f"COFW_{split}.mat") for split in ("train", "test")}
_SUFFIXES = {"train": "Tr", "test": "T"}  # of the variables
_POINTS = 29
_LFPW_FACES = 845  # the first faces of the training set; COFW's own follow
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
    """COFW's test photos, COFW68's file of points for each photo number, and the file of boxes, if there is one."""

    photos: CofwFile
    points: tuple[tuple[int, Path], ...]
    boxes: Path | None


def list_cofw(root: Path) -> dict[str, list[CofwFile]]:
    """The file of each split, at the root or in a folder below it; an empty list without it."""
    paths = {split: _find(root, names) for split, names in _NAMES.items()}
    return {split: [CofwFile(path, split)] if path else [] for split, path in paths.items()}


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
    """The file with the first of these names that exists; of several, the one nearest to the root."""
    matches = [sorted(_visible_files(root, name), key=lambda path: (len(path.parts), path)) for name in names]
    return next((paths[0] for paths in matches if paths), None)


def _visible_files(root: Path, name: str) -> list[Path]:
    """Files of this name below `root`, but not in hidden folders, such as that of an interrupted download."""
    paths = root.rglob(name)
    return [path for path in paths if not any(folder.startswith(".") for folder in path.relative_to(root).parts)]


def read_cofw(source: CofwFile) -> Iterator[Face]:
    """The faces in MATLAB's order. Each photo is read with its face.

    Raises:
        ValueError: if a file is malformed; the message names it and, for an error in a face, its number (from 1).
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
                landmarks=_to_zero_based(np.stack([x, y], axis=1), where, "the landmarks"),
                where=where,
                box=_box(boxes[row], where),
                occluded=_check_flags(flags, where),
                columns={"source": "lfpw" if lfpw else "cofw"},
            )


def read_cofw68(source: Cofw68Files) -> Iterator[Face]:
    """The faces that have a file of points, in the order of their numbers, which are those of COFW's test photos.

    Raises:
        ValueError: if a file is malformed; the message names it and, for an error in a face, its number (from 1).
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
    return _to_zero_based(points, str(path), "the landmarks"), _check_flags(occluded.ravel(), str(path))


def _read_boxes_68(path: Path | None, count: int) -> np.ndarray | None:
    if path is None:
        return None
    with MatFile(path) as mat:
        return mat.read_array("bboxes", count, 4)


def _image_id(split: str, number: int) -> str:
    return f"{split}/{number:04d}"


def _check_count(mat: MatFile, name: str, count: int) -> None:
    num_photos = mat.count_cells(name)
    if num_photos != count:
        raise ValueError(f"{mat.path}: {name} must hold {count} photos, one for each face, but got {num_photos}")


def _check_pixels(photo: np.ndarray, where: str) -> np.ndarray:
    colours = photo.shape[2:]
    if photo.dtype != np.uint8 or photo.ndim < 2 or colours not in ((), (3,)) or not photo.size:
        raise ValueError(
            f"{where}: the photo must be height x width x 3 or height x width of uint8, "
            f"but got {' x '.join(map(str, photo.shape))} of {photo.dtype}"
        )
    return photo


def _to_zero_based(points: np.ndarray, where: str, name: str) -> np.ndarray:
    """The points in 0-based pixels, from MATLAB's pixels, which count from 1."""
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


class FacesCOFW(FaceBuilder):
    """COFW as it is downloaded. A split exists if its MATLAB file does.

    train: COFW_train_color.mat. test: COFW_test_color.mat. They are at the root or in a folder below it. If one is
    missing, its grey file, COFW_train.mat or COFW_test.mat, is read. `source` is lfpw for the first 845 training
    faces, else cofw. See `FaceBuilder` for columns and errors.
    """

    BENCHMARK = COFW

    @classmethod
    def list_sources(cls, root):
        return list_cofw(root)

    @classmethod
    def list_files(cls, root, sources):
        return [file.path for files in sources.values() for file in files]

    def read_faces(self, source: CofwFile):
        yield from read_cofw(source)


class FacesCOFW68(FaceBuilder):
    """COFW68 as it is downloaded, beside COFW's test photos; one split, test, with COFW's `image_id`.

    COFW68_Data/test_annotations/1_points.mat, …, and COFW_test_color.mat. `box` is that of
    COFW68_Data/cofw68_test_bboxes.mat, NaN without this file. See `FaceBuilder` for columns and errors.
    """

    BENCHMARK = COFW68

    @classmethod
    def list_sources(cls, root):
        return list_cofw68(root)

    @classmethod
    def list_files(cls, root, sources):
        faces = [files for split in sources.values() for files in split]
        points = [path for files in faces for _, path in files.points]
        return points + [path for files in faces for path in (files.photos.path, files.boxes) if path]

    def read_faces(self, source: Cofw68Files):
        yield from read_cofw68(source)
