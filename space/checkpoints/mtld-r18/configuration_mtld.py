"""Configuration of MTLD."""

import math

from transformers import PreTrainedConfig, TimmBackboneConfig

from .publishing_mtld import complete_checkpoint

STRIDES = (8, 16, 32)  # of the feature maps s3, s4 and s5 (Section 3.2)
RESERVED = {"pretrained", "features_only", "out_indices"}  # of timm.create_model, which the model sets itself
LEAST = {  # of the fields that are whole numbers
    "image_size": STRIDES[-1],
    "num_landmarks": 1,
    "hidden_size": 1,
    "num_attention_heads": 1,
    "intermediate_size": 1,
    "decoder_intermediate_size": 1,
    "encoder_layers": 0,
    "decoder_layers": 1,
    "num_neighbors": 0,
}


class MTLDConfig(PreTrainedConfig):
    r"""Everything that decides the shape of an MTLD network and its training loss.

    The three `use_...` switches are the modules of the paper's Table 3; all of them off is its "Base": pooled s5 and
    one linear layer.

    Args:
        backbone (`str`): name of a timm model with feature maps at strides 8, 16 and 32.
        backbone_kwargs (`dict`, *optional*): passed on to `timm.create_model`.
        backbone_config (`TimmBackboneConfig` or `dict`, *optional*): built from `backbone` where not given.
        image_size (`int`): side of the square crop in pixels. Other sizes work too: positions are fractions.
        num_landmarks (`int`): K.
        landmark_names (`list[str]`, *optional*): K names.
        flip_pairs (`list[list[int]]`, *optional*): pairs of landmarks that change places in a mirrored face.
        hidden_size (`int`): width of the transformer; a multiple of 4 and of `num_attention_heads`.
        num_attention_heads (`int`): heads of every attention.
        intermediate_size (`int`): inner width of the feed-forward networks over image tokens.
        decoder_intermediate_size (`int`): the same over landmark queries, of which there are few.
        encoder_layers (`int`): layers of the Feature Fusion Encoder.
        decoder_layers (`int`): layers of the Landmark Decoder, each with a head of its own.
        use_multiscale_transformer (`bool`): Feature Pyramid Attention, Feature Fusion Encoder and Landmark Decoder.
        use_heatmap_loss (`bool`): the heatmap branch and Eq. 2.
        use_structure_loss (`bool`): Eq. 4.
        heatmap_size (`int`, *optional*): side of the heatmaps; a quarter of `image_size` where not given.
        heatmap_sigma (`float`): standard deviation of the Gaussians, in pixels of the heatmap.
        coordinate_loss_weight, heatmap_loss_weight, structure_loss_weight (`float`): the lambdas of Eq. 5.
        num_neighbors (`int`): landmarks compared with each landmark in Eq. 4 (Table 5).
        structure_distance (`str`): `"squared"` as printed in Eq. 4, or `"euclidean"`.

    Raises:
        ValueError: naming the argument that cannot be.
    """

    model_type = "mtld"
    # The Trainer gathers what is not named here.
    keys_to_ignore_at_inference = ["intermediate_landmarks", "heatmaps", "hidden_states", "attentions", "loss_dict"]

    backbone: str = "resnet18"
    backbone_kwargs: dict | None = None
    backbone_config: dict | PreTrainedConfig | None = None
    image_size: int = 256
    num_landmarks: int = 68
    landmark_names: list | None = None
    flip_pairs: list | None = None
    hidden_size: int = 96
    num_attention_heads: int = 4
    intermediate_size: int = 192
    decoder_intermediate_size: int = 256
    encoder_layers: int = 1
    decoder_layers: int = 2
    use_multiscale_transformer: bool = True
    use_heatmap_loss: bool = True
    use_structure_loss: bool = True
    heatmap_size: int | None = None
    heatmap_sigma: float = 1.5
    coordinate_loss_weight: float = 1.0
    heatmap_loss_weight: float = 10.0
    structure_loss_weight: float = 5.0
    num_neighbors: int = 5
    structure_distance: str = "squared"

    def __post_init__(self, **kwargs):
        self.backbone_kwargs = dict(self.backbone_kwargs or {})
        for name in sorted(RESERVED & self.backbone_kwargs.keys()):
            raise ValueError(f"backbone_kwargs must not set {name}, but got {self.backbone_kwargs[name]!r}")
        if self.backbone_config is None:
            self.backbone_config = TimmBackboneConfig(
                backbone=self.backbone, out_indices=_stage_indices(self.backbone, self.backbone_kwargs)
            )
        elif isinstance(self.backbone_config, dict):
            known = {key: value for key, value in self.backbone_config.items() if key != "model_type"}
            self.backbone_config = TimmBackboneConfig(**known)
        self.backbone = getattr(self.backbone_config, "backbone", None)
        self.check()
        super().__post_init__(**kwargs)

    def check(self):
        """Raises the ValueErrors; the model asks again, as `from_pretrained` sets fields on what is built already."""
        self._check_backbone()
        self._check_numbers()
        self._check_switches()
        self._check_landmarks()

    def _check_backbone(self):
        config = self.backbone_config
        if not isinstance(config, TimmBackboneConfig) or not isinstance(config.backbone, str):
            raise ValueError(f"backbone_config must be a TimmBackboneConfig with a backbone, but got {config!r}")
        if len(config.out_indices or ()) != len(STRIDES):
            raise ValueError(
                f"backbone_config must have the out_indices of the feature maps at strides {STRIDES}, "
                f"but got {config.out_indices}"
            )
        if self.backbone != config.backbone:
            raise ValueError(f"backbone must be that of backbone_config ({config.backbone}), but got {self.backbone}")

    def _check_numbers(self):
        for name, least in LEAST.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, but got {value!r}")
        for name in ("heatmap_sigma", "coordinate_loss_weight", "heatmap_loss_weight", "structure_loss_weight"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
                raise ValueError(f"{name} must be a finite number of at least 0, but got {value!r}")
        if self.heatmap_sigma == 0:
            raise ValueError("heatmap_sigma must be positive, but got 0")
        if self.image_size % STRIDES[-1]:
            raise ValueError(f"image_size must be a multiple of {STRIDES[-1]}, but got {self.image_size}")
        if self.hidden_size % 4 or self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size must be a multiple of 4 and of num_attention_heads ({self.num_attention_heads}), "
                f"but got {self.hidden_size}"
            )

    def _check_switches(self):
        for name in ("use_multiscale_transformer", "use_heatmap_loss", "use_structure_loss"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false, but got {getattr(self, name)!r}")
        if self.structure_distance not in ("squared", "euclidean"):
            raise ValueError(
                f"structure_distance must be 'squared' or 'euclidean', but got {self.structure_distance!r}"
            )
        size, cells = self.heatmap_size, self.image_size // STRIDES[0]
        if size is not None and (not isinstance(size, int) or size < cells or size % cells):
            raise ValueError(f"heatmap_size must be a multiple of image_size / 8 ({cells}), but got {size!r}")

    def _check_landmarks(self):
        count = self.num_landmarks
        if self.landmark_names is not None and len(self.landmark_names) != count:
            raise ValueError(
                f"landmark_names must hold num_landmarks ({count}) names, but got {len(self.landmark_names)}"
            )
        for pair in self.flip_pairs or []:
            numbers = pair if isinstance(pair, list | tuple) else [pair]
            if len(numbers) != 2 or not all(isinstance(index, int) and 0 <= index < count for index in numbers):
                raise ValueError(f"flip_pairs must be pairs of indices below {count}, but got {pair}")

    def save_pretrained(self, save_directory, push_to_hub: bool = False, **kwargs):
        """Writes config.json with all that the Auto classes and pipelines ask of it, and the code that they load.

        `MTLDForFacialLandmarkDetection.save_pretrained` comes here before anything goes to the Hub.
        """
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
        complete_checkpoint(save_directory, self._name_or_path)


def _stage_indices(backbone: str, backbone_kwargs: dict) -> list[int]:
    """Indices of the backbone's feature maps at strides 8, 16 and 32; the last of each stride."""
    import timm
    import torch

    if not isinstance(backbone, str) or not timm.is_model(backbone):
        raise ValueError(f"backbone must be the name of a timm model (see timm.list_models()), but got {backbone!r}")
    try:
        with torch.device("meta"):
            reductions = timm.create_model(backbone, features_only=True, **backbone_kwargs).feature_info.reduction()
    except (RuntimeError, TypeError) as error:  # what timm raises where it knows no such argument, or no feature maps
        raise ValueError(f"backbone {backbone!r} with backbone_kwargs {backbone_kwargs}: {error}") from error
    missing = [stride for stride in STRIDES if stride not in reductions]
    if missing:
        raise ValueError(
            f"backbone must have feature maps at strides {STRIDES}, but got {backbone!r} with those at {reductions}"
        )
    return [len(reductions) - 1 - reductions[::-1].index(stride) for stride in STRIDES]


__all__ = ["MTLDConfig"]
