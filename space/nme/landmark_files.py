"""Reads landmarks of CSV and JSON files as arrays. Any other content is an error that names its place."""

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
MAX_COORDINATE = 1e9  # larger values would overflow in the scores
SEPARATORS_PER_POINT = 8  # at most; a landmark in a pipeline's JSON has one bracket and four commas
TOO_MANY_FACES = f"the file must hold at most {MAX_FACES:,} faces, but got more"
EMPTY_CELLS = {"", "nan", "na", "none", "null"}
MAX_SHOWN_CHARACTERS = 60  # of a file's content in a message


@dataclass(frozen=True)
class Faces:
    """The landmarks of N faces.

    Attributes:
        name: the visitor's name of the file.
        points: (N, K, 2) float64, x before y, in the units of the file; NaN where a point is not annotated.
        ids: N different strings that identify the faces, or None if the file has none.
    """

    name: str
    points: np.ndarray
    ids: tuple[str, ...] | None

    def face_name(self, index: int) -> str:
        """The name of a face in a message."""
        return _face_name(index, self.ids)


def read_faces(path: str | Path, name: str) -> Faces:
    """Reads a file of landmarks; README.md shows the formats.

    Args:
        path: the file.
        name: the visitor's name of it. Its suffix, .csv or .json, gives the format.

    Raises:
        ValueError: if it is not such a file, or does not hold faces of K points each. The message is one line with
            `name` and the place in the file.
    """
    name = shorten(name)
    parse = {".csv": _read_csv, ".json": _read_json}.get(Path(name).suffix.lower())
    try:
        if parse is None:
            raise ValueError("the file must be a .csv or a .json")
        points, ids = parse(_read_text(Path(path)))
        points[np.isnan(points).any(axis=2)] = np.nan  # a point without x or y is not annotated
        faces = Faces(name, points, ids)
        _check(faces)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    return faces


def shorten(text: object) -> str:
    """`text` in one line. A long one loses its middle; lone surrogates, which an answer cannot hold, are escaped."""
    line = " ".join(str(text).encode(errors="backslashreplace").decode().split())
    return line if len(line) <= MAX_SHOWN_CHARACTERS else f"{line[:40]}…{line[-19:]}"


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
        byte = f"byte 0x{content[error.start]:02x} at position {error.start}"
        raise ValueError(f"the file must be text in UTF-8, but got {byte}") from None
    if not text.strip():
        raise ValueError("the file must hold landmarks, but it is empty")
    # Before parsing, which takes a hundred times the memory.
    if sum(map(text.count, "[{,;\t")) > SEPARATORS_PER_POINT * MAX_POINTS:
        raise ValueError(f"the file must hold at most {MAX_POINTS:,} points, but got more")
    return text


def _check(faces: Faces):
    num_landmarks = faces.points.shape[1]
    if num_landmarks > MAX_LANDMARKS:
        raise ValueError(f"a face must have at most {MAX_LANDMARKS} points, but got {num_landmarks}")
    if faces.ids and (duplicate := _first_duplicate(faces.ids)) is not None:
        raise ValueError(f"each image_id must occur once, but got {shorten(duplicate)!r} twice")
    bad_id = next((name for name in faces.ids or () if not _is_utf8(name)), None)
    if bad_id is not None:
        raise ValueError(f"each image_id must be text in UTF-8, but got {shorten(repr(bad_id))}")
    bad_indices = np.argwhere(np.abs(faces.points) > MAX_COORDINATE)
    if len(bad_indices):
        face, point, axis = bad_indices[0]
        coordinate = faces.points[face, point, axis]
        place = f"{faces.face_name(face)}, point {point}"
        raise ValueError(f"{place} must be from {-MAX_COORDINATE:g} to {MAX_COORDINATE:g}, but got {coordinate:g}")


def _is_utf8(name: str) -> bool:
    try:
        return name.encode() is not None
    except UnicodeEncodeError:  # a lone surrogate, which JSON can hold
        return False


def _first_duplicate(names) -> str | None:
    """The first name that occurs more than once."""
    return next((name for name, count in Counter(names).items() if count > 1), None)


def _face_name(index: int, ids) -> str:
    return f"face {index}" if ids is None else f"face {shorten(ids[index])!r}"


def _read_csv(text: str) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Reads one face a row: x0, y0, x1, y1, … If the number of cells is odd, an image_id comes first."""
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=text.split("\n", 1)[0].count))
    ids, faces, width = [], [], None
    try:
        for row in rows:
            if row == [] or len(row) == 1 and not row[0].strip():
                continue
            if width is None:
                width, has_ids = len(row), len(row) % 2 == 1
                if width == 1:
                    problem = f"must be cells separated by comma, semicolon or tab, but got {shorten(row[0])!r}"
                    raise ValueError(f"line {rows.line_num} {problem}")
                if _is_header(row, has_ids, rows.line_num):
                    continue
            if len(faces) == MAX_FACES:
                raise ValueError(TOO_MANY_FACES)
            if len(row) != width:
                raise ValueError(f"line {rows.line_num} must have {width} cells as the first row, but got {len(row)}")
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
    """Whether the first row is a header. Raises ValueError if it is an unknown header and no face."""
    cells = [cell.strip().lower() for cell in row[has_ids:]]
    is_counter = cells == [str(column) for column in range(len(cells))]  # the header that pandas writes for an array
    if all(_is_number(cell) for cell in cells) and not is_counter:
        if has_ids and _is_number(row[0].strip().lower()):
            raise ValueError(
                f"line {line} must have an x and a y for each point (and an image_id only if it is no number or below "
                f"the header image_id, x0, y0, …), but got {len(row)} cells"
            )
        return False
    columns = ["".join(sign for sign in cell if sign not in "_-. []") for cell in cells]
    for start in (0, 1):
        if columns == [f"{axis}{point}" for point in range(start, start + len(cells) // 2) for axis in "xy"]:
            return True
    numbered = enumerate(zip(cells, columns), has_ids + 1)
    place = next(((cell, number) for number, (cell, name) in numbered if cell and name[:1] not in ("x", "y")), None)
    header = f"{shorten(place[0])!r} in column {place[1]}" if place else repr(shorten(", ".join(cells[:4])))
    raise ValueError(
        f"line {line} must be numbers or the header image_id (optional), x0, y0, x1, y1, …, but got {header}"
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
    """Reads a list of faces, or a dict of faces by image_id."""
    try:
        content = json.loads(text, parse_int=_parse_int, object_pairs_hook=_parse_object)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}, column {error.colno} must be JSON, but got: {error.msg}") from None
    except RecursionError:
        raise ValueError("the file must be a list of faces, but got lists nested too deeply") from None
    if not isinstance(content, list | dict) or not content:
        raise ValueError(f"the file must be a list or dict of faces, but got {shorten(content)}")
    if len(content) > MAX_FACES:
        raise ValueError(TOO_MANY_FACES)
    values = list(map(_unwrap, content.values() if isinstance(content, dict) else content))
    ids = tuple(content) if isinstance(content, dict) else _read_ids(values)
    faces = [_parse_face(value, _face_name(index, ids)) for index, value in enumerate(values)]
    for index, face in enumerate(faces):
        if len(face) != len(faces[0]):
            first = f"{len(faces[0])} points as {_face_name(0, ids)}"
            raise ValueError(f"{_face_name(index, ids)} must have {first}, but got {len(face)}")
    return np.array(faces, dtype=np.float64), ids


def _parse_int(digits: str) -> int | float:
    return int(digits) if len(digits) < 19 else float(digits)


def _parse_object(pairs: list[tuple]) -> dict:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        duplicate = _first_duplicate(key for key, _ in pairs)
        raise ValueError(f"each name must occur once, but got {shorten(duplicate)!r} twice")
    return entries


def _unwrap(value):
    """The face of a photo whose list has one face, else `value`."""
    return value[0] if isinstance(value, list) and len(value) == 1 and _has_landmarks(value[0]) else value


def _has_landmarks(value) -> bool:
    return isinstance(value, dict) and "landmarks" in value


def _read_ids(faces: list) -> tuple[str, ...] | None:
    """The `image_id` of each face, or None if no face has one."""
    ids = [face.get("image_id") if isinstance(face, dict) else None for face in faces]
    if all(name is None for name in ids):
        return None
    bad_face = next((index for index, name in enumerate(ids) if not isinstance(name, str | int)), None)
    if bad_face is not None:
        raise ValueError(f"face {bad_face} must have an image_id as others have, but got {shorten(ids[bad_face])}")
    return tuple(map(str, ids))


def _parse_face(value, place: str) -> list[tuple[float, float]]:
    """The points of a face, which is a list of points or a dict with `landmarks`."""
    if isinstance(value, list) and (not value or _has_landmarks(value[0])):
        raise ValueError(f"{place} must be one face, but got {len(value)} in its photo")
    if isinstance(value, dict):
        value = value.get("landmarks")
    if not isinstance(value, list) or not value:
        raise ValueError(f"{place} must be a list of points, but got {shorten(value)}")
    return [_parse_point(point, place, number) for number, point in enumerate(value)]


def _parse_point(value, place: str, number: int) -> tuple[float, float]:
    """A point written as [x, y], as {"x", "y"}, or as null if it is not annotated."""
    if value is None:
        return np.nan, np.nan
    pair = [value.get("x"), value.get("y")] if isinstance(value, dict) and {"x", "y"} <= set(value) else value
    if not isinstance(pair, list) or len(pair) != 2 or not all(map(is_number_or_none, pair)):
        raise ValueError(f"{place}, point {number} must be [x, y] or null, but got {shorten(value)}")
    return tuple(np.nan if coordinate is None else coordinate for coordinate in pair)


def is_number_or_none(value) -> bool:
    """Whether a value of JSON is a number or null; true and false are no numbers."""
    return value is None or isinstance(value, int | float) and not isinstance(value, bool)
