"""The network to train or to score, and the image processor that goes with it."""

import logging

from modeling_mtld.configuration_mtld import MTLDConfig
from modeling_mtld.image_processing_mtld import MTLDImageProcessor
from modeling_mtld.modeling_mtld import MTLDForFacialLandmarkDetection

from .transfer import load_for_benchmark

logger = logging.getLogger("train")


def build_model(args) -> tuple[MTLDForFacialLandmarkDetection, bool]:
    """The checkpoint of --model_name_or_path, or a new model with a pretrained backbone; fields of --config on top.

    Returns:
        The model, and whether its landmarks are new, so that it needs a mean face.

    Raises:
        ValueError: naming the option at fault.
    """
    fields = dict(args.config) | ({} if args.image_size is None else {"image_size": args.image_size})
    if args.model_name_or_path:
        model, remade = load_for_benchmark(args.model_name_or_path, args.benchmark, fields)
        if remade and args.eval_only:
            raise ValueError(
                f"--model_name_or_path must predict the {args.benchmark.num_landmarks} landmarks of {args.dataset}, "
                f"but {args.model_name_or_path} predicts others; train it first"
            )
        if remade:
            logger.warning("%s has other landmarks, so these are new: %s", args.model_name_or_path, ", ".join(remade))
        return model, bool(remade)
    benchmark = args.benchmark
    config = MTLDConfig(
        backbone=args.backbone or "resnet18",
        num_landmarks=benchmark.num_landmarks,
        landmark_names=list(benchmark.landmark_names),
        flip_pairs=[list(pair) for pair in benchmark.flip_pairs],
        **fields,
    )
    model = MTLDForFacialLandmarkDetection(config)
    if not args.random_backbone:
        model.load_backbone_weights(args.backbone_checkpoint)
    return model, True


def build_processor(args, config: MTLDConfig) -> MTLDImageProcessor:
    """Crops at the size of the model; normalises as the checkpoint of --model_name_or_path has it, or for a new model
    as the backbone's pretrained weights expect."""
    if args.model_name_or_path:
        return MTLDImageProcessor.from_pretrained(args.model_name_or_path, size=config.image_size)
    return MTLDImageProcessor(size=config.image_size, **config.normalization)
