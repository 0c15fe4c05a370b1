"""The command line options of `train_accelerate.py`."""

import argparse
import dataclasses
import math
import sys
from pathlib import Path

import yaml

from dataset_scripts.names import BENCHMARK_NAMES
from dataset_scripts.ranges import AugmentationRanges

from .command_line import Parser, command_line, did_you_mean
from .processor import default_workers

# What takes long to import is imported inside functions, so that --help and wrong options are answered at once.
SCHEDULERS = ("steps", "constant", "linear", "cosine", "inverse_sqrt")
SHUFFLE_BUFFER = 1000  # faces of a stream that are shuffled at a time
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
NOT_SCORED = "none"  # value of --validation_list for a set that is not scored
POSITIVE = ("epochs", "batch_size", "learning_rate", "image_size", "gradient_accumulation_steps", "save_total_limit")
POSITIVE_OR_NONE = ("max_grad_norm", "max_train_faces")
NOT_NEGATIVE = (
    *("num_workers", "eval_every", "picture_every", "seed", "warmup_steps", "no_flip_epochs"),
    *("save_steps", "save_epochs", "save_minutes"),
)


def parse_args(argv=None, description: str | None = None) -> argparse.Namespace:
    """The options, the `command` as typed, and `datasets`, a namespace for each --dataset.

    The namespace of a set has all options. Those that are given for each set have the set's value: `dataset`,
    `data_dir`, `validation_list`, `weight`. It also has the set's `benchmark`, whether it `is_scored`, and whether it
    `is_alone`, the only set.

    Raises:
        ValueError: on wrong options.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    groups = (add_data, add_model, add_training, add_optimization, add_checkpoints, add_evaluation, add_tracking)
    for add_options in groups:
        add_options(parser)
    args = parser.parse_args(argv)
    args.command = command_line(["accelerate", "launch", "train_accelerate.py", *argv])
    if args.eval_every is None:
        args.eval_every = 1 if args.validation_list else 0
    check_numbers(args)
    check_combinations(args)
    args.datasets = split_by_dataset(args)
    check_places(args)
    check_values(args)
    return args


def split_by_dataset(args: argparse.Namespace) -> list[argparse.Namespace]:
    """The `datasets` of `parse_args`: a namespace for each --dataset."""
    from dataset_scripts import default_data_dir, find_benchmark

    count = len(args.dataset)
    for name in ("data_dir", "validation_list", "dataset_weights"):
        values = getattr(args, name)
        if values and len(values) != count:
            raise ValueError(f"--{name} must be given for each of {count} --dataset, but got {len(values)}")
    datasets = []
    for number, dataset in enumerate(args.dataset):
        set_args = argparse.Namespace(**vars(args))
        set_args.dataset, set_args.benchmark = dataset, find_benchmark(dataset)
        set_args.data_dir = args.data_dir[number] if args.data_dir else default_data_dir(dataset)
        file = args.validation_list[number] if args.validation_list else None
        set_args.is_scored, set_args.validation_list = file != NOT_SCORED, None if file == NOT_SCORED else file
        set_args.is_alone = count == 1
        set_args.weight = args.dataset_weights[number] if args.dataset_weights else 1.0
        datasets.append(set_args)
    names = [set_args.benchmark.name for set_args in datasets]
    if len(set(names)) < count:
        raise ValueError(f"--dataset must hold sets of different names, but got {', '.join(names)}")
    return datasets


def add_data(parser: Parser):
    data = parser.add_argument_group("data")
    data.add_argument(
        "--dataset",
        nargs="+",
        default=["300w"],
        metavar="NAME|YAML",
        help=f"{', '.join(BENCHMARK_NAMES)}, or a file that describes your own landmarks (default: 300w). Several "
        "sets train one network: sets whose landmarks have the same names share them, others add their own, and "
        "topology=NAME selects at inference",
    )
    data.add_argument(
        "--data_dir",
        nargs="+",
        metavar="DIR|HUB_ID",
        help="data of each set: the official folders, their Parquet conversion, or a data set on the Hub (default: "
        "the folder of the YAML)",
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
        help="learn an offset for each set and landmark, for sets annotated a little to one side; scoring adds it, "
        "and inference with dataset=NAME",
    )
    data.add_argument(
        "--streaming",
        action="store_true",
        help="read the faces while training instead of converting them on the disk first, for sets that do not fit "
        f"the disk; shuffled {SHUFFLE_BUFFER} at a time",
    )
    add_faces(data)
    add_augmentation(data)


def add_faces(data):
    """Which faces of the sets, and the processes that load them."""
    data.add_argument("--train_split", default="train", help="split to train on (default: %(default)s)")
    data.add_argument(
        "--validation_list",
        nargs="+",
        metavar="FILE",
        help="for each set: file of photos of the training split, one a line, to leave out of training and to score "
        f"instead of --eval_splits; {NOT_SCORED}: train on the complete set and do not score it",
    )
    data.add_argument(
        "--max_train_faces",
        type=int,
        metavar="N",
        help="train on at most N faces of each set, drawn by --seed: for a trial (default: all)",
    )
    data.add_argument(
        "--num_workers",
        type=int,
        default=default_workers(),
        help="processes that load faces (default: one a core of this machine, at most 16: here %(default)s)",
    )


def add_augmentation(data):
    data.add_argument(
        "--augmentation",
        nargs="+",
        action="extend",
        type=augmentation_field,
        default=[],
        metavar="NAME=VALUE",
        help="any of "
        + ", ".join(f"{field.name} ({field.default})" for field in dataclasses.fields(AugmentationRanges))
        + "; see dataset_scripts/augmentation.py",
    )
    data.add_argument(
        "--no_flip_epochs",
        type=int,
        default=0,
        metavar="N",
        help="mirror no faces in the last N epochs, so that the network can learn annotations that lie a little to "
        "one side, as 300W's lie to the right (default: %(default)s)",
    )


def add_model(parser: Parser):
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model_name_or_path",
        metavar="DIR_OR_ID",
        help="MTLD checkpoint to start from or to evaluate; without it, a new model with --backbone. If its landmarks "
        "are others, the weights of single landmarks are drawn anew, and listed",
    )
    model.add_argument("--backbone", help="timm model (default: resnet18)")
    weights = model.add_mutually_exclusive_group()
    weights.add_argument("--backbone_checkpoint", metavar="FILE", help="timm weights from a file instead of the Hub")
    weights.add_argument("--random_backbone", action="store_true", help="no pretrained weights for the backbone")
    model.add_argument(
        "--image_size", type=int, help="side of the crop in pixels (default: 256, or the size of --model_name_or_path)"
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
    training.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    training.add_argument(
        "--mixed_precision",
        choices=["no", "auto", "bf16", "fp16"],
        help="auto: bf16 where GPU or processor compute in it, else no; on other processors bf16 is several times "
        "slower than no, float32 (default: as accelerate says)",
    )
    training.add_argument(
        "--compile", action="store_true", help="torch.compile the network: minutes at the start, then faster steps"
    )
    training.add_argument(
        "--batch_norm",
        choices=["train", "frozen", "sync"],
        default="train",
        help="train: statistics of each process; frozen: keep statistics and weights, for small batches; sync: common "
        "statistics of all GPUs (default: %(default)s)",
    )
    training.add_argument(
        "--train_only",
        metavar="PART",
        help="train only this part of --model_name_or_path, and keep the rest, batch norm included; scale_head adds "
        "confidences to a checkpoint without them",
    )


def add_optimization(parser: Parser):
    optimization = parser.add_argument_group("optimization")
    optimization.add_argument(
        "--learning_rate", type=float, default=3e-4, help="highest learning rate of Adam (default: %(default)s)"
    )
    optimization.add_argument(
        "--backbone_lr_factor",
        type=float,
        default=1.0,
        help="the backbone's learning rate, as a factor of --learning_rate (default: %(default)s)",
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
        help="epochs of --lr_scheduler steps (default: 70 and 120 of 150, and the same shares of other --epochs, but "
        "none before the first epoch has ended; without a value: no steps)",
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
        help="score and save a moving average of the weights with this decay, such as 0.999 (default: none)",
    )


def add_checkpoints(parser: Parser):
    checkpoints = parser.add_argument_group("checkpoints")
    checkpoints.add_argument(
        "--resume_from_checkpoint",
        metavar="latest|DIR",
        help="continue from the last checkpoint of --output_dir, or from DIR, with the same other options",
    )
    checkpoints.add_argument(
        "--save_minutes",
        type=float,
        default=5,
        help="write a checkpoint at the end of an epoch if the last one is at least this old, and after the last "
        "epoch; 0: after each epoch (default: %(default)s)",
    )
    checkpoints.add_argument(
        "--save_epochs",
        type=int,
        default=0,
        help="epochs between checkpoints, in addition to --save_minutes; 0: off (default: %(default)s)",
    )
    checkpoints.add_argument(
        "--save_steps",
        type=int,
        default=0,
        help="updates of an epoch between checkpoints, in addition to those at the ends of epochs; 0: off (default: "
        "%(default)s)",
    )
    checkpoints.add_argument(
        "--save_total_limit", type=int, default=2, help="number of last checkpoints to keep (default: %(default)s)"
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
        help="splits or subsets to score, together with all subsets that consist of them (default: the test split, or "
        "validation if there is none); common+challenging scores two splits as one",
    )
    evaluation.add_argument(
        "--normalizer", help="of the NME: inter-ocular, inter-pupil, box, diagonal (default: the benchmark's first)"
    )
    evaluation.add_argument(
        "--eval_every",
        type=int,
        help="epochs between evaluations; 0: only at the end (default: 1 with --validation_list; otherwise 0, so that "
        "test faces are scored only once)",
    )
    evaluation.add_argument(
        "--flip",
        action="store_true",
        help="with --eval_only: score the mean of the predictions for each face and its mirror image",
    )
    evaluation.add_argument(
        "--box_noise",
        action="store_true",
        help="with --eval_only and --output_dir: also score boxes shifted and scaled by up to 5, 10, 15 and 20 %%, "
        "which takes 13 times as long in addition",
    )


def add_tracking(parser: Parser):
    tracking = parser.add_argument_group("tracking and publishing")
    tracking.add_argument(
        "--report_to",
        nargs="*",
        default=["tensorboard"],
        metavar="TRACKER",
        help="any tracker of accelerate that is installed, such as tensorboard, trackio or wandb; without a value: "
        "none (default: tensorboard)",
    )
    tracking.add_argument(
        "--picture_every",
        type=int,
        default=10,
        help="epochs between pictures of predictions and annotations on the same few scored faces; there is one after "
        "the last epoch, and none of streams; 0: never (default: %(default)s)",
    )
    tracking.add_argument(
        "--push_to_hub", metavar="ORG/NAME", help="upload the trained model with its card and results"
    )
    tracking.add_argument("--private", action="store_true", help="with --push_to_hub: make a new repository private")


def config_field(text: str) -> tuple[str, object]:
    """NAME=VALUE of --config as name and value; MTLDConfig checks the value."""
    from modeling_mtld.configuration_mtld import MTLDConfig

    name, equals, value = text.partition("=")
    if not equals or name not in MTLDConfig.__annotations__:
        near = did_you_mean([name], MTLDConfig.__annotations__)
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE with a field of MTLDConfig, but got {text!r}{near}")
    if name in OPTION_OF_FIELD:
        raise argparse.ArgumentTypeError(f"{name} must be given by {OPTION_OF_FIELD[name]}, but got {text!r}")
    try:
        return name, float(value) if MTLDConfig.__annotations__[name] is float else yaml.safe_load(value)
    except (ValueError, yaml.YAMLError):
        raise argparse.ArgumentTypeError(f"{name} must have a value of its kind, but got {text!r}") from None


def augmentation_field(text: str) -> tuple[str, float]:
    """NAME=VALUE of --augmentation as name and value; Augmentation checks the value."""
    name, equals, value = text.partition("=")
    if not equals or name not in {field.name for field in dataclasses.fields(AugmentationRanges)}:
        near = did_you_mean([name], (field.name for field in dataclasses.fields(AugmentationRanges)))
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE with a field of Augmentation, but got {text!r}{near}")
    try:
        return name, float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{name} must be a number, but got {value!r}") from None


def check_values(args: argparse.Namespace):
    from accelerate.tracking import get_available_trackers

    for set_args in args.datasets:
        kinds = set_args.benchmark.normalizer_kinds
        if set_args.is_scored and args.normalizer and args.normalizer not in kinds:
            raise ValueError(f"--normalizer must be one of {', '.join(kinds)}, but got {args.normalizer}")
    usable = {tracker.value for tracker in get_available_trackers()}
    for name in args.report_to:
        if name not in usable:
            raise ValueError(f"--report_to must be of the installed {', '.join(sorted(usable))}, but got {name}")


def check_numbers(args: argparse.Namespace):
    for weight in args.dataset_weights or ():
        if not 0 < weight < math.inf:
            raise ValueError(f"--dataset_weights must be positive, but got {weight}")
    for name in POSITIVE + POSITIVE_OR_NONE:
        if getattr(args, name) is not None and not 0 < getattr(args, name) < math.inf:
            raise ValueError(f"--{name} must be positive, but got {getattr(args, name)}")
    for name in NOT_NEGATIVE + ("backbone_lr_factor",):
        if getattr(args, name) is not None and not 0 <= getattr(args, name) < math.inf:
            raise ValueError(f"--{name} must not be negative, but got {getattr(args, name)}")
    for epoch in args.decay_epochs or ():
        if epoch < 1:
            raise ValueError(f"--decay_epochs must be 1 or more, as a decay comes after an epoch, but got {epoch}")
    AugmentationRanges(**dict(args.augmentation))  # checks the values
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
    if args.validation_list and set(args.validation_list) == {NOT_SCORED}:
        raise ValueError(
            f"--validation_list must name a file for at least one --dataset, but got {NOT_SCORED} for all"
        )
    if args.flip and not args.eval_only:  # a model card's scores are always without it
        raise ValueError("--flip needs --eval_only")
    if args.box_noise and not (args.eval_only and args.output_dir and not args.streaming):
        raise ValueError("--box_noise needs --eval_only and --output_dir, and no --streaming")
    if args.train_only is not None and (args.eval_only or not args.model_name_or_path):
        raise ValueError("--train_only needs --model_name_or_path, and no --eval_only")
    if args.private and not args.push_to_hub:
        raise ValueError("--private needs --push_to_hub")
    if args.push_to_hub and args.eval_only:
        raise ValueError("--push_to_hub is for trainings, and needs no --eval_only")
    if args.decay_epochs and args.lr_scheduler != "steps":
        raise ValueError(f"--decay_epochs needs --lr_scheduler steps, but got {args.lr_scheduler}")
    if args.streaming and args.lr_scheduler not in ("steps", "constant"):
        raise ValueError(
            f"--lr_scheduler must be steps or constant with --streaming, as the number of updates is not known, "
            f"but got {args.lr_scheduler}"
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
    files["validation_list"] = [set_args.validation_list for set_args in args.datasets]
    for name, paths in files.items():
        for file in filter(None, paths):
            if not Path(file).is_file():
                raise ValueError(f"--{name} must be an existing file, but got {file}")
    for set_args in args.datasets:
        if set_args.data_dir is None:
            raise ValueError(
                f"--data_dir must be the folder of {set_args.benchmark.title} or its name on the Hub, but got none"
            )
    if not args.eval_only and args.resume_from_checkpoint is None:
        folder = Path(args.output_dir)
        if (folder / "config.json").exists() or any(folder.glob("checkpoints/epoch_*")):
            raise ValueError(
                f"--output_dir must hold no training yet, but got {folder}; "
                "--resume_from_checkpoint latest goes on with it"
            )
