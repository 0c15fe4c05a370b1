"""Files of visitors: only those in Gradio's upload folder are read, and all are removed after a while."""

import base64
import binascii
import contextlib
import io
import secrets
import threading
import time
from pathlib import Path

import gradio as gr
import numpy as np
from gradio.blocks import Block
from gradio.utils import get_upload_folder
from gradio_client.utils import is_http_url_like
from PIL import Image
from pillow_heif import register_heif_opener

MAX_FILE_SIZE = "100mb"
MAX_MEGAPIXELS = 50  # of a photo: 150 MB as RGB, and a phone's largest
# PIL warns above this and refuses above its double; `load_rgb`, in a checkpoint's code, refuses where it warns.
Image.MAX_IMAGE_PIXELS = MAX_MEGAPIXELS * 1_000_000
register_heif_opener()  # photos of iPhones
DISCARD_AFTER = 3  # seconds, for files that cannot be read
SWEEP_EVERY, KEEP_FOR = 60, 900  # seconds, for all other files
EXAMPLES = Path(__file__).resolve().parent / "examples"


_take_file = Block.async_move_resource_to_block_cache


async def _take_no_address(block: Block, path: str | None) -> str | None:
    """Refuses addresses: Gradio would download what a request names, of any size and from any host."""
    if path is not None and is_http_url_like(str(path)):
        raise gr.Error("Send the file itself: this server fetches no addresses.", print_exception=False)
    return await _take_file(block, path)


Block.async_move_resource_to_block_cache = _take_no_address


def sweep(page: gr.Blocks, age: float = KEEP_FOR):
    """Removes the files of visitors that are older than `age` seconds, and the folders that they leave empty.

    Gradio's own `delete_cache` does not know all of them, and stops at the first that it cannot remove.
    """
    root, before = Path(get_upload_folder()), time.time() - age
    examples = {str(Path(file).resolve()) for block in page.blocks.values() for file in block.keep_in_cache}
    for path in sorted(root.rglob("*"), reverse=True):  # the contents of a folder before the folder
        with contextlib.suppress(OSError):  # gone already, or a folder that is not empty
            if path.lstat().st_ctime <= before and str(path.resolve()) not in examples:
                path.rmdir() if path.is_dir() else path.unlink()


def keep_sweeping(page: gr.Blocks):
    """Sweeps for as long as the server runs."""

    def run():
        while True:
            time.sleep(SWEEP_EVERY)
            sweep(page)

    threading.Thread(target=run, daemon=True).start()


def uploaded_file(payload: dict | None, what: str) -> Path:
    """The file of a component's or endpoint's raw value (`gr.FileData` as a dict).

    Args:
        payload: with the "path" of the file.
        what: the name of the input, for messages.

    Raises:
        ValueError: if there is none, or it is not an upload. No other file of the machine is read.
    """
    path = payload.get("path") if isinstance(payload, dict) else None
    if not path or not isinstance(path, str):
        raise ValueError(f"{what} must be an uploaded file, but got none")
    file = Path(path).resolve()
    folders = (Path(get_upload_folder()).resolve(), EXAMPLES)
    if not any(file.is_relative_to(folder) for folder in folders) or not file.is_file():
        raise ValueError(f"{what} must be an uploaded file, and still there. Please upload it again.")
    return file


def new_file(name: str) -> Path:
    """A path, in a new folder, for a file to be sent to a visitor. It is removed with the uploads."""
    folder = Path(get_upload_folder()) / secrets.token_hex(16)
    folder.mkdir(parents=True)
    return folder / name


def discard(file: Path):
    """Removes an upload that cannot be read, after DISCARD_AFTER seconds: the page may still request it to show it."""
    if file.is_relative_to(Path(get_upload_folder()).resolve()):
        timer = threading.Timer(DISCARD_AFTER, _remove, [file])
        timer.daemon = True
        timer.start()


def _remove(file: Path):
    file.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # another upload with the same content may be in it
        file.parent.rmdir()


def read_photo(payload: dict | None, find) -> tuple[np.ndarray, str]:
    """The photo in a component's or endpoint's raw value: (H, W, 3) uint8 RGB, upright, and notes on its conversion.

    A file that is no photo is removed within seconds by `discard`, the others later by `sweep`.

    Args:
        find: the pipeline, whose `read` turns pictures of any kind into RGB.

    Raises:
        ValueError: if it is no readable picture, or has more than `MAX_MEGAPIXELS`.
    """
    file = uploaded_file(payload, "photo")
    try:
        with Image.open(file) as picture:
            return _read_picture(picture, find)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        discard(file)
        raise ValueError(_explain(error, payload)) from error


def read_frame(payload: dict | None, find) -> np.ndarray | None:
    """A webcam's frame (H, W, 3) uint8 RGB from the raw value of a streaming image; None where there is none yet.

    Raises:
        ValueError: as `read_photo` does.
    """
    url = payload.get("url") if isinstance(payload, dict) else None
    if not isinstance(url, str) or not url.startswith("data:image/"):
        return None if payload is None else read_photo(payload, find)[0]
    try:
        with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2], validate=True))) as picture:
            return _read_picture(picture, find)[0]
    except (OSError, ValueError, SyntaxError, binascii.Error, Image.DecompressionBombError) as error:
        raise ValueError("The webcam's picture cannot be read.") from error


def _read_picture(picture: Image.Image, find) -> tuple[np.ndarray, str]:
    width, height = picture.size
    if width * height > MAX_MEGAPIXELS * 1_000_000:
        raise ValueError(f"it has {width * height / 1e6:.1f} megapixels; {MAX_MEGAPIXELS} are the limit here")
    notes = _notes(picture)  # before the pixels are read, which may change the mode
    return find.read(picture), notes


def _notes(picture: Image.Image) -> str:
    notes = []
    if getattr(picture, "is_animated", False):
        notes.append("Only the first frame of this animation was used.")
    if picture.mode.startswith("I") or picture.mode == "F":
        notes.append("This picture has more than 8 bits a channel; it is shown with 8.")
    if picture.mode == "CMYK":
        notes.append("This picture is in CMYK, for print; colours may look different in RGB.")
    return " ".join(notes)


def _explain(error: Exception, payload: dict) -> str:
    name = Path(str(payload.get("orig_name") or "The file")).name[:100]
    if isinstance(error, Image.UnidentifiedImageError):
        return f"{name} cannot be read as a photo."
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"{name} has too many pixels: {MAX_MEGAPIXELS} megapixels are the limit here."
    detail = str(error).removeprefix("photo must be a readable picture, but got ")
    return f"{name} cannot be read as a photo: {detail}"
