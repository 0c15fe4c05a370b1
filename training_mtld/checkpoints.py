"""Checkpoints of an unfinished training: written whole or not at all, and read back."""

import dataclasses
import json
import logging
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path

from accelerate import Accelerator

logger = logging.getLogger("train")
OPTIONS = "options.json"
# Options that may differ when a training goes on: where things are, and what is written about it.
FREE = {
    *("data_dir", "output_dir", "model_name_or_path", "backbone_checkpoint", "validation_list", "num_workers"),
    *("resume_from_checkpoint", "save_steps", "save_total_limit", "compile", "channels_last"),
    *("eval_every", "eval_splits", "normalizer", "picture_every", "report_to", "push_to_hub", "private"),
    *("benchmark", "command", "eval_only", "flip", "box_noise"),
}


@dataclasses.dataclass
class Progress:
    """How far a training is: whole epochs, and updates of the next one with the sums of their losses so far."""

    epoch: int = 0
    update: int = 0
    totals: dict[str, float] = dataclasses.field(default_factory=dict)

    def state_dict(self) -> dict:
        return dataclasses.asdict(self)

    def load_state_dict(self, state: dict):
        self.epoch, self.update, self.totals = state["epoch"], state["update"], dict(state["totals"])

    def add(self, losses: Mapping[str, float]):
        """Counts an update with these losses."""
        self.update += 1
        self.totals = {name: self.totals.get(name, 0) + value for name, value in losses.items()}

    @property
    def means(self) -> dict[str, float]:
        return {name: total / self.update for name, total in self.totals.items()}

    def next_epoch(self):
        self.epoch, self.update, self.totals = self.epoch + 1, 0, {}

    @property
    def name(self) -> str:
        """Of its checkpoint; names sort in the order of training."""
        return f"epoch_{self.epoch:04d}" + (f"_update_{self.update:06d}" if self.update else "")


class Stopped(Exception):
    """A training that a signal ended, after its checkpoint was written. `signal` is its number."""

    def __init__(self, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name}; --resume_from_checkpoint latest goes on with it")
        self.signal = number


class StopSignal:
    """Inside `with`, notes SIGTERM and Ctrl-C in `number`, so that the training can end after the update at hand; a
    second one ends it at once."""

    number: int | None = None

    def __enter__(self):
        self._former = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def _note(self, number, frame):
        self.number = number
        self.__exit__()

    def __exit__(self, *_):
        for number, handler in self._former.items():
            signal.signal(number, handler)


def save_checkpoint(accelerator: Accelerator, folder: Path, progress: Progress, args):
    """Everything that --resume_from_checkpoint needs, under a temporary name first; the last ones are kept.

    Raises:
        ValueError: if it cannot be written. The checkpoints before it stay.
    """
    temporary, final = folder / f"tmp_{progress.name}", folder / progress.name
    try:
        accelerator.save_state(temporary, safe_serialization=True)
        if accelerator.is_main_process:
            (temporary / OPTIONS).write_text(json.dumps(fixed_options(accelerator, args), indent=2), encoding="utf-8")
    except Exception as error:  # OSError, and what torch and safetensors make of it
        free = shutil.disk_usage(folder.parent).free / 1e6  # torch's error of a full disk does not tell of it
        shutil.rmtree(temporary, ignore_errors=True)
        raise ValueError(
            f"--output_dir must take a checkpoint, but {temporary} was not written, with {free:.0f} MB free there: "
            f"{error}"
        ) from error
    accelerator.wait_for_everyone()  # each process has written its own random state
    if accelerator.is_main_process:
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        _remove_older(folder, args.save_total_limit)
    accelerator.wait_for_everyone()


def _remove_older(folder: Path, kept: int):
    for other in [*sorted(folder.glob("epoch_*"))[:-kept], *folder.glob("tmp_*")]:  # tmp_*: killed while saving
        shutil.rmtree(other)


def fixed_options(accelerator: Accelerator, args) -> dict:
    """The options that a training cannot change on its way, as JSON has them."""
    options = {name: value for name, value in vars(args).items() if name not in FREE}
    settings = {"processes": accelerator.num_processes, "precision": accelerator.mixed_precision}
    return json.loads(json.dumps(options | settings))


def resume(accelerator: Accelerator, args, folder: Path, progress: Progress):
    """Loads the checkpoint that --resume_from_checkpoint asks for into what is prepared, `progress` included.

    Raises:
        ValueError: naming the option, if there is no such checkpoint, or it is of another training.
    """
    if args.resume_from_checkpoint is None:
        return
    found = find_checkpoint(args.resume_from_checkpoint, folder)
    if found is None:
        logger.warning("no checkpoint in %s yet: starting from the beginning", folder)
        return
    _check_options(accelerator, args, found)
    try:
        accelerator.load_state(found)
    except Exception as error:  # safetensors, pickle and torch each raise their own
        raise ValueError(
            f"--resume_from_checkpoint must be whole and of a training with the same options, but got {found}: "
            f"{str(error).strip().splitlines()[0]}"
        ) from error


def find_checkpoint(wanted: str, folder: Path) -> Path | None:
    """The last one in `folder` for "latest" (None where there is none), otherwise that at `wanted`."""
    if wanted == "latest":
        return max(folder.glob("epoch_*"), default=None)
    if not (Path(wanted) / OPTIONS).is_file():
        raise ValueError(f"--resume_from_checkpoint must be a checkpoint's folder or 'latest', but got {wanted}")
    return Path(wanted)


def _check_options(accelerator: Accelerator, args, checkpoint: Path):
    try:
        former = json.loads((checkpoint / OPTIONS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"--resume_from_checkpoint must be whole, but got {checkpoint}: {error}") from error
    for name, value in fixed_options(accelerator, args).items():
        if former.get(name) != value:
            raise ValueError(
                f"--{name} must be {former.get(name)} as in the training of {checkpoint}, but got {value}"
            )
