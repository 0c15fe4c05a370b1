"""Faces in a photo of any size and shape, by a detector that looks at pictures of a limited size: copies and parts."""

import math
from collections.abc import Iterator

import cv2
import numpy as np

PHOTO_SIDE = 1000  # longest photo that needs no finer copy; shortest part of a long photo
LARGE_PHOTO_SIDE = 1600  # longer side in pixels of one more copy, if no face was detected in the others
LARGE_PHOTO_SCORE = 2 / 3  # threshold in the second copy: fine texture causes false positives there
LONG_RATIO = 3  # longer side of a picture over its shorter one, above which it is looked at in parts of this ratio
MAX_PARTS = 100


def detect_in_photo(image: np.ndarray, detector) -> tuple[np.ndarray, np.ndarray]:
    """Faces that the detector sees in copies of the photo, or of a long one in each of its parts; some of them twice.

    Args:
        image: (H, W, 3) uint8 RGB.
        detector: a `YuNet` or `Haar`, with the longer sides of the copies that it is to see as `copy_sides`. A copy is
            never larger than the photo.

    Returns:
        Landmark boxes (N, 4) in pixels of the photo, and scores (N,).
    """
    boxes, scores = _detect_in_parts(image, detector, detector.copy_sides)
    if (scores >= detector.usual_score).any() or _part_length(image) <= PHOTO_SIDE:
        return boxes, scores
    more_boxes, more_scores = _detect_in_parts(image, detector, (LARGE_PHOTO_SIDE,))
    enough = more_scores > LARGE_PHOTO_SCORE
    return np.concatenate([boxes, more_boxes[enough]]), np.concatenate([scores, more_scores[enough]])


def _detect_in_parts(image: np.ndarray, detector, copy_sides) -> tuple[np.ndarray, np.ndarray]:
    """A face that reaches beyond a part is left to the next part, which has all of it."""
    boxes, scores = [], []
    height, width = image.shape[:2]
    for left, top, part in _parts(image):
        part_boxes, part_scores = _detect_in_copies(part, detector, copy_sides)
        sides = part_boxes[:, 2] - part_boxes[:, 0]
        part_boxes = part_boxes + [left, top, left, top]
        bottom, right = top + part.shape[0], left + part.shape[1]
        cut = (part_boxes[:, :2] < [left, top]) & [left > 0, top > 0]
        cut |= (part_boxes[:, 2:] > [right - 1, bottom - 1]) & [right < width, bottom < height]
        inside = ~cut.any(axis=1) | (sides > min(height, width))
        boxes.append(part_boxes[inside])
        scores.append(part_scores[inside])
    return np.concatenate(boxes), np.concatenate(scores)


def _part_length(image: np.ndarray) -> int:
    """The length of parts along the longer side. None is shorter than `PHOTO_SIDE`, up to which a copy is as fine as
    the photo, and there are `MAX_PARTS` at most."""
    longer, shorter = max(image.shape[:2]), min(image.shape[:2])
    shortest = math.ceil((longer + (MAX_PARTS - 1) * shorter) / MAX_PARTS)
    return min(longer, max(LONG_RATIO * shorter, PHOTO_SIDE, shortest))


def _parts(image: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
    """Left, top and pixels of parts along the longer side, evenly spread.

    They overlap by the shorter side at least, so that one of them has all of a face.
    """
    height, width = image.shape[:2]
    longer, shorter, length = max(height, width), min(height, width), _part_length(image)
    count = 1 + math.ceil((longer - length) / (length - shorter)) if length < longer else 1
    for start in np.linspace(0, longer - length, count).round().astype(int).tolist():
        if height >= width:
            yield 0, start, image[start : start + length]
        else:
            yield start, 0, image[:, start : start + length]


def _detect_in_copies(image: np.ndarray, detector, copy_sides) -> tuple[np.ndarray, np.ndarray]:
    boxes, scores = [], []
    for side in sorted({min(side, max(image.shape[:2])) for side in copy_sides}):
        copy = _shrink(image, side)
        copy_boxes, copy_scores = detector(copy)
        boxes.append(_to_photo(copy_boxes, copy, image))
        scores.append(copy_scores)
    return np.concatenate(boxes), np.concatenate(scores)


def _shrink(image: np.ndarray, side: int) -> np.ndarray:
    scale = side / max(image.shape)
    if scale >= 1:
        return image
    width, height = (max(1, round(length * scale)) for length in (image.shape[1], image.shape[0]))
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def _to_photo(boxes: np.ndarray, copy: np.ndarray, image: np.ndarray) -> np.ndarray:
    scale = max(image.shape) / max(copy.shape)  # one for both axes, so that squares stay squares
    return (boxes + 0.5) * scale - 0.5
