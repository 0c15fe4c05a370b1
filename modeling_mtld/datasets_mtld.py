"""What the network learns of the training sets beside places: their habits, and which landmarks the head hides.

Neither is in the paper.
"""

import torch
from torch import nn
from transformers.utils.generic import maybe_autocast

from .flip_mtld import flip_order


class MTLDDatasetOffsets(nn.Module):
    """An offset for each landmark and training set, for annotations that all lie a little to one side.

    300W's lie to the right of what they mark. Flip augmentation hides that from the network, which so learns the
    places between both sides; the offset of a mirrored face is the mirrored one. It starts at zero.
    """

    def __init__(self, config):
        super().__init__()
        self.names = list(config.datasets)
        self.order = flip_order(config.flip_pairs or [], config.num_landmarks)
        # With the landmarks first, as all weights have them.
        self.offsets = nn.Parameter(torch.zeros(config.num_landmarks, len(self.names), 2, dtype=torch.float32))

    def forward(self, dataset_ids: torch.Tensor, mirrored: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            dataset_ids: (batch,) long, places in `names`; -1 for another set, whose offset is zero.
            mirrored: (batch,) bool, whether a face was mirrored; None for no face.

        Returns:
            (batch, K, 2) float32, fractions of the crop.
        """
        straight = self.offsets.float()[:, dataset_ids.clamp(min=0)].transpose(0, 1)
        if mirrored is not None:
            turned = straight[:, self.order] * straight.new_tensor([-1.0, 1.0])
            straight = torch.where(mirrored[:, None, None], turned, straight)
        return straight * (dataset_ids >= 0)[:, None, None]

    def ids_of(self, name: str, count: int) -> torch.Tensor:
        """`dataset_ids` of `count` faces of one set. Raises ValueError if there is none of this name."""
        if name not in self.names:
            raise ValueError(f"dataset must be one of {', '.join(self.names)}, but got {name!r}")
        return torch.full((count,), self.names.index(name), device=self.offsets.device)


class MTLDVisibilityHead(nn.Linear):
    """Whether the head itself hides each landmark, which its pose tells: one linear layer over the average of s5."""

    def __init__(self, config, channels: list[int]):
        super().__init__(channels[-1], config.num_landmarks, dtype=torch.float32)

    def forward(self, feature_map):
        """feature_map: s5, (batch, channels, H, W). Returns logits (batch, K) float32, above 0 where it does not."""
        pooled = feature_map.mean(dim=(-2, -1))
        with maybe_autocast(pooled.device.type, enabled=False):
            return super().forward(pooled.to(self.weight.dtype)).float()
