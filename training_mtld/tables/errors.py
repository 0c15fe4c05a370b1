"""The numbers of the tables: errors of the same faces after several trainings, intervals, and common settings."""

import csv
import json
from collections.abc import Sequence

import numpy as np

from dataset_scripts import BENCHMARKS

from ..evaluation.scores import INTERVAL, RESAMPLES
from .runs import Result, recorded_options


def read_errors(result: Result, score: str, normalizer: str) -> tuple[list[tuple[str, str]], np.ndarray]:
    """Split and name of each face of `score`, and their NME (N,), fractions, in the order of faces.csv.

    Raises:
        ValueError: naming the file, if it lacks the faces or their errors.
    """
    subset = BENCHMARKS[result.run.dataset].subsets.get(score)
    splits = [score] if subset is None else subset.splits.split("+")
    error_column, subset_column = f"nme_{normalizer}", score if subset and subset.column else None
    with result.faces_file.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = ["split", "number", error_column, *([subset_column] if subset_column else [])]
    if not rows or not set(columns) <= rows[0].keys():
        raise ValueError(f"{result.faces_file} must have faces and the columns {', '.join(columns)}, but lacks some")
    rows = [row for row in rows if row["split"] in splits and (subset_column is None or row[subset_column] == "True")]
    values = np.array([float(row[error_column] or "nan") / 100 for row in rows])
    if not len(values) or not np.isfinite(values).all():
        raise ValueError(f"{result.faces_file} must have the {normalizer} error of each face of {score}, but has not")
    return [(row["split"], row.get("image_id", row["number"])) for row in rows], values


def stack_errors(results: Sequence[Result], score: str, normalizer: str) -> np.ndarray:
    """Errors (seeds, N) of the same faces. Raises ValueError if the faces are not the same."""
    names_and_errors = [read_errors(result, score, normalizer) for result in results]
    for result, (names, _) in zip(results, names_and_errors):
        if names != names_and_errors[0][0]:
            raise ValueError(
                f"{result.faces_file} must be of the same faces as {results[0].faces_file}, but is of others"
            )
    return np.stack([errors for _, errors in names_and_errors])


def estimate(values: np.ndarray, seeds: Sequence[int]) -> dict:
    """Mean of `values` (seeds, N), its 95 % interval, and the mean of each seed. The interval is a bootstrap over the
    N faces, of each face's mean over the seeds."""
    face_means = values.mean(axis=0)
    indices = np.random.default_rng(0).integers(len(face_means), size=(RESAMPLES, len(face_means)))
    low, high = np.percentile(face_means[indices].mean(axis=1), INTERVAL)
    by_seed = {str(seed): float(mean) for seed, mean in zip(seeds, values.mean(axis=1))}
    return {"value": float(face_means.mean()), "low": float(low), "high": float(high), "seeds": by_seed}


def mean_layers(results: Sequence[Result], score: str) -> dict[str, float]:
    """NME of each decoder layer, mean over the seeds; empty if the evaluations lack it (see `scores.score_faces`)."""
    layers = [result.scores["scores"][score].get("layers", {}) for result in results]
    return {name: float(np.mean([by_layer[name] for by_layer in layers])) for name in layers[0]}


def common_facts(results: Sequence[Result], scores: Sequence[str], normalizer: str) -> dict:
    """The settings that all trainings share, from their records, with lists of their seeds and commits.

    Raises:
        ValueError: if a setting differs.
    """
    facts = [_facts(result, scores) for result in results]
    for result, other in zip(results, facts):
        for name, value in facts[0].items():
            if other[name] != value:
                raise ValueError(
                    f"{result.folder} must have been trained and scored as {results[0].folder}, but got {name} "
                    f"{other[name]} and not {value}"
                )
    return {
        **facts[0],
        "normalizer": normalizer,
        "seeds": sorted({result.seed for result in results}),
        "backbone_weights": {result.run.backbone: _weights(result) for result in results},
        "commits": sorted({str(result.stage.commit) for result in results}),
        "versions": dict(results[0].stage.versions),
    }


def _weights(result: Result) -> str:
    """The weights from which the backbone was trained."""
    options = recorded_options(result.stage.command)
    return "random" if options.random_backbone else options.backbone_checkpoint or "timm"


def _facts(result: Result, scores: Sequence[str]) -> dict:
    stage, evaluation = result.stage, result.scores
    (data,) = stage.datasets
    options = recorded_options(stage.command)
    config = json.loads((result.folder / "config.json").read_text(encoding="utf-8"))
    return {
        "dataset": data.title,
        "epochs": stage.epochs,
        "image_size": config["image_size"],
        "batch_size": options.batch_size * options.gradient_accumulation_steps * int(stage.setting.split()[0]),
        "train_split": data.split,
        "train_faces": data.faces,
        "official_train_faces": data.official_faces,
        "train_fingerprint": data.fingerprint,
        "trained_on": stage.setting,
        "scored_on": evaluation["setting"],
        "faces": {score: evaluation["scores"][score]["faces"] for score in scores},
        "fingerprints": {name: split and split["fingerprint"] for name, split in evaluation["data"].items()},
    }
