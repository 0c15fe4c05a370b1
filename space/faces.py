"""Faces as the checkpoint's pipeline returns them: how to find, select and scale them, and to write them as tables."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MIN_SCORE = 0.5  # the page hides detected faces with a lower score by default; the pipeline's default too
LOWEST_SCORE = 0.25  # what scores less is no face, and is not shown at any minimum
SAME_FACE = 0.5  # intersection over union of the boxes
COLUMNS = ("face", "landmark", "x", "y", "score")


def find_faces(pipe, photo: np.ndarray) -> list[dict]:
    """The detected faces of a photo (H, W, 3) with scores down to `LOWEST_SCORE`; `filter_faces` selects from them."""
    return pipe(photo, min_score=LOWEST_SCORE)


def face_in_box(pipe, photo: np.ndarray, box: list[float]) -> dict:
    """The face in a box (x0, y0, x1, y1) that a visitor drew roughly around its landmarks, in pixels of the photo.

    As with a detector's box, a second crop is made around the landmarks that the first one gives. The face with the
    higher score is returned, with "given": True as its box comes from the visitor.

    Raises:
        ValueError: if the box has no area, or lies outside the photo.
    """
    box_around = pipe.image_processor.box_around
    [first_face] = pipe(photo, boxes=[box_around(box)])
    tight_box = [first_face["box"][corner] for corner in ("xmin", "ymin", "xmax", "ymax")]
    try:
        [second_face] = pipe(photo, boxes=[box_around(tight_box)])
    except ValueError:  # the landmarks lie outside the photo
        second_face = first_face
    return {**max(first_face, second_face, key=lambda face: face["score"]), "given": True}


def filter_faces(faces: list[dict], min_score: float) -> list[dict]:
    """The faces that score at least `min_score`, and those whose box a visitor gave."""
    return [face for face in faces if face.get("given") or face["score"] >= min_score]


@dataclass(frozen=True)
class View:
    """The area of a photo that a picture shows: it begins at the pixel (left, top) and is enlarged `scale` times.

    Points (x, y) are pixels of the photo or the picture, with (0, 0) at the centre of the top-left pixel.
    """

    left: int = 0
    top: int = 0
    scale: float = 1.0

    def to_picture(self, x: float, y: float) -> tuple[float, float]:
        return (x - self.left + 0.5) * self.scale - 0.5, (y - self.top + 0.5) * self.scale - 0.5

    def to_photo(self, x: float, y: float) -> tuple[float, float]:
        return (x + 0.5) / self.scale - 0.5 + self.left, (y + 0.5) / self.scale - 0.5 + self.top


def faces_in_picture(faces: list[dict], view: View) -> list[dict]:
    """The faces with boxes and landmarks in pixels of the picture."""
    return [
        {**face, "box": _box_in_picture(face["box"], view), "landmarks": _marks_in_picture(face, view)}
        for face in faces
    ]


def _box_in_picture(box: dict, view: View) -> dict:
    xmin, ymin = view.to_picture(box["xmin"], box["ymin"])
    xmax, ymax = view.to_picture(box["xmax"], box["ymax"])
    return {"xmin": xmin, "ymin": ymin, "xmax": xmax, "ymax": ymax}


def _marks_in_picture(face: dict, view: View) -> list[dict]:
    return [{**mark, **dict(zip("xy", view.to_picture(mark["x"], mark["y"])))} for mark in face["landmarks"]]


def merge_faces(faces: Sequence[dict], new_faces: Sequence[dict]) -> list[dict]:
    """Appends `new_faces`. A face whose box overlaps a new one's by SAME_FACE or more is dropped as the same face."""
    others = [face for face in faces if all(_overlap(face["box"], new["box"]) < SAME_FACE for new in new_faces)]
    return [*others, *new_faces]


def _overlap(one: dict, other: dict) -> float:
    """Intersection over union of two boxes."""
    width = min(one["xmax"], other["xmax"]) - max(one["xmin"], other["xmin"])
    height = min(one["ymax"], other["ymax"]) - max(one["ymin"], other["ymin"])
    intersection = max(0.0, width) * max(0.0, height)
    areas = [(box["xmax"] - box["xmin"]) * (box["ymax"] - box["ymin"]) for box in (one, other)]
    return intersection / max(sum(areas) - intersection, 1e-9)


def box_of_faces(faces: list[dict]) -> list[float]:
    """The box (x0, y0, x1, y1) around all of `faces`, at least one."""
    boxes = np.array([[face["box"][corner] for corner in ("xmin", "ymin", "xmax", "ymax")] for face in faces])
    return [*boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:].max(axis=0).tolist()]


def rows(faces: list[dict], digits: int) -> list[list]:
    """A row of `COLUMNS` for each landmark: x and y rounded to `digits` decimals; faces are counted from 1."""
    return [
        [number, mark["label"], round(mark["x"], digits), round(mark["y"], digits), round(mark["score"], 3)]
        for number, face in enumerate(faces, 1)
        for mark in face["landmarks"]
    ]


def as_json(faces: list[dict]) -> str:
    return json.dumps([{key: value for key, value in face.items() if key != "given"} for face in faces], indent=1)


def as_csv(faces: list[dict]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows(faces, digits=3)])
    return text.getvalue()
