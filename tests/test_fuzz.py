"""Random images, boxes and batches give landmarks or a ValueError, without a warning; and what a huge photo costs."""

import base64
import io
import json
import math
import struct
import subprocess
import sys
import warnings
from collections import deque
from pathlib import Path

import datasets
import numpy as np
import pandas
import pytest
import torch
import video
from PIL import Image, ImageCms

from dataset_scripts.face_files import check_photo
from modeling_mtld.configuration_mtld import MTLDConfig
from modeling_mtld.geometry_mtld import BOX_KEYS
from modeling_mtld.image_processing_mtld import MTLDImageProcessor
from modeling_mtld.modeling_mtld import MTLDForFacialLandmarkDetection
from modeling_mtld.photo_mtld import load_rgb
from modeling_mtld.pipeline_mtld import FacialLandmarkDetectionPipeline

CASES = 500
LANDMARKS = 3
LONGEST = 6000  # pixels
USUAL_AREA = 200_000  # pixels; larger photos would make the test slow, so that few are
MODES = "1 L LA La P PA RGB RGBA RGBa RGBX CMYK YCbCr LAB HSV I F I;16 I;16L I;16B I;16N".split()
FILE_MODES = {  # what each format can hold
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "GIF": ("L", "P", "RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB", "I;16", "I", "F"),
    "WEBP": ("RGB", "RGBA"),
    "PPM": ("1", "L", "RGB"),
    "ICO": ("RGBA",),
    "TGA": ("L", "RGB", "RGBA"),
}
TENSOR_TYPES = (torch.cfloat, torch.float8_e4m3fn)  # of which there are no pictures
LARGEST_OF_FORMAT = {"ICO": 256}


@pytest.fixture(scope="module")
def pipe():
    """Its weights are away from where they start, as after training, so that its answers depend on the crops."""
    torch.manual_seed(0)
    model = MTLDForFacialLandmarkDetection(
        MTLDConfig(
            backbone="test_resnet.r160_in1k",
            image_size=32,
            num_landmarks=LANDMARKS,
            flip_pairs=[[0, 1]],
            hidden_size=8,
            num_attention_heads=2,
            use_heatmap_loss=False,
        )
    ).eval()
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(0.05 * torch.randn_like(weights))
    return FacialLandmarkDetectionPipeline(model=model, image_processor=MTLDImageProcessor(size=32), device="cpu")


# ---- images: each maker returns an image, whether it must be read (None: either will do), and its upright size


def draw_size(random: np.random.Generator) -> tuple[int, int]:
    """Width and height, uniform in their logarithms, with as many photos of a few pixels as of thousands."""
    sides = np.exp(random.uniform(0, math.log(LONGEST), 2))
    if sides.prod() > USUAL_AREA and random.random() > 0.03:
        sides[random.integers(2)] *= USUAL_AREA / sides.prod()
    return tuple(int(side) for side in np.clip(sides, 1, LONGEST))


def draw_pixels(random: np.random.Generator, width: int, height: int, channels: int) -> np.ndarray:
    """(height, width, channels) uint8: a block of noise, repeated, enlarged or of one colour."""
    side = int(random.choice([1, 7, 50]))
    block = random.integers(0, 256, (min(side, height), min(side, width), channels), dtype=np.uint8)
    if random.random() < 0.5:
        rows, columns = (np.arange(length) * size // length for length, size in zip((height, width), block.shape))
        return block[rows][:, columns]
    return np.tile(block, (-(-height // block.shape[0]), -(-width // block.shape[1]), 1))[:height, :width]


def draw_pil(random: np.random.Generator, mode: str, width: int, height: int) -> Image.Image:
    pixels = draw_pixels(random, width, height, 4)
    if mode in ("RGBA", "RGB", "RGBX", "CMYK"):
        return Image.frombytes(mode, (width, height), pixels[..., : len(mode)].tobytes())
    if mode.startswith("I;16"):
        return Image.frombytes(mode, (width, height), pixels[..., :2].tobytes())
    if mode in ("RGBa", "La"):
        return Image.fromarray(pixels).convert({"La": "LA", "RGBa": "RGBA"}[mode]).convert(mode)
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        return ImageCms.profileToProfile(Image.fromarray(pixels[..., :3]), *profiles, outputMode="LAB")
    if mode == "PA":
        return Image.fromarray(pixels[..., 0]).convert("PA")
    if mode == "P" and random.random() < 0.5:
        image = Image.fromarray(pixels[..., 0]).convert("P")
        image.info["transparency"] = int(pixels[0, 0, 0]) if random.random() < 0.5 else bytes(range(256))
        return image
    return Image.fromarray(pixels[..., :3]).convert("L" if mode in ("I", "F", "LA") else "RGB").convert(mode)


def make_pil(random, folder):
    width, height = draw_size(random)
    image = draw_pil(random, str(random.choice(MODES)), width, height)
    if random.random() < 0.3:
        exif = Image.Exif()
        exif[0x0112] = int(random.choice([0, 1, 3, 6, 8, 9, 77]))
        image.info["exif"] = exif.tobytes() if random.random() < 0.7 else damaged_exif(random)
        return image, None, None
    return image, True, (width, height)


def damaged_exif(random: np.random.Generator) -> bytes:
    return b"Exif\x00\x00" + (b"II*\x00\x08\x00\x00\x00" if random.random() < 0.7 else b"") + random.bytes(30)


def encode(random: np.random.Generator) -> tuple[str, bytes, tuple[int, int]]:
    kind = str(random.choice(list(FILE_MODES)))
    width, height = (min(side, LARGEST_OF_FORMAT.get(kind, LONGEST)) for side in draw_size(random))
    image, stream, options = draw_pil(random, str(random.choice(FILE_MODES[kind])), width, height), io.BytesIO(), {}
    if kind in ("PNG", "JPEG", "WEBP") and random.random() < 0.2:
        options["exif"] = damaged_exif(random)
    if kind == "GIF":
        image.info.pop("transparency", None)
    if kind == "ICO":
        options["sizes"] = [(width, height)]
    if kind == "PNG":
        options["compress_level"] = 1
    if kind in ("GIF", "PNG", "TIFF", "WEBP") and random.random() < 0.1 and image.mode in ("RGB", "L"):
        options |= {"save_all": True, "append_images": [image.rotate(180)]}
    image.save(stream, kind, **options)
    return kind, stream.getvalue(), (width, height)


def make_file(random, folder, damaged=False):
    kind, content, size = encode(random)
    if damaged:
        content = damage(random, content)
    path = folder / f"{random.integers(10**9)} photo.{kind.lower()}"
    path.write_bytes(content)
    ways = [lambda: path, lambda: str(path), lambda: Image.open(path)]
    if len(content) < 300_000:
        ways.append(lambda: f"data:image/{kind.lower()};base64,{base64.b64encode(content).decode()}")
    way = ways[random.integers(len(ways))]
    try:
        return way(), None if damaged else True, None if damaged else size
    except Exception:  # PIL cannot open it
        return path, False, None


def damage(random: np.random.Generator, content: bytes) -> bytes:
    content = bytearray(content)
    for _ in range(random.integers(0, 8)):
        content[int(len(content) * random.random() ** 3)] = random.integers(256)
    if random.random() < 0.5:
        content = content[: int(len(content) * random.random())]
    return bytes(content)


def make_damaged_file(random, folder):
    return make_file(random, folder, damaged=True)


def make_array(random, folder):
    width, height = draw_size(random)
    channels = int(random.choice([1, 3, 4]))
    pixels = draw_pixels(random, width, height, channels)
    kind = str(random.choice("uint8 uint16 >u2 int16 int32 int64 uint64 float16 float32 float64 >f4 bool".split()))
    unit = kind.lstrip("<>").startswith("f") and random.random() < 0.5
    array = (pixels / 255 if unit else pixels > 100 if kind == "bool" else pixels).astype(kind)
    if channels == 1 and random.random() < 0.5:
        array = array[..., 0]
    elif random.random() < 0.5 and channels not in (width, height) and not {width, height} & {1, 3, 4}:
        array = array.transpose(2, 0, 1)
    ways = [lambda a: a, np.ascontiguousarray, np.asfortranarray, lambda a: a[::-1], frozen, np.ma.masked_array]
    array = ways[random.integers(len(ways))](array)
    if random.random() < 0.4 and kind in ("uint8", "int16", "int32", "int64", "float16", "float32", "float64", "bool"):
        array = torch.from_numpy(np.array(array))
        array = array.bfloat16() if unit and random.random() < 0.3 else array
    ambiguous = bool({width, height} & {1, 2, 3, 4})
    return array, True, None if ambiguous else (width, height)


def frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def make_bad(random, folder):
    """What is no picture."""
    pixels = draw_pixels(random, 30, 20, 3)
    closed = Image.fromarray(pixels)
    closed.close()
    (folder / "text.png").write_text("no picture")
    (folder / "empty.jpg").write_bytes(b"")
    images = Image.new("RGB", (0, 5)), Image.new("F", (3, 3), float("nan")), Image.new("I", (3, 3), -5), closed
    objects = None, 7, 2.5, b"bytes", {}, {"image": None}, {"pixels": pixels}, [], [pixels], object(), set()
    paths = "", "\0", "nowhere.png", "x" * 5000, "~", "\udcff.png", folder, folder / "text.png", folder / "empty.jpg"
    urls = "http://", "http://[", "ftp://host/photo.png", "data:", "data:image/png;base64,?"
    shapes = [np.zeros(shape) for shape in [(), (3,), (0, 5, 3), (5, 5, 2), (2, 2, 2, 2, 3)]]
    dtypes = [pixels.astype(kind) for kind in ("complex", "object", "str", "datetime64[s]", "m8[s]")]
    dtypes += [np.zeros((4, 4, 3), kind) for kind in ("i4,f8", "V3")]
    values = (
        np.full((4, 4), np.nan),
        np.full((4, 4), -np.inf),
        pixels * 1e300,
        pixels.astype(int) * 10**15,
        -1 - pixels.astype(int),
    )
    tensors = torch.zeros(3, 0, 5), torch.zeros(3, 4, 4).to_sparse(), torch.full((3, 4, 4), torch.nan)
    tensors += torch.empty(3, 4, 4, device="meta"), *(torch.zeros(3, 4, 4).to(kind) for kind in TENSOR_TYPES)
    groups = images, objects, paths, urls, shapes, dtypes, values, tensors
    choices = [choice for group in groups for choice in group]
    return choices[random.integers(len(choices))], False, None


# ---- boxes


def draw_box(random: np.random.Generator, width: int, height: int) -> list[float]:
    """A face in the photo or partly outside."""
    side = max(width, height) * 10 ** random.uniform(-1.5, 0.3)
    sides = side * np.array([1, random.uniform(0.5, 1)])
    corner = random.uniform(-0.49, [width - 0.51, height - 0.51]) - sides * random.uniform(0, 0.9, 2)
    return [*corner.tolist(), *(corner + sides).tolist()]


def draw_bad_box(random: np.random.Generator, width: int, height: int):
    x0, y0, x1, y1 = good = draw_box(random, width, height)
    empty = [x0, y0, x0, y1], [x1, y0, x0, y1], [x0, y0, x0 + 1e-9, y0 + 1e-9], [5e-324, 0, 1e-323, 1e-323]
    endless = [x0, float("nan"), x1, y1], [x0, y0, float("inf"), y1], torch.full((4,), torch.nan), [10**400, 0, 1, 1]
    far = [width, y0, width + 10, y1], [-1e9, -1e9, -1e8, -1e8], [-1e308, -1e308, 1e308, 1e308], [-1e6, -1e6, 1e6, 1e6]
    shapes = [x0, y0, x1], [*good, 0.9], [[good]], np.array([[good, good]]), [x0, y0, [x1], y1], [x0, y0, x1, None]
    objects = (
        ["a", "b", "c", "d"],
        "0,0,5,5",
        b"abcd",
        None,
        5,
        1j,
        {"xmin": x0},
        object(),
        torch.empty(4, device="meta"),
    )
    choices = [choice for group in (empty, endless, far, shapes, objects) for choice in group]
    return choices[random.integers(len(choices))]


def draw_boxes(random: np.random.Generator, size: tuple[int, int] | None):
    """Boxes of one photo, whether they must be taken, and the number of faces that come from them."""
    width, height = size or draw_size(random)
    kind = random.choice(["good", "whole", "detect", "bad box", "bad list"], p=[0.55, 0.15, 0.06, 0.16, 0.08])
    if kind == "detect":
        return (None, True, None) if width * height <= 4 * USUAL_AREA else ([], True, 0)  # it takes long
    if kind == "whole":
        return "whole", True, 1
    if kind == "bad list":
        choices = [5, "ab", "", {"a": 1}, np.array(3.0), [1, 2, 3, 4], np.zeros(4), object(), True, 1j, {1, 2}]
        return choices[random.integers(len(choices))], False, None
    boxes = [draw_box(random, width, height) for _ in range(random.integers(0, 4))]
    if kind == "bad box":
        boxes.insert(random.integers(0, len(boxes) + 1), draw_bad_box(random, width, height))
        return boxes, False if size else None, None
    ways = [list, tuple, lambda b: np.array(b).reshape(-1, 4), lambda b: [np.array(x) for x in b]]
    ways += [lambda b: torch.tensor(b, dtype=torch.float64).reshape(-1, 4), lambda b: [tuple(x) for x in b]]
    return ways[random.integers(len(ways))](boxes), True if size else None, len(boxes)


# ---- cases


def draw_case(random: np.random.Generator, folder: Path):
    """Photos with their boxes, whether they must give landmarks (None: may), and the faces of each (None: unknown)."""
    makers = [make_pil, make_file, make_array, make_damaged_file, make_bad]
    photos, boxes, musts, counts = [], [], [], []
    for _ in range(random.choice([1, 2, 4], p=[0.6, 0.25, 0.15])):
        image, readable, size = makers[random.choice(5, p=[0.32, 0.25, 0.28, 0.1, 0.05])](random, folder)
        own, fitting, count = draw_boxes(random, size)
        photos.append(image)
        boxes.append(own)
        musts += [readable, fitting]
        counts.append(count)
    must = False if False in musts else None if None in musts else True
    return photos, boxes, must, counts


def run_case(pipe, seed: int, folder: Path):
    """Raises AssertionError, or whatever goes wrong."""
    random = np.random.default_rng(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of making them
        photos, boxes, must, counts = draw_case(random, folder)
    options = {"flip": bool(random.random() < 0.3), "face_batch_size": int(random.choice([1, 3, 64]))}
    options["batch_size"] = int(random.choice([1, 2, 5]))
    alone = len(photos) == 1 and not isinstance(photos[0], list | dict) and random.random() < 0.5
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", message="a photo of .* is dark")  # of uint16 that hold 8 bits
            results = pipe(photos[0], boxes=boxes[0], **options) if alone else pipe(photos, boxes=boxes, **options)
    except ValueError as error:
        assert must is not True, f"refused: {error}"
        message = str(error)
        assert " must " in message and len(message) < 2000, message
        assert alone or message.startswith(("images[", "boxes[")), f"names no photo: {message}"
        return False
    assert must is not False, "taken"
    check_results([results] if alone else results, counts)
    return True


def check_results(results, counts):
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    assert len(results) == len(counts)
    for faces, count in zip(results, counts):
        assert count in (None, len(faces))
        for face in faces:
            assert face.keys() == {"score", "box", "landmarks"} and 0 <= face["score"] <= 1
            assert face["box"].keys() == {"xmin", "ymin", "xmax", "ymax"}
            assert [mark["label"] for mark in face["landmarks"]] == [str(index) for index in range(LANDMARKS)]


@pytest.mark.parametrize("seed", range(CASES))
def test_random_input_gives_landmarks_or_value_error(pipe, tmp_path, seed):
    run_case(pipe, seed, tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_most_random_input_is_what_it_is_meant_to_be(tmp_path):
    """Else the test above would prove little."""
    musts = [draw_case(np.random.default_rng(seed), tmp_path)[2] for seed in range(CASES)]
    assert musts.count(True) > 0.3 * CASES and musts.count(False) > 0.2 * CASES


# ---- the reading alone: each function draws one input, reads it, and raises AssertionError or whatever goes wrong


def read_photo_with_random_exif(pipe, random, folder):
    """Tags of any type, count and value, also beside the orientation, which alone counts."""
    orientation, tags = int(random.integers(0, 10)), []
    for _ in range(random.integers(0, 6)):
        tag, count = int(random.integers(0x113, 65536)), int(random.choice([0, 1, 2, 3, 5, 99, 2**31]))
        tags.append(struct.pack("<HHI", tag, int(random.integers(0, 16)), count) + random.bytes(4))
    tags = [struct.pack("<HHIHH", 0x112, 3, 1, orientation, 0), *tags]
    block = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(tags) + bytes(4)
    Image.new("RGB", (30, 20)).save(folder / "photo.jpg", exif=block)
    expected = (30, 20) if 5 <= orientation <= 8 else (20, 30)
    assert load_rgb(folder / "photo.jpg").shape[:2] == expected
    stored = check_photo(folder / "photo.jpg", upright=True)
    shown = datasets.Image().decode_example({"path": stored, "bytes": None} if isinstance(stored, str) else stored)
    assert shown.size[::-1] == expected


def read_random_display_matrix(pipe, random, folder):
    """Any nine numbers give an orientation; those near one of the eight, at any scale, give that one."""
    video._orientation(random.integers(-(2**31), 2**31, 9, dtype=np.int64).astype(np.int32))
    video._orientation((random.integers(-1, 2, 9) * (2**31 - 1)).astype(np.int32))
    is_mirrored, quarters = bool(random.integers(2)), int(random.integers(4))
    turn = np.linalg.matrix_power(np.array([[0, -1], [1, 0]]), quarters)  # (x, y) @ turn, counter-clockwise as seen
    matrix = np.zeros((3, 3))
    matrix[:2, :2] = np.diag([-1 if is_mirrored else 1, 1]) @ turn + random.uniform(-0.3, 0.3, (2, 2))
    scaled = (matrix * 10 ** random.uniform(1, 9)).astype(np.int32)
    assert video._orientation(scaled.ravel()) == (is_mirrored, quarters)


def read_array_of_random_values(pipe, random, folder):
    """Values of any range; those a little beyond [0, 1] or [0, 255] are clipped."""
    kind = str(random.choice("uint16 int16 int32 int64 uint32 float16 float32 float64".split()))
    low, high = np.sort(random.normal(0, 1, 2) * 10 ** random.uniform(-2, 5, 2))
    with np.errstate(all="ignore"):
        array = random.uniform(low, high, (9, 7, 3)).astype(kind)
    try:
        assert load_rgb(array).dtype == np.uint8
    except ValueError as error:
        assert "image must hold values in " in str(error)
    top = int(random.choice([1, 255]))
    share = random.uniform(-0.2, 1.2, (9, 7, 3))
    share.ravel()[:2] = 0, 1
    assert np.abs(load_rgb((share * top).astype(np.float32)) - np.clip(share, 0, 1) * 255).max() < 0.51


def read_nested_boxes(pipe, random, folder):
    """Boxes of one photo in lists of any kind; once more in a list of one is fine, more than that is not."""
    boxes = [draw_box(random, 30, 20) for _ in range(random.integers(0, 4))]
    forms = [tuple, np.array, torch.tensor, pandas.Series, list, lambda box: dict(zip(BOX_KEYS, box))]
    boxes = [forms[random.integers(len(forms))](box) for box in boxes]
    depth, nested = int(random.integers(0, 4)), boxes
    lists = [list, tuple, lambda inner: pandas.Series(list(inner), index=range(len(inner), 0, -1), dtype=object)]
    for inner in range(depth + 1):
        nested = lists[random.integers(3)](nested if inner == 0 else [nested])
    try:
        taken = pipe.image_processor(np.zeros((20, 30, 3), np.uint8), boxes=nested)["face_counts"]
    except ValueError as error:
        assert depth > 1 and str(error).startswith("boxes")
        return
    assert depth <= 1 and taken == [len(boxes)]


def read_container_of_photos(pipe, random, folder):
    """Photos that have an order come back in it; of others a ValueError tells."""
    streams = [io.BytesIO() for _ in range(random.integers(1, 4))]
    sizes = random.integers(5, 40, (len(streams), 2))
    for stream, (width, height) in zip(streams, sizes.tolist()):
        Image.new("RGB", (width, height)).save(stream, "PNG")
    kinds = [lambda s: s, io.BytesIO.getvalue, lambda s: bytearray(s.getvalue()), Image.open, load_rgb]
    photos = [kinds[random.integers(len(kinds))](stream) for stream in streams]
    index = random.permutation(100)[: len(photos)]
    ordered = [list, tuple, deque, iter, lambda p: (x for x in p), lambda p: map(load_rgb, p)]
    ordered += [
        lambda p: pandas.Series(p, index=index, dtype=object),
        lambda p: dict(enumerate(p)).values().__iter__(),
    ]
    others = [lambda p: set(map(id, p)), lambda p: dict(enumerate(p)), lambda p: dict(enumerate(p)).values()]
    others += [lambda p: pandas.DataFrame({"photo": pandas.Series(p, dtype=object)}), lambda p: zip(p), lambda p: [p]]
    others += [lambda p: KeyedByName(), lambda p: np.array(["a", "b"]), lambda p: range(3), lambda p: io.StringIO("a")]
    is_ordered = random.random() < 0.6
    ways = ordered if is_ordered else others
    container = ways[random.integers(len(ways))](photos)
    try:
        faces = list(pipe(container, boxes="whole"))
    except ValueError as error:
        assert not is_ordered and " must " in str(error)
        return
    assert is_ordered and [len(found) for found in faces] == [1] * len(photos)
    for (found,), (width, height) in zip(faces, sizes.tolist()):
        centre = [(found["box"][f"{axis}min"] + found["box"][f"{axis}max"]) / 2 for axis in "xy"]
        assert np.abs(np.subtract(centre, [width / 2, height / 2])).max() <= max(width, height)


class KeyedByName:
    """A data set that counts otherwise."""

    def __len__(self):
        return 2

    def __getitem__(self, name):
        return {"first": 1}[name]


READERS = (
    read_photo_with_random_exif,
    read_random_display_matrix,
    read_array_of_random_values,
    read_nested_boxes,
    read_container_of_photos,
)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(CASES // len(READERS)))
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_random_input_is_read_right(pipe, tmp_path, reader, seed):
    reader(pipe, np.random.default_rng(seed), tmp_path)


# ---- memory

MEMORY_SCRIPT = """
import sys
import numpy as np
import torch
from PIL import Image
from modeling_mtld.configuration_mtld import MTLDConfig
from modeling_mtld.image_processing_mtld import MTLDImageProcessor
from modeling_mtld.modeling_mtld import MTLDForFacialLandmarkDetection
from modeling_mtld.pipeline_mtld import FacialLandmarkDetectionPipeline

def megabytes(name):
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024

torch.set_num_threads(1)
model = MTLDForFacialLandmarkDetection(
    MTLDConfig(backbone="test_resnet.r160_in1k", hidden_size=8, num_attention_heads=2, use_heatmap_loss=False)
).eval()
pipe = FacialLandmarkDetectionPipeline(model=model, image_processor=MTLDImageProcessor(), device="cpu")
pipe(np.zeros((300, 300, 3), np.uint8), boxes=[[10, 10, 200, 200]])
before = megabytes("VmRSS")
for kind in sys.argv[2:]:
    photo = sys.argv[1] if kind == "file" else np.full((6000, 6000, 3), 0.5 if kind == "float32" else 3, kind)
    for boxes in ([[100, 100, 5000, 5000]], "whole", *([None] if kind == "file" else [])):  # None takes seconds
        assert len(pipe(photo, boxes=boxes)) == (boxes is not None)
    del photo
    print(kind, megabytes("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from Linux's /proc")
def test_a_photo_of_6000_pixels_takes_less_than_a_gigabyte(tmp_path):
    """The photo itself included. Not by `resource`: its peak is that of the process that started this one, too."""
    Image.new("RGB", (6000, 6000), (90, 120, 60)).save(tmp_path / "photo.png", compress_level=1)
    command = [sys.executable, "-c", MEMORY_SCRIPT, tmp_path / "photo.png", "file", "uint16", "float32"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).resolve().parents[1])
    assert done.returncode == 0, done.stderr
    peaks = {kind: float(peak) for kind, peak in map(str.split, done.stdout.splitlines())}
    assert peaks.keys() == {"file", "uint16", "float32"}
    assert 100 < peaks["file"] and max(peaks.values()) < 1024


def test_a_decompression_bomb_is_refused_without_a_warning(pipe, tmp_path, monkeypatch):
    Image.new("RGB", (300, 200)).save(tmp_path / "bomb.png")
    for limit in (50_000, 20_000):  # PIL warns of more pixels than its limit, and refuses more than twice as many
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(ValueError, match=r"images\[1\] .*bomb.png' must be .*Image size \(60000 pixels\)"):
                pipe([np.zeros((9, 9), np.uint8), tmp_path / "bomb.png"], boxes="whole")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert len(pipe(tmp_path / "bomb.png", boxes="whole")) == 1
