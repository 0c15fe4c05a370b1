"""The table of cost."""

import json

import numpy as np
import pytest
from PIL import Image

from modeling_mtld.configuration_mtld import MTLDConfig
from modeling_mtld.cost import main, table
from modeling_mtld.image_processing_mtld import MTLDImageProcessor
from modeling_mtld.modeling_mtld import MTLDForFacialLandmarkDetection


@pytest.fixture
def tiny(tmp_path):
    """The options for a small network and a small photo."""
    MTLDForFacialLandmarkDetection(MTLDConfig(backbone="test_resnet", image_size=64)).save_pretrained(
        tmp_path / "tiny"
    )
    MTLDImageProcessor(size=64).save_pretrained(tmp_path / "tiny")
    Image.fromarray(np.zeros((90, 90, 3), np.uint8)).save(tmp_path / "photo.png")
    return [str(tmp_path / "photo.png"), "--model", str(tmp_path / "tiny"), "--device", "cpu", "--runs", "2"]


def test_it_tells_each_step_with_its_memory(tiny, tmp_path, capsys):
    assert main([*tiny, "--batch_size", "1", "4", "--json", str(tmp_path / "cost.json")]) == 0
    rows = json.loads((tmp_path / "cost.json").read_text())
    assert [row["step"] for row in rows] == [
        *("import", "load", "first photo, detector included", "next photo, detector included"),
        *("a face with its box, 1 at a time", "a face with its box, 4 at a time"),
    ]
    assert all(row["ms"] > 0 for row in rows)
    peaks = [row["peak_mb"] for row in rows]
    assert peaks == sorted(peaks) and peaks[0] > 50
    assert capsys.readouterr().out == table(rows) + "\n"


def test_what_cannot_be_read_is_one_line(tiny, capsys):
    assert main(["nowhere.jpg", *tiny[1:]]) == 2
    assert capsys.readouterr().err.startswith("cost: ")
