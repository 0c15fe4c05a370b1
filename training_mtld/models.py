"""The network to train or to score, and the image processor that goes with it."""

import logging

from modeling_mtld.configuration_mtld import MTLDConfig
from modeling_mtld.image_processing_mtld import MTLDImageProcessor
from modeling_mtld.modeling_mtld import MTLDForFacialLandmarkDetection

from .topologies import join_landmarks
from .transfer import load_for_benchmarks

logger = logging.getLogger("train")


def build_model(args) -> tuple[MTLDForFacialLandmarkDetection, bool]:
    """The checkpoint of --model_name_or_path, or a new model with a pretrained backbone; fields of --config on top.

    Returns:
        The model, and whether its landmarks are new, so that it needs a mean face.

    Raises:
        ValueError: naming the option at fault.
    """
    fields = _config_fields(args)
    benchmarks = [part.benchmark for part in args.datasets]
    if args.model_name_or_path:
        model, remade = load_for_benchmarks(args.model_name_or_path, benchmarks, fields)
        if remade and args.eval_only:
            raise ValueError(
                f"--model_name_or_path must predict the {benchmarks[0].num_landmarks} landmarks of "
                f"{args.datasets[0].dataset}, but {args.model_name_or_path} predicts others; train it first"
            )
        if remade:
            logger.warning("%s has other landmarks, so these are new: %s", args.model_name_or_path, ", ".join(remade))
        return model, bool(remade)
    joint = join_landmarks(benchmarks)
    knows_visibility = any("visibility" in benchmark.columns for benchmark in benchmarks)
    fields = {"use_visibility_head": knows_visibility} | joint.config_fields | fields
    model = MTLDForFacialLandmarkDetection(MTLDConfig(backbone=args.backbone or "resnet18", **fields))
    if not args.random_backbone:
        model.load_backbone_weights(args.backbone_checkpoint)
    return model, True


def _config_fields(args) -> dict:
    fields = dict(args.config)
    if args.image_size is not None:
        fields["image_size"] = args.image_size
    if args.dataset_offsets:
        fields["datasets"] = [part.benchmark.name for part in args.datasets]
    return fields


def build_processor(args, config: MTLDConfig) -> MTLDImageProcessor:
    """Crops at the size of the model; normalises as the checkpoint of --model_name_or_path has it, or for a new model
    as the backbone's pretrained weights expect."""
    topologies = {name: values["landmarks"] for name, values in (config.topologies or {}).items()} or None
    settings = {"size": config.image_size, "topologies": topologies}
    if args.model_name_or_path:
        return MTLDImageProcessor.from_pretrained(args.model_name_or_path, **settings)
    return MTLDImageProcessor(**settings, **config.normalization)
