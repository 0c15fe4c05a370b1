"""Photos and annotations as files on the disk: pairing, checking, fingerprint of a listing."""

import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from modeling_mtld.photo_mtld import EXIF_ORIENTATION, exif_orientation, open_image, turn_upright

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".heic", ".heif")


@dataclass(frozen=True)
class FaceFile:
    """One annotated face: `image_id` is the photo's path below the root, with forward slashes and without suffix."""

    image_id: str
    photo: Path
    annotation: Path


def pair_annotations(root: Path, folder: Path, suffix: str) -> list[FaceFile]:
    """The faces in `folder` (not below it), sorted by name: each file ending in `suffix` with the photo of its name.

    Photos without an annotation are left out.

    Raises:
        ValueError: naming the annotation that has no photo, or more than one.
    """
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    photos: dict[str, list[Path]] = {}
    for path in files:
        if path.suffix.lower() in PHOTO_SUFFIXES:
            photos.setdefault(path.stem, []).append(path)
    faces = []
    for annotation in (path for path in files if path.suffix.lower() == suffix):
        candidates = photos.get(annotation.stem, [])
        if len(candidates) != 1:
            found = " and ".join(photo.name for photo in candidates) or "none"
            raise ValueError(f"{annotation} must have one photo of the same name beside it, but got {found}")
        image_id = annotation.relative_to(root).with_suffix("").as_posix()
        faces.append(FaceFile(image_id, candidates[0], annotation))
    return faces


def fingerprint(root: Path, files: Iterable[Path], *facts: object) -> str:
    """A digest of names, sizes and times of modification, which changes when a file is added, removed or written.

    `facts` go into it by their `repr`.
    """
    digest = hashlib.sha256(repr(facts).encode())
    for path in sorted(set(files)):
        status = path.stat()
        digest.update(f"{path.relative_to(root).as_posix()}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def list_photos(folder: Path) -> list[Path]:
    """The photos in `folder` and below it, sorted; hidden ones are left out."""
    return sorted(
        path for path in folder.rglob("*") if path.suffix.lower() in PHOTO_SUFFIXES and not path.name.startswith(".")
    )


def find_file(root: Path, *names: str) -> Path | None:
    """The first of `names`, paths below `root`, that is a file."""
    return next((root / name for name in names if (root / name).is_file()), None)


def check_photo(photo: Path | np.ndarray, upright: bool = False) -> str | dict:
    """Decodes the whole photo and returns the value for a column `datasets.Image`: the path, as a rule.

    `datasets.Image` turns a photo by its EXIF orientation. Without `upright`, landmarks refer to the pixels as stored,
    and a photo that has an orientation is returned as PNG bytes without it. Pixels, (H, W, 3) or (H, W) uint8, are
    returned as PNG bytes too, and so is what `datasets.Image` cannot read: HEIC, and photos with damaged EXIF data.

    Raises:
        ValueError: naming the file, if it is missing, cannot be decoded to the end or has more than 8 bits a channel
            (which `datasets.Image` would turn black and white).
    """
    if isinstance(photo, np.ndarray):
        return _as_png(Image.fromarray(photo).convert("RGB"))
    with _open_whole(photo) as image:
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"{photo} must have 8 bits a channel, but got more than 8 bits, mode {image.mode}")
        if (upright or exif_orientation(image) == 1) and _is_read_by_datasets(image):
            return str(photo)
        return _as_png((turn_upright(image) if upright else image).convert("RGB"))


def _open_whole(photo: Path) -> Image.Image:
    try:
        image = open_image(photo)
        image.load()
    except FileNotFoundError:
        raise ValueError(f"{photo} must be an image, but there is no such file") from None
    except Exception as error:  # PIL's readers raise nearly anything on damaged files
        raise ValueError(f"{photo} must be an image that can be read whole, but got: {error}") from error
    return image


def _is_read_by_datasets(image: Image.Image) -> bool:
    """Whether `datasets.Image` opens the format, and turns the picture, for which it writes its EXIF data anew."""
    try:
        if EXIF_ORIENTATION in image.getexif():
            image.getexif().tobytes()
    except Exception:  # PIL raises nearly anything on damaged EXIF data
        return False
    return image.format != "HEIF"


def _as_png(image: Image.Image) -> dict:
    stored = io.BytesIO()
    Image.fromarray(np.asarray(image)).save(stored, "PNG")  # the pixels alone, without the orientation
    return {"bytes": stored.getvalue(), "path": None}


def resolve_folder(path: str | Path, name: str = "data_dir") -> Path:
    """The absolute path of an existing folder that is not empty.

    Raises:
        ValueError: naming the argument and the folder.
    """
    folder = Path(path).expanduser().resolve()
    if not folder.is_dir():
        raise ValueError(f"{name} must be an existing folder, but got {folder}")
    if not any(folder.iterdir()):
        raise ValueError(f"{name} must hold a data set, but {folder} is empty")
    return folder
