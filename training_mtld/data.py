"""Loading of the faces to train on and to score."""

import gc
import itertools
import logging
import multiprocessing
import signal
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from dataset_scripts import load_faces, select_images
from dataset_scripts.augmentation import Augmentation, FaceCrops, FaceStream, box_margins, landmark_sums, mean_of_sums
from dataset_scripts.loading import open_faces, split_names
from modeling_mtld.configuration_mtld import find_topology

from .checkpoints import stop_signals
from .evaluation.scores import face_normalizers, scored_names
from .mixture import FaceMixture, Member, StreamMixture
from .options import SHUFFLE_BUFFER
from .topologies import topology_of

logger = logging.getLogger("train")

Crops = FaceCrops | FaceStream
Mixture = FaceMixture | StreamMixture


def check_places(args):
    """Raises ValueError as `open_faces` if a --data_dir has no faces. Nothing is prepared yet."""
    for set_args in args.datasets:
        open_faces(set_args.benchmark, set_args.data_dir)


def load_training(args, processor, config) -> Mixture:
    """The augmented faces of --train_split of each --dataset, without those of its --validation_list, as inputs of a
    network with the `MTLDConfig` `config`.

    Raises:
        ValueError: if a set has no faces, and where `load_faces` and `select_images` raise it.
    """
    members = [_member(set_args, processor, config) for set_args in args.datasets]
    options = config.num_landmarks, config.use_visibility_head, args.seed
    if not args.streaming:
        return FaceMixture(members, *options)
    sizes = [set_args.benchmark.splits.get(set_args.train_split) for set_args in args.datasets]
    return StreamMixture(members, *options, sizes if all(sizes) else None)


def _member(set_args, processor, config) -> Member:
    faces = _limit(_load(set_args, set_args.train_split, "training", keep=False), set_args)
    augmentation, flip_epochs = Augmentation(**dict(set_args.augmentation)), set_args.epochs - set_args.no_flip_epochs
    crops = FaceStream if set_args.streaming else FaceCrops
    dataset_id, name = None, set_args.benchmark.name
    if config.datasets:
        dataset_id = config.datasets.index(name) if name in config.datasets else -1
    return Member(
        crops(faces, processor, set_args.benchmark, augmentation, set_args.seed, flip_epochs),
        find_topology(config, topology_of(config, set_args.benchmark)).landmarks,
        dataset_id,
        set_args.weight,
    )


def _limit(faces, args):
    """--max_train_faces of them; a stream is shuffled."""
    if args.streaming:
        faces = faces.shuffle(seed=args.seed, buffer_size=SHUFFLE_BUFFER)
        return faces if args.max_train_faces is None else faces.take(args.max_train_faces)
    if args.max_train_faces is None or args.max_train_faces >= len(faces):
        return faces
    chosen = np.random.default_rng(args.seed).permutation(len(faces))[: args.max_train_faces]
    return faces.select(sorted(chosen.tolist()))


def set_margins(processor, args, mixture: Mixture, config):
    """Sets the `box_margins` of `processor` to those of the sets' boxes around their landmarks. Of sets with the same
    landmarks the first counts. Topologies of other sets keep their margins."""
    topologies = dict(processor.topologies or {})
    for set_args, member in reversed(list(zip(args.datasets, mixture.members, strict=True))):
        processor.box_margins = box_margins(member.crops.faces, set_args.benchmark)
        name = topology_of(config, set_args.benchmark)
        if name is not None:
            indices = find_topology(config, name).landmarks
            topologies[name] = {"landmarks": indices, "box_margins": processor.box_margins}
    processor.topologies = {name: topologies[name] for name in config.topologies} if config.topologies else None


def joint_mean_face(args, mixture: Mixture, names: Sequence[str]) -> torch.Tensor:
    """Mean landmarks of the crops of all sets (of streams: the first crops), (K, 2) float32 fractions of the crop.

    Args:
        names: of all K landmarks of the network.

    Raises:
        ValueError: if no set has annotated one of the landmarks, with its name.
    """
    total, count = np.zeros((len(names), 2)), np.zeros((len(names), 1), dtype=int)
    for set_args, member in zip(args.datasets, mixture.members, strict=True):
        places = slice(None) if member.landmarks is None else member.landmarks
        set_total, set_count = landmark_sums(member.crops.faces, set_args.benchmark)
        total[places] += set_total
        count[places] += set_count
    return mean_of_sums(total, count, names)


def sets_to_score(args) -> list:
    """The entries of `args.datasets` to score. A set without requested splits and without a test or validation split
    is left out, with a warning if another set is scored.

    Raises:
        ValueError: if no set is left, or a set cannot be opened.
    """
    candidates = [set_args for set_args in args.datasets if set_args.is_scored]
    sets = [set_args for set_args in candidates if requested_splits(set_args)]
    for set_args in candidates:
        if set_args not in sets:
            options = "--eval_splits or --validation_list" if set_args.is_alone else "--validation_list"
            names = ", ".join(split_names(open_faces(set_args.benchmark, set_args.data_dir)))
            reason = (
                f"{options} must tell what to score: {set_args.data_dir} has {names}, but no "
                f"{set_args.benchmark.test_split} and no validation"
            )
            if not sets:
                raise ValueError(reason)
            logger.warning("%s is not scored: %s", set_args.benchmark.title, reason)
    return sets


def load_evaluation(set_args, processor) -> dict[str, Crops]:
    """The crops of each split in --eval_splits, or with a --validation_list those of "validation".

    Args:
        set_args: an entry of `args.datasets`.

    Raises:
        ValueError: if a split has no faces or cannot be scored by --normalizer, and where `load_faces` and
            `select_images` raise it.
    """
    splits = {}
    for name in splits_to_load(set_args):
        faces = _load(set_args, set_args.train_split if set_args.validation_list else name, name, keep=True)
        if not set_args.streaming:
            check_normalizer(faces, name, set_args)
        splits[name] = (FaceStream if set_args.streaming else FaceCrops)(faces, processor, set_args.benchmark)
    return splits


def _load(args, split: str, name: str, keep: bool):
    faces = load_faces(args.benchmark, args.data_dir, split, streaming=args.streaming)
    if args.validation_list:
        faces = select_images(faces, args.validation_list, keep=keep)
    # A stream has no faces only if a list leaves none; the check takes seconds on a stream.
    if (args.validation_list or not args.streaming) and next(iter(faces.select_columns("image_id")), None) is None:
        raise ValueError(f"{args.data_dir} must have faces for {name}, but these options leave none")
    return faces


def requested_splits(args) -> list[str]:
    """The splits and subsets to score: "validation" with a --validation_list, else --eval_splits or the default."""
    if args.validation_list:
        return ["validation"]
    return args.eval_splits or default_splits(args)


def default_splits(args) -> list[str]:
    """The test split and the splits that form a subset with it, such as 300W's full; else validation; else none."""
    names = split_names(open_faces(args.benchmark, args.data_dir))
    test = args.benchmark.test_split
    if test in names:
        subsets = [subset.splits.split("+") for subset in args.benchmark.subsets.values()]
        with_test = [splits for splits in subsets if test in splits and set(splits) <= set(names)]
        return list(dict.fromkeys([test, *itertools.chain(*with_test)]))
    return ["validation"] if "validation" in names else []


def splits_to_load(args) -> list[str]:
    """The splits that `requested_splits` consist of, each once."""
    subsets = args.benchmark.subsets
    expressions = [subsets[name].splits if name in subsets else name for name in requested_splits(args)]
    return list(dict.fromkeys(split.strip() for expression in expressions for split in expression.split("+")))


def names_to_score(args, splits: Mapping[str, object]) -> list[str]:
    """The requested splits and subsets, and every subset that consists of loaded splits."""
    return scored_names(args.benchmark, requested_splits(args), list(splits))


def check_normalizer(faces, name: str, args):
    """Raises ValueError before a training if `faces` cannot be scored after it."""
    kind = args.normalizer or args.benchmark.default_normalizer
    faces = faces.select_columns(["landmarks", "landmark_box", "box"]).with_format("numpy")
    boxes = np.array([args.benchmark.box_to_crop(face) for face in faces])
    face_normalizers({"labels": faces["landmarks"][:], "boxes": boxes}, args.benchmark, kind, name)


def loader_options(args) -> dict:
    """Options of all loaders. Their workers ignore signals: the training handles them and saves a checkpoint first."""
    return {"batch_size": args.batch_size, "num_workers": args.num_workers, "worker_init_fn": _ignore_signals}


def _ignore_signals(worker: int):
    for number in stop_signals():
        signal.signal(number, signal.SIG_IGN)


def end_workers(others: Collection[multiprocessing.Process]):
    """Ends the workers of loaders that were not read to the end. They ignore SIGTERM, and Python would wait for them
    at exit.

    Args:
        others: child processes from before the training, which are left alone.
    """
    gc.collect()  # loaders without references end their own workers
    if workers := [child for child in multiprocessing.active_children() if child not in others]:
        former = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises an error for each worker
        for worker in workers:
            worker.kill()
            worker.join()
        signal.signal(signal.SIGCHLD, former)


def training_loader(accelerator: Accelerator, args, mixture: Mixture) -> DataLoader:
    """Batches in a new order each epoch; a stream is shuffled already. The last faces of an epoch, if too few for a
    batch, are left out unless there are no others."""
    options = loader_options(args) | {"persistent_workers": args.num_workers > 0}  # not restarted at each epoch
    if not args.streaming:
        options |= {"shuffle": True, "drop_last": len(mixture) >= args.batch_size * accelerator.num_processes}
    return accelerator.prepare(DataLoader(mixture, **options))


def scoring_loaders(accelerator: Accelerator, args, splits: Mapping[str, Crops]) -> dict[str, DataLoader]:
    return {name: accelerator.prepare(DataLoader(crops, **loader_options(args))) for name, crops in splits.items()}


def updates_per_epoch(accelerator: Accelerator, args, loader: DataLoader) -> int | None:
    """None for a stream, whose length is not known."""
    return None if args.streaming else max(1, len(loader) // accelerator.gradient_accumulation_steps)
