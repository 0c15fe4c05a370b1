"""`import modeling_mtld.register`: the Auto classes of transformers load MTLD checkpoints with this installed code.

They then need no `trust_remote_code=True`, and ask no question. `facial_landmark_detection` makes the pipeline.
"""

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForKeypointDetection

from .configuration_mtld import MTLDConfig
from .image_processing_mtld import MTLDImageProcessor
from .modeling_mtld import MTLDForFacialLandmarkDetection
from .pipeline_mtld import FacialLandmarkDetectionPipeline

AutoConfig.register(MTLDConfig.model_type, MTLDConfig)
AutoImageProcessor.register(MTLDConfig, MTLDImageProcessor)
for auto_class in (AutoModel, AutoModelForKeypointDetection):
    auto_class.register(MTLDConfig, MTLDForFacialLandmarkDetection)


def facial_landmark_detection(model: str, **options) -> FacialLandmarkDetectionPipeline:
    """The pipeline of a checkpoint.

    Args:
        model: directory, or id on the Hub.
        options: of the pipeline, such as `device`, and of its calls.

    Raises:
        OSError: if there is no such checkpoint.
    """
    return FacialLandmarkDetectionPipeline(
        model=MTLDForFacialLandmarkDetection.from_pretrained(model),
        image_processor=MTLDImageProcessor.from_pretrained(model),
        **options,
    )
