"""Test-time flip: what is mirrored comes back to where it was, and partners change places."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator

import train_accelerate
from dataset_scripts import BENCHMARKS
from modeling_mtld.configuration_mtld import MTLDConfig, flip_order
from modeling_mtld.flip_mtld import predict_with_flip
from modeling_mtld.image_processing_mtld import MTLDImageProcessor
from modeling_mtld.modeling_mtld import MTLDForFacialLandmarkDetection, MTLDOutput
from training_mtld.evaluation.scores import errors_of
from training_mtld.evaluation.scoring import predict

PAIRS = [[0, 2]]
PIXELS = np.array([[7, 10], [12, 3], [23, 11]])  # (x, y) of the left, the only and the right one of three dots
SIZE = 32


def draw_dots(pixels=PIXELS) -> torch.Tensor:
    """A crop (1, 3, 32, 32): the single dot in the second channel, the pair in the first."""
    crop = torch.zeros(1, 3, SIZE, SIZE)
    for (x, y), channel in zip(pixels.tolist(), (0, 1, 0)):
        crop[0, channel, y, x] = 1
    return crop


class DotFinder:
    """Knows where the dots are, but says it `bias` too far to the right. Counts the crops of each pass."""

    def __init__(self, bias: float = 0.0):
        self.bias, self.passes = bias, []

    def __call__(self, pixel_values) -> MTLDOutput:
        self.passes.append(len(pixel_values))
        found = []
        for crop in pixel_values:
            pair = sorted((x, y) for y, x in crop[0].nonzero().tolist())
            (y, x) = crop[1].nonzero()[0].tolist()
            found.append([pair[0], (x, y), pair[1]])
        landmarks = (torch.tensor(found) + 0.5) / SIZE + torch.tensor([self.bias, 0])
        # surer of what is further left, and by less of a mirror image's
        confidence = 1 - landmarks[..., 0] / torch.arange(1, 1 + len(landmarks))[:, None]
        return MTLDOutput(
            landmarks=landmarks,
            intermediate_landmarks=torch.stack([landmarks - 0.1, landmarks], dim=1),
            scales=confidence,
            scores=confidence,
        )


@pytest.mark.parametrize("bias", [0.0, 0.03])
def test_a_pixel_is_found_where_it_is(bias):
    outputs = predict_with_flip(DotFinder(bias), draw_dots(), PAIRS)
    expected = torch.from_numpy((PIXELS + 0.5) / SIZE).float()
    assert outputs.landmarks.dtype == torch.float32
    assert torch.allclose(outputs.landmarks[0], expected, rtol=0, atol=1e-7)
    before = outputs.intermediate_landmarks[0, 0] - expected
    assert torch.allclose(before, torch.tensor([0, -0.1]).expand(3, 2), atol=1e-6)  # 0.1 left in both, cancelled out
    assert torch.equal(outputs.intermediate_landmarks[:, -1], outputs.landmarks)


@pytest.mark.parametrize("name", ["scales", "scores"])
def test_confidence_goes_with_its_landmark(name):
    fractions = (PIXELS[:, 0] + 0.5) / SIZE
    expected = ((1 - fractions) + (1 - (1 - fractions) / 2)) / 2
    values = getattr(predict_with_flip(DotFinder(), draw_dots(), PAIRS), name)
    np.testing.assert_allclose(values, expected[None], rtol=1e-6)


def test_crops_and_mirror_images_are_one_pass():
    finder = DotFinder()
    crops = torch.cat([draw_dots(), draw_dots(PIXELS + [3, 1])])
    outputs = predict_with_flip(finder, crops, PAIRS)
    assert finder.passes == [4]
    assert torch.allclose(outputs.landmarks[1] - outputs.landmarks[0], torch.tensor([3.0, 1.0]) / SIZE)


@pytest.mark.parametrize(
    "flip_pairs, message",
    [
        (None, "flip_pairs must be .*, but got None"),
        ([[0, 3]], r"flip_pairs must be .* below 3.*, but got \[\[0, 3\]\]"),
        ([[0, -1]], "flip_pairs must be"),
        ([[0, 1], [1, 2]], "flip_pairs must be .* each in one"),
        ([[1, 1]], "flip_pairs must be .* each in one"),
    ],
)
def test_pairs_that_are_none(flip_pairs, message):
    with pytest.raises(ValueError, match=message):
        predict_with_flip(DotFinder(), draw_dots(), flip_pairs)


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_order_of_each_benchmark_undoes_itself(name):
    benchmark = BENCHMARKS[name]
    order = np.array(flip_order(benchmark.flip_pairs, benchmark.num_landmarks))
    assert (order[order] == np.arange(benchmark.num_landmarks)).all()
    assert (order != np.arange(benchmark.num_landmarks)).sum() == 2 * len(benchmark.flip_pairs)
    assert flip_order([], 2) == [0, 1]


@pytest.fixture(scope="module")
def model():
    """Untrained, but with landmarks that depend on the crop."""
    torch.manual_seed(0)
    model = MTLDForFacialLandmarkDetection(
        MTLDConfig(
            backbone="test_resnet.r160_in1k",
            image_size=SIZE,
            num_landmarks=68,
            flip_pairs=[list(pair) for pair in BENCHMARKS["300w"].flip_pairs],
            hidden_size=8,
            num_attention_heads=2,
            use_heatmap_loss=False,
        )
    ).eval()
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(0.05 * torch.randn_like(weights))
    return model


@torch.no_grad()
def test_mirror_image_has_the_mirrored_landmarks(model):
    crops = torch.randn(3, 3, SIZE, SIZE)
    pairs = model.config.flip_pairs
    straight, mirrored = (predict_with_flip(model, pixels, pairs).landmarks for pixels in (crops, crops.flip(-1)))
    back = mirrored[:, flip_order(pairs, 68)] * torch.tensor([-1, 1]) + torch.tensor([1, 0])
    assert torch.allclose(back, straight, atol=1e-6)
    assert not torch.allclose(straight, model(pixel_values=crops).landmarks, atol=1e-3)


def test_model_without_confidences():
    finder = DotFinder()
    outputs = predict_with_flip(
        lambda pixel_values: MTLDOutput(landmarks=finder(pixel_values).landmarks), draw_dots(), PAIRS
    )
    assert list(outputs) == ["landmarks"]


@torch.no_grad()
def test_processor_takes_the_result(model):
    processor = MTLDImageProcessor(size=SIZE)
    inputs = processor(np.zeros((40, 50, 3), np.uint8), boxes=[[5, 5, 30, 30]], return_tensors="pt")
    outputs = predict_with_flip(model, inputs["pixel_values"], model.config.flip_pairs)
    ((face,),) = processor.post_process_landmark_detection(outputs, inputs)
    assert face["keypoints"].isfinite().all() and face["scores"].shape == (68,)


def test_evaluation(model):
    benchmark, accelerator = BENCHMARKS["300w"], Accelerator(cpu=True)
    batch = {"pixel_values": torch.randn(2, 3, SIZE, SIZE), "labels": torch.rand(2, 68, 2), "boxes": torch.rand(2, 4)}
    loader = accelerator.prepare(torch.utils.data.DataLoader([{k: v[i] for k, v in batch.items()} for i in range(2)]))
    errors = {}
    for flip in (False, True):
        errors[flip] = errors_of(predict(accelerator, model, loader, "some", benchmark, flip), benchmark)
    with torch.no_grad():
        landmarks = predict_with_flip(model, batch["pixel_values"], model.config.flip_pairs).landmarks
    expected = (landmarks - batch["labels"]).norm(dim=-1).double().mean(dim=-1).numpy()
    expected /= benchmark.normalizers(batch["labels"].double().numpy(), None)
    assert errors[True] == pytest.approx(expected, rel=1e-5)
    assert errors[False] != pytest.approx(expected, rel=1e-5)


def test_a_training_does_not_take_it(tmp_path, capsys):
    """Its card would not say that the results are with flip."""
    assert train_accelerate.run(["--data_dir", str(tmp_path), "--output_dir", str(tmp_path / "out"), "--flip"]) == 2
    assert capsys.readouterr().err == "train_accelerate.py: --flip needs --eval_only\n"
