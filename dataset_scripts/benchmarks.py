"""Facts about the benchmarks, read by the builders, the metric's callers and the training script.

Nothing elsewhere may branch on a number of points: what differs between benchmarks is written here. Landmark indices
are 0-based; "right" and "left" are the subject's own, so a right eye is on the left of the picture.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Part:
    """A contour of the face: the landmarks to join in this order, and whether the last joins the first."""

    indices: tuple[int, ...]
    closed: bool = False


@dataclass(frozen=True)
class Normalizer:
    """A distance that errors are divided by: from the mean of the landmarks `first` to the mean of `second`."""

    first: tuple[int, ...]
    second: tuple[int, ...]


@dataclass(frozen=True)
class Benchmark:
    """What a benchmark defines.

    Attributes:
        name: as in `--dataset` and `BENCHMARKS`.
        title: as in tables and on cards.
        num_landmarks: K.
        landmark_names: K names in the order of the points.
        flip_pairs: pairs of landmarks that change places when a face is mirrored; the others stay.
        parts: contours for drawing, by name.
        normalizer_points: definitions by name ("inter-ocular", …); the first is the default.
        failure_threshold: NME, as a fraction, above which a face counts as failed (and the limit of the AUC).
        splits: official number of faces of each split; the splits are disjoint.
        subsets: names that papers use for sums of splits, as expressions that `load_faces` takes.
        licence: terms of the images and annotations, in one sentence.
        homepage: where the official download starts.
        citation: BibTeX.
        layout: the folders of the official download, as told to whoever points at a wrong one.
    """

    name: str
    title: str
    num_landmarks: int
    landmark_names: tuple[str, ...]
    flip_pairs: tuple[tuple[int, int], ...]
    parts: Mapping[str, Part]
    normalizer_points: Mapping[str, Normalizer]
    failure_threshold: float
    splits: Mapping[str, int]
    subsets: Mapping[str, str]
    licence: str
    homepage: str
    citation: str
    layout: str

    def normalizers(self, landmarks, kind: str | None = None) -> np.ndarray:
        """Distances (N,), float64, that the errors of N faces are divided by.

        Args:
            landmarks: (N, K, 2) annotated points, in pixels or any other unit, which the result shares. A face whose
                defining points are not annotated (NaN) gets NaN.
            kind: a name in `normalizer_points`; by default the first.

        Raises:
            ValueError: on another shape or an unknown kind.
        """
        kind = kind or next(iter(self.normalizer_points))
        if kind not in self.normalizer_points:
            raise ValueError(
                f"kind must be one of {', '.join(self.normalizer_points)} for {self.name}, but got {kind!r}"
            )
        points = np.asarray(landmarks, dtype=np.float64)
        if points.ndim != 3 or points.shape[1:] != (self.num_landmarks, 2):
            raise ValueError(f"landmarks must be (N, {self.num_landmarks}, 2) for {self.name}, but got {points.shape}")
        ends = self.normalizer_points[kind]
        return np.linalg.norm(points[:, ends.first].mean(axis=1) - points[:, ends.second].mean(axis=1), axis=-1)


def _names(parts: Mapping[str, Part], num_landmarks: int) -> tuple[str, ...]:
    """ "jaw_0", "jaw_1", …: every landmark is named by the part that holds it and its place there."""
    names = {index: f"{name}_{place}" for name, part in parts.items() for place, index in enumerate(part.indices)}
    return tuple(names[index] for index in range(num_landmarks))


def _mirrored(*runs: tuple[range, range]) -> tuple[tuple[int, int], ...]:
    return tuple(pair for first, second in runs for pair in zip(first, second, strict=True))


_IBUG_68_PARTS = {
    "jaw": Part(tuple(range(0, 17))),
    "right_brow": Part(tuple(range(17, 22))),
    "left_brow": Part(tuple(range(22, 27))),
    "nose_bridge": Part(tuple(range(27, 31))),
    "nostrils": Part(tuple(range(31, 36))),
    "right_eye": Part(tuple(range(36, 42)), closed=True),
    "left_eye": Part(tuple(range(42, 48)), closed=True),
    "outer_lip": Part(tuple(range(48, 60)), closed=True),
    "inner_lip": Part(tuple(range(60, 68)), closed=True),
}

_300W = Benchmark(
    name="300w",
    title="300W",
    num_landmarks=68,
    landmark_names=_names(_IBUG_68_PARTS, 68),
    flip_pairs=_mirrored(
        (range(0, 8), range(16, 8, -1)),  # jaw
        (range(17, 22), range(26, 21, -1)),  # brows
        (range(31, 33), range(35, 33, -1)),  # nostrils
        (range(36, 40), range(45, 41, -1)),  # eyes, upper lid and corners
        (range(40, 42), range(47, 45, -1)),  # eyes, lower lid
        (range(48, 51), range(54, 51, -1)),  # outer lip, upper edge
        (range(58, 60), range(56, 54, -1)),  # outer lip, lower edge
        (range(60, 62), range(64, 62, -1)),  # inner lip, upper edge
        (range(67, 68), range(65, 66)),  # inner lip, lower edge
    ),
    parts=_IBUG_68_PARTS,
    normalizer_points={
        "inter-ocular": Normalizer((36,), (45,)),
        "inter-pupil": Normalizer(tuple(range(36, 42)), tuple(range(42, 48))),
    },
    failure_threshold=0.08,
    splits={"train": 3148, "common": 554, "challenging": 135, "private": 600},
    subsets={"full": "common+challenging"},
    licence="Images and annotations are for non-commercial research only; redistribution needs the owners' consent.",
    homepage="https://ibug.doc.ic.ac.uk/resources/facial-point-annotations/",
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
)

BENCHMARKS: dict[str, Benchmark] = {_300W.name: _300W}
