"""The faces to train on and to score."""

import gc
import itertools
import multiprocessing
import signal
from collections.abc import Mapping

import numpy as np
from accelerate import Accelerator
from torch.utils.data import DataLoader

from dataset_scripts import load_faces, select_images
from dataset_scripts.augmentation import Augmentation, FaceCrops, FaceStream
from dataset_scripts.loading import open_faces, split_names

from .options import SHUFFLE_BUFFER
from .scores import face_normalizers, scored_names

Crops = FaceCrops | FaceStream


def load_training(args, processor) -> Crops:
    """The augmented faces of --train_split, less those of --validation_list.

    Raises:
        ValueError: if there are none, or as `load_faces` and `select_images`.
    """
    faces = _load(args, args.train_split, "training", keep=False)
    if args.streaming:
        faces = faces.shuffle(seed=args.seed, buffer_size=SHUFFLE_BUFFER)
    crops = FaceStream if args.streaming else FaceCrops
    augmentation, flip_epochs = Augmentation(**dict(args.augmentation)), args.epochs - args.no_flip_epochs
    return crops(faces, processor, args.benchmark, augmentation, args.seed, flip_epochs)


def load_scored(args, processor) -> dict[str, Crops]:
    """The faces of each split that --eval_splits are made of, or of "validation" if there is a --validation_list.

    Raises:
        ValueError: if one has none, or cannot be scored by --normalizer, or as `load_faces` and `select_images`.
    """
    parts = {}
    for name in split_parts(args):
        faces = _load(args, args.train_split if args.validation_list else name, name, keep=True)
        if not args.streaming:
            check_normalizer(faces, name, args)
        parts[name] = (FaceStream if args.streaming else FaceCrops)(faces, processor, args.benchmark)
    return parts


def _load(args, split: str, name: str, keep: bool):
    faces = load_faces(args.benchmark, args.data_dir, split, streaming=args.streaming)
    if args.validation_list:
        faces = select_images(faces, args.validation_list, keep=keep)
    # Only a list can leave a stream without faces; to look costs it seconds.
    if (args.validation_list or not args.streaming) and next(iter(faces.select_columns("image_id")), None) is None:
        raise ValueError(f"{args.data_dir} must have faces for {name}, but these options leave none")
    return faces


def requested_splits(args) -> list[str]:
    """What is asked for: --validation_list, --eval_splits or by default the test split, with what it is part of."""
    if args.validation_list:
        return ["validation"]
    return args.eval_splits or default_splits(args)


def default_splits(args) -> list[str]:
    """The test split, and those that it makes up a subset with, such as 300W's full; otherwise validation."""
    names = split_names(open_faces(args.benchmark, args.data_dir))
    test = args.benchmark.test_split
    if test in names:
        made_up = [subset.splits.split("+") for subset in args.benchmark.subsets.values()]
        together = [splits for splits in made_up if test in splits and set(splits) <= set(names)]
        return list(dict.fromkeys([test, *itertools.chain(*together)]))
    if "validation" in names:
        return ["validation"]
    raise ValueError(
        f"--eval_splits or --validation_list must tell what to score: {args.data_dir} has {', '.join(names)}, but no "
        f"{test} and no validation"
    )


def split_parts(args) -> list[str]:
    """The splits that have to be loaded, each once, for `requested_splits`."""
    subsets = args.benchmark.subsets
    expressions = [subsets[name].splits if name in subsets else name for name in requested_splits(args)]
    return list(dict.fromkeys(part.strip() for expression in expressions for part in expression.split("+")))


def names_to_score(args, parts: Mapping[str, object]) -> list[str]:
    """The requested splits and subsets, and every named subset of the loaded ones."""
    return scored_names(args.benchmark, requested_splits(args), list(parts))


def check_normalizer(faces, name: str, args):
    """Looks before a training whether `faces` can be scored after it. Raises ValueError if not."""
    kind = args.normalizer or args.benchmark.default_normalizer
    faces = faces.select_columns(["landmarks", "landmark_box", "box"]).with_format("numpy")
    boxes = np.array([args.benchmark.box_to_crop(face) for face in faces])
    face_normalizers({"labels": faces["landmarks"][:], "boxes": boxes}, args.benchmark, kind, name)


def loader_options(args) -> dict:
    """What all loaders share. Their workers leave signals to the training, which ends after its checkpoint."""
    return {"batch_size": args.batch_size, "num_workers": args.num_workers, "worker_init_fn": _ignore_signals}


def _ignore_signals(worker: int):
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def end_workers():
    """Ends those of loaders that were broken off. They do not mind SIGTERM, and Python would wait for them at exit."""
    gc.collect()  # what is not in use any more ends its own
    if workers := multiprocessing.active_children():
        former = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's raises an error for each
        for worker in workers:
            worker.kill()
            worker.join()
        signal.signal(signal.SIGCHLD, former)


def training_loader(accelerator: Accelerator, args, faces: Crops) -> DataLoader:
    """Faces in a new order each epoch; a stream is shuffled already. The rest of an epoch that fills no update is left
    out, unless it is all there is."""
    options = loader_options(args) | {"persistent_workers": args.num_workers > 0}  # not started anew for each epoch
    if not args.streaming:
        options |= {"shuffle": True, "drop_last": len(faces) >= args.batch_size * accelerator.num_processes}
    return accelerator.prepare(DataLoader(faces, **options))


def scoring_loaders(accelerator: Accelerator, args, parts: Mapping[str, Crops]) -> dict[str, DataLoader]:
    return {name: accelerator.prepare(DataLoader(faces, **loader_options(args))) for name, faces in parts.items()}


def updates_per_epoch(accelerator: Accelerator, args, loader: DataLoader) -> int | None:
    """None of a stream, which does not tell."""
    return None if args.streaming else max(1, len(loader) // accelerator.gradient_accumulation_steps)
