"""Landmarks drawn on a photo, for looking at."""

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from numbers import Real

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .geometry_mtld import HIDDEN

FACE_SIDE, NUMBERED_FACE_SIDE = 240, 640  # pixels; smaller faces are shown enlarged, within the next limits
PICTURE_SIDE, NUMBERED_PICTURE_SIDE = 2000, 3200
LINE, POINT, FRAME, INK = (0, 225, 190), (255, 240, 60), (255, 255, 255), (20, 20, 20)  # RGB
CLOSED_PARTS = ("eye", "lip", "lips", "mouth")  # last word of a part whose last landmark is joined to its first
CLOSED_GAP = 1.5  # longest steps between neighbours of a part, within which its ends are joined whatever its name
FRACTION_BITS = 4  # OpenCV draws at 16ths of a pixel
FARTHEST = 2**20  # pixels; OpenCV's integers hold no more, and no landmark is so far away
NUMBER_SIZE, TAG_SIZE = 10, 13  # pixels; heights of letters at least
DIRECTIONS = np.exp(1j * np.pi / 4 * np.arange(8))

# Of scores of landmarks on 300W's test faces, one in a hundred is below 0.55 and one above 0.95. Of the maps whose
# brightness rises evenly and which can be read by who does not tell red from green, plasma without its dark end is
# apart from skin, hair and the contours; viridis begins as dark as hair and passes through the contours' green.
CONFIDENCE_RANGE = (0.5, 0.95)
CONFIDENCE_MAP = cv2.applyColorMap(np.linspace(80, 248, 256).round().astype(np.uint8), cv2.COLORMAP_PLASMA)[:, 0, ::-1]


@dataclass(frozen=True)
class _Face:
    """What is drawn of a face, in pixels of the picture."""

    points: np.ndarray  # (K, 2)
    labels: list[str]
    colors: list[tuple]  # K
    hidden: np.ndarray  # (K,) bool
    corners: np.ndarray  # (2, 2)
    side: float  # of what is seen of it at most
    frame: tuple
    tag: str


def draw_faces(
    photo: np.ndarray,
    faces: list[dict],
    numbers: bool = False,
    joined: bool = True,
    point_size: float = 1.0,
    boxes: bool = True,
    by_confidence: bool = False,
    scale: int | None = None,
) -> np.ndarray:
    """Draws boxes, contours and landmarks, as thick as suits each face.

    Landmarks are joined to a contour where their names tell: `jaw_0`, `jaw_1`, …. Those that the head itself hides
    (`visibility` below 0.5) are rings, and no contour runs to them.

    Args:
        photo: (H, W, 3) uint8 RGB.
        faces: as the pipeline or its tracker returns them for this photo, in its pixels.
        numbers: write each landmark's index beside it.
        joined: draw the contours.
        point_size: factor of the points' size, above 0 and at most 10.
        boxes: draw the boxes, and at a box the `id` of a tracked face.
        by_confidence: colour each point by its score and each box by its face's score, which is written at it:
            purple at 0.5 and below, then red and orange to yellow at 0.95 and above.
        scale: whole factor by which the picture is larger than the photo; by default 1, or more where faces are too
            small to be seen or, with `numbers`, to be read. Frames of a video need 1 to stay of one size.

    Returns:
        (sH, sW, 3) uint8 RGB, where s is the factor.

    Raises:
        ValueError: naming the argument.
    """
    _check_photo(photo)
    _check_options(point_size, scale, numbers=numbers, joined=joined, boxes=boxes, by_confidence=by_confidence)
    if not isinstance(faces, list | tuple):
        raise ValueError(f"faces must be the list of a photo's faces, but got {type(faces).__name__}")
    found = [_read_face(one, f"faces[{index}]", by_confidence, max(photo.shape)) for index, one in enumerate(faces)]
    scale = scale or _enlargement(photo, found, numbers)
    picture = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC) if scale > 1 else photo.copy()
    found = [_enlarged(face, scale) for face in found]
    radii = [max(0.8, max(1.2, face.side / 110) * point_size) for face in found]
    for face, radius in zip(found, radii):
        _draw_face(picture, face, radius, joined, boxes)
    for face, radius in zip(found, radii):  # on top of the neighbours' lines
        if numbers:
            _write_numbers(picture, face, radius, joined)
        if boxes and face.tag:
            _write_tag(picture, face)
    return picture


def confidence_colors(scores) -> np.ndarray:
    """Colours (N, 3) uint8 RGB of scores (N,); see `draw_faces`."""
    low, high = CONFIDENCE_RANGE
    places = (np.asarray(scores, dtype=np.float64) - low) / (high - low)
    return CONFIDENCE_MAP[np.rint(places.clip(0, 1) * 255).astype(int)]


def contours(labels: list[str]) -> list[tuple[list[int], bool]]:
    """Indices of the landmarks of each part in the order of their numbers, and whether its name says it is closed.

    None where labels are bare numbers.
    """
    parts = {}
    for index, label in enumerate(labels):
        stem, number = re.fullmatch(r"(.*?)(?:_?(\d+))?", label, re.DOTALL).groups()
        parts.setdefault(stem, []).append((int(number or -1), index))
    runs = [(stem, [index for _, index in sorted(run)]) for stem, run in parts.items()]
    return [(run, stem.split("_")[-1] in CLOSED_PARTS) for stem, run in runs if stem and len(run) > 1]


def landmark_points(face: dict, name: str = "face") -> np.ndarray:
    """Landmarks (K, 2) float64 of a face as the pipeline returns it, in pixels of the photo.

    Raises:
        ValueError: if it is not one, or its landmarks are not finite.
    """
    try:
        points = np.array([[mark["x"], mark["y"]] for mark in face["landmarks"]], dtype=np.float64).reshape(-1, 2)
    except (KeyError, TypeError, ValueError, IndexError):
        raise ValueError(f"{name} must be a face as the pipeline returns it, but got {_shown(face)}") from None
    if not np.isfinite(points).all():
        raise ValueError(f"{name} must have finite landmarks, but got {_shown(points.tolist())}")
    return points


# Arguments -------------------------------------------------------------------------------------------------------


def _shown(value) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def _check_photo(photo):
    if not isinstance(photo, np.ndarray) or photo.ndim != 3 or photo.shape[2] != 3 or photo.dtype != np.uint8:
        found = f"{photo.dtype} {photo.shape}" if isinstance(photo, np.ndarray) else type(photo).__name__
        raise ValueError(f"photo must be an array (H, W, 3) of uint8, but got {found}")
    if photo.size == 0:
        raise ValueError(f"photo must have pixels, but got {photo.shape}")


def _check_options(point_size, scale, **switches):
    for name, value in switches.items():
        if not isinstance(value, bool | np.bool_):
            raise ValueError(f"{name} must be True or False, but got {value!r}")
    if not isinstance(point_size, Real) or isinstance(point_size, bool) or not 0 < point_size <= 10:
        raise ValueError(f"point_size must be a number above 0 and at most 10, but got {point_size!r}")
    if scale is not None and (type(scale) is not int or not 1 <= scale <= 100):
        raise ValueError(f"scale must be None or a whole number from 1 to 100, but got {scale!r}")


def _read_face(face: dict, name: str, by_confidence: bool, limit: int) -> _Face:
    points = landmark_points(face, name)
    try:
        corners = np.array([[face["box"][axis + end] for axis in "xy"] for end in ("min", "max")], dtype=np.float64)
        labels = [str(mark["label"]) for mark in face["landmarks"]]
        scores = [face["score"], *(mark["score"] for mark in face["landmarks"])] if by_confidence else []
        scores = np.array(scores, dtype=np.float64)
        hidden = np.array([mark.get("visibility", 1.0) < HIDDEN for mark in face["landmarks"]], dtype=bool)
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{name} must be a face as the pipeline returns it, but got {_shown(face)}") from None
    if not (np.isfinite(corners).all() and np.isfinite(scores).all()):
        raise ValueError(f"{name} must have a finite box and scores, but got {_shown(face)}")
    colors = map(tuple, confidence_colors(scores).tolist()) if by_confidence else [FRAME] + [POINT] * len(labels)
    frame, *colors = colors
    texts = [f"#{face['id']}"] if face.get("id") is not None else []
    texts += [f"{scores[0]:.2f}"] if by_confidence else []
    side = min((corners[1] - corners[0]).max(), limit)
    return _Face(points, labels, colors, hidden, corners, side, frame, " ".join(texts))


# Drawing ---------------------------------------------------------------------------------------------------------


def _enlargement(photo: np.ndarray, faces: list[_Face], numbers: bool) -> int:
    face_side, side = (NUMBERED_FACE_SIDE, NUMBERED_PICTURE_SIDE) if numbers else (FACE_SIDE, PICTURE_SIDE)
    wanted = max((face_side / max(face.side, 1) for face in faces), default=1)
    return max(1, int(min(np.ceil(wanted), side / max(photo.shape))))


def _enlarged(face: _Face, scale: int) -> _Face:
    points, corners = ((points + 0.5) * scale - 0.5 for points in (face.points, face.corners))
    return replace(face, points=points, corners=corners, side=face.side * scale)


def _draw_face(picture: np.ndarray, face: _Face, radius: float, joined: bool, boxes: bool):
    thickness = max(1, round(face.side / 250))
    if boxes:
        low, high = _to_fixed_point(_frame_corners(face)).tolist()
        cv2.rectangle(picture, low, high, face.frame, thickness, cv2.LINE_AA, FRACTION_BITS)
    for run, closed in _joined_points(face) if joined else ():
        cv2.polylines(picture, [_to_fixed_point(run)], closed, LINE, thickness, cv2.LINE_AA, FRACTION_BITS)
    radius = round(radius * 2**FRACTION_BITS)
    for (x, y), color, hidden in zip(_to_fixed_point(face.points).tolist(), face.colors, face.hidden):
        cv2.circle(picture, (x, y), radius, color, 1 if hidden else cv2.FILLED, cv2.LINE_AA, FRACTION_BITS)


def _frame_corners(face: _Face) -> np.ndarray:
    return face.corners + 0.05 * face.side * np.array([[-1], [1]])


def _joined_points(face: _Face) -> list[tuple[np.ndarray, bool]]:
    """Points (n, 2) of each contour, and whether it is closed: three, as of AFLW's eyes, are no outline."""
    joined = []
    for run, closed in contours(face.labels):
        points, seen = face.points[run], ~face.hidden[run]
        if seen.all():
            joined.append((points, len(points) > 3 and (closed or _ends_meet(points))))
        else:
            edges = np.flatnonzero(np.diff(seen)) + 1
            pieces = zip(np.split(points, edges), np.split(seen, edges))
            joined += [(piece, False) for piece, there in pieces if there[0] and len(piece) > 1]
    return joined


def _ends_meet(points: np.ndarray) -> bool:
    """Whether they go around something, as a brow's points do in some mark-ups, and in others do not."""
    steps = np.linalg.norm(np.roll(points, -1, axis=0) - points, axis=1)
    return steps[-1] <= CLOSED_GAP * steps[:-1].max()


def _to_fixed_point(points: np.ndarray) -> np.ndarray:
    return np.rint(points.clip(-FARTHEST, FARTHEST) * 2**FRACTION_BITS).astype(np.int32)


# Writing ---------------------------------------------------------------------------------------------------------


def _write_numbers(picture: np.ndarray, face: _Face, radius: float, joined: bool):
    size = max(NUMBER_SIZE, round(face.side / 45))
    texts = [str(index) for index in range(len(face.points))]
    extents = np.array([_letters(text, size)[0].shape[::-1] for text in texts]).reshape(-1, 2)
    lines = [_near_ends(*run, size) for run in _joined_points(face)] if joined else []
    corners = _places_of_numbers(face.points, np.concatenate([face.points, *lines]), extents, radius)
    for text, corner in zip(texts, corners):
        _write(picture, text, corner, size, (255, 255, 255))


def _near_ends(points: np.ndarray, closed: bool, distance: float) -> np.ndarray:
    """Points (N, 2) of the lines of a contour, `distance` from where they begin and end."""
    starts, ends = (points, np.roll(points, -1, axis=0)) if closed else (points[:-1], points[1:])
    lengths = np.linalg.norm(ends - starts, axis=1, keepdims=True)
    steps = (ends - starts) * np.minimum(0.5, distance / lengths.clip(min=1e-9))
    return np.concatenate([starts + steps, ends - steps])


def _places_of_numbers(points: np.ndarray, obstacles: np.ndarray, extents: np.ndarray, radius: float) -> np.ndarray:
    """Top left corners (K, 2) of texts beside `points` (K, 2), chosen one by one where they cover least.

    Args:
        obstacles: (N, 2) centres of what should be seen.
        extents: (K, 2) widths and heights of the texts.
        radius: of the points and the obstacles.
    """
    directions = np.column_stack([DIRECTIONS.real, DIRECTIONS.imag])
    centers = points[:, None] + directions * (radius + 1 + extents[:, None] / 2)
    lows, highs = centers - extents[:, None] / 2, centers + extents[:, None] / 2  # (K, 8, 2)
    outward = points - points.mean(axis=0)
    outward /= np.linalg.norm(outward, axis=1, keepdims=True).clip(min=1e-9)
    costs = _overlaps(lows, highs, obstacles - radius, obstacles + radius) / (4 * radius**2)
    costs = costs - 0.1 * outward @ directions.T
    chosen = np.empty_like(points)
    for index in range(len(points)):
        best = int(costs[index].argmin())
        chosen[index] = lows[index, best]
        later, taken = np.s_[index + 1 :], (lows[index, best][None], highs[index, best][None])
        costs[later] += 4 * _overlaps(lows[later], highs[later], *taken) / extents[index].prod()
    return chosen


def _overlaps(lows, highs, other_lows, other_highs) -> np.ndarray:
    """Area (...) that each box (..., 2) shares with the others (N, 2), in all."""
    shared = [
        np.minimum(highs[..., axis, None], other_highs[:, axis])
        - np.maximum(lows[..., axis, None], other_lows[:, axis])
        for axis in (0, 1)
    ]
    return np.einsum("...n,...n", *(sides.clip(min=0) for sides in shared))


def _write_tag(picture: np.ndarray, face: _Face):
    """The face's number and score on a plate above the frame's corner, or below it at the picture's upper edge."""
    size = max(TAG_SIZE, round(face.side / 24))
    height, width = np.add(_letters(face.tag, size)[0].shape, (size // 3, size // 2))
    x, y = np.rint(_frame_corners(face)[0].clip(-FARTHEST, FARTHEST)).astype(int)
    top = max(0, min(y - height if y >= height else y, picture.shape[0] - height))
    left = max(0, min(x, picture.shape[1] - width))
    cv2.rectangle(picture, (left, top), (left + width - 1, top + height - 1), face.frame, cv2.FILLED)
    dark = np.dot(face.frame, (0.299, 0.587, 0.114)) > 110
    _write(picture, face.tag, (left + size // 4, top + size // 6), size, INK if dark else (255, 255, 255), None)


def _write(picture: np.ndarray, text: str, corner, size: int, color: tuple, outline: tuple | None = INK):
    """Writes `text` in place, from its top left `corner` (x, y), in whole pixels."""
    letters, around = _letters(text, size)
    low = np.rint(np.clip(corner, -FARTHEST, FARTHEST)).astype(int)
    (x0, y0), (x1, y1) = low.clip(0), np.minimum(low + letters.shape[::-1], picture.shape[1::-1])
    if x0 >= x1 or y0 >= y1:
        return
    part = np.s_[y0 - low[1] : y1 - low[1], x0 - low[0] : x1 - low[0]]
    shown = picture[y0:y1, x0:x1].astype(np.float32)
    if outline is not None:
        shown += around[part][..., None] * (np.array(outline, np.float32) - shown) / 255
    shown += letters[part][..., None] * (np.array(color, np.float32) - shown) / 255
    picture[y0:y1, x0:x1] = np.rint(shown)


@lru_cache(maxsize=512)
def _letters(text: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """How much of each pixel the letters fill, and the letters with their outline: (h, w) uint8."""
    font, stroke = _font(size), max(1, size // 10)
    left, top, right, bottom = font.getbbox(text, stroke_width=stroke)
    layers = []
    for width in (0, stroke):
        image = Image.new("L", (int(right - left), int(bottom - top)))
        ImageDraw.Draw(image).text((-left, -top), text, 255, font, stroke_width=width)
        layers.append(np.asarray(image))
    return tuple(layers)


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
