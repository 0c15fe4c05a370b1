"""Publishing of a trained model: rounding, saving as a directory for the Hub with its card, and upload."""

import os
import shutil
from pathlib import Path

import torch
from accelerate import Accelerator
from huggingface_hub import create_repo

from modeling_mtld.auto_mtld import first_line
from modeling_mtld.hub_mtld import push_checkpoint
from modeling_mtld.model_card_mtld import Stage, TrainingSet, write_model_card

from .data import Crops, Mixture
from .evaluation.scoring import ROOT, main_normalizer
from .facts import data_fingerprint, git_commit, library_versions, setting


@torch.no_grad()
def round_weights(model):
    """Rounds the weights as saving does, so that the last scores are those of the saved model."""
    for weights in [*model.parameters(), *model.buffers()]:
        weights.copy_(_rounded(weights))


def _rounded(weights: torch.Tensor) -> torch.Tensor:
    """The weights in half precision; unchanged if they are not floating-point or exceed its range."""
    if not weights.is_floating_point():
        return weights
    half = weights.half()
    return half if torch.equal(half.isfinite(), weights.isfinite()) else weights


def describe_training(accelerator: Accelerator, args, mixture: Mixture) -> Stage:
    """The model card's record of this training on `mixture`, without results."""
    members = zip(args.datasets, mixture.members, strict=True)
    return Stage(
        command=args.command,
        datasets=[_describe_set(set_args, member.crops) for set_args, member in members],
        epochs=args.epochs,
        seed=args.seed,
        setting=setting(accelerator),
        versions=library_versions(),
        commit=git_commit(ROOT),
    )


def _describe_set(set_args, crops: Crops) -> TrainingSet:
    benchmark = set_args.benchmark
    return TrainingSet(
        dataset=benchmark.name,
        title=benchmark.title,
        homepage=benchmark.homepage,
        licence=benchmark.licence,
        split=set_args.train_split,
        faces=None if set_args.streaming else len(crops),
        official_faces=benchmark.splits.get(set_args.train_split),
        fingerprint=None if set_args.streaming else data_fingerprint(crops.faces),
        normalizer=main_normalizer(set_args),
        threshold=benchmark.failure_threshold,
    )


def save_model(accelerator: Accelerator, model, processor, args, stages: list[Stage]):
    """Saves the trained model as a directory for the Hub, in half precision; it loads as float32.

    Raises:
        ValueError: if it cannot be written; the checkpoints of the training stay.
    """
    if not accelerator.is_main_process:
        return
    directory = Path(args.output_dir)
    half = {name: _rounded(weights) for name, weights in model.state_dict().items()}
    unfinished = directory / "unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        model.save_pretrained(unfinished, state_dict=half)
        processor.save_pretrained(unfinished)
        write_model_card(unfinished, model.config, stages)
        for file in sorted(unfinished.iterdir(), key=lambda file: file.name == "config.json"):
            os.replace(file, directory / file.name)  # config.json last: without it, nothing loads the rest
    except Exception as error:  # OSError, and the errors that safetensors raises in its place
        raise ValueError(f"--output_dir must take the model, but {directory} was not written: {error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def check_repository(args):
    """Creates the repository of --push_to_hub. Raises ValueError before a training if it cannot be written to."""
    if args.push_to_hub:
        try:
            create_repo(args.push_to_hub, private=args.private or None, exist_ok=True)
        except Exception as error:  # of the Hub, its client and the network
            raise _push_error(args, error) from error


def push(args):
    """Uploads the saved model. Raises ValueError if the Hub refuses it; the saved model stays."""
    if args.push_to_hub:
        try:
            push_checkpoint(args.output_dir, repo_id=args.push_to_hub, private=args.private or None)
        except Exception as error:
            raise _push_error(args, error) from error


def _push_error(args, error: Exception) -> ValueError:
    return ValueError(
        f"--push_to_hub must be a repository that can be written to, but got {args.push_to_hub}: {first_line(error)}"
    )
