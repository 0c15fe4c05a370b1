"""One annotated face, which the readers of the formats return and a builder turns into a row."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Face:
    """Coordinates are pixels of the photo, 0-based, float64; NaN where not annotated.

    Attributes:
        image_id: names the photo within the set; faces of one photo share it.
        photo: its file, or its pixels, (H, W, 3) or (H, W) uint8.
        landmarks: (K, 2).
        where: the file and the row that the face was read from, for messages.
        box: the annotated face box (4,) x0, y0, x1, y1, where there is one.
        occluded: (K,) bool, where the set has it.
        columns: values of the set's own columns.
    """

    image_id: str
    photo: Path | np.ndarray
    landmarks: np.ndarray
    where: str
    box: np.ndarray | None = None
    occluded: np.ndarray | None = None
    columns: Mapping[str, object] = field(default_factory=dict)
