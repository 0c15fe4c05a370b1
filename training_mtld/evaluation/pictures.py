"""Predicted landmarks beside the annotated ones, for looking at."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from PIL import ImageFont

from dataset_scripts.augmentation import FaceCrops
from dataset_scripts.benchmark import Part
from dataset_scripts.preview import GAP, INK, PAPER, draw_contour, draw_dot, save_picture, shorten, write_texts
from modeling_mtld.geometry_mtld import crop_matrix, fractions_to_pixels, warp_image

from ..topologies import names_of_set
from .scores import errors_of

TILE = 384  # pixels; larger than what the network sees, so that lines do not hide the face
CAPTION, LETTERS, HEADING = 26, 16, 36  # heights in pixels
ANNOTATED, PREDICTED = (0, 230, 190), (255, 70, 170)  # RGB; apart for eyes that do not tell red from green as well
ANNOTATED_RADIUS, PREDICTED_RADIUS = 2.4, 1.8  # where both agree, a dot with a rim is seen

__all__ = ["compare_fixed_faces", "draw_comparison", "picture_grid", "save_picture", "worst_faces"]


def draw_comparison(
    crop: np.ndarray, predicted: np.ndarray, annotated: np.ndarray, parts: Iterable[Part], label: str
) -> np.ndarray:
    """Draws both sets of landmarks with their contours on a crop, and a label below it.

    Args:
        crop: (S, S, 3) uint8 RGB.
        predicted: (K, 2), fractions of the crop.
        annotated: (K, 2), the same, NaN where not annotated, which is left out.
        parts: contours.
        label: cut to the crop's width from its start.

    Returns:
        (S + CAPTION, S, 3) uint8 RGB.
    """
    size = len(crop)
    tile = np.concatenate([crop, np.full((CAPTION, size, 3), PAPER, dtype=np.uint8)])
    shown = tile[:size]
    sets = ((annotated, ANNOTATED, ANNOTATED_RADIUS), (predicted, PREDICTED, PREDICTED_RADIUS))
    sets = [(fractions_to_pixels(points, size), colour, radius) for points, colour, radius in sets]
    for points, colour, _ in sets:
        for part in parts:
            draw_contour(shown, points, part, colour)
    for points, colour, radius in sets:
        for point in points[np.isfinite(points).all(axis=1)]:
            draw_dot(shown, point, colour, radius)
    write_texts(tile, [((2, size + 4), shorten(label, size - 4, LETTERS), LETTERS, INK)])
    return tile


def picture_grid(images: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Images (H, W, 3) uint8 of one size, row by row, at most `columns` in each, below what the colours mean.

    Raises:
        ValueError: if there are none.
    """
    if not images:
        raise ValueError("images must hold at least one image, but got none")
    columns = min(columns, len(images))
    height, width = images[0].shape[:2]
    rows = -(-len(images) // columns)
    picture = np.full((HEADING + rows * (height + GAP), GAP + columns * (width + GAP), 3), PAPER, dtype=np.uint8)
    for number, image in enumerate(images):
        top, left = HEADING + number // columns * (height + GAP), GAP + number % columns * (width + GAP)
        picture[top : top + height, left : left + width] = image
    _write_meanings(picture)
    return picture


def _write_meanings(picture: np.ndarray) -> None:
    texts, left, top = [], GAP, (HEADING - LETTERS) // 2
    for meaning, colour in (("annotated", ANNOTATED), ("predicted", PREDICTED)):
        picture[top : top + LETTERS, left : left + LETTERS] = colour
        texts.append(((left + LETTERS + GAP, top - 2), meaning, LETTERS, INK))
        left += LETTERS + 4 * GAP + round(ImageFont.load_default(LETTERS).getlength(meaning))
    write_texts(picture, texts)


def worst_faces(crops: FaceCrops, faces: Mapping[str, np.ndarray], errors: np.ndarray, count: int = 16) -> np.ndarray:
    """The faces with the largest errors, the worst first, each with its rank, error in percent and `image_id`.

    Args:
        crops: without augmentation.
        faces: `landmarks` and `labels` (N, K, 2) of these crops, in their order and fractions.
        errors: (N,) of the faces, fractions; those that are NaN are left out.
        count: faces drawn at most, four in a row.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: if there is no error for each of the crops, or none that is known.
    """
    if len(errors) != len(crops):
        raise ValueError(f"errors must be one for each of {len(crops)} faces, but got {len(errors)}")
    order = np.argsort(-errors, kind="stable")[: min(count, int(np.isfinite(errors).sum()))]
    tiles = [
        _tile(crops, int(index), faces["landmarks"][index], faces["labels"][index], f"{rank}: NME {errors[index]:.2%}")
        for rank, index in enumerate(order, 1)
    ]
    return picture_grid(tiles, columns=4)


@torch.no_grad()
def compare_fixed_faces(model, crops: FaceCrops, count: int = 8) -> np.ndarray:
    """What a network finds in some faces, spread evenly over `crops` and the same every time, four in a row.

    Args:
        model: left in evaluation mode. One that is wrapped for several processes has to be unwrapped first, as not
            all of them come here.
        crops: without augmentation.
        count: faces drawn at most.

    Returns:
        (H, W, 3) uint8 RGB. Below each face are its NME by the benchmark's first normaliser and its `image_id`.
    """
    indices = np.unique(np.linspace(0, len(crops) - 1, min(count, len(crops))).round().astype(int)).tolist()
    items = [crops[index] for index in indices]
    pixels = torch.stack([item["pixel_values"] for item in items])
    names = names_of_set(model.config, crops.crop.benchmark)
    landmarks = model.eval()(pixels.to(next(model.parameters()).device), **names).landmarks
    faces = {key: torch.stack([item[key] for item in items]).double().numpy() for key in ("labels", "boxes")}
    faces["landmarks"] = landmarks.cpu().double().numpy()
    errors = errors_of(faces, crops.crop.benchmark)
    notes = [f"NME {error:.2%}" if np.isfinite(error) else "" for error in errors]
    found = zip(indices, faces["landmarks"], faces["labels"], notes, strict=True)
    return picture_grid([_tile(crops, *face) for face in found], columns=4)


def _tile(crops: FaceCrops, index: int, predicted: np.ndarray, annotated: np.ndarray, note: str) -> np.ndarray:
    """A face as the network sees it, at a size to look at. Landmarks are in fractions of the crop."""
    face, benchmark = crops.faces[index], crops.crop.benchmark
    matrix = crop_matrix(benchmark.box_to_crop(face), TILE, crops.crop.processor.box_enlargement)
    crop = warp_image(np.asarray(face["image"].convert("RGB")), matrix, TILE)
    return draw_comparison(crop, predicted, annotated, list(benchmark.parts.values()), f"{note}  {face['image_id']}")
