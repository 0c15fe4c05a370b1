"""Reading of `.pts` files, the format of 300W's annotations."""

import re
from pathlib import Path

import numpy as np


def read_pts(path: str | Path, num_landmarks: int) -> np.ndarray:
    """300W's landmarks (num_landmarks, 2), float64, in pixels of the photo, 0-based (the file counts from 1).

    Raises:
        ValueError: as `read_points`.
    """
    return read_points(path, num_landmarks) - 1


def read_points(path: str | Path, num_landmarks: int) -> np.ndarray:
    """The points of a `.pts` file as they are written, (num_landmarks, 2), float64.

    Reads the official form (`version: 1`, `n_points: 68`, `{`, a row of x and y for each point, `}`) and copies that
    hold only the rows.

    Raises:
        ValueError: if a row is not two finite numbers, or the file does not hold exactly `num_landmarks` rows; the
            message names the file, and the row in the first case.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path} must be a text file of landmarks, but is not text") from None
    points = [_read_row(path, number, line) for number, line in enumerate(lines, start=1) if _is_row(line)]
    if len(points) != num_landmarks:
        raise ValueError(f"{path} must hold {num_landmarks} landmarks, but got {len(points)}")
    n_points = re.search(r"^\s*n_points[^\d\n]*(\d+)", "\n".join(lines), re.IGNORECASE | re.MULTILINE)
    if n_points and int(n_points[1]) != len(points):
        raise ValueError(f"{path} must hold as many landmarks as its n_points, {n_points[1]}, but got {len(points)}")
    return np.array(points, dtype=np.float64)


def _is_row(line: str) -> bool:
    return bool(line.strip(" \t\r{}\ufeff\x1a")) and not line.strip().lower().startswith(("version", "n_points"))


def _read_row(path: str | Path, number: int, line: str) -> tuple[float, float]:
    try:
        x, y = (float(word) for word in line.split())
        if np.isfinite([x, y]).all():
            return x, y
    except ValueError:
        pass
    raise ValueError(f"{path} must hold two finite numbers on row {number}, but got {line.strip()!r}")
