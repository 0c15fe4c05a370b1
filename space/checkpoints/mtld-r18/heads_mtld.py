"""What the network tells beside places: confidences, visibility, and the habits of data sets. None is in the paper."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers.utils.generic import maybe_autocast

from .configuration_mtld import flip_order
from .sampling_mtld import sample_map

TOLERANCE = 1.5  # mean errors of a landmark, within which its score is the probability to be
LEVELS = 2  # s3 and s4; s5 adds nothing to what they tell of an error
INITIAL_MEAN_ERROR = 0.02  # of the crop, where its running mean starts
RUNNING_MEAN_MOMENTUM = 0.01
MAX_LOG_RATIO = 4.0  # scales are within e^-4 to e^4 times the mean one: a likelihood that stays finite


class MTLDFloat32Linear(nn.Linear):
    """A linear layer that computes in float32, also under autocast, whatever the network was loaded as or cast to.

    (..., in_features) of any dtype become (..., out_features) float32. As it is not `nn.Linear` itself, dynamic
    quantisation of all `nn.Linear` leaves it as it is.
    """

    def __init__(self, in_features: int, out_features: int):
        super().__init__(in_features, out_features, dtype=torch.float32)

    def forward(self, states):
        with maybe_autocast(states.device.type, enabled=False):
            return F.linear(states.float(), self.weight.float(), self.bias.float())


class MTLDScaleHead(nn.Module):
    """The scale of each landmark's likely error, read from the feature maps s3 and s4 where the landmark was put.

    It is trained by likelihood (`scale_loss`) on features and landmarks without their gradients, so that it watches
    the network and costs it no accuracy. Features of the place rank errors better than the decoder's queries do, and
    tell a face from none. It predicts the ratio to the mean error of the landmark: a score then tells a good jaw from
    a bad jaw, not the jaw from an eye.
    """

    def __init__(self, config, channels: list[int]):
        super().__init__()
        width, count = config.hidden_size, sum(channels[:LEVELS])
        float32 = {"dtype": torch.float32}  # whatever the network is loaded as
        self.landmark_embedding = nn.Parameter(torch.zeros(config.num_landmarks, width, **float32))
        # Mean of |dx| + |dy| over the training faces, a fraction of the crop; a running mean as in batch norm.
        # Checkpoints have it under this name.
        self.register_buffer("usual_error", torch.full((config.num_landmarks,), INITIAL_MEAN_ERROR, **float32))
        self.norm = nn.LayerNorm(count, **float32)
        self.fc1 = MTLDFloat32Linear(count, width)
        self.fc2 = MTLDFloat32Linear(width, width)
        self.out = MTLDFloat32Linear(width, 1)

    def forward(self, feature_maps, landmarks, labels=None):
        """
        Args:
            feature_maps: s3, s4, s5, each (batch, channels, H, W).
            landmarks: (batch, K, 2) float32, fractions of the crop.
            labels: (batch, K, 2), fractions of the crop, NaN where unannotated, for `update_running_error`.

        Returns:
            Scales and scores (batch, K) of `MTLDOutput`, and the running mean errors (K,) that they are relative to;
            float32.
        """
        with maybe_autocast(landmarks.device.type, enabled=False):
            running_mean_error = self.usual_error.float()
            if labels is not None:
                self.update_running_error(landmarks.detach(), labels)
            ratios = self._predict_ratios(feature_maps, landmarks.detach().float())
            reach = 2 * TOLERANCE / ratios  # in scales: a scale is half of the expected |dx| + |dy|
            scores = 1 - (1 + reach) * torch.exp(-reach)  # as the sum of two such errors follows Gamma(2)
            return running_mean_error / 2 * ratios, scores, running_mean_error

    def _predict_ratios(self, feature_maps, landmarks):
        seen = [sample_map(level.detach(), landmarks.unsqueeze(2)).squeeze(-1) for level in feature_maps[:LEVELS]]
        states = torch.cat(seen, dim=1).transpose(1, 2)
        states = F.layer_norm(states, states.shape[-1:], self.norm.weight.float(), self.norm.bias.float())
        states = F.relu(self.fc1(states) + self.landmark_embedding)
        ratios = self.out(F.relu(self.fc2(states))).squeeze(-1)
        return ratios.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()

    @torch.no_grad()
    def update_running_error(self, landmarks: torch.Tensor, labels: torch.Tensor):
        """In training, moves the running mean errors towards those of a batch; arguments as in `forward`."""
        if not self.training:
            return
        errors = (landmarks - labels).abs().sum(dim=-1)
        annotated = errors.isfinite()
        count = annotated.sum(dim=0)
        means = errors.masked_fill(~annotated, 0).sum(dim=0) / count.clamp(min=1)
        means = torch.where(count > 0, means.to(self.usual_error.dtype), self.usual_error)
        # Not in place: under torch.compile, the backward pass would then take the new value for the one of the loss.
        self.usual_error = self.usual_error.lerp(means, RUNNING_MEAN_MOMENTUM)


class MTLDDatasetOffsets(nn.Module):
    """An offset for each landmark and training set, for annotations that all lie a little to one side.

    300W's lie to the right of what they mark. Flip augmentation hides that: the network learns the places in the
    middle. So the offset of a mirrored face is mirrored too. Offsets start at zero.
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
            mirrored: (batch,) bool, whether a face is mirrored; None: none is.

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


class MTLDVisibilityHead(MTLDFloat32Linear):
    """Whether the head itself hides each landmark, which its pose tells: one linear layer over the average of s5."""

    def __init__(self, config, channels: list[int]):
        super().__init__(channels[-1], config.num_landmarks)

    def forward(self, feature_map):
        """feature_map: s5, (batch, channels, H, W). Returns logits (batch, K) float32, above 0 where it does not."""
        return super().forward(feature_map.mean(dim=(-2, -1)))
