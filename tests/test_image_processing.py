"""The image processor: every kind of image, boxes, the way back to the photo, saving and loading."""

import base64
import io
import os
import subprocess
import sys
import threading
import warnings
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas
import pillow_heif
import pytest
import torch
from hostile_files import sideways_exif
from PIL import Image

from modeling_mtld import photo_mtld
from modeling_mtld.auto_mtld import CODE_FILES
from modeling_mtld.detect import load_photo
from modeling_mtld.geometry_mtld import pixels_to_fractions, transform_points
from modeling_mtld.image_processing_mtld import MTLDImageProcessor
from modeling_mtld.photo_mtld import load_rgb

SOURCES = Path(__file__).resolve().parents[1] / "modeling_mtld"
BOX = [10.0, 12.0, 40.0, 44.0]


@pytest.fixture
def processor():
    return MTLDImageProcessor(size=64)


@pytest.fixture
def pixels():
    """A smooth picture (48, 64, 3) of many colours."""
    y, x = np.mgrid[0:48, 0:64]
    return np.stack([x * 4, y * 5, (x + y) * 2], axis=-1).astype(np.uint8)


def encode(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def outputs_of(landmarks, scores=None):
    return SimpleNamespace(landmarks=landmarks, scores=scores)


# ---- kinds of images


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "RGBa"])
def test_colour_modes_show_the_same_picture(pixels, mode):
    rgb = Image.fromarray(pixels)
    if mode == "LAB":
        from PIL import ImageCms

        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(rgb, *profiles, outputMode="LAB")
    else:
        image = rgb.convert("RGBA").convert("RGBa") if mode == "RGBa" else rgb.convert(mode)
    assert image.mode == mode
    result = load_rgb(image)
    assert result.shape == pixels.shape and result.dtype == np.uint8
    difference = np.abs(result.astype(int) - pixels)
    assert np.median(difference) <= 2 and np.percentile(difference, 95) <= 16  # HSV and LAB hold 8 bits a channel


@pytest.mark.parametrize("mode", ["L", "LA", "La", "I", "F", "I;16", "I;16L", "I;16B", "P", "PA"])
def test_grey_modes_show_the_same_picture(pixels, mode):
    grey = pixels[:, :, 0]
    image = Image.fromarray(grey)
    if mode.startswith("I;16"):
        image = Image.frombytes(
            mode, image.size, (grey * np.uint16(257)).astype(">u2" if "B" in mode else "<u2").tobytes()
        )
    elif mode in ("La", "PA"):
        image = image.convert("LA").convert(mode) if mode == "La" else image.convert("RGBA").convert("P").convert(mode)
    else:
        image = image.convert(mode)
    assert image.mode == mode
    result = load_rgb(image).astype(int)
    assert np.abs(result - grey[:, :, None]).max() <= (40 if mode == "PA" else 1)  # PA has a palette of 6 levels


def test_black_and_white_picture():
    image = Image.fromarray(np.array([[True, False]]))
    assert image.mode == "1"
    assert load_rgb(image).tolist() == [[[255] * 3, [0] * 3]]


def test_16_bit_is_scaled_not_clipped(tmp_path):
    """PIL's own `convert` turns all above 255 white."""
    values = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)
    expected = [0, 1, 128, 255]
    Image.fromarray(values).save(tmp_path / "deep.png")
    assert Image.open(tmp_path / "deep.png").mode.startswith("I;16")
    for image in (tmp_path / "deep.png", Image.open(tmp_path / "deep.png"), values, torch.from_numpy(values)):
        assert load_rgb(image)[0, :, 0].tolist() == expected


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_transparent_pixels_show_white(tmp_path, mode):
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    if mode == "P":
        image = image.quantize(4)
    image.save(tmp_path / "cut.png")
    assert Image.open(tmp_path / "cut.png").mode == mode
    assert load_rgb(tmp_path / "cut.png").tolist() == [[[255, 0, 0], [255, 255, 255]]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(pixels, orientation):
    method = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # what a camera does to the upright photo
    upright = Image.fromarray(pixels)
    stored = upright if orientation == 1 else upright.transpose(method[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO(encode(stored, "PNG", exif=exif))
    assert (load_rgb(Image.open(stream)) == pixels).all()


def test_damaged_exif_does_not_cost_the_photo(pixels):
    stream = io.BytesIO(encode(Image.fromarray(pixels), "JPEG", exif=b"Exif\x00\x00nonsense"))
    assert load_rgb(Image.open(stream)).shape == pixels.shape


def test_a_damaged_tag_does_not_cost_the_orientation(pixels):
    stored = Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_90)
    content = encode(stored, "JPEG", exif=sideways_exif(), quality=100)
    assert np.abs(load_rgb(content).astype(int) - pixels).max() < 20


def heic(pixels, **options) -> bytes:
    stream = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(pixels)).save(stream, quality=100, **options)
    return stream.getvalue()


@pytest.mark.parametrize("orientation", [None, 6])
def test_heic_is_read_upright(tmp_path, pixels, orientation):
    """`pillow_heif` writes the turn into the file, as phones do, and the EXIF orientation too."""
    exif = Image.Exif()
    exif[0x0112] = orientation or 1
    stored = pixels if orientation is None else np.rot90(pixels)
    (tmp_path / "IMG_1.HEIC").write_bytes(heic(stored, exif=exif.tobytes()))
    for source in (tmp_path / "IMG_1.HEIC", (tmp_path / "IMG_1.HEIC").read_bytes()):
        assert np.abs(load_rgb(source).astype(int) - pixels).mean() < 3
    assert load_photo(str(tmp_path / "IMG_1.HEIC"))[1].shape == pixels.shape


def test_heic_without_its_package(monkeypatch, tmp_path, pixels):
    (tmp_path / "photo.heic").write_bytes(heic(pixels))
    monkeypatch.setattr(Image, "ID", [kind for kind in Image.ID if kind != "HEIF"])
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ValueError, match=r"photo\.heic' must be .*: pip install pillow-heif"):
        load_rgb(tmp_path / "photo.heic")


class ReadOnce(io.BytesIO):
    """As the answer of a server."""

    def seekable(self):
        return False

    def seek(self, *_):
        raise io.UnsupportedOperation("seek")


def test_files_and_bytes(tmp_path, pixels):
    content = encode(Image.fromarray(pixels), "PNG")
    (tmp_path / "photo.png").write_bytes(content)
    with open(tmp_path / "photo.png", "rb") as file:
        for source in (file, file, io.BytesIO(content), content, bytearray(content)):
            assert (load_rgb(source) == pixels).all()
    assert (load_rgb(ReadOnce(content)) == pixels).all()
    with pytest.raises(ValueError, match="cannot identify image file"):
        load_rgb(ReadOnce(b"<html>no photo</html>"))
    with open(tmp_path / "photo.png", encoding="latin1") as text, pytest.raises(ValueError, match="image must be a"):
        load_rgb(text)


@pytest.mark.parametrize("top, dtype", [(1, "float32"), (1, "float16"), (255, "float32"), (255, "int16")])
def test_values_beyond_their_range_are_clipped(top, dtype):
    """Brightened by 2 % and resized with bicubic weights, say."""
    values = (np.array([[-0.06, 0, 0.5, 1, 1.02, 1.07]]) * top).astype(dtype)
    assert np.abs(load_rgb(values)[0, :, 0] - [0, 0, 127.5, 255, 255, 255]).max() <= 1


@pytest.mark.parametrize("mean, std", [((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), (0.5, 0.5), (0.5, 1)])
def test_normalised_photos_are_refused(pixels, mean, std):
    for photo in (pixels, pixels[:20, :20]):
        with pytest.raises(ValueError, match=r"image must .* from -.*: it looks normalised"):
            load_rgb(((photo / 255 - mean) / std).astype(np.float32))


@pytest.mark.parametrize("bits, kind", [(10, "uint16"), (12, "uint16"), (12, "int32"), (8, "float16")])
def test_values_that_fill_a_small_part_of_their_range_are_warned_of(pixels, bits, kind):
    dark = (pixels.astype(float) * (2**bits - 1) / 255).astype(kind) if bits > 8 else pixels.astype(kind) / 50
    with pytest.warns(UserWarning, match=f"a photo of {kind} is dark: it ends below 1/16 of 0..(65535; multiply|255)"):
        load_rgb(dark)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_rgb(dark * dark.dtype.type(2 ** (16 - bits) if bits > 8 else 50))
        load_rgb(np.zeros_like(dark))


@pytest.mark.parametrize("channels", [None, 1, 3, 4])
@pytest.mark.parametrize(
    "dtype", ["uint8", "uint16", "int32", "int64", "float16", "float32", "float64", "unit", "bool"]
)
@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_arrays_of_any_dtype_and_layout(pixels, channels, dtype, kind):
    image = np.concatenate([pixels, np.full((48, 64, 1), 255, np.uint8)], axis=-1)[:, :, : channels or 1]
    if dtype == "bool":
        image = np.where(image > 100, 255, 0).astype(np.uint8)
    expected = image[:, :, :3] if channels in (3, 4) else np.repeat(image[:, :, :1], 3, axis=-1)
    if channels is None:
        image = image[:, :, 0]
    changed = {
        "unit": lambda: image.astype(np.float32) / 255,
        "uint16": lambda: image * np.uint16(257),
        "bool": lambda: image > 0,
    }.get(dtype, lambda: image.astype(dtype))()
    layouts = [changed] if channels is None else [changed, np.ascontiguousarray(np.moveaxis(changed, -1, 0))]
    for layout in layouts:
        assert (load_rgb(kind(layout)) == expected).all()


def test_subclasses_of_arrays(pixels):
    assert (load_rgb(np.ma.masked_array(pixels / 255, mask=pixels > 9)) == pixels).all()
    assert load_rgb(pixels[:, :, 0].view(np.matrix)).shape == pixels.shape


def test_bfloat16_and_gradient_tensors(pixels):
    tensor = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    assert (load_rgb(tensor.requires_grad_()) == pixels).all()
    assert np.abs(load_rgb(tensor.bfloat16()).astype(int) - pixels).max() <= 1


def test_ambiguous_layout_follows_the_library_or_the_argument():
    array = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    assert (load_rgb(array) == array).all()
    assert (load_rgb(torch.from_numpy(array)) == array.transpose(1, 2, 0)).all()
    assert (load_rgb(array, input_data_format="channels_first") == array.transpose(1, 2, 0)).all()
    assert (load_rgb(torch.from_numpy(array), input_data_format="channels_last") == array).all()


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert load_rgb(tmp_path / "moving.gif")[0, 0].tolist() == [255, 0, 0]


def test_path_and_data_url(tmp_path, pixels):
    content = encode(Image.fromarray(pixels), "PNG")
    (tmp_path / "a face.png").write_bytes(content)
    data_url = "data:image/png;base64," + base64.b64encode(content).decode()
    for source in (tmp_path / "a face.png", str(tmp_path / "a face.png"), data_url):
        assert (load_rgb(source) == pixels).all()


def test_http_url(pixels, monkeypatch):
    content = encode(Image.fromarray(pixels), "PNG")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/face.png" else 404)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        assert (load_rgb(f"{url}/face.png") == pixels).all()
        with pytest.raises(ValueError, match="none.png.*404"):
            load_rgb(f"{url}/none.png")
        monkeypatch.setattr(photo_mtld, "MAX_DOWNLOAD", 100)
        with pytest.raises(ValueError, match="face.png.*more than 100 bytes"):
            load_rgb(f"{url}/face.png")
    finally:
        server.shutdown()
        server.server_close()


# ---- images that cannot be read


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF"])
def test_truncated_file_is_named(tmp_path, processor, kind):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    path = tmp_path / f"broken.{kind.lower()}"
    path.write_bytes(encode(noise, kind)[:1500])
    with pytest.raises(ValueError, match=f"images\\[1\\].*{path.name}"):
        processor([noise, path])


@pytest.mark.parametrize("make", ["directory", "missing", "text", "empty"])
def test_unreadable_paths_are_named(tmp_path, make):
    path = tmp_path / "culprit.png"
    if make == "directory":
        path.mkdir()
    elif make != "missing":
        path.write_text("not a picture" if make == "text" else "")
    with pytest.raises(ValueError, match="culprit.png"):
        load_rgb(path)


@pytest.mark.parametrize("image", ["", "\0", "data:image/png;base64,AAAA", "data:", "http://", "x" * 5000])
def test_strings_that_are_no_picture(image):
    with pytest.raises(ValueError, match="image '") as error:
        load_rgb(image)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((0, 5, 3), np.uint8),
        np.zeros((5, 0), np.uint8),
        torch.zeros(3, 0, 5),
        Image.new("RGB", (0, 5)),
        np.zeros((5, 5, 2), np.uint8),
        np.zeros((3,), np.uint8),
        np.zeros((2, 2, 2, 2, 3), np.uint8),
        np.full((5, 5), np.nan),
        np.array([[0.0, np.inf]]),
        np.full((5, 5, 3), -0.5),  # normalised beforehand
        np.full((5, 5, 3), 400.0),
        np.full((5, 5, 3), -1),
        np.full((5, 5, 3), 90000),
        np.zeros((5, 5, 3), complex),
        np.full((5, 5, 3), "a"),
        np.full((5, 5, 3), None),
        torch.zeros(3, 5, 5).to_sparse(),
        torch.zeros(3, 5, 5, device="meta"),
        None,
        7,
        b"abc",
        {"image": 1},
    ],
    ids=lambda image: f"{type(image).__name__}-{getattr(image, 'shape', getattr(image, 'size', image))}",
)
def test_images_of_a_wrong_kind(processor, image):
    with pytest.raises(ValueError, match=r"images\[0\] must"):
        processor([image])


def test_without_conversion_only_rgb_is_taken(pixels):
    processor = MTLDImageProcessor(size=64, do_convert_rgb=False)
    processor([Image.fromarray(pixels), pixels])
    for image in (Image.fromarray(pixels).convert("L"), pixels[:, :, 0]):
        with pytest.raises(ValueError, match="image must be RGB"):
            processor(image)


# ---- crops


def test_result_of_several_photos(processor, pixels):
    photos = [pixels, Image.fromarray(pixels[:30]), torch.from_numpy(pixels).permute(2, 0, 1)]
    inputs = processor(photos, boxes=[[BOX, BOX], [], [BOX]], return_tensors="pt")
    assert inputs["pixel_values"].shape == (3, 3, 64, 64) and inputs["pixel_values"].dtype == torch.float32
    assert inputs["matrices"].shape == (3, 2, 3) and inputs["matrices"].dtype == np.float64
    assert inputs["face_counts"] == [2, 0, 1]
    assert torch.equal(inputs["pixel_values"][0], inputs["pixel_values"][2])


def test_batch_array_is_a_list_of_photos(processor, pixels):
    one = processor(pixels, return_tensors="np")
    for batch in (np.stack([pixels] * 2), torch.from_numpy(np.stack([pixels] * 2)).permute(0, 3, 1, 2)):
        both = processor(batch, return_tensors="np")
        assert both["face_counts"] == [1, 1]
        assert (both["pixel_values"] == one["pixel_values"]).all()


@pytest.mark.parametrize(("return_tensors", "kind"), [("pt", torch.Tensor), ("np", np.ndarray), (None, np.ndarray)])
@pytest.mark.parametrize("boxes", [[], [[]], np.zeros((0, 4))])
def test_no_faces(processor, pixels, return_tensors, kind, boxes):
    inputs = processor([pixels] if len(boxes) else pixels, boxes=boxes, return_tensors=return_tensors)
    assert isinstance(inputs["pixel_values"], kind) and tuple(inputs["pixel_values"].shape) == (0, 3, 64, 64)
    assert inputs["matrices"].shape == (0, 2, 3) and inputs["face_counts"] == [0]
    assert processor.post_process_landmark_detection(outputs_of(torch.zeros(0, 5, 2)), inputs) == [[]]


def test_no_photos(processor):
    inputs = processor([], return_tensors="pt")
    assert inputs["pixel_values"].shape == (0, 3, 64, 64) and inputs["face_counts"] == []


def test_whole_photo_without_boxes_is_not_enlarged(processor, pixels):
    matrix = processor(pixels)["matrices"][0]
    corners = transform_points(matrix, [[-0.5, 0], [63.5, 0], [31.5, 23.5]])
    np.testing.assert_allclose(corners[:, 0], [-0.5, 63.5, 31.5], atol=1e-9)
    np.testing.assert_allclose(corners[2, 1], 31.5, atol=1e-9)


def test_box_is_enlarged_to_a_square(processor, pixels):
    matrix = processor(pixels, boxes=[BOX])["matrices"][0]
    np.testing.assert_allclose(transform_points(matrix, [25, 28]), [31.5, 31.5])  # its centre
    assert matrix[0, 0] == pytest.approx(64 / (32 * 1.25))


def test_boxes_of_one_image_may_be_in_a_list_of_their_own(processor, pixels):
    """As in the calls of other keypoint detectors' processors."""
    expected = processor(pixels, boxes=[BOX, BOX])["matrices"]
    named = dict(zip(("xmin", "ymin", "xmax", "ymax"), BOX))
    containers = [[BOX, BOX]], torch.tensor([[BOX, BOX]]), np.array([[BOX, BOX]]), [[named, BOX]], [named, named]
    for boxes in (*containers, pandas.Series([BOX, BOX], index=[5, 7]), pandas.DataFrame([BOX, BOX], index=[1, 0])):
        assert (processor(pixels, boxes=boxes)["matrices"] == expected).all()
    assert processor(pixels, boxes=[[]])["face_counts"] == [0]
    by_position = processor(pandas.Series([pixels, pixels[:40]], index=[1, 0]), boxes=[[BOX], []])
    assert by_position["face_counts"] == [1, 0]


def test_boxes_of_any_container(processor, pixels):
    expected = processor([pixels] * 2, boxes=[[BOX], [BOX]])["pixel_values"]
    tensor = torch.tensor([[BOX], [BOX]])
    containers = (tensor, tensor.bfloat16().float().requires_grad_(), tensor.numpy(), [tensor[0], np.array([BOX])])
    for boxes in (*containers, [[tensor[0, 0]], (tuple(BOX),)], [[list(tensor[0, 0])], [BOX]]):
        assert (processor([pixels] * 2, boxes=boxes)["pixel_values"] == expected).all()
    assert processor([pixels] * 2, boxes=[None, [BOX, BOX]])["face_counts"] == [1, 2]


def test_pixel_values_are_normalised(pixels):
    inputs = MTLDImageProcessor(size=64)(np.full((64, 64, 3), 255, np.uint8))
    expected = (1 - np.array([0.485, 0.456, 0.406])) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(inputs["pixel_values"][0, :, 30, 30], expected, rtol=1e-5)
    raw = MTLDImageProcessor(size=64, do_rescale=False, do_normalize=False)(np.full((64, 64, 3), 255, np.uint8))
    assert (raw["pixel_values"] == 255).all()


def test_normalize_crop_is_what_the_processor_does(processor, pixels):
    crop = np.ascontiguousarray(np.pad(pixels, [(8, 8), (0, 0), (0, 0)]))
    inputs = processor(crop)
    assert (inputs["pixel_values"][0] == processor.normalize_crop(crop)).all()


def test_settings_of_one_call(processor, pixels):
    changed = processor(pixels, boxes=[BOX], size=32, do_normalize=False, box_enlargement=1.0)
    same = MTLDImageProcessor(size=32, do_normalize=False, box_enlargement=1.0)(pixels, boxes=[BOX])
    assert (changed["pixel_values"] == same["pixel_values"]).all() and processor.size["height"] == 64


def test_face_enlarged_four_times_gives_the_same_crop():
    y, x = np.mgrid[0:120, 0:120]
    waves = [128 + 100 * np.sin(x / a) * np.cos(y / b) for a, b in [(5, 7), (9, 4), (6, 11)]]
    small = Image.fromarray(np.stack(waves, axis=-1).astype(np.uint8))
    large = small.resize((480, 480), Image.Resampling.BICUBIC)
    box = np.array([30.0, 30.0, 90.0, 84.0])
    processor = MTLDImageProcessor(size=128, do_normalize=False)
    values = [processor(small, boxes=[box])["pixel_values"], processor(large, boxes=[box * 4 + 1.5])["pixel_values"]]
    assert np.abs(values[0] - values[1]).max() < 0.05  # of 1
    assert np.abs(values[0] - values[1]).mean() < 0.01


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([10, 10, 10, 20], "no area"),
        ([20, 10, 10, 20], "no area"),
        ([10, 10, float("nan"), 20], "finite"),
        ([10, 10, float("inf"), 20], "finite"),
        ([64, 10, 90, 20], "overlap"),
        ([1000, 1000, 1100, 1100], "overlap"),
        ([-20, -20, -1, -1], "overlap"),
        ([-1000, -1000, 1000, 1000], "1280"),
        ([-1.7e308, -1.7e308, 1.7e308, 1.7e308], "1280"),
        ([10, 10, 10.001, 10.001], "0.01"),
        ([10, 10, 20], "four numbers"),
        ([10, 10, 20, 20, 0.9], "four numbers"),
        (["a", "b", "c", "d"], "four numbers"),
        ([10, 10, 10**400, 20], "four numbers"),
        ("10,10,20,20", "four numbers"),
        (None, "four numbers"),
        ({"xmin": 1}, "four numbers"),
        (12, "four numbers"),
    ],
)
def test_bad_boxes_are_named(processor, pixels, box, message):
    with pytest.raises(ValueError, match=rf"^boxes\[1\]\[0\] must.*{message}"):
        processor([pixels, pixels], boxes=[[BOX], [box]])
    with pytest.raises(ValueError, match=rf"^boxes\[1\] must.*{message}"):
        processor(pixels, boxes=[BOX, box])


@pytest.mark.parametrize("boxes", [[[BOX]], [[BOX]] * 3, [], 5, "ab", {0: [BOX]}, np.array(3.0), [[BOX], 5]])
def test_boxes_that_do_not_match_the_images(processor, pixels, boxes):
    with pytest.raises(ValueError, match="^boxes"):
        processor([pixels, pixels], boxes=boxes)


@pytest.mark.parametrize("boxes", [5, "ab", BOX, [[[BOX]]], {0: [BOX]}, np.array(3.0), np.array(BOX)])
def test_boxes_of_one_image_must_be_a_list_of_boxes(processor, pixels, boxes):
    with pytest.raises(ValueError, match="^boxes"):
        processor(pixels, boxes=boxes)


# ---- back to the photo


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keypoints_round_trip(dtype):
    """Matrices are float64 and stay so, whatever the pixels are cast to."""
    random = np.random.default_rng(0)
    processor = MTLDImageProcessor()
    photo = np.zeros((3000, 4000, 3), np.uint8)
    boxes = [[3000.25, 2000.5, 3600.75, 2700.125], [10, 20, 70, 75]]
    inputs = processor(photo, boxes=boxes, return_tensors="pt")
    matrices = inputs["matrices"].copy()
    inputs = inputs.to(dtype).to("cpu")
    assert inputs["pixel_values"].dtype == dtype
    assert inputs["matrices"].dtype == np.float64 and (inputs["matrices"] == matrices).all()
    points = [random.uniform(box[:2], box[2:], (68, 2)) for box in boxes]
    crops = [transform_points(matrix, face) for matrix, face in zip(matrices, points)]
    landmarks = torch.from_numpy(pixels_to_fractions(np.stack(crops), 256)).float()
    (faces,) = processor.post_process_landmark_detection(outputs_of(landmarks), inputs)
    for face, expected in zip(faces, points):
        np.testing.assert_allclose(face["keypoints"], expected, atol=1e-3)
        assert face["keypoints"].dtype == torch.float32
        np.testing.assert_allclose(face["bbox"], [*expected.min(axis=0), *expected.max(axis=0)], atol=1e-3)


def test_faces_are_given_to_their_photos(processor, pixels):
    inputs = processor([pixels] * 3, boxes=[[BOX], [], [BOX, [0, 0, 20, 20]]], return_tensors="pt")
    landmarks = torch.full((3, 5, 2), 0.5).requires_grad_()
    photos = processor.post_process_landmark_detection(outputs_of(landmarks), inputs)
    assert [len(faces) for faces in photos] == [1, 0, 2]
    np.testing.assert_allclose(photos[2][1]["keypoints"], [[10, 10]] * 5, atol=1e-5)
    face = photos[0][0]
    assert set(face) == {"keypoints", "scores", "labels", "bbox"}
    assert face["labels"].dtype == torch.int64 and face["labels"].tolist() == [0, 1, 2, 3, 4]
    assert face["scores"].tolist() == [1.0] * 5


def test_scores_are_the_models_or_1(processor, pixels):
    inputs = processor(pixels, boxes=[BOX, BOX], return_tensors="pt")
    scores = torch.tensor([[0.25, 1.0], [0.5, 0.0]])
    for dtype in (torch.float32, torch.bfloat16):
        outputs = outputs_of(torch.zeros(2, 2, 2), scores.to(dtype).requires_grad_())
        (faces,) = processor.post_process_landmark_detection(outputs, inputs)
        assert [face["scores"].tolist() for face in faces] == scores.tolist()
        assert faces[0]["scores"].dtype == torch.float32
    for outputs in (outputs_of(torch.zeros(2, 2, 2)), SimpleNamespace(landmarks=torch.zeros(2, 2, 2))):
        (faces,) = processor.post_process_landmark_detection(outputs, inputs)
        assert [face["scores"].tolist() for face in faces] == [[1, 1], [1, 1]]


def test_outputs_of_wrong_shape(processor, pixels):
    inputs = processor(pixels, boxes=[BOX, BOX], return_tensors="pt")
    post_process = processor.post_process_landmark_detection
    with pytest.raises(ValueError, match="2 faces.*got 3"):
        post_process(outputs_of(torch.zeros(3, 5, 2)), inputs)
    with pytest.raises(ValueError, match="landmarks must be"):
        post_process(outputs_of(torch.zeros(2, 10)), inputs)
    with pytest.raises(ValueError, match="scores must be .*, but got"):
        post_process(outputs_of(torch.zeros(2, 5, 2), torch.zeros(2, 4)), inputs)
    with pytest.raises(ValueError, match="scores must be .*, but got"):
        post_process(outputs_of(torch.zeros(2, 5, 2), torch.zeros(2)), inputs)
    with pytest.raises(ValueError, match="no matrices, face_counts"):
        post_process(outputs_of(torch.zeros(2, 5, 2)), {"pixel_values": inputs["pixel_values"]})


# ---- anything else


def random_image(random: np.random.Generator):
    width, height = (int(side) for side in np.exp(random.uniform(0, np.log(1500), 2)))
    pixels = random.integers(0, 256, (height, width, 4), dtype=np.uint8)
    kind = random.choice(["pil", "numpy", "torch", "broken"], p=[0.4, 0.25, 0.25, 0.1])
    if kind == "pil":
        mode = str(random.choice(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F", "I;16"]))
        return Image.fromarray(pixels).convert("RGB" if mode in ("HSV", "P", "YCbCr") else "L").convert(mode)
    if kind == "broken":
        return [None, "nowhere.png", pixels[:0], pixels.astype(float) * -3, pixels[:, :, :2]][random.integers(5)]
    pixels = pixels[:, :, : random.choice([1, 3, 4])]
    pixels = pixels.astype(str(random.choice(["uint8", "int64", "float32"])))
    return pixels if kind == "numpy" else torch.from_numpy(pixels).permute(2, 0, 1)


def random_box(random: np.random.Generator):
    start, side = random.normal(0, 10 ** random.uniform(0, 3), 2), 10 ** random.uniform(-1, 4, 2)
    box = np.concatenate([start, start + side])
    if random.random() < 0.1:
        box[random.integers(4)] = random.choice([np.nan, np.inf, 0])
    return box.tolist()


@pytest.mark.filterwarnings("ignore:a photo of")
@pytest.mark.parametrize("seed", range(60))
def test_random_input_gives_landmarks_or_value_error(processor, seed):
    random = np.random.default_rng(seed)
    images = [random_image(random) for _ in range(random.integers(1, 4))]
    boxes = [[random_box(random) for _ in range(random.integers(0, 3))] for _ in images]
    if random.random() < 0.3:
        boxes = None
    try:
        inputs = processor(images, boxes=boxes, return_tensors="pt")
    except ValueError as error:
        assert str(error).startswith(("image", "boxes")) and " must " in str(error)
        return
    assert len(inputs["face_counts"]) == len(images) and inputs["pixel_values"].isfinite().all()
    landmarks = torch.rand(sum(inputs["face_counts"]), 5, 2)
    photos = processor.post_process_landmark_detection(outputs_of(landmarks), inputs)
    assert all(face["keypoints"].isfinite().all() for faces in photos for face in faces)


# ---- settings, saving, loading


@pytest.mark.parametrize(
    "settings",
    [
        {"size": {"height": 64, "width": 32}},
        {"size": {"shortest_edge": 64}},
        {"size": 0},
        {"size": 100_000},
        {"size": "big"},
        {"size": None},
        {"image_std": [0.0, 1.0, 1.0]},
        {"image_mean": [0.5]},
        {"image_mean": 0.5},
        {"image_mean": [0.5, 0.5, float("nan")]},
        {"image_std": ["a", "b", "c"]},
        {"rescale_factor": float("nan")},
        {"rescale_factor": "x"},
        {"box_enlargement": 0},
        {"box_enlargement": -1.0},
        {"box_enlargment": 1.5},
    ],
    ids=str,
)
def test_bad_settings_are_named(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        MTLDImageProcessor(**settings)


def test_bad_arguments_of_a_call(processor, pixels):
    for settings in ({"return_tensors": "tf"}, {"input_data_format": "upside_down"}, {"box_enlargment": 2.0}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            processor(pixels, **settings)


def test_instances_share_no_settings():
    first, second = MTLDImageProcessor(), MTLDImageProcessor()
    first.size["height"] = first.image_mean[0] = -1
    assert second.size == {"height": 256, "width": 256} and second.image_mean == [0.485, 0.456, 0.406]


def test_save_and_load(tmp_path):
    saved = MTLDImageProcessor(size=192, image_mean=(0.5, 0.5, 0.5), box_enlargement=1.5, do_rescale=None)
    saved.save_pretrained(tmp_path)
    loaded = MTLDImageProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == saved.to_dict()
    assert loaded.size == {"height": 192, "width": 192} and loaded.do_rescale is None
    assert MTLDImageProcessor.from_pretrained(tmp_path, size=128).size == {"height": 128, "width": 128}
    assert {path.name for path in tmp_path.iterdir()} == {"preprocessor_config.json", *CODE_FILES}
    assert len((tmp_path / "preprocessor_config.json").read_text()) < 800


def test_loads_as_remote_code_in_a_fresh_process(tmp_path, pixels):
    """From a directory alone, without this repository and without a network; then saved and loaded once more."""
    MTLDImageProcessor(size=64).save_pretrained(tmp_path / "checkpoint")
    Image.fromarray(pixels).save(tmp_path / "face.png")
    (tmp_path / "cwd").mkdir()
    script = """if True:
        import importlib.util, sys
        import numpy as np
        from transformers import AutoImageProcessor
        assert importlib.util.find_spec("modeling_mtld") is None
        directory, photo, again = sys.argv[1:]
        processor = AutoImageProcessor.from_pretrained(directory, trust_remote_code=True)
        processor.save_pretrained(again)
        processor = AutoImageProcessor.from_pretrained(again, trust_remote_code=True, box_enlargement=1.5)
        inputs = processor(photo, boxes=[[10, 12, 40, 44]], return_tensors="pt")
        np.save(again + "/values.npy", inputs["pixel_values"].numpy())
    """
    hidden = tmp_path / "hide"  # an editable install would make the repository's packages importable
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(
        "import sys\n"
        f"sys.path[:] = [path for path in sys.path if path != {str(SOURCES.parent)!r}]\n"
        "sys.meta_path[:] = [finder for finder in sys.meta_path if 'editable' not in repr(finder).lower()]\n"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(hidden)}
    arguments = [str(tmp_path / name) for name in ("checkpoint", "face.png", "again")]
    result = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=tmp_path / "cwd",
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    expected = MTLDImageProcessor(size=64, box_enlargement=1.5)(pixels, boxes=[[10, 12, 40, 44]])["pixel_values"]
    assert (np.load(tmp_path / "again" / "values.npy") == expected).all()


@pytest.mark.parametrize("margins", [[0, 0, 0], [0, 0, 0, float("nan")], [0, 0, 0, -0.5], 0.1, None, "0000x"])
def test_margins_of_boxes_are_four_shares(margins):
    with pytest.raises(ValueError, match="box_margins must be four numbers from -0.4 to 100.0, but got"):
        MTLDImageProcessor(box_margins=margins)


def test_margins_of_boxes_are_saved(tmp_path):
    MTLDImageProcessor(box_margins=[0.1, 0.2, 0.3, 0.4]).save_pretrained(tmp_path)
    processor = MTLDImageProcessor.from_pretrained(tmp_path)
    np.testing.assert_allclose(processor.box_around([10, 20, 50, 40]), [6, 12, 62, 56])
