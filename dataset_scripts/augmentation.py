"""Faces of a `datasets.Dataset` as network inputs: one affine crop and one resampling, augmented for training.

Section 4.1 names rotation, occlusion, scaling, horizontal flip and blur; ranges and probabilities are HRNet's where it
has them. Shift and colour imitate the differences between face detectors and between cameras.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import datasets
import numpy as np
import torch

from modeling_mtld.geometry_mtld import crop_matrix, pixels_to_fractions, transform_points, warp_image
from modeling_mtld.image_processing_mtld import MARGIN_LIMITS

from .benchmark_facts import HIDDEN_BY_HEAD, UNKNOWN, Benchmark, subset_names, subsets_of
from .ranges import AugmentationRanges

_FACES_OF_MEAN = 2000  # of a stream; enough for a mean to a pixel of the crop


@dataclass(frozen=True)
class Augmentation(AugmentationRanges):
    """What is done to a face, by the ranges and probabilities of `AugmentationRanges`."""

    @property
    def upright(self) -> bool:
        """Whether no face is turned or mirrored, so that boxes stay axis-aligned with x0 < x1."""
        return self.rotation * self.rotation_probability == 0 and self.flip_probability == 0

    def matrix(
        self, box: np.ndarray, size: int, enlargement: float, rng: np.random.Generator
    ) -> tuple[np.ndarray, bool]:
        """The crop's matrix (2, 3), photo to crop, and whether it mirrors the face; arguments as `crop_matrix`."""
        turned = rng.random() < self.rotation_probability
        flip = rng.random() < self.flip_probability
        width, height = box[2] - box[0], box[3] - box[1]
        moves = rng.uniform(-self.box_jitter, self.box_jitter, 4) * [width, height, width, height]
        matrix = crop_matrix(
            box + moves,
            size,
            enlargement=enlargement * (1 + rng.uniform(-self.scale, self.scale)),
            rotation=rng.uniform(-self.rotation, self.rotation) * turned,
            shift=tuple(rng.uniform(-self.shift, self.shift, 2)),
            flip=flip,
        )
        return matrix, flip

    def change_pixels(self, crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Colour, blur and occlusion of a crop (size, size, 3) uint8; the landmarks stay where they are."""
        gain = 1 + rng.uniform(-self.color, self.color)
        offset = 255 * self.color * rng.uniform(-0.5, 0.5, 3)
        levels = np.arange(256)[:, None] * gain + offset
        crop = cv2.LUT(crop, np.clip(levels, 0, 255).astype(np.uint8).reshape(1, 256, 3))
        if rng.random() < self.blur_probability:
            crop = cv2.GaussianBlur(crop, (0, 0), max(0.3, rng.uniform(0, self.blur_sigma) * len(crop)))
        if rng.random() < self.occlusion_probability:
            self._occlude(crop, rng)
        return crop

    def _occlude(self, crop: np.ndarray, rng: np.random.Generator):
        size = len(crop)
        height, width = (rng.uniform(min(0.1, self.occlusion_size), self.occlusion_size, 2) * size).astype(int)
        top, left = (rng.random(2) * (size - height, size - width)).astype(int)
        noise = rng.random() < 0.5
        patch = rng.integers(0, 256, (height, width, 3) if noise else (1, 1, 3), dtype=np.uint8)
        crop[top : top + height, left : left + width] = patch


class FaceCropper:
    """Makes the inputs and labels of the model from a face.

    That is `pixel_values` (3, size, size) float32 and `labels` (K, 2) fractions of the crop, NaN where not annotated;
    of a set that knows it `visibility` (K,) float32, 0 where the head itself hides the landmark, 1 where it does not,
    NaN where it is not known; with augmentation `mirrored`, bool. Faces without augmentation, or with one that leaves
    them upright, also get `boxes` (4,), the box of the face, in the same fractions, and where the benchmark has any,
    `subsets` (S,) bool, which of `subset_names` the face is in.

    The random values for a face depend on the seed, the epoch, the face and how often the epoch has shown it before.
    They do not depend on the order of faces, the number of workers or an interruption.

    Args:
        processor: an `MTLDImageProcessor`; gives size and normalisation.
        benchmark: gives the box to crop and the flip pairs.
        augmentation: None leaves the faces as they are.
        seed: of everything drawn.
        flip_epochs: faces are mirrored only in the epochs before this number; None: in all epochs.
    """

    def __init__(
        self,
        processor,
        benchmark: Benchmark,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        flip_epochs: int | None = None,
    ):
        self.processor, self.benchmark, self.augmentation, self.seed = processor, benchmark, augmentation, seed
        self.flip_epochs = flip_epochs
        self.flip_pairs = np.asarray(benchmark.flip_pairs, dtype=int).reshape(-1, 2)

    def __call__(self, face: Mapping, epoch: int, repeat: int = 0) -> dict[str, torch.Tensor]:
        """
        Args:
            face: the columns of `load_faces`.
            epoch: draws differ from one to the next.
            repeat: how often the epoch has shown this face before.

        Raises:
            ValueError: if the box has no area.
        """
        image = np.asarray(face["image"].convert("RGB"))
        landmarks = np.asarray(face["landmarks"], dtype=np.float64)
        box, size = self.benchmark.box_to_crop(face), self.processor.size["height"]
        matrix, flip = crop_matrix(box, size, self.processor.box_enlargement), False
        if self.augmentation is not None:
            key = _key(face["image_id"], landmarks)
            rng = np.random.default_rng((self.seed, epoch, key, repeat) if repeat else (self.seed, epoch, key))
            matrix, flip = self._augmentation_of(epoch).matrix(box, size, self.processor.box_enlargement, rng)
        crop = warp_image(image, matrix, size)
        item = {"labels": pixels_to_fractions(transform_points(matrix, landmarks), size)}
        if face.get("visibility") is not None:
            known = np.asarray(face["visibility"], dtype=np.float64)
            item["visibility"] = np.where(known == UNKNOWN, np.nan, known != HIDDEN_BY_HEAD)
        if flip:
            for values in item.values():
                values[self.flip_pairs.ravel()] = values[self.flip_pairs[:, ::-1].ravel()]
        if self.augmentation is not None:
            crop = self.augmentation.change_pixels(crop, rng)
            item["mirrored"] = np.array(flip)
        if self.augmentation is None or self.augmentation.upright:
            item["boxes"] = pixels_to_fractions(transform_points(matrix, box.reshape(2, 2)), size).ravel()
            if subset_names(self.benchmark):  # (N, 0) could not be gathered from several processes
                item["subsets"] = subsets_of(face, self.benchmark)
        pixels = torch.from_numpy(self.processor.normalize_crop(crop))
        return {"pixel_values": pixels, **{name: _to_tensor(value) for name, value in item.items()}}

    def _augmentation_of(self, epoch: int) -> Augmentation:
        mirrored = self.flip_epochs is None or epoch < self.flip_epochs
        return self.augmentation if mirrored else replace(self.augmentation, flip_probability=0)


def _to_tensor(value: np.ndarray) -> torch.Tensor:
    tensor = torch.from_numpy(value)
    return tensor.float() if tensor.is_floating_point() else tensor


def _key(image_id: str, landmarks: np.ndarray) -> int:
    """A number for a face, the same in every process. One photo may have several faces."""
    return zlib.crc32(landmarks.astype(np.float32).tobytes(), zlib.crc32(image_id.encode()))


def _shared_number() -> torch.Tensor:
    """0, in memory that processes share."""
    return torch.zeros((), dtype=torch.int64).share_memory_()


class FaceCrops(torch.utils.data.Dataset):
    """The faces of a `datasets.Dataset`, or of any sequence of them, as `FaceCropper` makes them; same arguments.

    The number of the epoch reaches the workers of a DataLoader that are already running.

    Raises:
        ValueError: naming the face, if its photo cannot be decoded or its box has no area.
    """

    def __init__(self, faces, *args, **kwargs):
        self.faces, self.crop, self.epoch = faces, FaceCropper(*args, **kwargs), _shared_number()

    def set_epoch(self, epoch: int):
        self.epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.faces)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.repeated(index, 0)

    def repeated(self, index: int, repeat: int) -> dict[str, torch.Tensor]:
        """A face that the epoch has shown `repeat` times before."""
        try:
            return self.crop(self._read(index), int(self.epoch), repeat)
        except (ValueError, OSError) as error:
            name = self.faces.select_columns("image_id")[index]["image_id"]
            raise ValueError(f"face {name}: {error}") from error

    def _read(self, index: int):
        if not -len(self) <= index < len(self):
            raise IndexError(f"index must be below {len(self)}, but got {index}")  # ends a loop over the faces
        try:
            return self.faces[index]
        except Exception as error:  # PIL's readers raise nearly anything on damaged files
            raise ValueError(f"its photo must be readable, but got {type(error).__name__}: {error}") from error


class FaceStream(torch.utils.data.IterableDataset):
    """The same for a `datasets.IterableDataset`, whose files are shared out among the workers.

    Shuffle the faces before (`faces.shuffle(seed=..., buffer_size=...)`); each epoch has another order.
    """

    def __init__(self, faces, *args, **kwargs):
        self.faces, self.crop, self.epoch = faces, FaceCropper(*args, **kwargs), _shared_number()

    def set_epoch(self, epoch: int):
        self.epoch.fill_(epoch)
        self.faces.set_epoch(epoch)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        faces, last = iter(self.faces), None
        while True:
            try:
                face = next(faces)
            except StopIteration:
                return
            except Exception as error:  # PIL's readers raise nearly anything on damaged files
                place = "the first face" if last is None else f"the face after {last}"
                raise ValueError(f"{place} must be readable, but got {type(error).__name__}: {error}") from error
            last = face["image_id"]
            try:
                yield self.crop(face, int(self.epoch))
            except (ValueError, OSError) as error:
                raise ValueError(f"face {last}: {error}") from error


def box_margins(faces: datasets.Dataset | datasets.IterableDataset, benchmark: Benchmark) -> list[float]:
    """How much wider the boxes of the crops are than the landmark boxes (of a stream: of its first faces).

    Medians of left, top, right and below, as shares of the longer side of the landmark box, for `MTLDImageProcessor`.
    """
    if benchmark.crop_box == "landmark_box":
        return [0.0] * 4
    shares = []
    for face in _boxes_and_points(faces):
        tight = np.asarray(face["landmark_box"], dtype=np.float64)
        side = max(*(tight[2:] - tight[:2]), 1.0)  # a single landmark's box has no side
        shares.append((benchmark.box_to_crop(face) - tight) * [-1, -1, 1, 1] / side)
    return np.clip(np.median(shares, axis=0), *MARGIN_LIMITS).round(4).tolist()


def _boxes_and_points(faces):
    """Without the photos; of a stream the first faces alone."""
    columns = faces.select_columns(["landmarks", "landmark_box", "box"])
    if isinstance(faces, datasets.IterableDataset):
        columns = columns.take(_FACES_OF_MEAN)
    return columns.with_format("numpy")


def mean_face(faces: datasets.Dataset | datasets.IterableDataset, benchmark: Benchmark) -> torch.Tensor:
    """Mean landmarks of the crops of `faces` (of a stream: of its first), (K, 2) float32 fractions of the crop.

    Raises:
        ValueError: naming a landmark that none of them has.
    """
    return mean_of_sums(*landmark_sums(faces, benchmark), benchmark.landmark_names)


def landmark_sums(
    faces: datasets.Dataset | datasets.IterableDataset, benchmark: Benchmark
) -> tuple[np.ndarray, np.ndarray]:
    """Sums of each landmark over the crops of `faces` (of a stream: of its first faces), (K, 2) fractions of the crop,
    and the number of faces that have it, (K, 1)."""
    total, count = np.zeros((benchmark.num_landmarks, 2)), np.zeros((benchmark.num_landmarks, 1), dtype=int)
    for face in _boxes_and_points(faces):
        matrix = crop_matrix(benchmark.box_to_crop(face), 256)
        points = pixels_to_fractions(transform_points(matrix, face["landmarks"]), 256)
        annotated = np.isfinite(points).all(axis=1, keepdims=True)
        total += np.where(annotated, points, 0)
        count += annotated
    return total, count


def mean_of_sums(total: np.ndarray, count: np.ndarray, names: Sequence[str]) -> torch.Tensor:
    """`mean_face` from `landmark_sums`."""
    if not count.all():
        name = names[int(np.argmin(count))]
        raise ValueError(f"landmarks must each be annotated in a training face, but {name} is in none of them")
    return torch.from_numpy(total / count).float()
