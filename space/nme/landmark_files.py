"""Files of landmarks, CSV or JSON, read as arrays. Whatever else a file holds is refused in words."""

import csv
import io
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MAX_BYTES = 50 * 2**20
MAX_POINTS = 1_000_000
MAX_FACES = 100_000
MAX_LANDMARKS = 1000
MAX_COORDINATE = 1e9  # what is larger would overflow in the scores
SEPARATORS_PER_POINT = 8  # a landmark of a pipeline's JSON has one bracket and four commas
TOO_MANY = f"the file must hold at most {MAX_FACES:,} faces, but got more"
EMPTY_CELLS = {"", "nan", "na", "none", "null"}
SHOWN_CHARACTERS = 60  # of what a visitor's file holds, in a message


@dataclass(frozen=True)
class Faces:
    """The landmarks of N faces.

    Attributes:
        name: of the file, as the visitor calls it.
        points: (N, K, 2) float64, x before y, in the units of the file; NaN where a point is not annotated.
        ids: what tells the faces apart, N different strings, or None where the file names none.
    """

    name: str
    points: np.ndarray
    ids: tuple[str, ...] | None

    def face(self, index: int) -> str:
        """What to call a face in a message."""
        return _place(index, self.ids)


def read_faces(path: str | Path, name: str) -> Faces:
    """Reads a file of landmarks; README.md shows the formats.

    Args:
        path: where the file lies.
        name: what the visitor calls it; its suffix, .csv or .json, says what it is.

    Raises:
        ValueError: if it is not such a file, or holds no faces of K points each; in one line that begins with `name`
            and says where.
    """
    name = shorten(name)
    read = {".csv": _read_csv, ".json": _read_json}.get(Path(name).suffix.lower())
    try:
        if read is None:
            raise ValueError("the file must be a .csv or a .json")
        points, ids = read(_read_text(Path(path)))
        points[np.isnan(points).any(axis=2)] = np.nan  # a point with half a pair is none
        faces = Faces(name, points, ids)
        _check(faces)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    return faces


def shorten(text: object) -> str:
    """`text` on one line and not too long, its end kept; half a character pair, which no answer can hold, escaped."""
    line = " ".join(str(text).encode(errors="backslashreplace").decode().split())
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[:40]}…{line[-19:]}"


def _read_text(path: Path) -> str:
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= MAX_BYTES else b""
    except OSError:
        raise ValueError("the file is not here any more; upload it again") from None
    if size > MAX_BYTES:
        raise ValueError(f"the file must have at most {MAX_BYTES >> 20} MB, but got {size / 2**20:.0f} MB")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = f"byte 0x{content[error.start]:02x} at position {error.start}"
        raise ValueError(f"the file must be text in UTF-8, but got {found}") from None
    if not text.strip():
        raise ValueError("the file must hold landmarks, but it is empty")
    if sum(map(text.count, "[{,;\t")) > SEPARATORS_PER_POINT * MAX_POINTS:  # before it is a hundred times as large
        raise ValueError(f"the file must hold at most {MAX_POINTS:,} points, but got more")
    return text


def _check(faces: Faces):
    landmarks = faces.points.shape[1]
    if landmarks > MAX_LANDMARKS:
        raise ValueError(f"a face must have at most {MAX_LANDMARKS} points, but got {landmarks}")
    if faces.ids and (twice := _repeated(faces.ids)) is not None:
        raise ValueError(f"each image_id must occur once, but got {shorten(twice)!r} twice")
    unwritable = next((name for name in faces.ids or () if not _is_writable(name)), None)
    if unwritable is not None:
        raise ValueError(f"each image_id must be text in UTF-8, but got {shorten(repr(unwritable))}")
    outside = np.argwhere(np.abs(faces.points) > MAX_COORDINATE)
    if len(outside):
        face, point, axis = outside[0]
        found = faces.points[face, point, axis]
        place = f"{faces.face(face)}, point {point}"
        raise ValueError(f"{place} must be from {-MAX_COORDINATE:g} to {MAX_COORDINATE:g}, but got {found:g}")


def _is_writable(name: str) -> bool:
    try:
        return name.encode() is not None
    except UnicodeEncodeError:  # half a character pair, which JSON can name
        return False


def _repeated(names) -> str | None:
    """The first name that occurs more than once."""
    return next((name for name, count in Counter(names).items() if count > 1), None)


def _place(index: int, ids) -> str:
    return f"face {index}" if ids is None else f"face {shorten(ids[index])!r}"


def _read_csv(text: str) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """One face a row: x0, y0, x1, y1, … after an image_id, which there is where the number of cells is odd."""
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=text.split("\n", 1)[0].count))
    ids, faces, width = [], [], None
    try:
        for row in rows:
            if row == [] or len(row) == 1 and not row[0].strip():
                continue
            if width is None:
                width, has_ids = len(row), len(row) % 2 == 1
                if width == 1:
                    found = f"must be cells separated by comma, semicolon or tab, but got {shorten(row[0])!r}"
                    raise ValueError(f"line {rows.line_num} {found}")
                if _is_header(row, has_ids, rows.line_num):
                    continue
            if len(faces) == MAX_FACES:
                raise ValueError(TOO_MANY)
            if len(row) != width:
                raise ValueError(f"line {rows.line_num} must have {width} cells as the first, but got {len(row)}")
            ids += [cell.strip() for cell in row[:has_ids]]
            if has_ids and not ids[-1]:
                raise ValueError(f"line {rows.line_num} must begin with an image_id, but got an empty cell")
            faces.append([_cell(cell, rows.line_num, column) for column, cell in enumerate(row) if column >= has_ids])
    except csv.Error as error:
        raise ValueError(f"line {rows.line_num} must be rows of cells, but got: {error}") from None
    if not faces:
        raise ValueError("the file must hold faces, but got a header alone")
    return np.array(faces, dtype=np.float64).reshape(len(faces), -1, 2), tuple(ids) if has_ids else None


def _is_header(row: list[str], has_ids: bool, line: int) -> bool:
    """Whether the first row is one. Raises ValueError if it is none of ours and no face either."""
    cells = [cell.strip().lower() for cell in row[has_ids:]]
    counted = cells == [str(column) for column in range(len(cells))]  # what pandas makes of an array
    if all(_is_number(cell) for cell in cells) and not counted:
        if has_ids and _is_number(row[0].strip().lower()):
            raise ValueError(
                f"line {line} must have an x and a y for each point, and more only after an image_id or below the "
                f"header image_id, x0, y0, …, but got {len(row)} cells"
            )
        return False
    plain = ["".join(sign for sign in cell if sign not in "_-. []") for cell in cells]
    for first in (0, 1):
        if plain == [f"{axis}{point}" for point in range(first, first + len(cells) // 2) for axis in "xy"]:
            return True
    named = enumerate(zip(cells, plain), has_ids + 1)
    odd = next(((cell, column) for column, (cell, name) in named if cell and name[:1] not in ("x", "y")), None)
    found = f"{shorten(odd[0])!r} in column {odd[1]}" if odd else repr(shorten(", ".join(cells[:4])))
    raise ValueError(
        f"line {line} must be numbers or the header image_id (optional), x0, y0, x1, y1, …, but got {found}"
    )


def _is_number(cell: str) -> bool:
    try:
        return cell in EMPTY_CELLS or float(cell) is not None
    except ValueError:
        return False


def _cell(cell: str, line: int, column: int) -> float:
    cell = cell.strip()
    if cell.lower() in EMPTY_CELLS:
        return np.nan
    try:
        return float(cell)
    except ValueError:
        raise ValueError(f"line {line}, column {column + 1} must be a number, but got {shorten(cell)!r}") from None


def _read_json(text: str) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Faces in a list, or in a dict by image_id."""
    try:
        found = json.loads(text, parse_int=_parse_int, object_pairs_hook=_parse_object)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}, column {error.colno} must be JSON, but got: {error.msg}") from None
    except RecursionError:
        raise ValueError("the file must be a list of faces, but got lists in lists without end") from None
    if not isinstance(found, list | dict) or not found:
        raise ValueError(f"the file must be a list or dict of faces, but got {shorten(found)}")
    if len(found) > MAX_FACES:
        raise ValueError(TOO_MANY)
    values = list(map(_unwrapped, found.values() if isinstance(found, dict) else found))
    ids = tuple(found) if isinstance(found, dict) else _own_ids(values)
    faces = [_face(value, _place(index, ids)) for index, value in enumerate(values)]
    for index, face in enumerate(faces):
        if len(face) != len(faces[0]):
            first = f"{len(faces[0])} points as {_place(0, ids)}"
            raise ValueError(f"{_place(index, ids)} must have {first}, but got {len(face)}")
    return np.array(faces, dtype=np.float64), ids


def _parse_int(digits: str) -> int | float:
    return int(digits) if len(digits) < 19 else float(digits)


def _parse_object(pairs: list[tuple]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = _repeated(key for key, _ in pairs)
        raise ValueError(f"each name must occur once, but got {shorten(twice)!r} twice")
    return found


def _unwrapped(value):
    """A photo's only face out of its list, else `value`."""
    return value[0] if isinstance(value, list) and len(value) == 1 and _has_landmarks(value[0]) else value


def _has_landmarks(value) -> bool:
    return isinstance(value, dict) and "landmarks" in value


def _own_ids(faces: list) -> tuple[str, ...] | None:
    """The faces' own `image_id`, where they have one."""
    ids = [face.get("image_id") if isinstance(face, dict) else None for face in faces]
    if all(name is None for name in ids):
        return None
    without = next((index for index, name in enumerate(ids) if not isinstance(name, str | int)), None)
    if without is not None:
        raise ValueError(f"face {without} must have an image_id as others have, but got {shorten(ids[without])}")
    return tuple(map(str, ids))


def _face(value, place: str) -> list[tuple[float, float]]:
    """Points of a face, given as such, as a dict with `landmarks`."""
    if isinstance(value, list) and (not value or _has_landmarks(value[0])):
        raise ValueError(f"{place} must be one face, but got {len(value)} in its photo")
    if isinstance(value, dict):
        value = value.get("landmarks")
    if not isinstance(value, list) or not value:
        raise ValueError(f"{place} must be a list of points, but got {shorten(value)}")
    return [_point(point, place, number) for number, point in enumerate(value)]


def _point(value, place: str, number: int) -> tuple[float, float]:
    """A point given as [x, y], as {"x", "y"}, or as null where it is not annotated."""
    if value is None:
        return np.nan, np.nan
    pair = [value.get("x"), value.get("y")] if isinstance(value, dict) and {"x", "y"} <= set(value) else value
    if not isinstance(pair, list) or len(pair) != 2 or not all(map(is_number_or_none, pair)):
        raise ValueError(f"{place}, point {number} must be [x, y] or null, but got {shorten(value)}")
    return tuple(np.nan if coordinate is None else coordinate for coordinate in pair)


def is_number_or_none(value) -> bool:
    """Whether JSON's `value` is; true and false are no numbers."""
    return value is None or isinstance(value, int | float) and not isinstance(value, bool)
