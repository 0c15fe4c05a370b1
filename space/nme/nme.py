"""Normalised mean error of facial landmarks, its failure rate and the area under its cumulative error curve."""

# One import a line, because `evaluate` finds them by a regular expression for single lines.
import datasets
import evaluate
import numpy as np

_DESCRIPTION = """
Scores facial landmarks. The error of a face is the mean distance between predicted and annotated points, divided by
the face's normaliser (the distance between the outer eye corners, or the size of the face box). The results are its
mean over the faces (NME), the share of faces above a threshold (failure rate), and the area under the cumulative error
curve (AUC). All are fractions: multiply by 100 for the percent of published tables.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: (N, K, 2) predicted points as x, y, in the units of the references. K is any number.
    references: (N, K, 2) annotated points; NaN where a point is not annotated.
    normalizers: (N,) one length a face, in the same units, from the annotation and never from the prediction. Not
        needed with `normalizer`.
    normalizer: computes them from the references: "inter-ocular" (the outer corners of the eyes) or "inter-pupil", for
        68 points (300W), 98 (WFLW) or 29 (COFW); "box" (the square root of width times height) or "diagonal" of the
        box around the annotated points, for any.
    failure_threshold: a face fails when its error exceeds this fraction. 0.08 (the default) is customary for 300W,
        0.10 for WFLW and COFW.
    auc_threshold: where the cumulative error curve ends, a fraction; customary as above.
    per_landmark: also return the error of each landmark.
    per_face: also return the error of each face.

Returns a dict of
    nme: mean error over the faces; each face counts alike, however many of its points are annotated.
    failure_rate: share of faces whose error exceeds `failure_threshold`.
    auc: area under the cumulative error curve from 0 to `auc_threshold`, over `auc_threshold`: 1 is perfect.
    per_landmark: on request, K floats: mean error over the faces where the landmark is annotated, NaN if it never is.
    per_face: on request, N floats.

Raises ValueError for shapes that do not match, a prediction that is not finite, a face without any annotated point,
an infinite reference, normalizers or thresholds that are not positive and finite, and a normalizer that is unknown or
not defined for K points.

Examples:

```python
>>> nme = evaluate.load("space/nme")
>>> reference = [[0, 0], [10, 0], [float("nan"), float("nan")]]
>>> prediction = [[0, 1], [10, 0], [7, 7]]
>>> nme.compute(predictions=[prediction], references=[reference], normalizers=[10])
{'nme': 0.05, 'failure_rate': 0.0, 'auc': 0.375}
>>> nme.compute(predictions=[prediction], references=[reference], normalizer="diagonal")
{'nme': 0.05, 'failure_rate': 0.0, 'auc': 0.375}
>>> nme.add(prediction=prediction, reference=reference, normalizers=10)
>>> nme.compute(failure_threshold=0.04, per_landmark=True)
{'nme': 0.05, 'failure_rate': 1.0, 'auc': 0.375, 'per_landmark': [0.1, 0.0, nan]}

```
"""

_CITATION = """
@inproceedings{sagonas2013300,
  title = {300 Faces in-the-Wild Challenge: The First Facial Landmark Localization Challenge},
  author = {Sagonas, Christos and Tzimiropoulos, Georgios and Zafeiriou, Stefanos and Pantic, Maja},
  booktitle = {IEEE International Conference on Computer Vision Workshops},
  pages = {397--403},
  year = {2013}
}
"""


# Points counted from 0, by the number of points: the two ends of a distance, each the mean of its points.
INTER_OCULAR = {68: ((36,), (45,)), 98: ((60,), (72,)), 29: ((8,), (9,))}
INTER_PUPIL = {68: (range(36, 42), range(42, 48)), 98: ((96,), (97,)), 29: ((16,), (17,))}
DISTANCES = {"inter-ocular": INTER_OCULAR, "inter-pupil": INTER_PUPIL}
NORMALIZERS = (*DISTANCES, "box", "diagonal")


def face_normalizers(references, normalizer: str) -> np.ndarray:
    """The length of each face that its errors are divided by, (N,) float64, NaN where its points are not annotated.

    Args:
        references: (N, K, 2) annotated points, NaN where not annotated.
        normalizer: one of NORMALIZERS.

    Raises:
        ValueError: if it is none of them, or a distance that is not defined for K points.
    """
    references = _points("references", references)
    if normalizer not in NORMALIZERS:
        raise ValueError(f"normalizer must be one of {', '.join(NORMALIZERS)}, but got {normalizer!r}")
    if normalizer in DISTANCES:
        one, other = (references[:, list(end)].mean(axis=1) for end in distance_ends(normalizer, references.shape[1]))
        return np.linalg.norm(one - other, axis=1)
    empty = np.isnan(references).all(axis=(1, 2), keepdims=True)
    known = np.where(empty, 0, references)  # else numpy warns
    sides = np.nanmax(known, axis=1) - np.nanmin(known, axis=1)
    return np.sqrt(sides.prod(axis=1)) if normalizer == "box" else np.linalg.norm(sides, axis=1)


def distance_ends(kind: str, num_landmarks: int) -> tuple:
    """The points at both ends of a distance. Raises ValueError if it is not defined for so many points."""
    if num_landmarks not in DISTANCES[kind]:
        raise ValueError(
            f"the {kind} distance must be that of {', '.join(map(str, sorted(DISTANCES[kind])))} points a face, "
            f"but got {num_landmarks}; choose another normaliser"
        )
    return DISTANCES[kind][num_landmarks]


def compute_nme(
    predictions,
    references,
    normalizers=None,
    failure_threshold: float = 0.08,
    auc_threshold: float = 0.08,
    per_landmark: bool = False,
    per_face: bool = False,
    normalizer: str | None = None,
) -> dict:
    """NME, failure rate and AUC as fractions, computed in float64.

    Args:
        predictions: (N, K, 2) predicted points.
        references: (N, K, 2) annotated points in the same frame and units; one with a NaN coordinate is unannotated.
        normalizers: (N,) one positive length a face, in the same units; None with `normalizer`.
        failure_threshold: a face fails when its error exceeds this fraction.
        auc_threshold: end of the cumulative error curve, a fraction.
        per_landmark: add `per_landmark`, a list of K floats, NaN for a landmark that no face has.
        per_face: add `per_face`, a list of N floats.
        normalizer: computes the normalizers from the references, as `face_normalizers` does.

    Returns:
        A dict of floats `nme`, `failure_rate`, `auc`, and the lists asked for.

    Raises:
        ValueError: if shapes do not match, a prediction is not finite, a reference is infinite, a face has no
            annotated point, a normalizer or threshold is not positive and finite, or not one of `normalizers` and
            `normalizer` is given.
    """
    if (normalizers is None) == (normalizer is None):
        raise ValueError("either normalizers (N,) must be given or normalizer, such as 'inter-ocular'")
    if normalizer is not None:
        normalizers = face_normalizers(references, normalizer)
    failure_threshold = _threshold("failure_threshold", failure_threshold)
    auc_threshold = _threshold("auc_threshold", auc_threshold)
    errors = _point_errors(predictions, references, normalizers)
    face_errors = np.nanmean(errors, axis=1)
    # The empirical curve is a step of 1 / N at each face's error e, which adds (t - e) / N to the area up to t.
    scores = {
        "nme": float(face_errors.mean()),
        "failure_rate": float((face_errors > failure_threshold).mean()),
        "auc": float(np.clip(1 - face_errors / auc_threshold, 0, None).mean()),
    }
    if per_landmark:
        scores["per_landmark"] = _means_or_nan(errors).tolist()
    if per_face:
        scores["per_face"] = face_errors.tolist()
    return scores


def _means_or_nan(errors: np.ndarray) -> np.ndarray:
    """Means (K,) of errors (N, K) over the faces that have the landmark."""
    counts = (~np.isnan(errors)).sum(axis=0)
    sums = np.nansum(errors, axis=0)
    return np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)


def _point_errors(predictions, references, normalizers) -> np.ndarray:
    """Errors (N, K) over the face's normalizer, NaN where unannotated. Raises ValueError as `compute_nme` says."""
    predictions = _points("predictions", predictions)
    references = _points("references", references)
    if predictions.shape != references.shape:
        raise ValueError(
            f"predictions must have the shape of references {references.shape}, but got {predictions.shape}"
        )
    normalizers = _normalizers(normalizers, len(references))
    bad_indices = np.argwhere(~np.isfinite(predictions))
    if len(bad_indices):
        face, point, axis = bad_indices[0]
        raise ValueError(
            f"predictions must be finite, but got {predictions[face, point, axis]} at face {face}, point {point}"
        )
    bad_indices = np.argwhere(np.isinf(references))
    if len(bad_indices):
        face, point, _ = bad_indices[0]
        raise ValueError(f"references must be finite or NaN, but got inf at face {face}, point {point}")
    errors = np.linalg.norm(predictions - references, axis=-1) / normalizers[:, None]
    empty_faces = np.flatnonzero(np.isnan(errors).all(axis=1))
    if len(empty_faces):
        face = empty_faces[0]
        raise ValueError(f"references must have an annotated point in each face, but got only NaN for face {face}")
    return errors


def _points(name: str, values) -> np.ndarray:
    array = _float64(name, values, "(faces, points, 2)")
    if array.ndim != 3 or array.shape[2] != 2 or 0 in array.shape:
        raise ValueError(f"{name} must be numbers of shape (faces, points, 2), but got shape {array.shape}")
    return array


def _normalizers(values, num_faces: int) -> np.ndarray:
    array = _float64("normalizers", values, f"({num_faces},)")
    if array.shape != (num_faces,):
        raise ValueError(f"normalizers must be one number a face, shape ({num_faces},), but got shape {array.shape}")
    bad_faces = np.flatnonzero(~(np.isfinite(array) & (array > 0)))
    if len(bad_faces):
        face = bad_faces[0]
        raise ValueError(f"normalizers must be positive and finite, but got {array[face]} for face {face}")
    return array


def _float64(name: str, values, shape: str) -> np.ndarray:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers of shape {shape}, but got: {error}") from None


def _threshold(name: str, value) -> float:
    array = _float64(name, value, "()")
    if array.shape != () or not np.isfinite(array) or array <= 0:
        raise ValueError(f"{name} must be a positive fraction, but got {value!r}")
    return float(array)


class NME(evaluate.Metric):
    """`compute_nme` as a metric: `compute`, or `add` and `add_batch` followed by `compute`.

    `evaluate` knows no optional inputs: normalizers that are not given are stored as NaN.
    """

    def compute(self, *, predictions=None, references=None, normalizers=None, **options):
        """The scores, of what is given or was added."""  # `evaluate` adds the inputs' description
        if references is not None and normalizers is None:
            normalizers = [np.nan] * len(references)
        return super().compute(predictions=predictions, references=references, normalizers=normalizers, **options)

    def add_batch(self, *, predictions=None, references=None, normalizers=None, **others):
        """Adds the faces of a batch."""
        if references is not None and normalizers is None:
            normalizers = [np.nan] * len(references)
        super().add_batch(predictions=predictions, references=references, normalizers=normalizers, **others)

    def add(self, *, prediction=None, reference=None, normalizers=None, **others):
        """Adds a face."""
        normalizers = np.nan if normalizers is None else normalizers
        super().add(prediction=prediction, reference=reference, normalizers=normalizers, **others)

    def _info(self):
        points = datasets.Sequence(datasets.Sequence(datasets.Value("float64")))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {"predictions": points, "references": points, "normalizers": datasets.Value("float64")}
            ),
            reference_urls=["https://ibug.doc.ic.ac.uk/resources/300-W/"],
        )

    def _compute(self, predictions, references, normalizers, **options):
        if np.isnan(np.asarray(normalizers, dtype=np.float64)).all():
            normalizers = None
        return compute_nme(predictions, references, normalizers, **options)
