"""The faces of several data sets as inputs of one network."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dataset_scripts.augmentation import FaceCrops, FaceStream

Item = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Member:
    """A data set of a mixture.

    Attributes:
        crops: its faces, augmented.
        landmarks: places of its landmarks among those of the network; None where they are all of it.
        dataset_id: place in `MTLDConfig.datasets`, -1 where it is not among them; None for a network without offsets.
        weight: how often an epoch shows each face.
    """

    crops: FaceCrops | FaceStream
    landmarks: Sequence[int] | None = None
    dataset_id: int | None = None
    weight: float = 1.0


def place(item: Item, member: Member, num_landmarks: int, with_visibility: bool) -> Item:
    """What `FaceCropper` made of a face of `member`, with NaN for landmarks of the network (K) that its set lacks.

    Returns:
        `pixel_values`, `labels` (K, 2), for a network with offsets `dataset_ids` and `mirrored`, and `with_visibility`
        `visibility` (K,), all NaN of a set that does not know it.
    """
    places = slice(None) if member.landmarks is None else list(member.landmarks)
    placed = {"pixel_values": item["pixel_values"], "labels": torch.full((num_landmarks, 2), torch.nan)}
    placed["labels"][places] = item["labels"]
    if member.dataset_id is not None:
        placed |= {"dataset_ids": torch.tensor(member.dataset_id), "mirrored": item["mirrored"]}
    if with_visibility:
        placed["visibility"] = torch.full((num_landmarks,), torch.nan)
        placed["visibility"][places] = item.get("visibility", torch.tensor(torch.nan))
    return placed


class FaceMixture(torch.utils.data.Dataset):
    """The faces of several sets, each `weight` times an epoch; of a broken number, another part of the set each epoch.

    Args:
        members: the sets.
        num_landmarks: K of the network.
        with_visibility: whether the network has a visibility head.
        seed: of what is drawn.
    """

    def __init__(self, members: Sequence[Member], num_landmarks: int, with_visibility: bool, seed: int):
        self.members, self.seed = members, seed
        self.options = num_landmarks, with_visibility
        self.ends = np.cumsum([max(1, round(member.weight * len(member.crops))) for member in members])

    def set_epoch(self, epoch: int):
        for member in self.members:
            member.crops.set_epoch(epoch)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> Item:
        if not 0 <= index < len(self):
            raise IndexError(f"index must be below {len(self)}, but got {index}")
        number = int(np.searchsorted(self.ends, index, side="right"))
        member, place_in_set = self.members[number], index - (self.ends[number - 1] if number else 0)
        repeat, face = divmod(int(place_in_set), len(member.crops))
        if repeat >= int(member.weight):  # the part of the set that is shown once more
            face = int(_order(len(member.crops), self.seed, int(member.crops.epoch), number)[face])
        return place(member.crops.repeated(face, repeat), member, *self.options)


@functools.lru_cache(maxsize=16)
def _order(count: int, *key: int) -> np.ndarray:
    return np.random.default_rng(key).permutation(count)


class StreamMixture(torch.utils.data.IterableDataset):
    """The faces of several streams, each once an epoch, in turns that are drawn.

    Args:
        members, num_landmarks, with_visibility, seed: as of `FaceMixture`.
        sizes: numbers of faces that the turns are drawn by; None: all streams alike. They must not depend on what has
            been prepared on this machine, so that a training that goes on draws the same.
    """

    def __init__(
        self,
        members: Sequence[Member],
        num_landmarks: int,
        with_visibility: bool,
        seed: int,
        sizes: Sequence[int] | None = None,
    ):
        self.members, self.seed, self.sizes = members, seed, sizes or [1] * len(members)
        self.options = num_landmarks, with_visibility

    def set_epoch(self, epoch: int):
        for member in self.members:
            member.crops.set_epoch(epoch)

    def __iter__(self) -> Iterator[Item]:
        rng = np.random.default_rng((self.seed, int(self.members[0].crops.epoch)))
        streams = [(member, iter(member.crops), size) for member, size in zip(self.members, self.sizes, strict=True)]
        while streams:
            sizes = np.array([size for *_, size in streams], dtype=np.float64)
            number = int(rng.choice(len(streams), p=sizes / sizes.sum()))
            member, stream, _ = streams[number]
            item = next(stream, None)
            if item is None:
                del streams[number]
            else:
                yield place(item, member, *self.options)
