"""What makes a saved directory loadable from the Hub: `auto_map`, the pipeline's entry and the code files."""

import json
import os
import shutil
from pathlib import Path

from transformers.utils import cached_file

CODE_FILES = (
    "configuration_mtld.py",
    "modeling_mtld.py",
    "loss_mtld.py",
    "geometry_mtld.py",
    "image_processing_mtld.py",
    "face_detection_mtld.py",
    "pipeline_mtld.py",
    "publishing_mtld.py",
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


def complete_checkpoint(directory, source: str | None):
    """Adds to what `save_pretrained` wrote in `directory`: the code files and their entries in config.json.

    `"dtype": "float32"` is written whatever the weights are stored in: half-precision weights are for the download,
    and loaded as they are they would not take float32 pixels.

    Args:
        directory: holds config.json.
        source: where the model was loaded from, a directory or Hub id: code loaded from there brings to this machine
            only the files that were imported, so that the others are fetched from it.
    """
    directory = Path(directory)
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config |= {"auto_map": AUTO_MAP, "custom_pipelines": CUSTOM_PIPELINES, "dtype": "float32"}
    temporary = path.with_suffix(".json.tmp")
    temporary.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(temporary, path)
    for name in CODE_FILES:
        if not (directory / name).is_file():
            shutil.copyfile(_find_code(name, source), directory / name)


def _find_code(name: str, source: str | None) -> Path:
    beside = Path(__file__).with_name(name)
    if beside.is_file():
        return beside
    found = cached_file(source, name, _raise_exceptions_for_missing_entries=False) if source else None
    if found is None:
        raise ValueError(f"{name} is needed beside the weights, but is neither in {beside.parent} nor in {source!r}")
    return Path(found)
