"""Faces by OpenCV's Haar cascades, which need no download: the fallback where YuNet's model cannot be had."""

import cv2
import numpy as np

from .geometry_mtld import box_areas, box_overlap, square_boxes

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


class Haar:
    """The four cascades of `HAAR_CASCADES`, which vote.

    Attributes:
        copy_sides: longer side in pixels of the copy of a photo that they look at.
        usual_score, sure_score: any face that they detect counts, and stands upright.
    """

    name = "Haar cascades"
    copy_sides = (640,)
    usual_score = sure_score = 0.0

    def __init__(self):
        files = {file for file, *_ in HAAR_CASCADES}
        self._cascades = {file: cv2.CascadeClassifier(cv2.data.haarcascades + file) for file in files}

    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Landmark boxes (N, 4) and scores (N,) of the faces in an RGB picture (H, W, 3) uint8."""
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        windows = [self._run_cascade(gray, *cascade) for cascade in HAAR_CASCADES]
        boxes, votes = _merge(*(np.concatenate(values) for values in zip(*windows)))
        enough = votes >= HAAR_VOTES
        if not enough.any():
            large = boxes[:, 2] - boxes[:, 0] >= HAAR_PORTRAIT_SIDE * max(gray.shape)
            enough = large & (votes >= HAAR_PORTRAIT_VOTES)
        return boxes[enough], votes[enough] / (votes[enough] + HAAR_VOTES)

    def _run_cascade(self, gray: np.ndarray, name: str, mirrored: bool, weight: float, scale: float, shift: tuple):
        """Landmark boxes (N, 4) and votes (N,) of one cascade."""
        smallest = round(float(np.clip(HAAR_SMALLEST * max(gray.shape), *HAAR_SMALLEST_LIMITS)))
        seen = np.ascontiguousarray(gray[:, ::-1]) if mirrored else gray
        windows, votes = self._cascades[name].detectMultiScale2(seen, 1.1, 1, minSize=(smallest, smallest))
        windows = np.asarray(windows, dtype=np.float64).reshape(-1, 4)
        centers, sides = windows[:, :2] + windows[:, 2:] / 2 - 0.5, windows[:, 2]
        if mirrored:
            centers[:, 0] = gray.shape[1] - 1 - centers[:, 0]
        boxes = square_boxes(centers + sides[:, None] * shift, sides * scale)
        return boxes, np.asarray(votes, dtype=np.float64) * weight


def _merge(boxes: np.ndarray, votes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of one face to their mean, weighted by votes, and the sum of their votes."""
    areas, left, merged, sums = box_areas(boxes), np.argsort(-votes, kind="stable"), [], []
    while len(left):
        shared = box_overlap(boxes[left[0]], boxes[left])
        same = shared / (areas[left[0]] + areas[left] - shared) > HAAR_GROUP_IOU
        group, left = left[same], left[~same]
        merged.append(np.average(boxes[group], axis=0, weights=votes[group]))
        sums.append(votes[group].sum())
    return np.array(merged).reshape(-1, 4), np.array(sums)
