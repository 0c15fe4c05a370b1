"""`pipeline("facial-landmark-detection")`: a photo in, the landmarks of its faces out."""

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, BinaryIO, TypedDict, overload

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset
from transformers import Pipeline

from .auto_mtld import first_line
from .configuration_mtld import Topology, check_score, find_topology, flip_order
from .flip_mtld import predict_with_flip
from .geometry_mtld import (
    BOX_KEYS,
    box_areas,
    box_overlap,
    crop_matrix,
    fit_similarity,
    fractions_to_pixels,
    landmark_box,
    seen_landmarks,
    turn_points,
    warp_image,
)
from .image_processing_mtld import MAX_CROP_SIZE, boxes_by_photo, boxes_of_one, by_position, check_photo_boxes
from .photo_mtld import URL_TIMEOUT, is_file, load_rgb

logger = logging.getLogger(__name__)

WHOLE_PHOTO = "whole"
ON_ERROR = ("raise", "none")
PLACE = "place_among_photos"  # key of an item, for error messages
FACE_BATCH_SIZE = 64
FOUND_OVERLAP = 0.25  # intersection over union with the detector's box, below which found landmarks are not trusted
MIN_MEAN_FACE = 0.1  # of the crop; a mean face that is smaller was never set


class _Landmark(TypedDict):
    label: str
    x: float
    y: float
    score: float


class Landmark(_Landmark, total=False):
    """A landmark in pixels of the photo. `label` is its name, or its index if it has none; `score` is in [0, 1].
    `visibility`, with a visibility head, is the probability that the head itself does not hide it."""

    visibility: float


class Box(TypedDict):
    """Tight around the landmarks, in pixels of the photo."""

    xmin: float
    ymin: float
    xmax: float
    ymax: float


class Face(TypedDict):
    """A face as the pipeline returns it."""

    score: float
    box: Box
    landmarks: list[Landmark]


@dataclass
class View:
    """A photo, or the photo turned by quarter turns (as by `numpy.rot90`), with the faces that are upright in it.

    Attributes:
        photo: (H, W, 3) uint8 RGB, turned.
        boxes: (4,) for each face, in pixels of `photo`.
        turns: quarter turns.
    """

    photo: np.ndarray
    boxes: list[np.ndarray]
    turns: int = 0


class FacialLandmarkDetectionPipeline(Pipeline):
    """Finds faces and their landmarks.

    A face that the detector found is cropped a second time, around the landmarks first found, as the detector's boxes
    are rougher than those the network was trained with. Where the score is then low there was no face, and it is
    dropped. Given boxes are taken as they are, and all of them give a face.
    """

    _load_image_processor = True
    _load_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False
    _load_video_processor = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.image_processor is None:
            raise ValueError("image_processor must be an MTLDImageProcessor, but got None")
        # transformers puts the classes themselves into the configuration, which then could not be saved.
        for entry in (getattr(self.model.config, "custom_pipelines", None) or {}).values():
            entry["pt"] = [getattr(auto_class, "__name__", auto_class) for auto_class in entry["pt"]]

    @overload
    def __call__(self, images: list | tuple, boxes: Any = None, **kwargs: Any) -> list[list[Face]]: ...

    @overload
    def __call__(
        self, images: str | bytes | Image.Image | BinaryIO, boxes: Any = None, **kwargs: Any
    ) -> list[Face]: ...

    @overload
    def __call__(self, images: Any, boxes: Any = None, **kwargs: Any) -> Any: ...

    def __call__(self, images, boxes=None, **kwargs):
        """
        Args:
            images: a photo of any kind the processor takes (path, URL, file, PIL image, array, tensor), or a list,
                pandas Series, data set (of datasets or torch) or iterator of them, or of {"image", "boxes"}.
            boxes: where the faces are. None, also for a single photo of a list, looks for them. "whole" takes each
                photo as one face: the crop is the square around the photo. Else landmark boxes (x0, y0, x1, y1), or
                dicts as the "box" of a face, in pixels of the upright photo, where the centre of the top-left pixel is
                (0, 0): for one photo a list of them, for a list or data set of photos a list of such lists, each
                possibly empty.
            kwargs: any of these, which `pipeline(…)` takes too, for all calls:
                `flip` (False): average with the mirror image of each face, which takes twice as long;
                `topology` (the configuration's `default_topology`): which landmarks, where the model has several sets;
                `dataset` (None): one of the configuration's `datasets`, whose annotators' habits the landmarks follow;
                `min_score` (the configuration's `min_face_score`): of a face that was looked for, below which it is
                dropped; without a scale head all scores are 1;
                `detector` (None): what looks for faces: "yunet", "haar", a file or a Hub id of YuNet's model, or a
                callable as `load_detector` takes it; None is YuNet, or Haar if YuNet's model cannot be had;
                `quarter_turns` (None): look for faces that lie or are upside down: True always, False never, None
                if no face is certain in the upright photo;
                `batch_size` (1): photos read at a time, whose faces go through the network together;
                `face_batch_size` (64): faces that do so at most, mirror images included, but one at least;
                `timeout` (30): seconds to wait for a URL;
                `on_error` ("raise"): "none" gives None for a photo that cannot be read, and logs a warning;
                `num_workers` (0): processes that read photos and look for faces.

        Returns:
            For each photo the list of its faces, the largest first where they were looked for, else in the order of
            `boxes`: {"score": mean of the landmarks' scores, "box": {"xmin", "ymin", "xmax", "ymax"} tight around the
            landmarks, "landmarks": [{"label": name or else index, "x", "y", "score"}, …]}, in pixels of the photo, as
            plain floats. Of a model with a visibility head, landmarks have a "visibility" too, the probability that
            the head itself does not hide them; those below 0.5 are not in the box. A photo without a face gives an
            empty list. One photo gives its list alone, a data set or generator an iterator over the lists.

        Raises:
            ValueError: if a photo cannot be read, a box is not one or lies beside its photo, or there are not as many
                lists of boxes as photos; where there are several photos, it names the one. With `flip`, if the
                model's configuration has no `flip_pairs`. If the model has no such `topology` or `dataset`.
        """
        if isinstance(boxes, str):
            boxes, kwargs["boxes"] = None, boxes
        images = by_position(images)
        if _is_one_photo(images):
            item = {"boxes": boxes} | dict(images if isinstance(images, Mapping) else {"image": images})
            return super().__call__(item | {"boxes": boxes_of_one(item["boxes"])}, **kwargs)
        photos = (
            _stream_of(images, boxes) if isinstance(images, Iterator | IterableDataset) else _Photos(images, boxes)
        )
        faces = super().__call__(photos, **kwargs)
        return list(faces) if isinstance(images, list | tuple | np.ndarray | torch.Tensor) else faces

    def _sanitize_parameters(
        self,
        boxes=None,
        timeout=None,
        flip=None,
        face_batch_size=None,
        min_score=None,
        topology=None,
        dataset=None,
        detector=None,
        quarter_turns=None,
        on_error=None,
    ):
        if on_error not in (None, *ON_ERROR):
            raise ValueError(f"on_error must be one of {', '.join(ON_ERROR)}, but got {on_error!r}")
        if boxes is not None and not (isinstance(boxes, str) and boxes == WHOLE_PHOTO):
            raise ValueError(f"boxes must be {WHOLE_PHOTO!r}, or come with the photos as lists, but got {boxes!r}")
        if flip is not None and not isinstance(flip, bool):
            raise ValueError(f"flip must be True or False, but got {flip!r}")
        chosen = self._topology(topology)
        if flip:
            count = self.model.config.num_landmarks if chosen.landmarks is None else len(chosen.landmarks)
            flip_order(chosen.flip_pairs, count)
        datasets = self.model.config.datasets or []
        if dataset is not None and dataset not in datasets:
            raise ValueError(f"dataset must be one of {', '.join(datasets) or 'none'}, but got {dataset!r}")
        if face_batch_size is not None and (type(face_batch_size) is not int or face_batch_size < 1):
            raise ValueError(f"face_batch_size must be a whole number of at least 1, but got {face_batch_size!r}")
        if min_score is not None:
            check_score(min_score, "min_score")
        if detector is not None and not isinstance(detector, str | Callable):
            raise ValueError(f"detector must be a name or a callable, but got {detector!r}")
        if quarter_turns is not None and not isinstance(quarter_turns, bool):
            raise ValueError(f"quarter_turns must be None, True or False, but got {quarter_turns!r}")
        preprocess = {"boxes": boxes, "timeout": timeout, "detector": detector, "quarter_turns": quarter_turns}
        preprocess["on_error"] = on_error
        forward = {"flip": flip, "face_batch_size": face_batch_size, "min_score": min_score}
        forward |= {"topology": topology, "dataset": dataset}
        return _without_none(preprocess), _without_none(forward), _without_none({"topology": topology})

    def _topology(self, name: str | None) -> Topology:
        """The one of this name, by default the first of the model's."""
        return find_topology(self.model.config, self.model.config.default_topology if name is None else name)

    def preprocess(self, image, boxes=None, timeout=URL_TIMEOUT, detector=None, quarter_turns=None, on_error="raise"):
        item = image if isinstance(image, Mapping) else {"image": image}
        place = item.get(PLACE, "")
        name = f"images{place}" if place else "image"
        if "image" not in item:
            found = [key for key in item if key not in ("boxes", PLACE)]
            raise ValueError(f"{name} must be a photo, or a dict with the key 'image', but got one with {found}")
        try:
            photo = load_rgb(item["image"], name, timeout=timeout)
        except ValueError as error:
            if on_error == "raise":
                raise
            logger.warning("%s", error)
            return {"views": None, "detected": False}
        own = boxes if item.get("boxes") is None else item["boxes"]
        if own is None:
            return {"views": _detect_views(photo, detector, quarter_turns), "detected": True}
        height, width = photo.shape[:2]
        if isinstance(own, str) and own == WHOLE_PHOTO:
            own = [_box_of_whole(width, height, self.image_processor.box_enlargement)]
        return {"views": [View(photo, check_photo_boxes(own, width, height, f"boxes{place}"))], "detected": False}

    def _forward(
        self,
        model_inputs,
        flip=False,
        face_batch_size=FACE_BATCH_SIZE,
        min_score=None,
        topology=None,
        dataset=None,
    ):
        # With a batch_size, transformers passes a batch's photos as lists, and takes the result apart again.
        batched = isinstance(model_inputs["detected"], list)
        views, detected = (v if batched else [v] for v in map(model_inputs.get, ("views", "detected")))
        topology = self.model.config.default_topology if topology is None else topology
        min_score = self.min_score if min_score is None else min_score
        options = {"flip": flip, "topology": topology, "dataset": dataset}
        given = [view for own, is_detected in zip(views, detected) if not is_detected for view in own or ()]
        seen = [view for own, is_detected in zip(views, detected) if is_detected for view in own]
        faces = self._find_landmarks(given, [view.boxes for view in given], face_batch_size, options)
        faces += self._find_detected(seen, face_batch_size, min_score, options)
        faces_of = dict(zip(map(id, given + seen), faces))
        joined = [None if own is None else _join_views(own, [faces_of[id(view)] for view in own]) for own in views]
        return {"faces": joined if batched else joined[0]}

    def _find_detected(self, views: list[View], face_batch_size: int, min_score: float, options: dict):
        """Faces of each view, each cropped twice, without those of a low score."""
        crops = self._boxes_around([view.boxes for view in views], options["topology"])
        faces = self._find_landmarks(views, crops, face_batch_size, options)
        boxes = [_boxes_for_second_crops(view, own) for view, own in zip(views, faces)]
        faces = self._find_landmarks(views, self._boxes_around(boxes, options["topology"]), face_batch_size, options)
        return [[face for face in own if _score(face) >= min_score] for own in faces]

    def _boxes_around(self, boxes: list[list], topology: str | None) -> list[list]:
        """For each photo, the boxes as the model knows them, from landmark boxes."""
        return [[self.image_processor.box_around(box, topology) for box in own] for own in boxes]

    def box_around(self, landmark_box) -> np.ndarray:
        """The box (4,) for `boxes` of a face whose landmarks have this tight box, in pixels of the photo."""
        topology = self._forward_params.get("topology", self.model.config.default_topology)
        return self.image_processor.box_around(landmark_box, topology)

    @staticmethod
    def landmark_boxes(detections, points=None) -> np.ndarray:
        """Landmark boxes (N, 4) from the boxes of a face detector, for a `detector` of your own.

        See `landmark_boxes` in yunet_mtld.py.
        """
        from .yunet_mtld import landmark_boxes

        return landmark_boxes(detections, points)

    @property
    def detector_name(self) -> str:
        """What looks for faces now."""
        from .face_detection_mtld import load_detector

        return getattr(load_detector(self._preprocess_params.get("detector")), "name", "your detector")

    @property
    def min_score(self) -> float:
        """The score of a face, below which it is dropped by default."""
        return self._forward_params.get("min_score", self.model.config.min_face_score)

    def _find_landmarks(self, views: list[View], boxes, face_batch_size: int, options: dict) -> list[list[dict]]:
        """Faces of each view, as the processor describes them; `options` are those of `_predict`."""
        faces = [[] for _ in views]
        everywhere = [(index, box) for index, own in enumerate(boxes) for box in own]
        step = max(1, face_batch_size // 2) if options["flip"] else face_batch_size
        for start in range(0, len(everywhere), step):
            grouped = itertools.groupby(everywhere[start : start + step], key=itemgetter(0))
            indices, own = zip(*((index, [box for _, box in pairs]) for index, pairs in grouped))
            inputs = self.image_processor([views[index].photo for index in indices], list(own), return_tensors="pt")
            outputs = self._predict(inputs["pixel_values"].to(self.device, self.dtype), **options)
            for index, found in zip(indices, self.image_processor.post_process_landmark_detection(outputs, inputs)):
                faces[index] += found
        return faces

    def _predict(self, pixel_values, flip: bool, **names):
        names = _without_none(names)
        if flip:
            flip_pairs = self._topology(names.get("topology")).flip_pairs
            return predict_with_flip(self.model, pixel_values, flip_pairs, **names)
        return self.model(pixel_values=pixel_values, **names)

    def postprocess(self, model_outputs, topology=None) -> list[dict] | None:
        if model_outputs["faces"] is None:
            return None
        names = self._topology(topology).landmark_names
        return [_describe(face, names) for face in model_outputs["faces"]]

    def read(self, photo) -> np.ndarray:
        """A photo of any kind the processor takes as (H, W, 3) uint8 RGB, upright: the frame of all coordinates.

        Raises:
            ValueError: if it cannot be read.
        """
        return load_rgb(photo, "photo")

    def draw(self, photo, faces: list[dict], **options) -> np.ndarray:
        """Draws boxes, contours and landmarks of faces on their photo.

        Args:
            photo: of any kind the processor takes.
            faces: what the pipeline, or a tracker, found in this photo.
            options: `numbers` (False): write each landmark's index beside it;
                `joined` (True): draw the contours of jaw, brows, eyes, nose and lips, where the landmarks have names;
                `point_size` (1.0): factor of the points' size;
                `boxes` (True): draw the boxes, and at a box the `id` of a tracked face;
                `by_confidence` (False): colour each point by its score and each box by its face's score, which is
                written at it: purple at 0.5 and below, then red and orange to yellow at 0.95 and above;
                `scale` (None): whole factor by which the picture is larger than the photo; by default 1, or more
                where faces are too small to be seen or read. Frames of a video need 1 to stay of one size.

        Returns:
            (sH, sW, 3) uint8 RGB, where s is the factor.

        Raises:
            ValueError: if the photo cannot be read, or naming the option.
        """
        from .drawing_mtld import draw_faces

        return draw_faces(load_rgb(photo, "photo"), faces, **options)

    def align(self, photo, face: dict, size: int = 256) -> np.ndarray:
        """Cuts out a face, turned upright, as large and where the model's mean face has it.

        Without a mean face, or of a model with a single landmark, the crop is the one around the box of the landmarks
        and not turned.

        Args:
            photo: of any kind the processor takes.
            face: one of those that the pipeline, or a tracker, found in this photo.
            size: side of the crop in pixels.

        Returns:
            (size, size, 3) uint8 RGB, black outside the photo.

        Raises:
            ValueError: if the photo cannot be read, the face is not one of this model, or `size` is not 1 to 8192.
        """
        if type(size) is not int or not 1 <= size <= MAX_CROP_SIZE:
            raise ValueError(f"size must be a whole number from 1 to {MAX_CROP_SIZE}, but got {size!r}")
        from .drawing_mtld import landmark_points

        points, mean_face = landmark_points(face), self._mean_face(face)
        if len(points) != len(mean_face):
            raise ValueError(f"face must have the model's {len(mean_face)} landmarks, but got {len(points)}")
        seen = seen_landmarks([mark.get("visibility", 1) for mark in face["landmarks"]])
        points, mean_face = points[seen], mean_face[seen]
        return warp_image(load_rgb(photo, "photo"), self._upright_matrix(points, mean_face, size), size)

    def _mean_face(self, face: dict) -> np.ndarray:
        """That of the topology whose names the landmarks of `face` have: (K, 2), fractions of the crop."""
        mean_face = self.model.decoder.mean_face.detach().cpu().double().numpy()
        labels = [mark.get("label") for mark in face["landmarks"]]
        for topology in map(self._topology, self.model.config.topologies or ()):
            if topology.landmark_names == labels:
                return mean_face[topology.landmarks]
        return mean_face

    def _upright_matrix(self, points: np.ndarray, mean_face: np.ndarray, size: int) -> np.ndarray:
        """Matrix (2, 3) from the photo to the crop in which the landmarks (K, 2) are upright."""
        if np.ptp(mean_face, axis=0).max() < MIN_MEAN_FACE:
            box = self.box_around(landmark_box(points))
            return crop_matrix(box, size, self.image_processor.box_enlargement)
        try:
            return fit_similarity(points, fractions_to_pixels(mean_face, size))
        except ValueError as error:
            raise ValueError(f"face must have landmarks that can be turned to the mean face: {error}") from error

    def tracker(self, smooth: bool = True, **options):
        """A `LandmarkTracker`, which follows the faces of one video: called with a frame and its time."""
        from .tracking_mtld import LandmarkTracker

        return LandmarkTracker(self, smooth=smooth, **options)


def _is_one_photo(images) -> bool:
    """Whether it is a photo, not several of which each has a number or comes after another."""
    if isinstance(images, np.ndarray | torch.Tensor):
        return images.ndim != 4
    if isinstance(images, str | bytes | bytearray | Mapping | Image.Image) or is_file(images):
        return True
    return not isinstance(images, Iterator | IterableDataset) and not hasattr(images, "__getitem__")


def _stream_of(images, boxes):
    """An iterator or IterableDataset of photos for transformers' pipeline."""
    if boxes is not None:
        raise ValueError(f"boxes must come with each photo of a stream, {{'image', 'boxes'}}, but got {boxes!r}")
    if isinstance(images, Iterator):
        return (_number(image, None, index) for index, image in enumerate(images))
    return images


class _Photos(Dataset):
    """Photos with what there is of boxes for each, and their places for error messages."""

    def __init__(self, images, boxes):
        self.images, self.boxes = images, boxes_by_photo(boxes, len(images))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        try:
            image = self.images[index]
        except Exception as error:  # of a data set that decodes its photos itself, or counts otherwise
            found = f"{type(error).__name__}: {first_line(error)}"
            raise ValueError(f"images[{index}] must be a readable picture, but got {found}") from error
        return _number(image, self.boxes[index], index)


def _number(image, boxes, index: int) -> dict:
    item = image if isinstance(image, Mapping) else {"image": image}
    return {"boxes": boxes} | dict(item) | {PLACE: f"[{index}]"}


def _without_none(parameters: dict) -> dict:
    return {name: value for name, value in parameters.items() if value is not None}


def _detect_views(photo: np.ndarray, detector, quarter_turns: bool | None) -> list[View]:
    """The photo with the faces that a detector finds, and those turned ones in which it finds others."""
    from .face_detection_mtld import detect_faces

    height, width = photo.shape[:2]
    boxes_of: dict[int, list] = {}
    for box, _, turns in zip(*detect_faces(photo, detector, quarter_turns)):
        if _overlaps_photo(box, width, height):
            corners = turn_points(box.reshape(2, 2), turns, width, height)
            boxes_of.setdefault(int(turns), []).append(np.concatenate([corners.min(axis=0), corners.max(axis=0)]))
    return [
        View(np.ascontiguousarray(np.rot90(photo, turns)) if turns else photo, boxes, turns)
        for turns, boxes in sorted(boxes_of.items())
    ]


def _join_views(views: list[View], faces: list[list[dict]]) -> list[dict]:
    """The faces of all views in the frame of the photo; of several views the largest first."""
    joined = [_turn_back(face, view) for view, own in zip(views, faces) for face in own]
    return joined if len(views) == 1 else sorted(joined, key=_negative_side)


def _negative_side(face: dict) -> float:
    return -(face["bbox"][2:] - face["bbox"][:2]).max().item()


def _turn_back(face: dict, view: View) -> dict:
    if view.turns == 0:
        return face
    height, width = view.photo.shape[:2]
    points, corners = (
        torch.from_numpy(turn_points(face[key].numpy().reshape(-1, 2), -view.turns, width, height))
        for key in ("keypoints", "bbox")
    )
    return face | {"keypoints": points, "bbox": torch.cat([corners.amin(dim=0), corners.amax(dim=0)])}


def _overlaps_photo(box: np.ndarray, width: int, height: int) -> bool:
    return box_overlap(box, np.array([[-0.5, -0.5, width - 0.5, height - 0.5]]))[0] > 0


def _box_of_whole(width: int, height: int, enlargement: float) -> np.ndarray:
    """The box (4,) whose crop is the square around the photo."""
    center, half = np.array([width - 1, height - 1]) / 2, np.array([width, height]) / (2 * enlargement)
    return np.concatenate([center - half, center + half])


def _boxes_for_second_crops(view: View, faces: list[dict]) -> list[np.ndarray]:
    """For each face the box of its landmarks, unless they are away from where it was detected."""
    height, width = view.photo.shape[:2]
    boxes = []
    for box, face in zip(view.boxes, faces):
        landmarks = face["bbox"].double().numpy()
        shared = box_overlap(landmarks, box[None])[0]
        union = box_areas(np.stack([landmarks, box])).sum() - shared
        trusted = shared >= FOUND_OVERLAP * union and _overlaps_photo(landmarks, width, height)
        boxes.append(landmarks if trusted else box)
    return boxes


def _describe(face: dict, names: list[str] | None) -> dict:
    names = names or [str(label) for label in face["labels"].tolist()]
    columns = {"score": face["scores"].tolist()}
    if "visibilities" in face:
        columns["visibility"] = face["visibilities"].tolist()
    return {
        "score": _score(face),
        "box": dict(zip(BOX_KEYS, face["bbox"].tolist())),
        "landmarks": [
            {"label": name, "x": x, "y": y} | {key: values[place] for key, values in columns.items()}
            for place, (name, (x, y)) in enumerate(zip(names, face["keypoints"].tolist()))
        ],
    }


def _score(face: dict) -> float:
    """The mean of the landmarks' scores, without those that the head hides."""
    seen = seen_landmarks(face.get("visibilities", np.ones(len(face["scores"]))))
    return face["scores"][torch.from_numpy(seen)].mean().item()
