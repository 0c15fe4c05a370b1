"""The numbers of the tables: errors of the same faces under several trainings, with intervals, and what was shared."""

import csv
import json
from collections.abc import Sequence

import numpy as np

from dataset_scripts import BENCHMARKS

from ..evaluation.scores import INTERVAL, RESAMPLES
from .runs import Result, recorded_options


def read_errors(result: Result, score: str, normalizer: str) -> tuple[list[tuple[str, str]], np.ndarray]:
    """The faces that `score` stands for, split and name of each, and their NME (N,), fractions, in the file's order.

    Raises:
        ValueError: naming the file, if it does not tell them.
    """
    subset = BENCHMARKS[result.run.dataset].subsets.get(score)
    splits = [score] if subset is None else subset.splits.split("+")
    error, member = f"nme_{normalizer}", score if subset and subset.column else None
    with result.faces_file.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    wanted = ["split", "number", error, *([member] if member else [])]
    if not rows or not set(wanted) <= rows[0].keys():
        raise ValueError(f"{result.faces_file} must have faces and the columns {', '.join(wanted)}, but lacks some")
    chosen = [row for row in rows if row["split"] in splits and (member is None or row[member] == "True")]
    values = np.array([float(row[error] or "nan") / 100 for row in chosen])
    if not len(values) or not np.isfinite(values).all():
        raise ValueError(f"{result.faces_file} must tell the {normalizer} error of each face of {score}, but does not")
    return [(row["split"], row.get("image_id", row["number"])) for row in chosen], values


def stack_errors(results: Sequence[Result], score: str, normalizer: str) -> np.ndarray:
    """Errors (seeds, N) of the same faces. Raises ValueError if the faces are not the same."""
    stacked = [read_errors(result, score, normalizer) for result in results]
    for result, (names, _) in zip(results, stacked):
        if names != stacked[0][0]:
            raise ValueError(
                f"{result.faces_file} must be of the same faces as {results[0].faces_file}, but is of others"
            )
    return np.stack([errors for _, errors in stacked])


def estimate(values: np.ndarray, seeds: Sequence[int]) -> dict:
    """Mean of `values` (seeds, N), its 95 % interval by bootstrap over the N faces of the means over seeds, and the
    mean of each seed."""
    faces = values.mean(axis=0)
    drawn = np.random.default_rng(0).integers(len(faces), size=(RESAMPLES, len(faces)))
    low, high = np.percentile(faces[drawn].mean(axis=1), INTERVAL)
    by_seed = {str(seed): float(mean) for seed, mean in zip(seeds, values.mean(axis=1))}
    return {"value": float(faces.mean()), "low": float(low), "high": float(high), "seeds": by_seed}


def mean_layers(results: Sequence[Result], score: str) -> dict[str, float]:
    """NME of each decoder layer, mean over the seeds, as far as the evaluations tell it (see `scores.score_faces`)."""
    layers = [result.scores["scores"][score].get("layers", {}) for result in results]
    return {name: float(np.mean([found[name] for found in layers])) for name in layers[0]}


def common_facts(results: Sequence[Result], scores: Sequence[str], normalizer: str) -> dict:
    """What all of the trainings share, as they recorded it. Seeds may differ, and commits are listed.

    Raises:
        ValueError: if they do not share it.
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
    """What the backbone started from."""
    given = recorded_options(result.stage.command)
    return "random" if given.random_backbone else given.backbone_checkpoint or "timm"


def _facts(result: Result, scores: Sequence[str]) -> dict:
    stage, evaluation = result.stage, result.scores
    (data,) = stage.datasets
    given = recorded_options(stage.command)
    config = json.loads((result.folder / "config.json").read_text(encoding="utf-8"))
    return {
        "dataset": data.title,
        "epochs": stage.epochs,
        "image_size": config["image_size"],
        "batch_size": given.batch_size * given.gradient_accumulation_steps * int(stage.setting.split()[0]),
        "train_split": data.split,
        "train_faces": data.faces,
        "official_train_faces": data.official_faces,
        "train_fingerprint": data.fingerprint,
        "trained_on": stage.setting,
        "scored_on": evaluation["setting"],
        "faces": {score: evaluation["scores"][score]["faces"] for score in scores},
        "fingerprints": {name: split and split["fingerprint"] for name, split in evaluation["data"].items()},
    }
