"""Scores files of landmarks: it matches predictions with references and computes the normalisers of the errors."""

import numpy as np
from landmark_files import Faces, is_number_or_none, shorten
from nme import INTER_OCULAR, compute_nme, distance_ends, face_normalizers
from nme import NORMALIZERS as COMPUTED

NORMALIZERS = ("auto", *COMPUTED, "two points")
MAX_IDS_IN_MESSAGE = 5
MIN_LENGTH = 1e-6  # of a normaliser, in units of the file; a shorter one is taken for 0


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
        predictions: matched with the references by id if both have ids, else by order.
        references: their points that are NaN do not count.
        normalizer: one of NORMALIZERS. "auto" is inter-ocular where that is defined for K points, else box.
        points: numbers of the two points, counted from 0, where `normalizer` is "two points".
        failure_threshold, auc_threshold: fractions; None is 0.08 for 68 points, else 0.10.

    Returns:
        A dict that JSON can hold, in fractions, not percent: `references` (its name), `faces` N, `points` K,
        `normalizer` (its kind), `normalizer_description`, both thresholds, `results`, `image_ids` (N or None) and
        `normalizers` (N lengths). `results` has for each of `predictions` a dict of `predictions` (its name),
        `matched_by` ("image_id" or "order"), `nme`, `failure_rate`, `auc`, `median`, `per_landmark` (K, None where
        never annotated) and `per_face` (N, in the order of the references).

    Raises:
        ValueError: if faces or points do not match, a predicted point is missing, a face has no annotated point or no
            normaliser, or an option is invalid. The message is one line with the file and the face.
    """
    num_faces, num_landmarks = references.points.shape[:2]
    _check_annotated(references)
    if normalizer not in NORMALIZERS:
        raise ValueError(f"normalizer must be one of {', '.join(NORMALIZERS)}, but got {shorten(repr(normalizer))}")
    normalizer = _default_normalizer(num_landmarks) if normalizer == "auto" else normalizer
    lengths, description = _normalizers(references, normalizer, points)
    default_threshold = 0.08 if num_landmarks == 68 else 0.10
    thresholds = {
        "failure_threshold": _threshold("failure_threshold", failure_threshold, default_threshold),
        "auc_threshold": _threshold("auc_threshold", auc_threshold, default_threshold),
    }
    return {
        "references": references.name,
        "faces": num_faces,
        "points": num_landmarks,
        "normalizer": normalizer,
        "normalizer_description": description,
        **thresholds,
        "results": [_score(faces, references, lengths, thresholds) for faces in predictions],
        "image_ids": None if references.ids is None else list(references.ids),
        "normalizers": lengths.tolist(),
    }


def _score(predictions: Faces, references: Faces, lengths: np.ndarray, thresholds: dict) -> dict:
    by_id = predictions.ids is not None and references.ids is not None
    order = _order_by_id(predictions, references) if by_id else _same_order(predictions, references)
    points = predictions.points[order]
    scores = compute_nme(points, references.points, lengths, **thresholds, per_landmark=True, per_face=True)
    return {
        "predictions": predictions.name,
        "matched_by": "image_id" if by_id else "order",
        **{name: scores[name] for name in ("nme", "failure_rate", "auc")},
        "median": float(np.median(scores["per_face"])),
        "per_landmark": [None if np.isnan(error) else error for error in scores["per_landmark"]],
        "per_face": scores["per_face"],
    }


def _order_by_id(predictions: Faces, references: Faces) -> list[int]:
    """The index of each reference among the predictions. A face without a match is an error, it is not dropped."""
    for faces, others in ((predictions, references), (references, predictions)):
        ids = set(faces.ids)
        missing_ids = [name for name in others.ids if name not in ids]
        if missing_ids:
            names = ", ".join(repr(shorten(name)) for name in missing_ids[:MAX_IDS_IN_MESSAGE])
            num_more = len(missing_ids) - MAX_IDS_IN_MESSAGE
            more = f" and {num_more} more" if num_more > 0 else ""
            raise ValueError(f"{faces.name} must have each face of {others.name}, but lacks {names}{more}")
    _check_predictions(predictions, references)
    indices = {name: index for index, name in enumerate(predictions.ids)}
    return [indices[name] for name in references.ids]


def _same_order(predictions: Faces, references: Faces) -> slice:
    if len(predictions.points) != len(references.points):
        raise ValueError(
            f"{predictions.name} must have as many faces as {references.name} has, {len(references.points)}, "
            f"but got {len(predictions.points)}"
        )
    _check_predictions(predictions, references)
    return slice(None)


def _check_predictions(predictions: Faces, references: Faces):
    num_landmarks = references.points.shape[1]
    if predictions.points.shape[1] != num_landmarks:
        raise ValueError(
            f"{predictions.name} must have {num_landmarks} points a face as {references.name} has, "
            f"but got {predictions.points.shape[1]}"
        )
    missing_points = np.argwhere(np.isnan(predictions.points))
    if len(missing_points):
        face, point, _ = missing_points[0]
        name = predictions.face_name(face)
        raise ValueError(f"{predictions.name}: {name} must have each point, but lacks point {point}")


def _check_annotated(references: Faces):
    empty_faces = np.flatnonzero(np.isnan(references.points).all(axis=(1, 2)))
    if len(empty_faces):
        name = references.face_name(empty_faces[0])
        raise ValueError(f"{references.name}: {name} must have an annotated point, but has none")


def _default_normalizer(num_landmarks: int) -> str:
    return "inter-ocular" if num_landmarks in INTER_OCULAR else "box"


def _normalizers(references: Faces, kind: str, points: tuple) -> tuple[np.ndarray, str]:
    """The length of each face (N,) that errors are divided by, and its description."""
    if kind in ("box", "diagonal"):
        lengths = face_normalizers(references.points, kind)
        size = "√(width × height)" if kind == "box" else "the diagonal"
        description = f"{size} of the box around the annotated points"
    elif kind == "two points":
        one, other = _two_points(points, references.points.shape[1])
        lengths = np.linalg.norm(references.points[:, one] - references.points[:, other], axis=1)
        description = f"the distance between points {one} and {other}"
    else:
        lengths = face_normalizers(references.points, kind)
        description = f"the {kind} distance between {_describe_ends(distance_ends(kind, references.points.shape[1]))}"
    bad_faces = np.flatnonzero(~(lengths > MIN_LENGTH))
    if len(bad_faces):
        length = lengths[bad_faces[0]]
        value = "points that are not annotated" if np.isnan(length) else f"{length:g}"
        place = f"{references.name}: {references.face_name(bad_faces[0])}"
        raise ValueError(f"{place} must have a normaliser ({description}), but got {value}")
    return lengths, description


def _two_points(points: tuple, num_landmarks: int) -> tuple[int, int]:
    for number in points:
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < num_landmarks:
            value = shorten(repr(number))
            raise ValueError(f"the two points must be numbers from 0 to {num_landmarks - 1}, but got {value}")
    return points


def _describe_ends(ends) -> str:
    if len(ends[0]) == 1:
        return f"points {ends[0][0]} and {ends[1][0]}"
    return "the means of points " + " and ".join(f"{end[0]} to {end[-1]}" for end in ends)


def _threshold(name: str, value: float | None, default: float) -> float:
    if value is None:
        return default
    if not is_number_or_none(value):
        raise ValueError(f"{name} must be a number, but got {shorten(repr(value))}")
    if not 0 < value <= 1:
        raise ValueError(f"{name} must be above 0 % and at most 100 %, but got {100 * value:g} %")
    return value
