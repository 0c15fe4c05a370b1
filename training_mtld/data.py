"""The faces to train on and to score."""

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

from .evaluation.scores import face_normalizers, scored_names
from .mixture import FaceMixture, Member, StreamMixture
from .options import SHUFFLE_BUFFER
from .topologies import topology_of

logger = logging.getLogger("train")

Crops = FaceCrops | FaceStream
Mixture = FaceMixture | StreamMixture


def load_training(args, processor, config) -> Mixture:
    """The augmented faces of --train_split of each --dataset, less those of its --validation_list, as inputs of a
    network with the `MTLDConfig` `config`.

    Raises:
        ValueError: if a set has none, or as `load_faces` and `select_images`.
    """
    members = [_member(part, processor, config) for part in args.datasets]
    options = config.num_landmarks, config.use_visibility_head, args.seed
    if not args.streaming:
        return FaceMixture(members, *options)
    sizes = [part.benchmark.splits.get(part.train_split) for part in args.datasets]
    return StreamMixture(members, *options, sizes if all(sizes) else None)


def _member(part, processor, config) -> Member:
    faces = _load(part, part.train_split, "training", keep=False)
    if part.streaming:
        faces = faces.shuffle(seed=part.seed, buffer_size=SHUFFLE_BUFFER)
    augmentation, flip_epochs = Augmentation(**dict(part.augmentation)), part.epochs - part.no_flip_epochs
    crops = FaceStream if part.streaming else FaceCrops
    dataset_id = None
    if config.datasets:
        dataset_id = config.datasets.index(part.benchmark.name) if part.benchmark.name in config.datasets else -1
    return Member(
        crops(faces, processor, part.benchmark, augmentation, part.seed, flip_epochs),
        find_topology(config, topology_of(config, part.benchmark)).landmarks,
        dataset_id,
        part.weight,
    )


def set_margins(processor, args, mixture: Mixture, config):
    """Tells `processor` how the boxes of each set lie around the landmarks. Of sets with the same landmarks, the first
    tells; topologies that none of the sets has keep what they have."""
    topologies = dict(processor.topologies or {})
    for part, member in reversed(list(zip(args.datasets, mixture.members, strict=True))):
        processor.box_margins = box_margins(member.crops.faces, part.benchmark)
        name = topology_of(config, part.benchmark)
        if name is not None:
            indices = find_topology(config, name).landmarks
            topologies[name] = {"landmarks": indices, "box_margins": processor.box_margins}
    processor.topologies = {name: topologies[name] for name in config.topologies} if config.topologies else None


def joint_mean_face(args, mixture: Mixture, names: Sequence[str]) -> torch.Tensor:
    """Mean landmarks of the crops of all sets (of streams: of their first), (K, 2) float32 fractions of the crop.

    Args:
        names: of all K landmarks of the network.

    Raises:
        ValueError: naming a landmark that none of them has.
    """
    total, count = np.zeros((len(names), 2)), np.zeros((len(names), 1), dtype=int)
    for part, member in zip(args.datasets, mixture.members, strict=True):
        places = slice(None) if member.landmarks is None else member.landmarks
        for whole, own in zip((total, count), landmark_sums(member.crops.faces, part.benchmark)):
            whole[places] += own
    return mean_of_sums(total, count, names)


def scored_sets(args) -> list:
    """Those of `args.datasets` that are scored. One that has neither what is asked for nor a test or validation split
    is left out, with a warning where another is scored.

    Raises:
        ValueError: if none is scored, or a set cannot be opened.
    """
    candidates = [part for part in args.datasets if part.is_scored]
    scored = [part for part in candidates if requested_splits(part)]
    for part in candidates:
        if part not in scored:
            options = "--eval_splits or --validation_list" if part.is_alone else "--validation_list"
            names = ", ".join(split_names(open_faces(part.benchmark, part.data_dir)))
            reason = (
                f"{options} must tell what to score: {part.data_dir} has {names}, but no {part.benchmark.test_split} "
                "and no validation"
            )
            if not scored:
                raise ValueError(reason)
            logger.warning("%s is not scored: %s", part.benchmark.title, reason)
    return scored


def load_scored(part, processor) -> dict[str, Crops]:
    """The faces of each split that --eval_splits are made of, or of "validation" if there is a --validation_list.

    Args:
        part: of `args.datasets`.

    Raises:
        ValueError: if one has none, or cannot be scored by --normalizer, or as `load_faces` and `select_images`.
    """
    parts = {}
    for name in split_parts(part):
        faces = _load(part, part.train_split if part.validation_list else name, name, keep=True)
        if not part.streaming:
            check_normalizer(faces, name, part)
        parts[name] = (FaceStream if part.streaming else FaceCrops)(faces, processor, part.benchmark)
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
    """The test split, and those that it makes up a subset with, such as 300W's full; else validation; else none."""
    names = split_names(open_faces(args.benchmark, args.data_dir))
    test = args.benchmark.test_split
    if test in names:
        made_up = [subset.splits.split("+") for subset in args.benchmark.subsets.values()]
        together = [splits for splits in made_up if test in splits and set(splits) <= set(names)]
        return list(dict.fromkeys([test, *itertools.chain(*together)]))
    return ["validation"] if "validation" in names else []


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


def end_workers(others: Collection[multiprocessing.Process]):
    """Ends those of loaders that were broken off. They do not mind SIGTERM, and Python would wait for them at exit.

    Args:
        others: child processes that were there before the training, and stay.
    """
    gc.collect()  # what is not in use any more ends its own
    if workers := [child for child in multiprocessing.active_children() if child not in others]:
        former = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's raises an error for each
        for worker in workers:
            worker.kill()
            worker.join()
        signal.signal(signal.SIGCHLD, former)


def training_loader(accelerator: Accelerator, args, faces: Mixture) -> DataLoader:
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
