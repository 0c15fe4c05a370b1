"""transformers' own Trainer on the network and on the faces of dataset_scripts."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from safetensors.torch import load_file
from transformers import Trainer, TrainingArguments, pipeline

from dataset_scripts import BENCHMARKS
from dataset_scripts.augmentation import Augmentation, FaceCrops
from modeling_mtld.auto_mtld import AUTO_MAP, CODE_FILES
from modeling_mtld.configuration_mtld import MTLDConfig
from modeling_mtld.image_processing_mtld import MTLDImageProcessor
from modeling_mtld.modeling_mtld import MTLDForFacialLandmarkDetection

SIZES = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "decoder_intermediate_size": 32}
PROCESSOR = MTLDImageProcessor(size={"height": 64, "width": 64})


def new_model(**changes) -> MTLDForFacialLandmarkDetection:
    torch.manual_seed(0)
    return MTLDForFacialLandmarkDetection(
        MTLDConfig(backbone="test_efficientnet", image_size=64, num_landmarks=5, **SIZES, **changes), for_training=True
    )


FIVE_POINTS = dataclasses.replace(BENCHMARKS["300w"], landmark_names=tuple("abcde"), flip_pairs=((0, 1),))


def crops(count: int, augmentation: Augmentation | None = None, **more) -> FaceCrops:
    """Faces of noise, some points of which are not annotated."""
    rng = np.random.default_rng(0)
    faces = []
    for _ in range(count):
        points = rng.uniform(20, 80, (5, 2))
        box = [*points.min(axis=0), *points.max(axis=0)]
        points[rng.integers(5)] = np.nan
        image = Image.fromarray(rng.integers(0, 256, (100, 100, 3), dtype=np.uint8))
        faces.append({"image": image, "landmarks": points, "landmark_box": box, "box": [np.nan] * 4, "image_id": "x"})
    return FaceCrops(faces, PROCESSOR, FIVE_POINTS, augmentation)


def error(evaluation) -> dict[str, float]:
    return {"error": float(np.nanmean(np.abs(evaluation.predictions - evaluation.label_ids)))}


def trainer_of(folder: Path, faces, model=None, scored=None, **options) -> Trainer:
    options = {
        "per_device_train_batch_size": 2,
        "max_steps": 2,
        "learning_rate": 1e-3,
        "save_strategy": "no",
    } | options
    arguments = TrainingArguments(str(folder), use_cpu=True, report_to=[], disable_tqdm=True, **options)
    return Trainer(
        model or new_model(),
        arguments,
        train_dataset=faces,
        eval_dataset=scored,
        processing_class=PROCESSOR,
        compute_metrics=error,
    )


def weights_of(model) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def assert_equal(first: dict, second: dict, names=None):
    for name in names or first:
        assert torch.equal(first[name], second[name]), name


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Trainer:
    folder = tmp_path_factory.mktemp("trained")
    every_step = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "error", "greater_is_better": False}
    faces = crops(8, Augmentation())
    options = every_step | best | {"gradient_accumulation_steps": 2, "max_steps": 3}
    trainer = trainer_of(folder, faces, scored=crops(3), **options)
    trainer.train()
    trainer.save_model(str(folder / "final"))
    return trainer


def test_evaluation_gathers_landmarks_alone(trained):
    predicted = trained.predict(crops(3))
    assert predicted.predictions.shape == predicted.label_ids.shape == (3, 5, 2)
    assert predicted.predictions.dtype == np.float32 and np.isfinite(predicted.predictions).all()
    assert np.isnan(predicted.label_ids).any()
    assert predicted.metrics["test_error"] < 1 and np.isfinite(predicted.metrics["test_loss"])


def test_the_best_checkpoint_is_loaded(trained):
    scores = {entry["step"]: entry["eval_error"] for entry in trained.state.log_history if "eval_error" in entry}
    assert scores.keys() == {1, 2, 3}
    best = Path(trained.args.output_dir, f"checkpoint-{min(scores, key=scores.get)}")
    assert trained.state.best_model_checkpoint == str(best)
    assert_equal(load_file(best / "model.safetensors"), weights_of(trained.model))
    assert trained.evaluate()["eval_error"] == pytest.approx(min(scores.values()), abs=1e-6)


def check_complete(folder: Path):
    assert json.loads((folder / "config.json").read_text())["auto_map"] == AUTO_MAP
    assert "facial-landmark-detection" in json.loads((folder / "config.json").read_text())["custom_pipelines"]
    names = {path.name for path in folder.iterdir()}
    assert names >= {*CODE_FILES, "model.safetensors", "preprocessor_config.json", "README.md"}


def test_what_it_saves_loads_and_can_be_saved_again(trained, tmp_path):
    folder = Path(trained.args.output_dir)
    for name in ("checkpoint-1", "checkpoint-3", "final"):
        check_complete(folder / name)
    model = MTLDForFacialLandmarkDetection.from_pretrained(folder / "final").eval()
    model.save_pretrained(tmp_path / "again")
    PROCESSOR.save_pretrained(tmp_path / "again")
    check_complete(tmp_path / "again")
    photo, box = np.full((90, 120, 3), 128, dtype=np.uint8), [30.0, 20.0, 80.0, 75.0]
    inputs = PROCESSOR(photo, boxes=[box], return_tensors="pt")
    with torch.no_grad():
        expected = trained.model.eval()(inputs["pixel_values"]).landmarks
        assert (model(inputs["pixel_values"]).landmarks - expected).abs().max() < 1e-5
    points = PROCESSOR.post_process_landmark_detection(model(**inputs), inputs)[0][0]["keypoints"]
    find = pipeline("facial-landmark-detection", model=str(tmp_path / "again"), trust_remote_code=True)
    found = [[point["x"], point["y"]] for point in find(photo, boxes=[box])[0]["landmarks"]]
    assert np.allclose(found, points.detach(), atol=1e-3)


def test_the_heatmap_branch_is_kept_for_going_on_and_not_for_release(trained):
    def has_branch(name):
        weights = load_file(Path(trained.args.output_dir, name, "model.safetensors"))
        return any(key.startswith("heatmap_branch.") for key in weights)

    assert has_branch("checkpoint-3") and not has_branch("final")


def test_going_on_from_a_checkpoint_ends_where_an_unbroken_training_does(tmp_path):
    faces = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "seed": 3}  # two epochs of two steps
    whole = trainer_of(tmp_path / "whole", crops(4, Augmentation()), **faces)
    whole.train()
    resumed = trainer_of(tmp_path / "resumed", crops(4, Augmentation()), **faces)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert resumed.state.global_step == 4
    assert_equal(weights_of(whole.model), weights_of(resumed.model))
    assert whole.train_dataset.epoch == 1  # drawn anew in each epoch


def test_accumulated_batches_are_averaged(tmp_path):
    one = crops(1)[0]
    options = {
        "max_steps": 1,
        "per_device_train_batch_size": 1,
        "optim": "sgd",
        "logging_steps": 1,
        "max_grad_norm": 0,
    }
    single = trainer_of(tmp_path / "1", [one] * 4, **options)
    double = trainer_of(tmp_path / "2", [one] * 4, gradient_accumulation_steps=2, **options)
    assert single.train().training_loss == pytest.approx(double.train().training_loss, rel=1e-4)
    start, accumulated = weights_of(new_model()), dict(double.model.named_parameters())
    for name, value in single.model.named_parameters():
        move, other = value - start[name], accumulated[name] - start[name]
        # A sum would be twice as far. Equal they are not: the usual error follows each batch.
        assert (move - other).abs().max() <= 0.25 * move.abs().max() + 1e-7, name


def test_bfloat16_autocast_on_the_cpu(tmp_path):
    trainer = trainer_of(tmp_path, crops(4, Augmentation()), bf16=True)
    before = weights_of(trainer.model)
    assert np.isfinite(trainer.train().training_loss)
    assert all(value.dtype == before[name].dtype for name, value in trainer.model.state_dict().items())
    predicted = trainer.predict(crops(2)).predictions
    assert predicted.dtype == np.float32
    rounded = torch.from_numpy(predicted).bfloat16().float().numpy()
    assert not np.array_equal(predicted, rounded)


def test_bfloat16_evaluation_takes_pixels_of_float32(tmp_path):
    exact = trainer_of(tmp_path, None, scored=crops(3)).evaluate()
    rounded = trainer_of(tmp_path, None, scored=crops(3), bf16_full_eval=True).evaluate()
    for name in ("eval_error", "eval_loss"):
        assert rounded[name] == pytest.approx(exact[name], rel=0.02)


@pytest.mark.parametrize("kind", ["of torch", "of datasets"])
def test_what_the_model_does_not_take_is_left_out(tmp_path, kind):
    faces = [dict(face, image_id="x", box=[0.0] * 4) for face in crops(2)]
    if kind == "of datasets":
        faces = Dataset.from_list([{k: np.asarray(v) if k != "image_id" else v for k, v in f.items()} for f in faces])
    trainer = trainer_of(tmp_path, faces, max_steps=1)
    assert np.isfinite(trainer.train().training_loss)
    assert trainer.predict(faces).predictions.shape == (2, 5, 2)


@pytest.mark.parametrize("switch", ["use_multiscale_transformer", "use_heatmap_loss"])
def test_without_modules_of_the_network(tmp_path, switch):
    trainer = trainer_of(tmp_path, crops(2), new_model(**{switch: False}), max_steps=1)
    trainer.train()
    assert trainer.predict(crops(2)).predictions.shape == (2, 5, 2)
