"""A checkpoint as a start for other landmarks: what belongs to single ones is made anew, the rest stays."""

import copy
import logging
import re

import torch

from dataset_scripts.benchmarks import Benchmark
from modeling_mtld.configuration_mtld import MTLDConfig
from modeling_mtld.modeling_mtld import MTLDForFacialLandmarkDetection

logger = logging.getLogger("train")


def load_for_benchmark(
    path: str, benchmark: Benchmark, fields: dict
) -> tuple[MTLDForFacialLandmarkDetection, list[str]]:
    """The MTLD checkpoint at `path`, to train on or to score on `benchmark`.

    Where its landmarks are those of the benchmark, in number and, if it has them, in names, this is `from_pretrained`.
    Otherwise the configuration takes the benchmark's landmarks, and every weight with a row for each landmark is drawn
    anew from torch's random state, but for the rows of the parts that both have (see `_common_landmarks`); all other
    weights are kept to the bit.

    Args:
        path: directory or Hub id.
        benchmark: gives the landmarks.
        fields: of `MTLDConfig`, set on top of the checkpoint's.

    Returns:
        The model in evaluation mode, and the names of the weights with new rows, such as "decoder.queries": none where
        all of the benchmark's landmarks are among the checkpoint's. With "decoder.mean_face" among them, the model
        needs the mean face of the new data.

    Raises:
        ValueError: if there is no MTLD checkpoint, or `fields` do not fit it.
    """
    try:
        settings, _ = MTLDConfig.get_config_dict(path)
        if settings.get("model_type") != MTLDConfig.model_type:
            raise ValueError(f"a model of type {settings.get('model_type')!r}")
        model = MTLDForFacialLandmarkDetection.from_pretrained(path, **fields)
    except Exception as error:  # transformers, safetensors and the Hub's client each raise their own
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"--model_name_or_path must be an MTLD checkpoint, but got {path}: {reason}") from error
    if _has_landmarks_of(model.config, benchmark):
        return model, []
    return _with_landmarks_of(benchmark, model)


def _has_landmarks_of(config: MTLDConfig, benchmark: Benchmark) -> bool:
    if config.landmark_names is None:
        return config.num_landmarks == benchmark.num_landmarks
    return tuple(config.landmark_names) == benchmark.landmark_names


def _with_landmarks_of(
    benchmark: Benchmark, source: MTLDForFacialLandmarkDetection
) -> tuple[MTLDForFacialLandmarkDetection, list[str]]:
    """As `load_for_benchmark`, of a loaded model with other landmarks."""
    config = copy.deepcopy(source.config)
    config.num_landmarks = benchmark.num_landmarks
    config.landmark_names = list(benchmark.landmark_names)
    config.flip_pairs = [list(pair) for pair in benchmark.flip_pairs]
    model = MTLDForFacialLandmarkDetection(config)
    common = _common_landmarks(source.config.landmark_names or [], benchmark.landmark_names)
    of_landmarks, new, weights = _weights_of_landmarks(config), model.state_dict(), source.state_dict()
    counts = source.config.num_landmarks, config.num_landmarks
    for name in of_landmarks:
        weights[name] = _copy_rows(weights[name], new[name], counts, common)
    model.load_state_dict(weights)
    remade = of_landmarks if len(common) < benchmark.num_landmarks else []
    if common and remade:
        names = ", ".join(benchmark.landmark_names[index] for index in common)
        logger.warning("%d landmarks that both have keep their weights: %s", len(common), names)
    return model.eval(), remade


def _common_landmarks(old: list[str], new: tuple[str, ...]) -> dict[int, int]:
    """Index in `new` to index in `old` of the landmarks that mean the same in both.

    Those are the ones of parts whose names are all the same: of two jaws with 17 and with 33 points, jaw_5 is not in
    the same place, while noses with as many points are taken for the same.
    """
    old_parts, new_parts = _parts(old), _parts(new)
    return {
        index: old.index(name)
        for index, name in enumerate(new)
        if old_parts.get(_part(name)) == new_parts[_part(name)]
    }


def _part(name: str) -> str:
    return re.sub(r"_?\d+$", "", name)


def _parts(names) -> dict[str, set[str]]:
    return {part: {name for name in names if _part(name) == part} for part in map(_part, names)}


def _weights_of_landmarks(config: MTLDConfig) -> list[str]:
    """Names of the weights that have rows for each landmark: those whose shape follows K."""
    shapes = []
    for count in (config.num_landmarks, config.num_landmarks + 1):
        sized = copy.deepcopy(config)
        sized.num_landmarks, sized.landmark_names, sized.flip_pairs = count, None, None
        with torch.device("meta"):  # no memory, and nothing is drawn
            weights = MTLDForFacialLandmarkDetection(sized).state_dict()
        shapes.append({name: weight.shape for name, weight in weights.items()})
    return [name for name in shapes[0] if shapes[0][name] != shapes[1][name]]


def _copy_rows(old: torch.Tensor, new: torch.Tensor, landmarks: tuple[int, int], common: dict[int, int]):
    """`new` (K * n, ...) with the n rows of each common landmark from `old` (K' * n, ...); `landmarks` is K' and K."""
    old, new = (weight.unflatten(0, (count, -1)) for weight, count in zip((old, new), landmarks, strict=True))
    new[list(common)] = old[list(common.values())].to(new.dtype)
    return new.flatten(0, 1)
