"""Pictures of predicted and annotated landmarks on the same faces."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from PIL import ImageFont

from dataset_scripts.augmentation import FaceCrops
from dataset_scripts.benchmark_facts import Part
from dataset_scripts.preview import GAP, INK, PAPER, draw_contour, draw_dot, save_picture, shorten, write_texts
from modeling_mtld.geometry_mtld import crop_matrix, fractions_to_pixels, warp_image

from ..topologies import names_of_set
from .scores import errors_of

TILE = 384  # pixels; larger than the network's input, so that lines do not hide the face
CAPTION, LETTERS, HEADING = 26, 16, 36  # heights in pixels
ANNOTATION_COLOR, PREDICTION_COLOR = (0, 230, 190), (255, 70, 170)  # RGB; distinct for red-green blindness as well
ANNOTATION_RADIUS, PREDICTION_RADIUS = 2.4, 1.8  # an annotation stays visible as a rim under an equal prediction

__all__ = ["compare_fixed_faces", "draw_comparison", "picture_grid", "save_picture", "worst_faces"]


def draw_comparison(
    crop: np.ndarray, predictions: np.ndarray, annotations: np.ndarray, parts: Iterable[Part], label: str
) -> np.ndarray:
    """Draws both sets of landmarks with their contours on a crop, and a label below it.

    Args:
        crop: (S, S, 3) uint8 RGB.
        predictions: (K, 2), fractions of the crop.
        annotations: (K, 2), fractions of the crop; NaN where not annotated, and not drawn.
        parts: contours.
        label: shortened at its start to fit the crop's width.

    Returns:
        (S + CAPTION, S, 3) uint8 RGB.
    """
    size = len(crop)
    tile = np.concatenate([crop, np.full((CAPTION, size, 3), PAPER, dtype=np.uint8)])
    canvas = tile[:size]
    layers = (annotations, ANNOTATION_COLOR, ANNOTATION_RADIUS), (predictions, PREDICTION_COLOR, PREDICTION_RADIUS)
    layers = [(fractions_to_pixels(points, size), colour, radius) for points, colour, radius in layers]
    for points, colour, _ in layers:
        for part in parts:
            draw_contour(canvas, points, part, colour)
    for points, colour, radius in layers:
        for point in points[np.isfinite(points).all(axis=1)]:
            draw_dot(canvas, point, colour, radius)
    write_texts(tile, [((2, size + 4), shorten(label, size - 4, LETTERS), LETTERS, INK)])
    return tile


def picture_grid(images: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Images (H, W, 3) uint8 of one size, in rows of at most `columns`, below a legend of the colours.

    Raises:
        ValueError: if there are no images.
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
    _write_legend(picture)
    return picture


def _write_legend(picture: np.ndarray) -> None:
    texts, left, top = [], GAP, (HEADING - LETTERS) // 2
    for meaning, colour in (("annotated", ANNOTATION_COLOR), ("predicted", PREDICTION_COLOR)):
        picture[top : top + LETTERS, left : left + LETTERS] = colour
        texts.append(((left + LETTERS + GAP, top - 2), meaning, LETTERS, INK))
        left += LETTERS + 4 * GAP + round(ImageFont.load_default(LETTERS).getlength(meaning))
    write_texts(picture, texts)


def worst_faces(
    crops: FaceCrops, predictions: Mapping[str, np.ndarray], errors: np.ndarray, count: int = 16
) -> np.ndarray:
    """The faces with the largest errors, the worst first, each with its rank, error in percent and `image_id`.

    Args:
        crops: without augmentation.
        predictions: `landmarks` and `labels` (N, K, 2) of the crops, in their order, fractions of each crop.
        errors: (N,) NME of each crop, a fraction; crops with NaN are left out.
        count: the largest number of faces drawn, four in a row.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: if the number of errors is not that of the crops, or all of them are NaN.
    """
    if len(errors) != len(crops):
        raise ValueError(f"errors must be one for each of {len(crops)} faces, but got {len(errors)}")
    order = np.argsort(-errors, kind="stable")[: min(count, int(np.isfinite(errors).sum()))]
    landmarks, labels = predictions["landmarks"], predictions["labels"]
    tiles = [
        _tile(crops, int(index), landmarks[index], labels[index], f"{rank}: NME {errors[index]:.2%}")
        for rank, index in enumerate(order, 1)
    ]
    return picture_grid(tiles, columns=4)


@torch.no_grad()
def compare_fixed_faces(model, crops: FaceCrops, count: int = 8) -> np.ndarray:
    """A network's predictions for some faces, spread evenly over `crops` and the same at each call, four in a row.

    Args:
        model: left in evaluation mode. It must not be wrapped for several processes, as only one of them calls this.
        crops: without augmentation.
        count: the largest number of faces drawn.

    Returns:
        (H, W, 3) uint8 RGB. Each face's NME by the benchmark's first normaliser and its `image_id` are below it.
    """
    indices = np.unique(np.linspace(0, len(crops) - 1, min(count, len(crops))).round().astype(int)).tolist()
    items = [crops[index] for index in indices]
    pixels = torch.stack([item["pixel_values"] for item in items])
    names = names_of_set(model.config, crops.crop.benchmark)
    landmarks = model.eval()(pixels.to(next(model.parameters()).device), **names).landmarks
    predictions = {key: torch.stack([item[key] for item in items]).double().numpy() for key in ("labels", "boxes")}
    predictions["landmarks"] = landmarks.cpu().double().numpy()
    errors = errors_of(predictions, crops.crop.benchmark)
    notes = [f"NME {error:.2%}" if np.isfinite(error) else "" for error in errors]
    faces = zip(indices, predictions["landmarks"], predictions["labels"], notes, strict=True)
    return picture_grid([_tile(crops, *face) for face in faces], columns=4)


def _tile(crops: FaceCrops, index: int, predictions: np.ndarray, annotations: np.ndarray, note: str) -> np.ndarray:
    """A face in the network's crop, at `TILE` pixels, with landmarks (K, 2) in fractions of the crop."""
    face, benchmark = crops.faces[index], crops.crop.benchmark
    matrix = crop_matrix(benchmark.box_to_crop(face), TILE, crops.crop.processor.box_enlargement)
    crop = warp_image(np.asarray(face["image"].convert("RGB")), matrix, TILE)
    parts = list(benchmark.parts.values())
    return draw_comparison(crop, predictions, annotations, parts, f"{note}  {face['image_id']}")
