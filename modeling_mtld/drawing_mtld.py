"""Landmarks drawn on a photo, for looking at."""

import itertools
import re

import cv2
import numpy as np

FACE_SIDE = 240  # pixels; smaller faces are shown enlarged, within the next limit
PICTURE_SIDE = 2000
LINE, POINT, FRAME = (0, 225, 190), (255, 240, 60), (255, 255, 255)  # RGB
CLOSED_PARTS = ("eye", "lip", "lips", "mouth")  # last word of a part whose last landmark is joined to its first
FRACTION_BITS = 4  # OpenCV draws at 16ths of a pixel


def draw_faces(photo: np.ndarray, faces: list[dict]) -> np.ndarray:
    """Draws boxes, contours and landmarks, as thick as suits each face.

    Landmarks are joined to a contour where their names tell: `jaw_0`, `jaw_1`, ….

    Args:
        photo: (H, W, 3) uint8 RGB.
        faces: as the pipeline returns them, in pixels of `photo`.

    Returns:
        (sH, sW, 3) uint8 RGB. The whole factor s is above 1 where faces are small.
    """
    scale = _enlargement(photo, faces)
    picture = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC) if scale > 1 else photo.copy()
    for face in faces:
        _draw_face(picture, face, scale)
    return picture


def _face_side(face: dict) -> float:
    box = face["box"]
    return max(box["xmax"] - box["xmin"], box["ymax"] - box["ymin"])


def _enlargement(photo: np.ndarray, faces: list[dict]) -> int:
    wanted = max((FACE_SIDE / max(_face_side(face), 1) for face in faces), default=1)
    return max(1, int(min(np.ceil(wanted), PICTURE_SIDE / max(photo.shape))))


def _draw_face(picture: np.ndarray, face: dict, scale: int):
    side, box = _face_side(face) * scale, face["box"]
    corners = np.array([[box["xmin"], box["ymin"]], [box["xmax"], box["ymax"]]])
    margin = 0.05 * _face_side(face)
    low, high = _to_fixed_point(corners + [[-margin], [margin]], scale)
    thickness = max(1, round(side / 250))
    cv2.rectangle(picture, low.tolist(), high.tolist(), FRAME, thickness, cv2.LINE_AA, FRACTION_BITS)
    points = _to_fixed_point(np.array([[mark["x"], mark["y"]] for mark in face["landmarks"]]), scale)
    for indices, closed in contours([mark["label"] for mark in face["landmarks"]]):
        cv2.polylines(picture, [points[indices]], closed, LINE, thickness, cv2.LINE_AA, FRACTION_BITS)
    radius = round(max(1.2, side / 110) * 2**FRACTION_BITS)
    for x, y in points.tolist():
        cv2.circle(picture, (x, y), radius, POINT, cv2.FILLED, cv2.LINE_AA, FRACTION_BITS)


def _to_fixed_point(points: np.ndarray, scale: int) -> np.ndarray:
    return np.rint(((points + 0.5) * scale - 0.5) * 2**FRACTION_BITS).astype(np.int32)


def contours(labels: list[str]) -> list[tuple[list[int], bool]]:
    """Indices of the landmarks of each part, and whether it is closed; none where labels are bare numbers."""
    stems = [re.sub(r"_?\d+$", "", label) for label in labels]
    runs = [(stem, list(run)) for stem, run in itertools.groupby(range(len(stems)), key=stems.__getitem__)]
    return [(run, stem.split("_")[-1] in CLOSED_PARTS) for stem, run in runs if stem and len(run) > 1]
