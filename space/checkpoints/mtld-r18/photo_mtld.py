"""Photos of any kind as (H, W, 3) uint8 RGB, upright."""

import io
import os
import threading
import warnings
from contextlib import contextmanager
from urllib.request import Request, urlopen

import cv2
import numpy as np
import torch
from PIL import Image, ImageCms

from .auto_mtld import first_line

URL_TIMEOUT = 30  # seconds
MAX_DOWNLOAD = 200_000_000  # bytes of a photo at a URL
BLOCK_ROWS = 256  # arrays other than uint8 are converted by blocks, so that no float copy of a whole photo is made
OVERSHOOT = 0.25  # of the range: as far beyond it resampling takes values, which are clipped
DARK = 1 / 16  # of the range, which values of 12 bits do not reach in 16
EXIF_ORIENTATION = 0x0112
TURNS = {  # that make a picture upright, by its EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

_reading = threading.Lock()  # the filters of warnings are the whole process's


def load_rgb(
    image, name: str = "image", input_data_format=None, do_convert_rgb: bool = True, timeout: float = URL_TIMEOUT
) -> np.ndarray:
    """Any image as (H, W, 3) uint8 RGB, upright.

    - A path, an http(s) or data URL, an open binary file, the bytes of one, or a PIL image of any mode: its EXIF
      orientation is applied; of an animation the current frame is taken, which in a file is the first. HEIC, which
      phones write, needs the package pillow-heif.
    - A numpy array or torch tensor (H, W), (H, W, C) or (C, H, W) with C of 1, 3 or 4. Where both ends could be the
      channels, numpy's are last and torch's first, unless `input_data_format` says otherwise.

    uint16 (PIL's `I;16`) is scaled from 0..65535. Wider integers are taken as they are up to 255, else as 16-bit.
    Floats are in [0, 1], else in [0, 255]. What lies outside by a quarter of the range at most, as after resampling,
    is clipped. A warning tells where all values lie below 1/16 of the range, as those of 10 or 12 bits in 16 do, which
    must be multiplied by 64 or 16 before. Transparent pixels show white. A uint8 RGB array is returned without a copy.

    Args:
        image: what to read.
        name: what error messages call it.
        input_data_format: "channels_first" or "channels_last", for arrays and tensors.
        do_convert_rgb: False refuses an image that is not RGB already.
        timeout: seconds to wait for a URL.

    Raises:
        ValueError: naming the image or file, if it is missing, broken, empty, of another type or shape, holds NaN,
            values out of range, or, in a file, more pixels than `PIL.Image.MAX_IMAGE_PIXELS`.
    """
    if isinstance(image, str | os.PathLike):
        shown = f"{name} {_shorten(os.fspath(image))}"
        with _open_source(os.fspath(image), shown, timeout) as picture:
            return _pil_to_rgb(picture, shown, do_convert_rgb)
    if isinstance(image, bytes | bytearray) or is_file(image):
        with _open_picture(image if is_file(image) else io.BytesIO(image), name) as picture:
            return _pil_to_rgb(picture, name, do_convert_rgb)
    if isinstance(image, Image.Image):
        return _pil_to_rgb(image, name, do_convert_rgb)
    if isinstance(image, np.ndarray | torch.Tensor):
        return _array_to_rgb(image, name, input_data_format, do_convert_rgb)
    raise ValueError(f"{name} must be a path, URL, file, PIL image, array or tensor, but got {type(image).__name__}")


def is_file(value) -> bool:
    """Whether it is an open file, or what reads like one."""
    return callable(getattr(value, "read", None))


def open_image(file) -> Image.Image:
    """`PIL.Image.open` of a path or binary file, for HEIC too.

    Raises:
        ImportError: if it is HEIC and the package for that is missing.
        Exception: what PIL raises.
    """
    if is_file(file) and not (hasattr(file, "seekable") and file.seekable()):
        file = io.BytesIO(file.read())  # such as the answer of a server, which can be read once
    try:
        return Image.open(file)
    except Image.UnidentifiedImageError:
        if not _is_heic(file):
            raise
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise ImportError("HEIC photos need the package pillow-heif: pip install pillow-heif") from None
    register_heif_opener()
    return Image.open(file)


def _is_heic(file) -> bool:
    if not is_file(file):
        with open(file, "rb") as opened:
            return _is_heic(opened)
    file.seek(0)
    start = file.read(12)
    return start[4:8] == b"ftyp" and start[8:] in HEIC_BRANDS


def exif_orientation(image: Image.Image) -> int:
    """How a picture is stored, from 1, upright, to 8. 1 where its EXIF data do not tell or cannot be read."""
    try:
        orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # PIL raises nearly anything on damaged EXIF data, without which the picture is still fine
        return 1
    return int(orientation) if orientation in range(1, 9) else 1


def turn_upright(image: Image.Image) -> Image.Image:
    """The picture turned by its EXIF orientation. `PIL.ImageOps.exif_transpose` writes the other EXIF data anew, too,
    which fails where one of them is damaged."""
    orientation = exif_orientation(image)
    return image if orientation == 1 else image.transpose(TURNS[orientation])


def _shorten(source: str) -> str:
    return repr(source if len(source) <= 200 else f"{source[:80]}...")  # a data URL holds the whole picture


@contextmanager
def _pil_warnings():
    """PIL's warning of a huge picture is an error. Its others are of damaged metadata and tell nothing of pixels."""
    with _reading, warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
        warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
        yield


def _open_source(source: str, name: str, timeout: float) -> Image.Image:
    if isinstance(source, str) and source.lower().startswith(("http://", "https://", "data:")):
        return _open_picture(io.BytesIO(_download(source, name, timeout)), name)
    if not os.path.isfile(source):
        found = "a directory" if os.path.isdir(source) else "no such file"
        raise ValueError(f"{name} must be a readable picture, but got {found}")
    return _open_picture(source, name)


def _open_picture(file, name: str) -> Image.Image:
    try:
        with _pil_warnings():
            return open_image(file)
    except Exception as error:  # PIL's readers raise nearly anything
        raise ValueError(f"{name} must be a readable picture, but got {_describe(error)}") from error


def _download(url: str, name: str, timeout: float) -> bytes:
    try:
        request = Request(url, headers={"User-Agent": "mtld"})  # some hosts refuse urllib's own name
        with urlopen(request, timeout=timeout) as response:
            content = response.read(MAX_DOWNLOAD + 1)
    except Exception as error:  # urllib raises nearly anything on what is no URL, and on what does not answer
        raise ValueError(f"{name} must be a readable picture, but got {_describe(error)}") from error
    if len(content) > MAX_DOWNLOAD:
        raise ValueError(f"{name} must be a readable picture, but got more than {MAX_DOWNLOAD:,} bytes")
    return content


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


def _pil_to_rgb(image: Image.Image, name: str, do_convert_rgb: bool) -> np.ndarray:
    _check_not_empty(image.size, name)
    if not do_convert_rgb and image.mode != "RGB":
        raise ValueError(f"{name} must be RGB where do_convert_rgb is False, but got the mode {image.mode!r}")
    try:
        with _pil_warnings():
            image.load()
            image = turn_upright(image)
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):  # `convert` would clip these to 255
            image = np.asarray(image)
        else:
            return np.asarray(_convert_to_rgb(image))
    except Exception as error:  # truncated and damaged files surface here, as nearly any exception
        raise ValueError(f"{name} must be a readable picture, but got {_describe(error)}") from error
    return cv2.cvtColor(_to_uint8(image, name), cv2.COLOR_GRAY2RGB)


def _convert_to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("La", "RGBa"):  # premultiplied alpha converts to nothing but the plain kind
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    if image.mode == "LAB":  # PIL's `convert` does not know it
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        background = Image.new("RGB", image.size, "white")
        background.paste(image, mask=image.getchannel("A"))
        return background
    return image if image.mode == "RGB" else image.convert("RGB")


def _array_to_rgb(array, name: str, input_data_format, do_convert_rgb: bool) -> np.ndarray:
    channels_first = isinstance(array, torch.Tensor)
    array = tensor_to_array(array, name) if channels_first else np.asarray(array)  # a plain one of its subclasses
    if input_data_format is not None:
        if input_data_format not in ("channels_first", "channels_last"):  # ChannelDimension's members are strings too
            raise ValueError(
                f"input_data_format must be 'channels_first' or 'channels_last', but got {input_data_format!r}"
            )
        channels_first = input_data_format == "channels_first"
    array = _channels_last(array, name, channels_first, strict=input_data_format is not None)
    _check_not_empty(array.shape, name)
    channels = array.shape[2]
    if not do_convert_rgb and channels != 3:
        raise ValueError(f"{name} must be RGB where do_convert_rgb is False, but got {channels} channels")
    pixels = np.ascontiguousarray(_to_uint8(array, name))
    if channels == 1:
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
    return pixels if channels == 3 else np.asarray(_convert_to_rgb(Image.fromarray(pixels, "RGBA")))


def tensor_to_array(tensor: torch.Tensor, name: str) -> np.ndarray:
    """A tensor of any device and dtype, bfloat16 as float32. Raises ValueError naming it if it has no plain values."""
    try:
        tensor = tensor.detach().cpu()
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"{name} must be a plain tensor, but got {_describe(error)}") from error


def _channels_last(array: np.ndarray, name: str, channels_first: bool, strict: bool) -> np.ndarray:
    """(H, W) or (H, W, C) or (C, H, W) to (H, W, C); `channels_first` is a guess unless `strict`."""
    if array.ndim == 2:
        return array[:, :, None]
    if array.ndim == 3:
        for first in [channels_first] if strict else [channels_first, not channels_first]:
            if array.shape[0 if first else 2] in (1, 3, 4):
                return np.moveaxis(array, 0, -1) if first else array
    raise ValueError(f"{name} must be (H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 channels, but got {array.shape}")


def _check_not_empty(shape, name: str):
    if 0 in shape:
        raise ValueError(f"{name} must have at least one pixel, but got the size {tuple(shape)}")


def _to_uint8(array: np.ndarray, name: str) -> np.ndarray:
    """Values of any kind to 0..255, see `load_rgb`."""
    if array.dtype == np.uint8:
        return array
    scale = _scale_to_255(array, name)
    result = np.empty(array.shape, dtype=np.uint8)
    for start in range(0, len(array), BLOCK_ROWS):
        block = array[start : start + BLOCK_ROWS].astype(np.float32) * np.float32(scale)
        result[start : start + BLOCK_ROWS] = np.clip(np.rint(block), 0, 255)
    return result


def _scale_to_255(array: np.ndarray, name: str) -> float:
    kind = array.dtype.kind
    if kind == "b":
        return 255.0
    if kind not in "iuf":
        raise ValueError(f"{name} must hold numbers, but got the dtype {array.dtype}")
    low, high = float(array.min()), float(array.max())
    top = _top_of_range(array.dtype, high)
    # So worded that NaN fails. Below 0 resampling leads in proportion to the values, a subtracted mean further.
    if not (low >= -OVERSHOOT * max(1, high) and high <= (1 + OVERSHOOT) * top):
        ranges = "[0, 1] or [0, 255]" if kind == "f" else "0..255 or 0..65535"
        hint = ": it looks normalised, give its pixels as they were before" if low < 0 and kind == "f" else ""
        raise ValueError(f"{name} must hold values in {ranges}, but got {array.dtype} from {low} to {high}{hint}")
    if 0 < high < DARK * top:
        hint = "; multiply values of 12 bits by 16, of 10 bits by 64" if top == 65535 else ""
        warnings.warn(f"a photo of {array.dtype} is dark: it ends below 1/16 of 0..{top}{hint}", stacklevel=2)
    return 255 / top


def _top_of_range(dtype: np.dtype, high: float) -> int:
    if dtype.kind == "u" and dtype.itemsize == 2:
        return 65535
    first, second = (1, 255) if dtype.kind == "f" else (255, 65535)
    return first if high <= (1 + OVERSHOOT) * first else second
