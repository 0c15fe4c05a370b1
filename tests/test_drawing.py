"""Landmarks on a photo: where they are drawn, in which colours, and which of them are joined."""

import itertools

import cv2
import numpy as np
import pytest

from dataset_scripts.benchmarks import BENCHMARKS
from modeling_mtld.drawing_mtld import (
    CONFIDENCE_RANGE,
    FRAME,
    LINE,
    POINT,
    confidence_colors,
    contours,
    draw_faces,
    landmark_points,
)

NAMES = ["left_eye_0", "left_eye_1", "mouth_0", "mouth_1"]


def make_face(points, names=None, score=1.0, **more) -> dict:
    points = np.asarray(points, dtype=float)
    names = names or [str(index) for index in range(len(points))]
    box = dict(zip(("xmin", "ymin", "xmax", "ymax"), [*points.min(axis=0).tolist(), *points.max(axis=0).tolist()]))
    marks = [{"label": name, "x": x, "y": y, "score": score} for name, (x, y) in zip(names, points.tolist())]
    return {"score": score, "box": box, "landmarks": marks} | more


def square(low, high, **options) -> dict:
    return make_face([(low, low), (high, low), (low, high), (high, high)], **options)


def black(height=100, width=100) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


def shows(picture, color) -> bool:
    return bool((np.abs(picture - np.array(color, int)) < 30).all(axis=2).any())  # thin lines are dimmed at their rims


def center(picture) -> np.ndarray:
    """Of mass, (x, y)."""
    y, x = np.nonzero(picture.any(axis=2))
    return np.average(np.column_stack([x, y]), axis=0, weights=picture[y, x].sum(axis=1))


# Places and sizes ------------------------------------------------------------------------------------------------


def test_drawing_grows_with_the_face_and_small_faces_are_enlarged():
    small = draw_faces(black(), [square(20, 80, names=NAMES)])
    assert small.shape == (400, 400, 3)
    photo = black(3000, 3000)
    large = draw_faces(photo, [square(500, 2500, names=NAMES)])
    assert large.shape == photo.shape and not photo.any()
    areas = [(picture == POINT).all(axis=2).sum() for picture in (small, large)]
    assert 0 < 10 * areas[0] < areas[1]
    assert tuple(large[500, 500]) == POINT


def test_drawing_without_names_or_faces():
    photo = np.full((50, 60, 3), 7, np.uint8)
    assert (draw_faces(photo, []) == photo).all()
    picture = draw_faces(photo, [square(10, 40)])
    assert shows(picture, POINT) and not shows(picture, LINE)


@pytest.mark.parametrize("scale", [1, 3])
@pytest.mark.parametrize("width", [100, 4100, 40_000])  # beyond 32,768 OpenCV's fixed-point numbers may overflow
def test_points_are_right_below_a_pixel(width, scale):
    point = np.array([width - 30.3, 41.2])
    face = make_face([point]) | {"box": {"xmin": width - 90, "ymin": 0, "xmax": width, "ymax": 90}}
    picture = draw_faces(black(100, width), [face], boxes=False, scale=scale)
    assert center(picture) == pytest.approx((point + 0.5) * scale - 0.5, abs=0.2)


def test_the_scale_can_be_fixed():
    faces = [square(20, 80), square(5, 15)]
    assert draw_faces(black(60, 90), faces, scale=1, numbers=True).shape == (60, 90, 3)
    assert draw_faces(black(60, 90), faces, scale=2).shape == (120, 180, 3)
    assert draw_faces(black(60, 90), [], scale=2).shape == (120, 180, 3)


def test_point_size_is_a_factor():
    faces = [square(100, 900, names=NAMES)]
    areas = [
        (draw_faces(black(1000, 1000), faces, point_size=size) == POINT).all(axis=2).sum() for size in (0.5, 1, 2)
    ]
    assert 3 * areas[0] < areas[1] < areas[2] / 3


def test_faces_beyond_the_photo_are_cut_off():
    faces = [square(-5000, -4000), square(4000, 5000), square(-1e12, 1e12), square(60, 140, id=1)]
    picture = draw_faces(black(), faces, numbers=True, by_confidence=True, scale=1)
    assert picture.shape == (100, 100, 3) and picture.any()


# Switches --------------------------------------------------------------------------------------------------------


def test_contours_and_boxes_can_be_left_out():
    photo, faces = black(300, 300), [square(30, 270, names=NAMES)]
    for joined, boxes in itertools.product([False, True], repeat=2):
        picture = draw_faces(photo, faces, joined=joined, boxes=boxes)
        assert shows(picture, LINE) == joined and shows(picture, FRAME) == boxes and shows(picture, POINT)


def test_landmarks_that_the_head_hides_are_rings_without_contours():
    points, names = [(20, 20), (80, 20), (80, 80), (20, 80)], [f"jaw_{index}" for index in range(4)]
    face = make_face(points, names)
    for mark, visibility in zip(face["landmarks"], (0.9, 0.5, 0.49, 0.1)):
        mark["visibility"] = visibility
    picture = draw_faces(black(), [face], boxes=False, scale=1, point_size=5)
    middles = [tuple(picture[y, x]) for x, y in points]
    assert middles[:2] == [POINT, POINT] and middles[2:] == [(0, 0, 0), (0, 0, 0)]
    assert shows(picture[60:], POINT)  # the ring around it
    assert shows(picture[18:23, 40:60], LINE) and not shows(picture[30:], LINE)


def test_points_are_coloured_by_their_scores_and_the_box_by_the_faces():
    face = square(30, 270, names=NAMES, score=0.7)
    face["landmarks"][0]["score"], face["landmarks"][3]["score"] = 0.2, 0.99
    picture = draw_faces(black(300, 300), [face], by_confidence=True)
    low, middle, high = map(tuple, confidence_colors([0.2, 0.7, 0.99]))
    assert tuple(picture[30, 30]) == low and tuple(picture[30, 270]) == middle and tuple(picture[270, 270]) == high
    assert shows(picture[150:151, 17:20], middle)  # the frame is 5 % wider than the box
    unlike = {"low": low, "line": LINE, "white": FRAME}
    assert all(np.abs(np.subtract(high, color, dtype=int)).max() > 60 for color in unlike.values())


def test_confidence_colours_keep_their_order_without_hue():
    """The brightness of a colour, by which they are told apart in grey or by who does not see red or green."""
    scores = np.linspace(*CONFIDENCE_RANGE, 40)
    brightness = confidence_colors(scores) @ [0.299, 0.587, 0.114]
    assert (np.diff(brightness) > 0).all() and brightness[0] > 40
    assert (confidence_colors([-1, 0, 2]) == confidence_colors(CONFIDENCE_RANGE)[[0, 0, 1]]).all()


def test_the_score_and_the_number_of_a_face_are_written_at_its_box():
    photo, plain = black(400, 400), square(80, 320, score=0.8)
    pictures = [
        draw_faces(photo, [face], by_confidence=shown)
        for face, shown in [(plain, False), (plain, True), (plain | {"id": 3}, False), (plain | {"id": 3}, True)]
    ]
    above = [picture[:65].any(axis=2).sum() for picture in pictures]  # the frame begins at 68
    assert above[0] == 0 < above[2] < above[1] < above[3]
    assert not draw_faces(photo, [plain | {"id": 3}], boxes=False)[:65].any()
    at_edge = draw_faces(photo, [square(2, 320, id=3)])
    assert (at_edge[8:16, 8:16] == FRAME).any()  # inside, where there is no room above


# Numbers ---------------------------------------------------------------------------------------------------------


def letters_of(photo, face, **options) -> np.ndarray:
    """What the numbers change in a picture, (H, W)."""
    pictures = [draw_faces(photo, [face], boxes=False, numbers=numbers, **options) for numbers in (True, False)]
    return (pictures[0] != pictures[1]).any(axis=2)


def test_each_number_is_beside_its_point_and_covers_none():
    spots = np.stack(np.meshgrid([100, 130, 160, 400], [100, 125, 150, 400]), axis=-1).reshape(-1, 2)
    letters = letters_of(np.full((500, 500, 3), 90, np.uint8), make_face(spots), scale=1)
    count, regions, *_ = cv2.connectedComponentsWithStats(cv2.dilate(letters.astype(np.uint8), np.ones((3, 3))))
    assert count - 1 == len(spots)
    for x, y in spots:
        assert not letters[y - 1 : y + 2, x - 1 : x + 2].any()
        assert letters[y - 24 : y + 25, x - 24 : x + 25].any()


def test_numbers_are_told_from_any_background():
    for grey in (0, 90, 255):
        photo = np.full((300, 300, 3), grey, np.uint8)
        face = square(60, 240)
        picture = draw_faces(photo, [face], numbers=True, boxes=False, scale=1)
        brightness = picture[letters_of(photo, face, scale=1)].mean(axis=-1)
        assert np.ptp([*brightness, grey]) > 200


def test_small_faces_are_enlarged_until_their_numbers_can_be_read():
    face = square(20, 80)
    assert draw_faces(black(), [face], numbers=True).shape[0] > 2 * draw_faces(black(), [face]).shape[0]
    assert draw_faces(black(1500, 1500), [face], numbers=True).shape[0] == 3000


# Contours --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BENCHMARKS)
def test_landmarks_of_the_benchmarks_are_joined_as_their_parts_are(name):
    benchmark = BENCHMARKS[name]
    joined = [run for run, _ in contours(list(benchmark.landmark_names))]
    assert sorted(joined) == sorted(list(part.indices) for part in benchmark.parts.values() if len(part.indices) > 1)


def test_bare_numbers_and_lone_landmarks_are_not_joined():
    assert contours(["0", "1", "2"]) == []
    assert contours(["left_eye", "right_eye", "nose_0", "chin12"]) == []


def test_landmarks_of_a_part_are_joined_in_the_order_of_their_numbers():
    assert contours(["eye_10", "nose", "eye_9", "eye_2"]) == [([3, 2, 0], True)]
    assert contours(["jaw1", "jaw0"]) == [([1, 0], False)]


def closing_line(names, points) -> bool:
    """Whether the last of the landmarks is joined to the first, half way between which nothing else is."""
    picture = draw_faces(black(300, 300), [make_face(points, names)], boxes=False, scale=1)
    x, y = np.rint(np.add(points[0], points[-1]) / 2).astype(int)
    return picture[y - 1 : y + 2, x - 1 : x + 2].any()


def run(name, count) -> list[str]:
    return [f"{name}_{index}" for index in range(count)]


def test_a_part_that_goes_around_something_is_closed():
    """A brow is a line in 300W and AFLW, and goes around the hair in WFLW and COFW."""
    above = [(50, 100), (100, 60), (150, 50), (200, 60), (250, 100)]
    below = [(250, 130), (200, 95), (150, 90), (50, 125)]
    assert closing_line(run("left_brow", 9), above + below)
    assert closing_line(run("left_brow", 4), [(50, 100), (150, 50), (250, 100), (150, 90)])
    assert not closing_line(run("left_brow", 5), above)
    assert not closing_line(run("left_eye", 3), [(50, 100), (150, 60), (250, 100)])
    assert closing_line(run("left_eye", 4), [(50, 100), (60, 60), (80, 60), (250, 100)])


# Bad values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, culprit",
    [
        ({"numbers": 1}, "numbers must be True or False, but got 1"),
        ({"joined": "no"}, "joined must be"),
        ({"boxes": None}, "boxes must be"),
        ({"by_confidence": 0.5}, "by_confidence must be"),
        ({"point_size": 0}, "point_size must be a number above 0 and at most 10, but got 0"),
        ({"point_size": float("nan")}, "point_size must be"),
        ({"point_size": "2"}, "point_size must be"),
        ({"point_size": True}, "point_size must be"),
        ({"scale": 0}, "scale must be None or a whole number from 1 to 100, but got 0"),
        ({"scale": 1.5}, "scale must be"),
        ({"scale": True}, "scale must be"),
    ],
)
def test_bad_options_are_refused(options, culprit):
    with pytest.raises(ValueError, match=culprit):
        draw_faces(black(), [], **options)


@pytest.mark.parametrize("photo", [None, black()[:, :, 0], black().astype(float), black()[..., :2], black(0, 5)])
def test_other_photos_are_refused(photo):
    with pytest.raises(ValueError, match="photo must "):
        draw_faces(photo, [])


GOOD = square(10, 50)


@pytest.mark.parametrize(
    "faces, culprit",
    [
        (GOOD, "faces must be the list of a photo's faces, but got dict"),
        ([[GOOD]], r"faces\[0\] must be a face as the pipeline returns it"),
        ([GOOD, {"box": GOOD["box"]}], r"faces\[1\] must be a face"),
        ([GOOD | {"box": None}], r"faces\[0\] must be a face"),
        ([GOOD | {"landmarks": [{"label": "0", "x": "left", "y": 1}]}], r"faces\[0\] must be a face"),
        ([square(float("nan"), 5)], r"faces\[0\] must have finite landmarks"),
        ([GOOD | {"score": None}], r"faces\[0\] must (be a face|have a finite box and scores)"),
    ],
)
def test_other_faces_are_refused(faces, culprit):
    with pytest.raises(ValueError, match=culprit):
        draw_faces(black(), faces, by_confidence=True)


def test_scores_are_needed_only_where_they_are_shown():
    face = {"box": GOOD["box"], "landmarks": [{k: m[k] for k in ("label", "x", "y")} for m in GOOD["landmarks"]]}
    assert draw_faces(black(), [face]).any()
    with pytest.raises(ValueError, match=r"faces\[0\] must be a face"):
        draw_faces(black(), [face], by_confidence=True)


def test_landmark_points():
    assert (landmark_points(GOOD) == [[10, 10], [50, 10], [10, 50], [50, 50]]).all()
    with pytest.raises(ValueError, match="face must be a face as the pipeline returns it, but got 'face'"):
        landmark_points("face")
