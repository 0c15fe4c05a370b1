"""Transfer of a checkpoint to other landmarks: weights of single landmarks are drawn anew, all others are kept."""

import copy
import logging
from collections.abc import Sequence

import torch

from dataset_scripts.benchmark_facts import Benchmark
from modeling_mtld.auto_mtld import first_line
from modeling_mtld.configuration_mtld import MTLDConfig
from modeling_mtld.heads_mtld import MTLDDatasetOffsets
from modeling_mtld.hub_reach_mtld import is_local
from modeling_mtld.modeling_mtld import MTLDForFacialLandmarkDetection

from .topologies import JointLandmarks, common_places, has_landmarks, join_landmarks

logger = logging.getLogger("train")


def load_for_benchmarks(
    path: str, benchmarks: Sequence[Benchmark], fields: dict, for_training: bool = False
) -> tuple[MTLDForFacialLandmarkDetection, list[str]]:
    """The MTLD checkpoint at `path`, to train on or to score on `benchmarks`.

    If it predicts their landmarks, the same number with the same names or none, it is loaded by `from_pretrained`.
    Otherwise the configuration takes their landmarks, and every weight with a row for each landmark is drawn anew from
    torch's random state, except the rows of landmarks that both have (see `common_places`). All other weights are kept
    exactly.

    Args:
        path: directory or Hub id.
        benchmarks: define the landmarks.
        fields: of `MTLDConfig`, set on top of the checkpoint's.
        for_training: as in `MTLDForFacialLandmarkDetection`.

    Returns:
        The model in evaluation mode, and the names of the weights with new rows, such as "decoder.queries"; none if
        the checkpoint has all landmarks. If "decoder.mean_face" is among them, the model needs the mean face of the
        new data.

    Raises:
        ValueError: if there is no MTLD checkpoint, or `fields` do not fit it.
    """
    try:
        local = is_local(path)
        settings, _ = MTLDConfig.get_config_dict(path, local_files_only=local)
        if settings.get("model_type") != MTLDConfig.model_type:
            raise ValueError(f"a model of type {settings.get('model_type')!r}")
        options = {"for_training": for_training, "local_files_only": local}
        model = MTLDForFacialLandmarkDetection.from_pretrained(path, **options, **fields)
    except Exception as error:  # transformers, safetensors and the Hub's client each raise their own
        reason = first_line(error)
        raise ValueError(f"--model_name_or_path must be an MTLD checkpoint, but got {path}: {reason}") from error
    if has_landmarks(model.config, benchmarks):
        return model, []
    return _with_landmarks_of(join_landmarks(benchmarks), model, for_training)


def _with_landmarks_of(
    joint: JointLandmarks, source: MTLDForFacialLandmarkDetection, for_training: bool
) -> tuple[MTLDForFacialLandmarkDetection, list[str]]:
    """As `load_for_benchmarks`, for the loaded model `source` with other landmarks."""
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
    new_weights = of_landmarks if len(common) < len(joint.names) else []
    if common and new_weights:
        names = ", ".join(joint.names[index] for index in common)
        logger.warning("%d landmarks of the checkpoint keep their weights: %s", len(common), names)
    return model.eval(), new_weights


def give_offsets(model: MTLDForFacialLandmarkDetection, names: list[str]):
    """Adds offsets for the data sets of these names. Data sets that the model knows keep theirs, others start at 0."""
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
    """`new` (K * n, ...) with the n rows of each common landmark from `old` (K' * n, ...). `landmarks` is (K', K)."""
    old, new = (weight.unflatten(0, (count, -1)) for weight, count in zip((old, new), landmarks, strict=True))
    new[list(common)] = old[list(common.values())].to(new.dtype)
    return new.flatten(0, 1)
