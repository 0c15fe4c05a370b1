"""The three losses of MTLD (Sections 3.3 and 3.4) as free functions, their sum (Eq. 5), those of the confidence and of
the visibility.

Predictions and labels are (batch, layers, K, 2) and (batch, K, 2) in fractions of the crop. A label that is NaN is not
annotated: it is left out of every mean. All of it is meant to run in float32, outside autocast.

A mean over a batch that is spread over processes, or over steps whose gradients are summed, needs the numbers of the
whole batch, since its parts have different numbers of annotated landmarks. `count_items` tells them, and every loss
takes them: then the losses of the parts add up to that of the whole.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F


class ItemCounts(NamedTuple):
    """What the losses of a batch are means over: scalars, annotated landmarks, pairs of neighbours (Eq. 4), and
    landmarks of which it is known whether the head hides them."""

    landmarks: torch.Tensor
    pairs: torch.Tensor
    visibilities: torch.Tensor


def count_items(labels: torch.Tensor, num_neighbors: int, visibility: torch.Tensor | None = None) -> ItemCounts:
    """The numbers of annotated landmarks in `labels` (batch, K, 2), of their pairs with `num_neighbors` others, and of
    what is not NaN in `visibility` (batch, K)."""
    annotated = _annotated(labels).sum(dim=1)
    pairs = (annotated * (annotated - 1).clamp(min=0, max=num_neighbors)).sum()
    return ItemCounts(
        annotated.sum(), pairs, pairs.new_zeros(()) if visibility is None else visibility.isfinite().sum()
    )


def coordinate_loss(
    predictions: torch.Tensor, labels: torch.Tensor, count: torch.Tensor | None = None
) -> torch.Tensor:
    """Eq. 3: L1 distance |dx| + |dy|, mean over annotated landmarks, sum over decoder layers; a fraction of the crop.

    Args:
        predictions: (batch, layers, K, 2), fractions of the crop.
        labels: (batch, K, 2), fractions of the crop, NaN where unannotated.
        count: annotated landmarks of the whole batch, if these are a part of it; so for the losses below.
    """
    errors = (predictions - labels.nan_to_num(posinf=0, neginf=0)[:, None]).abs().sum(dim=-1).sum(dim=1)
    return _masked_mean(errors, _annotated(labels), count)


def heatmap_loss(
    heatmaps: torch.Tensor, labels: torch.Tensor, sigma: float, count: torch.Tensor | None = None
) -> torch.Tensor:
    """Eq. 2: squared L2 distance to Gaussian heatmaps over that of an empty heatmap, mean over annotated landmarks.

    An empty heatmap's is the integral of the squared Gaussian, pi sigma^2. So the loss of empty heatmaps is 1, and its
    weight depends neither on the heatmap's size nor on sigma or K.

    Args:
        heatmaps: (batch, K, H, W).
        labels: (batch, K, 2), fractions of the crop, NaN where unannotated.
        sigma: standard deviation of the Gaussians, in pixels of the heatmap.
    """
    targets = gaussian_heatmaps(labels.nan_to_num(posinf=0, neginf=0), heatmaps.shape[-2:], sigma)
    errors = (heatmaps - targets).square().sum(dim=(-2, -1)) / (math.pi * sigma**2)
    return _masked_mean(errors, _annotated(labels), count)


def gaussian_heatmaps(points: torch.Tensor, shape: tuple[int, int], sigma: float) -> torch.Tensor:
    """Gaussians of peak 1 around points (..., 2) in fractions of the crop: (..., H, W), the outer product of two."""
    height, width = shape
    columns = torch.arange(width, device=points.device, dtype=points.dtype)
    rows = torch.arange(height, device=points.device, dtype=points.dtype)
    x = torch.exp(-((columns - (points[..., :1] * width - 0.5)) ** 2) / (2 * sigma**2))
    y = torch.exp(-((rows - (points[..., 1:] * height - 0.5)) ** 2) / (2 * sigma**2))
    return y[..., :, None] * x[..., None, :]


def structure_loss(
    predictions: torch.Tensor,
    labels: torch.Tensor,
    num_neighbors: int,
    distance: str = "squared",
    count: torch.Tensor | None = None,
) -> torch.Tensor:
    """Eq. 4: distances from each landmark to its nearest ones should be those of the ground truth.

    Printed, Eq. 4 sums signed differences and so has no minimum; here it is their absolute value. It is a mean over
    landmarks and neighbours, so that its weight depends neither on K nor on `num_neighbors`, and a sum over layers.
    Neighbours are the nearest annotated landmarks of that very face.

    Args:
        predictions: (batch, layers, K, 2), fractions of the crop.
        labels: (batch, K, 2), fractions of the crop, NaN where unannotated.
        num_neighbors: M of the paper; 0 switches the loss off.
        distance: `"squared"` as printed (the unit is then a squared fraction of the crop) or `"euclidean"`.
        count: pairs of the whole batch, if these are a part of it.
    """
    neighbors = min(num_neighbors, labels.shape[1] - 1)
    if neighbors < 1:
        return predictions.sum() * 0
    annotated = _annotated(labels)
    pair_annotated = annotated[:, :, None] & annotated[:, None, :]
    filled = labels.nan_to_num(posinf=0, neginf=0)
    gaps = (filled[:, :, None] - filled[:, None, :]).square().sum(dim=-1)
    itself = torch.eye(labels.shape[1], dtype=torch.bool, device=labels.device)
    nearest = gaps.masked_fill(~pair_annotated | itself, torch.inf).topk(neighbors, dim=-1, largest=False)
    index = nearest.indices[:, None, :, :, None].expand(-1, predictions.shape[1], -1, -1, 2)
    others = predictions[:, :, None].expand(-1, -1, labels.shape[1], -1, -1).gather(3, index)
    predicted = (predictions[:, :, :, None] - others).square().sum(dim=-1)
    usable = nearest.values.isfinite()
    true = nearest.values.masked_fill(~usable, 0)
    if distance == "euclidean":
        # The square root has no gradient at 0.
        predicted, true = (predicted + 1e-12).sqrt(), (true + 1e-12).sqrt()
    errors = (predicted - true[:, None]).abs().sum(dim=1)
    return _masked_mean(errors, usable, count)


def scale_loss(
    scales: torch.Tensor,
    landmarks: torch.Tensor,
    labels: torch.Tensor,
    running_mean_error: torch.Tensor,
    count: torch.Tensor | None = None,
) -> torch.Tensor:
    """Negative log-likelihood of the errors under Laplace distributions, beside that of one scale a landmark.

    It is below 0 where `scales` tell more than the mean error of the landmark does. Its unit is nats a landmark. It is
    not in the paper, and has no gradient for `landmarks`.

    Args:
        scales: (batch, K), of x and y, fractions of the crop.
        landmarks: (batch, K, 2), fractions of the crop.
        labels: (batch, K, 2), fractions of the crop, NaN where unannotated.
        running_mean_error: (K,), mean of |dx| + |dy|, a fraction of the crop; its half is the scale compared with.
    """
    errors = (landmarks.detach() - labels.nan_to_num(posinf=0, neginf=0)).abs().sum(dim=-1)
    usual = running_mean_error / 2
    excess = 2 * torch.log(scales / usual) + errors / scales - errors / usual
    return _masked_mean(excess, _annotated(labels), count)


def visibility_loss(logits: torch.Tensor, visibility: torch.Tensor, count: torch.Tensor | None = None) -> torch.Tensor:
    """Binary cross-entropy, mean over the landmarks whose visibility is known. It is not in the paper.

    Args:
        logits: (batch, K).
        visibility: (batch, K), 0 where the head itself hides the landmark, above 0 where it does not, NaN where it is
            not known.
        count: known ones of the whole batch, if these are a part of it.
    """
    known = visibility.isfinite()
    targets = (visibility > 0).to(logits.dtype)
    return _masked_mean(F.binary_cross_entropy_with_logits(logits, targets, reduction="none"), known, count)


def mtld_loss(
    config,
    labels,
    intermediate_landmarks,
    initial_landmarks=None,
    heatmaps=None,
    scales=None,
    running_mean_error=None,
    counts: ItemCounts | None = None,
    visibility_logits=None,
    visibility=None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Eq. 5: the weighted sum of the losses that the configuration switches on, and each of them before its weight.

    Base's estimate, which the decoder starts from (`initial_landmarks`, (batch, K, 2)), has a coordinate loss of its
    own under `use_pooled_estimate`. Where there are `scales`, `scale_loss` is among them, and where there are
    `visibility_logits`, `visibility_loss`; without `visibility` it is 0. `counts` are those of the whole batch, if
    these are a part of it; the results are then this part's share of the mean.

    Returns:
        The total, a scalar, and by name ("coordinate", "initial", "heatmap", "structure", "scale", "visibility") each
        of its terms, without gradient.
    """
    landmarks, pairs, visibilities = counts or (None, None, None)
    losses = {"coordinate": coordinate_loss(intermediate_landmarks, labels, landmarks)}
    if initial_landmarks is not None and config.use_pooled_estimate:
        losses["initial"] = coordinate_loss(initial_landmarks.unsqueeze(1), labels, landmarks)
    if heatmaps is not None:
        losses["heatmap"] = heatmap_loss(heatmaps, labels, config.heatmap_sigma, landmarks)
    if config.use_structure_loss:
        losses["structure"] = structure_loss(
            intermediate_landmarks, labels, config.num_neighbors, config.structure_distance, pairs
        )
    if scales is not None:
        losses["scale"] = scale_loss(scales, intermediate_landmarks[:, -1], labels, running_mean_error, landmarks)
    if visibility_logits is not None:
        known = torch.full_like(visibility_logits, torch.nan) if visibility is None else visibility
        losses["visibility"] = visibility_loss(visibility_logits, known, visibilities)
    total = sum(getattr(config, f"{name}_loss_weight") * value for name, value in losses.items())
    return total, {name: value.detach() for name, value in losses.items()}


def _annotated(labels: torch.Tensor) -> torch.Tensor:
    return labels.isfinite().all(dim=-1)


def _masked_mean(values: torch.Tensor, mask: torch.Tensor, count: torch.Tensor | None) -> torch.Tensor:
    """Sum of `values` where `mask` over `count`, by default their mean; 0 (with a gradient of 0) of nothing."""
    return (values * mask).sum() / (mask.sum() if count is None else count).clamp(min=1)
