"""The three losses and their sum, by values computed by hand."""

import math
from types import SimpleNamespace

import pytest
import torch

from modeling_mtld.loss_mtld import (
    coordinate_loss,
    count_items,
    gaussian_heatmaps,
    heatmap_loss,
    mtld_loss,
    structure_loss,
)

NAN = float("nan")


def as_tensor(*numbers) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def random_faces(faces: int = 3, count: int = 8, layers: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Predictions (faces, layers, count, 2) and labels (faces, count, 2)."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.rand(faces, count, 2, generator=generator, dtype=torch.float64)
    noise = torch.randn(faces, layers, count, 2, generator=generator, dtype=torch.float64)
    return labels[:, None] + 0.1 * noise, labels


def all_losses(predictions, heatmaps, labels) -> dict[str, torch.Tensor]:
    return {
        "coordinate": coordinate_loss(predictions, labels),
        "heatmap": heatmap_loss(heatmaps, labels, sigma=1.5),
        "squared": structure_loss(predictions, labels, 3),
        "euclidean": structure_loss(predictions, labels, 3, "euclidean"),
    }


def test_coordinate_loss_is_the_mean_l1_distance_over_landmarks_and_its_sum_over_layers():
    labels = as_tensor([[0.2, 0.4], [0.5, 0.4]])
    first_layer = as_tensor([0.1, 0.2], [0.5, 0.5])  # off by 0.1 + 0.2 and by 0.1
    predictions = torch.stack([first_layer, labels[0]])[None]
    assert coordinate_loss(predictions, labels).item() == pytest.approx((0.3 + 0.1) / 2 + 0)


@pytest.mark.parametrize("unannotated", [(NAN, NAN), (NAN, 0.4), (0.5, NAN), (float("inf"), 0.4)])
def test_coordinate_loss_leaves_out_a_landmark_without_two_finite_coordinates(unannotated):
    labels = as_tensor([[0.2, 0.4], unannotated])
    predictions = as_tensor([[[0.1, 0.2], [0.9, 0.9]]])
    assert coordinate_loss(predictions, labels).item() == pytest.approx(0.3)


def test_heatmap_loss_is_the_squared_distance_to_gaussians_over_their_own_square():
    sigma, labels = 2.0, as_tensor([[0.25, 0.5]])  # the centre of the left one of two pixels
    beside = math.exp(-1 / (2 * sigma**2))
    assert gaussian_heatmaps(labels, (1, 2), sigma)[0, 0].tolist() == [[1, pytest.approx(beside)]]
    heatmaps = as_tensor([[[0.5, 0.0]]])
    assert heatmap_loss(heatmaps, labels, sigma).item() == pytest.approx((0.25 + beside**2) / (math.pi * sigma**2))


@pytest.mark.parametrize("size, sigma", [(32, 1.5), (64, 1.5), (64, 3.0)])
def test_heatmap_loss_of_empty_heatmaps_is_1_at_every_size(size, sigma):
    labels = as_tensor([[0.4, 0.55], [0.6, 0.3]])
    assert heatmap_loss(torch.zeros(1, 2, size, size), labels, sigma).item() == pytest.approx(1, abs=1e-3)


def test_gaussians_peak_at_the_pixel_of_the_landmark_with_x_along_columns():
    height, width, x, y = 4, 8, 5, 1
    heatmap = gaussian_heatmaps(as_tensor([(x + 0.5) / width, (y + 0.5) / height]), (height, width), sigma=1.0)
    assert heatmap.shape == (1, height, width)
    assert heatmap[0, y, x].item() == pytest.approx(1)
    assert heatmap[0].argmax().item() == y * width + x
    assert heatmap[0, y, x + 1].item() == pytest.approx(heatmap[0, y, x - 1].item())
    assert heatmap[0, y + 2, x].item() == pytest.approx(math.exp(-2))


def test_heatmap_loss_leaves_out_unannotated_landmarks():
    labels = as_tensor([[0.3, 0.6], [NAN, NAN]])
    heatmaps = torch.rand(1, 2, 8, 8, dtype=torch.float64)
    alone = heatmap_loss(heatmaps[:, :1], labels[:, :1], 1.5)
    assert heatmap_loss(heatmaps, labels, 1.5).item() == pytest.approx(alone.item())


@pytest.mark.parametrize(
    "distance, expected", [("squared", (0.03 + 0.03 + 0.05) / 3), ("euclidean", (0.1 + 0.1 + 0.1) / 3)]
)
def test_structure_loss_compares_distances_to_the_nearest_landmark(distance, expected):
    labels = as_tensor([[0.0, 0.0], [0.1, 0.0], [0.4, 0.0]])  # nearest of each: the second, the first, the second
    predictions = as_tensor([[[0.0, 0.0], [0.2, 0.0], [0.4, 0.0]]])
    assert structure_loss(predictions, labels, 1, distance).item() == pytest.approx(expected, abs=1e-6)


def test_structure_loss_takes_absolute_differences():
    labels = as_tensor([[0.0, 0.0], [0.1, 0.0], [0.5, 0.0], [0.6, 0.0]])
    predictions = as_tensor([[[0.0, 0.0], [0.2, 0.0], [0.5, 0.0], [0.5, 0.0]]])  # one pair too far, one too close
    assert structure_loss(predictions, labels, 1, "euclidean").item() == pytest.approx(0.1, abs=1e-6)


@pytest.mark.parametrize("distance", ["squared", "euclidean"])
def test_structure_loss_is_zero_for_the_truth_wherever_it_lies(distance):
    _, labels = random_faces()
    for shift in (0.0, 0.3):
        predictions = (labels + shift)[:, None].expand(-1, 2, -1, -1)
        assert structure_loss(predictions, labels, 3, distance).item() == pytest.approx(0, abs=1e-12)
    assert structure_loss(predictions * 1.1, labels, 3, distance).item() > 1e-3


def test_neighbors_are_those_of_each_face():
    predictions, labels = random_faces(faces=2)
    each = [structure_loss(predictions[i : i + 1], labels[i : i + 1], 2).item() for i in range(2)]
    assert structure_loss(predictions, labels, 2).item() == pytest.approx(sum(each) / 2)


def test_neighbors_are_the_nearest_annotated_landmarks():
    predictions, labels = random_faces()
    annotated = [0, 2, 3, 6, 7]
    with_gaps = torch.full_like(labels, NAN)
    with_gaps[:, annotated] = labels[:, annotated]
    for distance in ("squared", "euclidean"):
        left = structure_loss(predictions[:, :, annotated], labels[:, annotated], 3, distance)
        assert structure_loss(predictions, with_gaps, 3, distance).item() == pytest.approx(left.item())


def test_more_neighbors_than_landmarks_are_all_of_them():
    predictions, labels = random_faces(count=4)
    assert structure_loss(predictions, labels, 10) == structure_loss(predictions, labels, 3)
    labels[:, 3] = NAN
    assert structure_loss(predictions, labels, 3).item() == pytest.approx(
        structure_loss(predictions[:, :, :3], labels[:, :3], 2).item()
    )


@pytest.mark.parametrize("count, neighbors", [(8, 0), (1, 5)])
def test_without_neighbors_structure_loss_is_zero(count, neighbors):
    predictions, labels = random_faces(count=count)
    predictions.requires_grad_()
    loss = structure_loss(predictions, labels, neighbors)
    loss.backward()
    assert loss.item() == 0 and not predictions.grad.any()


@pytest.mark.parametrize("case", ["one landmark", "one face", "every face"])
def test_gradients_are_finite_and_zero_where_nothing_is_annotated(case):
    predictions, labels = random_faces()
    heatmaps = torch.rand(3, 8, 8, 8, dtype=torch.float64)
    faces, points = {"one landmark": (1, 2), "one face": (1, slice(None)), "every face": (slice(None),) * 2}[case]
    labels[faces, points] = NAN
    for name, loss in all_losses(predictions.requires_grad_(), heatmaps.requires_grad_(), labels).items():
        assert loss.isfinite(), name
        gradients = torch.autograd.grad(loss, (predictions, heatmaps), allow_unused=True, materialize_grads=True)
        for gradient in gradients:
            assert gradient.isfinite().all(), name
        assert not gradients[0][faces, :, points].any() and not gradients[1][faces, points].any(), name
        assert case == "every face" or any(gradient.any() for gradient in gradients), name


def test_gradient_is_finite_where_predictions_coincide():
    _, labels = random_faces()
    predictions = torch.full((3, 2, 8, 2), 0.5, dtype=torch.float64, requires_grad=True)
    for distance in ("squared", "euclidean"):
        (gradient,) = torch.autograd.grad(structure_loss(predictions, labels, 3, distance), predictions)
        assert gradient.isfinite().all()


def test_no_loss_grows_with_the_number_of_landmarks():
    values = []
    for count in (4, 40):
        x = torch.arange(count, dtype=torch.float64) * 0.02
        labels = torch.stack([x, torch.full_like(x, 0.5)], dim=-1)[None]
        predictions = labels[:, None] * as_tensor(1.5, 1.0)  # each landmark's nearest is 0.03 instead of 0.02 away
        moved = coordinate_loss(labels[:, None] + 0.1, labels).item()
        heatmaps = heatmap_loss(torch.zeros(1, count, 64, 64), torch.full((1, count, 2), 0.5), 1.5).item()
        values.append((moved, heatmaps, structure_loss(predictions, labels, 1).item()))
    assert values[0] == pytest.approx(values[1])
    assert values[0] == pytest.approx((0.2, values[0][1], 0.03**2 - 0.02**2))


@pytest.mark.parametrize("with_heatmaps", [True, False])
@pytest.mark.parametrize("with_structure", [True, False])
@pytest.mark.parametrize("with_estimate", [True, False])
def test_total_is_the_weighted_sum_of_what_is_switched_on(with_heatmaps, with_structure, with_estimate):
    config = SimpleNamespace(
        use_pooled_estimate=with_estimate,
        initial_loss_weight=7.0,
        use_structure_loss=with_structure,
        coordinate_loss_weight=2.0,
        heatmap_loss_weight=3.0,
        structure_loss_weight=5.0,
        heatmap_sigma=1.5,
        num_neighbors=3,
        structure_distance="squared",
    )
    predictions, labels = random_faces()
    heatmaps = torch.rand(3, 8, 8, 8, dtype=torch.float64)
    values = all_losses(predictions, heatmaps, labels)
    expected, names = 2 * values["coordinate"], {"coordinate"}
    if with_heatmaps:
        expected, names = expected + 3 * values["heatmap"], names | {"heatmap"}
    if with_structure:
        expected, names = expected + 5 * values["squared"], names | {"structure"}
    initial = labels + 0.05
    if with_estimate:
        expected, names = expected + 7 * 0.1, names | {"initial"}
    total, terms = mtld_loss(
        config, labels, predictions.requires_grad_(), initial, heatmaps if with_heatmaps else None
    )
    assert total.item() == pytest.approx(expected.item()) and total.requires_grad
    assert terms.keys() == names
    assert terms["coordinate"] == values["coordinate"] and not any(term.requires_grad for term in terms.values())


@pytest.mark.parametrize("neighbors", [0, 3, 20])
def test_shares_of_parts_add_up_to_the_losses_of_the_whole_batch(neighbors):
    """Parts with different numbers of annotated landmarks, one of them with none, whose mean of means is another."""
    predictions, labels = random_faces()
    labels[0, 2:] = NAN
    labels[1] = NAN
    heatmaps, scales = torch.rand(3, 8, 4, 4, dtype=torch.float64), torch.rand(3, 8, dtype=torch.float64) + 0.01
    config = SimpleNamespace(
        heatmap_sigma=1.5,
        use_pooled_estimate=True,
        initial_loss_weight=2,
        use_structure_loss=True,
        num_neighbors=neighbors,
        structure_distance="squared",
        coordinate_loss_weight=1,
        heatmap_loss_weight=10,
        structure_loss_weight=5,
        scale_loss_weight=0.01,
    )

    def losses(rows, counts):
        given = labels[rows], predictions[rows], predictions[rows, 0] + 0.1, heatmaps[rows], scales[rows]
        return mtld_loss(config, *given, torch.full((8,), 0.1), counts)

    total, terms = losses(slice(None), None)
    counts = count_items(labels, neighbors)
    assert counts.landmarks == 10 and counts.pairs == 8 * min(neighbors, 7) + 2 * min(neighbors, 1)
    shares = [losses([row], counts) for row in range(3)]
    assert sum(share for share, _ in shares).item() == pytest.approx(total.item())
    for name, value in terms.items():
        assert sum(found[name] for _, found in shares).item() == pytest.approx(value.item()), name
    assert torch.stack([losses([row], None)[0] for row in range(3)]).mean().item() != pytest.approx(total.item())
