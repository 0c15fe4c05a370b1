import dataclasses
import functools
import json

import pytest
import torch

from dataset_scripts import BENCHMARKS
from dataset_scripts.own_data import read_benchmark
from modeling_mtld.configuration_mtld import MTLDConfig
from modeling_mtld.modeling_mtld import MTLDForFacialLandmarkDetection
from training_mtld.transfer import load_for_benchmarks

W300, WFLW, AFLW, AFLW21 = (BENCHMARKS[name] for name in ("300w", "wflw", "aflw", "aflw21"))
OF_LANDMARKS = {
    "decoder.queries",
    "decoder.mean_face",
    "decoder.out.weight",
    "decoder.out.bias",
    *(f"decoder.layers.{layer}.head.{name}" for layer in (0, 1) for name in ("weight", "bias")),
    "heatmap_branch.out.weight",
    "heatmap_branch.out.bias",
    "scale_head.landmark_embedding",
    "scale_head.usual_error",
}


def network(benchmark, **fields):
    """A tiny network with nothing left as it was initialised."""
    torch.manual_seed(1)
    given = {
        "backbone": "test_resnet.r160_in1k",
        "image_size": 64,
        "num_landmarks": benchmark.num_landmarks,
        "landmark_names": list(benchmark.landmark_names),
        "flip_pairs": [list(pair) for pair in benchmark.flip_pairs],
        "hidden_size": 16,
        "num_attention_heads": 2,
    }
    model = MTLDForFacialLandmarkDetection(MTLDConfig(**given | fields), for_training=True)
    with torch.no_grad():
        for weights in [*model.parameters(), *model.buffers()]:
            if weights.is_floating_point():
                weights.add_(0.03 * torch.randn_like(weights))
    return model.eval()


load = functools.partial(load_for_benchmarks, for_training=True)


def saved(folder, benchmark, **fields):
    model = network(benchmark, **fields)
    model.save_pretrained(folder)
    return model


def kept(before, after, names):
    return all(torch.equal(before[name], after[name]) for name in names)


# The same landmarks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [W300.landmark_names, None])
def test_the_same_landmarks_are_loaded_as_they_are(tmp_path, names):
    """A checkpoint without names is taken to have those of as many points."""
    source = saved(tmp_path, W300, landmark_names=names and list(names), use_heatmap_loss=False)
    model, remade = load(tmp_path, [W300], {})
    assert remade == [] and not model.training
    assert kept(source.state_dict(), model.state_dict(), source.state_dict())
    assert model.config.landmark_names == source.config.landmark_names


def test_fields_reach_the_configuration(tmp_path):
    saved(tmp_path, W300)
    for benchmark in (W300, WFLW):
        model, _ = load(tmp_path, [benchmark], {"num_neighbors": 3, "use_heatmap_loss": False})
        assert model.config.num_neighbors == 3 and not hasattr(model, "heatmap_branch")


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("benchmark", [W300, AFLW])
def test_a_scale_head_is_added_or_left_out(tmp_path, before, benchmark):
    source = saved(tmp_path, W300, use_scale_head=before)
    model, remade = load(tmp_path, [benchmark], {"use_scale_head": not before})
    assert hasattr(model, "scale_head") is not before
    assert kept(source.state_dict(), model.state_dict(), [name for name in source.state_dict() if "backbone" in name])
    assert bool(remade) is (benchmark is AFLW)


# Others -----------------------------------------------------------------------------------------------------------


def test_other_landmarks_get_new_weights_and_the_rest_stays(tmp_path):
    source = saved(tmp_path, AFLW)
    torch.manual_seed(5)
    model, remade = load(tmp_path, [W300], {})
    assert set(remade) == OF_LANDMARKS and not model.training
    assert (model.config.num_landmarks, model.config.landmark_names) == (68, list(W300.landmark_names))
    assert model.config.flip_pairs == [list(pair) for pair in W300.flip_pairs]
    before, after = source.state_dict(), model.state_dict()
    assert kept(before, after, [name for name in before if not name.startswith("heatmap") and name not in remade])
    assert torch.equal(after["decoder.mean_face"], torch.full((68, 2), 0.5))
    assert 0.5 < after["decoder.queries"].std() < 1.5
    assert model(torch.zeros(2, 3, 64, 64), labels=torch.rand(2, 68, 2)).loss.isfinite()


def test_a_network_to_be_scored_has_no_heatmap_branch(tmp_path):
    saved(tmp_path, AFLW)
    for benchmark in (AFLW, W300):
        model, remade = load_for_benchmarks(tmp_path, [benchmark], {})
        assert not any("heatmap" in name for name in [*model.state_dict(), *remade])


def test_new_weights_are_those_of_the_seed(tmp_path):
    saved(tmp_path, AFLW)
    queries = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        queries.append(load(tmp_path, [W300], {})[0].decoder.queries)
    assert torch.equal(queries[0], queries[1]) and not torch.equal(queries[0], queries[2])


def test_as_many_landmarks_with_other_names_are_others(tmp_path):
    source = saved(tmp_path, W300)
    renamed = dataclasses.replace(W300, landmark_names=tuple(f"point_{index}" for index in range(68)), flip_pairs=())
    model, remade = load(tmp_path, [renamed], {})
    assert set(remade) == OF_LANDMARKS
    assert (model.decoder.queries != source.decoder.queries).any(dim=1).all()
    assert (model.config.landmark_names[0], model.config.flip_pairs) == ("point_0", [])


def test_table_3s_base_gets_a_new_linear_layer(tmp_path):
    source = saved(tmp_path, AFLW, use_multiscale_transformer=False)
    model, remade = load(tmp_path, [W300], {})
    assert {"decoder.out.weight", "decoder.out.bias", "decoder.mean_face"} < set(remade)
    assert model.decoder.out.weight.shape == (136, source.decoder.out.weight.shape[1])
    assert model(torch.zeros(1, 3, 64, 64)).landmarks.shape == (1, 68, 2)


def test_a_heatmap_branch_that_the_checkpoint_holds_is_kept_but_for_its_last_layer(tmp_path):
    source = saved(tmp_path / "checkpoint-3", AFLW)  # as the Trainer names them
    model, remade = load(tmp_path / "checkpoint-3", [W300], {})
    assert set(remade) == OF_LANDMARKS
    names = [name for name in source.state_dict() if name.startswith("heatmap_branch.") and name not in remade]
    assert names and kept(source.state_dict(), model.state_dict(), names)


def test_what_is_trained_from_a_transfer_is_saved_and_loaded(tmp_path):
    saved(tmp_path / "first", AFLW)
    model, _ = load(tmp_path / "first", [W300], {})
    model.save_pretrained(tmp_path / "second")
    again, remade = load(tmp_path / "second", [W300], {})
    assert remade == []
    names = [name for name in model.state_dict() if not name.startswith("heatmap_branch.")]
    assert kept(model.state_dict(), again.state_dict(), names)


# Landmarks that both have -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [False, True])
def test_landmarks_among_the_checkpoints_are_predicted_as_before(tmp_path, base):
    """In their new places; nothing is new then, so that the model needs no training."""
    source = saved(tmp_path, W300, use_multiscale_transformer=not base)
    names = W300.landmark_names[:16:-1] if base else W300.landmark_names[::-1]  # queries look at each other
    other = dataclasses.replace(W300, landmark_names=names, flip_pairs=(), parts={})
    model, remade = load(tmp_path, [other], {})
    assert remade == []
    wanted = [W300.landmark_names.index(name) for name in names]
    pixels = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected, found = source(pixels), model(pixels)
    torch.testing.assert_close(found.landmarks, expected.landmarks[:, wanted])
    torch.testing.assert_close(found.scales, expected.scales[:, wanted])
    assert found.landmarks.std() > 0.01


def test_parts_that_both_have_keep_their_rows(tmp_path, caplog):
    """The nose and lips of 300W and WFLW; a jaw of as many points lies elsewhere, whatever its points are called."""
    source = saved(tmp_path, W300)
    model, remade = load(tmp_path, [WFLW], {})
    assert set(remade) == OF_LANDMARKS
    old, new = source.config.landmark_names, WFLW.landmark_names
    same = [name for name in new if name.startswith(("nose_bridge", "nostrils", "outer_lip", "inner_lip"))]
    queries = dict(zip(new, model.decoder.queries))
    heads = [
        dict(zip(names, net.decoder.layers[1].head.weight.unflatten(0, (-1, 2))))
        for net, names in ((source, old), (model, new))
    ]
    assert len(same) == 29 and "29 landmarks of the checkpoint keep their weights: nose_bridge_0," in caplog.text
    for name in new:
        before = source.decoder.queries[old.index(name)] if name in old else None
        assert (before is not None and torch.equal(before, queries[name])) == (name in same)
        assert name not in same or torch.equal(heads[0][name], heads[1][name])
    error = model.scale_head.usual_error[new.index("nostrils_2")]
    assert error == source.scale_head.usual_error[old.index("nostrils_2")]


def test_aflws_points_without_its_ears(tmp_path):
    source = saved(tmp_path, AFLW21)
    model, remade = load(tmp_path, [AFLW], {})
    assert remade == []
    ears = [AFLW21.landmark_names.index(name) for name in ("right_ear_0", "left_ear_0")]
    rest = [index for index in range(21) if index not in ears]
    assert torch.equal(model.decoder.queries, source.decoder.queries[rest])


def test_names_that_are_numbers_say_nothing(tmp_path):
    path = tmp_path / "points.yaml"
    path.write_text(f"landmarks: {[str(index) for index in range(5)]}\nflip_pairs: []\nnormalizer: box\n")
    five = read_benchmark(path)
    six = dataclasses.replace(five, landmark_names=(*five.landmark_names, "5"))
    saved(tmp_path / "five", five)
    assert set(load(tmp_path / "five", [six], {})[1]) == OF_LANDMARKS


# No checkpoint ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [{"model_type": "bert"}, {"model_type": "mtld", "hidden_size": 95}, None])
def test_what_is_no_checkpoint_is_told_in_one_line(tmp_path, content):
    if content:
        (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="--model_name_or_path must be an MTLD checkpoint, but got .*: ") as error:
        load(str(tmp_path), [W300], {})
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("benchmark", [W300, AFLW])
def test_fields_that_do_not_fit_the_weights_are_told(tmp_path, benchmark):
    saved(tmp_path, W300)
    with pytest.raises(ValueError, match="--model_name_or_path must be an MTLD checkpoint, but got"):
        load(tmp_path, [benchmark], {"hidden_size": 32})
