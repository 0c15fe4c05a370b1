import json

import numpy as np
import pytest

from modeling_mtld import jitter
from modeling_mtld.detect import CHECKPOINT
from modeling_mtld.image_processing_mtld import check_photo_boxes
from modeling_mtld.tracking_mtld import LandmarkTracker, OneEuroFilter

FACE = 100.0  # pixels
SHAPE = np.random.default_rng(7).uniform(-0.5, 0.5, (68, 2))  # of a face, in its size
SHAPE = (SHAPE - SHAPE.min(axis=0)) / np.ptp(SHAPE, axis=0) - 0.5
FRAME = np.zeros((480, 640, 3), dtype=np.uint8)


class Scene:
    """Stands in for the pipeline: faces at known places, seen where a crop is on them, with noise of a known size.

    Args:
        places: by face, a function from seconds to its centre and size (x, y, size), or None while it cannot be seen.
        noise: of each landmark, and half as much of the whole face, in face sizes.
    """

    min_score = 0.5

    def __init__(self, *places, noise=0.0, score=0.9):
        self.places, self.noise, self.score = places, noise, score
        self.guess = lambda center, size: self._face((*center, size), min(0.3, score) if score < 1 else 1.0)
        self.seconds, self.frame, self.searches = 0.0, FRAME, 0
        self.random = np.random.default_rng(0)
        self.box_around = lambda box: box

    def __call__(self, frame, boxes=None, min_score=None):
        height, width = frame.shape[:2]
        seen = [place for place in (place(self.seconds) for place in self.places) if place is not None]
        if boxes is None:
            self.searches += 1
            inside = [p for p in seen if 0 <= p[0] < width and 0 <= p[1] < height]
            return [self._face(place, self.score) for place in sorted(inside, key=lambda place: -place[2])]
        return [self._crop(box, seen) for box in check_photo_boxes(boxes, width, height)]

    def _crop(self, box, seen):
        """The face whose centre is nearest, if it is in the crop and about as large; else a guess with a low score."""
        center, size = (box[:2] + box[2:]) / 2, max(box[2:] - box[:2])
        near = [p for p in seen if max(abs(p[:2] - center)) < 0.6 * size and 0.5 < p[2] / size < 2]
        if near:
            return self._face(min(near, key=lambda place: np.linalg.norm(place[:2] - center)), self.score)
        return self.guess(center, size)

    def _face(self, place, score):
        noise = self.random.normal(0, self.noise, SHAPE.shape) + self.random.normal(0, self.noise / 2, 2)
        points = np.array(place[:2]) + place[2] * (SHAPE + noise)
        corners = [*points.min(axis=0), *points.max(axis=0)]
        marks = [{"label": str(i), "x": x, "y": y, "score": score} for i, (x, y) in enumerate(points.tolist())]
        return {"score": score, "box": dict(zip(("xmin", "ymin", "xmax", "ymax"), corners)), "landmarks": marks}

    def play(self, tracker, times):
        """What the tracker returns for each of the times."""
        results = []
        for self.seconds in times:
            results.append(tracker(self.frame, self.seconds))
        return results


def still(x=320.0, y=240.0, size=FACE):
    return lambda seconds: np.array([x, y, size])


def moving(speed_x, x=320.0, y=240.0):
    return lambda seconds: np.array([x + speed_x * seconds, y, FACE])


def during(start, end, place):
    return lambda seconds: place(seconds) if start <= seconds < end else None


def frames(seconds, fps=30):
    return np.arange(round(seconds * fps)) / fps


def ids(results):
    return [[face["id"] for face in faces] for faces in results]


def centers(results):
    return np.array([[np.mean([mark[axis] for mark in faces[0]["landmarks"]]) for axis in "xy"] for faces in results])


def landmarks(results):
    return np.array([[[mark["x"], mark["y"]] for mark in faces[0]["landmarks"]] for faces in results])


def track(*places, times, noise=0.0, smooth=True, **options):
    scene = Scene(*places, noise=noise)
    return scene.play(LandmarkTracker(scene, smooth=smooth, **options), times)


@pytest.mark.parametrize("fps", [10, 25, 30, 60])
@pytest.mark.parametrize("noise", [0.0005, 0.002, 0.004])  # the network's is 0.0015 to 0.004
@pytest.mark.parametrize("size", [30.0, 300.0])
def test_a_still_face_jitters_at_least_four_times_less(fps, noise, size):
    times = frames(4, fps)
    off, on = (track(still(size=size), times=times, noise=noise, smooth=smooth) for smooth in (False, True))
    measured = [jitter.jitter(landmarks(results)[fps:], size) for results in (off, on)]
    assert measured[0]["motion"] > 4 * measured[1]["motion"]
    assert measured[0]["spread"] > 4 * measured[1]["spread"]


@pytest.mark.parametrize("fps", [10, 25, 30, 60])
@pytest.mark.parametrize("noise", [0.0015, 0.003])
@pytest.mark.parametrize("motion", jitter.make_paths(30))
def test_a_moving_face_is_at_most_one_frame_late_from_the_start_on(fps, noise, motion):
    path = jitter.make_paths(fps)[motion] * FACE
    times = np.arange(len(path)) / fps

    def place(seconds):
        return np.array([*(path[round(seconds * fps)] + [320, 240]), FACE])

    points = landmarks(track(place, times=times, noise=noise))
    is_slow = motion == "pan, 0.1 faces/s" and noise == 0.003
    assert jitter.lag(points, path, slice(fps, None)) <= (1.25 if is_slow and fps == 60 else 1)
    assert jitter.lag(points, path, slice(fps, fps + max(3, round(0.3 * fps)))) <= (1.5 if is_slow else 1)


@pytest.mark.parametrize("speed", [0.01, 0.03, 0.05])
@pytest.mark.parametrize("fps", [25, 30, 60])
def test_a_creeping_face_is_late_by_a_small_part_of_its_size(speed, fps):
    results = track(moving(speed * FACE), times=frames(5, fps), noise=0.003)
    offsets = centers(results) - centers(results)[0] - speed * FACE * frames(5, fps)[:, None] * [1, 0]
    assert np.abs(offsets[fps:].mean(axis=0)).max() < 0.01 * FACE


@pytest.mark.parametrize("noise", [0.0015, 0.003])
@pytest.mark.parametrize("depth", [0.03, 0.04, 0.05])
def test_a_blink_is_seen_whole(noise, depth):
    lid, random, one_euro = [37, 38, 43, 44], np.random.default_rng(0), OneEuroFilter()
    closed = np.zeros(120)
    closed[45:53] = [0.25, 0.5, 0.75, 1, 1, 0.75, 0.5, 0.25]
    true = np.repeat(SHAPE[None], 120, axis=0)
    true[:, lid, 1] += depth * closed[:, None]
    noisy = true + random.normal(0, noise, true.shape) + random.normal(0, noise / 2, (120, 1, 2))
    filtered = np.array([one_euro(points, index / 30, 1.0) for index, points in enumerate(noisy)])
    shown = (filtered[:, lid, 1] - SHAPE[lid, 1]).mean(axis=1) / depth
    assert shown[44:60].max() > 0.9
    assert abs(shown[63:]).max() < 0.12  # a third of a second after it opened


def test_turns_and_zooms_and_single_landmarks_are_at_most_one_frame_late():
    fps, shape = 30, SHAPE - SHAPE.mean(axis=0)
    angles = np.concatenate([np.zeros(fps), np.deg2rad(20) * np.sin(np.pi * np.arange(2 * fps) / fps)])
    turned = np.array([shape @ [[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]] for a in angles])
    zoomed = np.array([shape * np.exp(a) for a in angles])
    opening = np.repeat(shape[None], len(angles), axis=0)
    opening[:, :8, 1] += np.abs(angles)[:, None] / 2
    for true in (turned, zoomed, opening):
        noisy = true + np.random.default_rng(0).normal(0, 0.0015, true.shape)
        one_euro = OneEuroFilter()
        filtered = np.array([one_euro(points, index / fps, 1.0) for index, points in enumerate(noisy)])
        errors = [np.linalg.norm(filtered[fps + 1 :] - other) for other in (true[fps + 1 :], true[fps - 1 : -2])]
        assert errors[0] < errors[1]  # nearer to now than to two frames ago: less than one late


def test_uneven_repeated_and_backward_times_do_no_harm():
    random = np.random.default_rng(1)
    times = np.cumsum(random.choice([0.01, 0.03, 0.2], 200)) + 1e6
    points = np.array([SHAPE * FACE + random.normal(0, 0.15, SHAPE.shape) for _ in times])
    for stamps in (times, np.zeros(200), -times, np.repeat(times[::2], 2)):
        one_euro = OneEuroFilter()
        filtered = np.array([one_euro(p, seconds, FACE) for p, seconds in zip(points, stamps)])
        assert np.isfinite(filtered).all()
        assert jitter.jitter(filtered[100:], FACE)["spread"] < jitter.jitter(points[100:], FACE)["spread"] / 3


@pytest.mark.parametrize("steps", [[5e-324, 1e-300], [1e300, 1e307], [1e-9, 1e9]])
def test_tiny_and_huge_steps_do_not_overflow(steps):
    random, one_euro, seconds = np.random.default_rng(1), OneEuroFilter(), 0.0
    with np.errstate(all="raise"):
        for step in steps * 5:
            seconds += step
            filtered = one_euro(SHAPE + random.normal(0, 0.1, SHAPE.shape), seconds, 1.0)
    assert np.abs(filtered - SHAPE).max() < 1


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_landmarks_are_filtered_too(count):
    random, one_euro = np.random.default_rng(1), OneEuroFilter()
    true = np.array([[10.0, 10.0]] * count)
    results = [one_euro(true + random.normal(0, 0.001, true.shape), index / 30, 1.0) for index in range(90)]
    assert np.abs(np.array(results[-30:]) - true).max() < 0.001


def test_the_filter_keeps_its_input_and_what_it_returned():
    one_euro, points = OneEuroFilter(), np.zeros((4, 2))
    first = one_euro(points, 0.0, 1.0)
    one_euro(points + 1, 0.1, 1.0)
    assert not first.any() and not points.any()
    one_euro.reset()
    assert (one_euro(points + 5, 0.2, 1.0) == 5).all()


def test_a_face_is_detected_once_a_second_and_keeps_its_id():
    scene = Scene(moving(50))
    results = scene.play(LandmarkTracker(scene), frames(2.9))
    assert ids(results) == [[1]] * len(results)
    assert scene.searches == 3


def test_two_faces_that_pass_keep_their_ids():
    places = moving(150, x=100, y=200), moving(-150, x=500, y=270)
    results = track(*places, times=frames(2.5), smooth=False)
    assert ids(results) == [[1, 2]] * len(results)
    last = [np.mean([mark["x"] for mark in face["landmarks"]]) for face in results[-1]]
    assert last[0] > 400 > 200 > last[1]


def test_two_tracks_that_come_to_lie_on_one_face_become_one():
    hidden = during(0, 0.5, moving(300, x=160))
    results = track(still(), hidden, times=frames(2))
    assert ids(results)[0] == [1, 2]
    assert all(len(own) == 1 for own in ids(results)[20:])


def show_halves(scene, occluder):
    """Crops without a face show one that is half on the occluder, with a fair score, while that is near."""
    guess = scene.guess

    def half(center, size):
        x, y, _ = occluder(scene.seconds)
        is_near = max(abs(center - [x, y])) < FACE
        return scene._face((x - FACE / 2, y, size), 0.7) if is_near else guess(center, size)

    scene.guess = half


def test_a_lost_face_does_not_return_at_the_edge_of_another():
    passing = moving(300, x=60)
    scene = Scene(passing, lambda seconds: still()(seconds) if seconds < 0.7 else None)
    show_halves(scene, passing)
    results = scene.play(LandmarkTracker(scene, smooth=False), frames(1.5))
    assert ids(results)[0] == [1, 2] and all(own == [1] for own in ids(results)[22:])


def test_overlapping_faces_are_confirmed_by_searches():
    scene = Scene(still(), during(0, 0.5, still(x=240)))
    crop = scene._crop

    def crop_or_half(box, seen):  # half of the face that is there goes for the one that is gone
        is_gone = scene.seconds >= 0.5 and box[0] < 260
        return scene._face((270.0, 240.0, FACE), 0.7) if is_gone else crop(box, seen)

    scene._crop = crop_or_half
    results = scene.play(LandmarkTracker(scene, smooth=False), frames(4))
    assert ids(results)[0] == [1, 2] and ids(results)[-1] == [1]


def test_overlapping_faces_that_searches_see_stay():
    def close(seconds):
        return np.array([max(375.0, 440 - 100 * seconds), 240, FACE])

    results = track(still(), close, times=frames(4), smooth=False)
    assert ids(results) == [[1, 2]] * len(results)


def test_a_face_hidden_for_a_moment_is_not_returned_meanwhile_and_keeps_its_id():
    place = still()
    results = track(lambda t: None if 1.0 < t < 1.3 else place(t), times=frames(2))
    assert ids(results)[:31] == [[1]] * 31 and ids(results)[-15:] == [[1]] * 15
    assert ids(results)[32:38] == [[]] * 6


def test_a_face_that_comes_back_later_is_found_within_the_stated_time():
    results = track(during(0, 1, still()), during(3, 9, still(x=100)), times=frames(5))
    found = [bool(own) for own in ids(results)]
    assert not any(found[31:90]) and all(found[106:])
    assert ids(results)[-1] == [2]


def test_newcomers_are_found_within_a_second_and_the_largest_are_kept():
    places = [still(x=100), during(0.1, 9, still(x=300)), during(0.1, 9, still(x=500, size=140.0))]
    assert ids(track(*places, times=frames(1.2)))[-1] == [1, 2, 3]
    results = track(*places, times=frames(1.2), max_faces=2)
    assert ids(results)[-1] == [1, 2]
    assert results[-1][1]["box"]["xmin"] > 400


@pytest.mark.parametrize("after", [still(x=100, y=100), still(size=300.0), still(x=350, size=40.0)])
def test_a_cut_is_recovered_from_within_half_a_second(after):
    results = track(during(0, 2, still(size=100.0)), during(2, 9, after), times=frames(3), smooth=True)
    x, y, size = after(0)
    for faces in results[76:]:
        (face,) = faces
        assert face["id"] == 2
        assert abs((face["box"]["xmin"] + face["box"]["xmax"]) / 2 - x) < 1
        assert abs(face["box"]["xmax"] - face["box"]["xmin"] - size) < 1


def test_a_face_that_leaves_the_frame_is_given_up():
    results = track(moving(300), times=frames(2.5))
    assert ids(results)[0] == [1] and ids(results)[-20:] == [[]] * 20
    assert min(np.flatnonzero([not own for own in ids(results)])) < 45  # it is out at 1.1 s and half out at 1.06 s


def test_no_face_is_searched_for_twice_a_second():
    scene = Scene()
    assert scene.play(LandmarkTracker(scene), frames(3)) == [[]] * 90
    assert scene.searches == 6


def test_a_frame_of_another_size_starts_with_a_search():
    scene = Scene(still(x=100, y=100))
    tracker = LandmarkTracker(scene)
    scene.play(tracker, frames(0.2))
    scene.frame = np.zeros((240, 200, 3), dtype=np.uint8)
    (faces,) = scene.play(tracker, [0.2])
    assert scene.searches == 2 and faces[0]["id"] == 2


def test_one_frame_is_what_the_pipeline_gives():
    (faces,) = track(still(), times=[0.0])
    (plain,) = Scene(still())(FRAME)
    assert faces == [{"id": 1, **plain}]


def test_reset_starts_a_new_video():
    scene = Scene(still())
    tracker = LandmarkTracker(scene)
    scene.play(tracker, frames(0.2))
    tracker.reset()
    assert ids(scene.play(tracker, [5.0])) == [[1]] and scene.searches == 2


@pytest.mark.parametrize("stamps", [[0.0] * 20, list(np.arange(20) / -30), [7.0, 3.0, 3.0, 900.0] * 5])
def test_time_stamps_that_do_not_rise_lose_no_face(stamps):
    results = track(still(), times=stamps, noise=0.002)
    assert ids(results) == [[1]] * len(results) and np.isfinite(landmarks(results)).all()


def test_without_scores_a_face_is_given_up_when_searches_do_not_see_it():
    scene = Scene(during(0, 1.5, still()), score=1.0)
    results = scene.play(LandmarkTracker(scene), frames(5))
    assert ids(results)[60] == [1] and ids(results)[-1] == []


def test_boxes_of_the_filter_are_tight_around_its_landmarks():
    results = track(moving(80), times=frames(1), noise=0.003)
    for (face,), points in zip(results, landmarks(results)):
        assert list(face["box"].values()) == [*points.min(axis=0), *points.max(axis=0)]
        assert [mark["label"] for mark in face["landmarks"]] == [str(index) for index in range(68)]


def test_what_cannot_be_is_named():
    tracker = LandmarkTracker(Scene())
    for frame, seconds, named in [
        (FRAME[:, :, 0], 0.0, "frame"),
        (FRAME.astype(float), 0.0, "frame"),
        ("a.mp4", 0.0, "frame"),
        (FRAME, float("nan"), "seconds"),
        (FRAME, None, "seconds"),
        (FRAME, 1e308, "seconds"),
        (FRAME, 10**400, "seconds"),
    ]:
        with pytest.raises(ValueError, match=named):
            tracker(frame, seconds)
    for options in ({"min_score": 2}, {"detect_every": 0}, {"detect_every": 10**400}, {"max_faces": 0}, {"smooth": 1}):
        with pytest.raises(ValueError, match=next(iter(options))):
            LandmarkTracker(Scene(), **options)


def test_the_command_measures_the_bundled_network(tmp_path, capsys, monkeypatch):
    if not CHECKPOINT.is_dir():
        pytest.skip(f"no checkpoint in {CHECKPOINT}")
    for name, value in {"PANS": (1.0,), "SWAYS": (), "MOTION": 0.5, "FRAME_SIDE": 256}.items():
        monkeypatch.setattr(jitter, name, value)
    file = tmp_path / "jitter.json"
    options = ["--fps", "10", "--seconds", "2", "--noise", "10", "--device", "cpu", "--json", str(file)]
    assert jitter.main(options) == 0
    measured = json.loads(file.read_text())
    assert min(measured["still"]["ratio"].values()) >= 4
    assert all(late <= 1 for late in measured["moving"]["pan, 1 faces/s"].values())
    table = capsys.readouterr().out
    assert f"{measured['still']['ratio']['motion']:.1f}" in table and "pan, 1 faces/s" in table


def test_the_command_tells_in_a_line_what_cannot_be(tmp_path, capsys):
    (tmp_path / "a.jpg").write_text("no photo")
    for arguments in (["--image", str(tmp_path / "a.jpg")], ["--json", str(tmp_path / "none" / "a.json")]):
        assert jitter.main(arguments) == 2
        assert capsys.readouterr().err.count("\n") == 1
    for arguments in (["--fps", "0"], ["--noise", "x"], ["--seconds", "1"]):
        with pytest.raises(SystemExit) as ended:
            jitter.main(arguments)
        error = capsys.readouterr().err
        assert ended.value.code == 2 and error.count("\n") == 1 and arguments[0] in error
