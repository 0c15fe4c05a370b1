"""The deployer's list of checkpoints: read once, each loaded when first asked for."""

import gc
import json
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import pipeline
from transformers.utils import cached_file

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).resolve().parent
TASK = "facial-landmark-detection"
METHODS = ("read", "draw", "align", "tracker")  # of the pipeline, beside calling it, that the demo uses
# Files in which a checkpoint may name the code to run.
SETTINGS = ("config.json", "processor_config.json", "preprocessor_config.json", "adapter_config.json")


@dataclass(frozen=True)
class Checkpoint:
    """One of the list: what visitors call it, the directory or Hub id, and the revision on the Hub, if one is set."""

    label: str
    source: str
    revision: str | None = None


def read_checkpoints(lines: Sequence[str], folder: Path = FOLDER) -> list[Checkpoint]:
    """The checkpoints that `lines` name: directories, relative to `folder`, or Hub ids, each `NAME` or `ID@REVISION`.

    Raises:
        ValueError: if there is none, a line is neither, or two would be called the same.
    """
    names = [line.split("#", 1)[0].strip() for line in lines]
    checkpoints = [_read_checkpoint(name, folder) for name in names if name]
    if not checkpoints:
        raise ValueError("checkpoints must name at least one directory or Hub id, but got none")
    labels = [checkpoint.label for checkpoint in checkpoints]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ValueError(f"checkpoints must have names of their own, but got {', '.join(twice)} twice")
    return checkpoints


def _read_checkpoint(name: str, folder: Path) -> Checkpoint:
    directory = folder / name
    if (directory / "config.json").is_file():
        return Checkpoint(directory.resolve().name, str(directory.resolve()))
    source, _, revision = name.partition("@")
    if directory.exists() or not _is_hub_id(source):
        raise ValueError(f"checkpoints must be directories with a config.json or ids on the Hub, but got {name!r}")
    return Checkpoint(source, source, revision or None)


def _is_hub_id(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name  # without one it would be a folder that is missing


class Picker:
    """Loads the checkpoints of a list, each once, and no others.

    Args:
        checkpoints: of the list; the first is the default.
    """

    def __init__(self, checkpoints: Sequence[Checkpoint]):
        self._checkpoints = {checkpoint.label: checkpoint for checkpoint in checkpoints}
        self._loaded = {}
        self._locks = {label: threading.Lock() for label in self._checkpoints}

    @property
    def labels(self) -> list[str]:
        return list(self._checkpoints)

    def checkpoint(self, label: str | None) -> Checkpoint:
        """The checkpoint of this label; None or "" is the first.

        Raises:
            ValueError: if it is not on the list.
        """
        label = label or self.labels[0]
        if not isinstance(label, str) or label not in self._checkpoints:
            raise ValueError(f"checkpoint must be one of {', '.join(self.labels)}, but got {str(label)[:100]!r}")
        return self._checkpoints[label]

    def load(self, label: str | None):
        """The pipeline on the checkpoint of this label; None or "" is the first.

        Raises:
            ValueError: if it is not on the list, or cannot be loaded; what went wrong is in the log.
        """
        checkpoint = self.checkpoint(label)
        with self._locks[checkpoint.label]:
            if checkpoint.label not in self._loaded:
                self._loaded[checkpoint.label] = _load(checkpoint)
                gc.freeze()  # what is loaded stays: without this, looking through it for garbage takes 5 % of the time
            return self._loaded[checkpoint.label]


def _load(checkpoint: Checkpoint):
    try:
        _check_code(checkpoint)
        find = pipeline(TASK, model=checkpoint.source, revision=checkpoint.revision, trust_remote_code=True)
        missing = [name for name in METHODS if not hasattr(find, name)]
        if missing:
            raise ValueError(f"its code is too old for this demo: its pipeline has no {', '.join(missing)}")
    except Exception as error:  # transformers, safetensors, the Hub's client and the checkpoint's own code
        logger.exception("The checkpoint %s cannot be loaded", checkpoint.source)
        raise ValueError(f"The checkpoint {checkpoint.label} cannot be loaded. The server's log says why.") from error
    return find


def _check_code(checkpoint: Checkpoint):
    """Refuses a checkpoint that names code of another repository: transformers would fetch and run that."""
    for name in SETTINGS:
        options = {"revision": checkpoint.revision, "_raise_exceptions_for_missing_entries": False}
        file = cached_file(checkpoint.source, name, **options)
        if file is None:
            continue
        settings = json.loads(Path(file).read_text(encoding="utf-8"))
        foreign = [entry for entry in _class_references(settings) if "--" in entry]
        if foreign:
            raise ValueError(f"{name} must name code of its own checkpoint, but got {foreign[0]}")


def _class_references(settings) -> list[str]:
    """All strings under `auto_map` and `custom_pipelines`, at any depth."""
    if isinstance(settings, dict):
        own = [settings[key] for key in ("auto_map", "custom_pipelines") if key in settings]
        return [text for value in own for text in _strings(value)] + [
            text for value in settings.values() for text in _class_references(value)
        ]
    return [text for value in settings for text in _class_references(value)] if isinstance(settings, list) else []


def _strings(value) -> list[str]:
    if isinstance(value, str):
        return [value]
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for child in children for text in _strings(child)]
