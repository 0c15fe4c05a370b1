"""Trains and evaluates MTLD on faces with landmarks.

    accelerate launch train_accelerate.py --dataset 300w --data_dir 300w --output_dir outputs/mtld-r18
    accelerate launch train_accelerate.py --dataset 300w --data_dir 300w --eval_only \
        --model_name_or_path outputs/mtld-r18 --eval_splits common

The defaults are the paper's recipe (Section 4.1). Every row of its Tables 3 and 5 is this command with `--config`, such
as `--config use_structure_loss=false` or `--config num_neighbors=10`. `accelerate launch` brings several processes,
GPUs and machines; `accelerate config` asks what there is.
"""

import argparse
import logging
import math
import os
import shutil
import sys
import time
from pathlib import Path

import evaluate
import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from dataset_scripts import BENCHMARKS, load_faces, select_images
from dataset_scripts.augmentation import Augmentation, FaceCrops, mean_face
from dataset_scripts.model_card import write_model_card
from modeling_mtld.configuration_mtld import MTLDConfig
from modeling_mtld.image_processing_mtld import MTLDImageProcessor
from modeling_mtld.modeling_mtld import MTLDForFacialLandmarkDetection

logger = logging.getLogger("train")
METRIC = Path(__file__).parent / "space" / "nme"
DECAYS = (70 / 150, 120 / 150)  # of the training, each dividing the learning rate by 10: the paper's epochs 70 and 120


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    data = parser.add_argument_group("data")
    data.add_argument("--dataset", default="300w", choices=sorted(BENCHMARKS), help="benchmark (default: %(default)s)")
    data.add_argument("--data_dir", required=True, help="official folders, or their Parquet conversion")
    data.add_argument("--train_split", default="train", help="split to train on (default: %(default)s)")
    data.add_argument(
        "--eval_splits", nargs="+", default=["common"], help="splits to score (default: common); any a+b"
    )
    data.add_argument(
        "--validation_list",
        metavar="FILE",
        help="photos of the training split, one a line, to be left out of training and scored instead of --eval_splits",
    )
    data.add_argument("--normalizer", help="of the NME; by default the benchmark's first, such as inter-ocular")
    data.add_argument("--num_workers", type=int, default=2, help="processes that load faces (default: %(default)s)")

    model = parser.add_argument_group("model")
    model.add_argument("--model_name_or_path", help="MTLD checkpoint to start from, or to evaluate")
    model.add_argument("--backbone", default="resnet18", help="timm model (default: %(default)s)")
    model.add_argument("--backbone_checkpoint", metavar="FILE", help="timm weights from a file instead of the Hub")
    model.add_argument("--random_backbone", action="store_true", help="start the backbone without pretrained weights")
    model.add_argument("--image_size", type=int, default=256, help="side of the crop in pixels (default: %(default)s)")
    model.add_argument(
        "--config",
        nargs="*",
        default=[],
        metavar="NAME=VALUE",
        help="any field of MTLDConfig, such as use_heatmap_loss=false num_neighbors=3",
    )

    training = parser.add_argument_group("training")
    training.add_argument("--output_dir", help="where the model, checkpoints and logs go")
    training.add_argument("--epochs", type=int, default=150, help="(default: %(default)s)")
    training.add_argument("--batch_size", type=int, default=64, help="faces a process and step (default: %(default)s)")
    training.add_argument(
        "--learning_rate", type=float, default=3e-4, help="of Adam; see DECAYS (default: %(default)s)"
    )
    training.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    training.add_argument("--mixed_precision", choices=["no", "bf16", "fp16"], help="(default: as accelerate says)")
    training.add_argument("--eval_every", type=int, default=1, help="epochs between evaluations; 0: only at the end")
    training.add_argument(
        "--resume_from_checkpoint",
        metavar="latest|DIR",
        help="go on from the last checkpoint of --output_dir, or from a given one, with the same other arguments",
    )
    training.add_argument("--eval_only", action="store_true", help="score --model_name_or_path and stop")
    args = parser.parse_args(argv)
    check_args(parser, args)
    return args


def check_args(parser: argparse.ArgumentParser, args: argparse.Namespace):
    if args.eval_only and not args.model_name_or_path:
        parser.error("--eval_only needs --model_name_or_path")
    if not args.eval_only and not args.output_dir:
        parser.error("training needs --output_dir")
    for name in ("epochs", "batch_size", "learning_rate", "image_size"):
        if getattr(args, name) <= 0:
            parser.error(f"--{name} must be positive, but got {getattr(args, name)}")
    if args.image_size % 32:
        parser.error(f"--image_size must be a multiple of 32, but got {args.image_size}")
    for item in args.config:
        name, equals, _ = item.partition("=")
        if not equals or not hasattr(MTLDConfig, name):
            parser.error(f"--config takes NAME=VALUE with the name of a field of MTLDConfig, but got {item!r}")


def build_model(args) -> MTLDForFacialLandmarkDetection:
    """The checkpoint of --model_name_or_path, or a new model with a pretrained backbone; fields of --config on top."""
    benchmark = BENCHMARKS[args.dataset]
    fields = {"image_size": args.image_size}
    fields |= {name: yaml.safe_load(value) for name, _, value in (item.partition("=") for item in args.config)}
    if args.model_name_or_path:
        model = MTLDForFacialLandmarkDetection.from_pretrained(args.model_name_or_path, **fields)
        if model.config.num_landmarks != benchmark.num_landmarks:
            raise ValueError(
                f"model_name_or_path must predict the {benchmark.num_landmarks} landmarks of {args.dataset}, "
                f"but {args.model_name_or_path} predicts {model.config.num_landmarks}"
            )
        return model
    config = MTLDConfig(
        backbone=args.backbone,
        num_landmarks=benchmark.num_landmarks,
        landmark_names=list(benchmark.landmark_names),
        flip_pairs=[list(pair) for pair in benchmark.flip_pairs],
        **fields,
    )
    model = MTLDForFacialLandmarkDetection(config)
    if not args.random_backbone:
        model.load_backbone_weights(args.backbone_checkpoint)
    return model


def load_splits(args, processor) -> tuple[FaceCrops | None, dict[str, FaceCrops]]:
    """The augmented training faces, or None for --eval_only, and the faces to score by name."""
    pairs = BENCHMARKS[args.dataset].flip_pairs
    train = None
    if args.validation_list:
        faces = load_faces(args.dataset, args.data_dir, args.train_split)
        scored = {"validation": FaceCrops(select_images(faces, args.validation_list, keep=True), processor)}
        train = select_images(faces, args.validation_list, keep=False)
    else:
        splits = {name: load_faces(args.dataset, args.data_dir, name) for name in args.eval_splits}
        scored = {name: FaceCrops(faces, processor) for name, faces in splits.items()}
    if args.eval_only:
        return None, scored
    if train is None:
        train = load_faces(args.dataset, args.data_dir, args.train_split)
    return FaceCrops(train, processor, Augmentation(), pairs, args.seed), scored


@torch.no_grad()
def evaluate_model(accelerator, model, loaders, args) -> dict[str, dict[str, float]]:
    """NME, failure rate and AUC of each split, as fractions. The unit cancels out: all is in fractions of the crop."""
    benchmark, results = BENCHMARKS[args.dataset], {}
    model.eval()
    for name, loader in loaders.items():
        metric = evaluate.load(str(METRIC), experiment_id=f"{os.getpid()}-{name}")
        for batch in tqdm(loader, desc=f"score {name}", leave=False, disable=not accelerator.is_main_process):
            landmarks = model(pixel_values=batch["pixel_values"]).landmarks
            predictions, labels = accelerator.gather_for_metrics((landmarks, batch["labels"]))
            labels = labels.double().cpu().numpy()
            metric.add_batch(
                predictions=predictions.double().cpu().numpy(),
                references=labels,
                normalizers=benchmark.normalizers(labels, args.normalizer),
            )
        threshold = benchmark.failure_threshold
        results[name] = metric.compute(failure_threshold=threshold, auc_threshold=threshold)
        results[name]["faces"] = len(loader.dataset)
    model.train()
    return results


def print_results(results: dict[str, dict[str, float]], args):
    """One line a split, in percent, with the normaliser."""
    benchmark = BENCHMARKS[args.dataset]
    normalizer = args.normalizer or next(iter(benchmark.normalizer_points))
    limit = f"{benchmark.failure_threshold:.0%}"
    for name, scores in results.items():
        tqdm.write(
            f"{benchmark.title} {name} ({scores['faces']} faces, {normalizer}): NME {scores['nme']:.3%}  "
            f"FR@{limit} {scores['failure_rate']:.2%}  AUC@{limit} {scores['auc']:.2%}"
        )


def train_epoch(accelerator, model, loader, optimizer, epoch: int, args) -> dict[str, float]:
    """One pass over the training faces. Returns the means of the loss and its terms, and faces a second."""
    totals, start = {}, time.perf_counter()
    bar = tqdm(loader, desc=f"epoch {epoch + 1}/{args.epochs}", disable=not accelerator.is_main_process)
    for step, batch in enumerate(bar, 1):
        output = model(**batch)
        if not torch.isfinite(output.loss):
            raise ValueError(
                f"the loss must be finite, but got {output.loss.item()} in epoch {epoch + 1}, step {step}"
            )
        accelerator.backward(output.loss)
        optimizer.step()
        optimizer.zero_grad()
        for name, value in {"loss": output.loss.detach(), **output.loss_dict}.items():
            totals[name] = totals.get(name, 0) + value.item()
        speed = step * args.batch_size * accelerator.num_processes / (time.perf_counter() - start)
        means = {name: total / step for name, total in totals.items()}
        rate = optimizer.param_groups[0]["lr"]
        bar.set_postfix({**{k: f"{v:.4f}" for k, v in means.items()}, "lr": f"{rate:.0e}", "img/s": f"{speed:.0f}"})
    return {**means, "images_per_second": speed, "learning_rate": rate}


def save_checkpoint(accelerator, folder: Path, epoch: int):
    """Everything that --resume_from_checkpoint needs, under a temporary name first; then the older ones go."""
    finished = folder / f"epoch_{epoch:04d}"
    temporary = folder / f"tmp_{epoch:04d}"
    accelerator.save_state(temporary, safe_serialization=True)
    if accelerator.is_main_process:
        shutil.rmtree(finished, ignore_errors=True)
        temporary.rename(finished)
        for older in sorted(folder.glob("epoch_*"))[:-2]:
            shutil.rmtree(older)
    accelerator.wait_for_everyone()


def resume(accelerator, args, folder: Path) -> int:
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
        raise ValueError(f"resume_from_checkpoint must be a checkpoint folder or 'latest', but got {found[-1]}")
    accelerator.load_state(found[-1])
    return int(found[-1].name.rpartition("_")[2])


@torch.no_grad()
def round_weights(model):
    """Rounds the weights to half precision, as they are saved, so that the last scores are those of the saved model."""
    for weights in [*model.parameters(), *model.buffers()]:
        if weights.is_floating_point():
            weights.copy_(weights.half())


def save_model(accelerator, model, processor, args, results):
    """The trained model as a directory for the Hub, in half precision, which loads as float32."""
    if accelerator.is_main_process:
        model = accelerator.unwrap_model(model)
        half = {name: w.half() if w.is_floating_point() else w for name, w in model.state_dict().items()}
        model.save_pretrained(args.output_dir, state_dict=half)
        processor.save_pretrained(args.output_dir)
        write_model_card(args, model.config, results)


def main(args):
    accelerator = Accelerator(
        mixed_precision=args.mixed_precision,
        log_with=None if args.eval_only else "tensorboard",
        project_dir=args.output_dir,
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=args.seed),
    )
    logging.basicConfig(level=logging.INFO if accelerator.is_main_process else logging.ERROR, format="%(message)s")
    set_seed(args.seed)
    processor = MTLDImageProcessor(size=args.image_size)
    with accelerator.main_process_first():  # which prepares the faces in the cache for the others
        train_faces, scored_faces = load_splits(args, processor)
        model = build_model(args)
    options = {"batch_size": args.batch_size, "num_workers": args.num_workers}
    scored = {name: accelerator.prepare(DataLoader(faces, **options)) for name, faces in scored_faces.items()}
    if args.eval_only:
        model = accelerator.prepare(model)
        print_results(evaluate_model(accelerator, model, scored, args), args)
        return

    if not args.model_name_or_path:
        model.set_mean_face(mean_face(train_faces.faces))
    optimizer = torch.optim.Adam(model.parameters(), lr=args.learning_rate)
    milestones = [round(share * args.epochs) for share in DECAYS]
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.1)
    loader = DataLoader(train_faces, shuffle=True, drop_last=len(train_faces) > args.batch_size, **options)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    accelerator.register_for_checkpointing(scheduler)  # not prepared: it steps by epoch, whatever the processes
    accelerator.init_trackers("logs")

    folder = Path(args.output_dir) / "checkpoints"
    for epoch in range(resume(accelerator, args, folder), args.epochs):
        train_faces.set_epoch(epoch)
        loader.set_epoch(epoch)
        log = train_epoch(accelerator, model, loader, optimizer, epoch, args)
        scheduler.step()
        save_checkpoint(accelerator, folder, epoch + 1)
        if args.eval_every and (epoch + 1) % args.eval_every == 0 and epoch + 1 < args.epochs:
            results = evaluate_model(accelerator, model, scored, args)
            print_results(results, args)
            log |= {f"{split}/{name}": value for split, scores in results.items() for name, value in scores.items()}
        accelerator.log(log, step=epoch + 1)
    round_weights(accelerator.unwrap_model(model))
    results = evaluate_model(accelerator, model, scored, args)
    print_results(results, args)
    save_model(accelerator, model, processor, args, results)
    accelerator.end_training()


if __name__ == "__main__":
    try:
        main(parse_args())
    except ValueError as error:
        sys.exit(f"train_accelerate.py: {error}")
