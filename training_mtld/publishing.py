"""The finished model: rounded, saved as a directory for the Hub with its card, and pushed there."""

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
    """Rounds the weights as they are saved, so that the last scores are of the saved model."""
    for weights in [*model.parameters(), *model.buffers()]:
        weights.copy_(_rounded(weights))


def _rounded(weights: torch.Tensor) -> torch.Tensor:
    """In half precision; as they are where they are no floating-point numbers, or beyond its range."""
    if not weights.is_floating_point():
        return weights
    half = weights.half()
    return half if torch.equal(half.isfinite(), weights.isfinite()) else weights


def describe_training(accelerator: Accelerator, args, mixture: Mixture) -> Stage:
    """What the model card tells of this training on `mixture`, but for its results."""
    members = zip(args.datasets, mixture.members, strict=True)
    return Stage(
        command=args.command,
        datasets=[_describe_set(part, member.crops) for part, member in members],
        epochs=args.epochs,
        seed=args.seed,
        setting=setting(accelerator),
        versions=library_versions(),
        commit=git_commit(ROOT),
    )


def _describe_set(part, crops: Crops) -> TrainingSet:
    benchmark = part.benchmark
    return TrainingSet(
        dataset=benchmark.name,
        title=benchmark.title,
        homepage=benchmark.homepage,
        licence=benchmark.licence,
        split=part.train_split,
        faces=None if part.streaming else len(crops),
        official_faces=benchmark.splits.get(part.train_split),
        fingerprint=None if part.streaming else data_fingerprint(crops.faces),
        normalizer=main_normalizer(part),
        threshold=benchmark.failure_threshold,
    )


def save_model(accelerator: Accelerator, model, processor, args, stages: list[Stage]):
    """The trained model as a directory for the Hub, in half precision, which loads as float32.

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
    except Exception as error:  # OSError, and what safetensors makes of it
        raise ValueError(f"--output_dir must take the model, but {directory} was not written: {error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def check_repository(args):
    """Creates the repository of --push_to_hub, or finds out before a training that it cannot be written to."""
    if args.push_to_hub:
        try:
            create_repo(args.push_to_hub, private=args.private or None, exist_ok=True)
        except Exception as error:  # of the Hub, its client and the network
            raise _refused(args, error) from error


def push(args):
    """Uploads what `save_model` wrote. Raises ValueError if the Hub does not take it; the model stays in place."""
    if args.push_to_hub:
        try:
            push_checkpoint(args.output_dir, repo_id=args.push_to_hub, private=args.private or None)
        except Exception as error:
            raise _refused(args, error) from error


def _refused(args, error: Exception) -> ValueError:
    return ValueError(
        f"--push_to_hub must be a repository that can be written to, but got {args.push_to_hub}: {first_line(error)}"
    )
