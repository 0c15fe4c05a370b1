"""A picture of a data set: faces of every split with numbered landmarks, contours, boxes and crops."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import cv2
import datasets
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from modeling_mtld.geometry_mtld import (
    BOX_ENLARGEMENT,
    check_box,
    crop_matrix,
    fractions_to_pixels,
    invert_matrix,
    transform_points,
    warp_image,
)

from .benchmark_facts import Benchmark, Part

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
COLUMNS, ROWS = 4, 2
TILE = 720  # pixels; large enough for the numbers of an eye at 98 landmarks
TILE_ENLARGEMENT = 1.6  # side of a tile over the side of the crop
GAP, CAPTION = 12, 34
TITLE, TEXT, SMALL = 30, 20, 13  # sizes of letters in pixels
PAPER, INK = (24, 26, 30), (235, 235, 235)  # RGB, as all colours here
LINE, POINT, OCCLUDED = (0, 225, 190), (255, 240, 60), (255, 80, 200)
CROP, LANDMARK_BOX, BOX = (255, 255, 255), (80, 170, 255), (255, 140, 40)
RADIUS = 2.5  # of a dot
FRACTION_BITS = 4  # coordinates for OpenCV are in 16ths of a pixel
MAX_COORDINATE = 2**14  # pixels; outside any tile, within OpenCV's range


def write_preview(path: str | Path, splits: Mapping[str, datasets.Dataset], benchmark: Benchmark) -> None:
    """Writes `draw_preview` of the splits to `path`. The file appears once it is complete.

    Raises:
        ValueError: as `check_preview_path`, `draw_preview` and `save_picture`.
    """
    path = check_preview_path(path)
    save_picture(draw_preview(splits, benchmark), path)


def save_picture(picture: np.ndarray, path: Path) -> None:
    """Writes `picture` (H, W, 3) uint8 RGB to `path`. The file appears once it is complete.

    Raises:
        ValueError: if it cannot be written there.
    """
    temporary_path = path.with_name(f".{path.stem}.unfinished-{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(temporary_path)
        temporary_path.replace(path)
    except (OSError, ValueError) as error:  # such as a picture higher than its format allows
        raise ValueError(f"picture must be a file that can be written, but got {path}: {error}") from error
    finally:
        temporary_path.unlink(missing_ok=True)


def check_preview_path(path: str | Path) -> Path:
    """Checks the path that a picture is to be written to, and returns it with ~ expanded.

    Raises:
        ValueError: if its suffix is not in `PICTURE_SUFFIXES`, or it is a folder.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        raise ValueError(f"preview must be a file ending in {', '.join(PICTURE_SUFFIXES)}, but got {path}")
    if path.is_dir():
        raise ValueError(f"preview must be a file, but got the folder {path}")
    return path


def draw_preview(splits: Mapping[str, datasets.Dataset], benchmark: Benchmark) -> np.ndarray:
    """Draws eight faces of every split at even intervals.

    Each tile shows the face with its surroundings, the 0-based index beside each annotated landmark, and the contours
    of `benchmark.parts`, with gaps where a landmark is not annotated. It also shows the annotated box, the landmark
    box and the crop that the network gets. The `image_id` is below the tile.

    Args:
        splits: the faces of each split by its name, with the columns of `FaceBuilder`.
        benchmark: gives the title, the contours and the box of the crops.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: if there are no splits.
    """
    if not splits:
        raise ValueError("splits must hold at least one split, but got none")
    bands = [
        _heading(benchmark),
        *(band for name, faces in splits.items() for band in _section(name, faces, benchmark)),
    ]
    return np.concatenate(bands)


# The picture -----------------------------------------------------------------------------------------------------


def _section(name: str, faces: datasets.Dataset, benchmark: Benchmark) -> Iterator[np.ndarray]:
    """A title and the rows of tiles of one split, each as wide as the picture."""
    places = np.unique(np.linspace(0, max(len(faces) - 1, 0), min(COLUMNS * ROWS, len(faces))).round().astype(int))
    title = _band(TITLE + 3 * GAP)
    write_texts(title, [((GAP, 2 * GAP), f"{name}: {len(places)} of {len(faces):,} faces", TITLE, INK)])
    yield title
    for start in range(0, len(places), COLUMNS):
        yield _row([faces[int(place)] for place in places[start : start + COLUMNS]], benchmark)


def _row(faces: list[dict], benchmark: Benchmark) -> np.ndarray:
    row = _band(TILE + CAPTION)
    captions = []
    for number, face in enumerate(faces):
        left = GAP + number * (TILE + GAP)
        row[:TILE, left : left + TILE] = _tile(face, benchmark)
        captions.append(((left, TILE + 5), shorten(face["image_id"], TILE), TEXT, INK))
    write_texts(row, captions)
    return row


def _heading(benchmark: Benchmark) -> np.ndarray:
    """The title and the meaning of the colours."""
    heading = _band(TITLE + TEXT + 6 * GAP)
    texts = [((GAP, 2 * GAP), f"{benchmark.title}: {benchmark.num_landmarks} landmarks", TITLE, INK)]
    meanings = [("landmark", POINT), *([("occluded landmark", OCCLUDED)] if benchmark.occlusion else [])]
    meanings += [("contour", LINE), ("landmark box", LANDMARK_BOX), ("annotated box", BOX)]
    source = "landmark box" if benchmark.crop_box == "landmark_box" else "annotated, else the landmark box"
    meanings += [(f"crop, {BOX_ENLARGEMENT:g} x the {source}", CROP)]
    left, top = GAP, TITLE + 4 * GAP
    for meaning, colour in meanings:
        heading[top + 2 : top + TEXT, left : left + TEXT] = colour
        texts.append(((left + TEXT + GAP, top), meaning, TEXT, INK))
        left += TEXT + 4 * GAP + round(ImageFont.load_default(TEXT).getlength(meaning))
    write_texts(heading, texts)
    return heading


def _band(height: int) -> np.ndarray:
    return np.full((height, GAP + COLUMNS * (TILE + GAP), 3), PAPER, dtype=np.uint8)


def write_texts(picture: np.ndarray, texts: list[tuple], outline: int = 0) -> None:
    """Writes texts, each ((x, y) of its top left corner, text, size, colour), onto `picture` in place."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    for place, text, size, colour in texts:
        font = ImageFont.load_default(size)
        draw.text(place, text, colour, font, anchor="la", stroke_width=outline, stroke_fill=(0, 0, 0))
    picture[:] = np.asarray(image)


def shorten(text: str, width: float, size: int = TEXT) -> str:
    """`text` or, if it is too long, "..." and its end that fits into `width` pixels in letters of `size`."""
    font = ImageFont.load_default(size)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength("..." + text) > width:
        text = text[1:]
    return "..." + text


# A tile ----------------------------------------------------------------------------------------------------------


def _tile(face: dict, benchmark: Benchmark) -> np.ndarray:
    """The face as a row of the data set, (TILE, TILE, 3)."""
    box = _box_with_area(face, benchmark)
    matrix = crop_matrix(box, TILE, BOX_ENLARGEMENT * TILE_ENLARGEMENT)
    tile = np.array(warp_image(np.array(face["image"].convert("RGB")), matrix, TILE), order="C")
    to_photo = invert_matrix(crop_matrix(box, 1))
    crop = transform_points(to_photo, fractions_to_pixels([[0, 0], [1, 1]], 1))
    for corners, colour in ((face["box"], BOX), (face["landmark_box"], LANDMARK_BOX), (crop, CROP)):
        _draw_rectangle(tile, transform_points(matrix, np.reshape(corners, (2, 2))), colour)
    points = transform_points(matrix, face["landmarks"])
    for part in benchmark.parts.values():
        draw_contour(tile, points, part)
    occluded = np.asarray(face.get("occluded") or np.zeros(len(points)), dtype=bool)
    _draw_points(tile, points, occluded)
    return tile


def _box_with_area(face: dict, benchmark: Benchmark) -> np.ndarray:
    """The box of the crop, or the whole photo if that box has no area, so that the face is drawn all the same."""
    try:
        return check_box(benchmark.box_to_crop(face))
    except ValueError:
        width, height = face["image"].size
        return np.array([-0.5, -0.5, width - 0.5, height - 0.5])


def _draw_rectangle(tile: np.ndarray, corners: np.ndarray, colour: tuple) -> None:
    if np.isfinite(corners).all():
        # Lines on whole pixels are sharp.
        low, high = np.rint(np.clip(corners, -MAX_COORDINATE, MAX_COORDINATE)).astype(int).tolist()
        cv2.rectangle(tile, low, high, colour)


def draw_contour(tile: np.ndarray, points: np.ndarray, part: Part, colour: tuple = LINE) -> None:
    """Joins the `points` (K, 2), pixels of `tile`, that `part` lists; no line ends at a NaN point."""
    indices = [*part.indices, *part.indices[: 1 if part.closed and len(part.indices) > 2 else 0]]
    for ends in zip(indices[:-1], indices[1:], strict=True):
        if np.isfinite(points[list(ends)]).all():
            first, second = _to_fixed_point(points[list(ends)]).tolist()
            cv2.line(tile, first, second, colour, 1, cv2.LINE_AA, FRACTION_BITS)


def _draw_points(tile: np.ndarray, points: np.ndarray, occluded: np.ndarray) -> None:
    """Draws the number beside each point, then the dots over the numbers."""
    indices = [index for index, point in enumerate(points) if np.isfinite(point).all()]
    colours = {index: OCCLUDED if occluded[index] else POINT for index in indices}
    places = _places_of_numbers(points[indices], [_extent(str(index)) for index in indices])
    texts = [(place, str(i), SMALL, colours[i]) for i, place in zip(indices, places, strict=True)]
    write_texts(tile, texts, outline=1)
    for index in indices:
        draw_dot(tile, points[index], colours[index])


def draw_dot(tile: np.ndarray, point: np.ndarray, colour: tuple, radius: float = RADIUS) -> None:
    center = _to_fixed_point(point).tolist()
    cv2.circle(tile, center, round(radius * 2**FRACTION_BITS), colour, cv2.FILLED, cv2.LINE_AA, FRACTION_BITS)


def _extent(text: str) -> np.ndarray:
    """Width and height of a number with its outline."""
    return np.array([ImageFont.load_default(SMALL).getlength(text) + 1, SMALL - 2])


def _places_of_numbers(points: np.ndarray, extents: list[np.ndarray]) -> list[tuple[float, float]]:
    """Top left corners of the numbers. Each is beside its point, where it covers points and other numbers least."""
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    directions = np.column_stack([np.cos(angles), np.sin(angles)])
    obstacles = np.column_stack([points - RADIUS, points + RADIUS])
    places = []
    for point, extent in zip(points, extents, strict=True):
        candidates = np.concatenate(
            [point + directions * (extent / 2 + distance) - extent / 2 for distance in (4, 9, 15)]
        )
        boxes = np.column_stack([candidates, candidates + extent])
        cost = _overlaps(boxes, obstacles).sum(axis=1) + np.repeat([0, 12, 24], len(angles))
        best_box = boxes[cost.argmin()]
        obstacles = np.concatenate([obstacles, best_box[None]])
        places.append((float(best_box[0]), float(best_box[1]) - 2))
    return places


def _overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Areas (N, M) that boxes (N, 4) and others (M, 4) share."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return np.clip(high - low, 0, None).prod(axis=-1)


def _to_fixed_point(points: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(points, -MAX_COORDINATE, MAX_COORDINATE) * 2**FRACTION_BITS).astype(np.int32)
