"""The training script on data other than raw 300W folders: your own points, Parquet, streams, other benchmarks."""

import json
import re

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from training_runs import TINY, as_words
from transformers import AutoImageProcessor, AutoModel, pipeline

import train_accelerate
from dataset_scripts.conversion import convert
from modeling_mtld.configuration_mtld import MTLDConfig
from training_mtld import data as training_data
from training_mtld import models
from training_mtld.options import parse_args

NAMES = ["right_eye", "left_eye", "nose_tip", "mouth_0", "mouth_1"]
TRAIN, TEST = 10, 3


pytestmark = pytest.mark.usefixtures("fresh_training")


@pytest.fixture
def dolls(tmp_path):
    """Your own data: five named points, some of them not annotated, and the YAML that describes them."""
    rng = np.random.default_rng(0)
    for split, count in (("train", TRAIN), ("test", TEST)):
        folder = tmp_path / "dolls" / split
        folder.mkdir(parents=True)
        rows = [write_doll(folder, f"{index}.png", rng, missing=index % 3) for index in range(count)]
        (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    eyes = NAMES[:2]
    facts = {"landmarks": NAMES, "flip_pairs": [eyes, NAMES[3:]], "normalizer": "box", "licence": "CC0"}
    (tmp_path / "dolls" / "landmarks.yaml").write_text(yaml.safe_dump(facts))
    return tmp_path / "dolls"


def write_doll(folder, name, rng, missing):
    Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(folder / name)
    points = rng.uniform([6, 6], [58, 42], (5, 2)).round(2).tolist()
    for index in range(missing):
        points[4 - index] = None
    return {"file_name": name, "landmarks": points}


def arguments(dataset, out, **options):
    given = {
        "dataset": dataset,
        "output_dir": out,
        **TINY,
        "epochs": 2,
        "batch_size": 2,
    } | options
    return as_words(given)


def train(dataset, out, capsys, **options) -> str:
    """What a training prints."""
    capsys.readouterr()
    status = train_accelerate.run(arguments(dataset, out, **options))
    printed = capsys.readouterr()
    assert status == 0, printed.err[-500:]
    return printed.out


def scores_in(folder) -> dict:
    return json.loads((folder / "scores.json").read_text())["scores"]


def one_line(capsys, words) -> str:
    capsys.readouterr()
    assert train_accelerate.run(words) == 2
    return re.split(r"[\r\n]+", capsys.readouterr().err.strip())[-1]


# Your own points -------------------------------------------------------------------------------------------------


def test_own_points_train_evaluate_and_find_themselves_with_no_code(dolls, tmp_path, capsys):
    printed = train(dolls / "landmarks.yaml", tmp_path / "model", capsys)
    score = re.search(r"dolls test \(3 faces, box\): NME \d+\.\d{3}%", printed)
    assert score
    weights = load_file(tmp_path / "model" / "model.safetensors")
    assert all(torch.isfinite(value).all() for value in weights.values() if value.is_floating_point())
    model = AutoModel.from_pretrained(tmp_path / "model", trust_remote_code=True)
    assert model.config.landmark_names == NAMES and model.config.flip_pairs == [[0, 1], [3, 4]]
    assert "CC0" in (tmp_path / "model" / "README.md").read_text()
    again = {"model_name_or_path": tmp_path / "model", "eval_only": ()}
    without = {"backbone": None, "random_backbone": None, "config": None, "epochs": None}
    train(dolls / "landmarks.yaml", tmp_path / "again", capsys, **again, **without)
    assert scores_in(tmp_path / "again") == scores_in(tmp_path / "model" / "evaluation")
    find = pipeline("facial-landmark-detection", model=str(tmp_path / "model"), trust_remote_code=True)
    (face,) = find(Image.open(dolls / "test" / "0.png"), boxes="whole")
    assert [landmark["label"] for landmark in face["landmarks"]] == NAMES


def test_boxes_of_your_own_are_cropped_and_the_pipeline_knows_how_they_lie(dolls, tmp_path, capsys):
    facts = yaml.safe_load((dolls / "landmarks.yaml").read_text()) | {"crop": "box"}
    (dolls / "landmarks.yaml").write_text(yaml.safe_dump(facts))
    for metadata in dolls.glob("*/metadata.jsonl"):
        rows = [json.loads(line) for line in metadata.read_text().splitlines()]
        for row in rows:
            points = np.array([point for point in row["landmarks"] if point])
            low, high = np.floor(points.min(axis=0)), np.ceil(points.max(axis=0))
            side = (high - low).max()
            row["box"] = [*(low - [0.1 * side, 0.2 * side]), *(high + [0.3 * side, 0.0])]
        metadata.write_text("\n".join(map(json.dumps, rows)))
    train(dolls / "landmarks.yaml", tmp_path / "model", capsys, epochs=1)
    processor = AutoImageProcessor.from_pretrained(tmp_path / "model", trust_remote_code=True)
    assert processor.box_margins == pytest.approx([0.1, 0.2, 0.3, 0.0], abs=1e-3)
    np.testing.assert_allclose(processor.box_around([10, 20, 50, 40]), [6, 12, 62, 40], atol=0.1)


def test_unannotated_points_do_not_matter_to_the_loss(dolls, tmp_path, capsys):
    """Whatever stands for them: the weights are those of a training in which other values stood there."""
    train(dolls / "landmarks.yaml", tmp_path / "one", capsys)
    for metadata in dolls.glob("*/metadata.jsonl"):
        metadata.write_text(metadata.read_text().replace("null", "[null, null]"))
    train(dolls / "landmarks.yaml", tmp_path / "other", capsys)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "other"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_landmark_that_no_training_face_has_is_named(dolls, tmp_path, capsys):
    metadata = dolls / "train" / "metadata.jsonl"
    rows = [json.loads(line) for line in metadata.read_text().splitlines()]
    for row in rows:
        row["landmarks"][2] = None
    metadata.write_text("\n".join(map(json.dumps, rows)))
    line = one_line(capsys, arguments(dolls / "landmarks.yaml", tmp_path / "model"))
    assert "nose_tip is in none of them" in line


def test_a_normaliser_of_unannotated_points_is_one_line(dolls, tmp_path, capsys):
    facts = yaml.safe_load((dolls / "landmarks.yaml").read_text()) | {"normalizer": ["nose_tip", "mouth_1"]}
    (dolls / "landmarks.yaml").write_text(yaml.safe_dump(facts))
    line = one_line(capsys, arguments(dolls / "landmarks.yaml", tmp_path / "model"))
    assert not (tmp_path / "model").exists()  # before the training, not after it
    assert "--normalizer" in line and "missing in 2 of 3 faces of test" in line and "box" in line


def test_what_is_scored_where_there_is_no_test_split(dolls, tmp_path, capsys):
    (dolls / "test").rename(dolls / "validation")
    assert "dolls validation (3 faces, box)" in train(dolls / "landmarks.yaml", tmp_path / "model", capsys, epochs=1)
    (dolls / "validation").rename(tmp_path / "elsewhere")
    line = one_line(capsys, arguments(dolls / "landmarks.yaml", tmp_path / "other"))
    assert "--eval_splits or --validation_list must tell what to score" in line and "has train" in line


def test_dataset_that_is_neither_known_nor_a_yaml(tmp_path, capsys):
    assert "dataset must be one of 300w, " in one_line(capsys, arguments("dolls", tmp_path / "model"))
    assert "--data_dir must be the folder of WFLW" in one_line(capsys, arguments("wflw", tmp_path / "model"))


# Parquet and streams ---------------------------------------------------------------------------------------------


def test_a_training_reads_raw_folders_and_parquet_alike(dolls, tmp_path, capsys):
    convert(dolls / "landmarks.yaml", dolls, tmp_path / "parquet")
    train(dolls / "landmarks.yaml", tmp_path / "raw", capsys)
    train(tmp_path / "parquet" / "landmarks.yaml", tmp_path / "converted", capsys)
    raw, converted = (load_file(tmp_path / name / "model.safetensors") for name in ("raw", "converted"))
    assert all(torch.equal(value, converted[name]) for name, value in raw.items())


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("parquet", [False, True])
def test_streamed_faces_train_and_score_as_others(dolls, tmp_path, capsys, parquet, workers):
    folder = tmp_path / "parquet" if parquet else dolls
    if parquet:
        convert(dolls / "landmarks.yaml", dolls, folder)
    options = {"streaming": (), "num_workers": workers, "eval_splits": ("test", "train+test")}
    printed = train(folder / "landmarks.yaml", tmp_path / "model", capsys, **options)
    assert "(3 faces, box)" in printed and f"({TRAIN + TEST} faces, box)" in printed
    assert "streamed" in (tmp_path / "model" / "README.md").read_text()
    again = {"model_name_or_path": tmp_path / "model", "eval_only": (), "eval_splits": ("test",)}
    without = {"backbone": None, "random_backbone": None, "config": None, "epochs": None}
    train(dolls / "landmarks.yaml", tmp_path / "again", capsys, **again, **without)
    assert scores_in(tmp_path / "again")["test"] == scores_in(tmp_path / "model" / "evaluation")["test"]


def test_a_stream_can_be_split_by_a_list(dolls, tmp_path, capsys):
    (tmp_path / "list.txt").write_text("train/0.png\ntrain/3.png\n")
    options = {"streaming": (), "validation_list": tmp_path / "list.txt"}
    assert "validation (2 faces, box)" in train(dolls / "landmarks.yaml", tmp_path / "model", capsys, **options)


def test_a_stream_without_faces_is_one_line_and_one_batch_is_enough(dolls, tmp_path, capsys):
    (tmp_path / "list.txt").write_text("nothing.png\n")
    words = {"streaming": (), "batch_size": TRAIN + 1, "epochs": 1}
    listed = arguments(dolls / "landmarks.yaml", tmp_path / "none", **words, validation_list=tmp_path / "list.txt")
    assert "must have faces for validation, but these options leave none" in one_line(capsys, listed)
    assert "(3 faces, box)" in train(dolls / "landmarks.yaml", tmp_path / "model", capsys, **words)


# Augmentation ----------------------------------------------------------------------------------------------------


def test_augmentation_is_set_by_name(dolls, tmp_path, capsys):
    words = [*arguments(dolls / "landmarks.yaml", tmp_path), "--augmentation", "rotation=45", "box_jitter=0.1"]
    args = parse_args(words)
    assert dict(args.augmentation) == {"rotation": 45.0, "box_jitter": 0.1}
    for wrong, message in (("turn=3", "a field of Augmentation"), ("rotation=x", "rotation must be a number")):
        assert message in one_line(capsys, [*words, "--augmentation", wrong])
    assert "scale must be from 0 to 0.9, but got 2.0" in one_line(capsys, [*words, "--augmentation", "scale=2"])


# A trial ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [{}, {"streaming": ()}])
def test_a_trial_trains_on_few_faces_and_says_so(dolls, tmp_path, capsys, streaming):
    options = {"max_train_faces": 2, "epochs": 1, "batch_size": 1, "save_steps": 1, "save_total_limit": 9, **streaming}
    train(dolls / "landmarks.yaml", tmp_path / "out", capsys, **options)
    names = [path.name for path in (tmp_path / "out" / "checkpoints").glob("epoch_0000_update_*")]
    assert sorted(names) == ["epoch_0000_update_000001", "epoch_0000_update_000002"]
    stage = json.loads((tmp_path / "out" / "training.json").read_text())[-1]
    assert stage["datasets"][0]["faces"] == (None if streaming else 2)


def test_the_faces_of_a_trial_are_drawn_by_the_seed(dolls, tmp_path):
    def chosen(seed, count):
        args = parse_args(arguments(dolls / "landmarks.yaml", tmp_path / "out", seed=seed, max_train_faces=count))
        processor = models.build_processor(args, MTLDConfig(num_landmarks=5, backbone="test_resnet", image_size=64))
        mixture = training_data.load_training(args, processor, MTLDConfig(num_landmarks=5, backbone="test_resnet"))
        return mixture.members[0].crops.faces["image_id"][:]

    assert chosen(0, 3) == chosen(0, 3) and len({*chosen(0, 3)}) == 3
    assert any(chosen(seed, 3) != chosen(0, 3) for seed in range(1, 4))
    assert len(chosen(0, 999)) == TRAIN
