import io
import json

import datasets
import dill
import numpy as np
import pandas
import pytest
import torch
from PIL import Image
from skimage.data import astronaut, coffee
from torch.utils.data import Dataset, IterableDataset
from transformers import pipeline
from transformers.pipelines.pt_utils import KeyDataset

from modeling_mtld import face_detection_mtld
from modeling_mtld.configuration_mtld import MTLDConfig
from modeling_mtld.drawing_mtld import draw_faces
from modeling_mtld.flip_mtld import predict_with_flip
from modeling_mtld.geometry_mtld import crop_matrix, invert_matrix, transform_points, warp_image
from modeling_mtld.image_processing_mtld import MTLDImageProcessor
from modeling_mtld.modeling_mtld import MTLDForFacialLandmarkDetection
from modeling_mtld.pipeline_mtld import FacialLandmarkDetectionPipeline
from modeling_mtld.tracking_mtld import LandmarkTracker

NAMES = ["left_eye", "right_eye", "mouth"]
FRACTIONS = np.array([[0.1, 0.1], [0.9, 0.1], [0.5, 0.9]])  # of the crop; their box, enlarged, is the crop again
BOX = [100.0, 60.0, 180.0, 140.0]
CROP = np.array([90.0, 50.0, 100.0])  # x0, y0, side of BOX's crop


def make_pipeline(fractions=FRACTIONS, flip_pairs=((0, 1),), **options) -> FacialLandmarkDetectionPipeline:
    """A network that, being untrained, answers its mean face for every crop."""
    model = MTLDForFacialLandmarkDetection(
        MTLDConfig(
            backbone="test_resnet.r160_in1k",
            image_size=32,
            num_landmarks=3,
            landmark_names=NAMES,
            flip_pairs=flip_pairs and [list(pair) for pair in flip_pairs],
            hidden_size=8,
            num_attention_heads=2,
            use_heatmap_loss=False,
        )
    ).eval()
    model.set_mean_face(torch.as_tensor(fractions, dtype=torch.float32))
    processor = MTLDImageProcessor(size=32)
    return FacialLandmarkDetectionPipeline(model=model, image_processor=processor, device="cpu", **options)


@pytest.fixture(scope="module")
def pipe():
    return make_pipeline()


@pytest.fixture(scope="module")
def trained_pipe():
    """Its weights are away from where they start, as after training, so that its answers depend on the crops."""
    pipe = make_pipeline()
    torch.manual_seed(0)
    with torch.no_grad():
        for weights in pipe.model.parameters():
            weights.add_(0.05 * torch.randn_like(weights))
    return pipe


@pytest.fixture
def passes(monkeypatch):
    """The number of crops in each pass through any network, filled while it runs."""
    sizes = []

    def forward(self, pixel_values, **kwargs):
        sizes.append(len(pixel_values))
        return original(self, pixel_values, **kwargs)

    original = MTLDForFacialLandmarkDetection.forward
    monkeypatch.setattr(MTLDForFacialLandmarkDetection, "forward", forward)
    return sizes


def points(face) -> np.ndarray:
    return np.array([[mark["x"], mark["y"]] for mark in face["landmarks"]])


def detector_that_finds(monkeypatch, *boxes):
    found = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    faces = face_detection_mtld.Faces(found, np.ones(len(found)), np.zeros(len(found), int))
    monkeypatch.setattr(face_detection_mtld, "detect_faces", lambda photo, *_: faces)


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


def test_crops_around_landmarks_are_as_in_a_training_on_wider_boxes(monkeypatch):
    """Of a box of 120 pixels, 1.25 times as wide, the landmarks fill 80: then the first and the second crop agree."""
    pipe = make_pipeline(0.5 + (FRACTIONS - 0.5) / 0.8 * 80 / 150)
    pipe.image_processor.box_margins = [0.25] * 4
    detector_that_finds(monkeypatch, BOX)
    (face,) = pipe(astronaut())
    assert face["box"] == pytest.approx({"xmin": 100, "ymin": 60, "xmax": 180, "ymax": 140}, abs=1e-3)
    (given,) = pipe(astronaut(), boxes=[[80, 40, 200, 160]])  # taken as it is
    assert points(given) == pytest.approx(points(face), abs=1e-3)


@pytest.mark.parametrize("options", [{}, {"batch_size": 2}])
def test_one_bad_photo_does_not_cost_a_batch(pipe, tmp_path, caplog, options):
    bad = tmp_path / "bad.jpg"
    bad.write_text("no photo")
    boxes = [[BOX], None, [BOX]]
    first, none, last = pipe([astronaut(), str(bad), astronaut()], boxes=boxes, on_error="none", **options)
    assert len(first) == len(last) == 1 and none is None and "images[1]" in caplog.text
    with pytest.raises(ValueError, match=r"images\[1\]"):
        pipe([astronaut(), str(bad)], boxes=[[BOX], [BOX]], **options)
    with pytest.raises(ValueError, match="on_error must be"):
        pipe(astronaut(), on_error="skip")


def test_what_looks_for_faces(pipe):
    assert pipe.detector_name in ("YuNet", "Haar cascades")
    assert make_pipeline(detector="haar").detector_name == "Haar cascades"
    assert make_pipeline(detector=lambda photo: ([], [])).detector_name == "your detector"


def test_a_lying_face_comes_back_in_the_frame_of_the_photo(pipe):
    photo = astronaut()[40:240, 120:330]
    turned = np.ascontiguousarray(np.rot90(photo))
    (upright,), (lying,) = pipe(photo, detector="haar"), pipe(turned, detector="haar")
    expected = np.stack([points(upright)[:, 1], 209 - points(upright)[:, 0]], axis=1)
    assert points(lying) == pytest.approx(expected, abs=1)
    assert lying["box"]["ymin"] == pytest.approx(209 - upright["box"]["xmax"], abs=1)
    assert pipe(turned, quarter_turns=False, detector="haar") == []


@pytest.mark.parametrize("options", [{"detector": 5}, {"detector": "none"}, {"quarter_turns": "yes"}])
def test_wrong_options_of_detection(pipe, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
        pipe(astronaut(), **options)


def test_detected_face_with_a_low_score_is_dropped_and_a_given_one_stays(monkeypatch):
    pipe = make_pipeline()
    detector_that_finds(monkeypatch, BOX)
    score = pipe(astronaut())[0]["score"]  # of a network that knows nothing, 0.80 everywhere
    assert pipe(astronaut(), min_score=score + 0.01) == []
    assert len(pipe(astronaut(), min_score=score - 0.01)) == 1
    assert len(pipe(astronaut(), boxes=[BOX], min_score=1)) == 1
    with torch.no_grad():
        pipe.model.scale_head.out.bias.fill_(1.0)
    assert pipe(astronaut()) == []
    assert len(make_pipeline(min_score=0)(astronaut())) == 1


@pytest.mark.parametrize("min_score", [-0.1, 1.1, float("nan"), "high", True])
def test_min_score_out_of_range(pipe, min_score):
    with pytest.raises(ValueError, match="min_score must be a number from 0 to 1"):
        pipe(astronaut(), min_score=min_score)


def test_landmarks_beside_the_photo_do_not_break_the_second_crop(monkeypatch):
    """A detector's box may be partly outside, and what is found in it wholly."""
    pipe = make_pipeline(FRACTIONS * [0.4, 1])
    detector_that_finds(monkeypatch, [-60, 60, 30, 150])
    assert isinstance(pipe(astronaut()), list)


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


class Photos(Dataset):
    def __init__(self, *photos):
        self.photos = photos

    def __len__(self):
        return len(self.photos)

    def __getitem__(self, index):
        return self.photos[index]


class Stream(IterableDataset):
    def __iter__(self):
        yield from (astronaut(), astronaut())


@pytest.mark.parametrize(
    "make",
    [
        lambda photos: (photo for photo in photos),
        lambda photos: Photos(*photos),
        lambda photos: KeyDataset([{"photo": photo} for photo in photos], "photo"),
        lambda photos: Stream(),
    ],
)
@pytest.mark.parametrize("batch_size", [1, 2])
def test_data_sets_and_generators_of_photos(pipe, monkeypatch, make, batch_size):
    detector_that_finds(monkeypatch, BOX)
    results = pipe(make([astronaut(), astronaut()]), batch_size=batch_size)
    assert not isinstance(results, list)
    assert [len(faces) for faces in results] == [1, 1]
    whole = pipe(make([astronaut(), astronaut()]), boxes="whole", batch_size=batch_size)
    assert [len(faces) for faces in whole] == [1, 1]


@pytest.mark.parametrize("index", [[1, 0], [5, 7], ["a", "b"]])
def test_pandas_series_count_by_position(pipe, index):
    photos, boxes = [astronaut(), astronaut()[:300]], [[BOX], [BOX, BOX]]
    expected = pipe(photos, boxes=boxes)
    assert pipe(pandas.Series(photos, index=index), boxes=boxes) == expected
    assert pipe(pandas.Series(photos, index=index), boxes=pandas.Series(boxes, index=index)) == expected


def test_an_open_file_is_one_photo(pipe, tmp_path):
    Image.fromarray(astronaut()).save(tmp_path / "photo.png")
    expected = pipe(astronaut(), boxes=[BOX])
    with open(tmp_path / "photo.png", "rb") as file:
        assert pipe(file, boxes=[BOX]) == pipe(file, boxes=[BOX]) == expected
        assert pipe([file], boxes=[[BOX]]) == [expected]
    assert pipe((tmp_path / "photo.png").read_bytes(), boxes=[BOX]) == expected


def test_the_box_of_a_face_can_be_given_back(pipe):
    faces = pipe(astronaut(), boxes=[BOX, BOX])
    boxes = [list(face["box"].values()) for face in faces]
    assert pipe(astronaut(), boxes=[face["box"] for face in faces]) == pipe(astronaut(), boxes=boxes)
    assert (pipe.box_around(faces[0]["box"]) == pipe.box_around(boxes[0])).all()
    with pytest.raises(ValueError, match=r"boxes\[0\] must be four numbers"):
        pipe(astronaut(), boxes=[{"xmin": 3}])


def test_boxes_of_one_photo_may_be_in_a_list_of_their_own(pipe):
    expected = pipe(astronaut(), boxes=[BOX, BOX])
    for boxes in ([[BOX, BOX]], np.array([[BOX, BOX]]), torch.tensor([[BOX, BOX]])):
        assert pipe(astronaut(), boxes=boxes) == expected
        assert pipe({"image": astronaut(), "boxes": boxes}) == expected
    assert pipe(astronaut(), boxes=[[]]) == []


def test_photos_that_bring_their_boxes(pipe):
    items = [{"image": astronaut(), "boxes": [BOX] * count} for count in (2, 0, 1)]
    expected = pipe([astronaut()] * 3, boxes=[[BOX] * 2, [], [BOX]])
    for given in (items, Photos(*items), (item for item in items)):
        assert list(pipe(given, batch_size=3)) == expected
    assert pipe(items[0]) == expected[0]


def test_workers_read_photos_and_look_for_faces(pipe):
    photo = astronaut()[:300, 100:350]
    (alone,) = pipe(photo)  # OpenCV's threads are running when the workers are forked
    assert pipe([photo] * 3, num_workers=2, batch_size=2) == [[alone]] * 3
    with pytest.raises(ValueError, match=r"images\[1\] 'missing.jpg' must be"):
        pipe([astronaut(), "missing.jpg"], num_workers=1)


def test_whole_photo(pipe):
    photo = coffee()  # 600 x 400
    (face,) = pipe(photo, boxes="whole")
    assert points(face) == pytest.approx([-0.5, -100.5] + FRACTIONS * 600, abs=1e-3)
    results = pipe([photo, astronaut(), photo[:1, :1]], boxes=["whole", [BOX], "whole"], batch_size=3)
    assert results[0] == [face] and results[1] == pipe(astronaut(), boxes=[BOX])
    assert points(results[2][0]) == pytest.approx(-0.5 + FRACTIONS, abs=1e-5)
    for_all_calls = make_pipeline(boxes="whole")
    assert for_all_calls(photo) == [face]
    assert for_all_calls(astronaut(), boxes=[BOX]) == results[1]


@torch.no_grad()
def test_whole_photo_is_cropped_as_by_the_processor(trained_pipe):
    processor = trained_pipe.image_processor
    for photo in (coffee(), coffee()[:, :77], coffee()[:3]):
        inputs = processor(photo, return_tensors="pt")
        ((expected,),) = processor.post_process_landmark_detection(trained_pipe.model(**inputs), inputs)
        (face,) = trained_pipe(photo, boxes="whole")
        np.testing.assert_allclose(points(face), expected["keypoints"], atol=1e-3)


# ---- faces together


def photos_and_boxes(count: int):
    """`count` boxes in photos of different sizes, some without any."""
    random = np.random.default_rng(count)
    photos, boxes = [], []
    while sum(map(len, boxes)) < count:
        height, width = random.integers(20, 400, 2)
        photos.append(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        starts = random.uniform(-5, 15, (min(random.integers(0, 6), count - sum(map(len, boxes))), 2))
        boxes.append(np.concatenate([starts, starts + random.uniform(10, 300, starts.shape)], axis=1).tolist())
    return photos, boxes


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("count", [1, 7, 64])
def test_faces_of_several_photos_are_as_one_by_one(trained_pipe, passes, count, flip):
    photos, boxes = photos_and_boxes(count)
    together = trained_pipe(photos, boxes=boxes, batch_size=len(photos), face_batch_size=128, flip=flip)
    assert passes == [2 * count if flip else count]
    assert [len(faces) for faces in together] == [len(own) for own in boxes]
    moves = []
    for photo, own, faces in zip(photos, boxes, together):
        for box, face in zip(own, faces):
            (alone,) = trained_pipe(photo, boxes=[box], flip=flip)
            (matrix,) = trained_pipe.image_processor(photo, boxes=[box])["matrices"]
            moves.append(transform_points(matrix, points(face)) - transform_points(matrix, points(alone)))
    assert np.abs(moves).max() < 1e-3  # pixels of the crop


def test_answers_depend_on_the_faces(trained_pipe):
    photos, boxes = photos_and_boxes(7)
    scores = [face["score"] for faces in trained_pipe(photos, boxes=boxes) for face in faces]
    assert len(set(scores)) == 7  # else the test above would prove nothing


@pytest.mark.parametrize("options, expected", [({}, [3, 3, 1]), ({"flip": True}, [2] * 7)])
def test_no_more_faces_in_a_pass_than_allowed(pipe, passes, options, expected):
    photos, boxes = [astronaut(), coffee(), astronaut()], [[BOX] * 4, [], [BOX] * 3]
    results = pipe(photos, boxes=boxes, batch_size=3, face_batch_size=3, **options)
    assert passes == expected
    assert [len(faces) for faces in results] == [4, 0, 3]
    many = pipe(astronaut(), boxes=[BOX] * 130)
    assert len(many) == 130 and passes[len(expected) :] == [64, 64, 2]


def test_found_faces_of_several_photos_go_together(pipe, passes, monkeypatch):
    detector_that_finds(monkeypatch, BOX, [200, 200, 280, 280])
    pipe([astronaut()] * 3, batch_size=3)
    assert passes == [6, 6]  # first and second crops


# ---- flip


def test_flip_of_a_call_or_of_the_pipeline(trained_pipe):
    inputs = trained_pipe.image_processor(astronaut(), boxes=[BOX], return_tensors="pt")
    with torch.no_grad():
        outputs = predict_with_flip(trained_pipe.model, inputs["pixel_values"], [[0, 1]])
    ((expected,),) = trained_pipe.image_processor.post_process_landmark_detection(outputs, inputs)
    (face,) = trained_pipe(astronaut(), boxes=[BOX], flip=True)
    np.testing.assert_allclose(points(face), expected["keypoints"], atol=1e-4)
    assert np.abs(points(face) - points(trained_pipe(astronaut(), boxes=[BOX])[0])).max() > 0.01
    always = FacialLandmarkDetectionPipeline(
        model=trained_pipe.model, image_processor=trained_pipe.image_processor, device="cpu", flip=True
    )
    assert always(astronaut(), boxes=[BOX]) == [face]
    assert always(astronaut(), boxes=[BOX], flip=False) == trained_pipe(astronaut(), boxes=[BOX])


def test_flip_needs_pairs(monkeypatch):
    pipe = make_pipeline(flip_pairs=None)
    detector_that_finds(monkeypatch)
    with pytest.raises(ValueError, match="flip_pairs must be .*, but got None"):
        pipe(astronaut(), flip=True)
    with pytest.raises(ValueError, match="flip_pairs must be"):
        make_pipeline(flip_pairs=None, flip=True)


# ---- precision, and what else every pipeline takes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(trained_pipe, tmp_path, dtype):
    trained_pipe.save_pretrained(tmp_path)
    half = pipeline(
        "facial-landmark-detection", model=str(tmp_path), trust_remote_code=True, device="cpu", dtype=dtype
    )
    assert half.dtype == dtype
    exact, rounded = (points(pipe(astronaut(), boxes=[BOX], flip=True)[0]) for pipe in (trained_pipe, half))
    np.testing.assert_allclose(rounded, exact, atol=3.0)  # of the crop's 100 pixels; kernels round differently


def test_url_timeout_is_passed_on(pipe, monkeypatch):
    asked = []

    def urlopen(request, timeout):
        asked.append(timeout)
        return io.BytesIO(content.getvalue())

    content = io.BytesIO()
    Image.new("RGB", (40, 30)).save(content, "PNG")
    monkeypatch.setattr("modeling_mtld.photo_mtld.urlopen", urlopen)
    for options in ({}, {"timeout": 5}):
        assert len(pipe("https://somewhere/photo.png", boxes="whole", **options)) == 1
    assert asked == [30, 5]


def test_no_photos(pipe):
    assert pipe([]) == [] and pipe(()) == []
    assert pipe([], boxes=[]) == [] and pipe([], boxes="whole") == []
    assert list(pipe(photo for photo in [])) == []


@pytest.mark.parametrize(
    "photos, boxes, message",
    [
        ("missing.jpg", None, r"missing\.jpg.* no such file"),
        (astronaut(), [[1, 1, 1, 5]], r"boxes\[0\] .*no area"),
        (astronaut(), [BOX, [float("nan")] * 4], r"boxes\[1\] must be finite"),
        (astronaut(), [[5000, 5000, 5100, 5100]], r"boxes\[0\] must overlap its photo of 512 x 512"),
        ([astronaut(), astronaut()], [BOX], "boxes must be one list for each of the 2 images, but got 1"),
        ([astronaut()], 3, "boxes must be one list for each of the 1 images, but got 3"),
        (astronaut(), 3, "boxes must be a list of boxes .*, but got 3"),
        (astronaut(), "all", "boxes must be 'whole', or come with the photos as lists, but got 'all'"),
        ([astronaut()], ["all"], r"boxes\[0\] must be a list of boxes .*, but got 'all'"),
        ([astronaut(), "missing.jpg"], "whole", r"images\[1\] 'missing\.jpg' must be .* no such file"),
        ((photo for photo in [astronaut(), None]), "whole", r"images\[1\] must be .*, but got NoneType"),
        (Photos(astronaut(), np.zeros((0, 0))), "whole", r"images\[1\] must"),
        (Stream(), [[BOX], [BOX]], "boxes must come with each photo"),
        ([astronaut(), astronaut()], [[BOX], [BOX, BOX[::-1]]], r"boxes\[1\]\[1\] .*no area"),
        ({"photo": astronaut()}, None, r"image must be .* with the key 'image', but got one with \['photo'\]"),
        ([{"photo": 1}], None, r"images\[0\] must be .* with the key 'image', but got one with \['photo'\]"),
    ],
)
def test_bad_input(pipe, photos, boxes, message):
    with pytest.raises(ValueError, match=message):
        list(pipe(photos, boxes=boxes))


def test_data_set_that_cannot_read_a_photo_itself(pipe):
    class Broken(Photos):
        def __getitem__(self, index):
            return Image.open(io.BytesIO(b"no picture")) if index else astronaut()

    with pytest.raises(
        ValueError, match=r"images\[1\] must be a readable picture, but got UnidentifiedImageError: cannot identify"
    ):
        list(pipe(Broken(1, 2), boxes="whole"))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"flip": "yes"}, "flip must be True or False, but got 'yes'"),
        ({"face_batch_size": 0}, "face_batch_size must be a whole number of at least 1, but got 0"),
        ({"face_batch_size": 2.5}, "face_batch_size must be .* 2.5"),
    ],
)
def test_bad_options(pipe, options, message):
    with pytest.raises(ValueError, match=message):
        pipe(astronaut(), **options)
    with pytest.raises(ValueError, match=message):
        make_pipeline(**options)


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


def test_checkpoints_with_different_code_each_run_their_own(pipe, tmp_path):
    task, loaded = "facial-landmark-detection", {}
    for version in ("first", "second"):
        pipe.save_pretrained(tmp_path / version)
        code = tmp_path / version / "pipeline_mtld.py"
        code.write_text(f"{code.read_text()}\n\nFacialLandmarkDetectionPipeline.version = {version!r}\n")
        loaded[version] = pipeline(task, model=str(tmp_path / version), trust_remote_code=True)
    for version, own in loaded.items():
        assert own.version == version and not hasattr(pipe, "version")
        assert pipeline(task, model=str(tmp_path / version), trust_remote_code=True).version == version
        assert pipeline(task, model=own.model, image_processor=own.image_processor).version == version
        assert own(astronaut(), boxes=[BOX]) == pipe(astronaut(), boxes=[BOX])


def test_a_function_that_holds_a_pipeline_can_be_sent_to_other_processes(pipe, tmp_path):
    """As `Dataset.map(..., num_proc=2)` does."""
    pipe.save_pretrained(tmp_path)
    loaded = pipeline("facial-landmark-detection", model=str(tmp_path), trust_remote_code=True)
    for find in (pipe, loaded):
        expected = find(astronaut(), boxes=[BOX])
        find.model(torch.zeros(1, 3, 64, 64), output_attentions=True)
        sent = dill.loads(dill.dumps(lambda row, find=find: find(row["image"], boxes=[BOX])))
        assert sent({"image": astronaut()}) == expected


def test_a_loaded_model_makes_a_pipeline_as_its_name_does(pipe):
    again = pipeline("facial-landmark-detection", model=pipe.model, image_processor=pipe.image_processor)
    assert again(astronaut(), boxes=[BOX]) == pipe(astronaut(), boxes=[BOX])


def test_a_pipeline_without_an_image_processor(pipe):
    with pytest.raises(ValueError, match="image_processor must be an MTLDImageProcessor"):
        FacialLandmarkDetectionPipeline(model=pipe.model)


def test_data_sets_of_datasets_their_columns_and_iterators(pipe):
    photos = [Image.fromarray(astronaut()), Image.fromarray(astronaut()[:, ::-1])]
    faces = datasets.Dataset.from_dict({"image": photos, "name": ["a", "b"]}).cast_column("image", datasets.Image())
    expected = pipe(photos, boxes="whole")
    for images in (faces, faces["image"], iter(photos), map(np.asarray, photos)):
        assert list(pipe(images, boxes="whole")) == expected


def test_a_dict_with_boxes_beside_it(pipe):
    assert pipe({"image": astronaut()}, boxes=[BOX]) == pipe(astronaut(), boxes=[BOX])
    assert pipe({"image": astronaut(), "boxes": [BOX]}) == pipe(astronaut(), boxes=[BOX])


def test_draws_on_a_photo_of_any_kind(pipe, tmp_path):
    faces = pipe(astronaut(), boxes=[BOX])
    Image.fromarray(astronaut()).save(tmp_path / "photo.png")
    expected = draw_faces(astronaut(), faces, numbers=True, by_confidence=True)
    for photo in (astronaut(), Image.fromarray(astronaut()), tmp_path / "photo.png", str(tmp_path / "photo.png")):
        np.testing.assert_array_equal(pipe.draw(photo, faces, numbers=True, by_confidence=True), expected)
    with pytest.raises(ValueError, match="photo must be a path"):
        pipe.draw(None, faces)
    with pytest.raises(ValueError, match="point_size must be"):
        pipe.draw(astronaut(), faces, point_size=-1)


def make_face(points) -> dict:
    low, high = np.min(points, axis=0), np.max(points, axis=0)
    box = dict(zip(("xmin", "ymin", "xmax", "ymax"), [*low.tolist(), *high.tolist()]))
    marks = [{"label": name, "x": x, "y": y, "score": 1.0} for name, (x, y) in zip(NAMES, np.asarray(points).tolist())]
    return {"score": 1.0, "box": box, "landmarks": marks}


@pytest.mark.parametrize("rotation", [0, 35, -100, 180])
def test_an_aligned_face_is_upright_and_where_the_mean_face_is(pipe, rotation):
    """As a face is drawn into a photo, turned, so it is cut out of it."""
    matrix = crop_matrix(BOX, 200, rotation=rotation)
    places = transform_points(invert_matrix(matrix), FRACTIONS * 200 - 0.5)
    aligned = pipe.align(astronaut(), make_face(places), size=200)
    assert aligned.shape == (200, 200, 3) and aligned.dtype == np.uint8
    difference = np.abs(aligned.astype(int) - warp_image(astronaut(), matrix, 200))
    assert difference.max() <= 2


def test_an_aligned_face_may_lie_beside_its_photo(pipe):
    assert not pipe.align(astronaut(), make_face(FRACTIONS * 100 - 500)).any()


def test_without_a_mean_face_the_crop_is_around_the_box():
    pipe = make_pipeline(FRACTIONS * 0 + 0.5)
    pipe.image_processor.box_margins = [0.1, 0, 0, 0]
    turned = FRACTIONS[:, ::-1] * 80 + [100, 60]
    aligned = pipe.align(astronaut(), make_face(turned), size=64)
    box = pipe.image_processor.box_around([*turned.min(axis=0), *turned.max(axis=0)])
    np.testing.assert_array_equal(aligned, warp_image(astronaut(), crop_matrix(box, 64), 64))


@pytest.mark.parametrize(
    "face, options, culprit",
    [
        (make_face(FRACTIONS), {"size": 0}, "size must be a whole number from 1 to 8192, but got 0"),
        (make_face(FRACTIONS), {"size": 10_000}, "size must be"),
        (make_face(FRACTIONS), {"size": 25.6}, "size must be"),
        (make_face(FRACTIONS[:2]), {}, "face must have the model's 3 landmarks, but got 2"),
        ([make_face(FRACTIONS)], {}, "face must be a face as the pipeline returns it"),
        (make_face(FRACTIONS * 0), {}, "face must have landmarks"),
    ],
)
def test_faces_that_cannot_be_aligned_are_refused(pipe, face, options, culprit):
    with pytest.raises(ValueError, match=culprit):
        pipe.align(astronaut(), face, **options)


def test_a_tracker_follows_faces_with_this_pipeline(pipe):
    track = pipe.tracker(smooth=False)
    assert isinstance(track, LandmarkTracker)
    (face,) = track(astronaut(), 0.0)
    assert type(face["id"]) is int and len(face["landmarks"]) == 3
