"""Every change of coordinates in the project, in float64 numpy: boxes, crop matrices, the one resampling.

Conventions. Points are (x, y); the centre of the top-left pixel is (0, 0), so a photo of W x H pixels covers
(-0.5, -0.5, W - 0.5, H - 0.5). Boxes are (x0, y0, x1, y1) in the same coordinates. A matrix is (2, 3) and maps a
point of the photo to a pixel of the crop. In a crop of width W, pixel x is the fraction (x + 0.5) / W: the unit of
the model's labels and outputs.
"""

from collections.abc import Mapping

import cv2
import numpy as np
import torch
from torch.nn import functional

BOX_KEYS = ("xmin", "ymin", "xmax", "ymax")  # of a face's box, as the pipeline returns it
HIDDEN = 0.5  # visibility of a landmark, below which the head hides it

BOX_ENLARGEMENT = 1.25  # side of the crop over the longer side of the landmark box (HRNet's protocol)


def landmark_box(landmarks) -> np.ndarray:
    """Tight box (4,) around the annotated ones of `landmarks` (K, 2); NaN marks an unannotated point.

    Raises:
        ValueError: if no point is annotated.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    annotated = points[np.isfinite(points).all(axis=-1)]
    if len(annotated) == 0:
        raise ValueError(f"landmarks must hold at least one annotated point, but all {len(points)} are NaN")
    return np.concatenate([annotated.min(axis=0), annotated.max(axis=0)])


def box_corners(box):
    """The four numbers of a box as the pipeline returns it, {"xmin", "ymin", "xmax", "ymax"}; any other as it is."""
    return [box[key] for key in BOX_KEYS] if isinstance(box, Mapping) and set(box) == set(BOX_KEYS) else box


def check_box(box, name: str = "box") -> np.ndarray:
    """Returns `box`, four numbers or a dict of them as in `BOX_KEYS`, as float64 (4,).

    Raises:
        ValueError: if it is not four finite numbers, or x1 <= x0, or y1 <= y0.
    """
    try:
        array = np.asarray(box_corners(box), dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name} must be four numbers (x0, y0, x1, y1), but got {box!r}") from None
    if array.shape != (4,):
        raise ValueError(f"{name} must be four numbers (x0, y0, x1, y1), but got {box!r}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, but got {array.tolist()}")
    if array[2] <= array[0] or array[3] <= array[1]:
        raise ValueError(f"{name} must have x1 > x0 and y1 > y0, but got {array.tolist()}, which has no area")
    return array


def crop_matrix(
    box,
    size: int,
    enlargement: float = BOX_ENLARGEMENT,
    rotation: float = 0.0,
    shift: tuple[float, float] = (0.0, 0.0),
    flip: bool = False,
) -> np.ndarray:
    """Matrix (2, 3) from points of the photo to pixels of a square crop around `box`.

    The crop is the square whose side is `enlargement` times the longer side of the box; nothing is stretched.

    Args:
        box: (x0, y0, x1, y1) in pixels of the photo.
        size: side of the crop in pixels.
        enlargement: side of the crop over the longer side of the box.
        rotation: degrees; positive turns the picture clockwise as seen.
        shift: (x, y) by which the centre of the crop moves, as a fraction of the longer side of the box.
        flip: mirror left and right. The caller permutes the landmarks by its flip pairs.
    """
    x0, y0, x1, y1 = check_box(box)
    side = max(x1 - x0, y1 - y0)
    center = np.array([(x0 + x1) / 2, (y0 + y1) / 2]) + side * np.asarray(shift, dtype=np.float64)
    angle = np.deg2rad(rotation)
    linear = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * (
        size / (side * enlargement)
    )
    if flip:
        linear[0] = -linear[0]
    return np.column_stack([linear, (size - 1) / 2 - linear @ center])


def transform_points(matrix, points) -> np.ndarray:
    """Applies a (2, 3) matrix to points (..., 2); NaN stays NaN."""
    matrix = np.asarray(matrix, dtype=np.float64)
    return np.asarray(points, dtype=np.float64) @ matrix[:, :2].T + matrix[:, 2]


def invert_matrix(matrix) -> np.ndarray:
    """The (2, 3) matrix that undoes `matrix`: from pixels of the crop to points of the photo."""
    matrix = np.asarray(matrix, dtype=np.float64)
    inverse = np.linalg.inv(matrix[:, :2])
    return np.column_stack([inverse, -inverse @ matrix[:, 2]])


def fit_similarity(points, targets) -> np.ndarray:
    """The (2, 3) matrix that turns, scales and shifts `points` (K, 2) nearest to `targets` (K, 2), without mirroring.

    Nearest in the sum of squared distances (Umeyama 1991). Points that are NaN in either are left out.

    Raises:
        ValueError: if shapes differ, or the points do not tell a turn and a scale, as where all are in one place.
    """
    points, targets = (np.asarray(values, dtype=np.float64) for values in (points, targets))
    if points.shape != targets.shape or points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"points and targets must both be (K, 2), but got {points.shape} and {targets.shape}")
    both = np.isfinite(points).all(axis=1) & np.isfinite(targets).all(axis=1)
    if both.sum() < 2:
        raise ValueError(f"points must hold two that are annotated in both, but got {both.sum()} of {len(points)}")
    centers = points[both].mean(axis=0), targets[both].mean(axis=0)
    # As complex numbers: a turn and a scale are one factor.
    start, end = ((values[both] - center) @ [1, 1j] for values, center in zip((points, targets), centers))
    shared, spreads = np.vdot(start, end), [np.linalg.norm(values) for values in (start, end)]
    rounding = [1e-12 * np.abs(values[both]).max() for values in (points, targets)]
    if np.less_equal(spreads, rounding).any() or abs(shared) <= 1e-9 * np.prod(spreads):
        raise ValueError("points and targets must be apart and alike, but got some that tell no turn and scale")
    factor = shared / spreads[0] ** 2
    linear = np.array([[factor.real, -factor.imag], [factor.imag, factor.real]])
    return np.column_stack([linear, centers[1] - linear @ centers[0]])


def pixels_to_fractions(points, size: int) -> np.ndarray:
    """Pixels of a crop of side `size` to fractions of it: (x + 0.5) / size."""
    return (np.asarray(points, dtype=np.float64) + 0.5) / size


def fractions_to_pixels(points, size: int) -> np.ndarray:
    """Fractions of a crop of side `size` to its pixels; undoes `pixels_to_fractions`."""
    return np.asarray(points, dtype=np.float64) * size - 0.5


def warp_image(image: np.ndarray, matrix, size: int) -> np.ndarray:
    """Resamples `image` (H, W, 3) uint8 to a (size, size, 3) uint8 crop by `matrix` (2, 3), black outside the photo.

    The one resampling of the project, in training and inference alike, right to 0.01 px. Where the crop is smaller
    than what it shows, pixels are averaged first (see `_shrink`), so that a face enlarged four times gives the same
    crop. Only the part of the photo that the crop shows is touched.
    """
    seen, matrix = _cut_to_view(image, np.asarray(matrix, dtype=np.float64), size)
    if seen.size == 0:
        return np.zeros((size, size, 3), dtype=np.uint8)
    seen, matrix = _shrink(seen, matrix)
    return _sample(seen, invert_matrix(matrix), size)


def _sample(image: np.ndarray, back: np.ndarray, size: int) -> np.ndarray:
    """Bilinear interpolation of `image` where `back` maps the pixels of the crop, black outside.

    By torch, as others are off: OpenCV's warpAffine rounds places to 1/32 pixel, which moves whole faces, and PIL's
    transform rounds grey values down.
    """
    places = np.arange(size)
    grid = np.empty((1, size, size, 2), dtype=np.float32)
    for axis, length in enumerate((image.shape[1], image.shape[0])):
        along, down = back[axis, 0] * places, back[axis, 1] * places + back[axis, 2]
        # torch's coordinates run from -1 to 1 between the outer edges of the first and the last pixel.
        grid[0, :, :, axis] = 2 / length * along + ((down + 0.5) * 2 / length - 1)[:, None]
    pixels = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None]
    crop = functional.grid_sample(pixels, torch.from_numpy(grid), align_corners=False)
    return crop[0].permute(1, 2, 0).round().to(torch.uint8).numpy()


def _cut_to_view(image: np.ndarray, matrix: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The part of the photo that the crop shows, with a margin of two crop pixels, and the matrix from that part."""
    corners = transform_points(
        invert_matrix(matrix),
        [[-2.5, -2.5], [size + 1.5, -2.5], [-2.5, size + 1.5], [size + 1.5, size + 1.5]],
    )
    limits = [image.shape[1], image.shape[0]]
    x0, y0 = np.clip(np.floor(corners.min(axis=0)) - 1, 0, limits).astype(int)
    x1, y1 = np.clip(np.ceil(corners.max(axis=0)) + 2, 0, limits).astype(int)
    moved = matrix.copy()
    moved[:, 2] += matrix[:, :2] @ [x0, y0]
    return image[y0:y1, x0:x1], moved


def _shrink(image: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Averages the photo to one pixel for each of the crop where it has more, and adapts the matrix.

    First enlarged to a whole multiple of that, so that each average is over whole squares: those over parts of pixels
    are off by up to 0.05 px from place to place.
    """
    step = 1 / np.sqrt(abs(np.linalg.det(matrix[:, :2])))  # photo pixels from one crop pixel to the next
    if step <= 1:
        return np.ascontiguousarray(image), matrix
    size = np.array([image.shape[1], image.shape[0]])
    shrunk = np.maximum(np.rint(size / step).astype(int), 1)
    multiple = shrunk * max(2, int(np.ceil(min(step, max(size)))))
    image = cv2.resize(image, multiple.tolist(), interpolation=cv2.INTER_LINEAR)
    image = cv2.resize(image, shrunk.tolist(), interpolation=cv2.INTER_AREA)
    factor = size / shrunk
    adapted = matrix * [*factor, 1]
    adapted[:, 2] += matrix[:, :2] @ ((factor - 1) / 2)  # a shrunk pixel is centred between its pixels
    return image, adapted


def square_boxes(centers: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Squares (N, 4) with these centres (N, 2) and sides (N,)."""
    half = np.asarray(sides)[:, None] / 2
    return np.concatenate([centers - half, centers + half], axis=1)


def box_areas(boxes: np.ndarray) -> np.ndarray:
    """The areas (N,) of boxes (N, 4)."""
    return (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)


def turn_points(points: np.ndarray, turns: int, width: int, height: int) -> np.ndarray:
    """Points (..., 2) of a picture of this size, in the picture turned counter-clockwise by `turns` quarter turns, as
    `numpy.rot90` does."""
    for _ in range(turns % 4):
        points = np.stack([points[..., 1], width - 1 - points[..., 0]], axis=-1)
        width, height = height, width
    return points


def box_overlap(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Areas of the intersections of `box` (4,) with `boxes` (N, 4): (N,), in squared pixels."""
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    return np.clip(sides, 0, None).prod(axis=1)


def seen_landmarks(visibilities) -> np.ndarray:
    """Which landmarks, (K,) bool, count for a face's box, score and direction: those that the head does not hide.

    Args:
        visibilities: (K,) in [0, 1]. Where all are below 0.5, all count.
    """
    seen = np.asarray(visibilities, dtype=np.float64) >= HIDDEN
    return seen if seen.any() else ~seen
