"""Faces as the checkpoint's pipeline returns them: finding them, choosing, scaling, and turning them into tables."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MIN_SCORE = 0.55  # of a face that was looked for, below which it is not shown at first; the pipeline's own
SAME_FACE = 0.5  # intersection over union of the boxes
COLUMNS = ("face", "landmark", "x", "y", "score")


def find_faces(find, photo: np.ndarray) -> list[dict]:
    """All faces of a photo (H, W, 3) that the detector found, unlikely ones too: they are chosen when shown."""
    return find(photo, min_score=0.0)


def face_in_box(find, photo: np.ndarray, box: list[float]) -> dict:
    """The face in a box (x0, y0, x1, y1) that a visitor drew roughly around its landmarks, in pixels of the photo.

    It has "given": True. Like the detector's boxes, it is cropped a second time around the landmarks first found, and
    the better one is kept.

    Raises:
        ValueError: if the box is none, or lies beside the photo.
    """
    around = find.image_processor.box_around
    [first] = find(photo, boxes=[around(box)])
    tight = [first["box"][corner] for corner in ("xmin", "ymin", "xmax", "ymax")]
    try:
        [second] = find(photo, boxes=[around(tight)])
    except ValueError:  # what was found lies beside the photo
        second = first
    return {**max(first, second, key=lambda face: face["score"]), "given": True}


def shown(faces: list[dict], min_score: float) -> list[dict]:
    """The faces that score at least this, and those whose box was given."""
    return [face for face in faces if face.get("given") or face["score"] >= min_score]


@dataclass(frozen=True)
class View:
    """What a picture shows of a photo: from the pixel (left, top) on, `scale` times as large.

    Points (x, y) are pixels with the centre of the first at (0, 0), in photo and picture.
    """

    left: int = 0
    top: int = 0
    scale: float = 1.0

    def to_picture(self, x: float, y: float) -> tuple[float, float]:
        return (x - self.left + 0.5) * self.scale - 0.5, (y - self.top + 0.5) * self.scale - 0.5

    def to_photo(self, x: float, y: float) -> tuple[float, float]:
        return (x + 0.5) / self.scale - 0.5 + self.left, (y + 0.5) / self.scale - 0.5 + self.top


def seen(faces: list[dict], view: View) -> list[dict]:
    """The faces in pixels of the picture."""
    return [{**face, "box": _seen_box(face["box"], view), "landmarks": _seen_marks(face, view)} for face in faces]


def _seen_box(box: dict, view: View) -> dict:
    xmin, ymin = view.to_picture(box["xmin"], box["ymin"])
    xmax, ymax = view.to_picture(box["xmax"], box["ymax"])
    return {"xmin": xmin, "ymin": ymin, "xmax": xmax, "ymax": ymax}


def _seen_marks(face: dict, view: View) -> list[dict]:
    return [{**mark, **dict(zip("xy", view.to_picture(mark["x"], mark["y"])))} for mark in face["landmarks"]]


def with_faces(faces: Sequence[dict], given: Sequence[dict]) -> list[dict]:
    """The faces and those given, which replace what they mostly cover: a visitor has set their box anew."""
    kept = [face for face in faces if all(_overlap(face["box"], own["box"]) < SAME_FACE for own in given)]
    return [*kept, *given]


def _overlap(one: dict, other: dict) -> float:
    """Intersection over union of two boxes."""
    width = min(one["xmax"], other["xmax"]) - max(one["xmin"], other["xmin"])
    height = min(one["ymax"], other["ymax"]) - max(one["ymin"], other["ymin"])
    shared = max(0.0, width) * max(0.0, height)
    areas = [(box["xmax"] - box["xmin"]) * (box["ymax"] - box["ymin"]) for box in (one, other)]
    return shared / max(sum(areas) - shared, 1e-9)


def box_of_faces(faces: list[dict]) -> list[float]:
    """The box (x0, y0, x1, y1) around all of them, of which there is one at least."""
    boxes = np.array([[face["box"][corner] for corner in ("xmin", "ymin", "xmax", "ymax")] for face in faces])
    return [*boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:].max(axis=0).tolist()]


def rows(faces: list[dict], digits: int) -> list[list]:
    """A row of `COLUMNS` for each landmark, with so many digits of a pixel; faces are counted from 1."""
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
