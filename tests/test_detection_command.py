"""`python -m training_mtld.detection`: faces that are missed, others, and the threshold of a face's score."""

import json
import re
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image
from skimage.data import astronaut, chelsea, coffee

from modeling_mtld.detect import CHECKPOINT, load_pipeline
from training_mtld import detection


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A set of two: the astronaut, and landmarks where no face is. Photos without faces; a checkpoint."""
    folder = tmp_path_factory.mktemp("detection")
    (face,) = load_pipeline(str(CHECKPOINT), "cpu")(astronaut(), boxes=[[178, 84, 272, 178]])
    points = np.array([[mark["x"], mark["y"]] for mark in face["landmarks"]])
    (folder / "data" / "train").mkdir(parents=True)
    (folder / "scenes").mkdir()
    rows = [("face.png", astronaut(), points), ("none.png", coffee(), points)]
    for name, photo, landmarks in rows:
        Image.fromarray(photo).save(folder / "data" / "train" / name)
        with open(folder / "data" / "train" / "metadata.jsonl", "a") as metadata:
            metadata.write(json.dumps({"file_name": name, "landmarks": landmarks.tolist()}) + "\n")
    names = [mark["label"] for mark in face["landmarks"]]
    (folder / "data" / "landmarks.yaml").write_text(
        yaml.safe_dump({"landmarks": names, "flip_pairs": [], "normalizer": "box"})
    )
    for name, photo in {"cat": chelsea()[100:200, :100], "coffee": coffee()[:100, :100]}.items():
        Image.fromarray(photo).save(folder / "scenes" / f"{name}.png")
    shutil.copytree(CHECKPOINT, folder / "checkpoint")
    return folder


def run(folder, *options) -> int:
    set_options = ["--dataset", str(folder / "data" / "landmarks.yaml"), "--data_dir", str(folder / "data")]
    model = ["--model", str(folder / "checkpoint"), "--split", "train"]
    return detection.main([*model, *set_options, "--detector", "haar", *options])


def test_it_measures_and_writes_the_threshold(folder, capsys):
    assert run(folder, "--no_faces", str(folder / "scenes"), "--write") == 0
    output = capsys.readouterr().out
    missed, others, error, true_error = re.search(r"\| 2 \| (\S+) \| (\d+) \| (\S+) \| (\S+) \|", output).groups()
    assert (missed, others) == ("50.0", "0")
    assert float(error) < 1 and float(true_error) < 1  # in % of the box; the network made the landmarks
    assert "BOX_SIDE = " in output
    threshold = json.loads((folder / "checkpoint" / "config.json").read_text())["min_face_score"]
    assert 0.3 <= threshold < 0.9 and f"min_face_score: {threshold:.2f}" in output
    assert load_pipeline(str(folder / "checkpoint"), "cpu").min_score == threshold


def test_a_small_photo_is_pasted_with_its_landmarks():
    evaluation = detection.Evaluation(None, None, [])
    evaluation.scenes = [np.zeros((300, 400, 3), np.uint8)]
    photo = np.full((100, 100, 3), 255, np.uint8)
    scene, points = evaluation._paste(photo, np.array([[49.5, 49.5]]))
    rows, columns = np.nonzero(scene[..., 0] > 127)
    assert points[0] == pytest.approx([columns.mean(), rows.mean()], abs=0.5)


@pytest.mark.parametrize(
    "options, message",
    [(["--no_faces", "nowhere"], "--no_faces must be a folder"), (["--detector", "none"], "detector must be")],
)
def test_what_cannot_be_is_told_in_a_line(folder, capsys, options, message):
    assert run(folder, *options) == 2
    error = capsys.readouterr().err
    assert message in error and error.splitlines()[-1].startswith("detection: ")
