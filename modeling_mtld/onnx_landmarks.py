"""Landmarks of faces with ONNX Runtime alone: numpy, Pillow and onnxruntime, without PyTorch.

`python -m modeling_mtld.export` writes this file beside the network, model.onnx, and a face detector, detector.onnx.
From Python:

    find = Landmarks("model.onnx")
    faces = find("photo.jpg")
    faces = find("photo.jpg", boxes=[[179, 87, 272, 179]])

The result is that of the pipeline for one photo: {"score", "box", "landmarks"} of each face, in pixels of the upright
photo, where the centre of the top-left pixel is (0, 0).
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

DETECTOR = "detector.onnx"  # beside the network
DETECTOR_SIDES = (320, 1000)  # longer sides of the copies of a photo that the detector sees
LARGE_SIDE, LARGE_SCORE = 1600, 2 / 3  # one more copy and its lowest score, if no face had the usual score
USUAL_SCORE = 0.7
DETECTOR_STRIDE = 32  # of its coarsest map; the sides of its input are multiples
DETECTOR_SCORE = 0.3  # lowest score; the network then rejects what is no face
DETECTOR_OVERLAP = 0.5  # intersection over the smaller box, above which two boxes are of one face
# Side of the landmark box over the geometric mean of the detector's width and height, and the shift of its centre from
# the eyes towards the mouth, over the same length.
DETECTOR_SCALE, DETECTOR_SHIFT = 0.927, 0.134
BOX_KEYS = ("xmin", "ymin", "xmax", "ymax")
HIDDEN = 0.5  # visibility of a landmark, below which the head hides it
EXIF_ORIENTATION = 0x0112
TURNS = {  # that make a picture upright, by its EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
MIN_IOU = 0.25  # of the landmarks with the detected box, below which they do not move the second crop


class Landmarks:
    """The faces of a photo and their landmarks.

    Args:
        model: path of the ONNX file that `modeling_mtld.export` wrote.
        detector: path of the ONNX file of YuNet that `modeling_mtld.export` wrote; by default detector.onnx in the
            folder of `model`. Without it, boxes must be given.
        threads: of ONNX Runtime; 0 for all cores.
    """

    def __init__(self, model: str, detector: str | None = None, threads: int = 0):
        self.model = _open(model, threads)
        properties = self.model.get_modelmeta().custom_metadata_map
        if "mtld" not in properties:
            raise ValueError(f"model must be a file of modeling_mtld.export, but got {model}")
        self.facts = json.loads(properties["mtld"])
        beside = Path(model).with_name(DETECTOR)
        detector = detector or (str(beside) if beside.is_file() else None)
        self.detector = _open(detector, threads) if detector else None
        if self.detector and isinstance(self.detector.get_inputs()[0].shape[-1], int):
            raise ValueError(f"detector must be a file that modeling_mtld.export wrote, but got {detector}")

    def __call__(self, photo, boxes=None) -> list[dict]:
        """
        Args:
            photo: path, PIL image, or (H, W, 3) uint8 RGB.
            boxes: landmark boxes (x0, y0, x1, y1) in pixels of the upright photo, or the `box` of faces; None for the
                detector.

        Raises:
            ValueError: if the photo cannot be read, a box is not one or lies beside the photo, or there are neither
                boxes nor a detector.
        """
        image = read_photo(photo)
        if boxes is not None:
            faces = self._locate(image, _check(boxes, image))
        elif self.detector is not None:
            faces = self._detect(image)
        else:
            raise ValueError("boxes must be given where there is no detector, but got None")
        return [_describe(face, self.facts["landmark_names"]) for face in faces]

    def _detect(self, image: Image.Image) -> list["Face"]:
        boxes = detect_faces(self.detector, image)
        faces = self._locate(image, self._around(boxes))
        boxes = [_second_box(box, face) for box, face in zip(boxes, faces)]
        return [
            face for face in self._locate(image, self._around(boxes)) if face.score >= self.facts["min_face_score"]
        ]

    def _around(self, boxes) -> list[np.ndarray]:
        """Landmark boxes to those that the network was trained on."""
        margins = np.array(self.facts["box_margins"]) * [-1, -1, 1, 1]
        return [box + max(box[2] - box[0], box[3] - box[1]) * margins for box in boxes]

    def _locate(self, image: Image.Image, boxes) -> list["Face"]:
        if len(boxes) == 0:
            return []
        side, names = self.facts["image_size"], [output.name for output in self.model.get_outputs()]
        corners = [_crop_corner(box, self.facts["box_enlargement"]) for box in boxes]
        crops = np.stack([cut(image, corner, length, side) for corner, length in corners])
        outputs = dict(zip(names, self.model.run(names, {"crops": crops})))
        landmarks = outputs["landmarks"].astype(np.float64)
        ones = np.ones(landmarks.shape[:2])
        rows = zip(corners, landmarks, outputs.get("scores", ones), outputs.get("visibilities", ones))
        has_visibilities = "visibilities" in outputs
        return [
            Face(corner + points * length, *values, has_visibilities) for (corner, length), points, *values in rows
        ]


@dataclass
class Face:
    """Landmarks (K, 2) in pixels of the photo, with scores and visibilities (K,)."""

    points: np.ndarray
    scores: np.ndarray
    visibilities: np.ndarray
    has_visibilities: bool

    @property
    def counted(self) -> np.ndarray:
        """Which landmarks count for box and score, (K,) bool: those not hidden by the head, or all if all are."""
        visible = self.visibilities >= HIDDEN
        return visible if visible.any() else ~visible

    @property
    def score(self) -> float:
        return float(self.scores[self.counted].mean())

    @property
    def box(self) -> np.ndarray:
        points = self.points[self.counted]
        return np.concatenate([points.min(axis=0), points.max(axis=0)])


def _open(path: str, threads: int) -> onnxruntime.InferenceSession:
    if not Path(path).is_file():
        raise ValueError(f"model and detector must be ONNX files, but there is no {path}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(str(path), options)
    except Exception as error:  # onnxruntime's own kinds, without a common one
        raise ValueError(f"{path} must be an ONNX file, but got: {str(error).splitlines()[0]}") from error


def read_photo(photo) -> Image.Image:
    """The photo upright, in RGB, on white where it is transparent. Raises ValueError if it cannot be read."""
    if isinstance(photo, np.ndarray):
        if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3 or photo.size == 0:
            raise ValueError(f"photo must be (H, W, 3) uint8, but got {photo.shape} {photo.dtype}")
        return Image.fromarray(photo)
    try:
        image = photo if isinstance(photo, Image.Image) else Image.open(photo)
        image.load()
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files
        raise ValueError(f"photo must be a picture that Pillow reads, but got {photo}: {error}") from error
    try:
        turn = TURNS.get(image.getexif().get(EXIF_ORIENTATION))
    except Exception:  # damaged EXIF data
        turn = None
    image = image if turn is None else image.transpose(turn)
    if image.mode.startswith("I;16"):
        image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def _check(boxes, image: Image.Image) -> np.ndarray:
    """Boxes (N, 4) float64. Raises ValueError if one is none, has no area or lies beside the photo."""
    rows = [[box[key] for key in BOX_KEYS] if isinstance(box, dict) else box for box in boxes]
    try:
        array = np.asarray(rows, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"boxes must be a list of four numbers each, but got {boxes!r}") from None
    if len(rows) and (array.ndim != 2 or array.shape[1] != 4):
        raise ValueError(f"boxes must be a list of four numbers each, but got {boxes!r}")
    array = array.reshape(-1, 4)
    if not (np.isfinite(array).all() and (array[:, 2:] > array[:, :2]).all()):
        raise ValueError(f"boxes must be finite with x1 > x0 and y1 > y0, but got {array.tolist()}")
    if (array[:, 2:] <= -0.5).any() or (array[:, :2] >= np.array(image.size) - 0.5).any():
        raise ValueError(f"boxes must overlap the photo of {image.width} x {image.height}, but got {array.tolist()}")
    return array


def _crop_corner(box: np.ndarray, enlargement: float) -> tuple[np.ndarray, float]:
    """The top-left corner (2,) of the square crop around a box, and its side, in pixels of the photo."""
    side = max(box[2] - box[0], box[3] - box[1]) * enlargement
    return (box[:2] + box[2:]) / 2 - side / 2, side


def cut(image: Image.Image, corner: np.ndarray, length: float, side: int) -> np.ndarray:
    """The square crop from `corner` (2,), `length` pixels of the photo wide: (side, side, 3) uint8, black outside.

    Pixels are averaged where the crop has fewer, then linear between them, as `warp_image` does.
    """
    step = length / side  # pixels of the photo for one of the crop
    low = np.clip(np.floor(corner - 2 * step) - 1, 0, image.size).astype(int)
    high = np.clip(np.ceil(corner + length + 2 * step) + 2, 0, image.size).astype(int)
    if (high <= low).any():
        return np.zeros((side, side, 3), dtype=np.uint8)
    pixels, start = np.asarray(image.crop((*low, *high)), dtype=np.float32), corner - low
    steps = np.array([step, step])
    if step > 1:
        size = np.array(pixels.shape[1::-1])
        small = np.maximum(np.rint(size / step).astype(int), 1)
        pixels, factor = _shrink(pixels, small, max(2, int(np.ceil(min(step, size.max()))))), size / small
        start, steps = (start + 0.5) / factor - 0.5, steps / factor
    padded = np.pad(pixels, ((1, 1), (1, 1), (0, 0)))
    return np.rint(_sample(padded, start + 1, steps, (side, side))).astype(np.uint8)


def _shrink(pixels: np.ndarray, size: np.ndarray, times: int) -> np.ndarray:
    """`pixels` (H, W, 3) averaged to `size` (w, h), after they were enlarged to `times` that size.

    Enlarged in the integer arithmetic of OpenCV, whose rounding moves landmarks by up to 0.3 px of the crop.
    """
    values = pixels.astype(np.int64)
    for axis, count in zip((1, 0), size * times):
        places = np.maximum((np.arange(count) + 0.5) * pixels.shape[axis] / count - 0.5, 0)
        low = places.astype(int)
        high = np.minimum(low + 1, pixels.shape[axis] - 1)
        share = np.rint((places - low) * 2048).astype(np.int64).reshape(-1, *[1] * (2 - axis))
        near, far = values.take(low, axis), values.take(high, axis)
        if axis:
            values = near * (2048 - share) + far * share
        else:
            values = ((near >> 4) * (2048 - share) >> 16) + ((far >> 4) * share >> 16) + 2 >> 2
    means = values.reshape(size[1], times, size[0], times, 3).mean(axis=(1, 3))
    return np.floor(means + 0.5) if times == 2 else np.rint(means)


def _sample(pixels: np.ndarray, start: np.ndarray, steps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Linear interpolation of `pixels` (H, W, 3) at the centres of a grid of `size` (w, h) cells, `steps` apart from
    `start` on; at the edge, the last pixel goes on. All of them are (x, y)."""
    for axis, first, step, count in zip((1, 0), start, steps, size):
        places = np.clip(first + (np.arange(count) + 0.5) * step, 0, pixels.shape[axis] - 1)
        low = places.astype(int)
        high = np.minimum(low + 1, pixels.shape[axis] - 1)
        share = (places - low).astype(np.float32).reshape(-1, *[1] * (2 - axis))
        pixels = pixels.take(low, axis) * (1 - share) + pixels.take(high, axis) * share
    return pixels


def detect_faces(detector, image: Image.Image) -> list[np.ndarray]:
    """Landmark boxes (4,) of the faces that YuNet finds, squares in pixels of the photo, the largest first."""
    longest = max(image.size)
    copies = [
        _detect_in_copy(detector, image, side) for side in sorted({min(side, longest) for side in DETECTOR_SIDES})
    ]
    boxes, scores = (np.concatenate(parts) for parts in zip(*copies))
    if longest > DETECTOR_SIDES[-1] and not (scores >= USUAL_SCORE).any():
        more_boxes, more_scores = _detect_in_copy(detector, image, min(LARGE_SIDE, longest))
        enough = more_scores > LARGE_SCORE
        boxes, scores = np.concatenate([boxes, more_boxes[enough]]), np.concatenate([scores, more_scores[enough]])
    kept = []
    for index in np.argsort(-scores, kind="stable"):
        if all(_overlap(boxes[index], boxes[other]) <= DETECTOR_OVERLAP for other in kept):
            kept.append(index)
    return sorted((boxes[index] for index in kept), key=lambda box: box[0] - box[2])


def _detect_in_copy(detector, image: Image.Image, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Landmark boxes (N, 4) in pixels of the photo and scores (N,), from a copy whose longer side is `side`."""
    scale = side / max(image.size)
    small = image.resize([max(1, round(length * scale)) for length in image.size], Image.Resampling.BOX)
    padding = [(0, -length % DETECTOR_STRIDE) for length in (small.height, small.width)]
    pixels = np.pad(np.asarray(small, dtype=np.float32)[..., ::-1], (*padding, (0, 0)))  # BGR
    names = [output.name for output in detector.get_outputs()]
    outputs = dict(zip(names, detector.run(names, {"input": pixels.transpose(2, 0, 1)[None]})))
    found = [_decode(outputs, stride, pixels.shape[1] // stride) for stride in (8, 16, 32)]
    scores, detected, points = (np.concatenate(parts) for parts in zip(*found))
    return (_landmark_boxes(detected, points) + 0.5) / scale - 0.5, scores


def _decode(outputs: dict, stride: int, columns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores (N,), centres and sizes (N, 4) and five points (N, 5, 2) of one stride's cells above the threshold."""
    share, present = (outputs[f"{name}_{stride}"][0, :, 0].clip(0, 1) for name in ("cls", "obj"))
    scores = np.sqrt(share * present)
    cells = np.flatnonzero(scores >= DETECTOR_SCORE)
    centers = np.stack([cells % columns, cells // columns], axis=1)[:, None]
    points = outputs[f"kps_{stride}"][0, cells].reshape(-1, 5, 2)
    boxes = outputs[f"bbox_{stride}"][0, cells]
    boxes = np.concatenate([boxes[:, :2] + centers[:, 0], np.exp(boxes[:, 2:])], axis=1)
    return scores[cells], boxes * stride, (points + centers) * stride


def _landmark_boxes(detected: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Squares (N, 4) from YuNet's centres and sizes (N, 4) and its eyes, nose and corners of the mouth (N, 5, 2)."""
    down = points[:, 3:].mean(axis=1) - points[:, :2].mean(axis=1)
    down /= np.maximum(np.linalg.norm(down, axis=1, keepdims=True), 1e-9)
    sizes = np.sqrt(detected[:, 2:].prod(axis=1, keepdims=True))
    centers, half = detected[:, :2] + DETECTOR_SHIFT * sizes * down, DETECTOR_SCALE * sizes / 2
    return np.concatenate([centers - half, centers + half], axis=1)


def _shared(one: np.ndarray, other: np.ndarray) -> float:
    return np.clip(np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]), 0, None).prod()


def _area(box: np.ndarray) -> float:
    return (box[2:] - box[:2]).prod()


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    return _shared(one, other) / min(_area(one), _area(other))


def _second_box(detected: np.ndarray, face: Face) -> np.ndarray:
    """The box of the landmarks, unless they are away from where the face was detected."""
    shared = _shared(face.box, detected)
    return face.box if shared >= MIN_IOU * (_area(face.box) + _area(detected) - shared) else detected


def _describe(face: Face, names: list[str]) -> dict:
    columns = {"x": face.points[:, 0], "y": face.points[:, 1], "score": face.scores}
    columns |= {"visibility": face.visibilities} if face.has_visibilities else {}
    rows = zip(*(values.tolist() for values in columns.values()))
    return {
        "score": face.score,
        "box": dict(zip(BOX_KEYS, face.box.tolist())),
        "landmarks": [{"label": name} | dict(zip(columns, row)) for name, row in zip(names, rows)],
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Prints the faces of a photo and their landmarks as JSON.")
    parser.add_argument("photo")
    parser.add_argument("--model", default=str(Path(__file__).with_name("model.onnx")), help="(default: %(default)s)")
    parser.add_argument("--box", nargs=4, type=float, action="append", metavar=("X0", "Y0", "X1", "Y1"))
    parser.add_argument("--detector", metavar="FILE", help=f"(default: {DETECTOR} beside the model)")
    arguments = parser.parse_args(argv)
    try:
        faces = Landmarks(arguments.model, arguments.detector)(arguments.photo, arguments.box)
    except ValueError as error:
        print(f"onnx_landmarks: {error}", file=sys.stderr)
        return 2
    print(json.dumps(faces, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
