"""What makes a saved directory loadable from the Hub: `auto_map`, the pipeline's entry and the code files."""

import json
import logging
import os
from pathlib import Path

from transformers.utils import cached_file

logger = logging.getLogger(__name__)

CODE_FILES = (
    "configuration_mtld.py",
    "backbone_mtld.py",
    "modeling_mtld.py",
    "confidence_mtld.py",
    "datasets_mtld.py",
    "topology_mtld.py",
    "sampling_mtld.py",
    "loss_mtld.py",
    "geometry_mtld.py",
    "image_processing_mtld.py",
    "face_detection_mtld.py",
    "flip_mtld.py",
    "drawing_mtld.py",
    "tracking_mtld.py",
    "pipeline_mtld.py",
    "publishing_mtld.py",
    "model_card_mtld.py",
    "hub_mtld.py",
)
MODEL = "modeling_mtld.MTLDForFacialLandmarkDetection"
AUTO_MAP = {
    "AutoConfig": "configuration_mtld.MTLDConfig",
    "AutoModel": MODEL,
    "AutoModelForKeypointDetection": MODEL,
    "AutoImageProcessor": "image_processing_mtld.MTLDImageProcessor",
}
CUSTOM_PIPELINES = {
    "facial-landmark-detection": {
        "impl": "pipeline_mtld.FacialLandmarkDetectionPipeline",
        "pt": ["AutoModelForKeypointDetection"],
        "type": "image",
    }
}
COMMIT_LENGTH = 40  # hexadecimal digits


def complete_checkpoint(directory: str | os.PathLike, source: str | None = None):
    """Adds to what `save_pretrained` wrote in `directory`: the code files and their entries in config.json.

    The code is that which runs, so that it replaces older files of a directory saved into again. A file that cannot be
    found is named in a warning: the weights of a long training are saved all the same.

    `"dtype": "float32"` is written whatever the weights are stored in: half-precision weights are for the download,
    and loaded as they are they would not take float32 pixels.

    Args:
        directory: holds config.json.
        source: where the model was loaded from, a directory or Hub id: code loaded from there brings to this machine
            only the files that were imported, so that the others are fetched from it.

    Raises:
        ValueError: if `directory` has no config.json, or one that is not JSON. It is left as it was.
    """
    path = Path(directory, "config.json")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} must be a configuration that save_pretrained wrote, but got {error}") from error
    if missing := bring_code(directory, source):
        logger.warning("%s lacks %s: beside %s and in %r there is none", directory, missing, __file__, source)
    config |= {"auto_map": AUTO_MAP, "custom_pipelines": CUSTOM_PIPELINES, "dtype": "float32"}
    write_whole(path, (json.dumps(config, indent=2, sort_keys=True) + "\n").encode())


def bring_code(directory: str | os.PathLike, source: str | None = None) -> list[str]:
    """Copies the code files into `directory`; arguments as in `complete_checkpoint`. Returns those found nowhere."""
    return [name for name in CODE_FILES if not _bring_file(name, source, Path(directory, name))]


def _bring_file(name: str, source: str | None, target: Path) -> bool:
    """Copies a code file to `target`, where there may be one already; False if there is none in the end."""
    found = _find_code(name, source)
    if found is None:
        return target.is_file()
    if not (target.is_file() and found.samefile(target)):
        write_whole(target, found.read_bytes())
    return True


def _find_code(name: str, source: str | None) -> Path | None:
    beside = Path(__file__).with_name(name)
    if beside.is_file():
        return beside
    # If `source` was a directory that is gone, what the Hub has under the same name is somebody else's.
    if not source or not (os.path.isdir(source) or code_revision()):
        return None
    try:
        return Path(cached_file(source, name, revision=code_revision()))
    except OSError:  # also without a network
        return None


def code_revision() -> str | None:
    """The commit of this code, where it was loaded from the Hub: transformers keeps it in a folder of that name."""
    folder = Path(__file__).parent.name
    return folder if len(folder) == COMMIT_LENGTH else None


def write_whole(path: Path, content: bytes):
    """Writes a file, whole or not at all."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
