"""Facts about the benchmarks, read by the builders, the metric's callers and the training script.

Nothing elsewhere may branch on a number of points: what differs between benchmarks is written here, each fact with its
source. Landmark indices are 0-based; "right" and "left" are the subject's own, so a right eye is on the left of the
picture.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np


@dataclass(frozen=True)
class Part:
    """A contour of the face: the landmarks to join in this order, and whether the last joins the first."""

    indices: tuple[int, ...]
    closed: bool = False


@dataclass(frozen=True)
class Distance:
    """Normaliser: from the mean of the landmarks `first` to the mean of `second`."""

    first: tuple[int, ...]
    second: tuple[int, ...]

    def __call__(self, landmarks: np.ndarray, boxes) -> np.ndarray:
        ends = [landmarks[:, list(indices)].mean(axis=1) for indices in (self.first, self.second)]
        return np.linalg.norm(ends[0] - ends[1], axis=-1)


def box_side(landmarks, boxes: np.ndarray) -> np.ndarray:
    """Normaliser: sqrt(width * height) of the box that the crop is made from."""
    return np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def box_diagonal(landmarks, boxes: np.ndarray) -> np.ndarray:
    """Normaliser: diagonal of the box that the crop is made from."""
    return np.hypot(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])


BOX_NORMALIZERS = {"box": box_side, "diagonal": box_diagonal}


@dataclass(frozen=True)
class Subset:
    """Faces that papers name: of `splits` (joined by "+"), those whose `column` holds `value`, or all without one.

    `faces` is their official number, None where there is none.
    """

    splits: str
    faces: int | None
    column: str | None = None
    value: bool | str = True


@dataclass(frozen=True)
class Column:
    """A column that only some sets have: its type in `datasets`, what it says, and whether of each landmark."""

    dtype: str
    meaning: str
    per_landmark: bool = False


@dataclass(frozen=True)
class Archive:
    """A file with a direct public address, last reported working in 2026.

    Attributes:
        url: the address.
        filename: what it is called there.
        provides: the files or folders that it brings, as patterns of `glob` ("**/" is any folder); where they are
            all there, it need not be fetched.
        md5: of the file, where its owners give it.
    """

    url: str
    filename: str
    provides: tuple[str, ...]
    md5: str | None = None


@dataclass(frozen=True)
class Benchmark:
    """What a benchmark defines.

    Attributes:
        name: as in `--dataset` and `BENCHMARKS`.
        title: as in tables and on cards.
        landmark_names: K names in the order of the points.
        flip_pairs: pairs of landmarks that change places when a face is mirrored; the others stay.
        parts: contours for drawing, by name.
        normalizer_kinds: distances that errors are divided by, by name ("inter-ocular", …); the first is the default.
        crop_box: the column that crops are made from: "landmark_box", or "box" for the annotated face box.
        failure_threshold: NME, as a fraction, above which a face counts as failed (and the limit of the AUC).
        splits: official number of faces of each split; the splits are disjoint.
        test_split: the split or subset that is scored unless another is asked for.
        subsets: faces that papers score by themselves, by name.
        columns: the set's own columns, by name.
        occlusion: whether the set says which landmarks are occluded (column `occluded`).
        shares_photos: whether the official splits have faces of the same photos.
        licence: terms of the images and annotations, in one sentence.
        homepage: where the official download starts.
        download: what to fetch from there.
        form: whether part of it is given only after filling in a form.
        archives: the other part, that `--download` fetches.
        layout: the folders of the official download, as told to whoever points at a wrong one.
        citation: BibTeX.
        sources: where each of these facts is from, by the attribute's name.
    """

    name: str
    title: str
    landmark_names: tuple[str, ...]
    flip_pairs: tuple[tuple[int, int], ...]
    parts: Mapping[str, Part]
    normalizer_kinds: Mapping[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]
    crop_box: str
    failure_threshold: float
    splits: Mapping[str, int]
    test_split: str
    licence: str
    homepage: str
    download: str
    layout: str
    citation: str
    form: bool = False
    archives: tuple[Archive, ...] = ()
    subsets: Mapping[str, Subset] = field(default_factory=dict)
    columns: Mapping[str, Column] = field(default_factory=dict)
    occlusion: bool = False
    shares_photos: bool = False
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_landmarks(self) -> int:
        return len(self.landmark_names)

    @property
    def default_normalizer(self) -> str:
        return next(iter(self.normalizer_kinds))

    def box_to_crop(self, face: Mapping) -> np.ndarray:
        """The box (4,), float64, that the crop of a face is made from: `crop_box`, or where it is NaN `landmark_box`.

        Args:
            face: columns `landmark_box` and `box`, in pixels of the photo.
        """
        box = np.asarray(face[self.crop_box], dtype=np.float64)
        return np.asarray(face["landmark_box"], dtype=np.float64) if np.isnan(box).any() else box

    def normalizers(self, landmarks, kind: str | None = None, boxes=None) -> np.ndarray:
        """Distances (N,), float64, that the errors of N faces are divided by.

        Args:
            landmarks: (N, K, 2) annotated points, in pixels or any other unit, which the result shares. A face whose
                defining points are not annotated (NaN) gets NaN.
            kind: a name in `normalizer_kinds`; by default the first.
            boxes: (N, 4) x0, y0, x1, y1 in the same unit, those that the crops are made from; only "box" and
                "diagonal" need them.

        Raises:
            ValueError: on another shape, an unknown kind, or missing boxes.
        """
        kind = kind or self.default_normalizer
        if kind not in self.normalizer_kinds:
            raise ValueError(
                f"kind must be one of {', '.join(self.normalizer_kinds)} for {self.name}, but got {kind!r}"
            )
        points = np.asarray(landmarks, dtype=np.float64)
        if points.ndim != 3 or points.shape[1:] != (self.num_landmarks, 2):
            raise ValueError(f"landmarks must be (N, {self.num_landmarks}, 2) for {self.name}, but got {points.shape}")
        if kind in BOX_NORMALIZERS:
            boxes = np.full(0, np.nan) if boxes is None else np.asarray(boxes, dtype=np.float64)
            if boxes.shape != (len(points), 4):
                raise ValueError(f"boxes must be ({len(points)}, 4) for the normaliser {kind}, but got {boxes.shape}")
        return self.normalizer_kinds[kind](points, boxes)


HIDDEN_BY_HEAD, VISIBLE, HIDDEN_BY_OTHERS = 0, 1, 2  # values of a column `visibility`
VISIBILITY = Column(
    "int8",
    "of each landmark: 0 hidden by the head (not annotated), 1 visible, 2 hidden by something else",
    per_landmark=True,
)


def subset_names(benchmark: Benchmark) -> tuple[str, ...]:
    """The subsets of `benchmark` that a column of each face tells, in the order of `subsets_of`."""
    return tuple(name for name, subset in benchmark.subsets.items() if subset.column)


def subsets_of(face: Mapping, benchmark: Benchmark) -> np.ndarray:
    """Which of `subset_names` a face is in, (S,) bool; none of those whose column it lacks."""
    subsets = [benchmark.subsets[name] for name in subset_names(benchmark)]
    return np.array([bool(face.get(subset.column) == subset.value) for subset in subsets], dtype=bool)


def _names(parts: Mapping[str, Part]) -> tuple[str, ...]:
    """ "jaw_0", "jaw_1", …: every landmark is named by the part that holds it and its place there."""
    names = {index: f"{name}_{place}" for name, part in parts.items() for place, index in enumerate(part.indices)}
    return tuple(names[index] for index in range(len(names)))


def _mirrored(*runs: tuple[range, range]) -> tuple[tuple[int, int], ...]:
    return tuple(pair for first, second in runs for pair in zip(first, second, strict=True))


def _run(first: int, last: int, closed: bool = False) -> Part:
    return Part(tuple(range(first, last + 1)), closed)


_RESEARCH_ONLY = (
    "Images and annotations are for non-commercial research only; redistribution needs the owners' consent."
)
_HRNET = "HRNet-Facial-Landmark-Detection, lib/datasets and lib/utils/transforms.py"

# Mark-ups --------------------------------------------------------------------------------------------------------

_IBUG_68_PARTS = {
    "jaw": _run(0, 16),
    "right_brow": _run(17, 21),
    "left_brow": _run(22, 26),
    "nose_bridge": _run(27, 30),
    "nostrils": _run(31, 35),
    "right_eye": _run(36, 41, closed=True),
    "left_eye": _run(42, 47, closed=True),
    "outer_lip": _run(48, 59, closed=True),
    "inner_lip": _run(60, 67, closed=True),
}
_IBUG_68_FLIP_PAIRS = _mirrored(
    (range(0, 8), range(16, 8, -1)),  # jaw
    (range(17, 22), range(26, 21, -1)),  # brows
    (range(31, 33), range(35, 33, -1)),  # nostrils
    (range(36, 40), range(45, 41, -1)),  # eyes, upper lid and corners
    (range(40, 42), range(47, 45, -1)),  # eyes, lower lid
    (range(48, 51), range(54, 51, -1)),  # outer lip, upper edge
    (range(58, 60), range(56, 54, -1)),  # outer lip, lower edge
    (range(60, 62), range(64, 62, -1)),  # inner lip, upper edge
    (range(67, 68), range(65, 66)),  # inner lip, lower edge
)
_IBUG_68_NORMALIZERS = {
    "inter-ocular": Distance((36,), (45,)),
    "inter-pupil": Distance(tuple(range(36, 42)), tuple(range(42, 48))),
    **BOX_NORMALIZERS,
}

_WFLW_98_PARTS = {
    "jaw": _run(0, 32),
    "right_brow": _run(33, 41, closed=True),
    "left_brow": _run(42, 50, closed=True),
    "nose_bridge": _run(51, 54),
    "nostrils": _run(55, 59),
    "right_eye": _run(60, 67, closed=True),
    "left_eye": _run(68, 75, closed=True),
    "outer_lip": _run(76, 87, closed=True),
    "inner_lip": _run(88, 95, closed=True),
    "right_pupil": Part((96,)),
    "left_pupil": Part((97,)),
}
_WFLW_98_FLIP_PAIRS = _mirrored(
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

# Contours run around: right brow outer end, top, inner end, bottom, and so on.
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

_AFLW_21_PARTS = {
    "right_brow": _run(0, 2),
    "left_brow": _run(3, 5),
    "right_eye": _run(6, 8),
    "left_eye": _run(9, 11),
    "right_ear": Part((12,)),
    "nose": _run(13, 15),
    "left_ear": Part((16,)),
    "mouth": _run(17, 19),
    "chin": Part((20,)),
}
_AFLW_21_FLIP_PAIRS = ((0, 5), (1, 4), (2, 3), (6, 11), (7, 10), (8, 9), (12, 16), (13, 15), (17, 19))
_AFLW_19_PARTS = {
    "right_brow": _run(0, 2),
    "left_brow": _run(3, 5),
    "right_eye": _run(6, 8),
    "left_eye": _run(9, 11),
    "nose": _run(12, 14),
    "mouth": _run(15, 17),
    "chin": Part((18,)),
}
_AFLW_19_FLIP_PAIRS = ((0, 5), (1, 4), (2, 3), (6, 11), (7, 10), (8, 9), (12, 14), (15, 17))

# Benchmarks ------------------------------------------------------------------------------------------------------

_300W = Benchmark(
    name="300w",
    title="300W",
    landmark_names=_names(_IBUG_68_PARTS),
    flip_pairs=_IBUG_68_FLIP_PAIRS,
    parts=_IBUG_68_PARTS,
    normalizer_kinds=_IBUG_68_NORMALIZERS,
    crop_box="landmark_box",
    failure_threshold=0.08,
    splits={"train": 3148, "common": 554, "challenging": 135, "private": 600},
    test_split="common",
    subsets={
        "full": Subset("common+challenging", 689),
        "indoor": Subset("private", 300, "source", "indoor"),
        "outdoor": Subset("private", 300, "source", "outdoor"),
    },
    columns={"source": Column("string", "database of the photo: afw, helen, lfpw, ibug, indoor, outdoor")},
    licence=_RESEARCH_ONLY,
    homepage="https://ibug.doc.ic.ac.uk/resources/facial-point-annotations/",
    download="afw.zip, helen.zip, ibug.zip, lfpw.zip, and 300w.zip in four parts (private), after filling in its form",
    form=True,
    citation="""@inproceedings{sagonas2013semi,
  title     = {A Semi-automatic Methodology for Facial Landmark Annotation},
  author    = {Sagonas, Christos and Tzimiropoulos, Georgios and Zafeiriou, Stefanos and Pantic, Maja},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition Workshops},
  year      = {2013}
}
@article{sagonas2016challenge,
  title   = {300 Faces In-The-Wild Challenge: Database and Results},
  author  = {Sagonas, Christos and Antonakos, Epameinondas and Tzimiropoulos, Georgios and Zafeiriou, Stefanos and
             Pantic, Maja},
  journal = {Image and Vision Computing},
  volume  = {47},
  year    = {2016}
}""",
    layout=(
        "afw/, helen/trainset/, lfpw/trainset/ (train), helen/testset/, lfpw/testset/ (common), ibug/ (challenging) "
        "or 300W/01_Indoor/, 300W/02_Outdoor/ (private), each with photos and their .pts"
    ),
    sources={
        "landmark_names": "figure of the 68 points on the homepage",
        "flip_pairs": _HRNET,
        "normalizer_kinds": "the homepage's evaluation code (outer eye corners); the challenge of 2013 (eye centres)",
        "crop_box": _HRNET,
        "failure_threshold": "papers quote 8 % and 10 %; the AUC is at 8 %",
        "splits": "HRNet's lists; Sagonas et al. 2016 (private)",
        "subsets": "Ren et al., CVPR 2014 (full); Sagonas et al. 2016 (indoor, outdoor)",
        "columns": "the folders of the official download",
        "licence": "the homepage",
    },
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
_WFLW = Benchmark(
    name="wflw",
    title="WFLW",
    landmark_names=_names(_WFLW_98_PARTS),
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
    licence=_RESEARCH_ONLY,
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
        "flip_pairs": f"{_HRNET}; mmpose, configs/_base_/datasets/wflw.py",
        "normalizer_kinds": "Wu et al. 2018 (outer eye corners); pupils as in the mark-up",
        "crop_box": _HRNET,
        "failure_threshold": "Wu et al. 2018: FR and AUC at 10 %",
        "splits": "the homepage",
        "subsets": "the homepage; rows of list_98pt_test",
        "columns": "README of the annotations",
        "licence": "the homepage",
    },
)

_COFW_COLOR = Archive(
    "https://data.caltech.edu/records/bc0bf-nc666/files/COFW_color.zip?download=1",
    "COFW_color.zip",
    ("**/COFW_train_color.mat", "**/COFW_test_color.mat"),
    md5="8b21d126c4e1fb307cb463578eef0511",
)
_COFW = Benchmark(
    name="cofw",
    title="COFW",
    landmark_names=_names(_COFW_29_PARTS),
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
        "flip_pairs": f"{_HRNET}; mmpose, configs/_base_/datasets/cofw.py",
        "normalizer_kinds": "outer eye corners: HRNet, PIPNet, mmpose; pupils: SLPT, STAR, ADNet, AWing",
        "crop_box": _HRNET,
        "failure_threshold": "Burgos-Artizzu et al. 2013: failures above 10 %",
        "splits": "Burgos-Artizzu et al. 2013",
        "columns": "Burgos-Artizzu et al. 2013: 845 faces of LFPW and 500 of COFW",
        "occlusion": "Burgos-Artizzu et al. 2013: the third third of phis",
        "licence": "the record on the homepage",
    },
)

_COFW68_ANNOTATIONS = Archive(
    "https://github.com/golnazghiasi/cofw68-benchmark/archive/master.zip",
    "cofw68-benchmark-master.zip",
    ("**/COFW68_Data/test_annotations",),
)
_COFW68 = Benchmark(
    name="cofw68",
    title="COFW68",
    landmark_names=_300W.landmark_names,
    flip_pairs=_300W.flip_pairs,
    parts=_300W.parts,
    normalizer_kinds=_IBUG_68_NORMALIZERS,
    crop_box="landmark_box",
    failure_threshold=0.1,
    splits={"test": 507},
    test_split="test",
    occlusion=True,
    licence="COFW's photos, which belong to their owners; the 68 points come without a stated licence.",
    homepage="https://github.com/golnazghiasi/cofw68-benchmark",
    download=f"{_COFW68_ANNOTATIONS.url}, and the photos: COFW_color.zip of {_COFW.homepage}, no form",
    archives=(_COFW68_ANNOTATIONS, replace(_COFW_COLOR, provides=("**/COFW_test_color.mat",))),
    citation="""@article{ghiasi2015occlusion,
  title   = {Occlusion Coherence: Detecting and Localizing Occluded Faces},
  author  = {Ghiasi, Golnaz and Fowlkes, Charless C.},
  journal = {arXiv preprint arXiv:1506.08347},
  year    = {2015}
}
"""
    + _COFW.citation,
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

_AFLW_LICENCE = "Images and annotations are for non-commercial research only, after registration; no redistribution."
_AFLW_CITATION = """@inproceedings{koestinger2011annotated,
  title     = {Annotated Facial Landmarks in the Wild: A Large-scale, Real-world Database for Facial Landmark
               Localization},
  author    = {K{\\"o}stinger, Martin and Wohlhart, Paul and Roth, Peter M. and Bischof, Horst},
  booktitle = {IEEE International Conference on Computer Vision Workshops},
  year      = {2011}
}"""
_AFLW_HOMEPAGE = (
    "https://www.tugraz.at/institute/icg/research/team-bischof/learning-recognition-surveillance/downloads/aflw"
)
_AFLW_MAT = Archive(
    "http://mmlab.ie.cuhk.edu.hk/projects/compositional/AFLWinfo_release.mat",
    "AFLWinfo_release.mat",
    ("**/AFLWinfo_release.mat",),
)
_AFLW_COLUMNS = {
    name: Column("float32", f"{name} of the head in degrees, fitted to the landmarks; NaN where unknown")
    for name in ("roll", "pitch", "yaw")
}
_AFLW = Benchmark(
    name="aflw",
    title="AFLW",
    landmark_names=_names(_AFLW_19_PARTS),
    flip_pairs=_AFLW_19_FLIP_PAIRS,
    parts=_AFLW_19_PARTS,
    normalizer_kinds=dict(BOX_NORMALIZERS),
    crop_box="box",
    failure_threshold=0.07,
    splits={"train": 20000, "test": 4386},
    test_split="test",
    subsets={"frontal": Subset("test", 1314, "frontal")},
    columns={"frontal": Column("bool", "all 19 landmarks are visible"), **_AFLW_COLUMNS},
    occlusion=True,
    licence=_AFLW_LICENCE,
    homepage=_AFLW_HOMEPAGE,
    download=(
        "aflw-images-{0,2,3}.tar.gz and aflw-db.tar.gz after filling in its form; "
        f"for 19 points {_AFLW_MAT.url}, no form"
    ),
    form=True,
    archives=(_AFLW_MAT,),
    citation=_AFLW_CITATION
    + """
@inproceedings{zhu2016unconstrained,
  title     = {Unconstrained Face Alignment via Cascaded Compositional Learning},
  author    = {Zhu, Shizhan and Li, Cheng and Loy, Chen Change and Tang, Xiaoou},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition},
  year      = {2016}
}""",
    layout=(
        "data/flickr/{0,2,3}/ with the photos and AFLWinfo_release.mat (train, test), or without it data/aflw.sqlite "
        "(one split, database: visible landmarks alone)"
    ),
    sources={
        "landmark_names": "FeatureCoordTypes of aflw.sqlite, less the ears; its left is the picture's",
        "flip_pairs": _HRNET,
        "normalizer_kinds": "Zhu et al. 2016: face size sqrt(w*h); some papers the diagonal, 1.414 times larger",
        "crop_box": _HRNET,
        "failure_threshold": "FaRL: AUC at 7 % of the box",
        "splits": "Zhu et al. 2016: the first 20,000 of the permutation ra",
        "subsets": "1,314 as papers have it (1,165 in Zhu et al. 2016)",
        "columns": "mask_new of AFLWinfo_release.mat; FacePose of aflw.sqlite, in radians there",
        "occlusion": "mask_new of AFLWinfo_release.mat",
        "licence": "the homepage",
    },
)

_AFLW21 = Benchmark(
    name="aflw21",
    title="AFLW with 21 points",
    landmark_names=_names(_AFLW_21_PARTS),
    flip_pairs=_AFLW_21_FLIP_PAIRS,
    parts=_AFLW_21_PARTS,
    normalizer_kinds=dict(BOX_NORMALIZERS),
    crop_box="box",
    failure_threshold=0.07,
    splits={},
    test_split="test",
    columns=_AFLW_COLUMNS,
    licence=_AFLW_LICENCE,
    homepage=_AFLW_HOMEPAGE,
    download="aflw-images-{0,2,3}.tar.gz and aflw-db.tar.gz after filling in its form",
    form=True,
    citation=_AFLW_CITATION,
    layout="data/flickr/{0,2,3}/ with the photos and data/aflw.sqlite (one split: database)",
    sources={
        "landmark_names": "FeatureCoordTypes of aflw.sqlite; its left is the picture's",
        "flip_pairs": "symmetry of the names",
        "normalizer_kinds": "as AFLW with 19 points",
        "crop_box": "as AFLW with 19 points",
        "failure_threshold": "as AFLW with 19 points",
        "splits": "no official ones",
        "columns": "FacePose of aflw.sqlite, in radians there",
        "licence": "the homepage",
    },
)

_MERL_RAV_LABELS = Archive(
    "https://github.com/abhi1kumar/MERL-RAV_dataset/archive/master.zip",
    "MERL-RAV_dataset-master.zip",
    ("**/merl_rav_labels",),
)
_MERL_RAV_POSES = {"frontal": 2195, "lefthalf": 295, "left": 521, "righthalf": 306, "right": 548}
_MERL_RAV = Benchmark(
    name="merl_rav",
    title="MERL-RAV",
    landmark_names=_300W.landmark_names,
    flip_pairs=_300W.flip_pairs,
    parts=_300W.parts,
    normalizer_kinds={**BOX_NORMALIZERS, **_IBUG_68_NORMALIZERS},
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
    + _AFLW_CITATION,
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

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark for benchmark in (_300W, _WFLW, _COFW, _COFW68, _AFLW, _AFLW21, _MERL_RAV)
}
