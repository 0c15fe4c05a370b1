"""What a training tells while it runs: its plan, the progress bar, trackers and pictures."""

import math
import sys
from collections.abc import Mapping

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from modeling_mtld.auto_mtld import first_line

from .evaluation.pictures import compare_fixed_faces
from .evaluation.scores import CONFIDENCES
from .evaluation.scoring import Scored, main_normalizer


def start(accelerator: Accelerator, args, batch: int, updates: int | None):
    """Says how large the training is, and starts the trackers of --report_to."""
    try:
        accelerator.init_trackers("logs", config=_flat(args))
    except Exception as error:  # of a tracker that is not logged in, say
        reason = first_line(error)
        raise ValueError(f"--report_to must be trackers that start, but got {args.report_to}: {reason}") from error
    if not accelerator.is_main_process:
        return
    steps = accelerator.gradient_accumulation_steps
    count = "as many updates an epoch as the stream has" if updates is None else f"{updates} updates an epoch"
    total = "" if updates is None else f", {updates * args.epochs} in all"
    tqdm.write(
        f"effective batch {batch} ({args.batch_size} faces x {accelerator.num_processes} processes x {steps} steps), "
        f"{count}{total}"
    )


def _flat(args) -> dict[str, str | int | float | bool]:
    """The options as trackers take them."""
    plain = (str, int, float, bool)
    return {name: value if isinstance(value, plain) else str(value) for name, value in vars(args).items()}


def facts_of_step(device: torch.device, optimizer, images_per_second: float) -> dict[str, float]:
    """Learning rate of the head, speed, and the most memory so far in GB: of the GPU, or of this process."""
    facts = {"learning_rate": optimizer.param_groups[0]["lr"], "images_per_second": images_per_second}
    return facts | {"memory_gb": _most_memory(device)}


def _most_memory(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    try:
        import resource
    except ImportError:  # on Windows
        return math.nan
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def shown(means: Mapping[str, float], facts: Mapping[str, float]) -> dict[str, str]:
    """For the progress bar."""
    losses = {name: f"{mean:.4f}" for name, mean in means.items()}
    return losses | {
        "lr": f"{facts['learning_rate']:.0e}",
        "img/s": f"{facts['images_per_second']:.0f}",
        "GB": f"{facts['memory_gb']:.1f}",
    }


def log_scores(accelerator: Accelerator, scores: Mapping[str, Mapping], args, epoch: int):
    """Prints one line a split, in percent with the normaliser, and logs the scores as fractions."""
    kind, named = main_normalizer(args), {}
    for split, scored in scores.items():
        main = scored["normalizers"][kind]
        named |= {f"{split}/{name}": main[name]["value"] for name in main if "value" in main[name]}
        named |= {f"{split}/{name}": scored[name] for name in CONFIDENCES if name in scored}
        named |= {f"{split}/offset_{axis}": value for axis, value in scored["offset"].items()}
        named |= {f"{split}/nme_layer_{layer}": value for layer, value in scored.get("layers", {}).items()}
        if accelerator.is_main_process:
            tqdm.write(f"epoch {epoch}: {_line(split, scored, args)}")
    if not args.is_alone:
        named = {f"{args.benchmark.name}/{name}": value for name, value in named.items()}
    accelerator.log(named, step=epoch)


def _line(split: str, scored: Mapping, args) -> str:
    kind, limit = main_normalizer(args), f"{100 * args.benchmark.failure_threshold:g}%"
    main = scored["normalizers"][kind]
    values = {name: main[key]["value"] for name, key in {"NME": "nme", "FR": f"failure_rate@{limit}"}.items()}
    layers = ", ".join(f"{name} {value:.3%}" for name, value in scored.get("layers", {}).items())
    offset = scored["offset"]
    return (
        f"{args.benchmark.title} {split} ({scored['faces']} faces, {kind}): NME {values['NME']:.3%}  "
        f"FR@{limit} {values['FR']:.2%}  AUC@{limit} {main[f'auc@{limit}']['value']:.2%}  layers: {layers}  "
        f"offset: x {offset['x']:+.2%}, y {offset['y']:+.2%}"
    )


def log_picture(accelerator: Accelerator, model, one: Scored, epoch: int):
    """Predictions beside annotations on a few faces of a set, always the same, for trackers that take images."""
    if one.args.streaming or not accelerator.is_main_process:
        return
    name, crops = next(iter(one.parts.items()))
    picture = compare_fixed_faces(model, crops)
    name = name if one.args.is_alone else f"{one.args.benchmark.name}/{name}"
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":
            tracker.log_images({f"{name}/faces": picture[None]}, step=epoch, dataformats="NHWC")
        elif hasattr(tracker, "log_images"):
            tracker.log_images({f"{name}/faces": picture[None]}, step=epoch)
