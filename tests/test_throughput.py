import json
import re
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from dataset_scripts import BENCHMARKS, throughput
from dataset_scripts.augmentation import Augmentation, FaceCrops
from modeling_mtld.image_processing_mtld import MTLDImageProcessor

STATUS = Path("/proc/self/status")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A 300W of three faces of noise."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rng = np.random.default_rng(0)
    folder = tmp_path / "300w" / "afw"
    folder.mkdir(parents=True)
    for index in range(3):
        Image.fromarray(rng.integers(0, 256, (90, 80, 3), dtype=np.uint8)).save(folder / f"{index}_1.jpg")
        rows = "\n".join(f"{x:.2f} {y:.2f}" for x, y in rng.uniform([5, 5], [70, 80], (68, 2)))
        (folder / f"{index}_1.pts").write_text(rows)
    return tmp_path / "300w"


def test_both_pipelines_are_measured_in_one_run(root, tmp_path, capsys):
    words = ["--data_dir", str(root), "--image_size", "64", "--repeats", "1", "--workers", "0", "1"]
    assert throughput.main([*words, "--json", str(tmp_path / "speed.json")]) == 0
    written = json.loads((tmp_path / "speed.json").read_text())
    assert written["faces"] == 3 and written["image_size"] == 64 and list(written["workers"]) == ["0", "1"]
    for workers, line in enumerate(capsys.readouterr().out.splitlines()):
        assert re.fullmatch(rf"{workers} workers: ours \d+, PIL \+ torchvision \d+ images/s, ratio \d+\.\d\d", line)
        speeds = written["workers"][str(workers)]
        assert f"ours {speeds['ours']:.0f}, PIL + torchvision {speeds['plain']:.0f} " in line


def test_bad_input_is_one_line(tmp_path, capsys):
    assert throughput.main(["--data_dir", str(tmp_path / "nowhere")]) == 2
    assert "data_dir must be an existing folder" in capsys.readouterr().err


def memory() -> int:
    """Bytes of this process that no file backs."""
    return 1024 * int(re.search(r"RssAnon:\s+(\d+)", STATUS.read_text())[1])


@pytest.mark.skipif(not STATUS.exists(), reason="memory is read from /proc")
def test_memory_stays_flat_over_many_faces():
    rng = np.random.default_rng(0)
    face = {
        "image": Image.fromarray(rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)),
        "landmarks": rng.uniform(10, 80, (68, 2)).tolist(),
        "landmark_box": [10.0, 10, 80, 80],
        "box": [np.nan] * 4,
        "image_id": "a",
    }
    faces = datasets.Dataset.from_list([face] * 200)
    crops = FaceCrops(faces, MTLDImageProcessor(size=96), BENCHMARKS["300w"], Augmentation())

    def cut_all(epochs):
        for epoch in range(epochs):
            crops.set_epoch(epoch)
            for index in range(len(crops)):
                crops[index]

    cut_all(2)
    before = memory()
    cut_all(10)
    assert memory() - before < 2000 * 2000  # bytes for each of the faces cut; an input takes 110 kB
