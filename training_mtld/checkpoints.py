"""Checkpoints of an unfinished training: written completely or not at all, and loaded."""

import dataclasses
import json
import logging
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import gather_object

from modeling_mtld.auto_mtld import first_line
from modeling_mtld.model_card_mtld import RECORD, Stage, read_stages

logger = logging.getLogger("train")
OPTIONS = "options.json"
# Options that may differ in a resumed training, as they do not affect its weights.
MAY_DIFFER = {
    *("data_dir", "output_dir", "model_name_or_path", "backbone_checkpoint", "validation_list", "num_workers"),
    *("resume_from_checkpoint", "save_steps", "save_epochs", "save_minutes", "save_total_limit"),
    "compile",
    *("eval_every", "eval_splits", "normalizer", "picture_every", "report_to", "push_to_hub", "private"),
    *("datasets", "command", "eval_only", "flip", "box_noise"),
}


@dataclasses.dataclass
class Progress:
    """Progress of a training: the finished epochs, and the updates of the next one with the sums of their losses."""

    epoch: int = 0
    update: int = 0
    totals: dict[str, float] = dataclasses.field(default_factory=dict)

    def state_dict(self) -> dict:
        return dataclasses.asdict(self)

    def load_state_dict(self, state: dict):
        self.epoch, self.update, self.totals = state["epoch"], state["update"], dict(state["totals"])

    def add(self, losses: Mapping[str, float]):
        """Adds an update with these losses."""
        self.update += 1
        self.totals = {name: self.totals.get(name, 0) + value for name, value in losses.items()}

    @property
    def means(self) -> dict[str, float]:
        return {name: total / self.update for name, total in self.totals.items()}

    def next_epoch(self):
        self.epoch, self.update, self.totals = self.epoch + 1, 0, {}

    @property
    def name(self) -> str:
        """The checkpoint's name; names sort in the order of training."""
        return f"epoch_{self.epoch:04d}" + (f"_update_{self.update:06d}" if self.update else "")


class TrainingStopped(Exception):
    """Raised when a signal ended the training, after its checkpoint was written. `signal` is the signal's number."""

    def __init__(self, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name}; --resume_from_checkpoint latest goes on with it")
        self.signal = number


def stop_signals() -> list[signal.Signals]:
    """The signals that end a training: SIGTERM, Ctrl-C, and SIGHUP of a terminal that was closed, unless it is ignored
    already, as by `nohup`."""
    hangup = getattr(signal, "SIGHUP", None)  # not on Windows
    ignored = hangup is None or signal.getsignal(hangup) == signal.SIG_IGN
    return [signal.SIGTERM, signal.SIGINT, *([] if ignored else [hangup])]


class StopSignal:
    """Inside `with`, stores the number of the first of `stop_signals`, so that the training can end after the current
    update. A second signal ends it at once."""

    number: int | None = None

    def __enter__(self):
        self._former = {number: signal.signal(number, self._note) for number in stop_signals()}
        return self

    def _note(self, number, frame):
        self.number = number
        self.__exit__()

    def __exit__(self, *_):
        for number, handler in self._former.items():
            signal.signal(number, handler)


class CheckpointTimer:
    """Whether to save a checkpoint at the end of an epoch: by --save_minutes, by --save_epochs, after the last."""

    def __init__(self, args):
        self.args, self.last = args, time.monotonic()

    def __call__(self, accelerator: Accelerator, epoch: int) -> bool:
        """Returns the same on every process. epoch: the number of finished epochs."""
        args = self.args
        if time.monotonic() - self.last >= 60 * args.save_minutes:
            accelerator.set_trigger()
        is_late = accelerator.check_trigger()
        must_save = is_late or epoch == args.epochs or (args.save_epochs > 0 and epoch % args.save_epochs == 0)
        if must_save:
            self.last = time.monotonic()
        return must_save


def save_checkpoint(accelerator: Accelerator, folder: Path, progress: Progress, args, stage: Stage):
    """Saves all that --resume_from_checkpoint needs, under a temporary name first, and removes old checkpoints.

    `stage` is saved with it as training.json: command, commit, versions and fingerprint of the data.

    Raises:
        ValueError: if it cannot be written. Earlier checkpoints stay.
    """
    temporary, final = folder / f"tmp_{progress.name}", folder / progress.name
    try:
        accelerator.save_state(temporary, safe_serialization=True)
        if accelerator.is_main_process:
            (temporary / OPTIONS).write_text(json.dumps(fixed_options(accelerator, args), indent=2), encoding="utf-8")
            (temporary / RECORD).write_text(json.dumps([dataclasses.asdict(stage)], indent=2), encoding="utf-8")
    except Exception as error:  # OSError, and the errors that torch and safetensors raise in its place
        free = _free_space(folder.parent)
        shutil.rmtree(temporary, ignore_errors=True)
        raise ValueError(
            f"--output_dir must take a checkpoint, but {temporary} was not written{free}: {error}"
        ) from error
    accelerator.wait_for_everyone()  # each process has written its own random state
    if accelerator.is_main_process:
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        _remove_older(folder, args.save_total_limit)
    accelerator.wait_for_everyone()


def _free_space(folder: Path) -> str:
    """For the message: torch's error on a full disk does not mention it."""
    try:
        return f", with {shutil.disk_usage(folder).free / 1e6:.0f} MB free there"
    except OSError:
        return ""


def _remove_older(folder: Path, limit: int):
    for other in [*sorted(folder.glob("epoch_*"))[:-limit], *folder.glob("tmp_*")]:  # tmp_*: killed while saving
        shutil.rmtree(other)


def fixed_options(accelerator: Accelerator, args) -> dict:
    """The options that a resumed training cannot change, as JSON values."""
    options = {name: value for name, value in vars(args).items() if name not in MAY_DIFFER}
    settings = {"processes": accelerator.num_processes, "precision": accelerator.mixed_precision}
    settings["dataset"] = [set_args.benchmark.name for set_args in args.datasets]  # not the paths of YAML files
    if args.streaming:  # the order of a stream depends on its workers
        settings["num_workers"] = args.num_workers
    return json.loads(json.dumps(options | settings))


def resume(accelerator: Accelerator, args, folder: Path, stage: Stage) -> Stage:
    """Loads the checkpoint of --resume_from_checkpoint into the prepared objects, `Progress` included.

    Returns:
        `stage`, the record of this training, with the earlier commit, setting and versions where they differ.

    Raises:
        ValueError: naming the option, if there is no such checkpoint, or it is of another training or other data.
    """
    if args.resume_from_checkpoint is None:
        return stage
    checkpoint = find_checkpoint(args.resume_from_checkpoint, folder)
    if len(set(gather_object([checkpoint and checkpoint.name]))) > 1:
        raise ValueError(f"--output_dir must be a folder that all machines share, but {folder} differs among them")
    if checkpoint is None:
        logger.warning("no checkpoint in %s yet: starting from the beginning", folder)
        return stage
    former = _check_options(accelerator, args, checkpoint, stage)
    try:
        accelerator.load_state(checkpoint)
    except Exception as error:  # safetensors, pickle and torch each raise their own
        raise ValueError(
            f"--resume_from_checkpoint must be whole and of a training with the same options, but got {checkpoint}: "
            f"{first_line(error)}"
        ) from error
    return _continued(former, stage)


def find_checkpoint(path: str, folder: Path) -> Path | None:
    """For "latest" the last checkpoint in `folder`, None if there is none; otherwise the checkpoint at `path`.

    Raises:
        ValueError: if there is no checkpoint at `path`, or a later one in `folder`.
    """
    if path == "latest":
        return max(folder.glob("epoch_*"), default=None)
    if not (Path(path) / OPTIONS).is_file():
        raise ValueError(f"--resume_from_checkpoint must be a checkpoint's folder or 'latest', but got {path}")
    last = max(folder.glob("epoch_*"), default=None)
    if last and last.name > Path(path).resolve().name:  # it would count as newer than the checkpoints to come
        raise ValueError(f"--output_dir must hold no later checkpoint than {path}, but got {last}; take another")
    return Path(path)


def _check_options(accelerator: Accelerator, args, checkpoint: Path, stage: Stage) -> Stage:
    """The record of a checkpoint. Raises ValueError if its training had other options or other data."""
    try:
        former = json.loads((checkpoint / OPTIONS).read_text(encoding="utf-8"))
        record = read_stages(str(checkpoint))[-1]
    except (OSError, ValueError, IndexError) as error:
        raise ValueError(f"--resume_from_checkpoint must be whole, but got {checkpoint}: {error}") from error
    options = fixed_options(accelerator, args)
    for name in options:
        if former.get(name) != options[name]:
            raise ValueError(
                f"--resume_from_checkpoint must be of a training with the same options, but {checkpoint} has "
                f"{name}={former.get(name)}, and this one {name}={options[name]}"
            )
    if [one.fingerprint for one in record.datasets] != [one.fingerprint for one in stage.datasets]:
        raise ValueError(f"--data_dir must hold the faces that {checkpoint} was trained on, but they are others")
    return record


def _continued(former: Stage, stage: Stage) -> Stage:
    """`stage`, with both commits, settings and versions where `former` has others."""

    def both(old, new):
        return new if old in (None, new) else f"{old}, then {new}"

    versions = {name: both(former.versions.get(name), version) for name, version in stage.versions.items()}
    return dataclasses.replace(
        stage, commit=both(former.commit, stage.commit), setting=both(former.setting, stage.setting), versions=versions
    )
