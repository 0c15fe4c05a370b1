"""The trainings behind the tables: each is done once, resumed where it stopped, and scored."""

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

from ..evaluation.report import read_report
from ..facts import file_fingerprint, shown_command
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
NAME = ("accelerate", "launch", "train_accelerate.py")
FACES = "faces.csv"
TERMINATION_SECONDS = 60.0  # seconds that an interrupted training has for its last checkpoint
SET_BY_TABLES = (  # options of train_accelerate.py that the tables set themselves
    *("dataset", "data_dir", "backbone", "validation_list", "eval_splits", "seed", "output_dir"),
    *("resume_from_checkpoint", "eval_only", "model_name_or_path", "flip", "box_noise", "push_to_hub"),
)
FIELDS_SET_BY_TABLES = ("use_multiscale_transformer", "use_heatmap_loss", "use_structure_loss", "num_neighbors")
WITHOUT_EFFECT = (  # on the trained weights; what is scored is looked up in the scores
    *("data_dir", "output_dir", "resume_from_checkpoint", "eval_splits", "eval_every", "num_workers"),
    *("save_steps", "save_epochs", "save_minutes", "save_total_limit", "report_to", "picture_every"),
    *("push_to_hub", "private", "normalizer"),
)
OF_SCORING = ("batch_size", "num_workers", "mixed_precision", "normalizer")


@dataclass(frozen=True)
class Run:
    """A training that tables need, for each seed.

    Attributes:
        name: its folder is OUT/runs/NAME-seedSEED.
        dataset: in `BENCHMARKS`.
        backbone: timm name.
        config: fields of `MTLDConfig` as NAME=VALUE.
        held_out: whether the photos of --validation_list are left out and scored instead of the test faces.
    """

    name: str
    dataset: str = "300w"
    backbone: str = "resnet18"
    config: tuple[str, ...] = ()
    held_out: bool = False


@dataclass(frozen=True)
class Budget:
    """What all trainings of a call share.

    Attributes:
        data_dirs: folder of each data set.
        output_dir: runs/ and the tables go here.
        validation_list: photos of 300W's training split to score instead of its test faces.
        backbone_weights: file of timm's weights for a backbone, by its name; the others' come from the Hub.
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
    """A finished training: its folder, what it recorded and what its evaluation wrote."""

    run: Run
    seed: int
    folder: Path
    stage: Stage
    scores: dict

    @property
    def faces_file(self) -> Path:
        return self.folder / "evaluation" / FACES


class TrainingFailed(RuntimeError):
    """In one line: which training, and where its log is."""


def scored_splits(run: Run, budget: Budget) -> list[str]:
    """The splits to score: "validation", or those for testing that the data set has.

    Raises:
        ValueError: if there are none.
    """
    if run.held_out:
        return ["validation"]
    benchmark, data_dir = BENCHMARKS[run.dataset], budget.data_dirs[run.dataset]
    full = benchmark.subsets.get("full")
    wanted = full.splits.split("+") if full else [benchmark.test_split]
    found = split_names(open_faces(benchmark, data_dir))
    names = [name for name in wanted if name in found]
    if not names:
        raise ValueError(f"{data_dir} must have {' or '.join(wanted)}, but got {', '.join(found)}")
    return names


def training_arguments(run: Run, seed: int, budget: Budget) -> list[str]:
    """The options of train_accelerate.py for one training."""
    weights = (budget.backbone_weights or {}).get(run.backbone)
    scored = scored_splits(run, budget)
    return [
        *("--dataset", run.dataset, "--data_dir", budget.data_dirs[run.dataset]),
        *(["--validation_list", budget.validation_list] if run.held_out else ["--eval_splits", *scored]),
        *([] if run.backbone == "resnet18" else ["--backbone", run.backbone]),
        *([] if weights is None else ["--backbone_checkpoint", weights]),
        *("--eval_every", "0"),
        *budget.options,
        *("--seed", str(seed), "--output_dir", str(budget.folder(run, seed)), "--resume_from_checkpoint", "latest"),
        *(["--config", *run.config] if run.config else []),
    ]


def scoring_arguments(run: Run, seed: int, budget: Budget) -> list[str]:
    """The options of train_accelerate.py that score a finished training as it would have done itself."""
    folder = budget.folder(run, seed)
    given = parser_of_training().parse_args(training_arguments(run, seed, budget))
    kept = [(name, getattr(given, name)) for name in OF_SCORING]
    return [
        *("--eval_only", "--model_name_or_path", str(folder), "--output_dir", str(folder / "evaluation")),
        *("--dataset", run.dataset, "--data_dir", budget.data_dirs[run.dataset]),
        *(["--validation_list", budget.validation_list] if run.held_out else []),
        *([] if run.held_out else ["--eval_splits", *scored_splits(run, budget)]),
        *(word for name, value in kept if value is not None for word in (f"--{name}", str(value))),
    ]


def parser_of_training() -> Parser:
    """That of train_accelerate.py: it knows names and kinds of the options, and does not look at files."""
    parser = Parser(allow_abbrev=False)
    for add in (add_data, add_model, add_training, add_optimization, add_checkpoints, add_evaluation, add_tracking):
        add(parser)
    return parser


def check_options(options: Sequence[str]):
    """Raises ValueError for options of train_accelerate.py that are wrong or that the tables set themselves."""
    given = parser_of_training().parse_args(list(options))
    defaults = parser_of_training().parse_args([])
    for name in SET_BY_TABLES:
        if getattr(given, name) != getattr(defaults, name):
            raise ValueError(f"the options after -- must leave --{name} to the tables, but got {shlex.join(options)}")
    for name, value in given.config:
        if name in FIELDS_SET_BY_TABLES:
            raise ValueError(f"the options after -- must leave {name} to the tables, but got {name}={value}")


def differences(recorded: str, asked: str) -> list[str]:
    """What two commands of train_accelerate.py, as `shown_command` writes them, set differently and trains otherwise:
    "--epochs 12 there, 150 asked for"."""
    old, new = (_effective(command) for command in (recorded, asked))
    return [f"--{name} {old[name]} there, {new[name]} asked for" for name in new if old[name] != new[name]]


def recorded_options(command: str) -> argparse.Namespace:
    """The options of train_accelerate.py in a command as `shown_command` writes it; those of older code that there are
    no more, such as --channels_last, are left out."""
    words = shlex.split(command)
    return parser_of_training().parse_known_args(words[words.index(NAME[-1]) + 1 :])[0]


def _effective(command: str) -> dict[str, object]:
    values = vars(recorded_options(command))
    values["config"] = dict(values["config"])
    values["augmentation"] = dict(values["augmentation"])
    values["backbone"] = values["backbone"] or "resnet18"
    # Files are told without their place.
    values["backbone_checkpoint"] = values["backbone_checkpoint"] and Path(values["backbone_checkpoint"]).name
    values["validation_list"] = " ".join(Path(file).name for file in values["validation_list"] or ()) or None
    return {name: value for name, value in values.items() if name not in WITHOUT_EFFECT}


def check_recorded(run: Run, seed: int, budget: Budget):
    """Raises ValueError if the run's folder holds a training, finished or begun, with other options than asked for."""
    folder, asked = budget.folder(run, seed), shown_command([*NAME, *training_arguments(run, seed, budget)])
    recorded = None
    if is_trained(folder):
        recorded = read_stages(str(folder))[-1].command
    elif _note(folder).is_file():
        recorded = _note(folder).read_text(encoding="utf-8").strip()
    found = [] if recorded is None else differences(recorded, asked)
    if found:
        raise ValueError(
            f"{folder} must be a training with the same options, but got {'; '.join(found)}; another --output_dir "
            "keeps both"
        )


def is_trained(folder: Path) -> bool:
    return all((folder / name).is_file() for name in (RECORD, WEIGHTS, "config.json"))


def is_scored(folder: Path, splits: Sequence[str]) -> bool:
    """Whether the evaluation there is of the weights there, and of these splits."""
    if not (folder / "evaluation" / FACES).is_file():
        return False
    try:
        report = read_report(folder / "evaluation")
    except ValueError:
        return False
    return report.get("weights") == file_fingerprint(folder / WEIGHTS) and set(splits) <= set(report["scores"])


def finish(run: Run, seed: int, budget: Budget, watch: Callable[[str], None]) -> Result:
    """Trains and scores, whichever is still to do. `watch` is told several times a second what goes on.

    Raises:
        ValueError: if what is there was trained otherwise.
        TrainingFailed: naming the log.
    """
    folder = budget.folder(run, seed)
    log = folder.with_name(f"{folder.name}.log")
    check_recorded(run, seed, budget)
    if not is_trained(folder):
        arguments = training_arguments(run, seed, budget)
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_whole(_note(folder), f"{shown_command([*NAME, *arguments])}\n".encode())
        launch(arguments, log, watch)
    if not is_scored(folder, scored_splits(run, budget)):
        launch(scoring_arguments(run, seed, budget), log, watch)
    return read_result(run, seed, budget)


def is_done(run: Run, seed: int, budget: Budget) -> bool:
    """Raises ValueError if what is there was trained otherwise."""
    check_recorded(run, seed, budget)
    folder = budget.folder(run, seed)
    return is_trained(folder) and is_scored(folder, scored_splits(run, budget))


def read_result(run: Run, seed: int, budget: Budget) -> Result:
    folder = budget.folder(run, seed)
    if not (is_trained(folder) and is_scored(folder, scored_splits(run, budget))):
        raise TrainingFailed(f"{folder} must hold a training and its evaluation after both, but they are not there")
    return Result(run, seed, folder, read_stages(str(folder))[-1], read_report(folder / "evaluation"))


def _note(folder: Path) -> Path:
    """Holds the command of a training that was begun: only a finished one has a record of its own."""
    return folder.with_name(f"{folder.name}.command")


def launch(arguments: Sequence[str], log: Path, watch: Callable[[str], None]):
    """Runs train_accelerate.py, its output added to `log`. When interrupted, it ends the training first.

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
        raise TrainingFailed(f"{log.stem} failed, {log} tells why: {last_line(log)}")


def _end(process: subprocess.Popen):
    """Ends the launcher and what it launched, which saves a checkpoint on SIGTERM."""
    deadline = time.monotonic() + TERMINATION_SECONDS
    try:
        os.killpg(process.pid, signal.SIGTERM)
        while time.monotonic() < deadline:
            process.poll()  # so that the launcher itself does not stay in the group
            os.killpg(process.pid, 0)
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # all have gone
        pass


def _tail(log: Path) -> str:
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - 4000))
        return stream.read().decode(errors="replace")


def _epoch(log: Path) -> str:
    """How far a training is, from its progress bar."""
    found = re.findall(r"epoch (\d+/\d+)", _tail(log))
    return f"epoch {found[-1]}" if found else ""


def last_line(log: Path) -> str:
    lines = [line.strip() for line in re.split(r"[\r\n]", _tail(log)) if line.strip()]
    return lines[-1] if lines else "it is empty"


def named_paths(text: str, what: str) -> tuple[str, str]:
    """NAME=PATH of an option as name and path."""
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"must be {what}, but got {text!r}")
    return name, path
