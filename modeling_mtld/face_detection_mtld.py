"""Faces in a photo, as landmark boxes: by OpenCV's YuNet, or by its Haar cascades where YuNet's model cannot be had.

A detector's box is not a landmark box (the tight box of the points), so each has a correction of its own, given here
with the numbers of its fit. All fits are on training faces of 300W; the landmark boxes are squares, since a crop
depends on their centre and longer side only.
"""

import logging
import math
import threading
import time
from collections.abc import Iterator
from functools import lru_cache

import cv2
import numpy as np
from huggingface_hub import constants, get_session, hf_hub_download, try_to_load_from_cache

from .auto_mtld import first_line
from .geometry_mtld import box_overlap

logger = logging.getLogger(__name__)

PHOTO_SIDE = 1000  # longer side in pixels of the copy in which faces are looked for
LARGE_PHOTO_SIDE = 1600  # and of a second copy, if none was found
LARGE_PHOTO_SCORE = 2 / 3  # there, faces are surer than this, as gravel seen this finely has faces too
LONG_RATIO = 3  # longer side of a picture over its shorter one, above which it is looked at in parts of this ratio
MAX_PARTS = 100
OVERLAP = 0.5  # of two faces' intersection over the smaller one, above which they are one face

YUNET_REPO = "opencv/face_detection_yunet"
YUNET_FILE = "face_detection_yunet_2023mar.onnx"
RETRY_SECONDS = 60  # between attempts to load YuNet
HUB_SECONDS = 3  # without a network, the Hub's client would retry for 23
YUNET_SMALL_SIDE = 320  # it was trained for faces of 10 to 300 pixels: a portrait is found in a small copy
YUNET_SCORE = 0.7
# Fitted to the annotated positions of YuNet's five points (eyes, tip of the nose, corners of the mouth) on 1,811
# faces, not to YuNet's own output, for its model was not at hand: side 3.68 +- 0.22 times the points' RMS distance
# from their mean; centre beyond the middle between eyes and mouth, towards the mouth, by 0.147 times the distance
# between eyes and mouth. What is left is 0.094 of the side across and 0.035 along; the second crop corrects it.
YUNET_SCALE = 3.68
YUNET_SHIFT = 0.147

# File, mirrored, weight of a vote, side of the landmark box over that of the detector's box, shift (x, y) from the
# detector's centre to the landmark box's, over the side of the detector's box. Fitted on 452 faces, of which the
# cascades found 415, 406 and 144 in either direction. Spread: default 0.88 +- 0.09, (0.085, 0.054); alt2
# 0.89 +- 0.09, (0.095, 0.044); profile 0.83 +- 0.15, (0.09, 0.06).
HAAR_CASCADES = (
    ("haarcascade_frontalface_alt2.xml", False, 1.0, 0.894, (0.0, 0.153)),
    ("haarcascade_frontalface_default.xml", False, 0.5, 0.880, (0.0, 0.146)),
    ("haarcascade_profileface.xml", False, 1.0, 0.833, (-0.106, 0.165)),
    ("haarcascade_profileface.xml", True, 1.0, 0.833, (0.106, 0.165)),
)
# A vote is a window in which a cascade sees a face; a face needs this many from all four. Where none has them, a
# portrait is likely: fewer will do for a face that fills much of the photo, as false faces are small.
# On 227 training faces beside those of the fit this finds 91.6 %, with 0.044 false ones a photo.
HAAR_VOTES = 8
HAAR_PORTRAIT_VOTES = 5
HAAR_PORTRAIT_SIDE = 0.3  # of the longer side of the photo
HAAR_GROUP_IOU = 0.35
# Side in pixels of the smallest window looked at: this fraction of the copy's longer side, but within these limits.
# The cascades know nothing smaller than the lower one; the upper one keeps a large copy within seconds.
HAAR_SMALLEST = 0.04
HAAR_SMALLEST_LIMITS = (24, 40)

_lock = threading.Lock()  # OpenCV's detectors are loaded once and keep state while they look


def detect_faces(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds the faces in a photo. One that is more than three times as long as it is wide, or as wide as it is long,
    is looked at in overlapping parts, in which they are not as small.

    Args:
        image: (H, W, 3) uint8 RGB.

    Returns:
        Landmark boxes (N, 4) float64, squares (x0, y0, x1, y1) in pixels of the photo, where the centre of the
        top-left pixel is (0, 0), the largest first; and scores (N,) in (0, 1], the detector's own confidence.

    Raises:
        ValueError: if `image` is not such an array.
    """
    is_array = isinstance(image, np.ndarray)
    if not is_array or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        found = f"{image.dtype} {image.shape}" if is_array else type(image).__name__
        raise ValueError(f"image must be a uint8 array (H, W, 3), but got {found}")
    with _lock:
        boxes, scores = _detect_in_parts(image, PHOTO_SIDE)
        if len(boxes) == 0 and _part_length(image) > PHOTO_SIDE:
            boxes, scores = _detect_in_parts(image, LARGE_PHOTO_SIDE)
            boxes, scores = boxes[scores > LARGE_PHOTO_SCORE], scores[scores > LARGE_PHOTO_SCORE]
    kept = _suppress(boxes, scores)
    kept = kept[np.argsort(boxes[kept, 0] - boxes[kept, 2], kind="stable")]
    return boxes[kept], scores[kept]


def _detect_in_parts(image: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Faces seen in the photo, or of a long one in each of its parts; some of them twice.

    A face that reaches beyond a part is left to the next part, which has all of it.
    """
    boxes, scores = [], []
    height, width = image.shape[:2]
    for left, top, part in _parts(image):
        part_boxes, part_scores = _detect_in_copies(part, side)
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


def _detect_in_copies(image: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Faces seen in a copy of the photo no longer than `side`, and by YuNet in a small one too; some of them twice."""
    yunet = _yunet.load()
    boxes, scores = [], []
    for copy_side in (side,) if yunet is None else (YUNET_SMALL_SIDE, side):
        copy = _shrink(image, copy_side)
        copy_boxes, copy_scores = _run_haar(copy) if yunet is None else _run_yunet(yunet, copy)
        boxes.append(_to_photo(copy_boxes, copy, image))
        scores.append(copy_scores)
    return np.concatenate(boxes), np.concatenate(scores)


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)


def _suppress(boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Indices of the boxes that are left when each face is kept once, with its best score."""
    areas, left, kept = _areas(boxes), np.argsort(-scores, kind="stable"), []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        share = box_overlap(boxes[best], boxes[left]) / np.minimum(areas[best], areas[left])
        left = left[share <= OVERLAP]
    return np.array(kept, dtype=int)


def _shrink(image: np.ndarray, side: int) -> np.ndarray:
    scale = side / max(image.shape)
    if scale >= 1:
        return image
    width, height = (max(1, round(length * scale)) for length in (image.shape[1], image.shape[0]))
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def _to_photo(boxes: np.ndarray, copy: np.ndarray, image: np.ndarray) -> np.ndarray:
    scale = max(image.shape) / max(copy.shape)  # one for both axes, so that squares stay squares
    return (boxes + 0.5) * scale - 0.5


def _squares(centers: np.ndarray, sides: np.ndarray) -> np.ndarray:
    half = np.asarray(sides)[:, None] / 2
    return np.concatenate([centers - half, centers + half], axis=1)


class _YuNet:
    """`cv2.FaceDetectorYN` once it could be loaded. After a failure it is not tried again for `RETRY_SECONDS`."""

    def __init__(self):
        self.detector, self.next_try = None, -math.inf

    def load(self):
        """The detector, or None."""
        if self.detector is None and time.monotonic() >= self.next_try:
            self.next_try = time.monotonic() + RETRY_SECONDS
            self._try()
        return self.detector

    def _try(self):
        try:
            path = _yunet_path()
            if path is not None:
                self.detector = cv2.FaceDetectorYN.create(path, "", (320, 320), YUNET_SCORE)
                return
            reason = "its model is not in the cache and the Hub cannot be reached"
        except Exception as error:  # the Hub's client raises nearly anything, OpenCV its own on a broken file
            reason = f"{type(error).__name__}: {first_line(error)}"
        logger.info("Faces are looked for with Haar cascades instead of YuNet: %s", reason)


_yunet = _YuNet()


def _yunet_path() -> str | None:
    cached = try_to_load_from_cache(YUNET_REPO, YUNET_FILE)  # `hf_hub_download` may use the network even for a hit
    if isinstance(cached, str):
        return cached
    return hf_hub_download(YUNET_REPO, YUNET_FILE) if not constants.HF_HUB_OFFLINE and _hub_answers() else None


def _hub_answers() -> bool:
    """Whether the Hub answers at all within `HUB_SECONDS`; in a thread, as looking up its name can take longer."""
    answered = threading.Event()

    def ask():
        try:
            get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)
        except Exception:  # whatever it is, there is no answer
            return
        answered.set()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_SECONDS)
    return answered.is_set()


def _run_yunet(yunet, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    yunet.setInputSize((image.shape[1], image.shape[0]))
    rows = yunet.detect(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
    rows = np.zeros((0, 15)) if rows is None else np.asarray(rows, dtype=np.float64)
    points = rows[:, 4:14].reshape(-1, 5, 2)
    eyes, mouth = points[:, :2].mean(axis=1), points[:, 3:].mean(axis=1)
    centers = (eyes + mouth) / 2 + YUNET_SHIFT * (mouth - eyes)
    distances = np.square(points - points.mean(axis=1, keepdims=True)).sum(axis=2)
    return _squares(centers, YUNET_SCALE * np.sqrt(distances.mean(axis=1))), rows[:, 14]


@lru_cache
def _load_cascade(name: str) -> cv2.CascadeClassifier:
    return cv2.CascadeClassifier(cv2.data.haarcascades + name)


def _run_haar(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    found = [_run_cascade(gray, *cascade) for cascade in HAAR_CASCADES]
    boxes, votes = _merge(np.concatenate([b for b, _ in found]), np.concatenate([v for _, v in found]))
    enough = votes >= HAAR_VOTES
    if not enough.any():
        large = boxes[:, 2] - boxes[:, 0] >= HAAR_PORTRAIT_SIDE * max(gray.shape)
        enough = large & (votes >= HAAR_PORTRAIT_VOTES)
    return boxes[enough], votes[enough] / (votes[enough] + HAAR_VOTES)


def _run_cascade(gray: np.ndarray, name: str, mirrored: bool, weight: float, scale: float, shift: tuple):
    """Landmark boxes (N, 4) and votes (N,) of one cascade."""
    smallest = round(float(np.clip(HAAR_SMALLEST * max(gray.shape), *HAAR_SMALLEST_LIMITS)))
    seen = np.ascontiguousarray(gray[:, ::-1]) if mirrored else gray
    found, votes = _load_cascade(name).detectMultiScale2(seen, 1.1, 1, minSize=(smallest, smallest))
    found = np.asarray(found, dtype=np.float64).reshape(-1, 4)
    centers, sides = found[:, :2] + found[:, 2:] / 2 - 0.5, found[:, 2]
    if mirrored:
        centers[:, 0] = gray.shape[1] - 1 - centers[:, 0]
    return _squares(centers + sides[:, None] * shift, sides * scale), np.asarray(votes, dtype=np.float64) * weight


def _merge(boxes: np.ndarray, votes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of one face to their mean, weighted by votes, and the sum of their votes."""
    areas, left, merged, sums = _areas(boxes), np.argsort(-votes, kind="stable"), [], []
    while len(left):
        shared = box_overlap(boxes[left[0]], boxes[left])
        same = shared / (areas[left[0]] + areas[left] - shared) > HAAR_GROUP_IOU
        group, left = left[same], left[~same]
        merged.append(np.average(boxes[group], axis=0, weights=votes[group]))
        sums.append(votes[group].sum())
    return np.array(merged).reshape(-1, 4), np.array(sums)
