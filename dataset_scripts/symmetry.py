"""Whether the flip pairs of a mark-up agree with its mean face, whose mirror image should be the face itself."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

_STARTING_ANGLES = range(-40, 41, 10)  # degrees
_FITTING_STEPS = 10
_SLACK = 0.01  # of the crop's side; on 300W and AFLW partners are 0.012 apart at most, neighbours at least 0.023
_RATIO = 1.5
_OFF_AXIS = 0.05  # the same, between a landmark without a partner and its mirror image
_CONFIDENCE = 0.95
_MOST_COMPLETE = 0.1


@dataclass(frozen=True)
class MirroredMean:
    """The mean face beside its mirror image, laid onto it. Lengths are fractions of the crop's side.

    Attributes:
        faces: number of faces that the mean is of.
        distances: (K, K) from the mirror image of landmark i to landmark j; NaN where one of them has no mean.
        errors: (K,) half the width of the confidence interval of each mean landmark.
    """

    faces: int
    distances: np.ndarray
    errors: np.ndarray


@dataclass(frozen=True)
class OddPartner:
    """A landmark whose mirror image is not where its partner is.

    Attributes:
        landmark: 0-based index.
        partner: the other of its flip pair, or itself where it is in none.
        nearest: the landmark that its mirror image is nearest to.
        distance, nearest_distance: from the mirror image to these two, as fractions of the crop's side.
    """

    landmark: int
    partner: int
    nearest: int
    distance: float
    nearest_distance: float


def mirrored_mean(landmarks: np.ndarray) -> MirroredMean | None:
    """Mirrors the mean of landmarks (N, K, 2), fractions of the crops, NaN where unannotated.

    Where faces lack landmarks, the mean is that of the tenth with the most: faces seen from the side lack those of
    one side, and move the others. None if no landmark is there in two of them.
    """
    faces = _most_complete(np.asarray(landmarks, dtype=np.float64))
    annotated = np.isfinite(faces).all(axis=-1).sum(axis=0)
    known = annotated > 1
    if not known.any():
        return None
    distances, errors = np.full((len(known), len(known)), np.nan), np.full(len(known), np.nan)
    mean = np.nanmean(faces[:, known], axis=0)
    distances[np.ix_(known, known)] = _distances(_mirror(mean), mean)
    deviations = np.nanstd(faces[:, known], axis=0, ddof=1).max(axis=-1)
    errors[known] = deviations / np.sqrt(annotated[known]) * stdtrit(annotated[known] - 1, (1 + _CONFIDENCE) / 2)
    return MirroredMean(len(faces), distances, errors)


def _most_complete(landmarks: np.ndarray) -> np.ndarray:
    """Those of the faces (N, K, 2) that have as many landmarks as the tenth with the most."""
    counts = np.isfinite(landmarks).all(axis=-1).sum(axis=1)
    return landmarks[counts >= np.quantile(counts, 1 - _MOST_COMPLETE)] if len(counts) else landmarks


def odd_partners(mirrored: MirroredMean, flip_pairs: Iterable[tuple[int, int]]) -> list[OddPartner]:
    """The landmarks whose mirror image is clearly nearer to another one than to their partner, and those without a
    partner that are far from the middle of the face. Of a pair it names one."""
    partners = np.arange(len(mirrored.errors))
    for first, second in flip_pairs:
        partners[[first, second]] = second, first
    found: dict[frozenset, OddPartner] = {}
    for landmark in np.flatnonzero(np.isfinite(mirrored.errors)).tolist():
        odd = _compare(mirrored, landmark, int(partners[landmark]))
        if odd and frozenset((landmark, odd.partner)) not in found:
            found[frozenset((landmark, odd.partner))] = odd
    return list(found.values())


def _compare(mirrored: MirroredMean, landmark: int, partner: int) -> OddPartner | None:
    """The two as an `OddPartner`, None where they agree or the partner has no mean."""
    row = mirrored.distances[landmark]
    nearest, distance = int(np.nanargmin(row)), row[partner]
    uncertainty = np.hypot(mirrored.errors[landmark], mirrored.errors[partner])
    wrong = distance > _RATIO * row[nearest] + _SLACK + uncertainty
    off_axis = partner == landmark and distance > _OFF_AXIS + uncertainty
    return OddPartner(landmark, partner, nearest, distance, row[nearest]) if wrong or off_axis else None


def _mirror(mean: np.ndarray) -> np.ndarray:
    """The mirror image of the points (K, 2), turned and moved onto them whatever the pairs: each to the nearest."""
    center = mean.mean(axis=0)
    fits = []
    for angle in np.deg2rad(_STARTING_ANGLES):
        mirrored = (mean - center) * [-1, 1] @ _rotation(angle) + center
        for _ in range(_FITTING_STEPS):
            mirrored = _fit(mirrored, mean[_distances(mirrored, mean).argmin(axis=1)])
        fits.append(mirrored)
    return min(fits, key=lambda fit: np.square(_distances(fit, mean).min(axis=1)).sum())


def _fit(points: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The points (K, 2) after the rotation and translation that bring them nearest to the targets (K, 2)."""
    center, goal = points.mean(axis=0), targets.mean(axis=0)
    (a, b), (c, d) = (points - center).T @ (targets - goal)
    return (points - center) @ _rotation(np.arctan2(b - c, a + d)) + goal


def _rotation(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def _distances(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[:, None] - others[None], axis=-1)
