"""What the Auto classes and pipelines of transformers load: the classes of a checkpoint, each when it is asked for.

transformers puts the code of a checkpoint into a folder by the file that it enters by, and all that this imports. All
enter by this file, so that no other is there twice; what it imports inside functions is copied, but not run before it
is needed. It is also what makes a saved directory loadable: the entries of its configuration, and the code files.
"""

import importlib
import json
import logging
import os
from pathlib import Path

from transformers import AutoModelForKeypointDetection
from transformers.pipelines import PIPELINE_REGISTRY

logger = logging.getLogger(__name__)

CODE_FILES = (
    "auto_mtld.py",
    "configuration_mtld.py",
    "backbone_mtld.py",
    "modeling_mtld.py",
    "heads_mtld.py",
    "sampling_mtld.py",
    "loss_mtld.py",
    "geometry_mtld.py",
    "photo_mtld.py",
    "image_processing_mtld.py",
    "face_detection_mtld.py",
    "photo_parts_mtld.py",
    "yunet_mtld.py",
    "haar_mtld.py",
    "flip_mtld.py",
    "drawing_mtld.py",
    "tracking_mtld.py",
    "pipeline_mtld.py",
    "model_card_mtld.py",
    "hub_mtld.py",
    "hub_reach_mtld.py",
)
TASK = "facial-landmark-detection"
MODEL = "MTLDForFacialLandmarkDetection"
AUTO_MAP = {
    "AutoConfig": "auto_mtld.MTLDConfig",
    "AutoModel": f"auto_mtld.{MODEL}",
    "AutoModelForKeypointDetection": f"auto_mtld.{MODEL}",
    "AutoImageProcessor": "auto_mtld.MTLDImageProcessor",
}
CUSTOM_PIPELINES = {
    TASK: {
        "impl": "auto_mtld.FacialLandmarkDetectionPipeline",
        "pt": ["AutoModelForKeypointDetection"],
        "type": "image",
    }
}
COMMIT_LENGTH = 40  # hexadecimal digits


def __getattr__(name: str):
    """The classes of `AUTO_MAP` and `CUSTOM_PIPELINES`. transformers finds the files to copy by these lines."""
    if name == "MTLDConfig":
        from .configuration_mtld import MTLDConfig as found
    elif name == MODEL:
        from .modeling_mtld import MTLDForFacialLandmarkDetection as found
    elif name == "MTLDImageProcessor":
        from .image_processing_mtld import MTLDImageProcessor as found
    elif name == "FacialLandmarkDetectionPipeline":
        from .pipeline_mtld import FacialLandmarkDetectionPipeline as found
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return found


class PipelineOfModel:
    """Stands for the pipeline in transformers' registry, for `pipeline(task, model=model)` with a model that is loaded
    already. It makes that of the code which the model is of: checkpoints may come with different versions."""

    _load_image_processor = True
    _load_processor = _load_feature_extractor = _load_tokenizer = _load_video_processor = False

    def __new__(cls, model, **kwargs):
        code = next(base.__module__ for base in type(model).__mro__ if base.__name__ == MODEL)
        module = importlib.import_module(f"{code.rpartition('.')[0]}.pipeline_mtld")
        return module.FacialLandmarkDetectionPipeline(model=model, **kwargs)


if TASK not in PIPELINE_REGISTRY.get_supported_tasks():
    PIPELINE_REGISTRY.register_pipeline(
        TASK, pipeline_class=PipelineOfModel, pt_model=AutoModelForKeypointDetection, type="image"
    )


class PushToHub:
    """`push_to_hub` for a class with `save_pretrained`. transformers' own puts a card without content over ours."""

    def push_to_hub(self, repo_id: str, *, max_shard_size: int | str = "50GB", **options):
        """Pushes what `save_pretrained` writes, and returns huggingface_hub's `CommitInfo`.

        Args:
            repo_id: on the Hub, "organisation/name" or a name of the user's; created where there is none.
            max_shard_size: as in `save_pretrained`.
            options: those of `push_checkpoint`.
        """
        from .hub_mtld import push_saved

        return push_saved(self, repo_id=repo_id, max_shard_size=max_shard_size, **options)


def complete_checkpoint(directory: str | os.PathLike):
    """Adds to what `save_pretrained` wrote in `directory`: the code files and their entries in config.json.

    The code is that which runs, so that it replaces older files of a directory saved into again.

    `"dtype": "float32"` is written whatever the weights are stored in: half-precision weights are for the download,
    and loaded as they are they would not take float32 pixels.

    Args:
        directory: holds config.json.

    Raises:
        ValueError: if `directory` has no config.json, or one that is not JSON. It is left as it was.
    """
    path = Path(directory, "config.json")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} must be a configuration that save_pretrained wrote, but got {error}") from error
    bring_code(directory)
    config |= {"auto_map": AUTO_MAP, "custom_pipelines": CUSTOM_PIPELINES, "dtype": "float32"}
    write_whole(path, (json.dumps(config, indent=2, sort_keys=True) + "\n").encode())


def bring_code(directory: str | os.PathLike):
    """Copies the code files, which lie beside this one, into `directory`."""
    for name in CODE_FILES:
        source, target = Path(__file__).with_name(name), Path(directory, name)
        if not source.is_file():  # the weights of a long training are saved all the same
            logger.warning("%s lacks %s: there is none beside %s", directory, name, __file__)
        elif not (target.is_file() and source.samefile(target)):
            write_whole(target, source.read_bytes())


def code_revision() -> str | None:
    """The commit of this code, where it was loaded from the Hub: transformers keeps it in a folder of that name."""
    folder = Path(__file__).parent.name
    return folder if len(folder) == COMMIT_LENGTH else None


def first_line(error: Exception) -> str:
    """Of its message, or the name of its type where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def write_whole(path: Path, content: bytes):
    """Writes a file, whole or not at all."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
