"""Check of flip pairs on the mean face: the mirror image of each landmark should lie on its partner."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

_STARTING_ANGLES = range(-40, 41, 10)  # degrees
_FITTING_STEPS = 10
_TOLERANCE = 0.01  # of the crop's side; on 300W and AFLW partners are at most 0.012 apart, neighbours at least 0.023
_DISTANCE_RATIO = 1.5  # of partner and nearest landmark, above which the partner is wrong
_MAX_SELF_DISTANCE = 0.05  # of the crop's side, from the mirror image of a landmark without a partner to the landmark
_CONFIDENCE = 0.95
_MOST_COMPLETE_SHARE = 0.1  # of the faces


@dataclass(frozen=True)
class MirroredMean:
    """The mean face and its mirror image, aligned with it. Lengths are fractions of the crop's side.

    Attributes:
        faces: number of faces in the mean.
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
        partner: the other landmark of its flip pair, or itself if it is in none.
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

    If faces lack landmarks, only the tenth with the most landmarks is averaged, because profiles lack the landmarks of
    one side and shift the mean of the others. Returns None if no landmark is annotated in two of these faces.
    """
    faces = _select_most_complete(np.asarray(landmarks, dtype=np.float64))
    counts = np.isfinite(faces).all(axis=-1).sum(axis=0)
    has_mean = counts > 1
    if not has_mean.any():
        return None
    distances, errors = np.full((len(counts), len(counts)), np.nan), np.full(len(counts), np.nan)
    mean = np.nanmean(faces[:, has_mean], axis=0)
    distances[np.ix_(has_mean, has_mean)] = _distances(_mirror(mean), mean)
    deviations = np.nanstd(faces[:, has_mean], axis=0, ddof=1).max(axis=-1)
    counts = counts[has_mean]
    errors[has_mean] = deviations / np.sqrt(counts) * stdtrit(counts - 1, (1 + _CONFIDENCE) / 2)
    return MirroredMean(len(faces), distances, errors)


def _select_most_complete(landmarks: np.ndarray) -> np.ndarray:
    """The tenth of the faces (N, K, 2) with the most landmarks, ties included."""
    counts = np.isfinite(landmarks).all(axis=-1).sum(axis=1)
    return landmarks[counts >= np.quantile(counts, 1 - _MOST_COMPLETE_SHARE)] if len(counts) else landmarks


def odd_partners(mean: MirroredMean, flip_pairs: Iterable[tuple[int, int]]) -> list[OddPartner]:
    """The landmarks whose mirror image is clearly nearer to another landmark than to their partner, and landmarks
    without a partner that are far from the middle of the face. Only one landmark of a pair is listed."""
    partners = np.arange(len(mean.errors))
    for first, second in flip_pairs:
        partners[[first, second]] = second, first
    odd_pairs: dict[frozenset, OddPartner] = {}
    for landmark in np.flatnonzero(np.isfinite(mean.errors)).tolist():
        odd_partner = _compare(mean, landmark, int(partners[landmark]))
        if odd_partner:
            odd_pairs.setdefault(frozenset((landmark, odd_partner.partner)), odd_partner)
    return list(odd_pairs.values())


def _compare(mean: MirroredMean, landmark: int, partner: int) -> OddPartner | None:
    """The landmark as an `OddPartner`; None if its partner fits or has no mean."""
    row = mean.distances[landmark]
    nearest, distance = int(np.nanargmin(row)), row[partner]
    uncertainty = np.hypot(mean.errors[landmark], mean.errors[partner])
    is_wrong = distance > _DISTANCE_RATIO * row[nearest] + _TOLERANCE + uncertainty
    is_off_axis = partner == landmark and distance > _MAX_SELF_DISTANCE + uncertainty
    return OddPartner(landmark, partner, nearest, distance, row[nearest]) if is_wrong or is_off_axis else None


def _mirror(mean: np.ndarray) -> np.ndarray:
    """The mirror image of the points (K, 2), aligned with them without the flip pairs: each point with its nearest."""
    center = mean.mean(axis=0)
    fits = []
    for angle in np.deg2rad(_STARTING_ANGLES):
        image = (mean - center) * [-1, 1] @ _rotation(angle) + center
        for _ in range(_FITTING_STEPS):
            image = _fit(image, mean[_distances(image, mean).argmin(axis=1)])
        fits.append(image)
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
