"""Ranges and probabilities of the augmentation."""

from dataclasses import dataclass

_LIMITS = {  # above these a face may not be recognizable
    "rotation": 180,
    "rotation_probability": 1,
    "scale": 0.9,
    "shift": 1,
    "box_jitter": 0.4,
    "flip_probability": 1,
    "occlusion_probability": 1,
    "occlusion_size": 1,
    "blur_probability": 1,
    "blur_sigma": 1,
    "color": 1,
}


@dataclass(frozen=True)
class AugmentationRanges:
    """Ranges (each value is drawn uniformly from -range to range) and probabilities of what is done to a face.

    Attributes:
        rotation: degrees, drawn for a share `rotation_probability` of the faces.
        scale: change of the crop's side, as a share of it.
        shift: of the crop's centre in x and in y, as a share of the longer side of the box.
        box_jitter: of each edge of the box by itself, as a share of its width or height, as a face detector's boxes
            vary. Off by default: `scale` and `shift` cover it for the boxes that the benchmarks score.
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
    box_jitter: float = 0.0
    flip_probability: float = 0.5
    occlusion_probability: float = 0.4
    occlusion_size: float = 0.4
    blur_probability: float = 0.2
    blur_sigma: float = 0.012
    color: float = 0.2

    def __post_init__(self):
        for name, limit in _LIMITS.items():
            value = getattr(self, name)
            if not 0 <= value <= limit:
                raise ValueError(f"{name} must be from 0 to {limit}, but got {value}")
