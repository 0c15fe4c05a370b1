"""The released checkpoint: that it stands alone, carries the code of this repository, and sees a real face."""

import filecmp
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from skimage.data import astronaut

from modeling_mtld.auto_mtld import CODE_FILES
from modeling_mtld.detect import CHECKPOINT, main
from modeling_mtld.image_processing_mtld import MTLDImageProcessor
from modeling_mtld.modeling_mtld import MTLDForFacialLandmarkDetection

ROOT = Path(__file__).resolve().parents[1]
BOX = [179.0, 87.0, 272.0, 179.0]  # the astronaut's face, from brows to chin
SEEN = {8: (221, 178), 30: (224, 129), 36: (195, 101), 45: (255, 104), 48: (201, 140), 54: (246, 141)}  # by eye
INTER_OCULAR = 60  # pixels there

FROM_ELSEWHERE = """
import json, sys
sys.modules.update(modeling_mtld=None, dataset_scripts=None)  # importing them raises
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, pipeline

folder, photo, box = sys.argv[1], Image.open(sys.argv[2]), json.loads(sys.argv[3])
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
inputs = processor(photo, boxes=[box], return_tensors="pt")
with torch.no_grad():
    face = processor.post_process_landmark_detection(model(**inputs), inputs)[0][0]
find = pipeline("facial-landmark-detection", model=folder, trust_remote_code=True, device="cpu")
given = [[mark["x"], mark["y"]] for mark in find(photo, boxes=[box])[0]["landmarks"]]
found = [[mark["x"], mark["y"]] for mark in find(photo)[0]["landmarks"]]
print(json.dumps([face["keypoints"].tolist(), given, found]))
"""


@pytest.fixture(scope="module")
def model():
    return MTLDForFacialLandmarkDetection.from_pretrained(CHECKPOINT)


@pytest.fixture(scope="module")
def processor():
    return MTLDImageProcessor.from_pretrained(CHECKPOINT)


@torch.no_grad()
def find_landmarks(model, processor, photo, box) -> np.ndarray:
    inputs = processor(photo, boxes=[box], return_tensors="pt")
    return processor.post_process_landmark_detection(model(**inputs), inputs)[0][0]["keypoints"].double().numpy()


def test_its_files_are_small_and_complete():
    assert (CHECKPOINT / "model.safetensors").stat().st_size <= 26_000_000
    names = {path.name for path in CHECKPOINT.iterdir()}
    assert names == {"README.md", "config.json", "model.safetensors", "preprocessor_config.json", "training.json"} | {
        *CODE_FILES
    }
    assert json.loads((CHECKPOINT / "config.json").read_text())["dtype"] == "float32"


@pytest.mark.parametrize("name", CODE_FILES)
def test_its_code_is_that_of_the_repository(name):
    assert filecmp.cmp(CHECKPOINT / name, ROOT / "modeling_mtld" / name, shallow=False), "`make style` copies it anew"


def test_landmarks_sit_on_the_astronaut(model, processor):
    points = find_landmarks(model, processor, astronaut(), BOX)
    for index, seen in SEEN.items():
        assert np.linalg.norm(points[index] - seen) < 0.06 * INTER_OCULAR, f"landmark {index} is at {points[index]}"


def test_a_face_enlarged_four_times_gives_the_same_landmarks(model, processor):
    photo = astronaut()
    large = cv2.resize(photo, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    points = find_landmarks(model, processor, photo, BOX)
    large_points = find_landmarks(model, processor, large, [4 * (value + 0.5) - 0.5 for value in BOX])
    moves = np.linalg.norm((large_points + 0.5) / 4 - 0.5 - points, axis=1)
    assert moves.max() < 0.01 * INTER_OCULAR


def test_alone_it_gives_what_the_command_gives(tmp_path, capsys):
    """In a process that cannot import this repository, without a network (see conftest.py)."""
    folder = tmp_path / "mtld-r18"
    folder.mkdir()
    for path in CHECKPOINT.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    photo = tmp_path / "photo.png"
    cv2.imwrite(str(photo), astronaut()[:, :, ::-1])

    def command(*options):
        assert main([str(photo), "--output_dir", str(tmp_path / "out"), "--device", "cpu", *options]) == 0
        return [[mark["x"], mark["y"]] for mark in json.loads(capsys.readouterr().out)[0]["landmarks"]]

    given, found = command("--box", *map(str, BOX)), command()
    done = subprocess.run(
        [sys.executable, "-I", "-c", FROM_ELSEWHERE, str(folder), str(photo), json.dumps(BOX)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    by_model, by_pipeline, found_by_pipeline = json.loads(done.stdout.splitlines()[-1])
    # the command rounds to two decimals
    assert np.allclose(by_model, given, atol=6e-3) and np.allclose(by_pipeline, given, atol=6e-3)
    assert np.allclose(found_by_pipeline, found, atol=6e-3)


def test_a_face_scores_higher_than_anything_else():
    """Crops of the texture and still-life photos that come with scikit-image, and of plain and noisy ones."""
    model, processor = (
        MTLDForFacialLandmarkDetection.from_pretrained(CHECKPOINT),
        MTLDImageProcessor.from_pretrained(CHECKPOINT),
    )

    @torch.no_grad()
    def score(photo) -> float:
        return model(processor(photo, return_tensors="pt")["pixel_values"]).scores.mean().item()

    face = astronaut()[50:210, 150:310]
    names = ("brick", "grass", "gravel", "coffee", "coins", "page", "moon", "chelsea", "rocket")
    others = [np.asarray(getattr(skimage.data, name)())[40:200, 40:200] for name in names]
    others += [np.full((64, 64, 3), 128, np.uint8), np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)]
    assert score(face) > 0.8 > model.config.min_face_score
    assert max(map(score, others)) < model.config.min_face_score
