"""Reading of WFLW's annotation lists."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from .benchmarks import BENCHMARKS
from .download import how_to_get
from .face_files import find_file
from .faces import Face

IMAGES = "WFLW_images"
_LISTS = "list_98pt_rect_attr_train_test"
_FLAGS = ("pose", "expression", "illumination", "makeup", "occlusion", "blur")
_COORDINATES = 2 * 98
_NUMBERS = _COORDINATES + 4 + len(_FLAGS)


def list_wflw(root: Path) -> dict[str, list[Path]]:
    """The list of each split below `root`, in the folder of the official download or beside it; empty without one.

    Raises:
        ValueError: if there is a list, but no folder of photos.
    """
    names = {split: f"{_LISTS}/list_98pt_rect_attr_{split}.txt" for split in ("train", "test")}
    found = {split: find_file(root, f"WFLW_annotations/{name}", name) for split, name in names.items()}
    lists = {split: [path] if path else [] for split, path in found.items()}
    if any(lists.values()) and not (root / IMAGES).is_dir():
        raise ValueError(
            f"data_dir must hold {IMAGES}/ with the photos, but {root} has WFLW's lists alone. "
            f"{how_to_get(BENCHMARKS['wflw'], root)}"
        )
    return lists


def read_wflw(path: str | Path, images: str | Path) -> Iterator[Face]:
    """The faces of `list_98pt_rect_attr_train.txt` or `list_98pt_rect_attr_test.txt`, read while they are used.

    A row holds 207 fields separated by white space: x and y of 98 points, the face's rectangle x0, y0, x1, y1, all
    0-based, six flags 0 or 1 and the photo's path below `images`, which need not exist. `image_id` is that path
    without its suffix.

    Raises:
        ValueError: naming the file, and the row where one is to blame, if a row is not of this form.
    """
    try:
        with Path(path).open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip(" \t\r\n\0\x1a\ufeff"):
                    yield _read_row(f"{path} row {number}", line, Path(images))
    except UnicodeDecodeError:
        raise ValueError(f"{path} must be a text file of landmarks, but is not text") from None


def _read_row(where: str, line: str, images: Path) -> Face:
    fields = line.split(maxsplit=_NUMBERS)  # the rest is the path, spaces included
    if len(fields) != _NUMBERS + 1:
        raise ValueError(f"{where}: a row must have {_NUMBERS + 1} fields, but got {len(fields)}")
    numbers = _read_numbers(where, fields[:_NUMBERS])
    flags = numbers[_COORDINATES + 4 :]
    if not np.isin(flags, (0, 1)).all():
        raise ValueError(f"{where}: the six flags must be 0 or 1, but got {' '.join(fields[_COORDINATES + 4 : -1])}")
    photo = PurePosixPath(fields[-1].strip().replace("\\", "/"))
    if photo.is_absolute() or ".." in photo.parts or not photo.name:
        raise ValueError(f"{where}: the photo must be a path below {IMAGES}, but got {photo}")
    return Face(
        image_id=str(photo.with_suffix("")),
        photo=images / photo,
        landmarks=numbers[:_COORDINATES].reshape(-1, 2),
        where=where,
        box=numbers[_COORDINATES : _COORDINATES + 4],
        columns=dict(zip(_FLAGS, (flags == 1).tolist())),
    )


def _read_numbers(where: str, words: list[str]) -> np.ndarray:
    try:
        numbers = np.array(words, dtype=np.float64)
        if np.isfinite(numbers).all():
            return numbers
    except ValueError:
        pass
    wrong = next((number, word) for number, word in enumerate(words, start=1) if not _is_finite(word))
    raise ValueError(f"{where}: field {wrong[0]} must be a finite number, but got {wrong[1]!r}")


def _is_finite(word: str) -> bool:
    try:
        return bool(np.isfinite(float(word)))
    except ValueError:
        return False
