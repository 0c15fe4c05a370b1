"""Progress of a training: effective batch, progress bar, trackers and pictures."""

import math
import shutil
import sys
from collections.abc import Iterable, Mapping

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from modeling_mtld.auto_mtld import first_line

from .evaluation.pictures import compare_fixed_faces
from .evaluation.scores import CONFIDENCES
from .evaluation.scoring import EvaluationSet, main_normalizer

BAR_COLUMNS = 100
BAR = "{desc} {bar} {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


def start(accelerator: Accelerator, args, batch: int, updates: int | None):
    """Starts the trackers of --report_to, and prints the effective batch and the number of updates."""
    try:
        accelerator.init_trackers("logs", config=_flat(args))
    except Exception as error:  # for example, of a tracker without a login
        reason = first_line(error)
        raise ValueError(f"--report_to must be trackers that start, but got {args.report_to}: {reason}") from error
    if not accelerator.is_main_process:
        return
    steps = accelerator.gradient_accumulation_steps
    count = "updates an epoch not known for a stream" if updates is None else f"{updates} updates an epoch"
    total = "" if updates is None else f", {updates * args.epochs} in all"
    tqdm.write(
        f"effective batch {batch} ({args.batch_size} faces x {accelerator.num_processes} processes x {steps} steps), "
        f"{count}{total}"
    )


def _flat(args) -> dict[str, str | int | float | bool]:
    """The options as types that all trackers accept."""
    types = (str, int, float, bool)
    return {name: value if isinstance(value, types) else str(value) for name, value in vars(args).items()}


def facts_of_step(device: torch.device, optimizer, images_per_second: float) -> dict[str, float]:
    """Learning rate of the head, speed, and peak memory in GB: of the GPU, or of this process without one."""
    facts = {"learning_rate": optimizer.param_groups[0]["lr"], "images_per_second": images_per_second}
    return facts | {"memory_gb": _peak_memory(device)}


def _peak_memory(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    try:
        import resource
    except ImportError:  # on Windows
        return math.nan
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def tell_resumed(progress):
    """Prints where a training goes on, by the `Progress` of its checkpoint."""
    tqdm.write(f"going on from checkpoint {progress.name}: epoch {progress.epoch + 1}, update {progress.update + 1}")


def progress_bar(updates: Iterable, **options) -> tqdm:
    """A bar of one line, at most `BAR_COLUMNS` wide. `options`: those of tqdm."""
    columns = min(BAR_COLUMNS, shutil.get_terminal_size((BAR_COLUMNS, 24)).columns)
    return tqdm(updates, ncols=columns, bar_format=BAR, **options)


def progress_fields(means: Mapping[str, float], facts: Mapping[str, float]) -> dict[str, str]:
    """Loss, learning rate, speed and memory as the progress bar shows them; the trackers have the loss's terms too."""
    return {
        "loss": f"{means['loss']:.4f}",
        "lr": f"{facts['learning_rate']:.0e}",
        "img/s": f"{facts['images_per_second']:.0f}",
        "GB": f"{facts['memory_gb']:.1f}",
    }


def log_scores(accelerator: Accelerator, scores: Mapping[str, Mapping], args, epoch: int):
    """Prints one line a split, in percent with the normaliser, and logs the scores as fractions."""
    kind, values = main_normalizer(args), {}
    for split, split_scores in scores.items():
        main = split_scores["normalizers"][kind]
        values |= {f"{split}/{name}": main[name]["value"] for name in main if "value" in main[name]}
        values |= {f"{split}/{name}": split_scores[name] for name in CONFIDENCES if name in split_scores}
        values |= {f"{split}/offset_{axis}": value for axis, value in split_scores["offset"].items()}
        values |= {f"{split}/nme_layer_{layer}": value for layer, value in split_scores.get("layers", {}).items()}
        if accelerator.is_main_process:
            tqdm.write(f"epoch {epoch}: {_line(split, split_scores, args)}")
    if not args.is_alone:
        values = {f"{args.benchmark.name}/{name}": value for name, value in values.items()}
    accelerator.log(values, step=epoch)


def _line(split: str, scores: Mapping, args) -> str:
    kind, limit = main_normalizer(args), f"{100 * args.benchmark.failure_threshold:g}%"
    main = scores["normalizers"][kind]
    values = {name: main[key]["value"] for name, key in {"NME": "nme", "FR": f"failure_rate@{limit}"}.items()}
    layers = ", ".join(f"{name} {value:.3%}" for name, value in scores.get("layers", {}).items())
    offset = scores["offset"]
    return (
        f"{args.benchmark.title} {split} ({scores['faces']} faces, {kind}): NME {values['NME']:.3%}  "
        f"FR@{limit} {values['FR']:.2%}  AUC@{limit} {main[f'auc@{limit}']['value']:.2%}  layers: {layers}  "
        f"offset: x {offset['x']:+.2%}, y {offset['y']:+.2%}"
    )


def log_picture(accelerator: Accelerator, model, eval_set: EvaluationSet, epoch: int):
    """Logs predictions and annotations on the same few faces of a set, for trackers that accept images."""
    args = eval_set.args
    if args.streaming or not accelerator.is_main_process:
        return
    name, crops = next(iter(eval_set.splits.items()))
    picture = compare_fixed_faces(model, crops)
    name = name if args.is_alone else f"{args.benchmark.name}/{name}"
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":
            tracker.log_images({f"{name}/faces": picture[None]}, step=epoch, dataformats="NHWC")
        elif hasattr(tracker, "log_images"):
            tracker.log_images({f"{name}/faces": picture[None]}, step=epoch)
