"""The network: shapes, precision, the switches of Table 3, the budget of Table 4, and loading without a loss."""

import copy
import itertools
import logging
import pickle

import pytest
import timm
import torch
from accelerate import init_empty_weights, load_checkpoint_and_dispatch
from safetensors.torch import load_file, load_model, save_file
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from modeling_mtld.configuration_mtld import MTLDConfig
from modeling_mtld.heads_mtld import MTLDFloat32Linear
from modeling_mtld.loss_mtld import count_items, mtld_loss
from modeling_mtld.modeling_mtld import (
    MTLDFinePatch,
    MTLDForFacialLandmarkDetection,
    MTLDLinearHead,
    MTLDPyramidProduct,
    MTLDSampledAttention,
    grid_embedding,
    position_embedding,
)
from modeling_mtld.sampling_mtld import lay_out_maps

TINY = {
    "backbone": "test_efficientnet",
    "image_size": 64,
    "num_landmarks": 5,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "decoder_intermediate_size": 32,
}
SWITCHES = ("use_multiscale_transformer", "use_heatmap_loss", "use_structure_loss")
BASE = dict.fromkeys(SWITCHES, False)
# As the paper has it
DENSE = {"cross_attention": "dense", "pyramid_attention_levels": 3, "encoder_layers": 1, "landmark_head": "shared"}
DENSE |= {"use_pooled_estimate": False}
MIXED = {"pyramid_attention_levels": 2, "encoder_layers": 1}


def new_model(for_training: bool = True, **fields) -> MTLDForFacialLandmarkDetection:
    torch.manual_seed(0)
    return MTLDForFacialLandmarkDetection(MTLDConfig(**TINY | fields), for_training).eval()


@torch.no_grad()
def moved_model(**fields) -> MTLDForFacialLandmarkDetection:
    """With every weight and statistic away from where it starts, as after training."""
    model = new_model(**fields)
    for weights in itertools.chain(model.parameters(), model.buffers()):
        if weights.is_floating_point():
            weights.add_(0.03 * torch.randn_like(weights))
    return model


def random_pixels(*shape) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def random_labels(batch: int = 2, count: int = 5) -> torch.Tensor:
    return torch.rand(batch, count, 2, generator=torch.Generator().manual_seed(2))


PIXELS, LABELS = random_pixels(2, 3, 64, 64), random_labels()


@pytest.fixture(scope="module")
def model():
    """Not to be changed by a test."""
    return moved_model()


# What comes out


def test_output_has_every_layer_and_loss(model):
    labels = LABELS.clone()
    labels[0, 1] = torch.nan
    outputs = model(PIXELS, labels)
    assert outputs.landmarks.shape == (2, 5, 2)
    assert outputs.intermediate_landmarks.shape == (2, 2, 5, 2)
    assert torch.equal(outputs.intermediate_landmarks[:, -1], outputs.landmarks)
    assert outputs.heatmaps.shape == (2, 5, 16, 16)
    assert outputs.loss.shape == () and outputs.loss.isfinite()
    assert outputs.initial_landmarks.shape == (2, 5, 2)
    assert outputs.loss_dict.keys() == {"coordinate", "initial", "heatmap", "structure", "scale"}
    assert outputs.hidden_states is None and outputs.attentions is None and outputs.sampling_locations is None


def test_without_labels_no_heatmap_is_computed(model, monkeypatch):
    with_labels = model(PIXELS, LABELS)

    def fail(*args):
        raise AssertionError("the heatmap branch was run")

    monkeypatch.setattr(model.heatmap_branch, "forward", fail)
    outputs = model(PIXELS)
    assert outputs.loss is None and outputs.loss_dict is None and outputs.heatmaps is None
    assert torch.equal(outputs.landmarks, with_labels.landmarks)


def test_what_the_processor_returns_beside_pixels_is_ignored(model):
    assert torch.equal(model(PIXELS, matrices=None, face_counts=[2]).landmarks, model(PIXELS).landmarks)


@pytest.mark.parametrize("fields", [{}, MIXED, DENSE, BASE])
@pytest.mark.parametrize("height, width", [(32, 32), (128, 128), (256, 256), (96, 160)])
def test_other_input_sizes_work(fields, height, width):
    outputs = moved_model(**fields | {"use_heatmap_loss": True})(random_pixels(1, 3, height, width), LABELS[:1])
    assert outputs.landmarks.shape == (1, 5, 2) and outputs.landmarks.isfinite().all()
    assert outputs.heatmaps.shape == (1, 5, height // 4, width // 4)


@pytest.mark.parametrize("batch", [0, 1])
def test_small_batches_work(model, batch):
    outputs = model(PIXELS[:batch], LABELS[:batch])
    assert outputs.landmarks.shape == (batch, 5, 2) and outputs.loss.isfinite()


def test_hidden_states_and_attentions_on_request(model):
    outputs = model(PIXELS, output_hidden_states=True, output_attentions=True, output_sampling_locations=True)
    assert [states.shape for states in outputs.hidden_states] == [(2, 5, 16)] * 2
    assert [weights.shape for weights in outputs.attentions] == [(2, 1, 5, 18), (2, 1, 5, 9)]
    assert [places.shape for places in outputs.sampling_locations] == [(2, 5, 18, 2), (2, 5, 9, 2)]
    for weights in outputs.attentions:
        assert torch.allclose(weights.sum(dim=-1), torch.ones(2, 1, 5))
    assert torch.equal(outputs.landmarks, model(PIXELS).landmarks)


def test_a_network_that_recorded_attentions_can_be_pickled():
    model = moved_model()
    wanted = {"output_hidden_states": True, "output_attentions": True, "output_sampling_locations": True}
    before = model(PIXELS, **wanted)
    again = pickle.loads(pickle.dumps(model))
    for network in (again, copy.deepcopy(model), model):
        outputs = network(PIXELS, **wanted)
        assert torch.equal(outputs.landmarks, before.landmarks)
        for name in ("hidden_states", "attentions", "sampling_locations"):
            assert all(map(torch.equal, outputs[name], before[name])) and len(outputs[name]) == 2


def test_dense_attentions_on_request():
    model = moved_model(**DENSE)
    outputs = model(PIXELS, output_attentions=True, output_sampling_locations=True)
    coarse, fine = 2 * 2 + 4 * 4, 8 * 8
    assert [weights.shape for weights in outputs.attentions] == [(2, 2, 5, coarse), (2, 2, 5, coarse + fine)]
    for weights in outputs.attentions:
        assert torch.allclose(weights.sum(dim=-1), torch.ones(2, 2, 5))
    assert outputs.sampling_locations == ()
    assert torch.allclose(outputs.landmarks, model(PIXELS).landmarks, atol=1e-5)


# Feature pyramid


def test_a_cell_is_multiplied_with_the_cell_over_it():
    level = MTLDPyramidProduct(MTLDConfig(**TINY | {"hidden_size": 4}), channels=4)
    level.norm = torch.nn.Identity()
    with torch.no_grad():
        level.input_proj.weight.copy_(torch.eye(4)[:, :, None, None])
        level.input_proj.bias.zero_()
    feature_map, previous = torch.randn(2, 4, 6, 10), torch.randn(2, 4, 3, 5)
    found = level(feature_map, previous.flatten(2).transpose(1, 2), (3, 5))
    expected = feature_map * (1 + torch.nn.functional.interpolate(previous, scale_factor=2, mode="nearest"))
    assert torch.allclose(found, expected.flatten(2).transpose(1, 2), atol=1e-6)


# Sampled attention


def test_a_new_layer_samples_the_cells_around_the_landmark():
    model = new_model()
    model.set_mean_face(torch.full((5, 2), 0.5))
    outputs = model(PIXELS, output_attentions=True, output_sampling_locations=True)
    s4, s3 = ([[0.5 + x / size, 0.5 + y / size] for y in (-1, 0, 1) for x in (-1, 0, 1)] for size in (4, 8))
    for grids, places, weights in zip((s4 + s3, s3), outputs.sampling_locations, outputs.attentions, strict=True):
        assert torch.allclose(places, torch.tensor(grids).expand_as(places))
        assert torch.allclose(weights, torch.tensor(1 / len(grids)))


@pytest.mark.parametrize("height, width", [(4, 4), (3, 6)])
def test_samples_are_read_where_the_landmark_is(height, width):
    """A map of the coordinates of its cells, read at a place within, gives that place."""
    layer = MTLDSampledAttention(MTLDConfig(**TINY | {"hidden_size": 4, "sampling_size": 1}), maps=1)
    with torch.no_grad():
        layer.out_proj.weight.copy_(torch.eye(4))
        for weights in (layer.sampling.weight, layer.sampling.bias, layer.out_proj.bias):
            weights.zero_()
    y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    tokens = torch.stack([x, y, x, y], dim=-1).flatten(0, 1)[None]
    landmarks = torch.tensor([[[0.3, 0.45], [0.6, 0.7]]])
    read, weights, places = layer(torch.zeros(1, 2, 4), landmarks, tokens, *lay_out_maps([(height, width)], 1))
    assert torch.allclose(read, landmarks.repeat(1, 1, 2), atol=1e-6)
    assert torch.equal(weights, torch.ones(1, 1, 2, 1)) and torch.equal(places, landmarks[:, :, None])


@pytest.mark.parametrize("levels, cells", [(1, 4), (2, 4 + 16), (3, 4 + 16 + 64)])
def test_fewer_feature_levels_are_the_coarsest(levels, cells):
    sampled = new_model(num_feature_levels=levels)(PIXELS, output_attentions=True)
    assert [weights.shape[-1] for weights in sampled.attentions] == [9 * min(levels, 2), 9]
    dense = new_model(num_feature_levels=levels, cross_attention="dense")(PIXELS, output_attentions=True)
    assert [weights.shape[-1] for weights in dense.attentions] == [min(cells, 4 + 16), cells]


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_only_the_last_layer_reads_s2(layers):
    model = moved_model(decoder_layers=layers)
    before = model(PIXELS).intermediate_landmarks
    with torch.no_grad():
        model.decoder.layers[-1].fine_patch.out_proj.weight.zero_()
    after = model(PIXELS).intermediate_landmarks
    assert torch.equal(before[:, :-1], after[:, :-1]) and not torch.equal(before[:, -1], after[:, -1])
    assert not any("fine_patch" in name for name in new_model(decoder_layers=layers, fine_patch_size=0).state_dict())


def test_s2_is_read_where_the_landmark_is():
    """A map of the coordinates of its cells, whose patches have the landmark in the middle."""
    patch = MTLDFinePatch(MTLDConfig(**TINY | {"hidden_size": 4}), channels=2)
    patch.norm = torch.nn.Identity()
    with torch.no_grad():
        patch.out_proj.bias.zero_()
        patch.out_proj.weight.copy_(torch.eye(18)[[0, 1, 8, 9]])  # the cell above to the left, and the landmark's own
    y, x = torch.meshgrid((torch.arange(8) + 0.5) / 8, (torch.arange(16) + 0.5) / 16, indexing="ij")
    landmarks = torch.tensor([[[0.3, 0.45], [0.6, 0.7]]])
    read = patch(landmarks, torch.stack([x, y])[None])
    assert torch.allclose(read, torch.cat([landmarks - torch.tensor([1 / 16, 1 / 8]), landmarks], dim=-1), atol=1e-6)


def test_each_landmark_has_a_head_of_its_own():
    head = MTLDLinearHead(MTLDConfig(**TINY))
    torch.nn.init.normal_(head.weight)
    queries = torch.randn(2, 5, 16)
    expected = torch.stack([queries[:, k] @ head.weight[2 * k : 2 * k + 2].T for k in range(5)], dim=1)
    assert torch.allclose(head(queries), expected + head.bias.view(5, 2), atol=1e-5)


def test_the_decoder_starts_from_the_estimate_of_base():
    model, base = moved_model(), moved_model(**BASE)
    names = ("decoder.mean_face", "decoder.out.weight", "decoder.out.bias")
    weights = {name: value for name, value in model.state_dict().items() if name in names or "backbone" in name}
    base.load_state_dict(weights, strict=False)
    assert torch.equal(model(PIXELS).initial_landmarks, base(PIXELS).landmarks)
    assert base(PIXELS).initial_landmarks is None


def test_dense_attention_can_start_from_the_mean_face():
    model = moved_model(**DENSE)
    outputs = model(PIXELS, LABELS)
    assert torch.equal(outputs.initial_landmarks, model.decoder.mean_face.expand(2, -1, -1))
    assert "initial" not in outputs.loss_dict  # it does not depend on the image


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("fields", [{}, {"use_multiscale_transformer": False}], ids=["sampled", "base"])
def test_pixels_that_are_no_numbers_give_landmarks_that_are_none(fields, value):
    """And do not end the process: such places are outside of every memory."""
    model = moved_model(**fields).train()
    outputs = model(torch.full((4, 3, 64, 64), value), random_labels(4))
    outputs.loss.backward()
    assert outputs.landmarks.isnan().all() and outputs.loss.isnan()


# Compilers


@pytest.mark.parametrize("fields", [{}, DENSE, BASE], ids=["sampled", "dense", "base"])
def test_compiles_without_a_graph_break(fields):
    model = moved_model(**fields)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert torch.allclose(compiled(PIXELS).landmarks, model(PIXELS).landmarks, atol=1e-5)
    assert torch.allclose(compiled(PIXELS, LABELS).loss, model(PIXELS, LABELS).loss, rtol=1e-5)


@pytest.mark.parametrize("fields", [{}, DENSE], ids=["sampled", "dense"])
def test_exports_with_a_dynamic_batch(fields):
    model = moved_model(**fields)
    batch = {"pixel_values": {0: torch.export.Dim.DYNAMIC}}
    program = torch.export.export(model, (), {"pixel_values": PIXELS}, dynamic_shapes=batch).module()
    for count in (1, 2, 5):
        pixels = random_pixels(count, 3, 64, 64)
        assert torch.allclose(program(pixel_values=pixels).landmarks, model(pixels).landmarks, atol=1e-5)


def test_tuple_on_request(model):
    assert torch.equal(model(PIXELS, return_dict=False)[0], model(PIXELS).landmarks)
    loss, terms, landmarks, *_ = model(PIXELS, LABELS, return_dict=False)
    assert loss.shape == () and "coordinate" in terms and landmarks.shape == (2, 5, 2)


@pytest.mark.parametrize(
    "inputs, name, found",
    [
        ((PIXELS[0],), "pixel_values", r"\(3, 64, 64\)"),
        ((random_pixels(1, 3, 64, 80),), "pixel_values", "64 x 80"),
        ((random_pixels(1, 1, 64, 64),), "pixel_values", r"\(1, 1, 64, 64\)"),
        ((PIXELS.numpy(),), "pixel_values", "ndarray"),
        ((PIXELS.byte(),), "pixel_values", "torch.uint8"),
        ((random_pixels(1, 3, 0, 64),), "pixel_values", r"\(1, 3, 0, 64\)"),
        ((PIXELS, random_labels(2, 6)), "labels", r"\(2, 6, 2\)"),
        ((PIXELS, random_labels(1)), "labels", r"\(1, 5, 2\)"),
        ((PIXELS, LABELS[..., :1]), "labels", r"\(2, 5, 1\)"),
    ],
)
def test_refuses_wrong_shapes_by_name(model, inputs, name, found):
    with pytest.raises(ValueError, match=f"{name} must .*, but got {found}"):
        model(*inputs)


def test_runs_without_numbers():
    """On the meta device, which torch's autocast does not know."""
    assert new_model().to("meta")(PIXELS.to("meta"), LABELS.to("meta")).scores.shape == (2, 5)


# Precision


def test_under_bfloat16_autocast_landmarks_and_losses_are_float32(model):
    exact = model(PIXELS, LABELS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(PIXELS, LABELS)
    for landmarks in (outputs.landmarks, outputs.intermediate_landmarks[:, 0]):
        assert landmarks.dtype == torch.float32
        assert not torch.equal(landmarks, landmarks.bfloat16().float())  # nor rounded on the way
    assert torch.allclose(outputs.landmarks, exact.landmarks, atol=0.02, rtol=0.02)
    running_mean_error = model.scale_head.usual_error
    estimates = outputs.intermediate_landmarks, outputs.initial_landmarks
    loss, _ = mtld_loss(model.config, LABELS, *estimates, outputs.heatmaps, outputs.scales, running_mean_error)
    assert outputs.loss.dtype == torch.float32 and torch.equal(outputs.loss, loss)


@pytest.mark.parametrize("fields", [{}, DENSE, BASE], ids=["sampled", "dense", "base"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_network_that_was_cast_takes_pixels_of_float32(fields, dtype):
    model = moved_model(**fields, use_visibility_head=True)
    expected, found = model(PIXELS, LABELS), copy.deepcopy(model).to(dtype)(PIXELS, LABELS)
    for name in ("landmarks", "scores", "visibilities", "loss"):
        assert found[name].dtype == torch.float32
        assert torch.allclose(found[name], expected[name], rtol=0.05, atol=0.05), name


@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization:DeprecationWarning", "ignore:.*quantize_per:UserWarning")
@pytest.mark.parametrize("fields", [{}, {"landmark_head": "shared"}, DENSE], ids=["sampled", "shared", "dense"])
@pytest.mark.parametrize("dtype", [torch.qint8, torch.float16])
def test_dynamic_quantisation_leaves_the_heads_in_float32(fields, dtype):
    model = moved_model(**fields, use_visibility_head=True)
    quantized = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=dtype)
    assert not any(type(module) is torch.nn.Linear for module in quantized.modules())
    expected, found = model(PIXELS, LABELS), quantized(PIXELS, LABELS)
    for name in ("landmarks", "scores", "visibilities"):
        assert torch.allclose(found[name], expected[name], atol=0.03), name
    heads = [module for module in quantized.modules() if isinstance(module, MTLDFloat32Linear)]
    assert len(heads) == sum(isinstance(module, MTLDFloat32Linear) for module in model.modules()) > 4


def test_attention_written_out_gives_the_same(model):
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    assert (model.config._attn_implementation, eager.config._attn_implementation) == ("sdpa", "eager")
    assert torch.allclose(eager(PIXELS).landmarks, model(PIXELS).landmarks, atol=1e-5)


# Switches, budget, training


@pytest.mark.parametrize("switched_on", list(itertools.product([True, False], repeat=3)))
def test_every_module_of_table_3_can_be_switched_off(switched_on):
    fields = dict(zip(SWITCHES, switched_on))
    model = new_model(**fields).train()
    outputs = model(PIXELS, LABELS)
    outputs.loss.backward()
    on = {name for name in ("heatmap", "structure") if fields[f"use_{name}_loss"]}
    on |= {"initial"} if fields["use_multiscale_transformer"] else set()
    assert outputs.loss_dict.keys() == {"coordinate", "scale"} | on
    assert outputs.intermediate_landmarks.shape[1] == (2 if fields["use_multiscale_transformer"] else 1)
    unused = [name for name, weights in model.named_parameters() if weights.grad is None]
    assert unused == []  # several processes would wait for these


def test_base_is_pooled_s5_and_one_linear_layer():
    model = moved_model(**BASE, use_scale_head=False)
    heads = {name: weights for name, weights in model.named_parameters() if not name.startswith("backbone.")}
    assert {name: tuple(weights.shape) for name, weights in heads.items()} == {
        "decoder.mean_face": (5, 2),
        "decoder.out.weight": (10, 64),
        "decoder.out.bias": (10,),
    }
    pooled = model.backbone(PIXELS).feature_maps[-1].mean(dim=(2, 3))
    moves = (pooled @ heads["decoder.out.weight"].T + heads["decoder.out.bias"]).view(2, 5, 2)
    assert torch.allclose(model(PIXELS).landmarks, heads["decoder.mean_face"] + moves, atol=1e-5)


@pytest.mark.parametrize(
    "backbone, parameters, multiply_adds",
    [("resnet18", 12.6e6, 2.7e9), ("resnet50", 27.3e6, 5.8e9), ("resnet101", 46.0e6, 10.7e9)],
)
def test_is_within_the_budget_of_table_4(backbone, parameters, multiply_adds):
    config = MTLDConfig(backbone=backbone, num_landmarks=98)
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        model = MTLDForFacialLandmarkDetection._from_config(config, attn_implementation="eager")
        model.eval().requires_grad_(False)
        count = model.num_parameters()
        model(torch.zeros(1, 3, 256, 256))
    assert 0.85 * parameters < count <= parameters
    assert 0.85 * multiply_adds < counter.get_total_flops() / 2 <= multiply_adds


@pytest.mark.parametrize("fields", [{}, DENSE, BASE])
def test_gradients_of_parts_add_up_to_those_of_the_batch(fields):
    """Also where the parts have different numbers of annotated landmarks."""
    model, pixels, labels = moved_model(**fields), random_pixels(4, 3, 64, 64), random_labels(4)
    labels[0, 1:] = torch.nan
    counts = count_items(labels, model.config.num_neighbors)

    def gradients(*parts) -> dict[str, torch.Tensor]:
        model.zero_grad()
        for part in parts:
            model(pixels[part], labels[part], num_items_in_batch=counts).loss.backward()
        return {name: weights.grad for name, weights in model.named_parameters()}

    whole, spread = gradients(slice(4)), gradients(slice(1), slice(1, 4))
    scale = max(gradient.abs().max() for gradient in whole.values())
    for name, gradient in whole.items():
        torch.testing.assert_close(spread[name], gradient, rtol=1e-3, atol=1e-6 * scale.item(), msg=name)


@pytest.mark.parametrize("fields", [{}, BASE])
def test_new_network_predicts_the_mean_face(fields):
    model = new_model(**fields)
    assert (model(PIXELS).intermediate_landmarks == 0.5).all()
    mean_face = LABELS[0]
    model.set_mean_face(mean_face)
    outputs = model(PIXELS, LABELS)
    assert torch.equal(outputs.intermediate_landmarks, mean_face.expand_as(outputs.intermediate_landmarks))
    assert outputs.heatmaps is None or not outputs.heatmaps.any()


@pytest.mark.parametrize("mean_face", [torch.zeros(4, 2), torch.full((5, 2), torch.nan)])
def test_refuses_a_wrong_mean_face(mean_face):
    with pytest.raises(ValueError, match="mean_face must be finite and of shape"):
        new_model(**BASE).set_mean_face(mean_face)


def test_a_place_has_the_same_embedding_at_every_input_size():
    embedding = grid_embedding(3, 5, 16)
    assert embedding.shape == (15, 16)
    centres = torch.tensor([[0.1, 1 / 6], [0.3, 1 / 6]])  # (x, y), row by row
    assert torch.allclose(embedding[:2], position_embedding(centres, 16), atol=1e-5)
    assert torch.allclose(grid_embedding(1, 1, 16)[0], embedding[7], atol=1e-5)  # the centre
    distances = torch.cdist(embedding, embedding) + torch.eye(15)
    assert distances.min() > 0.1  # and different places do not


def test_overfits_one_batch():
    model = new_model(num_landmarks=10).train()
    pixels, labels = random_pixels(4, 3, 64, 64), 0.2 + 0.6 * random_labels(4, 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        outputs = model(pixels, labels)
        optimizer.zero_grad()
        outputs.loss.backward()
        optimizer.step()
        losses.append(outputs.loss_dict["coordinate"].item())
    assert losses[-1] < 0.4 * losses[0]


# Backbone weights from a file


def write_timm_weights(file, backbone: str, value: float, **kwargs):
    """A file as timm has them, in which every float is `value`."""
    with torch.device("meta"):
        shapes = timm.create_model(backbone, **kwargs).state_dict()
    weights = {
        name: torch.full(meta.shape, value) if meta.is_floating_point() else torch.ones(meta.shape, dtype=meta.dtype)
        for name, meta in shapes.items()
    }
    save_file(weights, file)


@pytest.mark.parametrize(
    "backbone, kwargs",
    [("resnet18", {}), ("vgg11_bn", {"mlp_ratio": 0.01}), ("test_convnext", {}), ("test_efficientnet", {})],
)
def test_backbone_keeps_weights_and_statistics_of_a_file(tmp_path, backbone, kwargs):
    write_timm_weights(tmp_path / "weights.safetensors", backbone, 3.0, **kwargs)
    model = new_model(backbone=backbone, backbone_kwargs=kwargs)
    before = {name: weights.clone() for name, weights in model.state_dict().items()}
    model.load_backbone_weights(tmp_path / "weights.safetensors")
    model.save_pretrained(tmp_path / "saved")
    for loaded in (model, MTLDForFacialLandmarkDetection.from_pretrained(tmp_path / "saved")):
        floats = {k: w for k, w in loaded.backbone.state_dict().items() if w.is_floating_point()}
        assert floats and all((weights == 3).all() for weights in floats.values())
        assert any("running_var" in name for name in floats) or "convnext" in backbone
        for name, weights in loaded.state_dict().items():
            if not name.startswith(("backbone.", "heatmap_branch.")):
                assert torch.equal(weights, before[name]), name


def test_backbone_refuses_a_file_that_is_not_its_own(tmp_path):
    model = new_model(**BASE)
    before = {name: weights.clone() for name, weights in model.state_dict().items()}
    write_timm_weights(tmp_path / "other.safetensors", "test_convnext", 3.0)
    (tmp_path / "broken.pth").write_bytes(b"PK\x03\x04 cut short")
    for name in ("other.safetensors", "broken.pth", "missing.pth"):
        with pytest.raises(ValueError, match=f"backbone weights of 'test_efficientnet' from .*{name}: "):
            model.load_backbone_weights(tmp_path / name)
    for name, weights in model.state_dict().items():
        assert torch.equal(weights, before[name]), name


# Checkpoints


@pytest.fixture
def warnings_of_transformers():
    """What transformers has logged, of level WARNING at least. Its logger does not reach pytest's `caplog`."""
    records = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = records.append
    logging.getLogger("transformers").addHandler(handler)
    yield records
    logging.getLogger("transformers").removeHandler(handler)


@pytest.mark.parametrize(
    "fields",
    [{}, DENSE, {"backbone": "test_coatnet", "backbone_kwargs": {"img_size": 64}}],  # its buffers are not in the file
)
def test_loading_draws_nothing_anew(tmp_path, monkeypatch, warnings_of_transformers, fields):
    model = moved_model(**fields)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert saved and not any(name.startswith("heatmap_branch.") for name in saved)

    def fail(*args, **kwargs):
        raise AssertionError("timm looked for its own weights")

    monkeypatch.setattr("timm.models._builder.load_pretrained", fail)
    loaded = MTLDForFacialLandmarkDetection.from_pretrained(tmp_path)
    assert [record.getMessage() for record in warnings_of_transformers] == []
    assert not loaded.training
    mine, theirs = dict(model.named_parameters()), dict(loaded.named_parameters())
    mine, theirs = mine | dict(model.named_buffers()), theirs | dict(loaded.named_buffers())
    assert theirs.keys() == {name for name in mine if not name.startswith("heatmap_branch.")}
    assert [name for name in theirs if not torch.equal(mine[name], theirs[name])] == []
    assert torch.allclose(loaded(PIXELS).landmarks, model(PIXELS).landmarks, rtol=0, atol=1e-5)


def test_weights_of_convolutions_are_channels_last(tmp_path):
    model = moved_model()
    model.save_pretrained(tmp_path)
    loaded, _ = MTLDForFacialLandmarkDetection.from_pretrained(tmp_path, output_loading_info=True)
    for network in (model, loaded):
        kernels = [weights for weights in network.parameters() if weights.ndim == 4]
        assert kernels and all(weights.is_contiguous(memory_format=torch.channels_last) for weights in kernels)
    plain = copy.deepcopy(model)
    for weights in plain.parameters():
        weights.data = weights.data.contiguous()
    assert torch.allclose(plain(PIXELS).landmarks, model(PIXELS).landmarks, rtol=0, atol=1e-5)


def test_loaded_model_can_be_trained_on_with_a_new_heatmap_branch(tmp_path):
    moved_model().save_pretrained(tmp_path)
    loaded = MTLDForFacialLandmarkDetection.from_pretrained(tmp_path, for_training=True).train()
    branch = loaded.heatmap_branch
    assert branch.conv.weight.std() > 0.01
    assert (branch.norm.running_mean == 0).all() and (branch.norm.running_var == 1).all()
    outputs = loaded(PIXELS, LABELS)
    assert not outputs.heatmaps.any() and outputs.loss.isfinite()


def test_a_network_of_any_configuration_holds_what_a_released_file_holds(tmp_path):
    model = moved_model()
    model.save_pretrained(tmp_path)
    config = MTLDConfig.from_pretrained(tmp_path)
    assert config.use_heatmap_loss
    strict = MTLDForFacialLandmarkDetection(config).eval()
    load_model(strict, tmp_path / "model.safetensors", strict=True)
    with init_empty_weights():
        empty = MTLDForFacialLandmarkDetection._from_config(config)
    dispatched = load_checkpoint_and_dispatch(empty, tmp_path, device_map={"": "cpu"}, strict=True).eval()
    for loaded in (strict, dispatched):
        assert torch.allclose(loaded(PIXELS).landmarks, model(PIXELS).landmarks, rtol=0, atol=1e-5)


def test_a_training_without_its_heatmap_branch_is_told_once(caplog):
    model = new_model(for_training=False, decoder_layers=1)
    assert not hasattr(model, "heatmap_branch") and caplog.messages == []
    outputs = model.train().train()(PIXELS, LABELS)
    assert outputs.heatmaps is None and "heatmap" not in outputs.loss_dict
    assert [message.split(" is ")[0] for message in caplog.messages] == ["use_heatmap_loss"]
    new_model(for_training=False, use_heatmap_loss=False).train()
    assert len(caplog.messages) == 1


def test_heatmap_branch_of_a_training_checkpoint_is_not_missed_without_it(tmp_path, warnings_of_transformers):
    model = moved_model()
    model.save_pretrained(tmp_path)
    save_file({k: w.contiguous() for k, w in model.state_dict().items()}, tmp_path / "model.safetensors")
    loaded = MTLDForFacialLandmarkDetection.from_pretrained(tmp_path)
    assert [record.getMessage() for record in warnings_of_transformers] == []
    assert torch.allclose(loaded(PIXELS).landmarks, model(PIXELS).landmarks, rtol=0, atol=1e-5)


@pytest.mark.parametrize("whole_model", [True, False])
def test_half_precision_weights_load_as_float32(tmp_path, whole_model):
    model = moved_model()
    half = copy.deepcopy(model).half()
    half.save_pretrained(tmp_path) if whole_model else model.save_pretrained(tmp_path, state_dict=half.state_dict())
    assert load_file(tmp_path / "model.safetensors")["decoder.queries"].dtype == torch.float16
    loaded = MTLDForFacialLandmarkDetection.from_pretrained(tmp_path)
    assert {weights.dtype for weights in loaded.parameters()} == {torch.float32}
    assert torch.allclose(loaded(PIXELS).landmarks, half.float()(PIXELS).landmarks, atol=1e-5)


@pytest.mark.parametrize("head", ["per_landmark", "shared"])
def test_loaded_in_half_precision_keeps_coordinates_in_float32(tmp_path, head):
    moved_model(landmark_head=head).save_pretrained(tmp_path)
    half = MTLDForFacialLandmarkDetection.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    layer = half.decoder.layers[0]
    for weights in (half.decoder.mean_face, half.decoder.out.weight, *layer.head.parameters()):
        assert weights.dtype == torch.float32
    assert layer.cross_attention.sampling.weight.dtype == torch.float32
    exact = half.float()(PIXELS).landmarks
    half = MTLDForFacialLandmarkDetection.from_pretrained(tmp_path, dtype=torch.bfloat16)
    for pixels in (PIXELS, PIXELS.bfloat16(), PIXELS.double()):  # cast to the network's
        landmarks = half(pixels).landmarks
        assert landmarks.dtype == torch.float32 and torch.allclose(landmarks, exact, atol=0.03)
        assert not torch.equal(landmarks, landmarks.bfloat16().float())


def test_refuses_to_save_into_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="save_directory must be a directory, but got .*file"):
        new_model(**BASE).save_pretrained(tmp_path / "file")
