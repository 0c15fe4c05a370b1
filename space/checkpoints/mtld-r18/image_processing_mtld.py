"""Photos and face boxes to the network's input, and the network's output back to pixels of the photo."""

import itertools
from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np
import torch
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature, get_size_dict
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, ChannelDimension
from transformers.utils import TensorType

from .auto_mtld import AUTO_MAP, PushToHub, bring_code
from .geometry_mtld import (
    BOX_ENLARGEMENT,
    box_corners,
    check_box,
    crop_matrix,
    fractions_to_pixels,
    invert_matrix,
    seen_landmarks,
    transform_points,
    warp_image,
)
from .photo_mtld import load_rgb, tensor_to_array

MARGIN_LIMITS = (-0.4, 100.0)  # of `box_margins`; high where the landmarks are few and close together
MAX_CROP_SIZE = 8192  # pixels; OpenCV's warp takes images of less than 32,768, and the crop is first sampled doubly
MIN_BOX_SIDE = 0.01  # pixels of the photo
MAX_BOX_RATIO = 20  # longer side of a box over the longer side of its photo
FILE_KEYS = ("auto_map", "image_processor_type", "processor_class")  # what transformers adds to the settings' file


class MTLDImageProcessorKwargs(TypedDict, total=False):
    """Settings of `MTLDImageProcessor`."""

    size: int | dict[str, int]
    do_convert_rgb: bool | None
    do_rescale: bool | None
    rescale_factor: float
    do_normalize: bool | None
    image_mean: list[float]
    image_std: list[float]
    box_enlargement: float
    box_margins: list[float]
    topologies: dict[str, dict] | None


class MTLDImageProcessor(PushToHub, BaseImageProcessor):
    """Cuts faces out of photos for the landmark model, and maps its landmarks back to the photos.

    Every setting can also be given to a single call.

    Args:
        size: side of the square crop in pixels, an int or {"height": …, "width": …}.
        do_convert_rgb: turn images of any mode into RGB; False refuses those that are not RGB.
        do_rescale: multiply pixels by `rescale_factor`.
        rescale_factor: by default 1 / 255.
        do_normalize: subtract `image_mean` and divide by `image_std`, three numbers each, by default ImageNet's.
        box_enlargement: side of the crop over the longer side of a box.
        box_margins: what the boxes that the model was trained on are wider than the landmark box, left, top, right and
            below, as shares of its longer side; 0 where these are landmark boxes. See `box_around`.
        topologies: of a network with several, by name `landmarks`, their indices among all of the network, and
            `box_margins` as above.

    Raises:
        ValueError: if a setting is unknown or out of range.
    """

    valid_kwargs = MTLDImageProcessorKwargs
    model_input_names = ["pixel_values"]

    size = {"height": 256, "width": 256}
    do_convert_rgb = True
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    box_enlargement = BOX_ENLARGEMENT
    box_margins = (0.0, 0.0, 0.0, 0.0)
    topologies = None

    def __init__(self, **kwargs):
        super().__init__(**{key: kwargs.pop(key) for key in FILE_KEYS if key in kwargs})
        settings = MTLDImageProcessorKwargs.__annotations__
        unknown = sorted(set(kwargs) - set(settings))
        if unknown:
            raise ValueError(f"settings must be among {', '.join(settings)}, but got {', '.join(unknown)}")
        for key in settings:
            setattr(self, key, kwargs.get(key, getattr(type(self), key)))
        self.size = _check_size(self.size)
        self.image_mean = _check_numbers(self.image_mean, "image_mean")
        self.image_std = _check_numbers(self.image_std, "image_std")
        if 0 in self.image_std:
            raise ValueError(f"image_std must not hold 0, but got {self.image_std}")
        _check_between(self.rescale_factor, "rescale_factor", 1e-9, 1e9)
        _check_between(self.box_enlargement, "box_enlargement", 0.1, 10)
        self.box_margins = _check_margins(self.box_margins)
        _check_topologies(self.topologies)

    def preprocess(
        self,
        images,
        boxes=None,
        return_tensors: str | TensorType | None = None,
        input_data_format: str | ChannelDimension | None = None,
        **settings,
    ) -> BatchFeature:
        """Cuts every boxed face out of its photo.

        Args:
            images: one image or a list of images, of any kind `load_rgb` takes, or a 4-dimensional batch of them.
            boxes: landmark boxes (x0, y0, x1, y1), or dicts as the pipeline's {"xmin", …}, in pixels of the upright
                photo, where the centre of the top-left pixel is (0, 0). For one image a list of boxes, also in a list
                of its own; for a list of images a list of such lists, each possibly empty. None takes the whole photo
                as one face: the crop is then the square around the photo, not enlarged by `box_enlargement`.
            return_tensors: "pt" for a torch tensor, "np" or None for a numpy array.
            input_data_format: "channels_first" or "channels_last", where an array's shape does not tell.
            settings: override the processor's own for this call, see the class.

        Returns:
            `pixel_values` (faces of all photos, 3, size, size) float32; `matrices` (faces, 2, 3) float64 numpy, from
            pixels of the photo to pixels of the crop, which `.to(dtype)` leaves alone; `face_counts`, a list of the
            number of faces of each photo.

        Raises:
            ValueError: naming the image or box, if it cannot be read, or a box has no area, is not finite, lies
                beside its photo or is more than 20 times as large, or if there are not as many lists as images.
        """
        settings = {key: value for key, value in settings.items() if value is not None}
        if settings:
            processor = type(self)(**{key: getattr(self, key) for key in self.valid_kwargs.__annotations__} | settings)
            return processor.preprocess(images, boxes, return_tensors, input_data_format)
        as_tensor = _wants_tensor(return_tensors)
        crops, matrices, face_counts = [], [], []
        for image, photo_boxes, name, boxes_name in _list_photos(images, boxes):
            photo = load_rgb(image, name, input_data_format, self.do_convert_rgb)
            photo_matrices = self._crop_matrices(photo, photo_boxes, boxes_name)
            crops += [self.normalize_crop(warp_image(photo, matrix, self._side)) for matrix in photo_matrices]
            matrices += photo_matrices
            face_counts.append(len(photo_matrices))
        pixel_values = np.stack(crops) if crops else np.zeros((0, 3, self._side, self._side), dtype=np.float32)
        return BatchFeature(
            {
                "pixel_values": torch.from_numpy(pixel_values) if as_tensor else pixel_values,
                "matrices": np.array(matrices, dtype=np.float64).reshape(-1, 2, 3),
                "face_counts": face_counts,
            }
        )

    def box_around(self, landmark_box, topology: str | None = None) -> np.ndarray:
        """The box (4,) for `boxes` of a face whose landmarks have this tight box (x0, y0, x1, y1), in pixels.

        Args:
            topology: one of `topologies`, whose `box_margins` are taken.
        """
        box = np.asarray(box_corners(landmark_box), dtype=np.float64)
        side = max(box[2] - box[0], box[3] - box[1])
        margins = self.box_margins if topology is None else self._topology(topology)["box_margins"]
        return box + side * np.array(margins) * [-1, -1, 1, 1]

    @property
    def _side(self) -> int:
        return self.size["height"]

    def _crop_matrices(self, photo: np.ndarray, boxes, name: str) -> list[np.ndarray]:
        height, width = photo.shape[:2]
        if boxes is None:
            return [crop_matrix((-0.5, -0.5, width - 0.5, height - 0.5), self._side, enlargement=1)]
        checked = check_photo_boxes(boxes, width, height, name)
        return [crop_matrix(box, self._side, self.box_enlargement) for box in checked]

    def normalize_crop(self, crop: np.ndarray) -> np.ndarray:
        """Crop (H, W, 3) uint8 to the network's input (3, H, W) float32: rescaled and normalised as set."""
        scale, shift = np.ones(3), np.zeros(3)
        if self.do_rescale:
            scale = scale * self.rescale_factor
        if self.do_normalize:
            scale, shift = scale / self.image_std, -np.divide(self.image_mean, self.image_std)
        pixels = np.empty((3, *crop.shape[:2]), dtype=np.float32)
        for channel in range(3):
            np.multiply(crop[:, :, channel], np.float32(scale[channel]), out=pixels[channel])
            pixels[channel] += np.float32(shift[channel])
        return pixels

    def post_process_landmark_detection(
        self, outputs, inputs, topology: str | None = None
    ) -> list[list[dict[str, torch.Tensor]]]:
        """Maps the model's landmarks back to the photos.

        Args:
            outputs: of the model, with `landmarks` (faces, K, 2), fractions of the crop, and `scores` (faces, K); None
                of a model without a scale head, which gives scores of 1. With a visibility head `visibilities` too.
            inputs: what the processor returned for these faces.
            topology: of `outputs` with all landmarks of a network, keep these of `topologies`; None keeps all. A model
                that was itself called with `topology` needs none here.

        Returns:
            For each photo a list of its faces, each a dict of tensors on the CPU: `keypoints` (K, 2) float32 in pixels
            of the upright photo, `scores` (K,) float32 in [0, 1], `labels` (K,) int64 the landmarks' indices, `bbox`
            (4,) float32, the tight box (x0, y0, x1, y1) of the keypoints, and with a visibility head `visibilities`
            (K,) float32; keypoints below 0.5, which the head itself hides, do not count for the box unless all are.

        Raises:
            ValueError: if `outputs` and `inputs` do not hold the same number of faces, or have other shapes, or
                there is no such topology.
        """
        missing = [key for key in ("pixel_values", "matrices", "face_counts") if key not in inputs]
        if missing:
            raise ValueError(f"inputs must be what the processor returned, but got no {', '.join(missing)}")
        matrices, landmarks = inputs["matrices"], _to_float64(outputs.landmarks)
        if landmarks.ndim != 3 or landmarks.shape[2] != 2:
            raise ValueError(f"outputs.landmarks must be (faces, landmarks, 2), but got {landmarks.shape}")
        if not len(landmarks) == len(matrices) == sum(inputs["face_counts"]):
            raise ValueError(
                f"outputs must hold the {len(matrices)} faces of inputs, {sum(inputs['face_counts'])} by its"
                f" face_counts, but got {len(landmarks)}"
            )
        chosen = self._indices_of(topology, landmarks.shape[1])
        pixels = fractions_to_pixels(landmarks, inputs["pixel_values"].shape[-1])[:, chosen]
        scores, visibilities = (_check_shares(outputs, name, landmarks) for name in ("scores", "visibilities"))
        scores = np.ones(landmarks.shape[:2]) if scores is None else scores
        faces = iter(
            _describe_face(
                transform_points(invert_matrix(matrix), pixels[number]),
                scores[number, chosen],
                None if visibilities is None else visibilities[number, chosen],
            )
            for number, matrix in enumerate(matrices)
        )
        return [list(itertools.islice(faces, count)) for count in inputs["face_counts"]]

    def _indices_of(self, topology: str | None, count: int) -> list[int]:
        """The landmarks, of `count`, that a topology has."""
        if topology is None:
            return list(range(count))
        indices = self._topology(topology)["landmarks"]
        if max(indices) >= count:
            raise ValueError(f"outputs must hold all landmarks of the network for {topology}, but got {count}")
        return indices

    def _topology(self, name: str) -> Mapping:
        known = self.topologies or {}
        if not isinstance(name, str) or name not in known:
            raise ValueError(f"topology must be one of {', '.join(known) or 'none'}, but got {name!r}")
        return known[name]

    def save_pretrained(self, save_directory, push_to_hub: bool = False, **kwargs) -> list[str]:
        """Writes preprocessor_config.json and the code that the Auto classes need, the network's too.

        That is what the Trainer pushes beside the weights while it trains.

        Args:
            push_to_hub: pushes these files too.
            kwargs: options of `push_checkpoint`.
        """
        written = super().save_pretrained(save_directory)
        bring_code(save_directory)
        if push_to_hub:
            from .hub_mtld import PROCESSOR_FILES, push_directory

            push_directory(self, save_directory, files=PROCESSOR_FILES, **kwargs)
        return written

    def to_dict(self) -> dict:
        """The settings as preprocessor_config.json has them."""
        return super().to_dict() | {"auto_map": {"AutoImageProcessor": AUTO_MAP["AutoImageProcessor"]}}


def _check_size(size) -> dict[str, int]:
    size = dict(get_size_dict(size))
    if set(size) != {"height", "width"} or size["height"] != size["width"]:
        raise ValueError(f"size must be square, {{'height': N, 'width': N}}, but got {size}")
    side = size["height"]
    if isinstance(side, bool) or not isinstance(side, int) or not 1 <= side <= MAX_CROP_SIZE:
        raise ValueError(f"size must be between 1 and {MAX_CROP_SIZE} pixels, but got {side!r}")
    return size


def _check_numbers(value, name: str) -> list[float]:
    array = np.asarray(value)
    if array.shape != (3,) or array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        raise ValueError(f"{name} must be three numbers, but got {value!r}")
    return array.tolist()


def _check_margins(values) -> list[float]:
    try:
        margins = [float(value) for value in values]
    except (TypeError, ValueError):
        margins = []
    low, high = MARGIN_LIMITS
    if len(margins) != 4 or not all(low <= margin <= high for margin in margins):
        raise ValueError(f"box_margins must be four numbers from {low} to {high}, but got {values!r}")
    return margins


def _check_between(value, name: str, low: float, high: float):
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"{name} must be a number between {low} and {high}, but got {value!r}")


def _wants_tensor(return_tensors) -> bool:
    if return_tensors not in (None, "np", "pt"):  # TensorType is a string too
        raise ValueError(f"return_tensors must be 'pt', 'np' or None, but got {return_tensors!r}")
    return return_tensors == "pt"


def _list_photos(images, boxes) -> list[tuple]:
    """(image, its boxes, and what error messages call both) of every photo."""
    images = by_position(images)
    if not (images.ndim == 4 if isinstance(images, np.ndarray | torch.Tensor) else _is_list(images)):
        return [(images, boxes_of_one(boxes), "image", "boxes")]
    boxes = boxes_by_photo(boxes, len(images))
    return [(image, boxes[i], f"images[{i}]", f"boxes[{i}]") for i, image in enumerate(images)]


def by_position(values):
    """A pandas Series or DataFrame as a list, since its own indices are labels; anything else as it is."""
    return values.to_numpy().tolist() if hasattr(values, "iloc") else values


def boxes_of_one(boxes):
    """The boxes of a single photo, which may come as of a list of one photo, in a list of their own."""
    boxes = _to_lists(boxes, "boxes")
    is_nested = _is_list(boxes) and len(boxes) == 1 and _is_list(boxes[0])
    return boxes[0] if is_nested and all(_is_list(box) or isinstance(box, Mapping) for box in boxes[0]) else boxes


def boxes_by_photo(boxes, count: int) -> Sequence:
    """What there is of `boxes` for each of `count` photos: a list of boxes each, or None.

    Raises:
        ValueError: if there are not as many.
    """
    if boxes is None:
        return [None] * count
    boxes = tensor_to_array(boxes, "boxes") if isinstance(boxes, torch.Tensor) else by_position(boxes)
    if not _is_list(boxes) or len(boxes) != count:
        found = f"{len(boxes)} of them" if _is_list(boxes) else repr(boxes)
        raise ValueError(f"boxes must be one list for each of the {count} images, but got {found}")
    return boxes


def check_photo_boxes(boxes, width: int, height: int, name: str = "boxes") -> list[np.ndarray]:
    """Returns `boxes`, a list of them or (N, 4), as float64 arrays (4,), each of a photo of `width` x `height`.

    Raises:
        ValueError: naming the box, if it has no area, is not finite, lies beside the photo or is more than 20 times as
            large.
    """
    boxes = _to_lists(boxes, name)
    if not _is_list(boxes):
        raise ValueError(f"{name} must be a list of boxes (x0, y0, x1, y1), but got {boxes!r}")
    return [_check_photo_box(box, width, height, f"{name}[{index}]") for index, box in enumerate(boxes)]


def _is_list(value) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim > 0
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)


def _to_lists(value, name: str):
    """Tensors and what pandas has, alone or in nested lists, to numpy and lists."""
    value = by_position(value)
    if isinstance(value, torch.Tensor):
        return tensor_to_array(value, name)
    return [_to_lists(item, name) for item in value] if isinstance(value, list | tuple) else value


def _to_float64(value) -> np.ndarray:
    return value.detach().cpu().double().numpy() if isinstance(value, torch.Tensor) else np.asarray(value, np.float64)


def _check_photo_box(box, width: int, height: int, name: str) -> np.ndarray:
    checked = check_box(box, name)
    x0, y0, x1, y1 = checked.tolist()
    largest = MAX_BOX_RATIO * max(width, height)
    if not MIN_BOX_SIDE <= max(x1 - x0, y1 - y0) <= largest:
        raise ValueError(
            f"{name} must be {MIN_BOX_SIDE} to {largest} pixels long, {MAX_BOX_RATIO} times its photo,"
            f" but got {checked.tolist()}"
        )
    if x1 <= -0.5 or y1 <= -0.5 or x0 >= width - 0.5 or y0 >= height - 0.5:
        raise ValueError(f"{name} must overlap its photo of {width} x {height}, but got {checked.tolist()}")
    return checked


def _check_topologies(topologies):
    if topologies is None:
        return
    if not isinstance(topologies, Mapping):
        raise ValueError(f"topologies must be None or a mapping from names, but got {topologies!r}")
    for name, values in topologies.items():
        if not isinstance(values, Mapping) or set(values) != {"landmarks", "box_margins"}:
            raise ValueError(f"topologies must have landmarks and box_margins, but got {values!r} for {name!r}")
        indices = values["landmarks"]
        if not isinstance(indices, list) or not indices or not all(type(i) is int and i >= 0 for i in indices):
            raise ValueError(f"topologies must have lists of indices as landmarks, but got {indices!r} for {name!r}")
        _check_margins(values["box_margins"])


def _check_shares(outputs, name: str, landmarks: np.ndarray) -> np.ndarray | None:
    """`outputs.scores` or `outputs.visibilities`, (faces, K); None where the model has none."""
    shares = getattr(outputs, name, None)
    if shares is None:
        return None
    shares = _to_float64(shares)
    if shares.shape != landmarks.shape[:2]:
        raise ValueError(f"outputs.{name} must be {landmarks.shape[:2]}, one a landmark, but got {shares.shape}")
    return shares


def _describe_face(points: np.ndarray, scores: np.ndarray, visibilities: np.ndarray | None) -> dict[str, torch.Tensor]:
    keypoints = torch.from_numpy(points).float()
    seen = seen_landmarks(np.ones(len(points)) if visibilities is None else visibilities)
    framed = keypoints[torch.from_numpy(seen)]
    face = {
        "keypoints": keypoints,
        "scores": torch.from_numpy(scores).float(),
        "labels": torch.arange(len(keypoints)),
        "bbox": torch.cat([framed.amin(dim=0), framed.amax(dim=0)]),
    }
    return face if visibilities is None else face | {"visibilities": torch.from_numpy(visibilities).float()}
