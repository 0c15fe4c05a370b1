"""Scoring a network on whole splits, on any number of processes: its predictions, their scores, and the report."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers.utils import cached_file

from modeling_mtld.flip_mtld import predict_with_flip
from modeling_mtld.model_card_mtld import WEIGHTS

from .box_noise import box_noise
from .data import Crops, loader_options, names_to_score
from .facts import data_fingerprint, file_fingerprint, git_commit, library_versions, setting
from .pictures import save_picture, worst_faces
from .plots import plot_box_noise, plot_ced
from .report import write_report
from .scores import RESAMPLES, errors_of, face_rows, faces_of, score_faces

ROOT = Path(__file__).resolve().parents[1]
KEYS = ("landmarks", "initial_landmarks", "intermediate_landmarks", "scales", "scores")  # of the network's output
WORST = 16  # faces drawn


@torch.no_grad()
def predict(accelerator: Accelerator, model, loader: DataLoader, name: str, flip: bool = False) -> dict:
    """What the network finds in every face, once, in the order of the data set; float64 in fractions of the crop.

    Args:
        loader: prepared by `accelerator`, of crops without augmentation.
        name: shown with the progress.
        flip: average with the predictions for the mirror image.

    Returns:
        `landmarks` and `labels` (N, K, 2), `boxes` (N, 4), `intermediate_landmarks` (N, layers, K, 2) after each
        decoder layer, with a transformer `initial_landmarks` (N, K, 2), with a scale head `scales` and `scores`
        (N, K), and `subsets` (N, S) bool where the benchmark has subsets.
    """
    flip_pairs = accelerator.unwrap_model(model, keep_torch_compile=False).config.flip_pairs
    batches = []
    model.eval()
    for batch in tqdm(loader, desc=f"score {name}", leave=False, disable=not accelerator.is_main_process):
        pixels = batch.pop("pixel_values")
        with accelerator.autocast():
            outputs = predict_with_flip(model, pixels, flip_pairs) if flip else model(pixel_values=pixels)
        found = {key: outputs[key].float() for key in KEYS if key in outputs}
        batches.append(accelerator.gather_for_metrics({**found, **batch}))
    faces = {key: torch.cat([batch[key] for batch in batches]).cpu().numpy() for key in batches[0]}
    return {key: values.astype(bool if key == "subsets" else np.float64) for key, values in faces.items()}


def share_buffers(accelerator: Accelerator, model):
    """Gives all processes the first one's statistics of batch norm, which is what is saved: each has its own, of the
    faces that it saw last."""
    if accelerator.num_processes > 1:
        for buffer in model.buffers():
            broadcast(buffer)


def predict_all(accelerator: Accelerator, model, loaders: Mapping[str, DataLoader], args) -> dict[str, dict]:
    return {name: predict(accelerator, model, loader, name, args.flip) for name, loader in loaders.items()}


def evaluate(faces: Mapping[str, dict], args) -> dict[str, dict]:
    """The scores of every requested split and named subset; see `score_faces`.

    Args:
        faces: of each loaded split, as `predict` returns them.
    """
    return score_faces(faces, args.benchmark, names_to_score(args, faces), main_normalizer(args))


def main_normalizer(args) -> str:
    return args.normalizer or args.benchmark.default_normalizer


def card_results(scores: Mapping[str, Mapping], args) -> dict[str, dict[str, float]]:
    """What of `evaluate` the model card tells: the main normaliser's NME, failure rate and AUC, and confidences."""
    limit, results = f"{100 * args.benchmark.failure_threshold:g}%", {}
    for name, scored in scores.items():
        main = scored["normalizers"][main_normalizer(args)]
        results[name] = {
            "nme": main["nme"]["value"],
            "nme_low": main["nme"]["low"],
            "nme_high": main["nme"]["high"],
            "failure_rate": main[f"failure_rate@{limit}"]["value"],
            "auc": main[f"auc@{limit}"]["value"],
            "faces": scored["faces"],
        }
        results[name] |= {key: scored[key] for key in ("confidence_ratio", "likelihood_gain") if key in scored}
    return results


def build_report(accelerator: Accelerator, args, scores: Mapping[str, Mapping], parts, checkpoint: str) -> dict:
    """`scores` with all that tells where they come from; the content of scores.json.

    Args:
        parts: the crops of each loaded split.
        checkpoint: the directory or Hub id that was scored.
    """
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
        "data": {name: None if args.streaming else _data_of(crops) for name, crops in parts.items()},
        "scores": scores,
    }


def _data_of(crops: Crops) -> dict:
    return {"faces": len(crops), "fingerprint": data_fingerprint(crops.faces)}


def write_evaluation(directory: Path, report: dict, faces: Mapping[str, dict], parts: Mapping[str, Crops], args):
    """Writes scores.json, scores.csv, faces.csv, the CED plot and, where photos can be had again, the worst faces."""
    kind, benchmark = main_normalizer(args), args.benchmark
    ids = None if args.streaming else {name: crops.faces["image_id"][:] for name, crops in parts.items()}
    write_report(directory, report, face_rows(faces, benchmark, ids))
    chosen = {name: faces_of(faces, benchmark, name) for name in report["scores"]}
    curves = {name: errors_of(some, benchmark, kind) for name, some in chosen.items()}
    title = f"{report['checkpoint']} on {benchmark.title}"
    plot_ced(curves, benchmark.failure_threshold, kind, title, directory / "ced.png")
    if "box_noise" in report:
        plot_box_noise(report["box_noise"], directory / "box_noise.png")
    for name, crops in parts.items() if not args.streaming else ():
        picture = worst_faces(crops, faces[name], errors_of(faces[name], benchmark, kind), WORST)
        save_picture(picture, directory / f"worst_{_file_name(name)}.png")


def _file_name(split: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in split)


def measure_box_noise(accelerator: Accelerator, model, parts: Mapping[str, Crops], processor, args) -> dict:
    """NME of the first loaded split with boxes as a detector may give them; see `box_noise`."""
    name, crops = next(iter(parts.items()))

    def predict_crops(dataset) -> dict:
        loader = accelerator.prepare(DataLoader(dataset, **loader_options(args)))
        return predict(accelerator, model, loader, f"{name} with box noise", args.flip)

    noise = box_noise(predict_crops, crops.faces, processor, args.benchmark, main_normalizer(args), seed=args.seed)
    return {**noise, "split": name}
