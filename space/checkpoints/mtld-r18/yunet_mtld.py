"""Faces by OpenCV's YuNet, a small network whose model file comes from the Hub or from a path."""

import logging
import math
import time

import cv2
import numpy as np
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

from .auto_mtld import first_line
from .geometry_mtld import square_boxes
from .hub_reach_mtld import hub_answers, within

logger = logging.getLogger(__name__)

YUNET_REPO = "opencv/face_detection_yunet"
YUNET_FILE = "face_detection_yunet_2023mar.onnx"
YUNET_SCORE = 0.3  # lowest score of a face: turned heads have low ones, and the landmarks' scores reject what is none
RETRY_SECONDS = 60  # between attempts to load the model from the Hub
DOWNLOAD_SECONDS = 20  # after these the photo is not kept waiting; the download goes on for later photos

# Landmark boxes from the boxes of detectors that were trained on WIDER FACE, as YuNet was. Medians of what
# `python -m training_mtld.detection` measured; its output and the errors that are left are on the network's page.
BOX_SIDE = 0.927  # side of the landmark box over the geometric mean of the detector's width and height
BOX_SHIFT = 0.134  # from the centre of the detector's box towards the chin, over the same length


def landmark_boxes(detections, points=None) -> np.ndarray:
    """Landmark boxes from the boxes of a face detector, to return from a `detector` of your own.

    They suit detectors that were trained on WIDER FACE's boxes: YuNet, MTCNN, RetinaFace and InsightFace's SCRFD.

    Args:
        detections: (N, 4) boxes (x0, y0, x1, y1), or an object with such an `xyxy`, as supervision's `Detections`.
        points: (N, 5, 2), the eyes, the nose and the corners of the mouth, in this order; they tell which way is down
            in a face. Without them all faces are taken to be upright.

    Returns:
        (N, 4) float64, squares (x0, y0, x1, y1) in the frame of `detections`.

    Raises:
        ValueError: if the shapes are others.
    """
    boxes = np.asarray(getattr(detections, "xyxy", detections), dtype=np.float64)
    boxes = boxes.reshape(0, 4) if boxes.size == 0 else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"detections must have boxes of shape (N, 4), but got {boxes.shape}")
    down = np.array([0.0, 1.0]) if points is None else _down(np.asarray(points, dtype=np.float64), len(boxes))
    sizes = np.sqrt((boxes[:, 2:] - boxes[:, :2]).clip(0).prod(axis=1))
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2 + BOX_SHIFT * sizes[:, None] * down
    return square_boxes(centers, BOX_SIDE * sizes)


def _down(points: np.ndarray, count: int) -> np.ndarray:
    """The direction (N, 2) of length 1 from the eyes to the mouth."""
    if points.shape != (count, 5, 2):
        raise ValueError(f"points must have the shape ({count}, 5, 2), but got {points.shape}")
    down = points[:, 3:].mean(axis=1) - points[:, :2].mean(axis=1)
    return down / np.maximum(np.linalg.norm(down, axis=1, keepdims=True), 1e-9)


class YuNet:
    """YuNet with the model in a file.

    Attributes:
        copy_sides: longer sides in pixels of the copies of a photo that it looks at. It was trained for faces of 10 to
            300 pixels, so that a portrait is found in a small copy.
        usual_score: of most faces; if none has it, a finer copy may show some.
        sure_score: a face with this score is upright. It detects faces that lie or are upside down with lower scores,
            and gives them points as if they were upright.
    """

    name = "YuNet"
    copy_sides = (320, 1000)
    usual_score = 0.7
    sure_score = 0.9

    def __init__(self, path: str):
        """
        Raises:
            ValueError: if the file is not a model that OpenCV can read.
        """
        try:
            self._network = cv2.FaceDetectorYN.create(path, "", (320, 320), YUNET_SCORE)
        except cv2.error as error:
            raise ValueError(f"{path} must be a model of YuNet, but got {first_line(error)}") from error

    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Landmark boxes (N, 4) and scores (N,) of the faces in an RGB picture (H, W, 3) uint8."""
        self._network.setInputSize((image.shape[1], image.shape[0]))
        rows = self._network.detect(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
        rows = np.zeros((0, 15)) if rows is None else np.asarray(rows, dtype=np.float64)
        boxes = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1)
        return landmark_boxes(boxes, rows[:, 4:14].reshape(-1, 5, 2)), rows[:, 14]


class YuNetFromHub:
    """YuNet once its model could be loaded from the Hub. After a failure it is not tried again for `RETRY_SECONDS`."""

    def __init__(self, repo: str = YUNET_REPO):
        self.repo, self.detector, self.next_try, self.failure = repo, None, -math.inf, ""

    def load(self) -> YuNet | None:
        """The detector; None if it cannot be had now, for the reason `failure`."""
        if self.detector is None and time.monotonic() >= self.next_try:
            self.next_try = time.monotonic() + RETRY_SECONDS
            try:
                self.detector = YuNet(download_yunet(self.repo))
            except Exception as error:  # the Hub's client raises nearly anything
                self.failure = first_line(error)
        return self.detector


def download_yunet(repo: str = YUNET_REPO) -> str:
    """Path of YuNet's model, from the cache or the Hub.

    Raises:
        ValueError: if it is in neither, or the Hub's client's own errors.
    """
    cached = try_to_load_from_cache(repo, YUNET_FILE)  # `hf_hub_download` may use the network even for a hit
    if isinstance(cached, str):
        return cached
    if constants.HF_HUB_OFFLINE or not hub_answers():
        raise ValueError(f"{repo} is not in the cache and the Hub cannot be reached")
    return within(DOWNLOAD_SECONDS, lambda: hf_hub_download(repo, YUNET_FILE))
