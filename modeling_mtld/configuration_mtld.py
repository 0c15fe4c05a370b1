"""Configuration of MTLD."""

from transformers import PreTrainedConfig, TimmBackboneConfig

STRIDES = (8, 16, 32)  # of the feature maps s3, s4 and s5 (Section 3.2)


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
        if self.backbone_config is None:
            self.backbone_config = TimmBackboneConfig(
                backbone=self.backbone, out_indices=_stage_indices(self.backbone, self.backbone_kwargs)
            )
        elif isinstance(self.backbone_config, dict):
            known = {key: value for key, value in self.backbone_config.items() if key != "model_type"}
            self.backbone_config = TimmBackboneConfig(**known)
        self.backbone = self.backbone_config.backbone
        self._check()
        super().__post_init__(**kwargs)

    def _check(self):
        for name in ("image_size", "num_landmarks", "hidden_size", "num_attention_heads", "decoder_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, but got {getattr(self, name)}")
        if self.hidden_size % 4 or self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size must be a multiple of 4 and of num_attention_heads ({self.num_attention_heads}), "
                f"but got {self.hidden_size}"
            )
        if self.heatmap_size is not None and self.heatmap_size * STRIDES[0] % self.image_size:
            raise ValueError(
                f"heatmap_size must be a multiple of image_size / 8 ({self.image_size / 8:g}), "
                f"but got {self.heatmap_size}"
            )
        if self.structure_distance not in ("squared", "euclidean"):
            raise ValueError(
                f"structure_distance must be 'squared' or 'euclidean', but got {self.structure_distance!r}"
            )
        if self.landmark_names is not None and len(self.landmark_names) != self.num_landmarks:
            raise ValueError(
                f"landmark_names must hold num_landmarks ({self.num_landmarks}) names, "
                f"but got {len(self.landmark_names)}"
            )
        for pair in self.flip_pairs or []:
            if len(pair) != 2 or not all(0 <= index < self.num_landmarks for index in pair):
                raise ValueError(f"flip_pairs must be pairs of indices below {self.num_landmarks}, but got {pair}")


def _stage_indices(backbone: str, backbone_kwargs: dict) -> list[int]:
    """Indices of the backbone's feature maps at strides 8, 16 and 32; the last of each stride."""
    import timm
    import torch

    if not timm.is_model(backbone):
        raise ValueError(f"backbone must be the name of a timm model (see timm.list_models()), but got {backbone!r}")
    with torch.device("meta"):
        reductions = timm.create_model(backbone, features_only=True, **backbone_kwargs).feature_info.reduction()
    missing = [stride for stride in STRIDES if stride not in reductions]
    if missing:
        raise ValueError(
            f"backbone must have feature maps at strides {STRIDES}, but those of {backbone!r} are at {reductions}"
        )
    return [len(reductions) - 1 - reductions[::-1].index(stride) for stride in STRIDES]


__all__ = ["MTLDConfig"]
