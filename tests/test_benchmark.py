import json
import re

import pytest
import torch

from modeling_mtld import benchmark
from modeling_mtld.benchmark import count_costs, cpu_name, main
from modeling_mtld.configuration_mtld import MTLDConfig
from modeling_mtld.modeling_mtld import MTLDForFacialLandmarkDetection

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
    monkeypatch.setattr(benchmark, "CPU_FACTS", tmp_path / "cpuinfo")
    assert cpu_name()
    (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name\t: Some CPU @ 2 GHz\n")
    assert cpu_name() == "Some CPU @ 2 GHz"
