"""transformers' ModelTesterMixin on a tiny MTLD, and what its mixins for export and compilation would ask of it."""

import copy
import math
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import pytest
import torch
from skips import skips
from transformers import initialization as init
from transformers.exporters.exporter_dynamo import DynamoConfig, DynamoExporter
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES
from transformers_tests.test_modeling_common import ModelTesterMixin

from modeling_mtld.configuration_mtld import MTLDConfig
from modeling_mtld.heads_mtld import MTLDScaleHead
from modeling_mtld.modeling_mtld import MTLDForFacialLandmarkDetection, MTLDPreTrainedModel

# Releases until 5.17 take batch norm's counters for weights that should be halved.
COUNTS_COUNTERS = ("test_keep_in_fp32_modules",)
# They compare weights drawn at random with those that `_init_weights` draws.
COMPARES_INITIAL_WEIGHTS = ("test_can_init_all_missing_weights",)
IS_COMPOSITE = ("test_attn_implementation_composite_models", "test_can_set_attention_dynamically_composite_model")

NO_TOKENS = "for models of text: MTLD has no vocabulary and no input embeddings"
NO_FEATURES = "for models that embed text, images, audio or video for each other: MTLD has no such method"
NO_ROTATION = "for rotary position embeddings: MTLD adds sines and cosines of the places to the tokens"
NO_EXPERTS = "for mixtures of experts"
NO_BASE_MODEL = "for heads on a base model: MTLD is one class"
NO_RENAMING = "for models whose checkpoints name weights otherwise"
NO_CLASSES = "for classification"
NO_PLAN = "for tensor parallelism: a network of 12 million weights needs none"
EAGER_AND_SDPA = "MTLD declares eager and sdpa attention; timm's backbone takes no other"


class MTLDModelTester:
    is_training = True
    batch_size = 3
    image_size = 64
    num_landmarks = seq_length = 5
    key_length = 2 * 9  # samples of the first layer
    hidden_size = 16
    num_attention_heads = 1  # of sampled attention, whatever the configuration
    num_hidden_layers = expected_num_hidden_layers = 2  # hidden states are those after each layer

    def __init__(self, backbone: str = "test_efficientnet"):
        self.backbone = backbone

    def get_config(self) -> MTLDConfig:
        return MTLDConfig(
            backbone=self.backbone,
            image_size=self.image_size,
            num_landmarks=self.num_landmarks,
            hidden_size=self.hidden_size,
            num_attention_heads=2,
            intermediate_size=32,
            decoder_intermediate_size=32,
            decoder_layers=self.num_hidden_layers,
            pyramid_attention_levels=2,
            encoder_layers=1,
            use_visibility_head=True,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[MTLDConfig, dict]:
        pixels = torch.randn(self.batch_size, 3, self.image_size, self.image_size)
        return self.get_config(), {"pixel_values": pixels}

    def labels(self) -> torch.Tensor:
        shape = (self.batch_size, self.num_landmarks, 2)
        return torch.linspace(0, 1, math.prod(shape)).view(shape)


initialize = MTLDPreTrainedModel._init_weights


@torch.no_grad()
def draw_zeros_too(model: MTLDPreTrainedModel, module: torch.nn.Module):
    """A new network predicts the mean face whatever it sees: comparisons of its landmarks would tell nothing."""
    initialize(model, module)
    if getattr(module, "_zero_init", False):
        # Small moves: where landmarks jump over the crop, rounding to bfloat16 decides what is read.
        init.normal_(module.weight, std=0.02)
    elif isinstance(module, MTLDScaleHead):
        init.normal_(module.out.weight, std=0.1)


def gradients(model, inputs: dict) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(**inputs).loss.backward()
    return {name: weights.grad.clone() for name, weights in model.named_parameters()}


@skips(
    {
        "test_resize_tokens_embeddings": NO_TOKENS,
        "test_resize_embeddings_untied": NO_TOKENS,
        "test_resize_position_vector_embeddings": "MTLD computes its position embeddings: none of them is stored",
        "test_model_get_set_embeddings": NO_TOKENS,
        "test_inputs_embeds": NO_TOKENS,
        "test_enable_input_require_grads": NO_TOKENS,
        "test_tied_weights_keys": NO_TOKENS,
        "test_tied_head_has_a_tp_plan_entry": NO_TOKENS,
        "test_causal_lm_loss_honors_shift_labels": NO_TOKENS,
        "test_encoder_decoder_loss_no_double_shift": NO_TOKENS,
        "test_model_base_model_prefix": "for models that generate",
        "test_load_contiguous_weights": "weights of convolutions are channels-last in memory, which takes less time",
        "test_sliding_window_mask": "for attention within a window: MTLD's sees every token",
        "test_torch_compile_for_training": f"{NO_TOKENS}; see test_training_under_torch_compile",
        "test_get_text_features": NO_FEATURES,
        "test_get_image_features": NO_FEATURES,
        "test_get_audio_features": NO_FEATURES,
        "test_get_video_features": NO_FEATURES,
        "test_sdpa_can_dispatch_composite_models": "for a language model beside an encoder of another kind of input",
        "test_model_rope": NO_ROTATION,
        "test_vision_axial_rope": NO_ROTATION,
        "test_eager_matches_batched_and_grouped_inference": NO_EXPERTS,
        "test_moe_models_record_router_logits": NO_EXPERTS,
        "test_output_router_logits_from_config": NO_EXPERTS,
        "test_correct_missing_keys": NO_BASE_MODEL,
        "test_base_model_prefix_loads_base_weights": NO_BASE_MODEL,
        "test_torch_save_load": NO_BASE_MODEL,
        "test_reverse_loading_mapping": NO_RENAMING,
        "test_can_load_from_already_mapped_keys": NO_RENAMING,
        "test_problem_types": NO_CLASSES,
        "test_load_with_mismatched_shapes": f"{NO_CLASSES}; see test_can_load_ignoring_mismatched_shapes",
        "test_tp_plan_matches_params": NO_PLAN,
        "test_feed_forward_chunking": "MTLD does not cut its feed-forward networks into chunks",
        "test_save_load_keys_to_ignore_on_save": "save_pretrained itself leaves out the heatmap branch: "
        "tests/test_modeling.py",
        "test_flash_attn": EAGER_AND_SDPA,
        "test_flex_attention": EAGER_AND_SDPA,
        "test_kernels_can_load_without_crashing": "MTLD has no layer for which the Hub has a kernel",
    }
)
class MTLDModelTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (MTLDForFacialLandmarkDetection,)

    def setUp(self):
        name = self._testMethodName
        self.model_tester = MTLDModelTester("test_convnext" if name in COUNTS_COUNTERS else "test_efficientnet")
        self._is_composite = name in IS_COMPOSITE
        if name not in COMPARES_INITIAL_WEIGHTS:
            patch = mock.patch.object(MTLDPreTrainedModel, "_init_weights", draw_zeros_too)
            patch.start()
            self.addCleanup(patch.stop)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class)
        return inputs | {"labels": self.model_tester.labels()} if return_labels else inputs

    def new_model_and_inputs(self) -> tuple[MTLDForFacialLandmarkDetection, dict]:
        torch.manual_seed(0)
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        return MTLDForFacialLandmarkDetection(config, for_training=True), inputs

    def test_can_init_all_missing_weights(self):
        # It passes over models whose configuration's file does not name a year since 2023.
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "configuration.py"
            file.write_text("# Copyright 2026")
            with mock.patch("inspect.getfile", return_value=str(file)):
                super().test_can_init_all_missing_weights()

    def test_model_forward_default_config_values(self):
        with mock.patch.dict(MODEL_MAPPING_NAMES, mtld=MTLDForFacialLandmarkDetection.__name__):  # else passed over
            super().test_model_forward_default_config_values()

    def test_can_load_ignoring_mismatched_shapes(self):
        """As transformers' test does for another number of classes, here for another number of landmarks."""
        model, inputs = self.new_model_and_inputs()
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
                MTLDForFacialLandmarkDetection.from_pretrained(folder, num_landmarks=7)
            loaded, info = MTLDForFacialLandmarkDetection.from_pretrained(
                folder, num_landmarks=7, ignore_mismatched_sizes=True, output_loading_info=True
            )
        assert loaded(**inputs).landmarks.shape == (3, 7, 2)
        assert (loaded.decoder.mean_face == 0.5).all() and 0.5 < loaded.decoder.queries.std() < 2
        mismatched, weights = {key[0] for key in info["mismatched_keys"]}, model.state_dict()
        assert {"decoder.queries", "decoder.mean_face"} <= mismatched
        for name, value in loaded.state_dict().items():
            if not name.startswith("heatmap_branch."):
                assert torch.equal(value, weights[name]) if name not in mismatched else value.shape[0] % 7 == 0, name

    @pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable.*:FutureWarning")  # 5.17 knows no other
    def test_every_layer_is_checkpointed_and_gradients_stay(self):
        model, inputs = self.new_model_and_inputs()
        inputs["labels"] = self.model_tester.labels()
        expected = gradients(copy.deepcopy(model).train(), inputs)
        for use_reentrant in (False, True):
            checkpointed = copy.deepcopy(model).train()
            checkpointed.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
            calls = count_calls(checkpointed)
            found = gradients(checkpointed, inputs)
            assert len(calls) == 2 + 1 + 2 and set(calls.values()) == {2}, calls
            for name, gradient in expected.items():
                torch.testing.assert_close(found[name], gradient, msg=name)

    # The distribution does not carry transformers' own tests of export; compilation it tests on text.

    @pytest.mark.torch_compile_test
    def test_images_under_torch_compile(self):
        """Without a graph break, for any number of faces. "aot_eager" needs no compiler of C++."""
        model, inputs = self.new_model_and_inputs()
        pixels = inputs["pixel_values"]
        compiled = torch.compile(copy.deepcopy(model).eval(), backend="aot_eager", fullgraph=True)
        torch._dynamo.mark_dynamic(pixels, 0)
        model.eval()
        with torch.no_grad():
            torch.testing.assert_close(compiled(pixels).landmarks, model(pixels).landmarks)
            with torch.compiler.set_stance("fail_on_recompile"):
                torch.testing.assert_close(compiled(pixels[:2]).landmarks, model(pixels[:2]).landmarks)

    @pytest.mark.torch_compile_test
    def test_training_under_torch_compile(self):
        model, inputs = self.new_model_and_inputs()
        inputs["labels"] = self.model_tester.labels()
        compiled = torch.compile(copy.deepcopy(model).train(), backend="aot_eager", fullgraph=True)
        expected = gradients(model.train(), inputs)
        compiled(**inputs).loss.backward()
        for name, weights in compiled._orig_mod.named_parameters():
            torch.testing.assert_close(weights.grad, expected[name], rtol=1e-4, atol=1e-4, msg=name)

    def test_torch_export(self):
        """For any number of faces, through transformers' exporter, also with hidden states."""
        model, inputs = self.new_model_and_inputs()
        model.eval()
        wanted = {"output_hidden_states": True}
        config = DynamoConfig(dynamic=True, dynamic_shapes={"pixel_values": {0: torch.export.Dim.DYNAMIC}})
        exported = DynamoExporter().export(model, inputs | wanted, config=config)
        program = getattr(exported, "program", exported).module()  # which releases until 5.17 return
        for faces in (inputs["pixel_values"], inputs["pixel_values"][:2]):
            found, expected = program(pixel_values=faces), model(faces, **wanted)
            assert found.keys() == expected.keys() and len(found.hidden_states) == 2
            torch.testing.assert_close(found.to_tuple(), expected.to_tuple(), rtol=1e-4, atol=1e-4)


def count_calls(model) -> dict[str, int]:
    """Counts, from now on, how often each layer with gradient checkpointing runs its inner attention."""
    calls = {}

    def count(name):
        calls[name] = 0

        def hook(*_):
            calls[name] += 1

        return hook

    for name, layer in model.named_modules():
        if isinstance(layer, GradientCheckpointingLayer):
            inner = layer.attention if hasattr(layer, "attention") else layer.cross_attention
            inner.register_forward_hook(count(name))
    return calls
