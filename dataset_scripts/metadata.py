"""Reading of metadata.jsonl, the annotations beside the photos of a folder (Hugging Face's ImageFolder convention)."""

import difflib
import json
import math
import posixpath
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from modeling_mtld.geometry_mtld import landmark_box

from .benchmark_facts import HIDDEN_BY_HEAD, HIDDEN_BY_OTHERS, UNKNOWN, VISIBLE, Benchmark
from .face import Face
from .face_builder import FaceBuilder
from .face_files import PHOTO_SUFFIXES

METADATA = "metadata.jsonl"
GROUP = "group"  # key of a row, and column
_MAX_COORDINATE = float(np.finfo(np.float32).max)  # of the columns with coordinates
# Folder names of each split, as in `datasets`.
_FOLDERS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}


def list_metadata(root: Path) -> dict[str, list[Path]]:
    """The metadata.jsonl files of each split, in the folders of `_FOLDERS` directly below `root`, or else in `root`.

    Raises:
        ValueError: if there is none, or there are some in both places; the message names `root`.
    """
    folders = sorted(path for path in root.iterdir() if (path / METADATA).is_file())
    splits = {
        split: [folder / METADATA for folder in folders if folder.name.lower() in names]
        for split, names in _FOLDERS.items()
    }
    in_folders = [path for paths in splits.values() for path in paths]
    if bool(in_folders) == (root / METADATA).is_file():
        content = f"{METADATA} and {in_folders[0].relative_to(root)}" if in_folders else "none of these"
        raise ValueError(
            f"data_dir must hold either {METADATA} (split train) or folders train/, validation/ and test/ with one "
            f"each, but got {content} in {root}"
        )
    return splits if in_folders else {"train": [root / METADATA]}


def list_files(path: Path, root: Path) -> Iterator[Path]:
    """`path`, a metadata.jsonl, and the photos that it names.

    Raises:
        ValueError: if there is no row, or a row is malformed (landmarks are not checked) or has no photo; the message
            names the file and the row.
    """
    yield path
    is_empty = True
    for where, row in _rows(path):
        photo = _photo(row, where, path, root)
        if not photo.is_file():
            raise ValueError(f"{where}: file_name must be an image beside it, but there is no file {photo}")
        yield photo
        is_empty = False
    if is_empty:
        raise ValueError(f"{path} must hold a row for each face, but it is empty")


def read_metadata(path: str | Path, benchmark: Benchmark, root: str | Path | None = None) -> Iterator[Face]:
    """The faces of a metadata.jsonl, one a row, in pixels of the photo, 0-based. The photos are not opened.

    A row is a JSON object with these keys; others are ignored:
        file_name: the photo, below the folder of `path`.
        landmarks: K times [x, y] in the order of `benchmark.landmark_names`, null where unannotated, or a mapping of
            names to these.
        box: [x0, y0, x1, y1], if it is known.
        occluded: if `benchmark.occlusion`, K times true or false, or a mapping of names to these; landmarks that it
            lacks are not occluded.
        visibility: if the benchmark has this column, K times 0 (hidden by the head), 1 (visible), 2 (hidden by
            something else) or null (not known), or a mapping of names to these; landmarks that it lacks are visible.
        group: if the benchmark has this column, one of its subsets or null.

    Args:
        path: the file.
        benchmark: names of the landmarks, and what crops are made from.
        root: the folder that `Face.image_id` is relative to; by default that of `path`.

    Raises:
        ValueError: naming the file and the row.
    """
    path = Path(path)
    for where, row in _rows(path):
        photo = _photo(row, where, path, Path(root or path.parent))
        try:
            landmarks, box = _landmarks(row, benchmark), _box(row.get("box"))
            _check_crop(landmarks, box, benchmark)
            occluded = _occluded(row, benchmark) if benchmark.occlusion else None
            columns = {name: _COLUMNS[name](row, benchmark) for name in benchmark.columns}
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        name = photo.relative_to(root or path.parent)
        image_id = (name.with_suffix("") if name.suffix.lower() in PHOTO_SUFFIXES else name).as_posix()
        yield Face(image_id, photo, landmarks, where, box, occluded, columns)


def _rows(path: Path) -> Iterator[tuple[str, dict]]:
    """File and number, for messages, and content of each row that is not blank."""
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{path} row {number}"
            try:
                row = json.loads(line, object_pairs_hook=_without_duplicates)
            except (ValueError, RecursionError) as error:
                reason = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
                raise ValueError(f"{where} must be a JSON object on one line, but got: {reason}") from None
            if not isinstance(row, dict):
                raise ValueError(f"{where} must be a JSON object on one line, but got {reprlib.repr(row)}")
            yield where, row


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} twice")
    return values


def _photo(row: Mapping, where: str, path: Path, root: Path) -> Path:
    name = row.get("file_name")
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise ValueError(f"{where}: file_name must be the path of a photo, but got {name!r}")
    subpath = posixpath.normpath(name.replace("\\", "/"))
    if subpath.startswith(("/", "../")) or subpath in (".", "..") or "://" in name or re.match(r"[A-Za-z]:/", subpath):
        raise ValueError(f"{where}: file_name must be a path below the folder of {METADATA}, but got {name!r}")
    folder = subpath.split("/")[0] if path.parent == root and "/" in subpath else ""
    if any(folder.lower() in names for names in _FOLDERS.values()):
        raise ValueError(
            f"{where}: file_name must not be in {folder}/, which is a split and needs a {METADATA} of its own, "
            f"but got {name!r}"
        )
    return path.parent / subpath


def _landmarks(row: Mapping, benchmark: Benchmark) -> np.ndarray:
    names = benchmark.landmark_names
    points = _ordered_values(row.get("landmarks"), names, "landmarks", "[x, y] or null", missing=None)
    return np.array([_point(point, name) for point, name in zip(points, names, strict=True)], dtype=np.float64)


def _ordered_values(values: object, names: Sequence[str], key: str, what: str, missing: object) -> list:
    """One value for each of `names`, from a list in their order or a mapping; `missing` where the mapping has none."""
    if isinstance(values, list) and len(values) == len(names):
        return values
    if not isinstance(values, dict):
        description = f"a list of {len(values)}" if isinstance(values, list) else reprlib.repr(values)
        raise ValueError(
            f"{key} must be a list of {len(names)} times {what}, or a mapping of the landmarks' names to these, "
            f"but got {description}"
        )
    name = next((name for name in values if name not in names), None)
    if name is not None:
        raise ValueError(f"{key} must be named as in the YAML file, but got {name!r}{near(name, names)}")
    return [values.get(name, missing) for name in names]


def near(word: object, known: Sequence[str]) -> str:
    """The hint " (did you mean …?)" with the `known` words that resemble `word`, or "" if there are none."""
    matches = difflib.get_close_matches(str(word), known, n=3)
    return f" (did you mean {' or '.join(matches)}?)" if matches else ""


def _point(value: object, name: str) -> tuple[float, float]:
    if value is None:
        return math.nan, math.nan
    if not isinstance(value, list) or len(value) != 2 or not all(map(_is_number, value)):
        raise ValueError(f"landmark {name} must be [x, y] or null, but got {reprlib.repr(value)}")
    x, y = map(_number, value)
    if math.isinf(x) or math.isinf(y) or math.isnan(x) != math.isnan(y):
        raise ValueError(f"landmark {name} must be two finite numbers, or null, but got {value!r}")
    return x, y


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _number(value: float | None) -> float:
    if value is None:
        return math.nan
    return math.inf if abs(value) > _MAX_COORDINATE else float(value)


def _box(value: object) -> np.ndarray | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 4 or not all(map(_is_number, value)):
        raise ValueError(f"box must be [x0, y0, x1, y1], but got {reprlib.repr(value)}")
    box = np.array([_number(number) for number in value])
    return None if np.isnan(box).all() else box


def _check_crop(landmarks: np.ndarray, box: np.ndarray | None, benchmark: Benchmark) -> None:
    if benchmark.crop_box == "box" and box is not None:
        return
    tight_box = landmark_box(landmarks)
    if (tight_box[:2] == tight_box[2:]).any():
        raise ValueError(
            f"the annotated landmarks must span a box to crop the face by, but their box {tight_box.tolist()} has no "
            "area: give the row a `box` [x0, y0, x1, y1]"
            + ("" if benchmark.crop_box == "box" else " and write `crop: box` into the YAML file")
        )


def _occluded(row: Mapping, benchmark: Benchmark) -> np.ndarray:
    flags = _ordered_values(row.get("occluded"), benchmark.landmark_names, "occluded", "true or false", missing=False)
    errors = [flag for flag in flags if not isinstance(flag, int) or flag not in (0, 1)]
    if errors:
        raise ValueError(f"occluded must be true or false for each landmark, but got {reprlib.repr(errors[0])}")
    return np.array(flags, dtype=bool)


def _visibility(row: Mapping, benchmark: Benchmark) -> list[int]:
    names, codes = benchmark.landmark_names, (HIDDEN_BY_HEAD, VISIBLE, HIDDEN_BY_OTHERS)
    if row.get("visibility") is None:
        return [UNKNOWN] * len(names)
    values = _ordered_values(row["visibility"], names, "visibility", "0, 1, 2 or null", missing=VISIBLE)
    errors = [value for value in values if value is not None and (type(value) is not int or value not in codes)]
    if errors:
        raise ValueError(f"visibility must be 0, 1, 2 or null for each landmark, but got {reprlib.repr(errors[0])}")
    return [UNKNOWN if value is None else value for value in values]


def _group(row: Mapping, benchmark: Benchmark) -> str | None:
    group = row.get(GROUP)
    if group is not None and (not isinstance(group, str) or group not in benchmark.subsets):
        names = ", ".join(benchmark.subsets)
        raise ValueError(f"{GROUP} must be one of {names} or null, but got {reprlib.repr(group)}")
    return group


_COLUMNS = {"visibility": _visibility, GROUP: _group}


class FacesInFolder(FaceBuilder):
    """Your own landmarks on your own photos, in the layout of Hugging Face's ImageFolder.

    Each of the folders train/, validation/ (valid, val, dev) and test/ that holds a metadata.jsonl is a split. Without
    such folders, the metadata.jsonl of `data_dir` is the split train. `benchmark` describes the landmarks, see
    `own_data.read_benchmark`. `image_id` is the path of the photo without suffix. See `metadata.read_metadata` for the
    rows and `FaceBuilder` for columns and errors.
    """

    UPRIGHT = True  # as photos are displayed, and as `load_dataset("imagefolder")` reads them

    @classmethod
    def list_sources(cls, root):
        return list_metadata(root)

    @classmethod
    def list_files(cls, root, sources):
        return [file for paths in sources.values() for path in paths for file in list_files(path, root)]

    def read_faces(self, source):
        return read_metadata(source, self.benchmark, self.root)
