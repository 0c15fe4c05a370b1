"""MTLDConfig: what it builds, what it refuses, and its way through a file."""

import pytest
from transformers import TimmBackboneConfig

from modeling_mtld.configuration_mtld import MTLDConfig
from modeling_mtld.modeling_mtld import MTLDForFacialLandmarkDetection

TINY = "test_efficientnet"


@pytest.mark.parametrize(
    "backbone, indices", [("resnet18", [1, 2, 3, 4]), ("vgg11_bn", [2, 3, 4, 5]), ("test_convnext", [0, 1, 2, 3])]
)
def test_backbone_name_gives_the_feature_maps_at_strides_4_to_32(backbone, indices):
    config = MTLDConfig(backbone=backbone)
    assert isinstance(config.backbone_config, TimmBackboneConfig)
    assert config.backbone == config.backbone_config.backbone == backbone
    assert list(config.backbone_config.out_indices) == indices


def test_backbone_config_wins_over_the_name():
    given = TimmBackboneConfig(backbone="test_convnext", out_indices=[0, 1, 2, 3])
    assert MTLDConfig(backbone_config=given).backbone == "test_convnext"


def test_survives_a_file(tmp_path):
    fields = {
        "backbone": TINY,
        "backbone_kwargs": {"drop_path_rate": 0.1},
        "image_size": 128,
        "num_landmarks": 3,
        "landmark_names": ["left eye", "right eye", "nose"],
        "flip_pairs": [[0, 1]],
        "use_structure_loss": False,
        "heatmap_size": 64,
        "heatmap_sigma": 2,
        "structure_distance": "euclidean",
    }
    config = MTLDConfig(**fields)
    config.save_pretrained(tmp_path)
    loaded = MTLDConfig.from_pretrained(tmp_path)
    assert {name: getattr(loaded, name) for name in fields} == fields
    assert loaded.backbone_config.to_dict() == config.backbone_config.to_dict()


def test_fields_can_be_changed_when_loading(tmp_path):
    MTLDConfig(backbone=TINY, num_landmarks=3).save_pretrained(tmp_path)
    assert MTLDConfig.from_pretrained(tmp_path, use_heatmap_loss=False).use_heatmap_loss is False
    for name, value in {"num_neighbors": -1, "backbone": "resnet18", "backbone_kwargs": 5}.items():
        with pytest.raises(ValueError, match=f"{name} must be .* but got {value}"):
            MTLDConfig.from_pretrained(tmp_path, **{name: value}).check()  # as the model does


@pytest.mark.parametrize(
    "name, value",
    [
        ("backbone", "resnet_of_nobody"),
        ("backbone", 18),
        ("backbone", "test_vit"),  # no feature map at stride 8
        ("backbone_kwargs", {"nonsense": 1}),
        ("backbone_kwargs", {"pretrained": True}),  # the checkpoint has the weights
        ("backbone_kwargs", {"out_indices": [0, 1]}),
        ("backbone_kwargs", {"output_stride": 16}),
        ("backbone_kwargs", {"in_chans": 1}),  # the processor makes colours
        ("backbone_kwargs", {"checkpoint_path": "weights.pth"}),
        ("backbone_kwargs", {"act_layer": object()}),  # no file can hold it
        ("backbone_kwargs", 5),
        ("backbone_config", 18),
        ("backbone_config", {"backbone": TINY}),
        ("image_size", 0),
        ("image_size", 100),
        ("image_size", 256.0),
        ("num_landmarks", 0),
        ("num_landmarks", 2.5),
        ("num_landmarks", True),
        ("hidden_size", "96"),
        ("hidden_size", 30),
        ("num_attention_heads", 5),
        ("intermediate_size", 0),
        ("decoder_intermediate_size", 0),
        ("encoder_layers", -1),
        ("decoder_layers", 0),
        ("num_neighbors", -1),
        ("heatmap_size", 0),
        ("heatmap_size", -64),
        ("heatmap_size", 100),
        ("heatmap_sigma", 0),
        ("heatmap_sigma", "1e-3"),  # what YAML makes of 1e-3
        ("structure_loss_weight", -1.0),
        ("coordinate_loss_weight", float("nan")),
        ("use_heatmap_loss", "no"),
        ("structure_distance", "manhattan"),
        ("cross_attention", "global"),
        ("num_feature_levels", 0),
        ("num_feature_levels", 4),
        ("pyramid_attention_levels", -1),
        ("sampling_size", 0),
        ("fine_patch_size", -1),
        ("landmark_head", "own"),
        ("use_pooled_estimate", "no"),
        ("initial_loss_weight", -1.0),
        ("landmark_names", ["nose"]),
        ("flip_pairs", [[0, 5]]),
        ("flip_pairs", [[0]]),
        ("flip_pairs", [0, 1]),
        ("flip_pairs", [[0, 0.5]]),
    ],
)
def test_refuses_what_cannot_be_and_names_it(name, value):
    with pytest.raises(ValueError, match=f"{name} .*but got|{name} {{.*}}: ") as error:
        MTLDConfig(**{"backbone": TINY, "num_landmarks": 5, name: value})
    if not isinstance(value, (dict, list)):
        assert repr(value) in str(error.value)


def test_base_needs_the_pooled_estimate():
    with pytest.raises(ValueError, match="use_pooled_estimate must be true without .*, but got False"):
        MTLDConfig(backbone=TINY, use_multiscale_transformer=False, use_pooled_estimate=False)


def test_other_landmarks_than_a_checkpoints_need_other_names(tmp_path):
    names = [f"point_{index}" for index in range(4)]
    config = MTLDConfig(backbone=TINY, num_landmarks=4, landmark_names=names, flip_pairs=[[0, 1]])
    MTLDForFacialLandmarkDetection(config).save_pretrained(tmp_path)
    other = {"num_landmarks": 3, "ignore_mismatched_sizes": True}
    with pytest.raises(ValueError, match="give landmark_names and flip_pairs too, which may be None"):
        MTLDForFacialLandmarkDetection.from_pretrained(tmp_path, **other)
    other |= {"landmark_names": None, "flip_pairs": None}
    assert MTLDForFacialLandmarkDetection.from_pretrained(tmp_path, **other).decoder.mean_face.shape == (3, 2)


@pytest.mark.parametrize(
    "name, value",
    [
        ("landmark_names", 7),
        ("flip_pairs", 7),
        ("flip_pairs", [[0, True]]),
        ("flip_pairs", [[0, 1], [1, 2]]),
        ("scale_loss_weight", True),
    ],
)
def test_fields_of_the_wrong_kind_are_named(name, value):
    with pytest.raises(ValueError, match=name):
        MTLDConfig(**{name: value})
