"""Scores of predicted landmarks: NME, failure rate, AUC and percentiles with intervals, by part and by landmark.

The model's answers for a split are a dict of float64 arrays, here called faces, all in fractions of each face's crop:
`landmarks` (N, K, 2), `labels` (N, K, 2) with NaN where not annotated, `boxes` (N, 4) that the crops were made from,
where the benchmark has subsets `subsets` (N, S) bool in the order of `subset_names`, and of a network `scales` and
`scores` (N, K), `initial_landmarks` (N, K, 2) and `intermediate_landmarks` (N, layers, K, 2). Everything
that comes out is a fraction: NME 0.034 is 3.4 %.
"""

import functools
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import evaluate
import numpy as np

from dataset_scripts.benchmark import Benchmark, Subset, subset_names

from .confidence_metrics import confidence_ratio, likelihood_gain, roc_auc

INSTALLED = Path(__file__).resolve().parent / "nme"  # where the wheel has the metric
METRIC = INSTALLED if INSTALLED.is_dir() else Path(__file__).resolve().parents[2] / "space" / "nme"
THRESHOLDS = (0.08, 0.1)  # papers quote 300W at both, WFLW and COFW at the second
PERCENTILES = (50, 90, 95, 99)
HELD_OUT = "validation"  # what the faces of a validation list are called
CONFIDENCES = ("confidence_ratio", "likelihood_gain", "visibility_auc")
RESAMPLES = 2000
INTERVAL = (2.5, 97.5)  # percentiles of the resampled statistics: 95 %
_BLOCK = 200_000  # faces drawn at a time, few enough for the processor's cache

Faces = Mapping[str, np.ndarray]


def scored_names(benchmark: Benchmark, requested: Iterable[str], loaded: Iterable[str]) -> list[str]:
    """The names to score: the requested ones, then the subsets of the benchmark whose splits are all loaded.

    A subset of the very faces that another name already stands for, such as full beside common+challenging, is left
    out. Subsets that a column tells are also scored among the faces of a validation list.
    """
    names, loaded = list(dict.fromkeys(requested)), set(loaded)
    same = {frozenset(_splits(name)) for name in names}
    for name, subset in benchmark.subsets.items():
        splits = frozenset(_splits(_expression(subset, loaded)))
        if name not in names and splits <= loaded and (subset.column or splits not in same):
            names.append(name)
    return names


def _expression(subset: Subset, loaded: Collection[str]) -> str:
    """The splits that a subset is looked for in: those of the benchmark, or the faces of a validation list."""
    return HELD_OUT if subset.column and set(loaded) == {HELD_OUT} else subset.splits


def faces_of(parts: Mapping[str, Faces], benchmark: Benchmark, name: str) -> dict[str, np.ndarray]:
    """The faces that `name` stands for, in the order of its splits.

    Args:
        parts: the faces of each loaded split.
        benchmark: names the subsets.
        name: a key of `parts`, several joined by "+", or a subset.

    Raises:
        ValueError: if one of its splits is not in `parts`.
    """
    subset = None if name in parts else benchmark.subsets.get(name)
    wanted = [name] if name in parts else _splits(_expression(subset, parts) if subset else name)
    if not set(wanted) <= parts.keys():
        raise ValueError(
            f"names must be made of {', '.join(parts)} or be subsets of {benchmark.name} within, but got {name!r}"
        )
    faces = {key: np.concatenate([parts[split][key] for split in wanted]) for key in parts[wanted[0]]}
    if subset and subset.column:
        chosen = faces["subsets"][:, subset_names(benchmark).index(name)]
        faces = {key: values[chosen] for key, values in faces.items()}
    return faces


def face_normalizers(faces: Faces, benchmark: Benchmark, kind: str, name: str) -> np.ndarray:
    """What the errors of `faces` are divided by under the normaliser `kind`: (N,), in their unit.

    Args:
        faces: `labels` and `boxes` are enough.
        name: what the faces are, for the message.

    Raises:
        ValueError: if it is not known for all of them.
    """
    normalizers = benchmark.normalizers(faces["labels"], kind, faces["boxes"])
    unknown = int(np.isnan(normalizers).sum())
    if unknown:
        raise ValueError(
            f"--normalizer must have its landmarks annotated in every face, but those of {kind} are not in {unknown} "
            f"of {len(normalizers)} faces of {name}; box and diagonal need none"
        )
    return normalizers


def errors_of(faces: Faces, benchmark: Benchmark, kind: str | None = None) -> np.ndarray:
    """NME of each face (N,), a fraction, under the normaliser `kind`, by default the benchmark's first.

    NaN where the normaliser is not known. Raises ValueError for predictions that are not finite.
    """
    normalizers = benchmark.normalizers(faces["labels"], kind, faces["boxes"])
    errors, known = np.full(len(normalizers), np.nan), normalizers > 0
    if known.any():
        metric = _metric()
        scores = metric(faces["landmarks"][known], faces["labels"][known], normalizers[known], per_face=True)
        errors[known] = scores["per_face"]
    return errors


def score_faces(
    parts: Mapping[str, Faces],
    benchmark: Benchmark,
    names: Iterable[str],
    normalizer: str | None = None,
    seed: int = 0,
) -> dict[str, dict]:
    """The scores of each name, as `scores.json` holds them.

    Args:
        parts: the faces of each loaded split.
        benchmark: names normalisers, facial parts and subsets.
        names: what to score, see `faces_of`. One without a face is left out.
        normalizer: the main one, by default the benchmark's first. The others are scored as well, each where it is
            known for all faces of the name.
        seed: of the bootstrap; every statistic of a name is taken of the same resampled faces.

    Returns:
        By name, in the order given, `faces` (their number), `normalizers` (by kind, the main one first, see
        `_score`), `offset` (see `_offset`), where the faces have intermediate landmarks `layers` (see `_layers`), and
        with a scale head `confidence_ratio` and `likelihood_gain`, and with a visibility head `visibility_auc` where
        some landmarks are hidden by the head and others are not.

    Raises:
        ValueError: if no name has a face, the main normaliser is not known for all faces of a name, or a prediction
            is not finite.
    """
    main = normalizer or benchmark.default_normalizer
    names = list(names)
    chosen = {name: faces_of(parts, benchmark, name) for name in names}
    chosen = {name: faces for name, faces in chosen.items() if len(faces["labels"])}
    if not chosen:
        raise ValueError(f"names must have a face to score, but got {', '.join(names) or 'none'}, which have none")
    return {name: _score_name(faces, benchmark, main, name, seed) for name, faces in chosen.items()}


def face_rows(
    parts: Mapping[str, Faces], benchmark: Benchmark, image_ids: Mapping[str, Sequence[str]] | None = None
) -> list[dict]:
    """One row a face of the loaded splits, in their order, for `write_report`.

    Args:
        parts: the faces of each loaded split.
        benchmark: names normalisers and subsets.
        image_ids: of each loaded split, if known.

    Returns:
        Dicts of `split`, `number` (from 0), `image_id` if given, `nme` (by normaliser, a fraction, NaN where that is
        not known) and `subsets` (by name, whether the face belongs to it).
    """
    rows = []
    for split, faces in parts.items():
        errors = {kind: errors_of(faces, benchmark, kind) for kind in benchmark.normalizer_kinds}
        for number in range(len(faces["labels"])):
            row = {"split": split, "number": number}
            if image_ids is not None:
                row["image_id"] = image_ids[split][number]
            row["nme"] = {kind: float(values[number]) for kind, values in errors.items()}
            row["subsets"] = {
                name: bool(faces["subsets"][number, place]) for place, name in enumerate(subset_names(benchmark))
            }
            rows.append(row)
    return rows


@functools.cache
def _metric():
    """The function behind the metric `space/nme`, the one definition of the scores.

    `compute` of `evaluate` would first write every coordinate to an Arrow file: 7 s for WFLW instead of 10 ms.
    """
    return evaluate.load(str(METRIC))._compute


def _splits(expression: str) -> list[str]:
    return [split.strip() for split in expression.split("+")]


def _score_name(faces: Faces, benchmark: Benchmark, main: str, name: str, seed: int) -> dict:
    normalizers = {main: face_normalizers(faces, benchmark, main, name)}
    for kind in benchmark.normalizer_kinds:
        others = benchmark.normalizers(faces["labels"], kind, faces["boxes"])
        if kind != main and (others > 0).all():
            normalizers[kind] = others
    try:
        scores = {kind: _score(faces, benchmark, lengths, seed) for kind, lengths in normalizers.items()}
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    result = {"faces": len(faces["labels"]), "normalizers": scores, "offset": _offset(faces, normalizers[main])}
    if "intermediate_landmarks" in faces:
        result["layers"] = _layers(faces, normalizers[main])
    if "scores" in faces:
        result |= _confidences(faces, normalizers[main])
    return result | _visibility(faces)


def _offset(faces: Faces, normalizers: np.ndarray) -> dict[str, float]:
    """Mean of prediction minus annotation, `x` and `y`, over the faces as the NME is: positive is right of the
    annotations, and below them."""
    shifts = np.nanmean(faces["landmarks"] - faces["labels"], axis=1) / normalizers[:, None]
    return dict(zip("xy", shifts.mean(axis=0).tolist()))


def _layers(faces: Faces, normalizers: np.ndarray) -> dict[str, float]:
    """NME of what the first decoder layer starts from (`initial`), and after each layer (`1`, `2`, …)."""
    estimates = {"initial": faces["initial_landmarks"]} if "initial_landmarks" in faces else {}
    estimates |= {str(number): faces["intermediate_landmarks"][:, number - 1] for number in _numbers(faces)}
    return {name: _metric()(points, faces["labels"], normalizers)["nme"] for name, points in estimates.items()}


def _numbers(faces: Faces) -> range:
    return range(1, faces["intermediate_landmarks"].shape[1] + 1)


def _score(faces: Faces, benchmark: Benchmark, normalizers: np.ndarray, seed: int) -> dict:
    """Each statistic as `value`, `low` and `high`; and the NME of each of the `parts` and `landmarks` by name, NaN
    where no face has it annotated."""
    points = faces["landmarks"], faces["labels"], normalizers
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
    """NME of some landmarks alone, over the faces that have any of them."""
    there = np.isfinite(labels[:, indices]).all(axis=-1).any(axis=1)
    if not there.any():
        return np.nan
    return _metric()(landmarks[there][:, indices], labels[there][:, indices], normalizers[there])["nme"]


def _intervals(errors: np.ndarray, thresholds: Sequence[float], seed: int) -> np.ndarray:
    """Percentile bootstrap over faces of the statistics of `_score`, in its order: (statistics, 2), low and high.

    Of the resampled faces only the counts are kept, in the order of the errors: means are then products of matrices,
    percentiles places in running sums.
    """
    ranks = np.argsort(np.argsort(errors, kind="stable"), kind="stable")
    ordered = np.sort(errors)
    averaged = [ordered]
    for threshold in thresholds:
        averaged += [ordered > threshold, np.clip(1 - ordered / threshold, 0, None)]
    averaged = np.stack(averaged, axis=1)
    resampled = []
    for counts in _resampled_counts(ranks, seed):
        means = counts @ averaged / len(errors)
        resampled.append(np.column_stack([means, _resampled_percentiles(ordered, counts)]))
    return np.percentile(np.concatenate(resampled), INTERVAL, axis=0).T


def _resampled_counts(ranks: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """How often each of N faces is drawn in each of `RESAMPLES` draws of N: blocks of (draws, N), float64.

    Which faces are drawn depends on the seed alone; `ranks` (N,) are their places in the answer.
    """
    generator, size = np.random.default_rng(seed), len(ranks)
    block = max(1, _BLOCK // size)
    for start in range(0, RESAMPLES, block):
        draws = min(block, RESAMPLES - start)
        places = ranks[generator.integers(size, size=(draws, size))] + size * np.arange(draws)[:, None]
        yield np.bincount(places.ravel(), minlength=draws * size).reshape(draws, size).astype(np.float64)


def _resampled_percentiles(ordered: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """`np.percentile` (draws, percentiles) of N ascending errors of which each is there `counts` (draws, N) times."""
    size = len(ordered)
    before = size * np.arange(len(counts))  # faces of the draws above, in a sum that runs through all of them
    reached = counts.cumsum()
    percentiles = []
    for share in PERCENTILES:
        place = share / 100 * (size - 1)
        below, above = (
            ordered[np.searchsorted(reached, before + rank, side="right") - before]
            for rank in (np.floor(place), np.ceil(place))
        )
        percentiles.append(below + (place % 1) * (above - below))
    return np.stack(percentiles, axis=1)


def _visibility(faces: Faces) -> dict[str, float]:
    if "visibilities" not in faces or "visibility" not in faces:
        return {}
    known = np.isfinite(faces["visibility"])
    shown, predicted = faces["visibility"][known] > 0, faces["visibilities"][known]
    return {"visibility_auc": roc_auc(predicted, shown)} if 0 < shown.sum() < len(shown) else {}


def _confidences(faces: Faces, normalizers: np.ndarray) -> dict[str, float]:
    distances = faces["landmarks"] - faces["labels"]
    errors = np.linalg.norm(distances, axis=-1) / normalizers[:, None]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice")  # a landmark that no face has
        return {
            "confidence_ratio": confidence_ratio(errors, faces["scores"]),
            "likelihood_gain": likelihood_gain(np.abs(distances).sum(axis=-1), faces["scales"]),
        }
