"""Scores of predicted landmarks: NME, failure rate, AUC and percentiles with intervals, by part and by landmark.

The predictions for a split are a dict of float64 arrays, in fractions of each face's crop: `landmarks` (N, K, 2),
`labels` (N, K, 2) with NaN where not annotated, `boxes` (N, 4) that the crops were made from, where the benchmark has
subsets `subsets` (N, S) bool in the order of `subset_names`, and from a network `scales` and `scores` (N, K),
`initial_landmarks` (N, K, 2) and `intermediate_landmarks` (N, layers, K, 2). All scores are fractions: NME 0.034 is
3.4 %.
"""

import functools
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import evaluate
import numpy as np

from dataset_scripts.benchmark_facts import Benchmark, Subset, subset_names

from .confidence_metrics import confidence_ratio, likelihood_gain, roc_auc

INSTALLED = Path(__file__).resolve().parent / "nme"  # the metric of an installed wheel
METRIC = INSTALLED if INSTALLED.is_dir() else Path(__file__).resolve().parents[2] / "space" / "nme"
THRESHOLDS = (0.08, 0.1)  # papers use both for 300W, and the second for WFLW and COFW
PERCENTILES = (50, 90, 95, 99)
HELD_OUT = "validation"  # the split name of the faces of a validation list
CONFIDENCES = ("confidence_ratio", "likelihood_gain", "visibility_auc")
RESAMPLES = 2000
INTERVAL = (2.5, 97.5)  # percentiles of the resampled statistics: 95 %
_BLOCK = 200_000  # faces drawn at a time, few enough for the processor's cache

Predictions = Mapping[str, np.ndarray]


def scored_names(benchmark: Benchmark, requested: Iterable[str], loaded: Iterable[str]) -> list[str]:
    """The names to score: the requested ones, then the subsets of the benchmark whose splits are all loaded.

    A subset with the same faces as a requested name, such as full beside common+challenging, is left out. Subsets
    defined by a column are also scored among the faces of a validation list.
    """
    names, loaded = list(dict.fromkeys(requested)), set(loaded)
    combinations = {frozenset(_splits(name)) for name in names}
    for name, subset in benchmark.subsets.items():
        splits = frozenset(_splits(_expression(subset, loaded)))
        if name not in names and splits <= loaded and (subset.column or splits not in combinations):
            names.append(name)
    return names


def _expression(subset: Subset, loaded: Collection[str]) -> str:
    """The splits that contain a subset: those of the benchmark, or the faces of a validation list."""
    return HELD_OUT if subset.column and set(loaded) == {HELD_OUT} else subset.splits


def predictions_of(splits: Mapping[str, Predictions], benchmark: Benchmark, name: str) -> dict[str, np.ndarray]:
    """The predictions for the faces of `name`, in the order of its splits.

    Args:
        splits: the predictions for each loaded split.
        benchmark: defines the subsets.
        name: a key of `splits`, several joined by "+", or a subset.

    Raises:
        ValueError: if one of its splits is not in `splits`.
    """
    subset = None if name in splits else benchmark.subsets.get(name)
    keys = [name] if name in splits else _splits(_expression(subset, splits) if subset else name)
    if not set(keys) <= splits.keys():
        raise ValueError(
            f"names must be made of {', '.join(splits)} or be subsets of {benchmark.name} within, but got {name!r}"
        )
    predictions = {key: np.concatenate([splits[split][key] for split in keys]) for key in splits[keys[0]]}
    if subset and subset.column:
        is_member = predictions["subsets"][:, subset_names(benchmark).index(name)]
        predictions = {key: values[is_member] for key, values in predictions.items()}
    return predictions


def face_normalizers(predictions: Predictions, benchmark: Benchmark, kind: str, name: str) -> np.ndarray:
    """The lengths (N,) by which the normaliser `kind` divides the errors of N faces, in fractions of the crops.

    Args:
        predictions: only `labels` and `boxes` are read.
        name: of the split or subset, for the message.

    Raises:
        ValueError: if the length is not known for all faces.
    """
    normalizers = benchmark.normalizers(predictions["labels"], kind, predictions["boxes"])
    unknown = int(np.isnan(normalizers).sum())
    if unknown:
        raise ValueError(
            f"--normalizer must have its landmarks annotated in every face, but those of {kind} are missing in "
            f"{unknown} of {len(normalizers)} faces of {name}; box and diagonal need no landmarks"
        )
    return normalizers


def errors_of(predictions: Predictions, benchmark: Benchmark, kind: str | None = None) -> np.ndarray:
    """NME of each face (N,), a fraction, under the normaliser `kind`, by default the benchmark's first.

    NaN where the normaliser is not known. Raises ValueError for predictions that are not finite.
    """
    normalizers = benchmark.normalizers(predictions["labels"], kind, predictions["boxes"])
    errors, is_known = np.full(len(normalizers), np.nan), normalizers > 0
    if is_known.any():
        landmarks, labels = predictions["landmarks"][is_known], predictions["labels"][is_known]
        errors[is_known] = _metric()(landmarks, labels, normalizers[is_known], per_face=True)["per_face"]
    return errors


def score_faces(
    splits: Mapping[str, Predictions],
    benchmark: Benchmark,
    names: Iterable[str],
    normalizer: str | None = None,
    seed: int = 0,
) -> dict[str, dict]:
    """The scores of each name, as `scores.json` holds them.

    Args:
        splits: the predictions for each loaded split.
        benchmark: defines normalisers, facial parts and subsets.
        names: splits and subsets to score, see `predictions_of`. Names without faces are left out.
        normalizer: the main one, by default the benchmark's first. Each other normaliser is scored as well if it is
            known for all faces of the name.
        seed: of the bootstrap. All statistics of a name use the same resampled faces.

    Returns:
        For each name, in the same order: `faces` (their number), `normalizers` (by kind, the main one first, see
        `_score`), `offset` (see `_offset`), with intermediate landmarks `layers` (see `_layers`), with a scale head
        `confidence_ratio` and `likelihood_gain`, and with a visibility head `visibility_auc` if the head hides some
        landmarks and not others.

    Raises:
        ValueError: if no name has a face, the main normaliser is not known for all faces of a name, or a prediction
            is not finite.
    """
    main = normalizer or benchmark.default_normalizer
    names = list(names)
    by_name = {name: predictions_of(splits, benchmark, name) for name in names}
    by_name = {name: predictions for name, predictions in by_name.items() if len(predictions["labels"])}
    if not by_name:
        raise ValueError(f"names must have a face to score, but got {', '.join(names) or 'none'}, which have none")
    return {name: _score_name(predictions, benchmark, main, name, seed) for name, predictions in by_name.items()}


def face_rows(
    splits: Mapping[str, Predictions], benchmark: Benchmark, image_ids: Mapping[str, Sequence[str]] | None = None
) -> list[dict]:
    """One row a face of the loaded splits, in their order, for `write_report`.

    Args:
        splits: the predictions for each loaded split.
        benchmark: defines normalisers and subsets.
        image_ids: of each loaded split, if known.

    Returns:
        Dicts of `split`, `number` (from 0), `image_id` with `image_ids`, `nme` (by normaliser, a fraction, NaN where
        it is not known) and `subsets` (by name, whether the face belongs to it).
    """
    rows = []
    for split, predictions in splits.items():
        errors = {kind: errors_of(predictions, benchmark, kind) for kind in benchmark.normalizer_kinds}
        for number in range(len(predictions["labels"])):
            row = {"split": split, "number": number}
            if image_ids is not None:
                row["image_id"] = image_ids[split][number]
            row["nme"] = {kind: float(values[number]) for kind, values in errors.items()}
            row["subsets"] = {
                name: bool(predictions["subsets"][number, column])
                for column, name in enumerate(subset_names(benchmark))
            }
            rows.append(row)
    return rows


@functools.cache
def _metric():
    """The function of the metric `space/nme`, which defines all scores.

    The metric's `compute` would first write all coordinates to an Arrow file: 7 s for WFLW instead of 10 ms.
    """
    return evaluate.load(str(METRIC))._compute


def _splits(expression: str) -> list[str]:
    return [split.strip() for split in expression.split("+")]


def _score_name(predictions: Predictions, benchmark: Benchmark, main: str, name: str, seed: int) -> dict:
    normalizers = {main: face_normalizers(predictions, benchmark, main, name)}
    for kind in benchmark.normalizer_kinds:
        lengths = benchmark.normalizers(predictions["labels"], kind, predictions["boxes"])
        if kind != main and (lengths > 0).all():
            normalizers[kind] = lengths
    try:
        scores = {kind: _score(predictions, benchmark, lengths, seed) for kind, lengths in normalizers.items()}
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    offset = _offset(predictions, normalizers[main])
    result = {"faces": len(predictions["labels"]), "normalizers": scores, "offset": offset}
    if "intermediate_landmarks" in predictions:
        result["layers"] = _layers(predictions, normalizers[main])
    if "scores" in predictions:
        result |= _confidences(predictions, normalizers[main])
    return result | _visibility(predictions)


def _offset(predictions: Predictions, normalizers: np.ndarray) -> dict[str, float]:
    """Mean of prediction minus annotation in `x` and `y`, normalised and averaged over faces like the NME. Positive
    values are to the right of the annotations and below them."""
    shifts = np.nanmean(predictions["landmarks"] - predictions["labels"], axis=1) / normalizers[:, None]
    return dict(zip("xy", shifts.mean(axis=0).tolist()))


def _layers(predictions: Predictions, normalizers: np.ndarray) -> dict[str, float]:
    """NME of the first decoder layer's input (`initial`) and of each layer's output (`1`, `2`, …)."""
    estimates = {"initial": predictions["initial_landmarks"]} if "initial_landmarks" in predictions else {}
    layers = predictions["intermediate_landmarks"]  # (N, layers, K, 2)
    estimates |= {str(layer + 1): layers[:, layer] for layer in range(layers.shape[1])}
    return {name: _metric()(points, predictions["labels"], normalizers)["nme"] for name, points in estimates.items()}


def _score(predictions: Predictions, benchmark: Benchmark, normalizers: np.ndarray, seed: int) -> dict:
    """Each statistic as `value`, `low` and `high`, and in `parts` and `landmarks` the NME of each facial part and
    landmark by name, NaN where no face has it annotated."""
    points = predictions["landmarks"], predictions["labels"], normalizers
    thresholds = sorted({*THRESHOLDS, benchmark.failure_threshold})
    values = {}
    for threshold in thresholds:
        limits = {"failure_threshold": threshold, "auc_threshold": threshold}
        scores = _metric()(*points, **limits, per_landmark=True, per_face=True)
        values["nme"] = scores["nme"]
        values[f"failure_rate@{100 * threshold:g}%"] = scores["failure_rate"]
        values[f"auc@{100 * threshold:g}%"] = scores["auc"]
    errors = np.array(scores["per_face"])
    values |= {f"p{share}": float(np.percentile(errors, share)) for share in PERCENTILES}
    ends = _intervals(errors, thresholds, seed).tolist()
    intervals = {
        key: {"value": value, "low": low, "high": high}
        for (key, value), (low, high) in zip(values.items(), ends, strict=True)
    }
    parts = {name: _part_nme(*points, list(part.indices)) for name, part in benchmark.parts.items()}
    landmarks = dict(zip(benchmark.landmark_names, scores["per_landmark"], strict=True))
    return intervals | {"parts": parts, "landmarks": landmarks}


def _part_nme(landmarks: np.ndarray, labels: np.ndarray, normalizers: np.ndarray, indices: list[int]) -> float:
    """NME of some landmarks, over the faces with any of them annotated."""
    has_part = np.isfinite(labels[:, indices]).all(axis=-1).any(axis=1)
    if not has_part.any():
        return np.nan
    return _metric()(landmarks[has_part][:, indices], labels[has_part][:, indices], normalizers[has_part])["nme"]


def _intervals(errors: np.ndarray, thresholds: Sequence[float], seed: int) -> np.ndarray:
    """Percentile bootstrap over faces of the statistics of `_score`, in its order: (statistics, 2), low and high.

    A resample is represented by how often it draws each face, in ascending order of the errors. Means are then matrix
    products, and percentiles are looked up in running sums of the counts.
    """
    ranks = np.argsort(np.argsort(errors, kind="stable"), kind="stable")
    ascending_errors = np.sort(errors)
    columns = [ascending_errors]
    for threshold in thresholds:
        columns += [ascending_errors > threshold, np.clip(1 - ascending_errors / threshold, 0, None)]
    columns = np.stack(columns, axis=1)
    statistics = []
    for counts in _resampled_counts(ranks, seed):
        means = counts @ columns / len(errors)
        statistics.append(np.column_stack([means, _resampled_percentiles(ascending_errors, counts)]))
    return np.percentile(np.concatenate(statistics), INTERVAL, axis=0).T


def _resampled_counts(ranks: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """How often each of N faces is drawn in each of `RESAMPLES` resamples of N: blocks of (resamples, N), float64.

    The faces drawn depend on the seed alone; `ranks` (N,) are their columns in the blocks.
    """
    generator, size = np.random.default_rng(seed), len(ranks)
    block = max(1, _BLOCK // size)
    for start in range(0, RESAMPLES, block):
        draws = min(block, RESAMPLES - start)
        places = ranks[generator.integers(size, size=(draws, size))] + size * np.arange(draws)[:, None]
        yield np.bincount(places.ravel(), minlength=draws * size).reshape(draws, size).astype(np.float64)


def _resampled_percentiles(ascending_errors: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """`np.percentile` (resamples, percentiles) of N ascending errors, each repeated `counts` (resamples, N) times."""
    size = len(ascending_errors)
    before = size * np.arange(len(counts))  # the running sum at the start of each resample
    running_sum = counts.cumsum()
    percentiles = []
    for share in PERCENTILES:
        place = share / 100 * (size - 1)
        below, above = (
            ascending_errors[np.searchsorted(running_sum, before + rank, side="right") - before]
            for rank in (np.floor(place), np.ceil(place))
        )
        percentiles.append(below + (place % 1) * (above - below))
    return np.stack(percentiles, axis=1)


def _visibility(predictions: Predictions) -> dict[str, float]:
    if "visibilities" not in predictions or "visibility" not in predictions:
        return {}
    is_known = np.isfinite(predictions["visibility"])
    is_visible, scores = predictions["visibility"][is_known] > 0, predictions["visibilities"][is_known]
    return {"visibility_auc": roc_auc(scores, is_visible)} if 0 < is_visible.sum() < len(is_visible) else {}


def _confidences(predictions: Predictions, normalizers: np.ndarray) -> dict[str, float]:
    distances = predictions["landmarks"] - predictions["labels"]
    errors = np.linalg.norm(distances, axis=-1) / normalizers[:, None]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice")  # of a landmark that no face has annotated
        return {
            "confidence_ratio": confidence_ratio(errors, predictions["scores"]),
            "likelihood_gain": likelihood_gain(np.abs(distances).sum(axis=-1), predictions["scales"]),
        }
