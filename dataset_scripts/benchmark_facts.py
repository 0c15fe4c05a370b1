"""What a benchmark is, and helpers to describe one. The benchmarks themselves are in `benchmarks/`, a file each.

Code elsewhere must not depend on the number of points: all differences between benchmarks are facts in these files,
each with its source. Landmark indices are 0-based; "right" and "left" are the subject's own: a right eye is on the
left of the picture.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

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
    """Faces that papers score by themselves.

    Attributes:
        splits: the splits that they are from, joined by "+".
        faces: their official number, None where there is none.
        column: if given, only the faces whose `column` holds `value` belong to the subset.
        value: see `column`.
    """

    splits: str
    faces: int | None
    column: str | None = None
    value: bool | str = True


@dataclass(frozen=True)
class Column:
    """A column that only some data sets have: its type in `datasets`, its meaning, and whether it is per landmark."""

    dtype: str
    meaning: str
    per_landmark: bool = False


@dataclass(frozen=True)
class Archive:
    """A file with a direct public address, last reported working in 2026.

    Attributes:
        url: the address.
        filename: the file's name at that address.
        provides: the files or folders in it, as patterns of `glob` ("**/" is any folder). It is not fetched if all of
            them exist.
        md5: checksum of the file, None if its owners do not publish it.
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
        test_split: the split or subset that is scored by default.
        subsets: faces that papers score by themselves, by name.
        columns: the set's own columns, by name.
        occlusion: whether the set says which landmarks are occluded (column `occluded`).
        shares_photos: whether different official splits have faces of the same photo.
        licence: terms of the images and annotations, in one sentence.
        homepage: where the official download starts.
        download: what to fetch from there.
        form: whether part of it is given only after filling in a form.
        archives: the files without a form, which `--download` fetches.
        layout: the folders of the official download, for the error about a wrong `data_dir`.
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
        """The box (4,), float64, that the crop of a face is made from: `crop_box`, or `landmark_box` if that is NaN.

        Args:
            face: columns `landmark_box` and `box`, in pixels of the photo.
        """
        box = np.asarray(face[self.crop_box], dtype=np.float64)
        return np.asarray(face["landmark_box"], dtype=np.float64) if np.isnan(box).any() else box

    def normalizers(self, landmarks, kind: str | None = None, boxes=None) -> np.ndarray:
        """Distances (N,), float64, that the errors of N faces are divided by.

        Args:
            landmarks: (N, K, 2) annotated points, in pixels or any other unit; the result has the same unit. It is NaN
                for a face if a point that defines the distance is not annotated (NaN).
            kind: a name in `normalizer_kinds`; by default the first.
            boxes: (N, 4) x0, y0, x1, y1 of the boxes that the crops are made from, in the same unit; only "box" and
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


HIDDEN_BY_HEAD, VISIBLE, HIDDEN_BY_OTHERS, UNKNOWN = 0, 1, 2, -1  # values of a column `visibility`
VISIBILITY = Column(
    "int8",
    "of each landmark: 0 hidden by the head (not annotated), 1 visible, 2 hidden by something else, -1 not known",
    per_landmark=True,
)


def subset_names(benchmark: Benchmark) -> tuple[str, ...]:
    """Names of the subsets of `benchmark` that a column defines, in the order of `subsets_of`."""
    return tuple(name for name, subset in benchmark.subsets.items() if subset.column)


def subsets_of(face: Mapping, benchmark: Benchmark) -> np.ndarray:
    """Whether a face is in each of `subset_names`, (S,) bool; False if the face lacks the column."""
    subsets = [benchmark.subsets[name] for name in subset_names(benchmark)]
    return np.array([bool(face.get(subset.column) == subset.value) for subset in subsets], dtype=bool)


def names_of(parts: Mapping[str, Part]) -> tuple[str, ...]:
    """Names of the landmarks by their part and their place in it, such as "jaw_0" and "jaw_1"."""
    names = {index: f"{name}_{place}" for name, part in parts.items() for place, index in enumerate(part.indices)}
    return tuple(names[index] for index in range(len(names)))


def mirror_pairs(*ranges: tuple[range, range]) -> tuple[tuple[int, int], ...]:
    """Flip pairs from pairs of index ranges that change places."""
    return tuple(pair for first, second in ranges for pair in zip(first, second, strict=True))


def contour(first: int, last: int, closed: bool = False) -> Part:
    """The part that joins the landmarks `first` to `last`, both included."""
    return Part(tuple(range(first, last + 1)), closed)


RESEARCH_ONLY = (
    "Images and annotations are for non-commercial research only; redistribution needs the owners' consent."
)
HRNET = "HRNet-Facial-Landmark-Detection, lib/datasets and lib/utils/transforms.py"
