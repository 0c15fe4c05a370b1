import numpy as np
import pytest
from PIL import Image

from dataset_scripts import BENCHMARKS
from dataset_scripts.augmentation import FaceCrops
from modeling_mtld.image_processing_mtld import MTLDImageProcessor
from training_mtld.evaluation.box_noise import box_noise
from training_mtld.evaluation.scores import score_faces

W300, AFLW = BENCHMARKS["300w"], BENCHMARKS["aflw"]
PROCESSOR = MTLDImageProcessor(size=32)
ERROR = 0.03  # of the true box's longer side, 80 pixels


def noise_faces(benchmark=W300, count=40):
    rng = np.random.default_rng(0)
    return [
        {
            "image": Image.fromarray(rng.integers(0, 256, (110, 120, 3), dtype=np.uint8)),
            "landmarks": rng.uniform([20, 20], [100, 90], (benchmark.num_landmarks, 2)),
            "landmark_box": [20.0, 20.0, 100.0, 90.0],
            "box": [20.0, 20.0, 100.0, 90.0],
            "image_id": f"photo {index}",
        }
        for index in range(count)
    ]


class Network:
    """Stands for a network; keeps the crops that it was given."""

    def __init__(self, misses):
        self.misses, self.seen = misses, []

    def __call__(self, crops):
        items = [crops[index] for index in range(len(crops))]
        keys = [key for key in items[0] if key != "pixel_values"]
        faces = {key: np.stack([item[key].numpy() for item in items]).astype(np.float64) for key in keys}
        if "subsets" in faces:
            faces["subsets"] = faces["subsets"].astype(bool)
        self.seen.append(faces | {"pixels": np.stack([item["pixel_values"] for item in items])})
        return faces | {"landmarks": self.misses(faces)}


def perfect_but_for_an_offset(faces):
    """The same distance on the photo whatever the crop."""
    side = (faces["boxes"][:, 2] - faces["boxes"][:, 0])[:, None]
    return faces["labels"] + ERROR * side[:, None] * [0.6, 0.8]


def blind(faces):
    """The middle of the crop: as far off as the box is."""
    boxes = faces["boxes"].reshape(-1, 2, 2)
    return faces["labels"] + (0.5 - boxes.mean(axis=1))[:, None]


@pytest.mark.parametrize("normalizer, length", [("box", (80 * 70) ** 0.5), ("diagonal", np.hypot(80, 70))])
def test_errors_are_divided_by_the_true_size_of_the_face(normalizer, length):
    """And not by that of the moved box, nor in the units of another crop."""
    for benchmark in (W300, AFLW):
        noise = box_noise(
            Network(perfect_but_for_an_offset), noise_faces(benchmark), PROCESSOR, benchmark, normalizer, (0, 0.2)
        )
        for curve in noise["curves"].values():
            assert [point["value"] for point in curve] == pytest.approx([ERROR * 80 / length] * 2, rel=1e-4)


def test_what_is_returned():
    noise = box_noise(Network(blind), noise_faces(), PROCESSOR, W300, "inter-ocular", (0, 0.05, 0.2))
    assert noise["levels"] == [0.0, 0.05, 0.2] and noise["normalizer"] == "inter-ocular"
    assert list(noise["curves"]) == ["shift", "scale", "both"]
    for curve in noise["curves"].values():
        assert [list(point) for point in curve] == [["value", "low", "high"]] * 3
        assert all(point["low"] <= point["value"] <= point["high"] for point in curve)
    shift, scale, both = (noise["curves"][name] for name in ("shift", "scale", "both"))
    assert shift[0]["value"] < 1e-6 < shift[1]["value"] < shift[2]["value"] and shift[2]["low"] < shift[2]["high"]
    assert max(point["value"] for point in scale) < 1e-6 < both[1]["value"] < both[2]["value"]


def test_boxes_move_and_grow_within_their_level():
    """Uniformly, by shares of the longer side of the true box."""
    network = Network(blind)
    box_noise(network, noise_faces(count=200), PROCESSOR, W300, "box", (0.2,))
    for faces, moves, resizes in zip(network.seen, (True, False, True), (False, True, True), strict=True):
        boxes = faces["boxes"].reshape(-1, 2, 2)
        side = boxes[:, 1, 0] - boxes[:, 0, 0]  # in crops, which are 1.25 times the box
        shifts, sizes = (0.5 - boxes.mean(axis=1)) / side[:, None], 1 / (1.25 * side)
        assert np.abs(shifts).max() < 0.2 + 1e-6 and 0.8 - 1e-6 < sizes.min() and sizes.max() < 1.2 + 1e-6
        assert (np.abs(shifts).max(axis=0) > 0.18).all() == moves and (np.ptp(sizes) > 0.36) == resizes
        assert moves == (np.abs(shifts) > 1e-6).any() and resizes == (np.abs(sizes - 1) > 1e-6).any()
        if moves:
            assert abs(np.corrcoef(shifts.T)[0, 1]) < 0.2 and (np.abs(shifts.mean(axis=0)) < 0.03).all()


def test_draws_depend_on_seed_level_and_face_alone():
    def boxes(faces, levels, seed=0):
        network = Network(blind)
        box_noise(network, faces, PROCESSOR, W300, "box", levels, seed)
        return network.seen[0]["boxes"]

    faces = noise_faces(count=5)
    first = boxes(faces, (0.1, 0.2))
    assert np.array_equal(first, boxes(faces[::-1], (0.1,))[::-1])
    assert not np.isclose(first, boxes(faces, (0.1,), seed=1)).all()
    shares = [(0.5 - boxes(faces, (level,)).reshape(-1, 2, 2).mean(axis=1)) / level for level in (0.1, 0.2)]
    assert not np.isclose(*shares).any()


def test_level_0_is_measured_once_on_the_faces_as_they_are():
    network, faces = Network(blind), noise_faces(count=5)
    box_noise(network, faces, PROCESSOR, W300, "box", (0, 0.1))
    assert len(network.seen) == 1 + 3
    plain = Network(perfect_but_for_an_offset)
    scores = score_faces({"all": plain(FaceCrops(faces, PROCESSOR, W300))}, W300, ["all"], "box")
    for key in ("pixels", "labels", "boxes"):
        assert np.array_equal(network.seen[0][key], plain.seen[0][key])
    exact = box_noise(plain, faces, PROCESSOR, W300, "box", (0,))
    assert exact["curves"]["both"][0] == scores["all"]["normalizers"]["box"]["nme"]


@pytest.mark.parametrize("levels", [(), (0, -0.1), (1.5,), (float("nan"),)])
def test_levels_out_of_range_are_told(levels):
    with pytest.raises(ValueError, match=r"levels must be from 0 to 0\.9, but got \["):
        box_noise(Network(blind), noise_faces(count=1), PROCESSOR, W300, "box", levels)
