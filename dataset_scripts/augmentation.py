"""Faces of a `datasets.Dataset` as network inputs: one affine crop and one resampling, augmented for training.

Section 4.1 names rotation, occlusion, scaling, horizontal flip and blur; ranges and probabilities are HRNet's where it
has them. Shift and colour stand for what a face detector and a camera do.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch

from modeling_mtld.geometry_mtld import crop_matrix, pixels_to_fractions, transform_points, warp_image


@dataclass(frozen=True)
class Augmentation:
    """Ranges (each value is drawn uniformly from -range to range) and probabilities of what is done to a face.

    Attributes:
        rotation: degrees, drawn for a share `rotation_probability` of the faces.
        scale: change of the crop's side, as a share of it.
        shift: of the crop's centre in x and in y, as a share of the longer side of the box.
        flip_probability: share of faces mirrored.
        occlusion_probability: share of faces with a rectangle of noise or of one colour on them.
        occlusion_size: largest side of that rectangle, as a share of the crop's.
        blur_probability: share of faces blurred by a Gaussian.
        blur_sigma: its largest standard deviation, as a share of the crop's side.
        color: change of contrast, and of the brightness of each channel, as a share.
    """

    rotation: float = 30.0
    rotation_probability: float = 0.6
    scale: float = 0.2
    shift: float = 0.05
    flip_probability: float = 0.5
    occlusion_probability: float = 0.4
    occlusion_size: float = 0.4
    blur_probability: float = 0.2
    blur_sigma: float = 0.012
    color: float = 0.2

    def matrix(self, box, size: int, enlargement: float, rng: np.random.Generator) -> tuple[np.ndarray, bool]:
        """The crop's matrix (2, 3), photo to crop, and whether it mirrors the face; arguments as `crop_matrix`."""
        turned = rng.random() < self.rotation_probability
        flip = rng.random() < self.flip_probability
        matrix = crop_matrix(
            box,
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
        height, width = (rng.uniform(0.1, self.occlusion_size, 2) * size).astype(int)
        top, left = (rng.random(2) * (size - height, size - width)).astype(int)
        noise = rng.random() < 0.5
        patch = rng.integers(0, 256, (height, width, 3) if noise else (1, 1, 3), dtype=np.uint8)
        crop[top : top + height, left : left + width] = patch


class FaceCrops(torch.utils.data.Dataset):
    """Faces as the model takes them: `pixel_values` (3, size, size) float32 and `labels` (K, 2) fractions of the crop.

    What is drawn for a face depends on the seed, the epoch and its index alone, so that neither the number of workers
    nor an interruption changes a training.

    Args:
        faces: columns `image`, `landmarks` (K, 2) in pixels of the photo and `box`.
        processor: an `MTLDImageProcessor`; gives size and normalisation.
        augmentation: None leaves the faces as they are.
        flip_pairs: of landmarks that change places in a mirrored face.
        seed: of everything drawn.

    Raises:
        ValueError: naming the face, if its photo cannot be decoded or its box has no area.
    """

    def __init__(self, faces, processor, augmentation: Augmentation | None = None, flip_pairs=(), seed: int = 0):
        self.faces, self.processor, self.augmentation, self.seed = faces, processor, augmentation, seed
        self.flip_pairs = np.asarray(flip_pairs, dtype=int).reshape(-1, 2)
        self.epoch = 0

    def set_epoch(self, epoch: int):
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.faces)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        try:
            return self._cut(self.faces[index], np.random.default_rng((self.seed, self.epoch, index)))
        except (ValueError, OSError) as error:
            name = self.faces.select_columns("image_id")[index]["image_id"]
            raise ValueError(f"face {name}: {error}") from error

    def _cut(self, face: dict, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        image = np.asarray(face["image"].convert("RGB"))
        landmarks = np.asarray(face["landmarks"], dtype=np.float64)
        size, enlargement = self.processor.size["height"], self.processor.box_enlargement
        if self.augmentation is None:
            matrix, flip = crop_matrix(face["box"], size, enlargement), False
        else:
            matrix, flip = self.augmentation.matrix(face["box"], size, enlargement, rng)
        crop = warp_image(image, matrix, size)
        if self.augmentation is not None:
            crop = self.augmentation.change_pixels(crop, rng)
        points = pixels_to_fractions(transform_points(matrix, landmarks), size)
        if flip:
            points[self.flip_pairs.ravel()] = points[self.flip_pairs[:, ::-1].ravel()]
        return {
            "pixel_values": torch.from_numpy(self.processor.normalize_crop(crop)),
            "labels": torch.from_numpy(points).float(),
        }


def mean_face(faces) -> torch.Tensor:
    """Mean landmarks of the crops of `faces`, (K, 2) float32 fractions of the crop; NaN points are left out."""
    crops = [
        pixels_to_fractions(transform_points(crop_matrix(box, 256), landmarks), 256)
        for box, landmarks in zip(faces["box"][:], faces["landmarks"][:], strict=True)
    ]
    return torch.from_numpy(np.nanmean(crops, axis=0)).float()
