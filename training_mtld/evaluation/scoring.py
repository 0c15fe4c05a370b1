"""Evaluation of a network on whole splits, with any number of processes: predictions, scores and the report."""

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers.utils import cached_file

from dataset_scripts.benchmark_facts import Benchmark
from modeling_mtld.configuration_mtld import find_topology
from modeling_mtld.flip_mtld import predict_with_flip
from modeling_mtld.model_card_mtld import WEIGHTS

from ..data import Crops, loader_options, names_to_score
from ..facts import data_fingerprint, file_fingerprint, git_commit, library_versions, setting
from ..topologies import names_of_set
from .box_noise import box_noise
from .pictures import save_picture, worst_faces
from .plots import plot_box_noise, plot_ced
from .report import write_report
from .scores import CONFIDENCES, RESAMPLES, errors_of, face_rows, predictions_of, score_faces

ROOT = Path(__file__).resolve().parents[2]
# Fields of the network's output.
OUTPUT_KEYS = ("landmarks", "initial_landmarks", "intermediate_landmarks", "scales", "scores", "visibilities")
NUM_WORST_FACES = 16  # drawn in a picture


@torch.no_grad()
def predict(
    accelerator: Accelerator, model, loader: DataLoader, name: str, benchmark: Benchmark, flip: bool = False
) -> dict:
    """The predictions for every face, once, in the order of the data set; float64, in fractions of the crop.

    Args:
        loader: prepared by `accelerator`, of crops without augmentation.
        name: label of the progress bar.
        benchmark: its topology and, if the network has learned them, its offsets are used.
        flip: average with the predictions for the mirror image.

    Returns:
        `landmarks` and `labels` (N, K, 2), `boxes` (N, 4), `intermediate_landmarks` (N, layers, K, 2) after each
        decoder layer, with a transformer `initial_landmarks` (N, K, 2), with a scale head `scales` and `scores`
        (N, K), with a visibility head `visibilities` (N, K), and where the benchmark has them `visibility` (N, K) and
        `subsets` (N, S) bool.
    """
    config = accelerator.unwrap_model(model, keep_torch_compile=False).config
    names = names_of_set(config, benchmark)
    flip_pairs = find_topology(config, names.get("topology")).flip_pairs
    batches = []
    model.eval()
    for batch in tqdm(loader, desc=f"score {name}", leave=False, disable=not accelerator.is_main_process):
        pixels = batch.pop("pixel_values")
        with accelerator.autocast():
            if flip:
                outputs = predict_with_flip(model, pixels, flip_pairs, **names)
            else:
                outputs = model(pixel_values=pixels, **names)
        predictions = {key: outputs[key].float() for key in OUTPUT_KEYS if key in outputs}
        batches.append(accelerator.gather_for_metrics({**predictions, **batch}))
    arrays = {key: torch.cat([batch[key] for batch in batches]).cpu().numpy() for key in batches[0]}
    return {key: values.astype(bool if key == "subsets" else np.float64) for key, values in arrays.items()}


def share_buffers(accelerator: Accelerator, model):
    """Copies the first process's batch norm statistics, which are the ones saved, to all processes. Each process has
    its own statistics, of the faces it trained on."""
    if accelerator.num_processes > 1:
        for buffer in model.buffers():
            broadcast(buffer)


@dataclass
class EvaluationSet:
    """A data set to evaluate on.

    Attributes:
        args: its options, of `args.datasets`.
        splits: the crops of each loaded split.
        loaders: of `splits`, prepared by accelerate.
    """

    args: Namespace
    splits: Mapping[str, Crops]
    loaders: Mapping[str, DataLoader]

    def predict(self, accelerator: Accelerator, model) -> dict[str, dict]:
        """The result of the function `predict` for each split."""
        args = self.args
        return {
            name: predict(accelerator, model, loader, name, args.benchmark, args.flip)
            for name, loader in self.loaders.items()
        }

    def evaluate(self, predictions: Mapping[str, dict]) -> dict[str, dict]:
        """The scores of every requested split and subset, from the result of `predict`; see `score_faces`."""
        args = self.args
        return score_faces(predictions, args.benchmark, names_to_score(args, predictions), main_normalizer(args))

    def folder(self, directory: Path) -> Path:
        """The folder of its scores: `directory`, or with several sets a folder of the set's name in it."""
        return directory if self.args.is_alone else directory / self.args.benchmark.name


def main_normalizer(args) -> str:
    return args.normalizer or args.benchmark.default_normalizer


def card_results(scores: Mapping[str, Mapping], args) -> dict[str, dict[str, float]]:
    """The scores of `EvaluationSet.evaluate` for the model card: the main normaliser's NME, failure rate and AUC, and
    `CONFIDENCES`."""
    limit, results = f"{100 * args.benchmark.failure_threshold:g}%", {}
    for name, split_scores in scores.items():
        main = split_scores["normalizers"][main_normalizer(args)]
        results[name] = {
            "nme": main["nme"]["value"],
            "nme_low": main["nme"]["low"],
            "nme_high": main["nme"]["high"],
            "failure_rate": main[f"failure_rate@{limit}"]["value"],
            "auc": main[f"auc@{limit}"]["value"],
            "faces": split_scores["faces"],
        }
        results[name] |= {key: split_scores[key] for key in CONFIDENCES if key in split_scores}
    return results


def build_report(
    accelerator: Accelerator, eval_set: EvaluationSet, scores: Mapping[str, Mapping], checkpoint: str
) -> dict:
    """The content of scores.json: `scores` with the checkpoint, command, versions and data that they come from.

    Args:
        checkpoint: the directory or Hub id that was scored.
    """
    args = eval_set.args
    weights = cached_file(checkpoint, WEIGHTS, _raise_exceptions_for_missing_entries=False)
    return {
        "checkpoint": Path(checkpoint).resolve().name if Path(checkpoint).is_dir() else checkpoint,
        "weights": file_fingerprint(Path(weights)) if weights else None,
        "command": args.command,
        "commit": git_commit(ROOT),
        "versions": library_versions(),
        "setting": setting(accelerator),
        "dataset": args.benchmark.name,
        "title": args.benchmark.title,
        "normalizer": main_normalizer(args),
        "threshold": args.benchmark.failure_threshold,
        "flip": args.flip,
        "resamples": RESAMPLES,
        "data": {name: None if args.streaming else _data_of(crops) for name, crops in eval_set.splits.items()},
        "scores": scores,
    }


def _data_of(crops: Crops) -> dict:
    return {"faces": len(crops), "fingerprint": data_fingerprint(crops.faces)}


def write_evaluation(directory: Path, report: dict, predictions: Mapping[str, dict], eval_set: EvaluationSet):
    """Writes scores.json, scores.csv, faces.csv, the CED plot and, unless the set is streamed, the worst faces."""
    args, splits = eval_set.args, eval_set.splits
    kind, benchmark = main_normalizer(args), args.benchmark
    ids = None if args.streaming else {name: crops.faces["image_id"][:] for name, crops in splits.items()}
    write_report(directory, report, face_rows(predictions, benchmark, ids))
    by_name = {name: predictions_of(predictions, benchmark, name) for name in report["scores"]}
    curves = {name: errors_of(values, benchmark, kind) for name, values in by_name.items()}
    title = f"{report['checkpoint']} on {benchmark.title}"
    plot_ced(curves, benchmark.failure_threshold, kind, title, directory / "ced.png")
    if "box_noise" in report:
        plot_box_noise(report["box_noise"], directory / "box_noise.png")
    for name, crops in splits.items() if not args.streaming else ():
        errors = errors_of(predictions[name], benchmark, kind)
        picture = worst_faces(crops, predictions[name], errors, NUM_WORST_FACES)
        save_picture(picture, directory / f"worst_{_file_name(name)}.png")


def _file_name(split: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in split)


def measure_box_noise(accelerator: Accelerator, model, eval_set: EvaluationSet, processor) -> dict:
    """NME of a set's first loaded split with shifted and scaled boxes; see `box_noise`."""
    args, (name, crops) = eval_set.args, next(iter(eval_set.splits.items()))

    def predict_crops(noisy_crops) -> dict:
        loader = accelerator.prepare(DataLoader(noisy_crops, **loader_options(args)))
        return predict(accelerator, model, loader, f"{name} with box noise", args.benchmark, args.flip)

    noise = box_noise(predict_crops, crops.faces, processor, args.benchmark, main_normalizer(args), seed=args.seed)
    return {**noise, "split": name}
