"""The scale head, its likelihood, and the two numbers that say how good confidences are."""

import math

import numpy as np
import pytest
import torch
from test_modeling import BASE, TINY, new_model, random_labels, random_pixels

from modeling_mtld.configuration_mtld import MTLDConfig
from modeling_mtld.heads_mtld import MAX_LOG_RATIO, TOLERANCE, MTLDScaleHead
from modeling_mtld.loss_mtld import scale_loss
from modeling_mtld.modeling_mtld import MTLDForFacialLandmarkDetection
from training_mtld.evaluation.confidence_metrics import confidence_ratio, likelihood_gain

NAN = float("nan")
CHANNELS = [6, 10, 4]


def new_head() -> MTLDScaleHead:
    torch.manual_seed(0)
    return MTLDScaleHead(MTLDConfig(**TINY), CHANNELS)


def random_maps(batch: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [
        torch.randn(batch, count, 16 >> level, 16 >> level, generator=generator)
        for level, count in enumerate(CHANNELS)
    ]


def train(model, steps: int = 3):
    """A few steps on the same random faces, one landmark of which is not annotated."""
    torch.manual_seed(1)
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), 1e-2)
    labels = random_labels(4)
    labels[0, 1] = NAN
    for _ in range(steps):
        model(random_pixels(4, 3, 64, 64), labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def test_scale_loss_is_the_laplace_likelihood_beside_that_of_the_usual_error():
    landmarks, labels = torch.tensor([[[0.5, 0.5], [0.2, 0.2]]]), torch.tensor([[[0.4, 0.7], [NAN, 0.2]]])
    scales, running_mean_error = torch.tensor([[0.1, 0.3]]), torch.tensor([0.4, 0.1])

    def negative_log(x, scale):
        return math.log(2 * scale) + abs(x) / scale

    expected = sum(negative_log(x, 0.1) - negative_log(x, 0.2) for x in (0.1, 0.2))
    assert scale_loss(scales, landmarks, labels, running_mean_error).item() == pytest.approx(expected, rel=1e-5)
    assert scale_loss(running_mean_error[None] / 2, landmarks, labels, running_mean_error).item() == pytest.approx(
        0, abs=1e-6
    )


def test_scale_loss_is_least_where_the_scale_is_the_mean_error():
    labels, landmarks = torch.zeros(1, 1, 2), torch.tensor([[[0.03, 0.05]]])
    losses = [scale_loss(torch.tensor([[b]]), landmarks, labels, torch.tensor([0.1])) for b in (0.03, 0.04, 0.05)]
    assert losses[1] < losses[0] and losses[1] < losses[2]


@pytest.mark.parametrize("fields", [{}, BASE], ids=["full", "base"])
def test_the_scale_head_changes_nothing_else(fields):
    """What makes the accuracy with it and without the same."""
    with_head, without = (train(new_model(**fields, use_scale_head=use).train()) for use in (True, False))
    assert all(torch.equal(value, with_head.state_dict()[name]) for name, value in without.state_dict().items())
    assert with_head.scale_head.out.weight.abs().max() > 0
    outputs = without.eval()(random_pixels(1, 3, 64, 64))
    assert outputs.scales is None and outputs.scores is None


def test_a_new_head_predicts_the_usual_errors():
    outputs = new_model()(random_pixels(2, 3, 64, 64))
    reach = 2 * TOLERANCE
    assert torch.allclose(outputs.scales, torch.full((2, 5), 0.01))
    assert torch.allclose(outputs.scores, torch.full((2, 5), 1 - (1 + reach) * math.exp(-reach)))


def test_scores_are_the_share_of_errors_within_the_tolerance():
    head = new_head().eval()
    with torch.no_grad():
        scales, scores, running_mean_error = head(random_maps(), torch.rand(2, 5, 2))
    noise = torch.distributions.Laplace(0, scales).sample((40_000, 2)).abs().sum(dim=1)
    shares = (noise <= TOLERANCE * running_mean_error).float().mean(dim=0)
    assert torch.allclose(scores, shares, atol=0.02)


def test_a_landmark_is_judged_by_the_features_where_it_was_put():
    head, maps = new_head().eval(), random_maps(1)
    places = torch.full((1, 5, 2), 0.25)
    before = head(maps, places)[0]
    changed = [level.clone() for level in maps]
    for level in changed:
        half = level.shape[-1] // 2
        level[..., half:, half:] *= -1  # the opposite corner
    assert torch.equal(head(changed, places)[0], before)
    assert not torch.allclose(head(changed, places + 0.5)[0], head(maps, places + 0.5)[0])


def test_scores_stay_in_range_and_scales_finite_whatever_the_features():
    head = new_head().eval()
    for factor in (0, 1e-15, 1e15):
        scales, scores, _ = head([factor * level for level in random_maps()], torch.rand(2, 5, 2) * 4 - 2)
        assert scales.isfinite().all() and (scales > 0).all()
        assert ((0 <= scores) & (scores <= 1)).all()
    with torch.no_grad():
        head.out.bias.fill_(1e6)
    assert head(random_maps(), torch.rand(2, 5, 2))[0].max().item() == pytest.approx(0.01 * math.exp(MAX_LOG_RATIO))


def test_usual_error_follows_the_annotated_landmarks_of_training_alone():
    head = new_head()
    landmarks, labels = torch.full((2, 5, 2), 0.5), torch.full((2, 5, 2), 0.4)
    labels[:, 0] = NAN
    labels[0, 1, 0] = NAN
    labels[1, 2] = 0.3
    head.eval()(random_maps(), landmarks, labels)
    head.train()(random_maps(), landmarks)
    assert torch.equal(head.usual_error, torch.full((5,), 0.02))
    for _ in range(2000):
        head.update_running_error(landmarks, labels)
    assert torch.allclose(head.usual_error, torch.tensor([0.02, 0.2, 0.3, 0.2, 0.2]), atol=1e-4)


def test_usual_errors_are_saved(tmp_path):
    model = train(new_model().train()).eval()
    model.save_pretrained(tmp_path)
    again = MTLDForFacialLandmarkDetection.from_pretrained(tmp_path)
    assert torch.equal(again.scale_head.usual_error, model.scale_head.usual_error)
    pixels = random_pixels(2, 3, 64, 64)
    assert torch.allclose(again(pixels).scores, model(pixels).scores, atol=1e-5)


def test_scores_are_float32_in_half_precision():
    outputs = new_model().to(torch.bfloat16)(random_pixels(2, 3, 64, 64).to(torch.bfloat16))
    assert outputs.scores.dtype == outputs.scales.dtype == torch.float32


def test_scores_learn_which_faces_are_hard():
    """Two kinds of crops, of which one has errors ten times as large: the head tells them apart."""
    head = new_head().train()
    maps, landmarks = random_maps(2), torch.full((2, 5, 2), 0.5)
    labels = landmarks + torch.tensor([0.01, 0.1])[:, None, None]
    optimizer = torch.optim.Adam(head.parameters(), 1e-2)
    for _ in range(300):
        scales, _, running_mean_error = head(maps, landmarks, labels)
        loss = scale_loss(scales, landmarks, labels, running_mean_error)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    scales, scores, _ = head.eval()(maps, landmarks)
    assert torch.allclose(scales, torch.tensor([[0.01], [0.1]]), rtol=0.2)
    assert (scores[0] > 0.9).all() and (scores[1] < 0.6).all()


def test_confidence_ratio_compares_the_tenths_of_relative_errors():
    errors = np.arange(1.0, 21)[:, None] * [1, 100]  # the second landmark's are a hundred times as large
    assert confidence_ratio(errors, -errors / [1, 100]) == pytest.approx((20 + 19) / (1 + 2))
    assert confidence_ratio(errors, errors / [1, 100]) == pytest.approx((1 + 2) / (20 + 19))


def test_confidence_ratio_gains_nothing_from_telling_landmarks_apart():
    generator = np.random.default_rng(0)
    errors = generator.exponential(size=(4000, 10)) * np.arange(1, 11)
    assert confidence_ratio(errors, -np.broadcast_to(np.arange(10.0), errors.shape)) == pytest.approx(1, abs=0.15)


def test_confidence_ratio_leaves_out_what_is_not_annotated():
    errors = np.array([[1.0, NAN], [3.0, 2.0], [NAN, 6.0]])
    scores = np.array([[0.9, 0.0], [0.1, 0.8], [1.0, 0.2]])
    assert confidence_ratio(errors, scores) == pytest.approx(1.5 / 0.5)


def test_likelihood_gain_is_zero_for_the_best_constants_and_positive_for_the_truth():
    generator = np.random.default_rng(0)
    scales = generator.uniform(0.5, 4, size=(3000, 5))
    deviations = np.abs(generator.laplace(scale=scales)) + np.abs(generator.laplace(scale=scales))
    constants = np.broadcast_to(deviations.mean(axis=0) / 2, scales.shape)
    assert likelihood_gain(deviations, constants) == pytest.approx(0, abs=1e-9)
    assert likelihood_gain(deviations, scales) > 0.1
    assert likelihood_gain(deviations, 4.5 - scales) < 0
    deviations[0, 0] = NAN
    assert np.isfinite(likelihood_gain(deviations, scales))
