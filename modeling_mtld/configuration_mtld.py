"""Configuration of MTLD, and the sets of landmarks, called topologies, that one network predicts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

from transformers import PreTrainedConfig, TimmBackboneConfig

from .auto_mtld import PushToHub, complete_checkpoint
from .backbone_mtld import STRIDES, check_backbone_kwargs, current_name, pretrained_cfg, stage_indices, timm_kwargs

MINIMUM = {  # of the fields that are whole numbers
    "image_size": STRIDES[-1],
    "num_landmarks": 1,
    "hidden_size": 1,
    "num_attention_heads": 1,
    "intermediate_size": 1,
    "decoder_intermediate_size": 1,
    "encoder_layers": 0,
    "decoder_layers": 1,
    "num_feature_levels": 1,
    "pyramid_attention_levels": 0,
    "sampling_size": 1,
    "fine_patch_size": 0,
    "num_neighbors": 0,
}
LOSSES = ("coordinate", "initial", "heatmap", "structure", "scale", "visibility")
CHOICES = {
    "cross_attention": ("sampled", "dense"),
    "landmark_head": ("per_landmark", "shared"),
    "structure_distance": ("squared", "euclidean"),
}


def check_score(value, name: str):
    """Raises a ValueError unless `value` is a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a number from 0 to 1, but got {value!r}")


@dataclass(frozen=True)
class Topology:
    """One set of K' landmarks of a network with K.

    Attributes:
        landmarks: indices of its landmarks among those of the network, in its own order; None for all of them.
        landmark_names: K' names, or None.
        flip_pairs: pairs of indices below K' that change places in a mirrored face, or None where they are not known.
        normalizer: name of the distance that its errors are divided by, or None.
    """

    landmarks: list[int] | None
    landmark_names: list[str] | None
    flip_pairs: list[list[int]] | None
    normalizer: str | None = None


def find_topology(config, name: str | None) -> Topology:
    """The topology of an `MTLDConfig` by its name; for None all landmarks of the network.

    Raises:
        ValueError: if the network has none of this name.
    """
    if name is None:
        return Topology(None, config.landmark_names, config.flip_pairs)
    known = config.topologies or {}
    if not isinstance(name, str) or name not in known:
        has = f"one of {', '.join(known)}" if known else "None for a network with one topology"
        raise ValueError(f"topology must be {has}, but got {name!r}")
    return Topology(**known[name])


def check_topologies(config):
    """Raises a ValueError that names the topology of `config` that cannot be."""
    if config.topologies is None and config.default_topology is None:
        return
    if not isinstance(config.topologies, dict) or not config.topologies:
        raise ValueError(f"topologies must be None or map names to topologies, but got {config.topologies!r}")
    for name, values in config.topologies.items():
        try:
            topology = Topology(**values)
        except TypeError as error:
            raise ValueError(f"topologies must hold the fields of a Topology, but got {name!r}: {error}") from None
        check_indices(f"landmarks of topology {name!r}", topology.landmarks, config.num_landmarks)
        check_landmarks(topology, len(topology.landmarks), f" of topology {name!r}")
    if config.default_topology not in config.topologies:
        raise ValueError(
            f"default_topology must be one of {', '.join(config.topologies)}, but got {config.default_topology!r}"
        )


def check_indices(name: str, indices, count: int):
    """Raises ValueError unless `indices` is a list of different whole numbers below `count`."""
    is_list = isinstance(indices, list | tuple) and len(indices) > 0
    if not is_list or not all(type(index) is int and 0 <= index < count for index in indices):
        raise ValueError(f"{name} must be indices below {count}, but got {indices!r}")
    if len(set(indices)) < len(indices):
        raise ValueError(f"{name} must hold each landmark once, but got {indices}")


def check_landmarks(owner, count: int, of: str = ""):
    """Raises ValueError unless `landmark_names` and `flip_pairs` of `owner`, a Topology or an `MTLDConfig`, are those
    of `count` landmarks. `of` says in the message whose they are."""
    for name in ("landmark_names", "flip_pairs"):
        value = getattr(owner, name)
        if value is not None and not isinstance(value, list | tuple):
            raise ValueError(f"{name}{of} must be a list or None, but got {value!r}")
    if owner.landmark_names is not None and len(owner.landmark_names) != count:
        raise ValueError(
            f"landmark_names{of} must hold {count} names, one a landmark, but got {len(owner.landmark_names)}; for "
            "other landmarks than a checkpoint's, give landmark_names and flip_pairs too, which may be None"
        )
    for pair in owner.flip_pairs or []:
        numbers = pair if isinstance(pair, list | tuple) else [pair]
        if len(numbers) != 2 or not all(type(index) is int and 0 <= index < count for index in numbers):
            raise ValueError(f"flip_pairs{of} must be pairs of indices below {count}, but got {pair}")
    paired = [index for pair in owner.flip_pairs or [] for index in pair]
    if len(set(paired)) < len(paired):
        raise ValueError(f"flip_pairs{of} must hold each landmark once, but got {owner.flip_pairs}")


def flip_order(flip_pairs: Sequence[Sequence[int]] | None, num_landmarks: int) -> list[int]:
    """For each landmark the one that takes its place in a mirrored face: its partner, or itself where it has none.

    Raises:
        ValueError: if `flip_pairs` is None, or does not hold pairs of landmarks below `num_landmarks`, each in one.
    """
    if flip_pairs is None:
        raise ValueError(
            "flip_pairs must be the pairs of landmarks that change places in a mirrored face, but got None"
        )
    named = [index for pair in flip_pairs for index in pair]
    if len(set(named)) < 2 * len(flip_pairs) or not set(named) <= set(range(num_landmarks)):
        raise ValueError(
            f"flip_pairs must be pairs of landmarks below {num_landmarks}, each in one, but got {flip_pairs}"
        )
    order = list(range(num_landmarks))
    for left, right in flip_pairs:
        order[left], order[right] = right, left
    return order


class MTLDConfig(PushToHub, PreTrainedConfig):
    r"""Everything that decides the shape of an MTLD network and its training loss.

    The three `use_...` switches are the modules of the paper's Table 3; all of them off is its "Base": pooled s5 and
    one linear layer.

    Args:
        backbone (`str`): name of a timm model with feature maps at strides 4, 8, 16 and 32, with or without a tag of
            its pretrained weights: `"resnet18"` or `"resnet18.a1_in1k"`.
        backbone_kwargs (`dict`, *optional*): passed on to `timm.create_model`; JSON values. A timm model that is made
            for one input size, such as Swin, gets `img_size=image_size` unless it is given here.
        backbone_config (`TimmBackboneConfig` or `dict`, *optional*): built from `backbone` where not given.
        image_size (`int`): side of the square crop in pixels. Other sizes work too, as positions are fractions, unless
            the backbone is made for one.
        num_landmarks (`int`): K.
        landmark_names (`list[str]`, *optional*): K names.
        flip_pairs (`list[list[int]]`, *optional*): pairs of landmarks that change places in a mirrored face.
        topologies (`dict`, *optional*): of a network that was trained with several sets of landmarks, each by its
            name: the fields of `Topology`. A forward pass predicts all K; `topology=` chooses some of them.
        default_topology (`str`, *optional*): the one that pipelines give unless they are asked for another.
        datasets (`list[str]`, *optional*): names of training sets whose annotations have habits of their own: an
            offset for each landmark, which `dataset=` adds.
        hidden_size (`int`): width of the transformer; a multiple of 4 and of `num_attention_heads`.
        num_attention_heads (`int`): heads of every attention.
        intermediate_size (`int`): inner width of the feed-forward networks over image tokens.
        decoder_intermediate_size (`int`): the same over landmark queries, of which there are few.
        encoder_layers (`int`): layers of the Feature Fusion Encoder; 0 for none.
        decoder_layers (`int`): layers of the Landmark Decoder, each with a head of its own.
        num_feature_levels (`int`): feature maps that the transformer reads, the coarsest first: 3 are s5, s4 and s3.
        pyramid_attention_levels (`int`): levels of the feature pyramid that attend, the coarsest first. The others
            take the product of Eq. 1 alone; 3 is the paper's.
        cross_attention (`str`): how the decoder reads the feature maps: `"sampled"`, around the last estimate, or
            `"dense"`, over all tokens, as in the paper.
        sampling_size (`int`): sampled attention reads this number squared of places of each map around each landmark.
        fine_patch_size (`int`): the last layer of sampled attention also reads this number squared of cells of s2, the
            feature map at stride 4; 0 for none.
        landmark_head (`str`): what turns queries into moves: `"per_landmark"`, a linear layer for each landmark, or
            `"shared"`, three layers for all of them.
        use_pooled_estimate (`bool`): the decoder starts from Base's estimate, which has a loss of its own; otherwise
            from the mean face. Base needs it.
        use_multiscale_transformer (`bool`): feature pyramid, Feature Fusion Encoder and Landmark Decoder.
        use_heatmap_loss (`bool`): the heatmap branch and Eq. 2, in a network that is made `for_training`.
        use_structure_loss (`bool`): Eq. 4.
        use_visibility_head (`bool`): for every landmark whether the head itself hides it. It is not in the paper.
        use_scale_head (`bool`): a confidence for every landmark. It changes nothing else, and is not in the paper. A
            checkpoint without these weights needs `False`, or the training of this part.
        heatmap_size (`int`, *optional*): side of the heatmaps; a quarter of `image_size` where not given.
        heatmap_sigma (`float`): standard deviation of the Gaussians, in pixels of the heatmap.
        coordinate_loss_weight, heatmap_loss_weight, structure_loss_weight (`float`): the lambdas of Eq. 5.
        initial_loss_weight (`float`): of the coordinate loss of the estimate that the decoder starts from.
        scale_loss_weight (`float`): of the scale head's likelihood. It shares no parameter with the others, and Adam
            does not mind its size; it is small so that clipping by the norm of all gradients is not up to it.
        visibility_loss_weight (`float`): of the cross-entropy of the visibility head.
        min_face_score (`float`): mean score of a face's landmarks, below which the pipeline takes what a face detector
            found for no face. `python -m training_mtld.detection` chooses it.
        num_neighbors (`int`): landmarks compared with each landmark in Eq. 4 (Table 5).
        structure_distance (`str`): `"squared"` as printed in Eq. 4, or `"euclidean"`.

    Raises:
        ValueError: naming the argument that cannot be.
    """

    model_type = "mtld"
    sub_configs = {"backbone_config": TimmBackboneConfig}  # attention implementation and dtype reach it
    attribute_map = {"num_hidden_layers": "decoder_layers"}
    # The Trainer gathers what is not named here.
    keys_to_ignore_at_inference = [
        "loss_dict",
        "intermediate_landmarks",
        "initial_landmarks",
        "scales",
        "scores",
        "visibilities",
        "heatmaps",
        "hidden_states",
        "attentions",
        "sampling_locations",
    ]

    backbone: str = "resnet18"
    backbone_kwargs: dict | None = None
    backbone_config: dict | PreTrainedConfig | None = None
    image_size: int = 256
    num_landmarks: int = 68
    landmark_names: list | None = None
    flip_pairs: list | None = None
    topologies: dict | None = None
    default_topology: str | None = None
    datasets: list | None = None
    hidden_size: int = 96
    num_attention_heads: int = 4
    intermediate_size: int = 192
    decoder_intermediate_size: int = 256
    encoder_layers: int = 0
    decoder_layers: int = 2
    num_feature_levels: int = 3
    pyramid_attention_levels: int = 0
    cross_attention: str = "sampled"
    sampling_size: int = 3
    fine_patch_size: int = 3
    landmark_head: str = "per_landmark"
    use_pooled_estimate: bool = True
    use_multiscale_transformer: bool = True
    use_heatmap_loss: bool = True
    use_structure_loss: bool = True
    use_scale_head: bool = True
    use_visibility_head: bool = False
    heatmap_size: int | None = None
    heatmap_sigma: float = 1.5
    coordinate_loss_weight: float = 1.0
    initial_loss_weight: float = 1.0
    heatmap_loss_weight: float = 0.25
    structure_loss_weight: float = 5.0
    scale_loss_weight: float = 0.01
    visibility_loss_weight: float = 0.01
    min_face_score: float = 0.5
    num_neighbors: int = 5
    structure_distance: str = "squared"

    def __post_init__(self, **kwargs):
        self.backbone_kwargs = check_backbone_kwargs(self.backbone_kwargs)
        if self.backbone_config is None:
            self._check_numbers()
            self.backbone = current_name(self.backbone)
            indices = stage_indices(self.backbone, self.timm_kwargs, self.image_size)
            self.backbone_config = TimmBackboneConfig(backbone=self.backbone, out_indices=indices)
        elif isinstance(self.backbone_config, dict):
            known = {key: value for key, value in self.backbone_config.items() if key != "model_type"}
            self.backbone_config = TimmBackboneConfig(**known)
        self.backbone = getattr(self.backbone_config, "backbone", None)
        self.check()
        super().__post_init__(**kwargs)

    @property
    def timm_kwargs(self) -> dict:
        """What `timm.create_model` gets: `backbone_kwargs`, and `img_size` if the timm model is made for one size."""
        return timm_kwargs(self.backbone, self.backbone_kwargs, self.image_size)

    @property
    def normalization(self) -> dict[str, list[float]]:
        """`image_mean` and `image_std` that the backbone's pretrained weights expect, for `MTLDImageProcessor`."""
        pretrained = pretrained_cfg(self.backbone)
        return {"image_mean": list(pretrained.mean), "image_std": list(pretrained.std)}

    def check(self):
        """Raises the ValueErrors; the model asks again, as `from_pretrained` sets fields on what is built already."""
        self._check_backbone()
        self._check_numbers()
        self._check_switches()
        self._check_landmarks()

    def _check_backbone(self):
        check_backbone_kwargs(self.backbone_kwargs)
        config = self.backbone_config
        if not isinstance(config, TimmBackboneConfig) or not isinstance(config.backbone, str):
            raise ValueError(f"backbone_config must be a TimmBackboneConfig with a backbone, but got {config!r}")
        if len(config.out_indices or ()) != len(STRIDES):
            raise ValueError(
                f"backbone_config must have the out_indices of the feature maps at strides {STRIDES}, "
                f"but got {config.out_indices}; a checkpoint of an earlier version lacks the first"
            )
        if self.backbone != config.backbone:
            raise ValueError(f"backbone must be that of backbone_config ({config.backbone}), but got {self.backbone}")

    def _check_numbers(self):
        for name, least in MINIMUM.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, but got {value!r}")
        for name in (
            "heatmap_sigma",
            *(f"{loss}_loss_weight" for loss in LOSSES),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
                raise ValueError(f"{name} must be a finite number of at least 0, but got {value!r}")
        check_score(self.min_face_score, "min_face_score")
        if self.heatmap_sigma == 0:
            raise ValueError("heatmap_sigma must be positive, but got 0")
        levels = len(STRIDES) - 1  # all but s2
        if self.num_feature_levels > levels:
            raise ValueError(f"num_feature_levels must be at most {levels}, but got {self.num_feature_levels}")
        if self.image_size % STRIDES[-1]:
            raise ValueError(f"image_size must be a multiple of {STRIDES[-1]}, but got {self.image_size}")
        if self.hidden_size % 4 or self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size must be a multiple of 4 and of num_attention_heads ({self.num_attention_heads}), "
                f"but got {self.hidden_size}"
            )

    def _check_switches(self):
        for name in (name for name in MTLDConfig.__annotations__ if name.startswith("use_")):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false, but got {getattr(self, name)!r}")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be {choices[0]!r} or {choices[1]!r}, but got {getattr(self, name)!r}")
        if not (self.use_multiscale_transformer or self.use_pooled_estimate):
            raise ValueError("use_pooled_estimate must be true without the multi-scale transformer, but got False")
        size, cells = self.heatmap_size, self.image_size // STRIDES[1]
        if size is not None and (not isinstance(size, int) or size < cells or size % cells):
            raise ValueError(f"heatmap_size must be a multiple of image_size / 8 ({cells}), but got {size!r}")

    def _check_landmarks(self):
        check_landmarks(self, self.num_landmarks)
        check_topologies(self)
        names = self.datasets
        is_list = isinstance(names, list | tuple) and len(names) > 0 and all(isinstance(name, str) for name in names)
        if names is not None and (not is_list or len(set(names)) < len(names)):
            raise ValueError(f"datasets must be None or a list of different names, but got {names!r}")

    def save_pretrained(self, save_directory, push_to_hub: bool = False, **kwargs):
        """Writes config.json with all that the Auto classes and pipelines ask of it, and the code that they load.

        Args:
            push_to_hub: pushes these files too.
            kwargs: options of `push_checkpoint`.
        """
        super().save_pretrained(save_directory)
        complete_checkpoint(save_directory)
        if push_to_hub:
            from .hub_mtld import CONFIGURATION_FILES, push_directory

            push_directory(self, save_directory, files=CONFIGURATION_FILES, **kwargs)


__all__ = ["MTLDConfig"]
