"""The backbone: any timm model with feature maps at strides 4 to 32, its arguments and its pretrained weights."""

import difflib
import functools
import json

import timm
import torch
from timm.models import (
    PretrainedCfg,
    get_deprecated_models,
    get_model_input_config,
    load_state_dict,
)
from transformers import TimmBackbone, TimmBackboneConfig

from .auto_mtld import first_line

STRIDES = (4, 8, 16, 32)  # of the feature maps s2 to s5; the paper has s3, s4 and s5 (Section 3.2)
EXAMPLES = "resnet18, mobilenetv4_conv_small, convnext_tiny, swin_tiny_patch4_window7_224"
RESERVED = {  # arguments of timm.create_model that are the model's to set, or that would load weights each time
    "checkpoint_path",
    "features_only",
    "in_chans",
    "out_indices",
    "output_stride",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
}


def check_backbone_kwargs(given: dict | None) -> dict:
    """A copy of `backbone_kwargs`. Raises ValueError unless they can be saved and are not `RESERVED`."""
    if given is not None and not isinstance(given, dict):
        raise ValueError(f"backbone_kwargs must be a dict, but got {given!r}")
    kwargs = dict(given or {})
    for name in sorted(RESERVED & kwargs.keys()):
        raise ValueError(f"backbone_kwargs must not set {name}, but got {kwargs[name]!r}")
    try:
        json.dumps(kwargs)
    except (TypeError, ValueError):
        raise ValueError(
            f"backbone_kwargs must be JSON values, to be saved with the model, but got {kwargs}"
        ) from None
    return kwargs


def current_name(backbone: str) -> str:
    """The name itself, or what a deprecated one stands for. Raises ValueError if timm does not know it."""
    if not isinstance(backbone, str):
        raise ValueError(f"backbone must be the name of a timm model, but got {backbone!r}")
    name = get_deprecated_models().get(backbone) or backbone
    if not timm.is_model(name):
        near = " or ".join(map(repr, _near_names(name)))
        hint = f"such as {near}" if near else "see timm.list_models()"
        raise ValueError(f"backbone must be the name of a timm model ({hint}), but got {backbone!r}")
    architecture = name.partition(".")[0]
    tagged = timm.list_models(architecture, include_tags=True)
    if name not in (architecture, *tagged):
        raise ValueError(f"backbone must be one of {', '.join([architecture, *tagged])}, but got {backbone!r}")
    return name


def _near_names(backbone: str) -> list[str]:
    """Up to three names of timm models: those that begin like it, the shortest first, or else those spelt alike."""
    given = backbone.rpartition("/")[2].partition(".")[0].lower()  # the name in a Hub id, timm/resnet18.a1_in1k
    names = timm.list_models()
    longer = sorted((name for name in names if given and name.startswith(given)), key=len)
    return longer[:3] or difflib.get_close_matches(given, names)


def pretrained_cfg(backbone: str) -> PretrainedCfg:
    """What timm knows of the backbone's pretrained weights, such as their input size, mean and standard deviation.

    Raises:
        ValueError: if the name has a tag that timm does not know.
    """
    try:
        return timm.get_pretrained_cfg(backbone) or PretrainedCfg()
    except RuntimeError as error:
        raise ValueError(f"backbone must be the name of a timm model, but got {backbone!r}: {error}") from error


def timm_kwargs(backbone: str, backbone_kwargs: dict, image_size: int) -> dict:
    """The arguments for timm: `img_size` too, if the timm model is made for one input size and it is not given."""
    size = {"img_size": image_size} if pretrained_cfg(backbone).fixed_input_size else {}
    return size | backbone_kwargs


def is_channels_last(timm_model) -> bool:
    """Whether feature maps come as (batch, H, W, channels). timm says so; a shape of 64 x 64 x 64 does not tell."""
    return getattr(timm_model, "output_fmt", "NCHW") == "NHWC"


def fixed_size(timm_model) -> tuple[int, int] | None:
    """Height and width of the images, if the timm model takes but one size."""
    expected = get_model_input_config(timm_model)
    return tuple(expected["input_size"][1:]) if expected["fixed_input_size"] else None


def build_backbone(config: TimmBackboneConfig, kwargs: dict) -> TimmBackbone:
    """The backbone, without pretrained weights; `kwargs` are those of `timm_kwargs`.

    Raises:
        ValueError: if timm cannot build it so, or its `out_indices` are not those of the strides 4, 8, 16 and 32.
    """
    try:
        backbone = TimmBackbone(config, **kwargs)
        found = tuple(backbone._backbone.feature_info.reduction())
    except Exception as error:  # timm and torch raise whatever they come across
        raise ValueError(
            f"backbone {config.backbone!r} with backbone_kwargs {kwargs} must be one that timm can build, "
            f"but got {reason(error)}"
        ) from error
    if found != STRIDES:
        raise ValueError(
            f"backbone_config must have the out_indices of the feature maps at strides {STRIDES}, "
            f"but got {config.out_indices} with strides {found}"
        )
    return backbone


def stage_indices(backbone: str, kwargs: dict, image_size: int) -> list[int]:
    """Which of the backbone's feature maps are at strides 4, 8, 16 and 32; the last of each stride.

    Args:
        backbone: name of a timm model.
        kwargs: those of `timm_kwargs`.
        image_size: side of the images in pixels.

    Raises:
        ValueError: if timm cannot build it so, or it has no such feature maps, or does not take images of this size.
    """
    return list(_stage_indices(backbone, json.dumps(kwargs), image_size))


@functools.lru_cache  # transformers builds a default configuration whenever it prints or saves one
def _stage_indices(backbone: str, kwargs: str, image_size: int) -> tuple[int, ...]:
    try:
        info = _on_meta(backbone, kwargs).feature_info
        last = {stage["reduction"]: index for index, stage in enumerate(info)}
        indices = tuple(last[stride] for stride in STRIDES if stride in last)
        found = _cells(backbone, kwargs, indices, image_size) if len(indices) == len(STRIDES) else None
    except Exception as error:  # timm and torch raise whatever they come across
        raise ValueError(
            f"backbone {backbone!r} with backbone_kwargs {kwargs} must give feature maps of images of "
            f"{image_size} x {image_size}, but got {reason(error)}"
        ) from error
    if found is None:
        raise ValueError(
            f"backbone must have feature maps at strides {STRIDES}, as {EXAMPLES} and many others do, "
            f"but got {backbone!r} with those at {sorted(last)}"
        )
    expected = [(image_size // stride, image_size // stride) for stride in STRIDES]
    if found != expected:  # convolutions without padding, for one
        raise ValueError(
            f"backbone must make feature maps of {expected} cells from images of {image_size} x {image_size}, "
            f"but got {backbone!r} with {found}"
        )
    return indices


def _on_meta(backbone: str, kwargs: str, **others):
    with torch.device("meta"):
        return timm.create_model(backbone, features_only=True, **json.loads(kwargs), **others).eval()


def _cells(backbone: str, kwargs: str, indices: tuple[int, ...], image_size: int) -> list[tuple[int, int]]:
    """Height and width of the feature maps, found without computing any."""
    model = _on_meta(backbone, kwargs, out_indices=indices)
    with torch.no_grad():
        feature_maps = model(torch.zeros(1, 3, image_size, image_size, device="meta"))
    first = 1 if is_channels_last(model) else 2
    return [tuple(feature_map.shape[first : first + 2]) for feature_map in feature_maps]


def reason(error: Exception) -> str:
    """One line."""
    return f"{type(error).__name__}: {first_line(error)}"


def read_pretrained(backbone: str, kwargs: dict, indices: list[int], file: str | None = None) -> dict:
    """The pretrained weights as a state dict of the timm model with `features_only`.

    Args:
        backbone, kwargs: as in `stage_indices`.
        indices: those it returned.
        file: weights under timm's names, as safetensors or pickled; without it, those that timm knows of.

    Raises:
        ValueError: if a tensor of the model is not among them. timm, safetensors, torch and the Hub's client raise
            others for what cannot be read.
    """
    source = load_state_dict(str(file)) if file is not None else _download(pretrained_cfg(backbone))

    def loaded(weights: dict) -> dict:
        overlay = {"state_dict": weights}
        options = {"features_only": True, "out_indices": indices, "pretrained_cfg_overlay": overlay}
        return timm.create_model(backbone, pretrained=True, **options, **kwargs).state_dict()

    # timm renames and reshapes tensors by rules of each family, and leaves at random, without a word, those it does
    # not find. What stays a number where all that it finds is NaN was not found.
    probe = {name: _all_nan(value) for name, value in source.items()}
    missing = [name for name, value in loaded(probe).items() if value.is_floating_point() and not value.isnan().any()]
    if missing:
        raise ValueError(f"it lacks {len(missing)} of the backbone's tensors, {missing[0]} for one")
    return loaded(source)


def _all_nan(value):
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return value
    return torch.tensor(torch.nan, dtype=value.dtype).expand(value.shape)


def _download(cfg: PretrainedCfg) -> dict[str, torch.Tensor]:
    if cfg.hf_hub_id:
        from .hub_reach_mtld import fetch  # a checkpoint has its weights

        repo_id, _, revision = cfg.hf_hub_id.partition("@")
        name = cfg.hf_hub_filename or "pytorch_model.bin"
        safe = name.replace("pytorch_model.bin", "model.bin").removesuffix(".bin") + ".safetensors"  # timm's names
        names = [safe, name] if name.endswith(".bin") else [name]
        return load_state_dict(fetch(repo_id, names, revision or None))
    if cfg.url:
        return torch.hub.load_state_dict_from_url(cfg.url, map_location="cpu", weights_only=True)
    raise ValueError("timm knows of no pretrained weights")
