"""The trainings of the tables: each is run once, resumed after an interruption, and scored."""

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dataset_scripts import BENCHMARKS
from dataset_scripts.loading import open_faces, split_names
from modeling_mtld.auto_mtld import write_whole
from modeling_mtld.model_card_mtld import RECORD, WEIGHTS, Stage, read_stages

from ..command_line import command_line
from ..evaluation.report import read_report
from ..facts import file_fingerprint
from ..options import (
    Parser,
    add_checkpoints,
    add_data,
    add_evaluation,
    add_model,
    add_optimization,
    add_tracking,
    add_training,
)

SCRIPT = Path(__file__).resolve().parents[2] / "train_accelerate.py"
COMMAND = ("accelerate", "launch", "train_accelerate.py")
FACES = "faces.csv"
TERMINATION_SECONDS = 60.0  # that an interrupted training has to save its last checkpoint
SET_BY_TABLES = (  # options of train_accelerate.py that the tables set themselves
    *("dataset", "data_dir", "backbone", "validation_list", "eval_splits", "seed", "output_dir"),
    *("resume_from_checkpoint", "eval_only", "model_name_or_path", "flip", "box_noise", "push_to_hub"),
)
FIELDS_SET_BY_TABLES = ("use_multiscale_transformer", "use_heatmap_loss", "use_structure_loss", "num_neighbors")
WITHOUT_EFFECT = (  # options that do not change the trained weights; scores are checked by `is_scored`
    *("data_dir", "output_dir", "resume_from_checkpoint", "eval_splits", "eval_every", "num_workers"),
    *("save_steps", "save_epochs", "save_minutes", "save_total_limit", "report_to", "picture_every"),
    *("push_to_hub", "private", "normalizer"),
)
SCORING_OPTIONS = ("batch_size", "num_workers", "mixed_precision", "normalizer")


@dataclass(frozen=True)
class Run:
    """A training of the tables, to be run with each seed.

    Attributes:
        name: its folder is OUT/runs/NAME-seedSEED.
        dataset: in `BENCHMARKS`.
        backbone: timm name.
        config: fields of `MTLDConfig` as NAME=VALUE.
        held_out: whether the photos of --validation_list are left out of training and scored instead of test faces.
    """

    name: str
    dataset: str = "300w"
    backbone: str = "resnet18"
    config: tuple[str, ...] = ()
    held_out: bool = False


@dataclass(frozen=True)
class Budget:
    """The settings of all trainings of a call.

    Attributes:
        data_dirs: folder of each data set.
        output_dir: folder of runs/ and the tables.
        validation_list: photos of 300W's training split to score instead of its test faces.
        backbone_weights: files of timm weights by backbone; others come from the Hub.
        options: of train_accelerate.py, as typed.
    """

    data_dirs: dict[str, str]
    output_dir: Path
    seeds: tuple[int, ...] = (0,)
    validation_list: str | None = None
    backbone_weights: dict[str, str] | None = None
    options: tuple[str, ...] = ()

    def folder(self, run: Run, seed: int) -> Path:
        return self.output_dir / "runs" / f"{run.name}-seed{seed}"


@dataclass(frozen=True)
class Result:
    """A finished training: its folder, its record, and the scores of its evaluation."""

    run: Run
    seed: int
    folder: Path
    stage: Stage
    scores: dict

    @property
    def faces_file(self) -> Path:
        return self.folder / "evaluation" / FACES


class TrainingFailed(RuntimeError):
    """Names the training and its log in one line."""


def scored_splits(run: Run, budget: Budget) -> list[str]:
    """The splits to score: "validation", or the test splits that the data has.

    Raises:
        ValueError: if the data has no test split.
    """
    if run.held_out:
        return ["validation"]
    benchmark, data_dir = BENCHMARKS[run.dataset], budget.data_dirs[run.dataset]
    full = benchmark.subsets.get("full")
    test_splits = full.splits.split("+") if full else [benchmark.test_split]
    splits = split_names(open_faces(benchmark, data_dir))
    names = [name for name in test_splits if name in splits]
    if not names:
        raise ValueError(f"{data_dir} must have {' or '.join(test_splits)}, but got {', '.join(splits)}")
    return names


def training_arguments(run: Run, seed: int, budget: Budget) -> list[str]:
    """The options of train_accelerate.py for one training."""
    weights = (budget.backbone_weights or {}).get(run.backbone)
    splits = scored_splits(run, budget)
    return [
        *("--dataset", run.dataset, "--data_dir", budget.data_dirs[run.dataset]),
        *(["--validation_list", budget.validation_list] if run.held_out else ["--eval_splits", *splits]),
        *([] if run.backbone == "resnet18" else ["--backbone", run.backbone]),
        *([] if weights is None else ["--backbone_checkpoint", weights]),
        *("--eval_every", "0"),
        *budget.options,
        *("--seed", str(seed), "--output_dir", str(budget.folder(run, seed)), "--resume_from_checkpoint", "latest"),
        *(["--config", *run.config] if run.config else []),
    ]


def scoring_arguments(run: Run, seed: int, budget: Budget) -> list[str]:
    """The options of train_accelerate.py that score a finished training as the training itself does at its end."""
    folder = budget.folder(run, seed)
    args = parser_of_training().parse_args(training_arguments(run, seed, budget))
    options = [(name, getattr(args, name)) for name in SCORING_OPTIONS]
    return [
        *("--eval_only", "--model_name_or_path", str(folder), "--output_dir", str(folder / "evaluation")),
        *("--dataset", run.dataset, "--data_dir", budget.data_dirs[run.dataset]),
        *(["--validation_list", budget.validation_list] if run.held_out else []),
        *([] if run.held_out else ["--eval_splits", *scored_splits(run, budget)]),
        *(word for name, value in options if value is not None for word in (f"--{name}", str(value))),
    ]


def parser_of_training() -> Parser:
    """The parser of train_accelerate.py's options. It checks their names and types, but no files."""
    parser = Parser(allow_abbrev=False)
    for add in (add_data, add_model, add_training, add_optimization, add_checkpoints, add_evaluation, add_tracking):
        add(parser)
    return parser


def check_options(options: Sequence[str]):
    """Raises ValueError for options of train_accelerate.py that are wrong or that the tables set themselves."""
    args = parser_of_training().parse_args(list(options))
    defaults = parser_of_training().parse_args([])
    for name in SET_BY_TABLES:
        if getattr(args, name) != getattr(defaults, name):
            raise ValueError(f"the options after -- must leave --{name} to the tables, but got {shlex.join(options)}")
    for name, value in args.config:
        if name in FIELDS_SET_BY_TABLES:
            raise ValueError(f"the options after -- must leave {name} to the tables, but got {name}={value}")


def differences(old_command: str, new_command: str) -> list[str]:
    """The options that differ between two commands of train_accelerate.py, written by `command_line`, and change the
    trained weights: "--epochs 12 there, 150 asked for"."""
    old, new = (_effective_options(command) for command in (old_command, new_command))
    return [f"--{name} {old[name]} there, {new[name]} asked for" for name in new if old[name] != new[name]]


def recorded_options(command: str) -> argparse.Namespace:
    """The options of train_accelerate.py in a command written by `command_line`. Options of older code that no longer
    exist, such as --channels_last, are left out."""
    words = shlex.split(command)
    return parser_of_training().parse_known_args(words[words.index(COMMAND[-1]) + 1 :])[0]


def _effective_options(command: str) -> dict[str, object]:
    values = vars(recorded_options(command))
    values["config"] = dict(values["config"])
    values["augmentation"] = dict(values["augmentation"])
    values["backbone"] = values["backbone"] or "resnet18"
    # Commands are recorded with file names, not paths.
    values["backbone_checkpoint"] = values["backbone_checkpoint"] and Path(values["backbone_checkpoint"]).name
    values["validation_list"] = " ".join(Path(file).name for file in values["validation_list"] or ()) or None
    return {name: value for name, value in values.items() if name not in WITHOUT_EFFECT}


def check_recorded(run: Run, seed: int, budget: Budget):
    """Raises ValueError if the run's folder holds a finished or unfinished training with other options."""
    folder, command = budget.folder(run, seed), command_line([*COMMAND, *training_arguments(run, seed, budget)])
    recorded = None
    if is_trained(folder):
        recorded = read_stages(str(folder))[-1].command
    elif _command_file(folder).is_file():
        recorded = _command_file(folder).read_text(encoding="utf-8").strip()
    changes = [] if recorded is None else differences(recorded, command)
    if changes:
        raise ValueError(
            f"{folder} must be a training with the same options, but got {'; '.join(changes)}; with another "
            "--output_dir both are kept"
        )


def is_trained(folder: Path) -> bool:
    return all((folder / name).is_file() for name in (RECORD, WEIGHTS, "config.json"))


def is_scored(folder: Path, splits: Sequence[str]) -> bool:
    """Whether the folder's evaluation is of its present weights, and has all of `splits`."""
    if not (folder / "evaluation" / FACES).is_file():
        return False
    try:
        report = read_report(folder / "evaluation")
    except ValueError:
        return False
    return report.get("weights") == file_fingerprint(folder / WEIGHTS) and set(splits) <= set(report["scores"])


def finish(run: Run, seed: int, budget: Budget, watch: Callable[[str], None]) -> Result:
    """Trains and scores, as far as not yet done. `watch` is called with the progress several times a second.

    Raises:
        ValueError: if the folder holds a training with other options.
        TrainingFailed: naming the log.
    """
    folder = budget.folder(run, seed)
    log = folder.with_name(f"{folder.name}.log")
    check_recorded(run, seed, budget)
    if not is_trained(folder):
        arguments = training_arguments(run, seed, budget)
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_whole(_command_file(folder), f"{command_line([*COMMAND, *arguments])}\n".encode())
        launch(arguments, log, watch)
    if not is_scored(folder, scored_splits(run, budget)):
        launch(scoring_arguments(run, seed, budget), log, watch)
    return read_result(run, seed, budget)


def is_done(run: Run, seed: int, budget: Budget) -> bool:
    """Whether the run is trained and scored. Raises ValueError if its folder holds a training with other options."""
    check_recorded(run, seed, budget)
    folder = budget.folder(run, seed)
    return is_trained(folder) and is_scored(folder, scored_splits(run, budget))


def read_result(run: Run, seed: int, budget: Budget) -> Result:
    folder = budget.folder(run, seed)
    if not (is_trained(folder) and is_scored(folder, scored_splits(run, budget))):
        raise TrainingFailed(f"{folder} must hold a training and its evaluation, but they were not written")
    return Result(run, seed, folder, read_stages(str(folder))[-1], read_report(folder / "evaluation"))


def _command_file(folder: Path) -> Path:
    """The file with the command of an unfinished training, which has no record yet."""
    return folder.with_name(f"{folder.name}.command")


def launch(arguments: Sequence[str], log: Path, watch: Callable[[str], None]):
    """Runs train_accelerate.py and appends its output to `log`. An interruption ends the training as well.

    Raises:
        TrainingFailed: naming the log, with its last line.
    """
    command = [sys.executable, "-m", "accelerate.commands.launch", "--quiet", str(SCRIPT), *arguments]
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        while process.poll() is None:
            watch(_epoch(log))
            time.sleep(0.3)
    except BaseException:
        _end(process)
        raise
    if process.returncode:
        raise TrainingFailed(f"{log.stem} failed, see {log}: {last_line(log)}")


def _end(process: subprocess.Popen):
    """Ends the launcher and its processes, which save a checkpoint on SIGTERM."""
    deadline = time.monotonic() + TERMINATION_SECONDS
    try:
        os.killpg(process.pid, signal.SIGTERM)
        while time.monotonic() < deadline:
            process.poll()  # reaps the launcher, which otherwise stays in the group
            os.killpg(process.pid, 0)
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # all processes have ended
        pass


def _tail(log: Path) -> str:
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - 4000))
        return stream.read().decode(errors="replace")


def _epoch(log: Path) -> str:
    """The current epoch, from the training's progress bar."""
    epochs = re.findall(r"epoch (\d+/\d+)", _tail(log))
    return f"epoch {epochs[-1]}" if epochs else ""


def last_line(log: Path) -> str:
    lines = [line.strip() for line in re.split(r"[\r\n]", _tail(log)) if line.strip()]
    return lines[-1] if lines else "it is empty"


def split_name_and_path(text: str, what: str) -> tuple[str, str]:
    """Name and path of an option's value NAME=PATH."""
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"must be {what}, but got {text!r}")
    return name, path
