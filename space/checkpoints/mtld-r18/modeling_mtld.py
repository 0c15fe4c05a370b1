"""MTLD (Accurate Facial Landmark Detector via Multi-scale Transformer), Section 3.

Order: outputs, position embedding, attention blocks, feature pyramid, Feature Fusion Encoder, Landmark Decoder,
heatmap branch, and the model that puts them together. Image positions are fractions of the crop, (x, y).
"""

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import maybe_autocast
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .auto_mtld import PushToHub
from .backbone_mtld import STRIDES, build_backbone, fixed_size, is_channels_last, read_pretrained
from .configuration_mtld import MTLDConfig, find_topology
from .heads_mtld import (
    INITIAL_MEAN_ERROR,
    MTLDDatasetOffsets,
    MTLDFloat32Linear,
    MTLDScaleHead,
    MTLDVisibilityHead,
)
from .loss_mtld import ItemCounts, mtld_loss
from .sampling_mtld import cell_grid, lay_out_maps, sample_map, sample_tokens

logger = logging.getLogger(__name__)


@dataclass
class MTLDOutput(ModelOutput):
    """Output of `MTLDForFacialLandmarkDetection`.

    Args:
        loss: scalar, Eq. 5; where labels were given.
        loss_dict: its terms by name, before their weights; where labels were given.
        landmarks: (batch, K, 2) float32, (x, y) as fractions of the crop: pixel x of a crop W wide is (x + 0.5) / W.
        intermediate_landmarks: (batch, layers, K, 2) float32, the positions after each decoder layer; the last are
            `landmarks`.
        initial_landmarks: (batch, K, 2) float32, what the first decoder layer starts from; None without a transformer.
        scales: (batch, K) float32, how far off each landmark is likely to be: scale b of a Laplace distribution around
            its x and y, as a fraction of the crop. The expected |dx| + |dy| is 2 b.
        scores: (batch, K) float32 in [0, 1], the confidence in each landmark: the probability, by `scales`, that
            |dx| + |dy| is at most 1.5 times what is usual for this landmark on the training faces. Their mean is a
            score of the face.
        visibilities: (batch, K) float32 in [0, 1], the probability that the head itself does not hide the landmark;
            None without a visibility head.
        heatmaps: (batch, K, heatmap_size, heatmap_size); where labels were given and the network was made
            `for_training`.
        hidden_states: on request, the landmark queries after each decoder layer, each (batch, K, hidden_size).
        attentions: on request, the cross-attention of each decoder layer, weights that add up to 1. Sampled attention:
            (batch, 1, K, samples), in the first layer those of s4 and then of s3, in the others of s3. Dense
            attention: (batch, heads, K, tokens), the tokens of s5, s4 and, but for the first layer, s3 one after the
            other, row by row.
        sampling_locations: with `output_sampling_locations=True` and sampled attention, the places of these samples,
            each (batch, K, samples, 2) float32, fractions of the crop; they may lie outside of it. The cells of s2
            that the last layer reads have no weights and are not among them.
    """

    loss: torch.FloatTensor | None = None
    loss_dict: dict | None = None
    landmarks: torch.FloatTensor | None = None
    intermediate_landmarks: torch.FloatTensor | None = None
    initial_landmarks: torch.FloatTensor | None = None
    scales: torch.FloatTensor | None = None
    scores: torch.FloatTensor | None = None
    visibilities: torch.FloatTensor | None = None
    heatmaps: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    sampling_locations: tuple[torch.FloatTensor, ...] | None = None


def position_embedding(points: torch.Tensor, width: int) -> torch.Tensor:
    """Sines and cosines of points (..., 2) in fractions of the crop, 1/4 to 16 periods a crop: (..., width) float32.

    16 periods a crop is the finest that the 32 x 32 tokens of s3 can tell apart. Being of fractions, the embedding of
    a place on the face is the same at every input size.
    """
    return _embed_coordinates(points, width // 2).flatten(-2)


def grid_embedding(height: int, width: int, hidden_size: int, device: torch.device | None = None) -> torch.Tensor:
    """`position_embedding` of the centres of the cells of a feature map, row by row: (height * width, hidden_size)."""
    rows = _embed_coordinates(_centres(height, device), hidden_size // 2)
    columns = rows if width == height else _embed_coordinates(_centres(width, device), hidden_size // 2)
    pairs = columns.expand(height, -1, -1), rows.unsqueeze(1).expand(-1, width, -1)
    return torch.cat(pairs, dim=-1).flatten(0, 1)


def _centres(count: int, device: torch.device | None) -> torch.Tensor:
    return (torch.arange(count, device=device, dtype=torch.float32) + 0.5) / count


def _embed_coordinates(values: torch.Tensor, width: int) -> torch.Tensor:
    """Of each value (...) its sines and cosines (..., width)."""
    exponents = torch.linspace(-2, 4, width // 2, device=values.device, dtype=torch.float32)
    angles = (2 * torch.pi * values.float()).unsqueeze(-1) * 2**exponents
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def eager_attention_forward(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """Attention written out; unlike sdpa it returns the weights. What it takes is (batch, heads, tokens, width)."""
    weights = (query @ key.transpose(-1, -2) * scaling).softmax(dim=-1)
    return (weights @ value).transpose(1, 2), weights


class MTLDAttention(nn.Module):
    """Multi-head attention (MHA in Eq. 1) of queries (batch, n, hidden) over keys and values (batch, m, hidden)."""

    def __init__(self, config: MTLDConfig):
        super().__init__()
        self.config = config
        self.is_causal = False  # read by transformers' sdpa
        self.head_size = config.hidden_size // config.num_attention_heads
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, queries, keys, values, output_attentions: bool = False):
        def split(states):
            return states.unflatten(-1, (-1, self.head_size)).transpose(1, 2)

        # transformers' sdpa fails on an empty batch, which a photo without a face makes.
        written_out = output_attentions or queries.shape[0] == 0
        implementation = "eager" if written_out else self.config._attn_implementation
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        mixed, weights = attend(
            self,
            split(self.q_proj(queries)),
            split(self.k_proj(keys)),
            split(self.v_proj(values)),
            None,
            scaling=self.head_size**-0.5,
            dropout=0.0,
        )
        return self.out_proj(mixed.flatten(-2)), weights


class MTLDFeedForward(nn.Module):
    """LN(t + FFN(t)), the second half of every block (Eq. 1)."""

    def __init__(self, hidden_size: int, intermediate_size: int):
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, intermediate_size)
        self.fc2 = nn.Linear(intermediate_size, hidden_size)
        self.norm = nn.LayerNorm(hidden_size)

    def forward(self, states):
        return self.norm(states + self.fc2(F.relu(self.fc1(states))))


class MTLDProjection(nn.Conv2d):
    """A 1 x 1 convolution (batch, channels, H, W) to tokens (batch, H * W, hidden), computed as a matrix product."""

    def __init__(self, channels: int, hidden_size: int):
        super().__init__(channels, hidden_size, kernel_size=1)

    def forward(self, feature_map):
        return F.linear(feature_map.flatten(2).transpose(1, 2), self.weight.flatten(1), self.bias)


class MTLDPyramidLevel(GradientCheckpointingLayer):
    """One level of Feature Pyramid Attention (Fig. 2a, Eq. 1).

    Queries are all cells of this level; keys and values are its product with the output of the level before, at the
    resolution of that level, which is four times coarser: attention over the 256 cells of s4 costs 64 keys a query.
    """

    def __init__(self, config: MTLDConfig, channels: int):
        super().__init__()
        self.input_proj = MTLDProjection(channels, config.hidden_size)
        self.input_norm = nn.LayerNorm(config.hidden_size)
        self.attention = MTLDAttention(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size)
        self.feed_forward = MTLDFeedForward(config.hidden_size, config.intermediate_size)

    def forward(self, feature_map, previous, previous_shape):
        """
        Args:
            feature_map: (batch, channels, H, W).
            previous: m of the level before, (batch, h * w, hidden), or None for the first level.
            previous_shape: (h, w).

        Returns:
            m, (batch, H * W, hidden).
        """
        shape, width = feature_map.shape[-2:], self.input_norm.normalized_shape[0]
        states = self.input_norm(self.input_proj(feature_map))
        values = states
        if previous is not None:
            grid = states.transpose(1, 2).unflatten(-1, shape)
            values = F.avg_pool2d(grid, 2).flatten(2).transpose(1, 2) * previous
        positions = grid_embedding(*shape, width, states.device).to(states.dtype)
        places = grid_embedding(*(previous_shape or shape), width, states.device).to(states.dtype)
        mixed, _ = self.attention(states + positions, values + places, values)
        return self.feed_forward(self.attention_norm(states + mixed))


class MTLDPyramidProduct(nn.Module):
    """A level of the pyramid without attention: LN(s + s o m), with the product itself where Eq. 1 attends to it.

    Each cell takes the m of the cell over it in the level before, which is half as fine.
    """

    def __init__(self, config: MTLDConfig, channels: int):
        super().__init__()
        self.input_proj = MTLDProjection(channels, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(self, feature_map, previous, previous_shape):
        """feature_map (batch, channels, 2 h, 2 w), previous (batch, h * w, hidden) or None for the first level,
        previous_shape (h, w). Returns m, (batch, 4 h * w, hidden)."""
        if previous is None:
            return self.norm(self.input_proj(feature_map))
        height, width = previous_shape
        states = self.input_proj(feature_map).unflatten(1, (height, 2, width, 2))
        context = previous.unflatten(1, (height, 1, width, 1))
        return self.norm((states * (1 + context)).flatten(1, 4))


class MTLDEncoderLayer(GradientCheckpointingLayer):
    """One transformer encoder layer of the Feature Fusion Encoder, over tokens that carry their positions."""

    def __init__(self, config: MTLDConfig):
        super().__init__()
        self.attention = MTLDAttention(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size)
        self.feed_forward = MTLDFeedForward(config.hidden_size, config.intermediate_size)

    def forward(self, tokens):
        mixed, _ = self.attention(tokens, tokens, tokens)
        return self.feed_forward(self.attention_norm(tokens + mixed))


COARSE_LEVELS = 2  # s5 and s4, which the Feature Fusion Encoder mixes


class MTLDMultiscaleEncoder(nn.Module):
    """The feature pyramid of s5, s4 and s3, then the Feature Fusion Encoder: feature maps in, tokens out.

    The levels go from coarse to fine, so that each refines what the one before found. The first
    `pyramid_attention_levels` attend (Feature Pyramid Attention), the others multiply. The layers of the Feature
    Fusion Encoder, if any, mix the tokens of s5 and s4; those of s3 are too many to attend to each other.
    """

    def __init__(self, config: MTLDConfig, channels: list[int]):
        super().__init__()
        self.config = config
        self.levels = nn.ModuleList(
            (MTLDPyramidLevel if index < config.pyramid_attention_levels else MTLDPyramidProduct)(config, count)
            for index, count in enumerate(channels[::-1][: config.num_feature_levels])
        )
        # Tokens that attend or are attended to carry where they are; sampled attention knows where it reads.
        coarse = min(len(self.levels), COARSE_LEVELS) if config.encoder_layers else 0
        self.placed = len(self.levels) if config.cross_attention == "dense" else coarse
        if self.placed:
            self.level_embedding = nn.Parameter(torch.zeros(self.placed, config.hidden_size))
        self.encoder = nn.ModuleList(MTLDEncoderLayer(config) for _ in range(config.encoder_layers))

    def forward(self, feature_maps) -> torch.Tensor:
        """feature_maps: s3, s4, s5, each (batch, channels, H, W). Returns the memory M, tokens of s5, s4, s3 one after
        the other, row by row: (batch, cells of all levels, hidden)."""
        tokens, previous, previous_shape = [], None, None
        for number, (level, feature_map) in enumerate(zip(self.levels, feature_maps[::-1])):
            previous = level(feature_map, previous, previous_shape)
            previous_shape = feature_map.shape[-2:]
            tokens.append(self._place(previous, previous_shape, number) if number < self.placed else previous)
        coarse = torch.cat(tokens[:COARSE_LEVELS], dim=1)
        for layer in self.encoder:
            coarse = layer(coarse)
        return torch.cat([coarse, *tokens[COARSE_LEVELS:]], dim=1)

    def _place(self, tokens, shape, number: int):
        positions = grid_embedding(*shape, self.config.hidden_size, tokens.device).to(tokens.dtype)
        return tokens + positions + self.level_embedding[number]


def zero_init(layer: nn.Module) -> nn.Module:
    """Marks an output layer for `_init_weights`: a new network predicts the mean face and empty heatmaps."""
    layer._zero_init = True
    return layer


class MTLDLinearHead(MTLDFloat32Linear):
    """The detection head of a decoder layer: a linear layer for each landmark.

    Queries (batch, K, hidden) become moves (batch, K, 2), fractions of the crop. It runs in float32 outside autocast,
    and so that `from_pretrained(dtype=...)` leaves it there (see `_keep_in_fp32_modules_strict`): landmarks rounded to
    bfloat16 lose 0.2 points of NME.
    """

    def __init__(self, config: MTLDConfig):
        super().__init__(config.hidden_size, config.num_landmarks * 2)
        zero_init(self)

    def forward(self, queries):
        with maybe_autocast(queries.device.type, enabled=False):
            weight, bias = self.weight.float().unflatten(0, (-1, 2)), self.bias.float().unflatten(0, (-1, 2))
            # For one face, a fifth of the time of a product of matrices for each landmark.
            return (queries.float().unsqueeze(2) * weight).sum(dim=-1) + bias


class MTLDSharedHead(nn.Module):
    """The detection head of the paper, three layers that all landmarks share; otherwise as `MTLDLinearHead`."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.fc1 = MTLDFloat32Linear(hidden_size, hidden_size)
        self.fc2 = MTLDFloat32Linear(hidden_size, hidden_size)
        self.out = zero_init(MTLDFloat32Linear(hidden_size, 2))

    def forward(self, queries):
        return self.out(F.relu(self.fc2(F.relu(self.fc1(queries)))))


class MTLDSamplingProjection(MTLDFloat32Linear):
    """Queries (..., hidden) to x and y of each sample, in cells from the landmark, and its logit: (..., samples, 3).

    New, it gives a grid of `size` x `size` cells of each map around the landmark and even weights, whatever the query.
    """

    def __init__(self, hidden_size: int, maps: int, size: int):
        super().__init__(hidden_size, 3 * maps * size**2)
        self.maps, self.size = maps, size

    def forward(self, queries):
        return super().forward(queries).unflatten(-1, (-1, 3))

    def grid(self) -> torch.Tensor:
        """The bias of a new one."""
        return torch.tensor([(x, y, 0.0) for x, y in cell_grid(self.size)] * self.maps).flatten()


class MTLDSampledAttention(nn.Module):
    """Cross-attention of each landmark to samples of the finest feature maps around where it was put last.

    Each map is read at `sampling_size` x `sampling_size` places, which start as a grid of its cells with the landmark
    in the middle; the query moves them, and weighs all of them by a softmax, as in deformable attention. Unlike there,
    each place has its own value projection, as in a convolution: a weighted mean would not tell where it saw what.
    """

    def __init__(self, config: MTLDConfig, maps: int):
        super().__init__()
        self.sampling = MTLDSamplingProjection(config.hidden_size, maps, config.sampling_size)
        self.out_proj = nn.Linear(maps * config.sampling_size**2 * config.hidden_size, config.hidden_size)

    def forward(self, queries, landmarks, memory, sizes, corners):
        """
        Args:
            queries: (batch, K, hidden).
            landmarks: (batch, K, 2) float32, fractions of the crop.
            memory: (batch, cells of all maps, hidden), one map after the other, row by row. The last `maps` are read.
            sizes, corners: of `lay_out_maps`.

        Returns:
            What was read, (batch, K, hidden), the weights (batch, 1, K, samples), whose sum is 1, and the places
            (batch, K, samples, 2) float32, fractions of the crop. The samples of the coarser map come first.
        """
        with maybe_autocast(queries.device.type, enabled=False):
            samples = self.sampling(queries)
            weights = samples[..., 2].softmax(dim=-1).unsqueeze(1)
            count = weights.shape[-1]
            sizes, corners = sizes[-count:], corners[-count:]
            places = landmarks.unsqueeze(2) + samples[..., :2] / sizes
            factors = weights.squeeze(1) * count  # 1 where they are even
            values = sample_tokens(memory.float(), sizes, corners, places, factors)
        return self.out_proj(values.flatten(2).to(queries.dtype)), weights, places


class MTLDFinePatch(nn.Module):
    """Reads s2 around each landmark, `fine_patch_size` squared of its cells, by one linear layer over all of them.

    s2 has four times the cells of s3, too many to make tokens of.
    """

    def __init__(self, config: MTLDConfig, channels: int):
        super().__init__()
        self.size = config.fine_patch_size
        self.norm = nn.LayerNorm(channels)
        self.out_proj = nn.Linear(self.size**2 * channels, config.hidden_size)

    def forward(self, landmarks, feature_map):
        """landmarks (batch, K, 2) float32, fractions of the crop; feature_map: s2, (batch, channels, H, W). Returns
        (batch, K, hidden)."""
        height, width = feature_map.shape[-2:]
        offsets = landmarks.new_tensor([(x / width, y / height) for x, y in cell_grid(self.size)])
        values = sample_map(feature_map, landmarks.unsqueeze(2) + offsets).permute(0, 2, 3, 1)
        return self.out_proj(self.norm(values.to(feature_map.dtype)).flatten(2))


class MTLDDecoderLayer(GradientCheckpointingLayer):
    """One layer of the Landmark Decoder (Fig. 2b): queries exchange what they know and read the image.

    With dense attention they exchange first, as in the paper. With sampled attention they read first, so that they
    have something to exchange: the finest tokens, the first layer those of the next coarser map too, and the last one
    also s2.
    """

    def __init__(self, config: MTLDConfig, fine_channels: int, number: int):
        super().__init__()
        self.sampled = config.cross_attention == "sampled"
        self.self_attention = MTLDAttention(config)
        self.self_attention_norm = nn.LayerNorm(config.hidden_size)
        if self.sampled:
            maps = min(config.num_feature_levels, 2) if number == 0 else 1
            self.cross_attention = MTLDSampledAttention(config, maps)
            if number == config.decoder_layers - 1 and config.fine_patch_size:
                self.fine_patch = MTLDFinePatch(config, fine_channels)
        else:
            self.cross_attention = MTLDAttention(config)
        self.cross_attention_norm = nn.LayerNorm(config.hidden_size)
        self.feed_forward = MTLDFeedForward(config.hidden_size, config.decoder_intermediate_size)
        shared = config.landmark_head == "shared"
        self.head = MTLDSharedHead(config.hidden_size) if shared else MTLDLinearHead(config)

    def forward(self, queries, landmarks, memory, layout, fine_map, output_attentions: bool = False):
        """
        Args:
            queries: (batch, K, hidden).
            landmarks: (batch, K, 2) float32, where the layer before put them, fractions of the crop.
            memory: of the encoder, (batch, cells, hidden).
            layout: of the feature maps in it, what `lay_out_maps` returns; for sampled attention alone.
            fine_map: s2, (batch, channels, H, W).

        Returns:
            The refined queries and landmarks.
        """
        positions = position_embedding(landmarks, queries.shape[-1]).to(queries.dtype)
        if self.sampled:
            read, *_ = self.cross_attention(queries + positions, landmarks, memory, *layout)
            if hasattr(self, "fine_patch"):
                read = read + self.fine_patch(landmarks, fine_map)
            queries = self.cross_attention_norm(queries + read)
            queries = self._exchange(queries, positions)
        else:
            queries = self._exchange(queries, positions)
            read, _ = self.cross_attention(queries + positions, memory, memory, output_attentions)
            queries = self.cross_attention_norm(queries + read)
        queries = self.feed_forward(queries)
        return queries, landmarks + self.head(queries)

    def _exchange(self, queries, positions):
        placed = queries + positions
        mixed, _ = self.self_attention(placed, placed, queries)
        return self.self_attention_norm(queries + mixed)


class MTLDBaseHead(nn.Module):
    """Table 3's "Base": s5 averaged over the crop, and one linear layer, whose moves are added to the mean face."""

    def __init__(self, config: MTLDConfig, channels: list[int]):
        super().__init__()
        self.mean_face = nn.Parameter(torch.full((config.num_landmarks, 2), 0.5, dtype=torch.float32))
        if config.use_pooled_estimate:
            self.out = zero_init(MTLDFloat32Linear(channels[-1], config.num_landmarks * 2))

    def estimate(self, feature_map) -> torch.Tensor:
        """feature_map: s5, (batch, channels, H, W). Returns (batch, K, 2) float32, fractions of the crop."""
        mean_face = self.mean_face.float().expand(feature_map.shape[0], -1, -1)
        if not hasattr(self, "out"):
            return mean_face
        return mean_face + self.out(feature_map.mean(dim=(-2, -1))).unflatten(-1, (-1, 2))


class MTLDLandmarkDecoder(MTLDBaseHead):
    """Landmark queries to coordinates, coarse to fine: from Base's estimate, each layer moves the landmarks of the one
    before.

    With dense attention each layer sees s5, s4 and s3, but the first: it sees s5 and s4.
    """

    def __init__(self, config: MTLDConfig, channels: list[int], fine_channels: int):
        super().__init__(config, channels)
        self.dense = config.cross_attention == "dense"
        self.samples = config.sampling_size**2
        self.queries = nn.Parameter(torch.zeros(config.num_landmarks, config.hidden_size))
        numbers = range(config.decoder_layers)
        self.layers = nn.ModuleList(MTLDDecoderLayer(config, fine_channels, number) for number in numbers)

    def forward(self, landmarks, memory, shapes, fine_map, output_attentions: bool = False):
        """
        Args:
            landmarks: (batch, K, 2) float32, the first estimate, fractions of the crop.
            memory: of the encoder, (batch, cells, hidden).
            shapes: (H, W) of each feature map in it.
            fine_map: s2, (batch, channels, H, W).

        Returns:
            (batch, layers, K, 2) float32.
        """
        queries = self.queries.to(memory.dtype).expand(memory.shape[0], -1, -1)
        coarse = sum(height * width for height, width in shapes[:COARSE_LEVELS])
        layout = None if self.dense else lay_out_maps(shapes, self.samples, memory.device)
        # Each head learns to mend what it is given; it does not teach the one before. A mean face alone has no loss of
        # its own: the first head teaches it.
        landmarks = landmarks.detach() if hasattr(self, "out") else landmarks
        estimates = []
        for number, layer in enumerate(self.layers):
            seen = memory[:, :coarse] if self.dense and number == 0 else memory
            queries, landmarks = layer(queries, landmarks, seen, layout, fine_map, output_attentions)
            estimates.append(landmarks)
            landmarks = landmarks.detach()
        return torch.stack(estimates, dim=1)


class MTLDHeatmapBranch(nn.Module):
    """The convolutions that turn s3, s4 and s5 into heatmaps (Section 3.3); for training alone."""

    def __init__(self, config: MTLDConfig, channels: list[int]):
        super().__init__()
        width = config.hidden_size
        self.upscale = (config.heatmap_size or config.image_size // 4) * STRIDES[1] // config.image_size
        self.laterals = nn.ModuleList(nn.Conv2d(count, width, kernel_size=1) for count in channels)
        self.conv = nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.out = zero_init(nn.Conv2d(width, config.num_landmarks * self.upscale**2, kernel_size=1))

    def forward(self, feature_maps) -> torch.Tensor:
        """feature_maps: s3, s4, s5. Returns (batch, K, H, W) float32, H and W `upscale` times those of s3."""
        shape = feature_maps[0].shape[-2:]
        levels = (lateral(feature_map) for lateral, feature_map in zip(self.laterals, feature_maps, strict=True))
        fused = sum(F.interpolate(level, shape, mode="bilinear", align_corners=False) for level in levels)
        return F.pixel_shuffle(self.out(F.relu(self.norm(self.conv(fused)))), self.upscale).float()


class MTLDPreTrainedModel(PushToHub, PreTrainedModel):
    config_class = MTLDConfig
    base_model_prefix = "mtld"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    # Else the Trainer would not average the loss over accumulated batches: it takes `**kwargs` for what it passes.
    accepts_loss_kwargs = False
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _can_record_outputs = {  # what `output_hidden_states` and `output_attentions` ask for
        "hidden_states": OutputRecorder(MTLDDecoderLayer, capture_initial_hidden_state=False),
        "attentions": [
            OutputRecorder(MTLDAttention, index=1, layer_name="cross_attention"),
            OutputRecorder(MTLDSampledAttention, index=1),
        ],
        "sampling_locations": OutputRecorder(MTLDSampledAttention, index=2),
    }
    _keep_in_fp32_modules_strict = ["head", "mean_face", "decoder.out", "sampling", "scale_head", "visibility_head"]
    _no_split_modules = ["MTLDPyramidLevel", "MTLDEncoderLayer", "MTLDDecoderLayer"]
    # A released checkpoint does not hold the heatmap branch.
    _keys_to_ignore_on_load_missing = [r"^heatmap_branch\."]
    _keys_to_ignore_on_load_unexpected = [r"^heatmap_branch\."]

    @torch.no_grad()
    def _init_weights(self, module):
        if getattr(module, "_zero_init", False):
            init.zeros_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, MTLDSamplingProjection):
            init.zeros_(module.weight)
            init.copy_(module.bias, module.grid())
        elif isinstance(module, (nn.Linear, nn.Conv2d)):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, (nn.LayerNorm, nn.BatchNorm2d)):
            init.ones_(module.weight)
            init.zeros_(module.bias)
            if isinstance(module, nn.BatchNorm2d):
                init.zeros_(module.running_mean)
                init.ones_(module.running_var)
                init.zeros_(module.num_batches_tracked)
        elif isinstance(module, MTLDMultiscaleEncoder) and module.placed:
            init.normal_(module.level_embedding, std=0.02)
        elif isinstance(module, MTLDLandmarkDecoder):
            # As large as what a landmark reads from the image: else the attention, which all landmarks share, learns
            # late which landmark it reads for.
            init.normal_(module.queries, std=1.0)
            init.constant_(module.mean_face, 0.5)
        elif isinstance(module, MTLDBaseHead):
            init.constant_(module.mean_face, 0.5)
        elif isinstance(module, MTLDScaleHead):
            init.normal_(module.landmark_embedding, std=0.1)
            init.constant_(module.usual_error, INITIAL_MEAN_ERROR)
            init.zeros_(module.out.weight)  # a new one predicts the mean errors
        elif isinstance(module, MTLDDatasetOffsets):
            init.zeros_(module.offsets)

    def __getstate__(self) -> dict:
        """For pickle, without the hooks behind `output_attentions` and its like, which transformers defines inside of
        a function: the next such request makes new ones."""
        for module in self.modules():
            hooks = module._forward_hooks
            for key in [key for key, hook in hooks.items() if hook.__module__ == capture_outputs.__module__]:
                del hooks[key]
        self._output_capturing_hooks_installed = False
        return self.__dict__.copy()


LOSS_INPUTS = ("intermediate_landmarks", "initial_landmarks", "heatmaps", "scales")  # of the predictions


def _select(predictions: dict[str, torch.Tensor], landmarks: list[int] | None) -> dict[str, torch.Tensor]:
    """`predictions` of these landmarks alone; None: of all."""
    if landmarks is None:
        return predictions
    places = {name: 2 if name == "intermediate_landmarks" else 1 for name in predictions}
    return {
        name: values.index_select(places[name], torch.tensor(landmarks, device=values.device))
        for name, values in predictions.items()
    }


class MTLDForFacialLandmarkDetection(MTLDPreTrainedModel):
    """Facial landmarks of face crops.

    ```python
    >>> model = MTLDForFacialLandmarkDetection(MTLDConfig(backbone="resnet18", num_landmarks=68))
    >>> model(torch.zeros(1, 3, 256, 256)).landmarks.shape
    torch.Size([1, 68, 2])
    ```

    Args:
        config: of the network.
        for_training: make the heatmap branch too, if `config.use_heatmap_loss`. A released checkpoint does not hold
            it, and nothing but its loss needs it. `from_pretrained(..., for_training=True)` does the same.
    """

    def __init__(self, config: MTLDConfig, for_training: bool = False):
        config.check()
        super().__init__(config)
        self.backbone = build_backbone(config.backbone_config, config.timm_kwargs)
        self.channels_last = is_channels_last(self.backbone._backbone)
        self.fixed_size = fixed_size(self.backbone._backbone)
        fine_channels, *channels = self.backbone.channels
        if config.use_multiscale_transformer:
            self.encoder = MTLDMultiscaleEncoder(config, channels)
            self.decoder = MTLDLandmarkDecoder(config, channels, fine_channels)
        else:
            self.decoder = MTLDBaseHead(config, channels)
        if for_training and config.use_heatmap_loss:
            self.heatmap_branch = MTLDHeatmapBranch(config, channels)
        # Last, and drawn in `post_init` alone: the others start from the same random weights with these and without.
        with init.no_init_weights():
            if config.use_scale_head:
                self.scale_head = MTLDScaleHead(config, channels)
            if config.use_visibility_head:
                self.visibility_head = zero_init(MTLDVisibilityHead(config, channels))
            if config.datasets:
                self.dataset_offsets = MTLDDatasetOffsets(config)
        self.post_init()
        self._make_channels_last()

    def train(self, mode: bool = True):
        """As in `nn.Module`. Warns, once, of a heatmap loss that is left out."""
        if mode and self.config.use_heatmap_loss and not hasattr(self, "heatmap_branch"):
            logger.warning_once(
                "use_heatmap_loss is left out: made without for_training=True, the network has no heatmap branch"
            )
        return super().train(mode)

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """As `PreTrainedModel.from_pretrained`. The weights of convolutions are channels-last in memory, as in a new
        network: ResNet-18 takes 5 to 10 % less time so on a CPU."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # with `output_loading_info`
        model._make_channels_last()
        return loaded

    def _make_channels_last(self):
        for weights in self.parameters():  # not `Module.to`, which a dispatched network refuses
            if weights.ndim == 4:
                weights.data = weights.data.contiguous(memory_format=torch.channels_last)

    @capture_outputs
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        visibility: torch.Tensor | None = None,
        dataset_ids: torch.Tensor | None = None,
        mirrored: torch.Tensor | None = None,
        topology: str | None = None,
        dataset: str | None = None,
        num_items_in_batch: ItemCounts | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MTLDOutput:
        """
        Args:
            pixel_values: (batch, 3, H, W), crops as `MTLDImageProcessor` makes them; H and W multiples of 32. Floats
                of any precision, which are cast to the network's.
            labels: (batch, K, 2), fractions of the crop, NaN where unannotated.
            visibility: (batch, K), with `labels` for a visibility head: 0 where the head itself hides the landmark,
                above 0 where it does not, NaN where that is not known.
            dataset_ids: (batch,) long, places in `config.datasets` of the sets whose habits the landmarks shall have;
                -1 for none of them.
            mirrored: (batch,) bool, with `dataset_ids` or `dataset`, the faces that are mirror images; None for none.
            topology: predict these landmarks of `config.topologies` alone, in their order; None for all K. Labels,
                hidden states and attentions are of all K.
            dataset: one of `config.datasets` for all faces, in place of `dataset_ids`; None leaves offsets out.
            num_items_in_batch: `count_items` of the whole batch, if `labels` are a part of it. The losses are then
                shares, and the scale head's `update_running_error` is left to be called with the whole batch.
            kwargs: `output_hidden_states`, `output_attentions`, `output_sampling_locations` and `return_dict`, by
                default as in the configuration. What else the processor returns is ignored.

        Raises:
            ValueError: if `pixel_values` or `labels` have another shape, pixels are whole numbers, H or W is not a
                multiple of 32, they are not those of a backbone made for one size, or the network has no such
                `topology` or `dataset`.
        """
        self._check_inputs(pixel_values, labels, topology)
        self._check_of_faces(pixel_values.shape[0], visibility, dataset_ids, mirrored, dataset)
        fine_map, *feature_maps = self._read_image(pixel_values)
        offsets = self._find_offsets(pixel_values.shape[0], dataset_ids, mirrored, dataset)
        output_attentions = bool(kwargs.get("output_attentions", self.config.output_attentions))
        predictions = self._locate(feature_maps, fine_map, offsets, output_attentions)
        # A part of a batch would move the running mean error too far.
        labels_of_batch = labels if num_items_in_batch is None else None
        loss_inputs = self._run_heads(feature_maps, predictions, labels_of_batch)
        loss_inputs |= {"counts": num_items_in_batch, "visibility": visibility}
        losses = {} if labels is None else self._compute_losses(labels, feature_maps, predictions, loss_inputs)
        predictions = _select(predictions, find_topology(self.config, topology).landmarks)
        landmarks = predictions["intermediate_landmarks"][:, -1]
        return MTLDOutput(landmarks=landmarks, **losses, **predictions)

    def _compute_losses(self, labels, feature_maps, predictions: dict, inputs: dict) -> dict:
        """`loss` and `loss_dict` of `MTLDOutput`, in float32. Adds the heatmaps to `predictions`."""
        if hasattr(self, "heatmap_branch"):
            predictions["heatmaps"] = self.heatmap_branch(feature_maps)
        inputs |= {name: predictions[name] for name in LOSS_INPUTS if name in predictions}
        with maybe_autocast(labels.device.type, enabled=False):
            loss, loss_dict = mtld_loss(self.config, labels.float(), **inputs)
        return {"loss": loss, "loss_dict": loss_dict}

    def _run_heads(self, feature_maps, predictions: dict, labels) -> dict:
        """Adds those of scale and visibility head to `predictions`. Returns what their losses take beside them."""
        loss_inputs = {}
        if self.config.use_scale_head:
            landmarks = predictions["intermediate_landmarks"][:, -1]
            scales, scores, running_mean_error = self.scale_head(feature_maps, landmarks, labels)
            predictions |= {"scales": scales, "scores": scores}
            loss_inputs["running_mean_error"] = running_mean_error
        if self.config.use_visibility_head:
            loss_inputs["visibility_logits"] = self.visibility_head(feature_maps[-1])
            predictions["visibilities"] = loss_inputs["visibility_logits"].sigmoid()
        return loss_inputs

    def _read_image(self, pixel_values) -> list[torch.Tensor]:
        """The feature maps s2 to s5, each (batch, channels, H, W)."""
        # No weights in the replicas of torch's DataParallel
        floats = (weights.dtype for weights in self.parameters() if weights.is_floating_point())
        pixel_values = pixel_values.to(next(floats, pixel_values.dtype))
        feature_maps = self.backbone(pixel_values, output_hidden_states=False, output_attentions=False).feature_maps
        return [level.permute(0, 3, 1, 2) for level in feature_maps] if self.channels_last else feature_maps

    def _locate(self, feature_maps, fine_map, offsets, output_attentions: bool) -> dict:
        """`intermediate_landmarks` and, with a transformer, `initial_landmarks` of `MTLDOutput`."""
        initial = self.decoder.estimate(feature_maps[-1])
        if not self.config.use_multiscale_transformer:
            return {"intermediate_landmarks": (initial if offsets is None else initial + offsets).unsqueeze(1)}
        shapes = [level.shape[-2:] for level in feature_maps[::-1][: self.config.num_feature_levels]]
        landmarks = self.decoder(initial, self.encoder(feature_maps), shapes, fine_map, output_attentions)
        if offsets is not None:
            initial, landmarks = initial + offsets, landmarks + offsets.unsqueeze(1)
        return {"intermediate_landmarks": landmarks, "initial_landmarks": initial}

    def _find_offsets(self, count: int, dataset_ids, mirrored, dataset: str | None):
        """Offsets (batch, K, 2) of the faces' sets, or None where no set is named."""
        if dataset is not None:
            dataset_ids = self.dataset_offsets.ids_of(dataset, count)
        return None if dataset_ids is None else self.dataset_offsets(dataset_ids, mirrored)

    def _check_inputs(self, pixel_values, labels, topology):
        if not isinstance(pixel_values, torch.Tensor):
            raise ValueError(f"pixel_values must be a tensor, but got {type(pixel_values).__name__}")
        if not pixel_values.is_floating_point():
            raise ValueError(f"pixel_values must be floats, as the processor makes them, but got {pixel_values.dtype}")
        if pixel_values.ndim != 4 or pixel_values.shape[1] != 3 or 0 in pixel_values.shape[-2:]:
            raise ValueError(f"pixel_values must be of shape (batch, 3, H, W), but got {tuple(pixel_values.shape)}")
        height, width = pixel_values.shape[-2:]
        if height % STRIDES[-1] or width % STRIDES[-1]:
            raise ValueError(f"pixel_values must have sides that are multiples of 32, but got {height} x {width}")
        if self.fixed_size not in (None, (height, width)):
            fixed = " x ".join(map(str, self.fixed_size))
            raise ValueError(f"pixel_values must be {fixed} for this backbone, but got {height} x {width}")
        expected = (pixel_values.shape[0], self.config.num_landmarks, 2)
        if labels is not None and tuple(labels.shape) != expected:
            raise ValueError(f"labels must be of shape {expected} (batch, K, 2), but got {tuple(labels.shape)}")
        if labels is not None and topology is not None:
            raise ValueError(f"topology must be None with labels, which are of all landmarks, but got {topology!r}")

    def _check_of_faces(self, count: int, visibility, dataset_ids, mirrored, dataset):
        shapes = {"visibility": (count, self.config.num_landmarks), "dataset_ids": (count,), "mirrored": (count,)}
        values = {"visibility": visibility, "dataset_ids": dataset_ids, "mirrored": mirrored}
        for name, value in values.items():
            if value is not None and tuple(value.shape) != shapes[name]:
                raise ValueError(f"{name} must be of shape {shapes[name]}, but got {tuple(value.shape)}")
        if dataset_ids is not None and dataset_ids.dtype != torch.long:
            raise ValueError(f"dataset_ids must be of dtype int64, but got {dataset_ids.dtype}")
        if mirrored is not None and mirrored.dtype != torch.bool:
            raise ValueError(f"mirrored must be of dtype bool, but got {mirrored.dtype}")
        if dataset is not None and dataset_ids is not None:
            raise ValueError(f"dataset must be None where dataset_ids are given, but got {dataset!r}")
        if not self.config.datasets and (dataset is not None or dataset_ids is not None):
            name, found = ("dataset_ids", "a tensor") if dataset is None else ("dataset", repr(dataset))
            raise ValueError(f"{name} must be None for a network without offsets, but got {found}")

    @torch.no_grad()
    def set_mean_face(self, mean_face: torch.Tensor):
        """Starts the decoder from `mean_face` (K, 2), fractions of the crop, instead of from the crop's centre."""
        expected = (self.config.num_landmarks, 2)
        mean_face = torch.as_tensor(mean_face)
        if tuple(mean_face.shape) != expected or not torch.isfinite(mean_face).all():
            raise ValueError(f"mean_face must be finite and of shape {expected}, but got {tuple(mean_face.shape)}")
        self.decoder.mean_face.copy_(mean_face)

    @torch.no_grad()
    def load_backbone_weights(self, file: str | None = None):
        """Loads timm's pretrained weights into the backbone: those of the Hub, or those in `file` under timm's names.

        It is a step of its own because weights that timm loads inside `__init__` are re-drawn by transformers: it
        resets the statistics of batch norm.

        Raises:
            ValueError: if `file` cannot be read, or is not of this backbone.
        """
        config = self.config.backbone_config
        try:
            weights = read_pretrained(config.backbone, self.config.timm_kwargs, config.out_indices, file)
        except Exception as error:  # timm, safetensors, pickle and the Hub each raise their own
            raise ValueError(f"backbone weights of {config.backbone!r} from {file or 'the Hub'}: {error}") from error
        self.backbone._backbone.load_state_dict(weights)

    def save_pretrained(
        self,
        save_directory,
        is_main_process: bool = True,
        state_dict: dict | None = None,
        push_to_hub: bool = False,
        **kwargs,
    ):
        """Writes weights without the heatmap branch, configuration, model card, and the code that AutoModel needs.

        The card of the checkpoint that the model was loaded from goes with it as long as the weights are the same.

        Args:
            save_directory, is_main_process, state_dict: as in `PreTrainedModel.save_pretrained`. The Trainer's
                `checkpoint-...` keep the heatmap branch: a training goes on from them.
            push_to_hub: pushes what is in the directory too.
            kwargs: its other options, and those of `push_checkpoint`.

        Raises:
            ValueError: if `save_directory` is a file.
        """
        from .hub_mtld import PUSH_OPTIONS, push_directory
        from .model_card_mtld import inherited, write_model_card

        if os.path.isfile(save_directory):
            raise ValueError(f"save_directory must be a directory, but got the file {save_directory}")
        hub = {name: kwargs.pop(name) for name in PUSH_OPTIONS if name in kwargs}
        weights = self.state_dict() if state_dict is None else state_dict
        if not Path(save_directory).name.startswith(f"{PREFIX_CHECKPOINT_DIR}-"):
            weights = {name: value for name, value in weights.items() if not name.startswith("heatmap_branch.")}
        known = inherited(self.config, weights) if is_main_process else ()
        super().save_pretrained(save_directory, is_main_process=is_main_process, state_dict=weights, **kwargs)
        if is_main_process:
            write_model_card(save_directory, self.config, *known)
            if push_to_hub:
                push_directory(self, save_directory, **hub)


__all__ = ["MTLDForFacialLandmarkDetection", "MTLDOutput", "MTLDPreTrainedModel"]
