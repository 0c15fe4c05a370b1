"""The network to train or to score, and the image processor that goes with it."""

import logging

from dataset_scripts.benchmark_facts import Benchmark
from modeling_mtld.configuration_mtld import MTLDConfig
from modeling_mtld.hub_reach_mtld import is_local
from modeling_mtld.image_processing_mtld import MTLDImageProcessor
from modeling_mtld.modeling_mtld import MTLDForFacialLandmarkDetection

from .topologies import has_landmarks, join_landmarks
from .transfer import give_offsets, load_for_benchmarks

logger = logging.getLogger("train")


def build_model(args) -> tuple[MTLDForFacialLandmarkDetection, bool]:
    """The checkpoint of --model_name_or_path, or a new model with a pretrained backbone; fields of --config on top.

    Returns:
        The model, and whether its landmarks are new, so that it needs a mean face.

    Raises:
        ValueError: naming the option at fault.
    """
    fields = dict(args.config) | ({} if args.image_size is None else {"image_size": args.image_size})
    benchmarks = [part.benchmark for part in args.datasets]
    build = _load if args.model_name_or_path else _new
    model, new_landmarks = build(args, benchmarks, fields)
    if args.dataset_offsets:
        give_offsets(model, [benchmark.name for benchmark in benchmarks])
    if not model.config.use_visibility_head and any(map(_knows_visibility, benchmarks)):
        logger.warning(
            "the network has no visibility head, and does not learn which landmarks are hidden; "
            "--config use_visibility_head=true gives it one"
        )
    return model, new_landmarks


def _load(args, benchmarks, fields) -> tuple[MTLDForFacialLandmarkDetection, bool]:
    model, remade = load_for_benchmarks(args.model_name_or_path, benchmarks, fields, not args.eval_only)
    if remade and args.eval_only:
        config = MTLDConfig.from_pretrained(args.model_name_or_path)
        missing = next(benchmark for benchmark in benchmarks if not has_landmarks(config, [benchmark]))
        raise ValueError(
            f"--model_name_or_path must predict the {missing.num_landmarks} landmarks of {missing.name}, but "
            f"{args.model_name_or_path} predicts others; train it first"
        )
    if remade:
        logger.warning("%s has other landmarks, so these are new: %s", args.model_name_or_path, ", ".join(remade))
    return model, bool(remade)


def _new(args, benchmarks, fields) -> tuple[MTLDForFacialLandmarkDetection, bool]:
    known = {"use_visibility_head": any(map(_knows_visibility, benchmarks))}
    fields = known | join_landmarks(benchmarks).config_fields | fields
    config = MTLDConfig(backbone=args.backbone or "resnet18", **fields)
    model = MTLDForFacialLandmarkDetection(config, for_training=True)
    if not args.random_backbone:
        _load_backbone(model, args.backbone_checkpoint)
    return model, True


def _load_backbone(model: MTLDForFacialLandmarkDetection, file: str | None):
    try:
        model.load_backbone_weights(file)
    except ValueError as error:
        if file is not None:
            raise
        raise ValueError(
            f"{error}; --backbone_checkpoint FILE takes timm's weights from a file, and --random_backbone trains "
            "without"
        ) from error


def _knows_visibility(benchmark: Benchmark) -> bool:
    return "visibility" in benchmark.columns


def build_processor(args, config: MTLDConfig) -> MTLDImageProcessor:
    """Crops at the size of the model; normalises like the checkpoint of --model_name_or_path, or for a new model like
    the backbone's pretrained weights."""
    settings = {"size": config.image_size}
    if args.model_name_or_path:
        local = is_local(args.model_name_or_path)
        return MTLDImageProcessor.from_pretrained(args.model_name_or_path, local_files_only=local, **settings)
    return MTLDImageProcessor(**settings, **config.normalization)
