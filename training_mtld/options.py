"""The options of `train_accelerate.py`."""

import argparse
import dataclasses
import math
import sys
from pathlib import Path

import yaml
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType

from dataset_scripts import BENCHMARKS, default_data_dir, find_benchmark
from dataset_scripts.augmentation import Augmentation
from modeling_mtld.configuration_mtld import MTLDConfig

from .facts import shown_command
from .optimization import SCHEDULERS

SHUFFLE_BUFFER = 1000  # faces of a stream, which are drawn from in place of all
OPTION_OF_FIELD = {  # fields of MTLDConfig that have an option of their own or follow from the benchmark
    "backbone": "--backbone",
    "backbone_config": "--backbone",
    "image_size": "--image_size",
    "num_landmarks": "--dataset",
    "landmark_names": "--dataset",
    "flip_pairs": "--dataset",
    "topologies": "--dataset",
    "default_topology": "--dataset",
    "datasets": "--dataset_offsets",
}
NOT_SCORED = "none"  # in place of a --validation_list
POSITIVE = ("epochs", "batch_size", "learning_rate", "image_size", "gradient_accumulation_steps", "save_total_limit")
NOT_NEGATIVE = (
    *("num_workers", "eval_every", "picture_every", "seed", "warmup_steps", "no_flip_epochs"),
    *("save_steps", "save_epochs", "save_minutes"),
)


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise ValueError(message)


def parse_args(argv=None, description: str | None = None) -> argparse.Namespace:
    """The options, the `command` as typed, and `datasets`, a namespace for each of --dataset.

    Such a namespace has all options. What may be given for each set is its own: `dataset`, `data_dir`,
    `validation_list`, `weight`. It also has the set's `benchmark`, and whether it `is_scored` and `is_alone`.

    Raises:
        ValueError: on wrong ones.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    groups = (add_data, add_model, add_training, add_optimization, add_checkpoints, add_evaluation, add_tracking)
    for add_options in groups:
        add_options(parser)
    args = parser.parse_args(argv)
    args.command = shown_command(["accelerate", "launch", "train_accelerate.py", *argv])
    if args.eval_every is None:
        args.eval_every = 1 if args.validation_list else 0
    args.datasets = split_by_dataset(args)
    check_args(args)
    return args


def split_by_dataset(args: argparse.Namespace) -> list[argparse.Namespace]:
    """`datasets` of `parse_args`."""
    count = len(args.dataset)
    for name in ("data_dir", "validation_list", "dataset_weights"):
        given = getattr(args, name)
        if given and len(given) != count:
            raise ValueError(f"--{name} must be given for each of {count} --dataset, but got {len(given)}")
    parts = []
    for number, dataset in enumerate(args.dataset):
        part = argparse.Namespace(**vars(args))
        part.dataset, part.benchmark = dataset, find_benchmark(dataset)
        part.data_dir = args.data_dir[number] if args.data_dir else default_data_dir(dataset)
        listed = args.validation_list[number] if args.validation_list else None
        part.is_scored, part.validation_list = listed != NOT_SCORED, None if listed == NOT_SCORED else listed
        part.is_alone = count == 1
        part.weight = args.dataset_weights[number] if args.dataset_weights else 1.0
        parts.append(part)
    names = [part.benchmark.name for part in parts]
    if len(set(names)) < count:
        raise ValueError(f"--dataset must hold sets of different names, but got {', '.join(names)}")
    return parts


def add_data(parser: Parser):
    data = parser.add_argument_group("data")
    data.add_argument(
        "--dataset",
        nargs="+",
        default=["300w"],
        metavar="NAME|YAML",
        help=f"{', '.join(BENCHMARKS)}, or a file that describes landmarks of your own (default: 300w). Several make "
        "one network: sets whose landmarks have the same names share them, others get landmarks of their own, and "
        "topology=NAME chooses at inference",
    )
    data.add_argument(
        "--data_dir",
        nargs="+",
        metavar="DIR|HUB_ID",
        help="of each set: official folders, their Parquet conversion, or a data set on the Hub (default: the folder "
        "of the YAML)",
    )
    data.add_argument(
        "--dataset_weights",
        nargs="+",
        type=float,
        metavar="WEIGHT",
        help="how often an epoch shows each face of each set: 2 is twice, 0.5 is another half of the set each time "
        "(default: 1)",
    )
    data.add_argument(
        "--dataset_offsets",
        action="store_true",
        help="learn an offset for each set and landmark, for annotations that lie a little to one side; dataset=NAME "
        "adds it at inference, as scoring does",
    )
    data.add_argument(
        "--streaming",
        action="store_true",
        help="read the faces while training instead of preparing them on the disk first, for sets that do not fit "
        f"there; shuffled {SHUFFLE_BUFFER} at a time",
    )
    data.add_argument("--train_split", default="train", help="split to train on (default: %(default)s)")
    data.add_argument(
        "--validation_list",
        nargs="+",
        metavar="FILE",
        help="of each set: photos of the training split, one a line, to leave out of training and score instead of "
        f"--eval_splits; {NOT_SCORED}: train on all of the set and do not score it",
    )
    data.add_argument("--num_workers", type=int, default=2, help="processes that load faces (default: %(default)s)")
    add_augmentation(data)


def add_augmentation(data):
    data.add_argument(
        "--augmentation",
        nargs="+",
        action="extend",
        type=augmentation_field,
        default=[],
        metavar="NAME=VALUE",
        help="any of "
        + ", ".join(f"{field.name} ({field.default})" for field in dataclasses.fields(Augmentation))
        + "; see dataset_scripts/augmentation.py",
    )
    data.add_argument(
        "--no_flip_epochs",
        type=int,
        default=0,
        metavar="N",
        help="mirror no face in the last N epochs: annotations may lie a little to one side, as 300W's do to the "
        "right, which mirrored faces hide from the network (default: %(default)s)",
    )


def add_model(parser: Parser):
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model_name_or_path",
        metavar="DIR_OR_ID",
        help="MTLD checkpoint to start from or to evaluate; without it, a new model around --backbone. If it was made "
        "for other landmarks, what belongs to single landmarks is made anew, and listed",
    )
    model.add_argument("--backbone", help="timm model (default: resnet18)")
    weights = model.add_mutually_exclusive_group()
    weights.add_argument("--backbone_checkpoint", metavar="FILE", help="timm weights from a file instead of the Hub")
    weights.add_argument("--random_backbone", action="store_true", help="no pretrained weights for the backbone")
    model.add_argument(
        "--image_size", type=int, help="side of the crop in pixels (default: 256, or that of --model_name_or_path)"
    )
    model.add_argument(
        "--config",
        nargs="+",
        action="extend",
        type=config_field,
        default=[],
        metavar="NAME=VALUE",
        help="any field of MTLDConfig, such as use_heatmap_loss=false num_neighbors=3",
    )


def add_training(parser: Parser):
    training = parser.add_argument_group("training")
    training.add_argument("--output_dir", help="where the model, checkpoints/, evaluation/ and logs/ go")
    training.add_argument("--epochs", type=int, default=150, help="(default: %(default)s)")
    training.add_argument("--batch_size", type=int, default=64, help="faces a process and step (default: %(default)s)")
    training.add_argument(
        "--gradient_accumulation_steps",
        type=int,
        default=1,
        help="steps whose gradients make one update: the effective batch is batch_size x processes x this "
        "(default: %(default)s)",
    )
    training.add_argument("--seed", type=int, default=0, help="of all that is drawn (default: %(default)s)")
    training.add_argument("--mixed_precision", choices=["no", "bf16", "fp16"], help="(default: as accelerate says)")
    training.add_argument(
        "--compile", action="store_true", help="torch.compile the network: minutes at the start, then faster steps"
    )
    training.add_argument(
        "--batch_norm",
        choices=["train", "frozen", "sync"],
        default="train",
        help="frozen: keep its statistics and weights, for small batches; sync: statistics of all GPUs together "
        "(default: %(default)s, of each process by itself)",
    )
    training.add_argument(
        "--train_only",
        metavar="PART",
        help="train this part of --model_name_or_path and leave the rest as it is, batch norm included; scale_head "
        "gives confidences to a checkpoint without them",
    )


def add_optimization(parser: Parser):
    optimization = parser.add_argument_group("optimization")
    optimization.add_argument(
        "--learning_rate", type=float, default=3e-4, help="of Adam, at its highest (default: %(default)s)"
    )
    optimization.add_argument(
        "--backbone_lr_factor",
        type=float,
        default=1.0,
        help="the backbone's learning rate as a share of the others' (default: %(default)s)",
    )
    optimization.add_argument(
        "--lr_scheduler",
        choices=SCHEDULERS,
        default="steps",
        help="steps: divided by 10 after --decay_epochs, as in the paper; the others are those of transformers "
        "(default: %(default)s)",
    )
    optimization.add_argument(
        "--decay_epochs",
        type=int,
        nargs="*",
        metavar="EPOCH",
        help="of --lr_scheduler steps (default: 70 and 120 of 150, and the same shares of other --epochs; none given: "
        "never)",
    )
    optimization.add_argument(
        "--warmup_steps", type=int, default=0, help="updates in which the learning rate rises (default: %(default)s)"
    )
    optimization.add_argument(
        "--max_grad_norm", type=float, help="clip the norm of all gradients to this (default: no clipping)"
    )
    optimization.add_argument(
        "--ema_decay",
        type=float,
        help="keep a moving average of the weights with this decay, such as 0.999; it is what is scored and saved "
        "(default: none)",
    )


def add_checkpoints(parser: Parser):
    checkpoints = parser.add_argument_group("checkpoints")
    checkpoints.add_argument(
        "--resume_from_checkpoint",
        metavar="latest|DIR",
        help="go on from the last checkpoint of --output_dir, or from a given one, with the same other arguments",
    )
    checkpoints.add_argument(
        "--save_minutes",
        type=float,
        default=5,
        help="a checkpoint is written at the end of an epoch if the one before is this old, and after the last epoch; "
        "0: after each (default: %(default)s)",
    )
    checkpoints.add_argument(
        "--save_epochs",
        type=int,
        default=0,
        help="epochs between checkpoints, besides those of --save_minutes; 0: none (default: %(default)s)",
    )
    checkpoints.add_argument(
        "--save_steps",
        type=int,
        default=0,
        help="updates of an epoch between checkpoints, besides those at the ends of epochs; 0: none (default: "
        "%(default)s)",
    )
    checkpoints.add_argument(
        "--save_total_limit", type=int, default=2, help="how many are kept, the last ones (default: %(default)s)"
    )


def add_evaluation(parser: Parser):
    evaluation = parser.add_argument_group("evaluation")
    evaluation.add_argument(
        "--eval_only",
        action="store_true",
        help="score --model_name_or_path and stop; with --output_dir, write scores.json, scores.csv, faces.csv and "
        "plots there",
    )
    evaluation.add_argument(
        "--eval_splits",
        nargs="+",
        metavar="SPLIT",
        help="splits or subsets to score, and every subset made of them (default: the test split, otherwise "
        "validation); common+challenging scores two as one",
    )
    evaluation.add_argument(
        "--normalizer", help="of the NME: inter-ocular, inter-pupil, box, diagonal (default: the benchmark's first)"
    )
    evaluation.add_argument(
        "--eval_every",
        type=int,
        help="epochs between evaluations; 0: only at the end (default: 1 with --validation_list; else 0, as the "
        "test faces are for the last epoch)",
    )
    evaluation.add_argument(
        "--flip",
        action="store_true",
        help="with --eval_only: score the mean of the predictions for each face and for its mirror image",
    )
    evaluation.add_argument(
        "--box_noise",
        action="store_true",
        help="with --eval_only and --output_dir: also score boxes that are shifted and scaled by up to 5, 10, 15 and "
        "20 %%, which takes 13 times as long again",
    )


def add_tracking(parser: Parser):
    tracking = parser.add_argument_group("tracking and publishing")
    tracking.add_argument(
        "--report_to",
        nargs="*",
        default=["tensorboard"],
        metavar="TRACKER",
        help=f"any of {', '.join(sorted(kind.value for kind in LoggerType if kind != LoggerType.ALL))}, as far as "
        "installed; none given: nothing (default: tensorboard)",
    )
    tracking.add_argument(
        "--picture_every",
        type=int,
        default=10,
        help="epochs between pictures of predictions beside annotations on the same few scored faces, and after the "
        "last, but not of a stream; 0: never (default: %(default)s)",
    )
    tracking.add_argument(
        "--push_to_hub", metavar="ORG/NAME", help="upload the finished model with its card and results"
    )
    tracking.add_argument("--private", action="store_true", help="with --push_to_hub: make a new repository private")


def config_field(text: str) -> tuple[str, object]:
    """NAME=VALUE of --config as name and value; MTLDConfig checks the value."""
    name, equals, value = text.partition("=")
    if not equals or name not in MTLDConfig.__annotations__:
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE with a field of MTLDConfig, but got {text!r}")
    if name in OPTION_OF_FIELD:
        raise argparse.ArgumentTypeError(f"{name} must be given by {OPTION_OF_FIELD[name]}, but got {text!r}")
    try:
        return name, float(value) if MTLDConfig.__annotations__[name] is float else yaml.safe_load(value)
    except (ValueError, yaml.YAMLError):
        raise argparse.ArgumentTypeError(f"{name} must have a value of its kind, but got {text!r}") from None


def augmentation_field(text: str) -> tuple[str, float]:
    """NAME=VALUE of --augmentation as name and value; Augmentation checks the value."""
    name, equals, value = text.partition("=")
    if not equals or name not in {field.name for field in dataclasses.fields(Augmentation)}:
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE with a field of Augmentation, but got {text!r}")
    try:
        return name, float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{name} must be a number, but got {value!r}") from None


def check_args(args: argparse.Namespace):
    check_numbers(args)
    check_combinations(args)
    check_places(args)
    Augmentation(**dict(args.augmentation))  # checks the values
    for part in args.datasets:
        kinds = part.benchmark.normalizer_kinds
        if part.is_scored and args.normalizer and args.normalizer not in kinds:
            raise ValueError(f"--normalizer must be one of {', '.join(kinds)}, but got {args.normalizer}")
    usable = {tracker.value for tracker in get_available_trackers()}
    for name in args.report_to:
        if name not in usable:
            raise ValueError(f"--report_to must be of the installed {', '.join(sorted(usable))}, but got {name}")


def check_numbers(args: argparse.Namespace):
    for weight in args.dataset_weights or ():
        if not 0 < weight < math.inf:
            raise ValueError(f"--dataset_weights must be positive, but got {weight}")
    for name in POSITIVE + ("max_grad_norm",):
        if getattr(args, name) is not None and not 0 < getattr(args, name) < math.inf:
            raise ValueError(f"--{name} must be positive, but got {getattr(args, name)}")
    for name in NOT_NEGATIVE + ("backbone_lr_factor",):
        if getattr(args, name) is not None and not 0 <= getattr(args, name) < math.inf:
            raise ValueError(f"--{name} must not be negative, but got {getattr(args, name)}")
    if args.ema_decay is not None and not 0 <= args.ema_decay < 1:
        raise ValueError(f"--ema_decay must be at least 0 and below 1, but got {args.ema_decay}")


def check_combinations(args: argparse.Namespace):
    if args.eval_only and not args.model_name_or_path:
        raise ValueError("--eval_only needs --model_name_or_path")
    for name in ("dataset_weights", "dataset_offsets"):
        if getattr(args, name) and args.eval_only:
            raise ValueError(f"--{name} is for trainings, and needs no --eval_only")
    if args.dataset_weights and args.streaming:
        raise ValueError("--dataset_weights needs no --streaming, which shows each face once an epoch")
    if args.eval_splits and len(args.dataset) > 1:
        raise ValueError("--eval_splits needs a single --dataset; several are scored on their test splits")
    if not any(part.is_scored for part in args.datasets):
        raise ValueError(
            f"--validation_list must name a file for at least one --dataset, but got {NOT_SCORED} for all"
        )
    if args.flip and not args.eval_only:  # so that what a model card says is always without it
        raise ValueError("--flip needs --eval_only")
    if args.box_noise and not (args.eval_only and args.output_dir and not args.streaming):
        raise ValueError("--box_noise needs --eval_only and --output_dir, and no --streaming")
    if args.train_only is not None and (args.eval_only or not args.model_name_or_path):
        raise ValueError("--train_only needs --model_name_or_path, and no --eval_only")
    if args.private and not args.push_to_hub:
        raise ValueError("--private needs --push_to_hub")
    if args.push_to_hub and args.eval_only:
        raise ValueError("--push_to_hub is for what was trained, and needs no --eval_only")
    if args.decay_epochs and args.lr_scheduler != "steps":
        raise ValueError(f"--decay_epochs are of --lr_scheduler steps, but got {args.lr_scheduler}")
    if args.streaming and args.lr_scheduler not in ("steps", "constant"):
        raise ValueError(
            f"--lr_scheduler must be steps or constant with --streaming, which does not tell how many updates there "
            f"will be, but got {args.lr_scheduler}"
        )
    for name in ("backbone", "backbone_checkpoint", "random_backbone"):
        if args.model_name_or_path and getattr(args, name):
            raise ValueError(f"--{name} must not be given with --model_name_or_path, which has a backbone")


def check_places(args: argparse.Namespace):
    if not args.eval_only and not args.output_dir:
        raise ValueError("training needs --output_dir")
    if args.output_dir and Path(args.output_dir).exists() and not Path(args.output_dir).is_dir():
        raise ValueError(f"--output_dir must be a folder, but got the file {args.output_dir}")
    files = {"backbone_checkpoint": [args.backbone_checkpoint]}
    files["validation_list"] = [part.validation_list for part in args.datasets]
    for name, given in files.items():
        for file in filter(None, given):
            if not Path(file).is_file():
                raise ValueError(f"--{name} must be an existing file, but got {file}")
    for part in args.datasets:
        if part.data_dir is None:
            raise ValueError(
                f"--data_dir must be the folder of {part.benchmark.title} or its name on the Hub, but got none"
            )
    if not args.eval_only and args.resume_from_checkpoint is None:
        folder = Path(args.output_dir)
        if (folder / "config.json").exists() or any(folder.glob("checkpoints/epoch_*")):
            raise ValueError(
                f"--output_dir must hold no training yet, but got {folder}; "
                "--resume_from_checkpoint latest goes on with it"
            )
