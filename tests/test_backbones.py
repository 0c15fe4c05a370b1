"""Backbones of timm: each family trains one step and loads to the same outputs in another process; names, sizes,
pretrained weights and their normalisation."""

import copy
import os
import subprocess
import sys
from argparse import Namespace
from dataclasses import dataclass

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TimmBackboneConfig

from modeling_mtld import backbone_mtld, hub_reach_mtld
from modeling_mtld.backbone_mtld import read_pretrained, stage_indices
from modeling_mtld.configuration_mtld import MTLDConfig
from modeling_mtld.modeling_mtld import MTLDForFacialLandmarkDetection
from training_mtld.models import build_processor

SIZE = 64
TINY = {"image_size": SIZE, "num_landmarks": 5, "hidden_size": 16, "num_attention_heads": 2}
BACKBONES = (
    "resnet18",
    "resnet50",
    "vgg11",
    "mobilenetv3_small_100",
    "mobilenetv4_conv_small",
    "efficientnet_b0",
    "convnext_atto",
    "regnety_002",
    "swin_tiny_patch4_window7_224",
    "pvt_v2_b0",
)
SWIN = "swin_tiny_patch4_window7_224"
SMALL = {"depths": [1, 1, 1, 1], "embed_dim": 16, "num_heads": [1, 1, 1, 1]}  # for Swin
RELOAD = """
import copy
import sys
import torch
from transformers import AutoModel

pixels, landmarks = torch.load("pixels.pt"), {}
for name in sys.argv[1:]:
    model = AutoModel.from_pretrained(name, trust_remote_code=True)
    with torch.no_grad():
        landmarks[name] = model(pixels).landmarks, copy.deepcopy(model)(pixels).landmarks
assert "modeling_mtld" not in sys.modules
torch.save(landmarks, "reloaded.pt")
"""


def drawn(*shape, seed=0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


PIXELS = drawn(2, 3, SIZE, SIZE)


def new_model(backbone: str, **fields) -> MTLDForFacialLandmarkDetection:
    torch.manual_seed(0)
    return MTLDForFacialLandmarkDetection(MTLDConfig(backbone=backbone, **TINY | fields)).eval()


# One step, and another process


@dataclass
class Step:
    loss: float
    moved: list[bool]  # for each of the backbone's parameter tensors, from the stem on
    without_gradient: list[str]
    landmarks: torch.Tensor  # of the eval mode thereafter


def train_one_step(model) -> Step:
    for module in model.modules():
        if getattr(module, "_zero_init", False):  # which would teach the backbone nothing in the first step
            nn.init.normal_(module.weight, std=0.1)
    before = [weights.detach().clone() for weights in model.backbone.parameters()]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loss = model.train()(PIXELS, drawn(2, 5, 2)).loss
    loss.backward()
    optimizer.step()
    moved = [not torch.equal(old, new) for old, new in zip(before, model.backbone.parameters(), strict=True)]
    without = [name for name, weights in model.named_parameters() if weights.grad is None]
    with torch.no_grad():
        return Step(loss.item(), moved, without, model.eval()(PIXELS).landmarks)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("backbones")


@pytest.fixture(scope="module")
def steps(folder) -> dict[str, Step]:
    """Each backbone trained, and saved under its name."""
    threads, steps = torch.get_num_threads(), {}
    torch.set_num_threads(1)  # as the other process: the order of a sum's terms depends on it
    for backbone in BACKBONES:
        model = new_model(backbone)
        steps[backbone] = train_one_step(model)
        model.save_pretrained(folder / backbone)
    torch.set_num_threads(threads)
    return steps


@pytest.fixture(scope="module")
def reloaded(folder, steps) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The landmarks of every saved model, and of a copy of it, in a process that has only what was saved."""
    torch.save(PIXELS, folder / "pixels.pt")
    (folder / "reload.py").write_text(RELOAD)
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "HF_HOME": str(folder / "hf")}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-I", "reload.py", *steps]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return torch.load(folder / "reloaded.pt")


@pytest.mark.parametrize("backbone", BACKBONES)
def test_trains_one_step(steps, backbone):
    step = steps[backbone]
    assert 0 < step.loss < float("inf")
    assert step.without_gradient == []  # several processes would wait for these
    assert step.moved[0]
    assert sum(step.moved) > 0.2 * len(step.moved)  # ResNet's residual branches start at zero and pass nothing back


@pytest.mark.parametrize("backbone", BACKBONES)
def test_loads_to_identical_outputs_in_another_process(steps, reloaded, backbone):
    loaded, copied = reloaded[backbone]
    # A copy lies in memory as a trained model does. What was loaded lies where the file has it, at addresses that
    # some kernels take a few numbers at a time less well, rounding otherwise. A network of one step is unsteady: it
    # turns 1e-7 into 1e-4.
    assert torch.equal(copied, steps[backbone].landmarks)
    assert torch.allclose(loaded, steps[backbone].landmarks, rtol=0, atol=1e-3)


# Feature maps and sizes


@pytest.mark.parametrize(
    "backbone, kwargs, channels_last",
    [(SWIN, SMALL, True), ("test_mambaout", {}, True), ("test_convnext", {}, False)],
)
def test_feature_maps_are_channels_first_whatever_timm_has(backbone, kwargs, channels_last):
    model = new_model(backbone, backbone_kwargs=kwargs)
    assert (model.backbone(PIXELS).feature_maps[0].shape[1] == SIZE // 4) == channels_last
    taken = []
    model.encoder.register_forward_pre_hook(lambda module, inputs: taken.extend(inputs[0]))
    model(PIXELS)
    strides = zip(model.backbone.channels[1:], backbone_mtld.STRIDES[1:])
    cells = [(channels, SIZE // stride, SIZE // stride) for channels, stride in strides]
    assert [tuple(feature_map.shape[1:]) for feature_map in taken] == cells


def test_strides_are_counted_from_the_first_feature_map():
    """timm's default for DLA leaves the first out, and its list of strides with it."""
    assert stage_indices("dla46_c", {}, SIZE) == [2, 3, 4, 5]


def test_backbone_made_for_one_size_gets_that_of_the_crop(tmp_path):
    model = new_model(SWIN, backbone_kwargs=SMALL)
    model.save_pretrained(tmp_path)
    loaded = MTLDForFacialLandmarkDetection.from_pretrained(tmp_path)
    for one in (model, loaded):
        assert one.config.backbone_kwargs == SMALL and one.config.timm_kwargs == SMALL | {"img_size": SIZE}
        with pytest.raises(ValueError, match="pixel_values must be 64 x 64 for this backbone, but got 96 x 128"):
            one(drawn(1, 3, 96, 128))
    assert new_model("test_resnet", image_size=256)(drawn(1, 3, 96, 128)).landmarks.shape == (1, 5, 2)


def test_size_given_to_timm_is_kept():
    kwargs = SMALL | {"img_size": 64, "strict_img_size": False}
    model = new_model(SWIN, image_size=128, backbone_kwargs=kwargs)
    assert model.config.timm_kwargs == kwargs
    assert model(drawn(1, 3, 96, 128)).landmarks.shape == (1, 5, 2)
    with pytest.raises(ValueError, match=r"img_size.*must give feature maps of images of 256 x 256, but got .*224"):
        MTLDConfig(backbone=SWIN, backbone_kwargs=SMALL | {"img_size": 224})


def test_backbone_kwargs_reach_timm():
    plain, smooth = (new_model("test_resnet", backbone_kwargs=kwargs) for kwargs in ({}, {"act_layer": "silu"}))
    assert not any(isinstance(module, nn.SiLU) for module in plain.backbone.modules())
    assert any(isinstance(module, nn.SiLU) for module in smooth.backbone.modules())


# Names and what has no such feature maps


@pytest.mark.parametrize(
    "wrong, near",
    [
        ("ResNet-18", "'resnet18'"),
        ("microsoft/resnet-50", "'resnet50'"),
        ("hf-hub:timm/resnet18.a1_in1k", "'resnet18'"),
        ("mobilenetv4_small", "'mobilenetv4_conv_small'"),
        ("convnext", "'convnext_"),
        ("swin_tiny", f"'{SWIN}'"),
        ("resnet18.a9_in1k", "resnet18.a1_in1k"),
        ("nothing like it", "see timm.list_models()"),
    ],
)
def test_wrong_name_is_answered_with_near_ones(wrong, near):
    with pytest.raises(ValueError, match="^backbone must be ") as error:
        MTLDConfig(backbone=wrong)
    message = str(error.value)
    assert near in message and message.endswith(f"but got {wrong!r}")


def test_name_may_have_a_tag_or_be_an_old_one():
    assert MTLDConfig(backbone="resnet18.a1_in1k").backbone == "resnet18.a1_in1k"
    assert MTLDConfig(backbone="gluon_resnet18_v1b").backbone == "resnet18.gluon_in1k"


@pytest.mark.parametrize(
    "backbone, found",
    [
        (
            "vit_tiny_patch16_224",
            r"strides \(4, 8, 16, 32\), as resnet18, .*'vit_tiny_patch16_224' with those at \[16\]",
        ),
        ("inception_v3", r"'inception_v3' with \[\(60, 60\), \(29, 29\), \(14, 14\), \(6, 6\)\]"),  # no padding
        ("efficientformer_l1", r"images of 256 x 256, but got RuntimeError"),  # takes 224 x 224 alone
    ],
)
def test_backbone_without_such_feature_maps_is_refused(backbone, found):
    with pytest.raises(ValueError, match=f"^backbone .*must .*{found}"):
        MTLDConfig(backbone=backbone)


@pytest.mark.parametrize("error", [AssertionError(), KeyError("x"), IndexError("list index"), ImportError("fused")])
def test_whatever_timm_raises_comes_as_a_value_error(monkeypatch, error):
    config = MTLDConfig(backbone="test_resnet", **TINY)

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(timm, "create_model", fail)
    backbone_mtld._stage_indices.cache_clear()
    for build in (lambda: MTLDConfig(backbone="test_resnet"), lambda: MTLDForFacialLandmarkDetection(config)):
        with pytest.raises(ValueError, match=f"backbone 'test_resnet' .* must .* but got {type(error).__name__}"):
            build()


@pytest.mark.parametrize(
    "config, message",
    [
        ({"backbone": "resnet_of_nobody", "out_indices": [1, 2, 3, 4]}, "'resnet_of_nobody' .*but got RuntimeError"),
        ({"backbone": "resnet18.a9_in1k", "out_indices": [1, 2, 3, 4]}, "'resnet18.a9_in1k': Invalid pretrained tag"),
        (
            {"backbone": "resnet18", "out_indices": [0, 1, 2, 3]},
            r"\[0, 1, 2, 3\] with strides \(2, 4, ",
        ),
        ({"backbone": "resnet18", "out_indices": [2, 3, 4]}, r"strides \(4, 8, 16, 32\), but got \[2, 3, 4\]"),
    ],
)
def test_backbone_config_given_by_hand_is_checked(config, message):
    with pytest.raises(ValueError, match=message):
        MTLDForFacialLandmarkDetection(MTLDConfig(backbone_config=TimmBackboneConfig(**config)))


# Pretrained weights


@pytest.fixture(scope="module")
def weights(folder):
    """All that timm has of a small network with batch norm."""
    torch.manual_seed(1)
    state = timm.create_model("test_resnet").state_dict()
    return {name: value + 1 if value.is_floating_point() else value for name, value in state.items()}


@pytest.mark.parametrize("lost", ["layer2.0.bn1.running_mean", "layer1.0.bn2.running_var", "layer4.0.conv1.weight"])
def test_file_that_lacks_statistics_or_weights_is_refused(tmp_path, weights, lost):
    save_file({name: value for name, value in weights.items() if name != lost}, tmp_path / "weights.safetensors")
    model = new_model("test_resnet")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=f"from .*weights.safetensors: it lacks 1 of .* {lost} for one"):
        model.load_backbone_weights(tmp_path / "weights.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_file_without_classifier_or_batch_counts_is_enough(tmp_path, weights):
    kept = {k: v for k, v in weights.items() if not k.startswith("fc.") and "num_batches" not in k}
    torch.save({"state_dict": kept}, tmp_path / "weights.pth")
    model = new_model("test_resnet")
    model.load_backbone_weights(tmp_path / "weights.pth")
    loaded = model.backbone._backbone.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in kept.items())


def test_file_is_read_once(tmp_path, weights, monkeypatch):
    save_file(weights, tmp_path / "weights.safetensors")
    reads = []

    def read(path, *args, **kwargs):
        reads.append(path)
        return load_file(path, *args, **kwargs)

    monkeypatch.setattr("safetensors.torch.load_file", read)
    new_model("test_resnet").load_backbone_weights(tmp_path / "weights.safetensors")
    assert len(reads) == 1


def test_without_a_file_the_weights_come_from_the_hub(monkeypatch, weights, tmp_path):
    asked = []

    def fetch(repository, names, revision):
        asked.append((repository, names, revision))
        save_file({name: value.contiguous() for name, value in weights.items()}, tmp_path / "model.safetensors")
        return str(tmp_path / "model.safetensors")

    monkeypatch.setattr(hub_reach_mtld, "fetch", fetch)
    model = new_model("test_resnet.r160_in1k")
    model.load_backbone_weights()
    assert asked == [("timm/test_resnet.r160_in1k", ["model.safetensors", "pytorch_model.bin"], None)]
    assert torch.equal(model.backbone._backbone.state_dict()["conv1.0.weight"], weights["conv1.0.weight"])


def test_swin_weights_are_fitted_to_the_size(tmp_path):
    """timm interpolates the position biases of the windows, which are smaller in a smaller image."""
    torch.manual_seed(1)
    state = timm.create_model(SWIN, **SMALL).state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "swin.safetensors")
    loaded = read_pretrained(SWIN, SMALL | {"img_size": SIZE}, [0, 1, 2, 3], tmp_path / "swin.safetensors")
    bias = "layers_3.blocks.0.attn.relative_position_bias_table"
    assert loaded[bias].shape != state[bias.replace("layers_", "layers.")].shape
    assert torch.equal(loaded["patch_embed.proj.weight"], state["patch_embed.proj.weight"])


def test_backbone_without_pretrained_weights_says_so():
    model = new_model("test_resnet")
    model.config.backbone_config.backbone = "resnet18t"
    with pytest.raises(ValueError, match="'resnet18t' from the Hub: timm knows of no pretrained weights"):
        model.load_backbone_weights()


@pytest.mark.parametrize(
    "backbone, mean, std",
    [
        ("resnet18", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ("efficientnet_b1", [0.5] * 3, [0.5] * 3),
        ("mobilenetv3_large_100.miil_in21k_ft_in1k", [0.0] * 3, [1.0] * 3),
    ],
)
def test_new_model_is_trained_with_the_normalisation_of_its_pretrained_weights(backbone, mean, std):
    config = MTLDConfig(backbone=backbone, **TINY)
    processor = build_processor(Namespace(model_name_or_path=None), config)
    assert (list(processor.image_mean), list(processor.image_std)) == (mean, std)
    assert "image_mean" not in config.to_dict()
