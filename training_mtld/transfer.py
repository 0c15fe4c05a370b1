"""A checkpoint as a start for other landmarks: what belongs to single ones is made anew, the rest stays."""

import copy
import logging
from collections.abc import Sequence

import torch

from dataset_scripts.benchmark import Benchmark
from modeling_mtld.auto_mtld import first_line
from modeling_mtld.configuration_mtld import MTLDConfig
from modeling_mtld.heads_mtld import MTLDDatasetOffsets
from modeling_mtld.modeling_mtld import MTLDForFacialLandmarkDetection

from .topologies import JointLandmarks, common_places, has_landmarks, join_landmarks

logger = logging.getLogger("train")


def load_for_benchmarks(
    path: str, benchmarks: Sequence[Benchmark], fields: dict, for_training: bool = False
) -> tuple[MTLDForFacialLandmarkDetection, list[str]]:
    """The MTLD checkpoint at `path`, to train on or to score on `benchmarks`.

    Where it predicts their landmarks, in number and, if it has them, in names, this is `from_pretrained`. Otherwise
    the configuration takes their landmarks, and every weight with a row for each landmark is drawn anew from torch's
    random state, but for the rows of the parts that both have (see `common_places`); all other weights are kept to the
    bit.

    Args:
        path: directory or Hub id.
        benchmarks: give the landmarks.
        fields: of `MTLDConfig`, set on top of the checkpoint's.
        for_training: as in `MTLDForFacialLandmarkDetection`.

    Returns:
        The model in evaluation mode, and the names of the weights with new rows, such as "decoder.queries": none where
        all of the landmarks are among the checkpoint's. With "decoder.mean_face" among them, the model needs the mean
        face of the new data.

    Raises:
        ValueError: if there is no MTLD checkpoint, or `fields` do not fit it.
    """
    try:
        settings, _ = MTLDConfig.get_config_dict(path)
        if settings.get("model_type") != MTLDConfig.model_type:
            raise ValueError(f"a model of type {settings.get('model_type')!r}")
        model = MTLDForFacialLandmarkDetection.from_pretrained(path, for_training=for_training, **fields)
    except Exception as error:  # transformers, safetensors and the Hub's client each raise their own
        reason = first_line(error)
        raise ValueError(f"--model_name_or_path must be an MTLD checkpoint, but got {path}: {reason}") from error
    if has_landmarks(model.config, benchmarks):
        return model, []
    return _with_landmarks_of(join_landmarks(benchmarks), model, for_training)


def _with_landmarks_of(
    joint: JointLandmarks, source: MTLDForFacialLandmarkDetection, for_training: bool
) -> tuple[MTLDForFacialLandmarkDetection, list[str]]:
    """As `load_for_benchmarks`, of a loaded model with other landmarks."""
    config = copy.deepcopy(source.config)
    for name, value in joint.config_fields.items():
        setattr(config, name, value)
    model = MTLDForFacialLandmarkDetection(config, for_training)
    common = common_places(source.config, joint)
    of_landmarks = _weights_of_landmarks(config, for_training)
    new, weights = model.state_dict(), source.state_dict()
    counts = source.config.num_landmarks, config.num_landmarks
    for name in of_landmarks:
        weights[name] = _copy_rows(weights[name], new[name], counts, common)
    model.load_state_dict(weights)
    remade = of_landmarks if len(common) < len(joint.names) else []
    if common and remade:
        names = ", ".join(joint.names[index] for index in common)
        logger.warning("%d landmarks that both have keep their weights: %s", len(common), names)
    return model.eval(), remade


def give_offsets(model: MTLDForFacialLandmarkDetection, names: list[str]):
    """Offsets for the data sets of these names. Those that the model has keep theirs, others start at zero."""
    former = model.dataset_offsets if model.config.datasets else None
    model.config.datasets = names
    model.dataset_offsets = MTLDDatasetOffsets(model.config)
    for place, name in enumerate(names):
        if former is not None and name in former.names:
            model.dataset_offsets.offsets.data[:, place] = former.offsets.data[:, former.names.index(name)]


def _weights_of_landmarks(config: MTLDConfig, for_training: bool) -> list[str]:
    """Names of the weights that have rows for each landmark: those whose shape follows K."""
    shapes = []
    for count in (config.num_landmarks, config.num_landmarks + 1):
        sized = copy.deepcopy(config)
        sized.num_landmarks = count
        sized.landmark_names = sized.flip_pairs = sized.topologies = sized.default_topology = None
        with torch.device("meta"):  # no memory, and nothing is drawn
            weights = MTLDForFacialLandmarkDetection(sized, for_training).state_dict()
        shapes.append({name: weight.shape for name, weight in weights.items()})
    return [name for name in shapes[0] if shapes[0][name] != shapes[1][name]]


def _copy_rows(old: torch.Tensor, new: torch.Tensor, landmarks: tuple[int, int], common: dict[int, int]):
    """`new` (K * n, ...) with the n rows of each common landmark from `old` (K' * n, ...); `landmarks` is K' and K."""
    old, new = (weight.unflatten(0, (count, -1)) for weight, count in zip((old, new), landmarks, strict=True))
    new[list(common)] = old[list(common.values())].to(new.dtype)
    return new.flatten(0, 1)
