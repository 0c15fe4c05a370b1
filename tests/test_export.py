"""Export: the same landmarks from other runtimes, at any batch, with all that a program needs in the file."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut

from modeling_mtld import export, onnx_landmarks
from modeling_mtld.configuration_mtld import MTLDConfig
from modeling_mtld.face_detection_mtld import detect_faces
from modeling_mtld.image_processing_mtld import MTLDImageProcessor
from modeling_mtld.modeling_mtld import MTLDForFacialLandmarkDetection
from modeling_mtld.photo_mtld import load_rgb
from modeling_mtld.pipeline_mtld import FacialLandmarkDetectionPipeline

pytest.importorskip("onnxscript", reason="needs pip install '.[export]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs pip install '.[export]'")
YUNET = Path(__file__).resolve().parents[2] / "shared" / "weights" / "face_detection_yunet_2023mar.onnx"
NAMES = ["right_eye", "left_eye", "nose_tip", "mouth_0", "mouth_1"]
PAIRS = [[0, 1], [3, 4]]
BOXES = [
    [179.0, 87.0, 272.0, 179.0],
    [20.5, 30.0, 480.0, 500.0],
    [-30.0, -40.0, 60.0, 70.0],
]  # enlarged, shrunk, beyond
MARGINS = (0.1, 0.2, 0.1, 0.0)


def new_config(**fields) -> MTLDConfig:
    facts = {"num_landmarks": 5, "landmark_names": NAMES, "flip_pairs": PAIRS}
    sizes = {"image_size": 64, "hidden_size": 16, "num_attention_heads": 2}
    return MTLDConfig(backbone="test_resnet", **facts, **sizes, **fields)


def pipeline_of(checkpoint) -> FacialLandmarkDetectionPipeline:
    model = MTLDForFacialLandmarkDetection.from_pretrained(checkpoint)
    processor = MTLDImageProcessor.from_pretrained(checkpoint)
    return FacialLandmarkDetectionPipeline(model=model, image_processor=processor, device="cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A network whose landmarks depend on the image."""
    folder = tmp_path_factory.mktemp("export") / "checkpoint"
    torch.manual_seed(0)
    model = MTLDForFacialLandmarkDetection(new_config())
    for weights in model.parameters():
        weights.data += 0.05 * torch.randn_like(weights)
    model.save_pretrained(folder)
    MTLDImageProcessor(size=64, box_margins=MARGINS, image_mean=[0.4, 0.5, 0.6]).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "onnx"
    assert export.main(["--model", str(checkpoint), str(out)]) == 0
    return out


def test_the_onnx_file_is_enough(exported):
    assert sorted(path.name for path in exported.iterdir()) == ["model.onnx", "onnx_landmarks.py"]
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    facts = json.loads(session.get_modelmeta().custom_metadata_map["mtld"])
    assert facts == {
        "image_size": 64,
        "box_enlargement": 1.25,
        "box_margins": list(MARGINS),
        "min_face_score": 0.5,
        "landmark_names": NAMES,
        "flip_pairs": PAIRS,
    }
    assert [one.name for one in session.get_outputs()] == ["landmarks", "scores", "scales"]


def test_the_detector_lies_beside_the_network(checkpoint, tmp_path, capsys, monkeypatch):
    """The file that is given, or the Hub's, for any size; without both, a line says how to add it."""

    def unreachable():
        raise OSError("no network")

    monkeypatch.setattr(export, "YuNet", lambda _: None)
    write_detector(tmp_path / "yunet.onnx", side=640)
    for name, words, download in [
        ("given", ["--detector", str(tmp_path / "yunet.onnx")], unreachable),
        ("fetched", [], lambda: str(tmp_path / "yunet.onnx")),
        ("without", [], unreachable),
    ]:
        monkeypatch.setattr(export, "download_yunet", download)
        assert export.main(["--model", str(checkpoint), *words, str(tmp_path / name)]) == 0
        assert (tmp_path / name / "detector.onnx").exists() == (name != "without")
        assert ("--detector FILE adds it" in capsys.readouterr().out) == (name == "without")
    session = onnxruntime.InferenceSession(tmp_path / "given" / "detector.onnx")
    (cells,) = session.run(None, {"input": np.zeros((1, 3, 64, 96), dtype=np.float32)})
    assert cells.shape == (1, 8 * 12, 1)


def write_detector(file, side: int):
    """A network whose shapes are those of one size, as in YuNet's file: means of cells of 8 x 8 pixels."""
    from onnx import TensorProto, checker, helper, numpy_helper, save

    nodes = [
        helper.make_node("AveragePool", ["input"], ["means"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("ReduceMean", ["means"], ["gray"], axes=[1]),
        helper.make_node("Reshape", ["gray", "shape"], ["cls_8"]),
    ]
    cells = side // 8
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, side, side])]
    outputs = [helper.make_tensor_value_info("cls_8", TensorProto.FLOAT, [1, cells**2, 1])]
    between = [helper.make_tensor_value_info("gray", TensorProto.FLOAT, [1, 1, cells, cells])]
    shape = numpy_helper.from_array(np.array([1, -1, 1]), "shape")
    graph = helper.make_graph(nodes, "yunet", inputs, outputs, [shape], value_info=between)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    checker.check_model(model)
    save(model, file)


@pytest.mark.skipif(not YUNET.is_file(), reason="needs face_detection_yunet_2023mar.onnx in ../shared/weights")
@pytest.mark.parametrize("zoom", [0.3, 1, 4])
def test_detection_gives_the_pipelines_boxes(tmp_path, zoom):
    """At sizes below the smallest copy, between the copies and above."""
    export.add_detector(tmp_path, YUNET)
    photo = Image.fromarray(astronaut()).resize([round(512 * zoom)] * 2)
    session = onnxruntime.InferenceSession(tmp_path / "detector.onnx")
    (box,) = onnx_landmarks.detect_faces(session, photo)
    (expected,) = detect_faces(np.asarray(photo), str(YUNET)).boxes
    assert np.abs(box - expected).max() < 0.02 * (expected[2] - expected[0])


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_onnx_gives_the_network_s_outputs_at_any_batch(checkpoint, exported, batch):
    model = MTLDForFacialLandmarkDetection.from_pretrained(checkpoint)
    processor = MTLDImageProcessor.from_pretrained(checkpoint)
    crops = np.random.default_rng(0).integers(0, 256, (batch, 64, 64, 3), dtype=np.uint8)
    pixel_values = torch.from_numpy(np.stack([processor.normalize_crop(crop) for crop in crops]))
    with torch.no_grad():
        outputs = model(pixel_values)
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    for name, found in zip(("landmarks", "scores", "scales"), session.run(None, {"crops": crops})):
        assert np.abs(found - outputs[name].numpy()).max() < 1e-5
    assert batch == 1 or outputs.landmarks.std(dim=0).max() > 1e-4  # the image matters


@pytest.mark.parametrize("form", ["torch", "openvino", "executorch"])
def test_other_formats_give_the_same_landmarks(checkpoint, tmp_path, form):
    if form != "torch":
        pytest.importorskip(form, reason=f"needs pip install '.[{export.EXTRAS.get(form, 'export')}]'")
    assert export.export(str(checkpoint), tmp_path / form, form) < export.TOLERANCES[form]


def test_half_weights_take_half_the_room(checkpoint, exported, tmp_path):
    assert export.export(str(checkpoint), tmp_path / "half", half=True) < export.HALF_TOLERANCE
    sizes = [(folder / "model.onnx").stat().st_size for folder in (tmp_path / "half", exported)]
    assert sizes[0] < 0.75 * sizes[1]


# The runtime without PyTorch


def runtime(folder):
    """Of the file that lies beside the network."""
    sys.path.insert(0, str(folder))
    from onnx_landmarks import Landmarks

    sys.path.remove(str(folder))
    return Landmarks(str(folder / "model.onnx"))


@pytest.fixture(scope="module")
def find(exported):
    return runtime(exported)


@pytest.mark.parametrize("zoom", [1, 3])
def test_given_boxes_give_what_the_pipeline_gives(checkpoint, find, zoom):
    photo = Image.fromarray(astronaut()).resize([512 * zoom] * 2)
    boxes = (np.array(BOXES) * zoom).tolist()
    expected, found = pipeline_of(checkpoint)(photo, boxes=boxes), find(photo, boxes)
    assert len(found) == 3
    for box, own, other in zip(boxes, expected, found):
        pixel = 1.25 * max(box[2] - box[0], box[3] - box[1]) / 64  # of the crop
        assert other["score"] == pytest.approx(own["score"], abs=1e-4)
        for mark, same in zip(own["landmarks"], other["landmarks"]):
            assert mark["label"] == same["label"]
            assert [same["x"], same["y"]] == pytest.approx([mark["x"], mark["y"]], abs=0.05 * pixel)


def test_a_network_with_other_heads_runs_too(tmp_path):
    photo = Image.fromarray(astronaut())
    torch.manual_seed(0)
    model = MTLDForFacialLandmarkDetection(new_config(use_scale_head=False, use_visibility_head=True))
    for weights in model.parameters():
        weights.data += 0.05 * torch.randn_like(weights)
    model.save_pretrained(tmp_path / "checkpoint")
    MTLDImageProcessor(size=64).save_pretrained(tmp_path / "checkpoint")
    export.export(str(tmp_path / "checkpoint"), tmp_path / "out")
    find = runtime(tmp_path / "out")
    (expected,) = pipeline_of(tmp_path / "checkpoint")(photo, boxes=BOXES[:1])
    (face,) = find(photo, [expected["box"]]) and find(photo, BOXES[:1])
    assert face["landmarks"][0].keys() == expected["landmarks"][0].keys()
    assert face["score"] == pytest.approx(expected["score"], abs=1e-4)
    assert list(face["box"].values()) == pytest.approx(list(expected["box"].values()), abs=0.1)


def test_odd_photos_are_read_as_by_the_pipeline(find, tmp_path):
    from onnx_landmarks import read_photo

    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 4), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels[..., :3]).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(pixels).save(tmp_path / "transparent.png")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    for name in ("turned.png", "transparent.png", "deep.png"):
        assert (np.asarray(read_photo(tmp_path / name)) == load_rgb(tmp_path / name)).all(), name


def test_the_runtime_needs_no_torch(exported, tmp_path):
    Image.fromarray(astronaut()).save(tmp_path / "photo.png")
    code = "import sys, onnx_landmarks as o; o.main(sys.argv[1:]); assert 'torch' not in sys.modules"
    words = [str(tmp_path / "photo.png"), "--box", *map(str, BOXES[0])]
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=exported, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [mark["label"] for mark in json.loads(done.stdout)[0]["landmarks"]] == NAMES


def test_wrong_input_of_the_runtime_is_named(find, exported, tmp_path):
    from onnx_landmarks import Landmarks

    (tmp_path / "text.onnx").write_text("no network")
    for wrong, message in [
        (lambda: find(astronaut()), "boxes must be given"),
        (lambda: find(astronaut(), [[5, 5, 5, 9]]), "x1 > x0"),
        (lambda: find(astronaut(), [[900, 900, 950, 950]]), "must overlap the photo"),
        (lambda: find(astronaut(), [1, 2, 3, 4, 5, 6, 7, 8]), "four numbers"),
        (lambda: find(astronaut()[..., 0], BOXES), "uint8"),
        (lambda: find(str(tmp_path / "nowhere.jpg"), BOXES), "photo must be a picture"),
        (lambda: Landmarks(str(tmp_path / "nowhere.onnx")), "there is no"),
        (lambda: Landmarks(str(tmp_path / "text.onnx")), "must be an ONNX file"),
    ]:
        with pytest.raises(ValueError, match=message):
            wrong()


# Bad input


def test_bad_input_is_one_line_and_leaves_nothing(checkpoint, tmp_path, capsys, monkeypatch):
    (tmp_path / "there").mkdir()
    for words, message in [
        (["--model", str(checkpoint), str(tmp_path / "there")], "OUT must not exist yet"),
        (["--model", str(tmp_path / "there"), str(tmp_path / "out")], "must be a checkpoint's directory"),
        (
            ["--model", str(checkpoint), "--format", "torch", "--half", str(tmp_path / "out")],
            "--half and --int8 must be of onnx",
        ),
        (["--model", str(checkpoint), "--topology", "x", str(tmp_path / "out")], "topology must be"),
        (["--model", str(checkpoint), "--detector", __file__, str(tmp_path / "out")], "must be a model of YuNet"),
    ]:
        assert export.main(words) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert message in line
    monkeypatch.setattr(export, "compare", lambda *_: 7.0)
    assert export.main(["--model", str(checkpoint), "--format", "torch", str(tmp_path / "out")]) == 2
    assert "must differ from PyTorch by at most" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
