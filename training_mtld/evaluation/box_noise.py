"""How much a network loses where the box of a face is not where its training had it, as with another detector."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from dataset_scripts.augmentation import Augmentation, FaceCrops
from dataset_scripts.benchmark import Benchmark

from .scores import score_faces

LEVELS = (0, 0.05, 0.1, 0.15, 0.2)
CURVES = {"shift": ("shift",), "scale": ("scale",), "both": ("shift", "scale")}  # what of `Augmentation` is drawn
_STILL = Augmentation(
    rotation=0, scale=0, shift=0, flip_probability=0, occlusion_probability=0, blur_probability=0, color=0
)


def box_noise(
    predict: Callable[[FaceCrops], dict[str, np.ndarray]],
    faces,
    processor,
    benchmark: Benchmark,
    normalizer: str,
    levels: Sequence[float] = LEVELS,
    seed: int = 0,
) -> dict:
    """NME with the box of every face moved ("shift": its centre in x and in y by up to a level of its longer side,
    either way), resized ("scale": its sides by a factor of 1 - level to 1 + level), and both at once.

    Draws are uniform and depend on the seed, the level and the face alone. Errors are divided by what belongs to the
    true face, whatever its crop.

    Args:
        predict: runs the network; takes crops and returns for them `landmarks`, `labels` and `boxes` as
            `score_faces` reads them.
        faces: columns of `load_faces`.
        processor: an `MTLDImageProcessor`, that of the network.
        benchmark: gives boxes and normalisers.
        normalizer: one of its kinds.
        levels: from 0 to 0.9, fractions. 0 is measured once for all curves.
        seed: of the noise.

    Returns:
        `levels`, `normalizer` and `curves`: by "shift", "scale" and "both" for each level the NME as `value` with the
        ends `low` and `high` of its 95 % interval over faces, all fractions.

    Raises:
        ValueError: on a level out of range, or as `score_faces`.
    """
    if not levels or not all(0 <= level <= 0.9 for level in levels):
        raise ValueError(f"levels must be from 0 to 0.9, but got {list(levels)}")

    def measure(level: float, kinds: Sequence[str]) -> dict[str, float]:
        crops = FaceCrops(faces, processor, benchmark, replace(_STILL, **dict.fromkeys(kinds, level)), seed)
        crops.set_epoch(round(1e6 * level))  # so that each level draws anew
        scores = score_faces({"faces": predict(crops)}, benchmark, ["faces"], normalizer)
        return scores["faces"]["normalizers"][normalizer]["nme"]

    still = measure(0, ()) if 0 in levels else None
    curves = {
        name: [measure(level, kinds) if level else dict(still) for level in levels] for name, kinds in CURVES.items()
    }
    return {"levels": [float(level) for level in levels], "normalizer": normalizer, "curves": curves}
