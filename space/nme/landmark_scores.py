"""Scores of files of landmarks: which prediction belongs to which face, and what errors are divided by."""

import numpy as np
from landmark_files import Faces, is_number_or_none, shorten
from nme import compute_nme

# Points counted from 0: the two ends of a distance, each the mean of its points.
INTER_OCULAR = {68: ((36,), (45,)), 98: ((60,), (72,)), 29: ((8,), (9,))}
INTER_PUPIL = {68: (range(36, 42), range(42, 48)), 98: ((96,), (97,)), 29: ((16,), (17,))}
NORMALIZERS = ("auto", "inter-ocular", "inter-pupil", "box", "diagonal", "two points")
NAMED_IN_MESSAGE = 5
MIN_LENGTH = 1e-6  # of a normaliser, in any sensible unit


def score_faces(
    predictions: list[Faces],
    references: Faces,
    normalizer: str = "auto",
    points: tuple[int, int] = (0, 1),
    failure_threshold: float | None = None,
    auc_threshold: float | None = None,
) -> dict:
    """Scores each of `predictions` against `references`.

    Args:
        predictions: their faces are matched with the references' by id where both have ids, else by order.
        references: their NaN are points that do not count.
        normalizer: one of NORMALIZERS. "auto" is inter-ocular where that is defined for K points, else box.
        points: numbers of the two points, counted from 0, where `normalizer` is "two points".
        failure_threshold, auc_threshold: fractions; None is what is customary, 0.08 for 68 points, else 0.10.

    Returns:
        What JSON can hold, fractions and not percent: `references` (its name), `faces` N, `points` K, `normalizer`
        (its kind), `normalizer_description`, both thresholds, `results`, `image_ids` (N or None) and `normalizers`
        (N lengths). `results` has for each of `predictions` a dict of `predictions` (its name), `matched_by`
        ("image_id" or "order"), `nme`, `failure_rate`, `auc`, `median`, `per_landmark` (K, None where never
        annotated) and `per_face` (N, in the order of the references).

    Raises:
        ValueError: if faces or points do not match, a predicted point is missing, a face has no annotated point or no
            normaliser, or an option is none; in one line that names file and face.
    """
    faces, landmarks = references.points.shape[:2]
    _check_annotated(references)
    if normalizer not in NORMALIZERS:
        raise ValueError(f"normalizer must be one of {', '.join(NORMALIZERS)}, but got {shorten(repr(normalizer))}")
    normalizer = _customary(landmarks) if normalizer == "auto" else normalizer
    lengths, description = _normalizers(references, normalizer, points)
    customary = 0.08 if landmarks == 68 else 0.10
    thresholds = {
        "failure_threshold": _threshold("failure_threshold", failure_threshold, customary),
        "auc_threshold": _threshold("auc_threshold", auc_threshold, customary),
    }
    return {
        "references": references.name,
        "faces": faces,
        "points": landmarks,
        "normalizer": normalizer,
        "normalizer_description": description,
        **thresholds,
        "results": [_score(found, references, lengths, thresholds) for found in predictions],
        "image_ids": None if references.ids is None else list(references.ids),
        "normalizers": lengths.tolist(),
    }


def _score(predictions: Faces, references: Faces, lengths: np.ndarray, thresholds: dict) -> dict:
    by_id = predictions.ids is not None and references.ids is not None
    found = predictions.points[_order(predictions, references) if by_id else _same_order(predictions, references)]
    scores = compute_nme(found, references.points, lengths, **thresholds, per_landmark=True, per_face=True)
    return {
        "predictions": predictions.name,
        "matched_by": "image_id" if by_id else "order",
        **{name: scores[name] for name in ("nme", "failure_rate", "auc")},
        "median": float(np.median(scores["per_face"])),
        "per_landmark": [None if np.isnan(error) else error for error in scores["per_landmark"]],
        "per_face": scores["per_face"],
    }


def _order(predictions: Faces, references: Faces) -> list[int]:
    """Where the references' faces are among the predictions. A face that one of them lacks must not be dropped."""
    for some, others in ((predictions, references), (references, predictions)):
        there = set(some.ids)
        missing = [name for name in others.ids if name not in there]
        if missing:
            named = ", ".join(repr(shorten(name)) for name in missing[:NAMED_IN_MESSAGE])
            more = f" and {len(missing) - NAMED_IN_MESSAGE} more" if len(missing) > NAMED_IN_MESSAGE else ""
            raise ValueError(f"{some.name} must have each face of {others.name}, but lacks {named}{more}")
    _check_predictions(predictions, references)
    place = {name: index for index, name in enumerate(predictions.ids)}
    return [place[name] for name in references.ids]


def _same_order(predictions: Faces, references: Faces) -> slice:
    if len(predictions.points) != len(references.points):
        raise ValueError(
            f"{predictions.name} must have as many faces as {references.name} has, {len(references.points)}, "
            f"but got {len(predictions.points)}"
        )
    _check_predictions(predictions, references)
    return slice(None)


def _check_predictions(predictions: Faces, references: Faces):
    landmarks = references.points.shape[1]
    if predictions.points.shape[1] != landmarks:
        raise ValueError(
            f"{predictions.name} must have {landmarks} points a face as {references.name} has, "
            f"but got {predictions.points.shape[1]}"
        )
    missing = np.argwhere(np.isnan(predictions.points))
    if len(missing):
        face, point, _ = missing[0]
        raise ValueError(f"{predictions.name}: {predictions.face(face)} must have each point, but lacks point {point}")


def _check_annotated(references: Faces):
    empty = np.flatnonzero(np.isnan(references.points).all(axis=(1, 2)))
    if len(empty):
        raise ValueError(f"{references.name}: {references.face(empty[0])} must have an annotated point, but has none")


def _customary(landmarks: int) -> str:
    return "inter-ocular" if landmarks in INTER_OCULAR else "box"


def _normalizers(references: Faces, kind: str, points: tuple) -> tuple[np.ndarray, str]:
    """One length (N,) a face, and what it is."""
    if kind in ("box", "diagonal"):
        low, high = np.nanmin(references.points, axis=1), np.nanmax(references.points, axis=1)
        sides = high - low
        lengths = np.sqrt(sides.prod(axis=1)) if kind == "box" else np.linalg.norm(sides, axis=1)
        size = "√(width × height)" if kind == "box" else "the diagonal"
        description = f"{size} of the box around the annotated points"
    else:
        ends = _ends(kind, points, references.points.shape[1])
        one, other = (references.points[:, list(end)].mean(axis=1) for end in ends)
        lengths = np.linalg.norm(one - other, axis=1)
        description = f"the {'' if kind == 'two points' else kind + ' '}distance between {_words(ends)}"
    bad = np.flatnonzero(~(lengths > MIN_LENGTH))
    if len(bad):
        length = lengths[bad[0]]
        found = "points that are not annotated" if np.isnan(length) else f"{length:g}"
        place = f"{references.name}: {references.face(bad[0])}"
        raise ValueError(f"{place} must have a normaliser ({description}), but got {found}")
    return lengths, description


def _ends(kind: str, points: tuple, landmarks: int) -> tuple:
    if kind == "two points":
        for number in points:
            if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < landmarks:
                found = shorten(repr(number))
                raise ValueError(f"the two points must be numbers from 0 to {landmarks - 1}, but got {found}")
        return tuple((number,) for number in points)
    table = {"inter-ocular": INTER_OCULAR, "inter-pupil": INTER_PUPIL}[kind]
    if landmarks not in table:
        raise ValueError(
            f"the {kind} distance must be that of {', '.join(map(str, sorted(table)))} points a face, "
            f"but got {landmarks}; choose another normaliser"
        )
    return table[landmarks]


def _words(ends) -> str:
    if len(ends[0]) == 1:
        return f"points {ends[0][0]} and {ends[1][0]}"
    return "the means of points " + " and ".join(f"{end[0]} to {end[-1]}" for end in ends)


def _threshold(name: str, value: float | None, customary: float) -> float:
    if value is None:
        return customary
    if not is_number_or_none(value):
        raise ValueError(f"{name} must be a number, but got {shorten(repr(value))}")
    if not 0 < value <= 1:
        raise ValueError(f"{name} must be above 0 % and at most 100 %, but got {100 * value:g} %")
    return value
