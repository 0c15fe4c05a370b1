"""Test-time flip: what the network says of faces and of their mirror images, averaged."""

from collections.abc import Sequence

import torch

from .configuration_mtld import flip_order


def predict_with_flip(model, pixel_values: torch.Tensor, flip_pairs: Sequence[Sequence[int]] | None, **options):
    """Mean of the network's answers for crops and for their mirror images.

    It takes twice as long. Both go through the network as one batch, so that a few crops use an accelerator better
    than in two passes; a CPU does not care. A caller who has to spare memory passes half as many crops.

    Args:
        model: takes `pixel_values`, returns an `MTLDOutput`.
        pixel_values: (batch, 3, H, W), as for the model.
        flip_pairs: pairs of landmarks that change places in a mirrored face, as in the model's configuration, or if
            `options` choose a topology, in that.
        options: passed on to the model, such as `topology` and `dataset`.

    Returns:
        An `MTLDOutput` with `landmarks` (batch, K, 2) and `intermediate_landmarks` (batch, layers, K, 2), fractions of
        the crop, and, where the model gives them, `initial_landmarks` (batch, K, 2), `scales`, `scores` and
        `visibilities` (batch, K).

    Raises:
        ValueError: if `flip_pairs` is None, or does not hold pairs of the model's landmarks, each in one.
    """
    if options.get("dataset") is not None:
        options["mirrored"] = torch.arange(2, device=pixel_values.device).repeat_interleave(len(pixel_values)) == 1
    outputs = model(pixel_values=torch.cat([pixel_values, pixel_values.flip(-1)]), **options)
    order = flip_order(flip_pairs, outputs.landmarks.shape[-2])
    means = {}
    for name in ("landmarks", "initial_landmarks", "intermediate_landmarks", "scales", "scores", "visibilities"):
        values = getattr(outputs, name, None)
        if values is not None:
            straight, mirrored = values.chunk(2)
            back = _mirror_points(mirrored)[..., order, :] if name.endswith("landmarks") else mirrored[..., order]
            means[name] = (straight + back) / 2
    return type(outputs)(**means)


def _mirror_points(points: torch.Tensor) -> torch.Tensor:
    """Pixel x of a crop W wide is W - 1 - x in its mirror image, so that fraction x is 1 - x exactly."""
    return torch.stack([1 - points[..., 0], points[..., 1]], dim=-1)
