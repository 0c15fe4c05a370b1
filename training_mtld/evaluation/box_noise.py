"""How the NME grows when face boxes are shifted or scaled, as those of another detector are."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from dataset_scripts.augmentation import Augmentation, FaceCrops
from dataset_scripts.benchmark_facts import Benchmark

from .scores import score_faces

LEVELS = (0, 0.05, 0.1, 0.15, 0.2)
CURVES = {"shift": ("shift",), "scale": ("scale",), "both": ("shift", "scale")}  # fields of `Augmentation`
_NO_AUGMENTATION = Augmentation(
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
    """NME with the box of every face shifted ("shift": its centre in x and in y by up to a level of its longer side,
    either way), scaled ("scale": its sides by a factor of 1 - level to 1 + level), and both at once.

    The noise is uniform and depends on the seed, the level and the face alone. Errors are divided by the normaliser of
    the exact box and the annotations, not of the noisy crop.

    Args:
        predict: runs the network; takes crops and returns their `landmarks`, `labels` and `boxes`, the predictions
            that `score_faces` takes.
        faces: columns of `load_faces`.
        processor: the network's `MTLDImageProcessor`.
        benchmark: defines boxes and normalisers.
        normalizer: a kind of the benchmark's normalisers.
        levels: fractions from 0 to 0.9. Level 0 is measured once for all curves.
        seed: of the noise.

    Returns:
        `levels`, `normalizer` and `curves`. `curves` has under "shift", "scale" and "both" a dict for each level: the
        NME as `value`, and the ends `low` and `high` of its 95 % interval over faces, all fractions.

    Raises:
        ValueError: on a level out of range, and where `score_faces` raises it.
    """
    if not levels or not all(0 <= level <= 0.9 for level in levels):
        raise ValueError(f"levels must be from 0 to 0.9, but got {list(levels)}")

    def measure(level: float, kinds: Sequence[str]) -> dict[str, float]:
        crops = FaceCrops(faces, processor, benchmark, replace(_NO_AUGMENTATION, **dict.fromkeys(kinds, level)), seed)
        crops.set_epoch(round(1e6 * level))  # other noise for each level
        scores = score_faces({"faces": predict(crops)}, benchmark, ["faces"], normalizer)
        return scores["faces"]["normalizers"][normalizer]["nme"]

    without_noise = measure(0, ()) if 0 in levels else None
    curves = {
        name: [measure(level, kinds) if level else dict(without_noise) for level in levels]
        for name, kinds in CURVES.items()
    }
    return {"levels": [float(level) for level in levels], "normalizer": normalizer, "curves": curves}
