"""WFLW: 98 points, a face rectangle and six attributes."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from ..benchmark_facts import (
    BOX_NORMALIZERS,
    HRNET,
    RESEARCH_ONLY,
    Archive,
    Benchmark,
    Column,
    Distance,
    Part,
    Subset,
    contour,
    mirror_pairs,
    names_of,
)
from ..download import download_hint
from ..face import Face
from ..face_builder import FaceBuilder
from ..face_files import find_file, list_photos

_WFLW_98_PARTS = {
    "jaw": contour(0, 32),
    "right_brow": contour(33, 41, closed=True),
    "left_brow": contour(42, 50, closed=True),
    "nose_bridge": contour(51, 54),
    "nostrils": contour(55, 59),
    "right_eye": contour(60, 67, closed=True),
    "left_eye": contour(68, 75, closed=True),
    "outer_lip": contour(76, 87, closed=True),
    "inner_lip": contour(88, 95, closed=True),
    "right_pupil": Part((96,)),
    "left_pupil": Part((97,)),
}
_WFLW_98_FLIP_PAIRS = mirror_pairs(
    (range(0, 16), range(32, 16, -1)),  # jaw
    (range(33, 38), range(46, 41, -1)),  # brows, upper edge
    (range(38, 42), range(50, 46, -1)),  # brows, lower edge
    (range(55, 57), range(59, 57, -1)),  # nostrils
    (range(60, 65), range(72, 67, -1)),  # eyes, upper lid and corners
    (range(65, 68), range(75, 72, -1)),  # eyes, lower lid
    (range(76, 79), range(82, 79, -1)),  # outer lip, upper edge
    (range(86, 88), range(84, 82, -1)),  # outer lip, lower edge
    (range(88, 90), range(92, 90, -1)),  # inner lip, upper edge
    (range(95, 96), range(93, 94)),  # inner lip, lower edge
    (range(96, 97), range(97, 98)),  # pupils
)

_WFLW_ANNOTATIONS = Archive(
    "https://wywu.github.io/projects/LAB/support/WFLW_annotations.tar.gz",
    "WFLW_annotations.tar.gz",
    ("WFLW_annotations/list_98pt_rect_attr_train_test",),
)
_WFLW_IMAGES = Archive(
    "https://drive.usercontent.google.com/download?id=1hzBd48JIdWTJSsATBEB_eFVvPL1bx6UC&export=download&confirm=t",
    "WFLW_images.tar.gz",
    ("WFLW_images",),
)
_WFLW_ATTRIBUTES = {"pose": 326, "expression": 314, "illumination": 698, "makeup": 206, "occlusion": 736, "blur": 773}
WFLW = Benchmark(
    name="wflw",
    title="WFLW",
    landmark_names=names_of(_WFLW_98_PARTS),
    flip_pairs=_WFLW_98_FLIP_PAIRS,
    parts=_WFLW_98_PARTS,
    normalizer_kinds={
        "inter-ocular": Distance((60,), (72,)),
        "inter-pupil": Distance((96,), (97,)),
        **BOX_NORMALIZERS,
    },
    crop_box="landmark_box",
    failure_threshold=0.1,
    splits={"train": 7500, "test": 2500},
    test_split="test",
    subsets={name: Subset("test", faces, name) for name, faces in _WFLW_ATTRIBUTES.items()},
    columns={
        "pose": Column("bool", "large pose"),
        "expression": Column("bool", "exaggerated expression"),
        "illumination": Column("bool", "extreme illumination"),
        "makeup": Column("bool", "heavy make-up"),
        "occlusion": Column("bool", "part of the face is occluded"),
        "blur": Column("bool", "blurred face"),
    },
    licence=RESEARCH_ONLY,
    homepage="https://wywu.github.io/projects/LAB/WFLW.html",
    download=(
        f"the images (WFLW_images.tar.gz, on Google Drive) and the annotations ({_WFLW_ANNOTATIONS.url}), no form"
    ),
    archives=(_WFLW_ANNOTATIONS, _WFLW_IMAGES),
    citation="""@inproceedings{wu2018look,
  title     = {Look at Boundary: A Boundary-Aware Face Alignment Algorithm},
  author    = {Wu, Wayne and Qian, Chen and Yang, Shuo and Wang, Quan and Cai, Yici and Zhou, Qiang},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition},
  year      = {2018}
}""",
    layout=(
        "WFLW_images/ and WFLW_annotations/list_98pt_rect_attr_train_test/ with list_98pt_rect_attr_train.txt (train) "
        "and list_98pt_rect_attr_test.txt (test)"
    ),
    sources={
        "landmark_names": "figure of the 98 points on the homepage",
        "flip_pairs": f"{HRNET}; mmpose, configs/_base_/datasets/wflw.py",
        "normalizer_kinds": "Wu et al. 2018 (outer eye corners); pupils as in the mark-up",
        "crop_box": HRNET,
        "failure_threshold": "Wu et al. 2018: FR and AUC at 10 %",
        "splits": "the homepage",
        "subsets": "the homepage; rows of list_98pt_test",
        "columns": "README of the annotations",
        "licence": "the homepage",
    },
)


# Reading -----------------------------------------------------------------------------------------------------------

IMAGES = "WFLW_images"
_LISTS = "list_98pt_rect_attr_train_test"
_FLAGS = ("pose", "expression", "illumination", "makeup", "occlusion", "blur")
_COORDINATES = 2 * 98
_NUMBERS = _COORDINATES + 4 + len(_FLAGS)


def list_wflw(root: Path) -> dict[str, list[Path]]:
    """The list of each split, in WFLW_annotations/ or directly below `root`; empty without one.

    Raises:
        ValueError: if there is a list, but no folder of photos.
    """
    names = {split: f"{_LISTS}/list_98pt_rect_attr_{split}.txt" for split in ("train", "test")}
    paths = {split: find_file(root, f"WFLW_annotations/{name}", name) for split, name in names.items()}
    lists = {split: [path] if path else [] for split, path in paths.items()}
    if any(lists.values()) and not (root / IMAGES).is_dir():
        raise ValueError(
            f"data_dir must hold {IMAGES}/ with the photos, but {root} has only WFLW's lists. "
            f"{download_hint(WFLW, root)}"
        )
    return lists


def read_wflw(path: str | Path, images: str | Path) -> Iterator[Face]:
    """The faces of `list_98pt_rect_attr_train.txt` or `list_98pt_rect_attr_test.txt`, read while they are used.

    A row holds 207 fields separated by white space: x and y of 98 points, the face's rectangle x0, y0, x1, y1, all
    0-based, six flags 0 or 1 and the photo's path below `images`, which need not exist. `image_id` is that path
    without its suffix.

    Raises:
        ValueError: if the file is not text or a row does not have this form; the message names the file and the row.
    """
    try:
        with Path(path).open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip(" \t\r\n\0\x1a\ufeff"):
                    yield _read_row(f"{path} row {number}", line, Path(images))
    except UnicodeDecodeError:
        raise ValueError(f"{path} must be a text file of landmarks, but is not text") from None


def _read_row(where: str, line: str, images: Path) -> Face:
    fields = line.split(maxsplit=_NUMBERS)  # the rest is the path, spaces included
    if len(fields) != _NUMBERS + 1:
        raise ValueError(f"{where}: a row must have {_NUMBERS + 1} fields, but got {len(fields)}")
    numbers = _read_numbers(where, fields[:_NUMBERS])
    flags = numbers[_COORDINATES + 4 :]
    if not np.isin(flags, (0, 1)).all():
        raise ValueError(f"{where}: the six flags must be 0 or 1, but got {' '.join(fields[_COORDINATES + 4 : -1])}")
    photo = PurePosixPath(fields[-1].strip().replace("\\", "/"))
    if photo.is_absolute() or ".." in photo.parts or not photo.name:
        raise ValueError(f"{where}: the photo must be a path below {IMAGES}, but got {photo}")
    return Face(
        image_id=str(photo.with_suffix("")),
        photo=images / photo,
        landmarks=numbers[:_COORDINATES].reshape(-1, 2),
        where=where,
        box=numbers[_COORDINATES : _COORDINATES + 4],
        columns=dict(zip(_FLAGS, (flags == 1).tolist())),
    )


def _read_numbers(where: str, words: list[str]) -> np.ndarray:
    try:
        numbers = np.array(words, dtype=np.float64)
        if np.isfinite(numbers).all():
            return numbers
    except ValueError:
        pass
    number, word = next((number, word) for number, word in enumerate(words, start=1) if not _is_finite(word))
    raise ValueError(f"{where}: field {number} must be a finite number, but got {word!r}")


def _is_finite(word: str) -> bool:
    try:
        return bool(np.isfinite(float(word)))
    except ValueError:
        return False


class FacesWFLW(FaceBuilder):
    """WFLW in the folders of the official download; each split exists where its list does.

    Faces of one photo are rows of their own and share `image_id`. `box` is the annotated rectangle. See `FaceBuilder`
    for columns and errors.
    """

    BENCHMARK = WFLW

    @classmethod
    def list_sources(cls, root):
        return list_wflw(root)

    @classmethod
    def list_files(cls, root, sources):
        return [*(path for lists in sources.values() for path in lists), *list_photos(root / IMAGES)]

    def read_faces(self, source):
        yield from read_wflw(source, self.root / IMAGES)
