"""Export in 8-bit integers: the trunk alone, calibrated on faces, with its error printed."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut, coffee
from test_export import MARGINS, new_config, pipeline_of

from modeling_mtld import export, int8
from modeling_mtld.geometry_mtld import crop_matrix
from modeling_mtld.image_processing_mtld import MTLDImageProcessor
from modeling_mtld.modeling_mtld import MTLDForFacialLandmarkDetection

onnxruntime = pytest.importorskip("onnxruntime", reason="needs pip install '.[export]'")
BOX = [179.0, 87.0, 272.0, 179.0]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A network whose landmarks depend on the image a little, so that the rounding to 8 bits stays small."""
    folder = tmp_path_factory.mktemp("int8") / "checkpoint"
    torch.manual_seed(0)
    model = MTLDForFacialLandmarkDetection(new_config())
    for weights in model.parameters():
        weights.data += 0.01 * torch.randn_like(weights)
    model.save_pretrained(folder)
    MTLDImageProcessor(size=64, box_margins=MARGINS).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number, photo in enumerate((astronaut(), astronaut()[:, ::-1], coffee())):
        Image.fromarray(photo).save(folder / f"{number}.png")
    return folder


@pytest.fixture(autouse=True, scope="module")
def two_faces_will_do():
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(int8, "MIN_FACES", 2)
        yield


def run(checkpoint, out, *options) -> int:
    return export.main(["--model", str(checkpoint), str(out), *map(str, options)])


@pytest.fixture(scope="module")
def exported(checkpoint, photos, tmp_path_factory):
    """The folder of the export, and what the command printed."""
    folder = tmp_path_factory.mktemp("exported")
    train = folder / "data" / "train"
    train.mkdir(parents=True)
    Image.fromarray(astronaut()).save(train / "a.png")
    points = [[200, 100], [250, 100], [225, 130], [210, 160], [240, 160]]
    (train / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "landmarks": points}) + "\n")
    names = "landmarks: [a, b, c, d, e]\nflip_pairs: []\nnormalizer: box\n"
    (folder / "data" / "landmarks.yaml").write_text(names)
    data = [folder / "data" / "landmarks.yaml", folder / "data", "train"]
    with contextlib.redirect_stdout(io.StringIO()) as output:
        assert run(checkpoint, folder / "out", "--int8", photos, "--score", *data) == 0
    return folder / "out", output.getvalue()


def test_the_trunk_is_quantised_and_the_rest_is_not(exported):
    import onnx

    model = onnx.load(exported[0] / "model.onnx")
    assert json.loads(model.metadata_props[0].value)["image_size"] == 64
    producers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        inputs = {producers[name].op_type for name in node.input if name in producers}
        if node.op_type == "Conv":
            assert inputs == {"DequantizeLinear"}
    kinds = {
        "Conv" if len(one.dims) == 4 else "other": one.data_type
        for one in model.graph.initializer
        if len(one.dims) > 1
    }
    assert kinds == {"Conv": onnx.TensorProto.INT8, "other": onnx.TensorProto.FLOAT}


def test_landmarks_are_near_those_of_the_network(checkpoint, exported):
    pipe = pipeline_of(checkpoint)
    crop = int8.crop_around(pipe, astronaut(), BOX)
    session = onnxruntime.InferenceSession(exported[0] / "model.onnx")
    landmarks = session.run(["landmarks"], {"crops": np.stack([crop] * 3)})[0]
    face = pipe(astronaut(), boxes=[pipe.box_around(BOX)])[0]
    points = np.array([[mark["x"], mark["y"]] for mark in face["landmarks"]])
    matrix = crop_matrix(pipe.box_around(BOX), 64, pipe.image_processor.box_enlargement)
    assert landmarks.shape[0] == 3
    assert np.abs((points @ matrix[:, :2].T + matrix[:, 2] + 0.5) / 64 - landmarks[0]).mean() < export.INT8_TOLERANCE


def test_nme_before_and_after(exported):
    before, after = (float(line.split()[2][:-1]) for line in exported[1].splitlines() if "NME" in line)
    assert before == pytest.approx(after, abs=1) and before > 0
    assert "a mean distance of" in exported[1]


def test_what_cannot_be_is_one_line(checkpoint, photos, tmp_path, capsys):
    (tmp_path / "coffee").mkdir()
    Image.fromarray(coffee()).save(tmp_path / "coffee" / "a.png")
    for folder in (tmp_path / "none", tmp_path / "coffee"):
        assert run(checkpoint, tmp_path / "out", "--int8", folder) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and f"{folder} has" in error and "at least 2 faces" in error
        assert not (tmp_path / "out").exists()
    assert run(checkpoint, tmp_path / "out", "--int8", photos, "--format", "torch") == 2
