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
        crops: its augmented faces.
        landmarks: indices of its landmarks among those of the network; None if the two are the same.
        dataset_id: index in `MTLDConfig.datasets`, -1 if it is not there; None for a network without offsets.
        weight: how often each face is used in an epoch.
    """

    crops: FaceCrops | FaceStream
    landmarks: Sequence[int] | None = None
    dataset_id: int | None = None
    weight: float = 1.0


def place(item: Item, member: Member, num_landmarks: int, with_visibility: bool) -> Item:
    """The result of `FaceCropper` for a face of `member`, with labels for all K landmarks of the network.

    Returns:
        `pixel_values`, `labels` (K, 2) with NaN for landmarks that the set lacks, for a network with offsets
        `dataset_ids` and `mirrored`, and `with_visibility` `visibility` (K,), all NaN for a set without visibility.
    """
    indices = slice(None) if member.landmarks is None else list(member.landmarks)
    inputs = {"pixel_values": item["pixel_values"], "labels": torch.full((num_landmarks, 2), torch.nan)}
    inputs["labels"][indices] = item["labels"]
    if member.dataset_id is not None:
        inputs |= {"dataset_ids": torch.tensor(member.dataset_id), "mirrored": item["mirrored"]}
    if with_visibility:
        inputs["visibility"] = torch.full((num_landmarks,), torch.nan)
        inputs["visibility"][indices] = item.get("visibility", torch.tensor(torch.nan))
    return inputs


class FaceMixture(torch.utils.data.Dataset):
    """The faces of several sets, each `weight` times an epoch. For the fractional part of `weight`, each epoch draws
    that share of the set anew.

    Args:
        members: the sets.
        num_landmarks: K of the network.
        with_visibility: whether the network has a visibility head.
        seed: of the draws.
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
        member, index_in_set = self.members[number], index - (self.ends[number - 1] if number else 0)
        repeat, face = divmod(int(index_in_set), len(member.crops))
        if repeat >= int(member.weight):  # the fractional part of `weight`
            face = int(_order(len(member.crops), self.seed, int(member.crops.epoch), number)[face])
        return place(member.crops.repeated(face, repeat), member, *self.options)


@functools.lru_cache(maxsize=16)
def _order(count: int, *key: int) -> np.ndarray:
    return np.random.default_rng(key).permutation(count)


class StreamMixture(torch.utils.data.IterableDataset):
    """The faces of several streams, each once an epoch. The stream of each face is drawn at random.

    Args:
        members, num_landmarks, with_visibility, seed: as for `FaceMixture`.
        sizes: number of faces of each stream, the weights of the draw; None: equal weights. They must not depend on
            the data prepared on a machine, so that a resumed training draws the same.
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
