"""Faces in a photo, as landmark boxes (the tight box of the points, made square), by a detector of the user's choice.

A detector is called with a picture (H, W, 3) uint8 RGB and returns landmark boxes (N, 4) and scores (N,). YuNet and
the Haar cascades look at copies of a photo, and at long photos in parts; another detector gets the photo itself.
"""

import logging
import threading
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .geometry_mtld import box_areas, box_overlap, turn_points
from .haar_mtld import Haar
from .photo_parts_mtld import detect_in_photo
from .yunet_mtld import YuNet, YuNetFromHub

logger = logging.getLogger(__name__)

OVERLAP = 0.5  # of two faces' intersection over the smaller one, above which they are one face

_lock = threading.RLock()  # OpenCV's detectors are loaded once and keep state while they look


class Faces(NamedTuple):
    """Detected faces, the largest first.

    Attributes:
        boxes: (N, 4) float64 landmark boxes, squares (x0, y0, x1, y1) in pixels of the photo, where the centre of the
            top-left pixel is (0, 0).
        scores: (N,) in (0, 1], the detector's own confidence.
        turns: (N,) int, quarter turns of the photo, counter-clockwise as of `numpy.rot90`, in which the face was
            detected upright.
    """

    boxes: np.ndarray
    scores: np.ndarray
    turns: np.ndarray


def detect_faces(
    image: np.ndarray, detector: str | Callable | None = None, quarter_turns: bool | None = False
) -> Faces:
    """Finds the faces in a photo. One that is more than three times as long as it is wide, or as wide as it is long,
    is looked at in overlapping parts, in which they are not as small.

    Args:
        image: (H, W, 3) uint8 RGB.
        detector: as `load_detector` takes it.
        quarter_turns: True looks at the photo turned by 90, 180 and 270 degrees too, None only if no face is certain
            in the upright photo.

    Raises:
        ValueError: if `image` is not such an array, `detector` is none, or its result has other shapes.
    """
    is_array = isinstance(image, np.ndarray)
    if not is_array or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        found = f"{image.dtype} {image.shape}" if is_array else type(image).__name__
        raise ValueError(f"image must be a uint8 array (H, W, 3), but got {found}")
    with _lock:
        detector = load_detector(detector)
        views = [_detect_upright(image, detector)]
        certain = (views[0][1] >= getattr(detector, "sure_score", 0)).any()
        if quarter_turns or (quarter_turns is None and not certain):
            views += [_detect_turned(image, detector, turns) for turns in (1, 2, 3)]
    boxes, scores = (np.concatenate(values) for values in zip(*views))
    turns = np.repeat(np.arange(len(views)), [len(view[1]) for view in views])
    kept = _suppress(boxes, scores)
    kept = kept[np.argsort(boxes[kept, 0] - boxes[kept, 2], kind="stable")]
    return Faces(boxes[kept], scores[kept], turns[kept])


def load_detector(detector: str | Callable | None = None) -> Callable:
    """The face detector of this name.

    Args:
        detector: None is YuNet, or the Haar cascades if its model cannot be had; "yunet" or "haar" is this one;
            another string is a file of YuNet's model, or a repository on the Hub that has it. A callable is a detector
            of your own: it returns landmark boxes (see `landmark_boxes`) and scores of a picture.

    Raises:
        ValueError: if there is no such detector.
    """
    if callable(detector):
        return lambda image: _checked(detector(image))
    if detector is None:
        return _first_available()
    if detector == "haar":
        return _haar()
    if isinstance(detector, str) and Path(detector).is_file():
        return _yunet_of_file(detector)
    if detector == "yunet" or isinstance(detector, str) and detector.count("/") == 1:
        source = _yunet if detector == "yunet" else _yunet_of_repo(detector)
        if source.load() is None:
            raise ValueError(f"detector {detector!r} cannot be loaded: {source.failure}")
        return source.load()
    raise ValueError(
        f"detector must be 'yunet', 'haar', a file or Hub id of YuNet's model or a callable, but got {detector!r}"
    )


_yunet = YuNetFromHub()
_haar = lru_cache(Haar)
_yunet_of_file = lru_cache(YuNet)
_yunet_of_repo = lru_cache(YuNetFromHub)


def _first_available() -> Callable:
    yunet = _yunet.load()
    _log_once("YuNet looks for faces" if yunet else f"Haar cascades look for faces, not YuNet: {_yunet.failure}")
    return yunet or _haar()


@lru_cache
def _log_once(message: str):
    logger.info(message)


def _checked(faces) -> tuple[np.ndarray, np.ndarray]:
    """The result of a user's detector, as arrays.

    Raises:
        ValueError: if it is not boxes (N, 4) and scores (N,).
    """
    try:
        boxes, scores = (np.asarray(values, dtype=np.float64) for values in faces)
    except (TypeError, ValueError) as error:
        raise ValueError(f"detector must return boxes (N, 4) and scores (N,), but got {faces!r}") from error
    boxes = boxes.reshape(0, 4) if boxes.size == 0 else boxes
    if boxes.shape != (len(scores), 4) or not np.isfinite(boxes).all():
        raise ValueError(f"detector must return finite boxes (N, 4) and scores (N,), but got {boxes} and {scores}")
    return boxes, scores


def _detect_turned(image: np.ndarray, detector, turns: int) -> tuple[np.ndarray, np.ndarray]:
    """Faces seen in the photo turned by `turns` quarter turns; boxes in the frame of the photo itself."""
    turned = np.ascontiguousarray(np.rot90(image, turns))
    boxes, scores = _detect_upright(turned, detector)
    corners = turn_points(boxes.reshape(-1, 2, 2), -turns, turned.shape[1], turned.shape[0])
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1), scores


def _detect_upright(image: np.ndarray, detector) -> tuple[np.ndarray, np.ndarray]:
    return detect_in_photo(image, detector) if hasattr(detector, "copy_sides") else detector(image)


def _suppress(boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Indices of the boxes that are left when each face is kept once, with its best score."""
    areas, left, kept = box_areas(boxes), np.argsort(-scores, kind="stable"), []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        share = box_overlap(boxes[best], boxes[left]) / np.minimum(areas[best], areas[left])
        left = left[share <= OVERLAP]
    return np.array(kept, dtype=int)
