"""What the network learns of data sets: topologies, offsets of their annotations, and visibility."""

import numpy as np
import pytest
import torch

from modeling_mtld.configuration_mtld import MTLDConfig
from modeling_mtld.flip_mtld import predict_with_flip
from modeling_mtld.image_processing_mtld import MTLDImageProcessor
from modeling_mtld.loss_mtld import ItemCounts, count_items, visibility_loss
from modeling_mtld.modeling_mtld import MTLDForFacialLandmarkDetection, MTLDOutput

TOPOLOGIES = {
    "eyes": {"landmarks": [1, 0], "landmark_names": ["left", "right"], "flip_pairs": [[0, 1]], "normalizer": "box"},
    "nose": {"landmarks": [2], "landmark_names": ["nose"], "flip_pairs": [], "normalizer": "box"},
}
FIELDS = {
    "backbone": "test_resnet.r160_in1k",
    "image_size": 64,
    "num_landmarks": 3,
    "flip_pairs": [[0, 1]],
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "decoder_intermediate_size": 16,
    "use_visibility_head": True,
    "topologies": TOPOLOGIES,
    "default_topology": "nose",
    "datasets": ["first", "second"],
}
PIXELS = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = MTLDForFacialLandmarkDetection(MTLDConfig(**FIELDS)).eval()
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(0.02 * torch.randn_like(weights))
    return model


# Topologies ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_topology_chooses_landmarks_in_its_order(model):
    whole, eyes = model(PIXELS), model(PIXELS, topology="eyes")
    for name in ("landmarks", "initial_landmarks", "scales", "scores", "visibilities"):
        assert torch.equal(eyes[name], whole[name][:, [1, 0]]), name
    assert torch.equal(eyes.intermediate_landmarks, whole.intermediate_landmarks[:, :, [1, 0]])
    assert model(PIXELS, topology="nose").landmarks.shape == (2, 1, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"topology": "ears"}, "topology must be one of eyes, nose, but got 'ears'"),
        ({"topology": "eyes", "labels": torch.rand(2, 3, 2)}, "topology must be None with labels"),
        ({"topology": ["eyes"]}, r"topology must be one of eyes, nose, but got \['eyes'\]"),
        ({"dataset": "third"}, "dataset must be one of first, second, but got 'third'"),
        ({"dataset_ids": torch.tensor([0])}, r"dataset_ids must be of shape \(2,\), but got \(1,\)"),
        ({"dataset_ids": torch.zeros(2)}, "dataset_ids must be of dtype int64, but got torch.float32"),
        (
            {"dataset": "first", "dataset_ids": torch.tensor([0, 1])},
            "dataset must be None where dataset_ids are given",
        ),
        ({"mirrored": torch.tensor([0, 1])}, "mirrored must be of dtype bool, but got torch.int64"),
        ({"visibility": torch.zeros(2, 2)}, r"visibility must be of shape \(2, 3\), but got \(2, 2\)"),
    ],
)
def test_what_the_network_does_not_have(model, options, message):
    with pytest.raises(ValueError, match=message):
        model(PIXELS, **options)


def test_a_network_without_sets_says_so():
    model = MTLDForFacialLandmarkDetection(
        MTLDConfig(**FIELDS | {"topologies": None, "default_topology": None, "datasets": None})
    )
    with pytest.raises(ValueError, match="topology must be None for a network with one topology, but got 'eyes'"):
        model(PIXELS, topology="eyes")
    with pytest.raises(ValueError, match="dataset must be None for a network without offsets, but got 'first'"):
        model(PIXELS, dataset="first")
    with pytest.raises(ValueError, match="dataset_ids must be None for a network without offsets, but got a tensor"):
        model(PIXELS, dataset_ids=torch.tensor([0, 0]))


def changed(**values) -> dict:
    return {"topologies": TOPOLOGIES | {"eyes": TOPOLOGIES["eyes"] | values}}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"topologies": []}, "topologies must be None or map names to topologies"),
        ({"topologies": {"eyes": {"landmarks": [0]}}}, "must hold the fields of a Topology, but got 'eyes'"),
        (changed(landmarks=[0, 3]), "landmarks of topology 'eyes' must be indices below 3"),
        (changed(landmarks=[0, 0]), "landmarks of topology 'eyes' must hold each landmark once"),
        (changed(landmark_names=["one"]), "landmark_names of topology 'eyes' must hold 2 names"),
        (changed(flip_pairs=[[0, 2]]), "flip_pairs of topology 'eyes' must be pairs of indices below 2"),
        ({"default_topology": "ears"}, "default_topology must be one of eyes, nose, but got 'ears'"),
        ({"topologies": None}, "topologies must be None or map names to topologies, but got None"),
        ({"datasets": []}, "datasets must be None or a list of different names"),
        ({"datasets": ["first", "first"]}, "datasets must be None or a list of different names"),
    ],
)
def test_wrong_configurations(fields, message):
    with pytest.raises(ValueError, match=message):
        MTLDConfig(**FIELDS | fields)


# Offsets ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_offset_of_a_set_is_added_and_mirrored_with_the_face(model):
    plain = model(PIXELS)
    offsets = model.dataset_offsets.offsets[:, 1]
    named = model(PIXELS, dataset="second")
    for name in ("landmarks", "initial_landmarks"):
        assert torch.allclose(named[name], plain[name] + offsets, atol=1e-6)
    assert torch.allclose(named.intermediate_landmarks, plain.intermediate_landmarks + offsets, atol=1e-6)
    mixed = model(PIXELS, dataset_ids=torch.tensor([1, -1]), mirrored=torch.tensor([True, True]))
    turned = offsets[[1, 0, 2]] * torch.tensor([-1, 1])
    assert torch.allclose(mixed.landmarks[0], plain.landmarks[0] + turned, atol=1e-6)
    assert torch.equal(mixed.landmarks[1], plain.landmarks[1])


@torch.no_grad()
def test_the_mean_of_a_face_and_its_mirror_image_has_the_offset_too(model):
    plain, named = (predict_with_flip(model, PIXELS, [[0, 1]], **names) for names in ({}, {"dataset": "second"}))
    assert torch.allclose(named.landmarks, plain.landmarks + model.dataset_offsets.offsets[:, 1], atol=1e-6)
    assert plain.visibilities.shape == (2, 3)


def test_an_offset_learns_what_flips_hide():
    """Annotations 0.02 to the right of the places, whether a face is mirrored or not."""
    torch.manual_seed(0)
    model = MTLDForFacialLandmarkDetection(MTLDConfig(**FIELDS))
    mirrored, places = torch.tensor([False, True]), torch.full((2, 3, 2), 0.5)
    labels = places + torch.tensor([[[0.02, 0]], [[-0.02, 0]]])
    optimizer = torch.optim.SGD(model.dataset_offsets.parameters(), lr=0.002)
    for _ in range(40):
        output = model(PIXELS, labels=labels, dataset_ids=torch.tensor([0, 0]), mirrored=mirrored)
        model.zero_grad()
        output.loss.backward()
        optimizer.step()
    offsets = model.dataset_offsets.offsets
    assert torch.allclose(offsets[:, 0, 0], torch.tensor(0.02), atol=0.004) and not offsets[:, 1].any()


# Visibility ------------------------------------------------------------------------------------------------------


def test_visibility_is_learned_where_it_is_known(model):
    labels, known = torch.full((2, 3, 2), torch.nan), torch.tensor([[0.0, 1.0, torch.nan], [torch.nan] * 3])
    optimizer = torch.optim.Adam(model.visibility_head.parameters(), lr=0.1)
    losses = []
    for _ in range(30):
        output = model.train()(PIXELS, labels=labels, visibility=known)
        losses.append(output.loss_dict["visibility"].item())
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    assert losses[-1] < 0.2 * losses[0]
    shown = output.visibilities[0]
    assert shown[0] < 0.5 < shown[1] and ((output.visibilities >= 0) & (output.visibilities <= 1)).all()


def test_what_something_else_hides_is_not_hidden_by_the_head():
    logits, column = torch.randn(2, 3), torch.tensor([[2, 1, 0], [0, 0, 2]])
    assert torch.equal(visibility_loss(logits, column), visibility_loss(logits, (column > 0).float()))


def test_visibility_that_nobody_knows_costs_nothing(model):
    labels = torch.rand(2, 3, 2)
    nothing = model(PIXELS, labels=labels)
    assert nothing.loss_dict["visibility"] == 0 and torch.isfinite(nothing.loss)
    assert torch.equal(nothing.loss, model(PIXELS, labels=labels, visibility=torch.full((2, 3), torch.nan)).loss)


def test_shares_of_parts_add_up_to_the_visibility_loss_of_the_whole_batch():
    logits, known = torch.randn(4, 3), torch.tensor([[0, 1, torch.nan]] * 3 + [[1, 1, 1]])
    count = count_items(torch.rand(4, 3, 2), 2, known).visibilities
    shares = [visibility_loss(logits[part], known[part], count) for part in (slice(0, 1), slice(1, 4))]
    assert torch.allclose(sum(shares), visibility_loss(logits, known)) and int(count) == 9
    assert int(ItemCounts(*count_items(torch.rand(1, 3, 2), 2)).visibilities) == 0


def test_hidden_landmarks_are_not_in_the_box():
    processor = MTLDImageProcessor(size=64)
    inputs = processor(np.zeros((64, 64, 3), np.uint8), return_tensors="pt")
    landmarks = torch.tensor([[[0.2, 0.2], [0.5, 0.6], [0.9, 0.9]]])
    ((face,),) = processor.post_process_landmark_detection(
        MTLDOutput(landmarks=landmarks, visibilities=torch.tensor([[0.9, 0.5, 0.1]])), inputs
    )
    assert torch.equal(face["bbox"], face["keypoints"][:2].flatten()) and face["visibilities"].shape == (3,)
    ((face,),) = processor.post_process_landmark_detection(
        MTLDOutput(landmarks=landmarks, visibilities=torch.zeros(1, 3)), inputs
    )
    assert torch.equal(face["bbox"], face["keypoints"][[0, 2]].flatten())
    with pytest.raises(ValueError, match=r"outputs.visibilities must be \(1, 3\), one a landmark, but got \(1, 2\)"):
        processor.post_process_landmark_detection(
            MTLDOutput(landmarks=landmarks, visibilities=torch.zeros(1, 2)), inputs
        )
