"""Trains and evaluates MTLD on faces with landmarks.

    accelerate launch train_accelerate.py --dataset 300w --data_dir 300w --output_dir outputs/mtld-r18
    accelerate launch train_accelerate.py --dataset 300w --data_dir 300w --eval_only \\
        --model_name_or_path outputs/mtld-r18 --eval_splits common
    accelerate launch train_accelerate.py --dataset dolls/landmarks.yaml --output_dir outputs/dolls   # your own points

The defaults are the paper's recipe (Section 4.1). Every row of its Tables 3 and 5 is this command with `--config`,
such as `--config use_structure_loss=false` or `--config num_neighbors=10`; all modules off (its "Base") is
`--config use_multiscale_transformer=false use_heatmap_loss=false use_structure_loss=false`.

A checkpoint is written after each epoch; a training that was interrupted goes on with the same command and
`--resume_from_checkpoint latest`. The model of the last epoch is written to --output_dir, with its card.

`accelerate launch` brings several processes, GPUs and machines; `accelerate config` asks what there is. On wrong input
this script prints one line and exits with status 2; `accelerate launch --quiet` adds nothing to it.
"""

import argparse
import dataclasses
import logging
import math
import os
import shutil
import sys
import time
from pathlib import Path

import evaluate
import numpy as np
import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from dataset_scripts import BENCHMARKS, default_data_dir, find_benchmark, load_faces, select_images
from dataset_scripts.augmentation import Augmentation, FaceCrops, FaceStream, box_margins, mean_face
from dataset_scripts.loading import open_faces, split_names
from modeling_mtld.confidence_metrics import confidence_ratio, likelihood_gain
from modeling_mtld.configuration_mtld import MTLDConfig
from modeling_mtld.flip_mtld import predict_with_flip
from modeling_mtld.image_processing_mtld import MTLDImageProcessor
from modeling_mtld.model_card_mtld import Stage, read_stages, write_model_card
from modeling_mtld.modeling_mtld import MTLDForFacialLandmarkDetection
from modeling_mtld.training_facts import git_commit, library_versions, shown_command

logger = logging.getLogger("train")
ROOT = Path(__file__).resolve().parent
METRIC = ROOT / "space" / "nme"
DECAYS = (70 / 150, 120 / 150)  # of the training, each dividing the learning rate by 10: the paper's epochs 70 and 120
SHUFFLE_BUFFER = 1000  # faces of a stream, which are drawn from in place of all
OPTION_OF_FIELD = {  # fields of MTLDConfig that have an option of their own or follow from the benchmark
    "backbone": "--backbone",
    "backbone_config": "--backbone",
    "image_size": "--image_size",
    "num_landmarks": "--dataset",
    "landmark_names": "--dataset",
    "flip_pairs": "--dataset",
}


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise ValueError(message)


def add_data_options(parser: Parser):
    data = parser.add_argument_group("data")
    data.add_argument(
        "--dataset",
        default="300w",
        metavar="NAME|YAML",
        help=f"{', '.join(BENCHMARKS)}, or a file that describes landmarks of your own (default: %(default)s)",
    )
    data.add_argument(
        "--data_dir",
        metavar="DIR|HUB_ID",
        help="official folders, their Parquet conversion, or a data set on the Hub (default: the folder of the YAML)",
    )
    data.add_argument(
        "--streaming",
        action="store_true",
        help="read the faces while training instead of preparing them on the disk first, for sets that do not fit "
        f"there; shuffled {SHUFFLE_BUFFER} at a time",
    )
    data.add_argument("--train_split", default="train", help="split to train on (default: %(default)s)")
    data.add_argument(
        "--eval_splits",
        nargs="+",
        metavar="SPLIT",
        help="splits or subsets to score, each by itself (default: common for 300w, otherwise test or validation); "
        "common+challenging scores two as one",
    )
    data.add_argument(
        "--validation_list",
        metavar="FILE",
        help="photos of the training split, one a line, to leave out of training and score instead of --eval_splits",
    )
    data.add_argument(
        "--normalizer", help="of the NME: inter-ocular, inter-pupil, box, diagonal (default: the benchmark's first)"
    )
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
    data.add_argument("--num_workers", type=int, default=2, help="processes that load faces (default: %(default)s)")


def add_model_options(parser: Parser):
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model_name_or_path",
        metavar="DIR_OR_ID",
        help="MTLD checkpoint to start from or to evaluate; without it, a new model around --backbone",
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


def add_training_options(parser: Parser):
    training = parser.add_argument_group("training")
    training.add_argument("--output_dir", help="where the model, checkpoints/ and logs/ go")
    training.add_argument("--epochs", type=int, default=150, help="(default: %(default)s)")
    training.add_argument("--batch_size", type=int, default=64, help="faces a process and step (default: %(default)s)")
    training.add_argument(
        "--learning_rate",
        type=float,
        default=3e-4,
        help="of Adam, until the first of --decay_epochs (default: %(default)s)",
    )
    training.add_argument(
        "--decay_epochs",
        type=int,
        nargs="*",
        metavar="EPOCH",
        help="after which the learning rate is divided by 10 (default: 70 and 120 of 150, and the same shares of "
        "other --epochs; none given: never)",
    )
    training.add_argument("--seed", type=int, default=0, help="of all that is drawn (default: %(default)s)")
    training.add_argument("--mixed_precision", choices=["no", "bf16", "fp16"], help="(default: as accelerate says)")
    training.add_argument(
        "--eval_every",
        type=int,
        help="epochs between evaluations; 0: only at the end (default: 1 with --validation_list; else 0, as the "
        "test faces are for the last epoch)",
    )
    training.add_argument(
        "--resume_from_checkpoint",
        metavar="latest|DIR",
        help="go on from the last checkpoint of --output_dir, or from a given one, with the same other arguments",
    )
    training.add_argument(
        "--train_only",
        metavar="PART",
        help="train this part of --model_name_or_path and leave the rest as it is, batch norm included; scale_head "
        "gives confidences to a checkpoint without them",
    )
    training.add_argument("--eval_only", action="store_true", help="score --model_name_or_path and stop")
    training.add_argument(
        "--flip",
        action="store_true",
        help="with --eval_only: score the mean of the predictions for each face and for its mirror image",
    )


def parse_args(argv=None) -> argparse.Namespace:
    """The options; `command` holds them as typed. Raises ValueError on wrong ones."""
    argv = sys.argv[1:] if argv is None else argv
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    add_data_options(parser)
    add_model_options(parser)
    add_training_options(parser)
    args = parser.parse_args(argv)
    args.benchmark = find_benchmark(args.dataset)
    args.data_dir = args.data_dir or default_data_dir(args.dataset)
    check_args(args)
    if args.eval_every is None:
        args.eval_every = 1 if args.validation_list else 0
    args.command = shown_command(["accelerate", "launch", "train_accelerate.py", *argv])
    return args


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
    if args.eval_only and not args.model_name_or_path:
        raise ValueError("--eval_only needs --model_name_or_path")
    if args.flip and not args.eval_only:  # so that what a model card says is always without it
        raise ValueError("--flip needs --eval_only")
    if args.train_only is not None and (args.eval_only or not args.model_name_or_path):
        raise ValueError("--train_only needs --model_name_or_path, and no --eval_only")
    if not args.eval_only and not args.output_dir:
        raise ValueError("training needs --output_dir")
    for name in ("backbone", "backbone_checkpoint", "random_backbone"):
        if args.model_name_or_path and getattr(args, name):
            raise ValueError(f"--{name} must not be given with --model_name_or_path, which has a backbone")
    for name in ("epochs", "batch_size", "learning_rate", "image_size"):
        if getattr(args, name) is not None and not 0 < getattr(args, name) < math.inf:
            raise ValueError(f"--{name} must be positive, but got {getattr(args, name)}")
    for name in ("num_workers", "eval_every", "seed"):
        if getattr(args, name) is not None and getattr(args, name) < 0:
            raise ValueError(f"--{name} must not be negative, but got {getattr(args, name)}")
    for name in ("validation_list", "backbone_checkpoint"):
        if getattr(args, name) and not Path(getattr(args, name)).is_file():
            raise ValueError(f"--{name} must be an existing file, but got {getattr(args, name)}")
    if args.data_dir is None:
        raise ValueError(
            f"--data_dir must be the folder of {args.benchmark.title} or its name on the Hub, but got none"
        )
    Augmentation(**dict(args.augmentation))  # checks the values
    kinds = args.benchmark.normalizer_kinds
    if args.normalizer and args.normalizer not in kinds:
        raise ValueError(f"--normalizer must be one of {', '.join(kinds)}, but got {args.normalizer}")
    if not args.eval_only and args.resume_from_checkpoint is None:
        folder = Path(args.output_dir)
        if (folder / "config.json").exists() or any(folder.glob("checkpoints/epoch_*")):
            raise ValueError(
                f"--output_dir must hold no training yet, but got {folder}; "
                "--resume_from_checkpoint latest goes on with it"
            )


def build_model(args) -> MTLDForFacialLandmarkDetection:
    """The checkpoint of --model_name_or_path, or a new model with a pretrained backbone; fields of --config on top."""
    benchmark = args.benchmark
    fields = dict(args.config) | ({} if args.image_size is None else {"image_size": args.image_size})
    if args.model_name_or_path:
        model = load_checkpoint(args.model_name_or_path, fields)
        if model.config.num_landmarks != benchmark.num_landmarks:
            raise ValueError(
                f"--model_name_or_path must predict the {benchmark.num_landmarks} landmarks of {args.dataset}, "
                f"but {args.model_name_or_path} predicts {model.config.num_landmarks}"
            )
        return model
    config = MTLDConfig(
        backbone=args.backbone or "resnet18",
        num_landmarks=benchmark.num_landmarks,
        landmark_names=list(benchmark.landmark_names),
        flip_pairs=[list(pair) for pair in benchmark.flip_pairs],
        **fields,
    )
    model = MTLDForFacialLandmarkDetection(config)
    if not args.random_backbone:
        model.load_backbone_weights(args.backbone_checkpoint)
    return model


def load_checkpoint(path: str, fields: dict) -> MTLDForFacialLandmarkDetection:
    try:
        settings, _ = MTLDConfig.get_config_dict(path)
        if settings.get("model_type") != MTLDConfig.model_type:
            raise ValueError(f"a model of type {settings.get('model_type')!r}")
        return MTLDForFacialLandmarkDetection.from_pretrained(path, **fields)
    except Exception as error:  # transformers, safetensors and the Hub's client each raise their own
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"--model_name_or_path must be an MTLD checkpoint, but got {path}: {reason}") from error


def build_processor(args, config: MTLDConfig) -> MTLDImageProcessor:
    """Crops at the size of the model; normalises as the checkpoint of --model_name_or_path has it, or for a new model
    as the backbone's pretrained weights expect."""
    if args.model_name_or_path:
        return MTLDImageProcessor.from_pretrained(args.model_name_or_path, size=config.image_size)
    return MTLDImageProcessor(size=config.image_size, **config.normalization)


def default_splits(args) -> list[str]:
    """The split to score where none is named."""
    names = split_names(open_faces(args.benchmark, args.data_dir))
    for name in (args.benchmark.test_split, "validation"):
        if name in names:
            return [name]
    raise ValueError(
        f"--eval_splits or --validation_list must tell what to score: {args.data_dir} has {', '.join(names)}, but no "
        f"{args.benchmark.test_split} and no validation"
    )


def load_splits(args, processor) -> tuple[FaceCrops | FaceStream | None, dict[str, FaceCrops | FaceStream]]:
    """The augmented training faces, or None for --eval_only, and the faces to score by name."""
    names = {"training": args.train_split}
    if args.validation_list:
        names["validation"] = args.train_split
    else:
        names |= {name: name for name in args.eval_splits or default_splits(args)}
    if args.eval_only:
        del names["training"]
    splits = {
        name: load_faces(args.benchmark, args.data_dir, split, streaming=args.streaming)
        for name, split in names.items()
    }
    if args.validation_list:
        for name in splits:
            splits[name] = select_images(splits[name], args.validation_list, keep=name == "validation")
    cut = FaceStream if args.streaming else FaceCrops
    for name, faces in splits.items():
        # Only a list can leave a stream without faces; to look costs it seconds.
        if args.streaming and not args.validation_list:
            continue
        if next(iter(faces.select_columns("image_id")), None) is None:
            raise ValueError(f"{args.data_dir} must have faces for {name}, but these options leave none")
        if name != "training" and not args.streaming:
            check_normalizer(
                faces.select_columns(["landmarks", "landmark_box", "box"]).with_format("numpy"), name, args
            )
    train = splits.pop("training", None)
    scored = {name: cut(faces, processor, args.benchmark) for name, faces in splits.items()}
    if train is None:
        return None, scored
    if args.streaming:
        train = train.shuffle(seed=args.seed, buffer_size=SHUFFLE_BUFFER)
    return cut(train, processor, args.benchmark, Augmentation(**dict(args.augmentation)), args.seed), scored


@torch.no_grad()
def predict(accelerator, model, loader, name: str, args) -> dict[str, np.ndarray]:
    """The model's `landmarks`, `scales` and `scores` for every face once, its `labels` and `boxes`, float64, in
    fractions of the crop; no `scales` and `scores` without a scale head."""
    flip_pairs = accelerator.unwrap_model(model).config.flip_pairs
    batches = []
    model.eval()
    for batch in tqdm(loader, desc=f"score {name}", leave=False, disable=not accelerator.is_main_process):
        pixels = batch["pixel_values"]
        outputs = predict_with_flip(model, pixels, flip_pairs) if args.flip else model(pixel_values=pixels)
        found = {key: outputs[key] for key in ("landmarks", "scales", "scores") if key in outputs}
        batches.append(accelerator.gather_for_metrics({**found, "labels": batch["labels"], "boxes": batch["boxes"]}))
    return {key: torch.cat([batch[key] for batch in batches]).double().cpu().numpy() for key in batches[0]}


def evaluate_model(accelerator, model, loaders, args) -> dict[str, dict[str, float]]:
    """NME, failure rate and AUC of each split, as fractions, and with a scale head how good its confidences are.

    The unit cancels out: all is in fractions of the crop.
    """
    benchmark, results = args.benchmark, {}
    for name, loader in loaders.items():
        faces = predict(accelerator, model, loader, name, args)
        normalizers = face_normalizers(faces, name, args)
        metric = evaluate.load(str(METRIC), experiment_id=f"{os.getpid()}-{name}")
        results[name] = metric.compute(
            predictions=faces["landmarks"],
            references=faces["labels"],
            normalizers=normalizers,
            failure_threshold=benchmark.failure_threshold,
            auc_threshold=benchmark.failure_threshold,
        )
        results[name]["faces"] = len(normalizers)
        if "scores" in faces:
            results[name] |= score_confidences(faces, normalizers)
    return results


def check_normalizer(faces, name: str, args):
    """Looks before a training whether `faces` can be scored after it."""
    faces = faces.select_columns(["landmarks", "landmark_box", "box"]).with_format("numpy")
    boxes = np.array([args.benchmark.box_to_crop(face) for face in faces])
    face_normalizers({"labels": faces["landmarks"][:], "boxes": boxes}, name, args)


def face_normalizers(faces: dict[str, np.ndarray], name: str, args) -> np.ndarray:
    """What the errors of `faces`, as `predict` returns them, are divided by: (faces,), in their unit."""
    normalizers = args.benchmark.normalizers(faces["labels"], args.normalizer, faces["boxes"])
    unknown = int(np.isnan(normalizers).sum())
    if unknown:
        raise ValueError(
            f"--normalizer must have its landmarks annotated in every face, but those of {normalizer_name(args)} are "
            f"not in {unknown} of {len(normalizers)} faces of {name}; box and diagonal need none"
        )
    return normalizers


def score_confidences(faces: dict[str, np.ndarray], normalizers: np.ndarray) -> dict[str, float]:
    """`faces` as `predict` returns them; normalizers (faces,), fractions of the crop."""
    distances = faces["landmarks"] - faces["labels"]
    errors = np.linalg.norm(distances, axis=-1) / normalizers[:, None]
    return {
        "confidence_ratio": confidence_ratio(errors, faces["scores"]),
        "likelihood_gain": likelihood_gain(np.abs(distances).sum(axis=-1), faces["scales"]),
    }


def normalizer_name(args) -> str:
    return args.normalizer or args.benchmark.default_normalizer


def print_results(accelerator, results: dict[str, dict[str, float]], args):
    """One line a split, in percent, with the normaliser."""
    if not accelerator.is_main_process:
        return
    benchmark, normalizer = args.benchmark, normalizer_name(args)
    limit, flip = f"{100 * benchmark.failure_threshold:g}%", ", with flip" if args.flip else ""
    for name, scores in results.items():
        tqdm.write(
            f"{benchmark.title} {name} ({scores['faces']} faces, {normalizer}{flip}): NME {scores['nme']:.3%}  "
            f"FR@{limit} {scores['failure_rate']:.2%}  AUC@{limit} {scores['auc']:.2%}"
        )
        if "confidence_ratio" in scores:
            tqdm.write(
                f"  least confident tenth: {scores['confidence_ratio']:.2f} times the error of the most confident; "
                f"likelihood {scores['likelihood_gain']:+.3f} nats a landmark beside a constant scale"
            )


def report(accelerator, results: dict[str, dict[str, float]], args, epoch: int):
    """Prints the scores, and logs them to TensorBoard as fractions."""
    print_results(accelerator, results, args)
    named = {f"{split}/{name}": value for split, scores in results.items() for name, value in scores.items()}
    accelerator.log(named, step=epoch)


def set_training(model, part: str | None):
    """Training mode, which `from_pretrained` and the scoring leave, for the model or for one part alone."""
    model.train(part is None)
    if part is not None:
        getattr(model, part).train()


def freeze_others(model, part: str):
    parts = {name: child for name, child in model.named_children() if name != "heatmap_branch"}  # which is not saved
    if part not in parts:
        raise ValueError(
            f"--train_only must be one of {', '.join(parts)}, but got {part!r}; what a checkpoint was made without "
            "comes with --config, such as use_scale_head=true"
        )
    model.requires_grad_(False)
    parts[part].requires_grad_(True)


def training_order(accelerator, args, faces: FaceCrops | FaceStream) -> dict[str, bool]:
    """Options of the DataLoader. A stream is shuffled already. Otherwise the rest of an epoch that fills no batch is
    left out, unless it is all there is."""
    if args.streaming:
        return {}
    return {"shuffle": True, "drop_last": len(faces) >= args.batch_size * accelerator.num_processes}


def train_epoch(accelerator, model, loader, optimizer, epoch: int, args) -> dict[str, float]:
    """One pass over the training faces. Returns the means of the loss and its terms, and faces a second."""
    set_training(accelerator.unwrap_model(model), args.train_only)
    totals, start = {}, time.perf_counter()
    name = f"epoch {epoch + 1}/{args.epochs}"
    with tqdm(loader, desc=name, disable=not accelerator.is_main_process) as bar:
        for step, batch in enumerate(bar, 1):
            output = model(**batch)
            if not torch.isfinite(output.loss):
                raise ValueError(f"the loss must be finite, but got {output.loss.item()} in {name}, step {step}")
            accelerator.backward(output.loss)
            optimizer.step()
            optimizer.zero_grad()
            for term, value in {"loss": output.loss.detach(), **output.loss_dict}.items():
                totals[term] = totals.get(term, 0) + value.item()
            speed = step * args.batch_size * accelerator.num_processes / (time.perf_counter() - start)
            means = {term: total / step for term, total in totals.items()}
            rate = optimizer.param_groups[0]["lr"]
            shown = {term: f"{mean:.4f}" for term, mean in means.items()}
            bar.set_postfix({**shown, "lr": f"{rate:.0e}", "img/s": f"{speed:.0f}"})
    return {**means, "images_per_second": speed, "learning_rate": rate}


def save_checkpoint(accelerator, folder: Path, epoch: int):
    """Everything that --resume_from_checkpoint needs, under a temporary name first. The last two are kept."""
    kept = [folder / f"epoch_{number:04d}" for number in (epoch, epoch - 1)]
    temporary = folder / f"tmp_{epoch:04d}"
    accelerator.save_state(temporary, safe_serialization=True)
    accelerator.wait_for_everyone()  # each process has written its own random state
    if accelerator.is_main_process:
        shutil.rmtree(kept[0], ignore_errors=True)
        temporary.rename(kept[0])
        for other in [*folder.glob("epoch_*"), *folder.glob("tmp_*")]:  # tmp_*: of a training killed while saving
            if other not in kept:
                shutil.rmtree(other)
    accelerator.wait_for_everyone()


def resume(accelerator, args, folder: Path, scheduler) -> int:
    """Loads a checkpoint; returns the number of finished epochs."""
    if args.resume_from_checkpoint is None:
        return 0
    found = sorted(folder.glob("epoch_*"))
    if args.resume_from_checkpoint != "latest":
        found = [Path(args.resume_from_checkpoint)]
    elif not found:
        logger.warning("no checkpoint in %s yet: starting from the beginning", folder)
        return 0
    if not (found[-1] / "model.safetensors").is_file():
        raise ValueError(f"--resume_from_checkpoint must be a checkpoint's folder or 'latest', but got {found[-1]}")
    milestones = scheduler.milestones
    try:
        accelerator.load_state(found[-1])
    except Exception as error:  # safetensors, pickle and torch each raise their own
        raise ValueError(
            f"--resume_from_checkpoint must be whole and of a training with the same arguments, but got {found[-1]}: "
            f"{str(error).strip().splitlines()[0]}"
        ) from error
    if scheduler.milestones != milestones or scheduler.last_epoch > args.epochs:
        raise ValueError(
            f"--epochs and --decay_epochs must be those of the training in {found[-1]}, but got {args.epochs} epochs "
            f"with decays after {sorted(milestones)}"
        )
    return scheduler.last_epoch


@torch.no_grad()
def round_weights(model):
    """Rounds the weights to half precision, as they are saved, so that the last scores are of the saved model."""
    for weights in [*model.parameters(), *model.buffers()]:
        if weights.is_floating_point():
            weights.copy_(weights.half())


def describe_training(accelerator, args, faces: FaceCrops | FaceStream) -> Stage:
    """What the model card tells of this training on `faces`, but for its results."""
    benchmark = args.benchmark
    processes = "1 process" if accelerator.num_processes == 1 else f"{accelerator.num_processes} processes"
    precision = {"no": "float32"}.get(accelerator.mixed_precision, f"{accelerator.mixed_precision} autocast")
    return Stage(
        command=args.command,
        dataset=benchmark.name,
        title=benchmark.title,
        homepage=benchmark.homepage,
        licence=benchmark.licence,
        split=args.train_split,
        faces=None if args.streaming else len(faces),
        official_faces=benchmark.splits.get(args.train_split),
        epochs=args.epochs,
        seed=args.seed,
        setting=f"{processes} on {accelerator.device.type}, {precision}",
        versions=library_versions(),
        commit=git_commit(ROOT),
        normalizer=normalizer_name(args),
        threshold=benchmark.failure_threshold,
    )


def save_model(accelerator, model, processor, args, stages: list[Stage]):
    """The trained model as a directory for the Hub, in half precision, which loads as float32."""
    if not accelerator.is_main_process:
        return
    model, directory = accelerator.unwrap_model(model), Path(args.output_dir)
    half = {name: w.half() if w.is_floating_point() else w for name, w in model.state_dict().items()}
    unfinished = directory / "unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    model.save_pretrained(unfinished, state_dict=half)
    processor.save_pretrained(unfinished)
    write_model_card(unfinished, model.config, stages)
    for file in sorted(unfinished.iterdir(), key=lambda file: file.name == "config.json"):
        os.replace(file, directory / file.name)  # config.json last: without it, nothing loads the rest
    unfinished.rmdir()


def main(args):
    accelerator = Accelerator(
        mixed_precision=args.mixed_precision,
        log_with=None if args.eval_only else "tensorboard",
        project_dir=args.output_dir,
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=args.seed),
    )
    logging.basicConfig(level=logging.WARNING if accelerator.is_main_process else logging.ERROR, format="%(message)s")
    set_seed(args.seed)
    with accelerator.main_process_first():  # which prepares the faces in the cache for the others
        model = build_model(args)
        processor = build_processor(args, model.config)
        train_faces, scored_faces = load_splits(args, processor)
    options = {"batch_size": args.batch_size, "num_workers": args.num_workers}
    scored = {name: accelerator.prepare(DataLoader(faces, **options)) for name, faces in scored_faces.items()}
    if args.eval_only:
        model = accelerator.prepare(model)
        print_results(accelerator, evaluate_model(accelerator, model, scored, args), args)
        return

    processor.box_margins = box_margins(train_faces.faces, args.benchmark)
    if not args.model_name_or_path:
        model.set_mean_face(mean_face(train_faces.faces, args.benchmark))
    stages = [*read_stages(args.model_name_or_path), describe_training(accelerator, args, train_faces)]
    if args.train_only is not None:
        freeze_others(model, args.train_only)
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=args.learning_rate)
    milestones = [round(share * args.epochs) for share in DECAYS] if args.decay_epochs is None else args.decay_epochs
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.1)
    loader = DataLoader(train_faces, **options, **training_order(accelerator, args, train_faces))
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    accelerator.register_for_checkpointing(scheduler)  # not prepared: it steps by epoch, whatever the processes
    accelerator.init_trackers("logs")

    folder = Path(args.output_dir) / "checkpoints"
    for epoch in range(resume(accelerator, args, folder, scheduler), args.epochs):
        set_seed(args.seed + epoch, device_specific=True)  # so that what is drawn does not depend on interruptions
        train_faces.set_epoch(epoch)
        loader.set_epoch(epoch)
        log = train_epoch(accelerator, model, loader, optimizer, epoch, args)
        scheduler.step()
        save_checkpoint(accelerator, folder, epoch + 1)
        accelerator.log(log, step=epoch + 1)
        if args.eval_every and (epoch + 1) % args.eval_every == 0 and epoch + 1 < args.epochs:
            report(accelerator, evaluate_model(accelerator, model, scored, args), args, epoch + 1)
    round_weights(accelerator.unwrap_model(model))
    save_model(accelerator, model, processor, args, stages)  # already here: a stream may yet break off
    results = evaluate_model(accelerator, model, scored, args)
    report(accelerator, results, args, args.epochs)
    stages[-1] = dataclasses.replace(stages[-1], results=results)
    save_model(accelerator, model, processor, args, stages)
    if accelerator.is_main_process:
        tqdm.write(f"{args.output_dir} holds the model of the last epoch")
    accelerator.end_training()


def run(argv=None) -> int:
    """The command. Returns the exit status: 0, or after one line on stderr 2 (wrong input) or 130 (interrupted)."""
    try:
        main(parse_args(argv))
    except (ValueError, OSError) as error:
        print(f"train_accelerate.py: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("train_accelerate.py: interrupted; --resume_from_checkpoint latest goes on with it", file=sys.stderr)
        return 130
    return 0


def one_line(error: Exception) -> str:
    message = str(error)
    if "in DataLoader worker process" in message:  # a traceback, with the error itself at its end
        message = message.rpartition(f"{type(error).__name__}: ")[2]
    return " ".join(message.split())


if __name__ == "__main__":
    sys.exit(run())
