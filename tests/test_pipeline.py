import json

import numpy as np
import pytest
import torch
from skimage.data import astronaut, coffee
from transformers import pipeline

from modeling_mtld import pipeline_mtld
from modeling_mtld.configuration_mtld import MTLDConfig
from modeling_mtld.image_processing_mtld import MTLDImageProcessor
from modeling_mtld.modeling_mtld import MTLDForFacialLandmarkDetection
from modeling_mtld.pipeline_mtld import FacialLandmarkDetectionPipeline

NAMES = ["left_eye", "right_eye", "mouth"]
FRACTIONS = np.array([[0.1, 0.1], [0.9, 0.1], [0.5, 0.9]])  # of the crop; their box, enlarged, is the crop again
BOX = [100.0, 60.0, 180.0, 140.0]
CROP = np.array([90.0, 50.0, 100.0])  # x0, y0, side of BOX's crop


def make_pipeline(fractions=FRACTIONS) -> FacialLandmarkDetectionPipeline:
    """A network that, being untrained, answers its mean face for every crop."""
    model = MTLDForFacialLandmarkDetection(
        MTLDConfig(
            backbone="test_resnet.r160_in1k",
            image_size=32,
            num_landmarks=3,
            landmark_names=NAMES,
            hidden_size=8,
            num_attention_heads=2,
            use_heatmap_loss=False,
        )
    ).eval()
    model.set_mean_face(torch.as_tensor(fractions, dtype=torch.float32))
    return FacialLandmarkDetectionPipeline(model=model, image_processor=MTLDImageProcessor(size=32), device="cpu")


@pytest.fixture(scope="module")
def pipe():
    return make_pipeline()


def points(face) -> np.ndarray:
    return np.array([[mark["x"], mark["y"]] for mark in face["landmarks"]])


def detector_that_finds(monkeypatch, *boxes):
    found = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    monkeypatch.setattr(pipeline_mtld, "detect_faces", lambda photo: (found, np.ones(len(found))))


def test_given_box(pipe):
    (face,) = pipe(astronaut(), boxes=[BOX])
    assert points(face) == pytest.approx(CROP[:2] + FRACTIONS * CROP[2], abs=1e-3)
    assert face["box"] == pytest.approx({"xmin": 100, "ymin": 60, "xmax": 180, "ymax": 140}, abs=1e-3)
    assert [mark["label"] for mark in face["landmarks"]] == NAMES
    assert face["score"] == pytest.approx(np.mean([mark["score"] for mark in face["landmarks"]]))
    assert json.loads(json.dumps(face)) == face


def test_labels_without_names_are_indices(pipe, monkeypatch):
    monkeypatch.setattr(pipe.model.config, "landmark_names", None)
    assert [mark["label"] for mark in pipe(astronaut(), boxes=[BOX])[0]["landmarks"]] == ["0", "1", "2"]


def test_finds_the_face_itself(pipe):
    (face,) = pipe(astronaut())
    center = points(face).mean(axis=0)
    assert 190 < center[0] < 260 and 100 < center[1] < 160


def test_detected_face_is_cropped_twice_and_a_given_one_once(monkeypatch):
    pipe = make_pipeline(FRACTIONS + [0.02, 0])
    detector_that_finds(monkeypatch, BOX)
    (detected,), (given,) = pipe(astronaut()), pipe(astronaut(), boxes=[BOX])
    once = CROP[:2] + (FRACTIONS + [0.02, 0]) * CROP[2]
    assert points(given) == pytest.approx(once, abs=1e-3)
    assert points(detected) == pytest.approx(once + [2, 0], abs=1e-3)


def test_detected_face_whose_landmarks_wander_is_dropped(monkeypatch):
    pipe = make_pipeline(FRACTIONS + [0.08, 0])
    detector_that_finds(monkeypatch, BOX)
    assert pipe(astronaut()) == []
    assert len(pipe(astronaut(), boxes=[BOX])) == 1


def test_landmarks_all_in_one_point_do_not_break_the_second_crop(monkeypatch):
    pipe = make_pipeline(np.full((3, 2), 0.5))
    detector_that_finds(monkeypatch, BOX, [300, 300, 400, 400])
    assert isinstance(pipe(astronaut()), list)


def test_no_face(pipe, monkeypatch):
    detector_that_finds(monkeypatch)
    assert pipe(coffee()) == []
    assert pipe([coffee()]) == [[]]
    assert pipe(coffee(), boxes=[]) == []
    assert pipe([]) == []


@pytest.mark.parametrize("batch_size", [1, 2])
def test_list_of_photos(pipe, monkeypatch, batch_size):
    detector_that_finds(monkeypatch, BOX)
    other = [10.0, 20.0, 50.0, 60.0]
    photos = [astronaut(), coffee(), astronaut()]
    results = pipe(photos, boxes=[[other, BOX], [], None], batch_size=batch_size)
    assert [len(faces) for faces in results] == [2, 0, 1]
    assert results[0] == pipe(photos[0], boxes=[other, BOX])
    assert points(results[2][0]) == pytest.approx(points(pipe(photos[0])[0]), abs=1e-4)


def test_generator_of_photos(pipe, monkeypatch):
    detector_that_finds(monkeypatch, BOX)
    assert [len(faces) for faces in pipe(photo for photo in [astronaut(), astronaut()])] == [1, 1]


@pytest.mark.parametrize(
    "photos, boxes, message",
    [
        ("missing.jpg", None, r"missing\.jpg.* no such file"),
        (astronaut(), [[1, 1, 1, 5]], r"boxes\[0\] .*no area"),
        (astronaut(), [BOX, [float("nan")] * 4], r"boxes\[1\] must be finite"),
        (astronaut(), [[5000, 5000, 5100, 5100]], r"boxes\[0\] must overlap its photo of 512 x 512"),
        ([astronaut(), astronaut()], [BOX], "boxes must be one list for each of the 2 images, but got 1"),
        ([astronaut()], 3, "boxes must be one list for each of the 1 images, but got 3"),
    ],
)
def test_bad_input(pipe, photos, boxes, message):
    with pytest.raises(ValueError, match=message):
        pipe(photos, boxes=boxes)


def test_unknown_option(pipe):
    with pytest.raises(TypeError, match="threshold"):
        pipe(astronaut(), threshold=0.5)


def test_loads_as_remote_code_and_can_be_saved_again(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "first")
    loaded = pipeline("facial-landmark-detection", model=str(tmp_path / "first"), trust_remote_code=True, device="cpu")
    assert type(loaded) is not type(pipe)  # the checkpoint's own code
    assert loaded(astronaut(), boxes=[BOX]) == pipe(astronaut(), boxes=[BOX])
    # transformers replaced the name of the model's class in the configuration by the class
    loaded.save_pretrained(tmp_path / "second")
    config = json.loads((tmp_path / "second" / "config.json").read_text())
    assert config["custom_pipelines"]["facial-landmark-detection"]["pt"] == ["AutoModelForKeypointDetection"]
    assert pipeline(model=str(tmp_path / "second"), trust_remote_code=True).task == "facial-landmark-detection"
