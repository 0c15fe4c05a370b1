import logging
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage.data import astronaut, coffee

from modeling_mtld import face_detection_mtld
from modeling_mtld.face_detection_mtld import detect_faces

SHARED = Path(__file__).resolve().parents[2] / "shared"
# The astronaut's landmark box as seen by eye: brows to chin, ear to ear.
ASTRONAUT = np.array([178, 84, 272, 178])


def overlap(first, second) -> float:
    """Intersection over union."""
    shared = face_detection_mtld.box_overlap(np.asarray(first, float), np.asarray(second, float)[None])[0]
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return shared / (sum(areas) - shared)


def test_finds_the_astronaut_as_a_landmark_box():
    boxes, scores = detect_faces(astronaut())
    assert boxes.shape == (1, 4) and scores.shape == (1,)
    assert overlap(boxes[0], ASTRONAUT) > 0.7
    assert 0.5 <= scores[0] <= 1


def test_box_of_a_big_photo_is_in_its_own_pixels():
    photo = cv2.resize(astronaut()[:256, 96:352], (1500, 1500))
    boxes, _ = detect_faces(photo)
    assert len(boxes) == 1
    assert overlap((boxes[0] + 0.5) * 256 / 1500 - 0.5 + [96, 0, 96, 0], ASTRONAUT) > 0.7


def test_largest_face_first():
    face = astronaut()[64:224, 144:304]
    photo = np.zeros((320, 512, 3), dtype=np.uint8)
    photo[80:240, :160] = face
    photo[:, 192:] = cv2.resize(face, (320, 320))
    boxes, _ = detect_faces(photo)
    sides = boxes[:, 2] - boxes[:, 0]
    assert len(boxes) == 2
    assert boxes[0, 0] > 192 and sides[0] == pytest.approx(2 * sides[1], rel=0.1)


@pytest.mark.parametrize("wide", [False, True])
def test_long_picture_is_looked_at_in_parts(wide):
    face, start = astronaut()[40:240, 130:330], 3650  # where neither of two parts that follow each other has all of it
    photo = np.zeros((200, 5000, 3) if wide else (5000, 200, 3), np.uint8)
    photo[(slice(None), slice(start, start + 200)) if wide else slice(start, start + 200)] = face
    expected = ASTRONAUT - [130, 40, 130, 40] + ([start, 0, start, 0] if wide else [0, start, 0, start])
    boxes, _ = detect_faces(photo)
    assert len(boxes) == 1 and overlap(boxes[0], expected) > 0.7


def test_no_picture_has_more_than_a_hundred_parts():
    parts = list(face_detection_mtld._parts(np.zeros((1, 20_000_000, 1), np.uint8)))
    assert len(parts) <= 100 and parts[-1][0] + parts[-1][2].shape[1] == 20_000_000


def test_a_face_at_the_edge_of_a_part_is_given_once(monkeypatch):
    """By a detector that sees any part of a face."""

    def see(image):
        rows, columns = np.nonzero(image.max(axis=2) > 128)
        box = [columns.min() - 0.5, rows.min() - 0.5, columns.max() + 0.5, rows.max() + 0.5] if len(rows) else []
        return np.array(box).reshape(-1, 4), np.ones(int(len(rows) > 0))

    monkeypatch.setattr(face_detection_mtld._yunet, "load", lambda: None)
    monkeypatch.setattr(face_detection_mtld, "_run_haar", see)
    for start in range(700, 1100, 40):
        photo = np.zeros((3000, 200, 3), np.uint8)
        photo[start : start + 150, 20:170] = 255
        boxes, _ = detect_faces(photo)
        assert len(boxes) == 1 and overlap(boxes[0], [19.5, start - 0.5, 169.5, start + 149.5]) > 0.95


@pytest.mark.parametrize(
    "size", [(40_000, 512), (40_000, 3), (40_000, 40), (512, 40_000), (2000, 700), (999, 1), (3, 3)]
)
def test_parts_cover_a_picture_and_overlap(size):
    photo, seen = np.zeros((*size, 1), np.uint8), []
    for left, top, part in face_detection_mtld._parts(photo):
        part += 1
        seen.append((top + left, max(part.shape[:2])))
    assert photo.min() == 1 and len(seen) < 80
    for (start, length), (following, _) in zip(seen, seen[1:]):
        assert start < following <= start + length - min(size)


def test_small_face_in_a_picture_of_40000_pixels(monkeypatch):
    """By a detector that sees whatever is bright, and 30 pixels long."""

    def see(image):
        rows, columns = np.nonzero(image.max(axis=2) > 128)
        found = len(rows) > 0 and np.ptp(rows) >= 29
        box = [columns.min() - 0.5, rows.min() - 0.5, columns.max() + 0.5, rows.max() + 0.5] if found else []
        return np.array(box).reshape(-1, 4), np.ones(int(found))

    monkeypatch.setattr(face_detection_mtld._yunet, "load", lambda: None)
    monkeypatch.setattr(face_detection_mtld, "_run_haar", see)
    photo = np.zeros((40_000, 512, 3), np.uint8)
    photo[31_000:31_092, 100:192] = 255
    boxes, _ = detect_faces(photo)
    assert overlap(boxes[0], [99.5, 30_999.5, 191.5, 31_091.5]) > 0.95 and len(boxes) == 1


@pytest.mark.parametrize(
    "photo", [coffee()[::2, ::2].copy(), np.full((300, 400, 3), 127, np.uint8), np.zeros((2, 1, 3), np.uint8)]
)
def test_photo_without_a_face(photo):
    boxes, scores = detect_faces(photo)
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
        self.seen = []

    def setInputSize(self, size):
        self.size = size

    def detect(self, image):
        assert image.shape[1::-1] == self.size
        self.seen.append(image)
        points = self.points * self.size - 0.5
        low, high = points.min(axis=0), points.max(axis=0)
        return 1, np.concatenate([low, high - low, points.ravel(), [0.9]])[None].astype(np.float32)


def test_yunet_face_seen_in_two_copies_is_one_landmark_box(monkeypatch):
    yunet = FakeYuNet()
    monkeypatch.setattr(face_detection_mtld._yunet, "detector", yunet)
    photo = np.zeros((2000, 2000, 3), np.uint8)
    photo[..., 0] = 200
    boxes, scores = detect_faces(photo)
    assert scores == pytest.approx([0.9])
    assert [image.shape[1] for image in yunet.seen] == [320, 1000]
    assert (yunet.seen[0][0, 0] == [0, 0, 200]).all()  # OpenCV's order of the channels
    # eyes at 800, mouth at 1200: the centre of the landmark box is a little below the middle between them
    center, side = (boxes[0, :2] + boxes[0, 2:]) / 2, boxes[0, 2:] - boxes[0, :2]
    assert center == pytest.approx([999.5, 999.5 + 0.147 * 400], abs=1)
    assert side[0] == pytest.approx(side[1]) and 800 < side[0] < 1000


@pytest.fixture
def load_yunet(monkeypatch):
    """Loading as in a fresh process."""
    monkeypatch.setattr(face_detection_mtld, "try_to_load_from_cache", lambda *_: None)
    return face_detection_mtld._YuNet().load


def forbidden(*_, **__):
    raise AssertionError("the network was used")


def test_offline_never_asks_the_hub(monkeypatch, load_yunet, caplog):
    monkeypatch.setattr(face_detection_mtld.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(face_detection_mtld, "get_session", forbidden)
    monkeypatch.setattr(face_detection_mtld, "hf_hub_download", forbidden)
    with caplog.at_level(logging.INFO):
        assert load_yunet() is None
    assert [record.levelname for record in caplog.records] == ["INFO"]


def test_gives_up_on_a_silent_hub(monkeypatch, load_yunet):
    monkeypatch.setattr(face_detection_mtld.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(face_detection_mtld, "HUB_SECONDS", 0.1)
    monkeypatch.setattr(face_detection_mtld, "get_session", lambda: time.sleep(5))
    monkeypatch.setattr(face_detection_mtld, "hf_hub_download", forbidden)
    start = time.monotonic()
    assert load_yunet() is None
    assert time.monotonic() - start < 3


def test_broken_model_file_falls_back(monkeypatch, load_yunet, tmp_path, caplog):
    broken = tmp_path / "yunet.onnx"
    broken.write_bytes(b"not a model")
    monkeypatch.setattr(face_detection_mtld, "try_to_load_from_cache", lambda *_: str(broken))
    with caplog.at_level(logging.INFO):
        assert load_yunet() is None
    assert len(caplog.records) == 1 and caplog.records[0].exc_info is None


def test_a_missed_download_is_tried_again_later(monkeypatch, load_yunet):
    monkeypatch.setattr(face_detection_mtld, "HUB_SECONDS", 0.1)
    tries = []
    monkeypatch.setattr(face_detection_mtld, "_yunet_path", lambda: tries.append(1))
    assert load_yunet() is load_yunet() is None and len(tries) == 1
    later = time.monotonic() + 61
    monkeypatch.setattr(face_detection_mtld.time, "monotonic", lambda: later)
    monkeypatch.setattr(face_detection_mtld, "_yunet_path", lambda: "yunet.onnx")
    monkeypatch.setattr(face_detection_mtld.cv2, "FaceDetectorYN", type("", (), {"create": lambda *_: "detector"}))
    assert load_yunet() == load_yunet() == "detector"


@pytest.mark.skipif(not (SHARED / "data" / "300w").is_dir(), reason="needs ../shared/data/300w")
def test_boxes_of_real_faces():
    names = (SHARED / "data" / "300w_validation.txt").read_text().split()[::10]
    overlaps = []
    for name in names:
        path = SHARED / "data" / "300w" / name
        lines = path.with_suffix(".pts").read_text().splitlines()
        points = np.array([line.split() for line in lines[3:71]], dtype=float) - 1
        boxes, _ = detect_faces(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB))
        truth = np.concatenate([points.min(axis=0), points.max(axis=0)])
        overlaps.append(max((overlap(box, truth) for box in boxes), default=0))
    assert np.mean(np.array(overlaps) > 0.5) >= 0.8
