import json
import re
import sys

import pytest
import torch
from PIL import Image
from skimage.data import astronaut

from modeling_mtld import turns
from modeling_mtld.benchmark import count_costs, main
from modeling_mtld.configuration_mtld import MTLDConfig
from modeling_mtld.export import export
from modeling_mtld.image_processing_mtld import MTLDImageProcessor
from modeling_mtld.modeling_mtld import MTLDForFacialLandmarkDetection
from modeling_mtld.photo_to_points import STAGES
from modeling_mtld.turns import cpu_flags, cpu_name, summary

SMALL = ["--image_size", "64", "--runs", "3", "--threads", "1"]


def test_prints_the_ratio_of_network_and_trunk(capsys):
    main(["--backbone", "test_resnet.r160_in1k", *SMALL])
    printed = capsys.readouterr()
    ratio = re.search(r"model over trunk: (\d+\.\d+)", printed.out)
    assert "test_resnet.r160_in1k on the CPU, 3 runs\n" in printed.err
    assert re.search(r"^test_resnet.r160_in1k on the CPU: \d+\.\d faces/s$", printed.err, flags=re.MULTILINE)
    assert float(ratio[1]) > 1


def test_writes_what_it_measured(tmp_path, capsys):
    main(["--backbone", "test_resnet", "test_efficientnet", *SMALL, "--json", str(tmp_path / "speed.json")])
    written = json.loads((tmp_path / "speed.json").read_text())
    assert list(written["networks"]) == ["test_resnet", "test_efficientnet"]
    assert written["threads"] == 1 and written["runs"] == 3 and written["cpu"]
    speed = written["networks"]["test_resnet"]["cpu"]
    assert speed["ratio"] == pytest.approx(speed["model_ms"] / speed["trunk_ms"])
    assert speed["images_per_second"] == pytest.approx(1000 / speed["model_ms"])
    assert f"{speed['ratio']:.3f}" in capsys.readouterr().out
    if not torch.cuda.is_available():
        assert written["gpu"] is None and written["networks"]["test_resnet"]["gpu"] is None


def test_costs_are_those_of_the_released_network():
    config = MTLDConfig(backbone="test_resnet", image_size=64)
    released = MTLDForFacialLandmarkDetection(config).num_parameters()
    assert released < MTLDForFacialLandmarkDetection(config, for_training=True).num_parameters()
    costs = count_costs(config)
    assert costs["parameters"] == released
    doubled = count_costs(MTLDConfig(backbone="test_resnet", image_size=128))
    assert doubled["parameters"] == released
    assert 1.5 < doubled["multiply_adds"] / costs["multiply_adds"] < 5  # the decoder's do not grow


def test_a_processor_that_does_not_tell_its_name_has_one_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(turns, "CPU_FACTS", tmp_path / "cpuinfo")
    assert cpu_name()
    (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name\t: Some CPU @ 2 GHz\n")
    assert cpu_name() == "Some CPU @ 2 GHz"


def test_flags_are_those_that_matter_for_speed(tmp_path, monkeypatch):
    monkeypatch.setattr(turns, "CPU_FACTS", tmp_path / "cpuinfo")
    assert cpu_flags() == []
    (tmp_path / "cpuinfo").write_text("flags\t\t: fpu avx2 avx512f avx512_bf16 avx512fancy\n")
    assert cpu_flags() == ["avx2", "avx512f", "avx512_bf16"]


def test_a_summary_has_medians_and_ratios_of_medians():
    trunk, model = summary({"trunk": [1.0, 2.0, 30.0], "model": [4.0, 4.0, 1.0]}, "trunk")
    assert trunk["ms"] == 2 and trunk["ratio"] == 1 and model["ms"] == 4 and model["ratio"] == 2
    assert trunk["low"] < 2 < trunk["high"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark") / "tiny"
    config = MTLDConfig(backbone="test_resnet", num_landmarks=5, image_size=64, min_face_score=0.0)
    MTLDForFacialLandmarkDetection(config).save_pretrained(folder)
    MTLDImageProcessor(size=64).save_pretrained(folder)
    return folder


QUICK = ["--runs", "2", "--threads", "1"]


def test_a_checkpoint_in_other_runtimes(checkpoint, tmp_path, capsys):
    pytest.importorskip("onnxscript", reason="needs pip install '.[export]'")
    export(str(checkpoint), tmp_path / "onnx")
    words = ["--model", str(checkpoint), "--exported", str(tmp_path / "onnx"), "--precision", "float32", "bfloat16"]
    assert main([*words, *QUICK, "--batch_size", "2", "--json", str(tmp_path / "speed.json")]) == 0
    written = json.loads((tmp_path / "speed.json").read_text())
    names = ["timm's trunk in PyTorch, float32", "network in PyTorch, float32", "network in PyTorch, bfloat16"]
    assert [row["name"] for row in written["rows"]] == [*names, "onnx in ONNX Runtime"]
    assert written["rows"][0]["ratio"] == 1 and written["rows"][1]["ratio"] > 1 and written["batch_size"] == 2
    assert f"| onnx in ONNX Runtime | {written['rows'][3]['ms']:.2f} |" in capsys.readouterr().out


def test_photos_take_the_pipeline_s_stages_and_peers(checkpoint, tmp_path):
    Image.fromarray(astronaut()).save(tmp_path / "a photo.png")
    (tmp_path / "peer.py").write_text("import sys\nfor line in sys.stdin:\n    print(len(line), flush=True)\n")
    words = ["--model", str(checkpoint), "--photos", str(tmp_path / "a photo.png"), "--detector", "haar", *QUICK]
    words += ["--peer", f"other={sys.executable} {tmp_path / 'peer.py'}"]
    assert main([*words, "--json", str(tmp_path / "speed.json")]) == 0
    rows = {row["name"]: row["ms"] for row in json.loads((tmp_path / "speed.json").read_text())["rows"]}
    assert list(rows) == [*STAGES, "pipeline", "other", "timm's trunk in PyTorch, float32"]
    assert rows["other"] < rows["pipeline"] and min(rows.values()) > 0


def test_what_cannot_be_timed_is_one_line(checkpoint, tmp_path, capsys):
    photo = ["--model", str(checkpoint), "--photos", str(tmp_path / "photo.png"), "--detector", "haar", *QUICK]
    Image.fromarray(astronaut()).save(tmp_path / "photo.png")
    for words, message in [
        (
            ["--model", str(checkpoint), "--exported", str(tmp_path)],
            "folders with a model.onnx or model.xml",
        ),
        (["--model", str(tmp_path), "--precision", "float32"], "must be a checkpoint's directory"),
        ([*photo, "--peer", "other=no-such-program"], "cannot be started"),
        ([*photo, "--peer", "other=true"], "'true' ended"),
    ]:
        assert main(words) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("benchmark: ") and message in line
