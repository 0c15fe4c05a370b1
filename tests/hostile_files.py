"""Files that a visitor could send to harm a server, or by mistake, and pictures of kinds that are seldom tried."""

import struct
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pillow_heif
from PIL import Image
from skimage.data import astronaut


def sideways_exif() -> bytes:
    """EXIF data of orientation 6 whose XResolution is a text, which PIL reads, but cannot write."""
    orientation = struct.pack("<HHIHH", 0x112, 3, 1, 6, 0)
    resolution = struct.pack("<HHI4s", 0x11A, 2, 3, b"72\0\0")
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + orientation + resolution + bytes(4)


@cache
def png_of_size(width: int, height: int) -> bytes:
    """A grey PNG of that many pixels, of which half a megabyte holds a hundred million: all rows are alike."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer, rows = zlib.compressobj(1), b"\0" + b"\x80" * width
    pixels = b"".join(packer.compress(rows) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def make_bad_photos(folder: Path) -> dict[Path, str]:
    """Files that are no photos for the demo, each with a part of the message that it must give."""
    photo = Image.fromarray(astronaut())
    photo.save(folder / "whole.jpg")
    contents = {
        "text.jpg": (b"This is text.", "text.jpg cannot be read as a photo"),
        "empty.png": (b"", "empty.png cannot be read as a photo"),
        "cut.jpg": ((folder / "whole.jpg").read_bytes()[:9000], "cut.jpg cannot be read as a photo"),
        "page.html": (b"<html><script>alert(1)</script></html>", "page.html cannot be read as a photo"),
        "drawing.svg": (
            b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
            "drawing",
        ),
        "<b>tag<b>.jpg": (b"text", "cannot be read as a photo"),
        "100mp.png": (png_of_size(10_000, 10_000), "100.0 megapixels"),
        "bomb.png": (png_of_size(30_000, 7_000), "too many pixels"),
        "endless.png": (b"\x89PNG\r\n\x1a\n" + b"\0" * 1000, "cannot be read as a photo"),
    }
    for name, (data, _) in contents.items():
        (folder / name).write_bytes(data)
    return {folder / name: message for name, (_, message) in contents.items()}


def make_odd_photos(folder: Path) -> dict[Path, str]:
    """The astronaut in forms that are seldom tried, each with a part of the note that it must give, "" if none."""
    photo = Image.fromarray(astronaut())
    mirrored = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    photo.save(folder / "animated.gif", save_all=True, append_images=[mirrored], duration=100)
    grey = np.asarray(photo.convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "16bit.png")
    photo.convert("CMYK").save(folder / "cmyk.jpg")
    photo.convert("P").save(folder / "palette.png")
    Image.fromarray(np.dstack([astronaut(), np.full_like(grey, 255)])).save(folder / "alpha.webp")
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by a quarter when shown
    photo.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.jpg", exif=turned)
    photo.transpose(Image.Transpose.ROTATE_90).save(folder / "damaged tag.jpg", exif=sideways_exif())
    pillow_heif.from_pillow(photo).save(folder / "phone.heic", quality=95)
    return {
        folder / "animated.gif": "first frame",
        folder / "16bit.png": "more than 8 bits",
        folder / "cmyk.jpg": "CMYK",
        folder / "palette.png": "",
        folder / "alpha.webp": "",
        folder / "turned.jpg": "",
        folder / "damaged tag.jpg": "",
        folder / "phone.heic": "",
    }
