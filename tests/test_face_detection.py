import logging
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from skimage.data import astronaut, coffee

from modeling_mtld import face_detection_mtld, hub_reach_mtld, photo_parts_mtld, yunet_mtld
from modeling_mtld.face_detection_mtld import detect_faces, load_detector
from modeling_mtld.geometry_mtld import box_overlap, turn_points
from modeling_mtld.haar_mtld import Haar
from modeling_mtld.yunet_mtld import BOX_SHIFT, BOX_SIDE, YuNet, YuNetFromHub, landmark_boxes

SHARED = Path(__file__).resolve().parents[2] / "shared"
YUNET = SHARED / "weights" / "face_detection_yunet_2023mar.onnx"
needs_yunet = pytest.mark.skipif(not YUNET.is_file(), reason=f"needs ../shared/weights/{YUNET.name}")
# The astronaut's landmark box as seen by eye: brows to chin, ear to ear.
ASTRONAUT = np.array([178, 84, 272, 178])


def overlap(first, second) -> float:
    """Intersection over union."""
    shared = box_overlap(np.asarray(first, float), np.asarray(second, float)[None])[0]
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return shared / (sum(areas) - shared)


def test_finds_the_astronaut_as_a_landmark_box():
    boxes, scores, _ = detect_faces(astronaut())
    assert boxes.shape == (1, 4) and scores.shape == (1,)
    assert overlap(boxes[0], ASTRONAUT) > 0.7
    assert 0.5 <= scores[0] <= 1


def test_box_of_a_big_photo_is_in_its_own_pixels():
    photo = cv2.resize(astronaut()[:256, 96:352], (1500, 1500))
    boxes, *_ = detect_faces(photo)
    assert len(boxes) == 1
    assert overlap((boxes[0] + 0.5) * 256 / 1500 - 0.5 + [96, 0, 96, 0], ASTRONAUT) > 0.7


def test_largest_face_first():
    face = astronaut()[64:224, 144:304]
    photo = np.zeros((320, 512, 3), dtype=np.uint8)
    photo[80:240, :160] = face
    photo[:, 192:] = cv2.resize(face, (320, 320))
    boxes, *_ = detect_faces(photo)
    sides = boxes[:, 2] - boxes[:, 0]
    assert len(boxes) == 2
    assert boxes[0, 0] > 192 and sides[0] == pytest.approx(2 * sides[1], rel=0.1)


@pytest.mark.parametrize("wide", [False, True])
def test_long_picture_is_looked_at_in_parts(wide):
    face, start = astronaut()[40:240, 130:330], 3650  # where neither of two parts that follow each other has all of it
    photo = np.zeros((200, 5000, 3) if wide else (5000, 200, 3), np.uint8)
    photo[(slice(None), slice(start, start + 200)) if wide else slice(start, start + 200)] = face
    expected = ASTRONAUT - [130, 40, 130, 40] + ([start, 0, start, 0] if wide else [0, start, 0, start])
    boxes, *_ = detect_faces(photo)
    assert len(boxes) == 1 and overlap(boxes[0], expected) > 0.7


def test_no_picture_has_more_than_a_hundred_parts():
    parts = list(photo_parts_mtld._parts(np.zeros((1, 20_000_000, 1), np.uint8)))
    assert len(parts) <= 100 and parts[-1][0] + parts[-1][2].shape[1] == 20_000_000


class BrightPlace(Haar):
    """A detector that sees whatever is bright and `length` pixels long."""

    def __init__(self, length: int):
        self.length = length

    def __call__(self, image):
        rows, columns = np.nonzero(image.max(axis=2) > 128)
        if len(rows) == 0 or np.ptp(rows) < self.length - 1:
            return np.zeros((0, 4)), np.zeros(0)
        box = [columns.min() - 0.5, rows.min() - 0.5, columns.max() + 0.5, rows.max() + 0.5]
        return np.array([box]), np.ones(1)


def test_a_face_at_the_edge_of_a_part_is_given_once(monkeypatch):
    """By a detector that sees any part of a face."""
    monkeypatch.setattr(face_detection_mtld._yunet, "load", lambda: BrightPlace(length=1))
    for start in range(700, 1100, 40):
        photo = np.zeros((3000, 200, 3), np.uint8)
        photo[start : start + 150, 20:170] = 255
        boxes, *_ = detect_faces(photo)
        assert len(boxes) == 1 and overlap(boxes[0], [19.5, start - 0.5, 169.5, start + 149.5]) > 0.95


@pytest.mark.parametrize(
    "size", [(40_000, 512), (40_000, 3), (40_000, 40), (512, 40_000), (2000, 700), (999, 1), (3, 3)]
)
def test_parts_cover_a_picture_and_overlap(size):
    photo, seen = np.zeros((*size, 1), np.uint8), []
    for left, top, part in photo_parts_mtld._parts(photo):
        part += 1
        seen.append((top + left, max(part.shape[:2])))
    assert photo.min() == 1 and len(seen) < 80
    for (start, length), (following, _) in zip(seen, seen[1:]):
        assert start < following <= start + length - min(size)


def test_small_face_in_a_picture_of_40000_pixels(monkeypatch):
    monkeypatch.setattr(face_detection_mtld._yunet, "load", lambda: BrightPlace(length=30))
    photo = np.zeros((40_000, 512, 3), np.uint8)
    photo[31_000:31_092, 100:192] = 255
    boxes, *_ = detect_faces(photo)
    assert overlap(boxes[0], [99.5, 30_999.5, 191.5, 31_091.5]) > 0.95 and len(boxes) == 1


@pytest.mark.parametrize(
    "photo", [coffee()[::2, ::2].copy(), np.full((300, 400, 3), 127, np.uint8), np.zeros((2, 1, 3), np.uint8)]
)
def test_photo_without_a_face(photo):
    boxes, scores, _ = detect_faces(photo)
    assert boxes.shape == (0, 4) and scores.shape == (0,)


@pytest.mark.parametrize(
    "photo",
    ["photo.jpg", np.zeros((20, 20), np.uint8), np.zeros((20, 20, 3), np.float32), np.zeros((0, 20, 3), np.uint8)],
)
def test_refuses_what_is_not_a_uint8_photo(photo):
    with pytest.raises(ValueError, match=r"image must be a uint8 array \(H, W, 3\), but got"):
        detect_faces(photo)


class FakeYuNet:
    """Sees one face, at the same place of the photo in every copy of it."""

    points = np.array([[0.4, 0.4], [0.6, 0.4], [0.5, 0.5], [0.42, 0.6], [0.58, 0.6]])

    def __init__(self):
        self.seen, self.score = [], 0.95

    def setInputSize(self, size):
        self.size = size

    def detect(self, image):
        assert image.shape[1::-1] == self.size
        self.seen.append(image)
        points, low = self.points * self.size - 0.5, np.multiply(0.4, self.size) - 0.5
        return 1, np.concatenate([low, np.multiply(0.2, self.size), points.ravel(), [self.score]])[None].astype(
            np.float32
        )


@pytest.fixture
def yunet(monkeypatch):
    """YuNet with a network that sees one face."""
    network = FakeYuNet()
    monkeypatch.setattr(yunet_mtld.cv2, "FaceDetectorYN", SimpleNamespace(create=lambda *_: network))
    monkeypatch.setattr(face_detection_mtld._yunet, "detector", YuNet("yunet.onnx"))
    return network


def test_yunet_face_seen_in_two_copies_is_one_landmark_box(yunet):
    photo = np.zeros((2000, 2000, 3), np.uint8)
    photo[..., 0] = 200
    boxes, scores, turns = detect_faces(photo)
    assert scores == pytest.approx([0.95]) and turns.tolist() == [0]
    assert [image.shape[1] for image in yunet.seen] == [320, 1000]
    assert (yunet.seen[0][0, 0] == [0, 0, 200]).all()  # OpenCV's order of the channels
    # the detector's box from 800 to 1200: the centre of the landmark box is a little below
    center, side = (boxes[0, :2] + boxes[0, 2:]) / 2, boxes[0, 2:] - boxes[0, :2]
    assert center == pytest.approx([999.5, 999.5 + BOX_SHIFT * 400], abs=1)
    assert side == pytest.approx([BOX_SIDE * 400] * 2, abs=1)


def test_a_certain_face_needs_no_turned_photo(yunet):
    photo = np.zeros((300, 300, 3), np.uint8)
    assert len(detect_faces(photo, quarter_turns=None).boxes) == 1 and len(yunet.seen) == 1
    yunet.score = 0.8
    detect_faces(photo, quarter_turns=None)
    assert len(yunet.seen) == 1 + 4


def test_landmark_boxes_follow_a_face_that_lies():
    """A face turned by 90 degrees has the landmark box of the upright one, turned by 90 degrees."""
    box, points = np.array([10.0, 20, 50, 80]), np.array([[20.0, 40], [40, 40], [30, 50], [22, 65], [38, 65]])
    (upright,) = landmark_boxes([box], [points])
    (turned,) = landmark_boxes(
        [np.sort(turn_points(box.reshape(2, 2), 1, 100, 100), axis=0).ravel()], [turn_points(points, 1, 100, 100)]
    )
    expected = np.sort(turn_points(upright.reshape(2, 2), 1, 100, 100), axis=0).ravel()
    assert turned == pytest.approx(expected) and upright[1] > 20
    assert landmark_boxes(SimpleNamespace(xyxy=np.array([box])))[0] == pytest.approx(upright, abs=1)
    assert landmark_boxes([]).shape == (0, 4)


@pytest.mark.parametrize(
    "detections, points, named",
    [
        ([[1, 2, 3]], None, "detections"),
        ([[0, 0, 9, 9]], [[[1, 2]]], "points"),
        ([[[0, 0, 9, 9]]], None, "detections"),
    ],
)
def test_landmark_boxes_of_other_shapes(detections, points, named):
    with pytest.raises(ValueError, match=f"{named} must have"):
        landmark_boxes(detections, points)


@pytest.mark.parametrize("turns", [1, 2, 3])
@pytest.mark.parametrize("quarter_turns", [None, True])
def test_faces_that_lie_or_are_upside_down(turns, quarter_turns):
    """The astronaut alone, where the cascades see nothing but her upright face."""
    photo = np.ascontiguousarray(np.rot90(astronaut()[40:240, 120:330], turns))
    boxes, _, found_turns = detect_faces(photo, "haar", quarter_turns)
    box = (ASTRONAUT - [120, 40, 120, 40]).reshape(2, 2)
    expected = np.sort(turn_points(box, turns, 210, 200), axis=0).ravel()
    assert found_turns.tolist() == [(-turns) % 4]
    assert overlap(boxes[0], expected) > 0.7


def test_a_detector_of_ones_own():
    def detector(image):
        assert image.shape == (60, 50, 3)
        return [[10, 10, 30, 30], [5, 5, 45, 45]], [0.5, 0.9]

    boxes, scores, _ = detect_faces(np.zeros((60, 50, 3), np.uint8), detector)
    assert boxes.tolist() == [[5, 5, 45, 45]] and scores.tolist() == [0.9]  # the other overlaps with it
    assert len(detect_faces(np.zeros((60, 50, 3), np.uint8), lambda image: ([], [])).boxes) == 0


@pytest.mark.parametrize("result", [5, ([[1, 2, 3]], [1]), ([[0, 0, 1, np.nan]], [1]), ([[0, 0, 1, 1]], [1, 1]), None])
def test_result_of_a_detector_that_is_none(result):
    with pytest.raises(ValueError, match="detector must return"):
        detect_faces(np.zeros((60, 50, 3), np.uint8), lambda image: result)


def test_detector_that_is_not_there(tmp_path, load_yunet, monkeypatch):
    (tmp_path / "text.onnx").write_text("no model")
    monkeypatch.setattr(yunet_mtld, "hub_answers", lambda: False)
    for name, message in [
        ("opencv", "detector must be 'yunet', 'haar'"),
        (str(tmp_path / "text.onnx"), "text.onnx must be a model of YuNet"),
        ("org/nothing", "detector 'org/nothing' cannot be loaded: .*the Hub cannot be reached"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_detector(name)


@pytest.fixture
def load_yunet(monkeypatch):
    """Loading as in a fresh process."""
    monkeypatch.setattr(yunet_mtld, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(face_detection_mtld, "_yunet", YuNetFromHub())
    return face_detection_mtld._yunet.load


def forbidden(*_, **__):
    raise AssertionError("the network was used")


def test_what_looks_for_faces_is_logged_once(monkeypatch, load_yunet, caplog):
    monkeypatch.setattr(yunet_mtld.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub_reach_mtld, "get_session", forbidden)
    monkeypatch.setattr(yunet_mtld, "hf_hub_download", forbidden)
    face_detection_mtld._log_once.cache_clear()
    with caplog.at_level(logging.INFO):
        assert isinstance(load_detector(), Haar) and isinstance(load_detector(), Haar)
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "Haar cascades" in caplog.text and "not in the cache" in caplog.text


def test_gives_up_on_a_silent_hub(monkeypatch, load_yunet):
    monkeypatch.setattr(yunet_mtld.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub_reach_mtld, "HUB_SECONDS", 0.1)
    monkeypatch.setattr(hub_reach_mtld, "get_session", lambda: time.sleep(5))
    monkeypatch.setattr(yunet_mtld, "hf_hub_download", forbidden)
    start = time.monotonic()
    assert load_yunet() is None
    assert time.monotonic() - start < 3


def test_a_download_that_stalls_does_not_keep_the_photo_waiting(monkeypatch, load_yunet):
    monkeypatch.setattr(yunet_mtld.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(yunet_mtld, "DOWNLOAD_SECONDS", 0.1)
    monkeypatch.setattr(yunet_mtld, "hub_answers", lambda: True)
    monkeypatch.setattr(yunet_mtld, "hf_hub_download", lambda *_: time.sleep(5))
    start = time.monotonic()
    assert load_yunet() is None
    assert time.monotonic() - start < 3


def test_broken_model_file_falls_back(monkeypatch, load_yunet, tmp_path):
    broken = tmp_path / "yunet.onnx"
    broken.write_bytes(b"not a model")
    monkeypatch.setattr(yunet_mtld, "try_to_load_from_cache", lambda *_: str(broken))
    assert load_yunet() is None and isinstance(load_detector(), Haar)


def test_a_missed_download_is_tried_again_later(monkeypatch, load_yunet, yunet):
    source, tries = YuNetFromHub(), []
    monkeypatch.setattr(yunet_mtld, "download_yunet", lambda _: tries.append(1) or 1 / 0)
    assert source.load() is source.load() is None and len(tries) == 1
    later = time.monotonic() + 61
    monkeypatch.setattr(yunet_mtld.time, "monotonic", lambda: later)
    monkeypatch.setattr(yunet_mtld, "download_yunet", lambda _: "yunet.onnx")
    assert isinstance(source.load(), YuNet) and source.load() is source.load()


@needs_yunet
def test_yunet_itself_finds_the_astronaut_in_any_turn():
    for turns in range(4):
        boxes, scores, found = detect_faces(np.ascontiguousarray(np.rot90(astronaut(), turns)), str(YUNET), None)
        expected = np.sort(turn_points(ASTRONAUT.reshape(2, 2), turns, 512, 512), axis=0).ravel()
        assert overlap(boxes[np.argmax(scores)], expected) > 0.8 and found[np.argmax(scores)] == -turns % 4


@pytest.mark.skipif(not (SHARED / "data" / "300w").is_dir(), reason="needs ../shared/data/300w")
@pytest.mark.parametrize("detector", ["haar", pytest.param(str(YUNET), marks=needs_yunet)])
def test_boxes_of_real_faces(detector):
    names = (SHARED / "data" / "300w_validation.txt").read_text().split()[::10]
    overlaps = []
    for name in names:
        path = SHARED / "data" / "300w" / name
        lines = path.with_suffix(".pts").read_text().splitlines()
        points = np.array([line.split() for line in lines[3:71]], dtype=float) - 1
        boxes, *_ = detect_faces(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB), detector)
        truth = np.concatenate([points.min(axis=0), points.max(axis=0)])
        overlaps.append(max((overlap(box, truth) for box in boxes), default=0))
    assert np.mean(np.array(overlaps) > 0.5) >= (0.8 if detector == "haar" else 1)
