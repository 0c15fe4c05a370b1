"""Faces followed through a video by their last landmarks, and the filter that takes the jitter out of them."""

import itertools
import math
from numbers import Real

import numpy as np

from .configuration_mtld import check_score
from .geometry_mtld import BOX_KEYS, box_overlap, landmark_box, seen_landmarks

# The filter's, chosen on training faces of 300W with the network's own landmarks, at 25 to 60 frames a second.
MIN_CUTOFF = 0.1  # Hz
BETA = 150.0  # Hz for a face that moves by its own size in a second
OWN_BETA = 60.0  # Hz for a landmark that moves so in its face
OFFSET_CUTOFF = 2.0  # Hz
FACE_REST, OWN_REST = 3.0, 2.5  # times the noise that is left in an offset: up to there it counts as rest
MAX_REST = 0.01  # of the face's size
NOISE_CUTOFF = 0.5  # Hz
USUAL_STEP = 1 / 30  # seconds between frames, where time stamps do not tell
STEP_LIMITS = (1e-4, 10.0)  # seconds

# The tracker's.
MAX_TIME = 1e12  # seconds, either way
DETECT_EVERY = 1.0  # seconds
SOON = 0.5  # of `detect_every`: between searches while a face is missing
PATIENCE = 0.5  # seconds for which a lost face is looked for in its place
MAX_FACES = 10
FRAME_SHARE = 0.4  # of a face's box that must lie within the frame
STEP_OVERLAP = 0.25  # intersection over union of a face's boxes in two frames, below which it jumped or shrank
SAME_TRACK = 0.5  # intersection over union, above which two tracks are on one face
SAME_FACE = 0.4  # intersection over the smaller box, above which a face that was found is one that is tracked
UNCONFIRMED = 2  # searches in a row that miss a face, after which it is given up where scores tell nothing


class OneEuroFilter:
    """Takes the jitter out of a face's landmarks without holding them back when they move.

    The One-Euro filter of Casiez, Roussel and Vogel (CHI 2012) is an exponential mean whose cutoff frequency rises
    with the speed; as in their Algorithm 1, that is the speed from the last filtered point. What is other here, for
    points that move together:

    - Speeds are of the face's size, so that the same settings serve any face and resolution.
    - The speed of a landmark is that of the whole face (the affine motion that fits best), in which the noise of the
      landmarks averages out, and beside it its own.
    - Offsets within the noise are rest. The noise is measured: of each landmark's own motion from frame to frame, and
      of the whole face's from its changes of speed.
    - The first frames are averaged evenly, so that the noise of the very first is soon forgotten.

    So motions that are no larger than the noise come late, by up to that much: mostly 0.3 % of the face's size, never
    much over 1 %. At 25 and 30 frames a second that is mostly less than a frame from 0.1 face sizes a second up, at 60
    from 0.2 up. A blink of 3 % is seen whole, but a twitch of a single landmark within its noise is lost.

    Args:
        min_cutoff: Hz, of points at rest; lower means less jitter.
        beta: Hz of cutoff for a face that moves by its size in a second; higher means less lag.
        own_beta: the same for a landmark that moves in its face.
        offset_cutoff: Hz, of the mean offset from the filtered points, which tells the speed.
    """

    def __init__(
        self,
        min_cutoff: float = MIN_CUTOFF,
        beta: float = BETA,
        own_beta: float = OWN_BETA,
        offset_cutoff: float = OFFSET_CUTOFF,
    ):
        self.min_cutoff, self.beta, self.own_beta, self.offset_cutoff = min_cutoff, beta, own_beta, offset_cutoff
        self.reset()

    def reset(self):
        """Forgets all points, so that the next ones are taken as they are."""
        self._count = 0

    def __call__(self, points: np.ndarray, seconds: float, size: float) -> np.ndarray:
        """Filters the next points.

        Args:
            points: (K, 2), in any unit.
            seconds: their time. Steps may be uneven; where it does not rise, the last step is assumed again.
            size: of the face, in the same unit.

        Returns:
            (K, 2) float64.
        """
        points = np.array(points, dtype=np.float64)
        self._count += 1
        if self._count == 1:
            self._filtered = self._last = points
            self._face, self._own, self._step = _Offset(FACE_REST), _Offset(OWN_REST), USUAL_STEP
        else:
            step = seconds - self._seconds if seconds > self._seconds else self._step
            self._step = min(max(step, STEP_LIMITS[0]), STEP_LIMITS[1])
            self._update(points, size)
        self._seconds = seconds
        return self._filtered.copy()

    def _update(self, points: np.ndarray, size: float):
        of_face, share = _affine_motions(points), self._share(self.offset_cutoff)
        moved, offset = (points - self._last) / size, (points - self._filtered) / size
        face_moved, face_offset = of_face(moved), of_face(offset)
        before = face_moved if self._count == 2 else self._face_moved
        changed = np.median(_lengths(face_moved - before)) / math.sqrt(3)  # as much as noise alone moves a face
        self._face.measure_noise(changed, self._share(NOISE_CUTOFF, max(1, self._count - 2)))
        self._own.measure_noise(_lengths(moved - face_moved), self._share(NOISE_CUTOFF, self._count - 1))
        speed = self.beta * self._face.update(face_offset, share)
        speed = speed + self.own_beta * self._own.update(offset - face_offset, share)
        cutoff = self.min_cutoff + speed / self._step
        self._filtered = self._filtered + self._share(cutoff, self._count) * (points - self._filtered)
        self._last, self._face_moved = points, face_moved

    def _share(self, cutoff, count: float = math.inf):
        """Of the newest in an exponential mean with that cutoff in Hz, which starts as the mean of `count` values."""
        turn = 2 * np.pi * cutoff * self._step
        return np.maximum(turn / (turn + 1), 1 / count)


class _Offset:
    """The mean offset of points from the filtered ones, and its noise; both of the face's size."""

    def __init__(self, rest: float):
        self._rest, self._mean, self._noise = rest, 0.0, 0.0

    def measure_noise(self, noise, share: float):
        """`noise` is how far it moves points from one frame to the next: (K, 1), or one number for all."""
        self._noise = self._noise + share * (noise - self._noise)

    def update(self, offset: np.ndarray, share: float) -> np.ndarray:
        """Distances (K, 1) of the mean beyond the noise; `share` is that of the new `offset` (K, 2) in the mean."""
        self._mean = self._mean + share * (offset - self._mean)
        left = math.sqrt(share / (2 - share))  # of independent noise in such a mean
        return np.maximum(_lengths(self._mean) - np.minimum(self._rest * left * self._noise, MAX_REST), 0)


def _lengths(vectors: np.ndarray) -> np.ndarray:
    return np.linalg.norm(vectors, axis=1, keepdims=True)


def _affine_motions(points: np.ndarray):
    """A function from motions (K, 2) of `points` (K, 2) to the affine ones that fit them best."""
    centered = points - points.mean(axis=0)
    basis, _ = np.linalg.qr(np.column_stack([np.ones(len(points)), centered / max(np.abs(centered).max(), 1e-9)]))
    return lambda motions: basis @ (basis.T @ motions)


class _Track:
    """A face and where it was last, before the filter."""

    def __init__(self, id: int, box: np.ndarray):
        self.id, self.box, self.filter = id, box, OneEuroFilter()
        self.lost, self.unconfirmed = None, 0  # since when, and how many searches did not see it
        self._moved = np.zeros(2)  # from the last frame but one to the last

    def expected_box(self, width: int, height: int) -> np.ndarray:
        """Box (4,) of the landmarks in the next frame, if the face moves on as it did; its centre is in the frame.

        So the crop moves on with the face: at two face sizes a second and 10 frames a second, landmarks are 0.6 % of
        the face off instead of 2.2 %, swaying once a second at 25 frames 0.4 % instead of 0.9 %, and a still face
        jitters no more. Filtered landmarks would make crops that are no steadier, but late.
        """
        center, half = _center(self.box), (self.box[2:] - self.box[:2]) / 2
        center = np.clip(center + self._moved, 0, [width - 1, height - 1])
        return np.concatenate([center - half, center + half])

    def follow(self, box: np.ndarray):
        """The face is here in the next frame, or here again if it was lost."""
        self._moved = _center(box) - _center(self.box) if self.lost is None else np.zeros(2)
        self.box, self.lost = box, None

    def lose(self, seconds: float):
        self.lost = seconds if self.lost is None else self.lost
        self._moved = np.zeros(2)
        self.filter.reset()


class LandmarkTracker:
    """Follows the faces of one video, or webcam stream, from frame to frame.

    Faces are detected in the first frame. Then each is cropped around its last landmarks, unfiltered and moved on as
    they moved last, which takes a small part of the time. It is given up where its score falls below `min_score`, its
    box jumps, shrinks or grows beyond belief or leaves the frame, or it comes to lie on another's face. For half a
    second it is still looked for in its place, without being returned, and keeps its id if it is found there again;
    not while another's face is there, so that one hidden for a moment behind a moving face may get a new id.

    Faces are searched for again every `detect_every` seconds, and after half that time while a face is lost or there
    is none; so a cut of the scene is noticed by the scores, and the new faces are found at once or within that time.
    Where faces overlap, one is given up when two searches in a row do not see it beside the other; and so is any face
    of a model without a scale head, as its scores are all 1.

    Not for several threads at a time.

    Args:
        pipeline: a `FacialLandmarkDetectionPipeline`.
        smooth: filter the landmarks by `OneEuroFilter`.
        min_score: in [0, 1], of a face's mean score; by default the pipeline's.
        detect_every: seconds between searches, more than 0.
        max_faces: followed at a time, at least 1; the largest when they are found.

    Raises:
        ValueError: if a setting is out of range.
    """

    def __init__(
        self,
        pipeline,
        smooth: bool = True,
        min_score: float | None = None,
        detect_every: float = DETECT_EVERY,
        max_faces: int = MAX_FACES,
    ):
        if not isinstance(smooth, bool):
            raise ValueError(f"smooth must be True or False, but got {smooth!r}")
        min_score = pipeline.min_score if min_score is None else min_score
        check_score(min_score, "min_score")
        if not _is_finite(detect_every) or detect_every <= 0:
            raise ValueError(f"detect_every must be more than 0 seconds, but got {detect_every!r}")
        if type(max_faces) is not int or max_faces < 1:
            raise ValueError(f"max_faces must be a whole number of at least 1, but got {max_faces!r}")
        self.pipeline, self.smooth, self.min_score = pipeline, smooth, min_score
        self.detect_every, self.max_faces = detect_every, max_faces
        self.reset()

    def reset(self):
        """Forgets everything, so that the next frame is the first of a video and ids start at 1 again."""
        self._ids = itertools.count(1)
        self._forget_faces(None)

    def __call__(self, frame: np.ndarray, seconds: float) -> list[dict]:
        """The faces in the next frame.

        Args:
            frame: (H, W, 3) uint8 RGB. A frame of another size than the last starts with a search.
            seconds: its time; any origin, at most 1e12 either way.

        Returns:
            Faces as the pipeline gives them, {"score", "box", "landmarks"} in pixels of the frame, each with its "id",
            a whole number from 1 that no other face of the video has; in the order of the ids. With `smooth`, the
            landmarks are filtered and the box is tight around them.

        Raises:
            ValueError: if the frame is not such an array, or the time not such a number.
        """
        _check_frame(frame)
        if not _is_finite(seconds) or abs(seconds) > MAX_TIME:
            raise ValueError(f"seconds must be a number from -{MAX_TIME:g} to {MAX_TIME:g}, but got {seconds!r:.40}")
        seconds = float(seconds)
        if frame.shape != self._shape:
            self._forget_faces(frame.shape)
        found = self._follow(frame, seconds)
        if self._is_search_due(seconds):
            found = self._search(frame, seconds, found)
        return [self._report(track, face, seconds) for track, face in sorted(found, key=lambda pair: pair[0].id)]

    def _forget_faces(self, shape: tuple | None):
        self._tracks, self._searched, self._shape = [], None, shape

    def _follow(self, frame: np.ndarray, seconds: float) -> list[tuple[_Track, dict]]:
        """Tracks that still have their face, with it. Of two on one face, the one has it that fits better."""
        height, width, _ = self._shape
        expected = [track.expected_box(width, height) for track in self._tracks]
        crops = [self.pipeline.box_around(box) for box in expected]
        faces = self.pipeline(frame, boxes=crops) if crops else []
        followed = [fit for fit in zip(self._tracks, faces, expected) if self._is_plausible(*fit[1:])]
        followed.sort(key=lambda fit: (fit[0].lost is not None, -_iou(_box(fit[1]), fit[2])))
        found = []
        for track, face, _ in followed:
            if not any(self._is_taken(track, _box(face), other.box) for other, _ in found):
                track.follow(_box(face))
                found.append((track, face))
        for track in self._without(found):
            track.lose(seconds)
        self._tracks = [t for t in self._tracks if t.lost is None or 0 <= seconds - t.lost < PATIENCE]
        return found

    @staticmethod
    def _is_taken(track: _Track, box: np.ndarray, other: np.ndarray) -> bool:
        """Whether the face that `track` would have in `box` is the one in `other`, which a better track has.

        A face behind another comes out of it at its edge, where the crop shows half of each; so a lost track must wait
        until they are apart.
        """
        return _iou(box, other) >= SAME_TRACK or (track.lost is not None and _is_same(box, other))

    def _is_plausible(self, face: dict, expected: np.ndarray) -> bool:
        box, (height, width, _) = _box(face), self._shape
        if not face["score"] >= self.min_score or not _has_area(box) or _iou(box, expected) < STEP_OVERLAP:
            return False
        return box_overlap(box, np.array([[-0.5, -0.5, width - 0.5, height - 0.5]]))[0] >= FRAME_SHARE * _area(box)

    def _without(self, found: list[tuple[_Track, dict]]) -> list[_Track]:
        return [track for track in self._tracks if all(track is not other for other, _ in found)]

    def _is_search_due(self, seconds: float) -> bool:
        if self._searched is None or seconds < self._searched:
            return True
        is_soon = not self._tracks or any(track.lost is not None for track in self._tracks)
        return seconds - self._searched >= self.detect_every * (SOON if is_soon else 1)

    def _search(
        self, frame: np.ndarray, seconds: float, found: list[tuple[_Track, dict]]
    ) -> list[tuple[_Track, dict]]:
        """What is tracked from here on: `found` as far as it is confirmed, and the faces that were searched for."""
        self._searched = seconds
        faces = [face for face in self.pipeline(frame, min_score=self.min_score) if _has_area(_box(face))]
        found = _without_unconfirmed(found, [_box(face) for face in faces])
        lost = [track for track in self._without(found) if track.lost is not None]
        for face in faces:
            if len(found) < self.max_faces and not any(_is_same(_box(face), track.box) for track, _ in found):
                found.append((self._take_up(_box(face), lost), face))
        self._tracks = [track for track, _ in found] + lost[: self.max_faces - len(found)]
        return found

    def _take_up(self, box: np.ndarray, lost: list[_Track]) -> _Track:
        """The track of a face that was found in `box`: the one of `lost` that was there, taken out, or a new one."""
        track = next((track for track in lost if _iou(box, track.box) >= STEP_OVERLAP), None)
        if track is None:
            return _Track(next(self._ids), box)
        track.follow(box)
        lost.remove(track)
        return track

    def _report(self, track: _Track, face: dict, seconds: float) -> dict:
        face = {"id": track.id, **face}
        if not self.smooth:
            return face
        points = np.array([[point["x"], point["y"]] for point in face["landmarks"]])
        points = track.filter(points, seconds, max(track.box[2:] - track.box[:2]))
        seen = seen_landmarks([mark.get("visibility", 1) for mark in face["landmarks"]])
        face["box"] = dict(zip(BOX_KEYS, landmark_box(points[seen]).tolist()))
        face["landmarks"] = [{**old, "x": x, "y": y} for old, (x, y) in zip(face["landmarks"], points.tolist())]
        return face


def _without_unconfirmed(found: list[tuple[_Track, dict]], boxes: list[np.ndarray]) -> list[tuple[_Track, dict]]:
    """`found`, without what scores cannot tell and the searches in a row have missed; the last found `boxes`.

    A box confirms one track: half a face beside another overlaps the other's box too.
    """
    tracks, seen = [track for track, _ in found], set()
    for box in boxes:
        on_it = [track for track in tracks if _is_same(track.box, box)]
        seen |= {max(on_it, key=lambda track: _iou(track.box, box)).id} if on_it else set()
    for track, face in found:
        is_alone = not any(other is not track and _is_same(track.box, other.box) for other in tracks)
        is_sure = track.id in seen or (is_alone and face["score"] < 1)
        track.unconfirmed = 0 if is_sure else track.unconfirmed + 1
    return [pair for pair in found if pair[0].unconfirmed < UNCONFIRMED]


def _check_frame(frame):
    is_array = isinstance(frame, np.ndarray)
    if not is_array or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.size == 0:
        found = f"{frame.dtype} {frame.shape}" if is_array else type(frame).__name__
        raise ValueError(f"frame must be a uint8 array (H, W, 3), but got {found}")


def _is_finite(value) -> bool:
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number beyond any float
        return False


def _box(face: dict) -> np.ndarray:
    return np.array([face["box"][key] for key in BOX_KEYS], dtype=np.float64)


def _has_area(box: np.ndarray) -> bool:
    return bool(np.isfinite(box).all() and (box[2:] > box[:2]).all())


def _area(box: np.ndarray) -> float:
    return (box[2:] - box[:2]).prod()


def _center(box: np.ndarray) -> np.ndarray:
    return (box[:2] + box[2:]) / 2


def _iou(box: np.ndarray, other: np.ndarray) -> float:
    shared = box_overlap(box, other[None])[0]
    return shared / (_area(box) + _area(other) - shared)


def _is_same(box: np.ndarray, other: np.ndarray) -> bool:
    return box_overlap(box, other[None])[0] >= SAME_FACE * min(_area(box), _area(other))
