"""The checkpoints that visitors can choose from. Each is loaded at its first use."""

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
METHODS = ("read", "draw", "align", "tracker")  # the pipeline's methods that the demo calls, beside `__call__`
# Files in which a checkpoint may name the code to run.
SETTINGS_FILES = ("config.json", "processor_config.json", "preprocessor_config.json", "adapter_config.json")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of the list: its label on the page, its directory or Hub id, and its revision on the Hub if set."""

    label: str
    source: str
    revision: str | None = None


def read_checkpoints(lines: Sequence[str], folder: Path = FOLDER) -> list[Checkpoint]:
    """Reads the checkpoints that `lines` name: directories relative to `folder`, or Hub ids as `ID` or `ID@REVISION`.

    Raises:
        ValueError: if there is none, a line is neither, or two have the same label.
    """
    names = [line.split("#", 1)[0].strip() for line in lines]
    checkpoints = [_read_checkpoint(name, folder) for name in names if name]
    if not checkpoints:
        raise ValueError("checkpoints must name at least one directory or Hub id, but got none")
    labels = [checkpoint.label for checkpoint in checkpoints]
    duplicates = sorted({label for label in labels if labels.count(label) > 1})
    if duplicates:
        raise ValueError(f"checkpoints must have different names, but got {', '.join(duplicates)} twice")
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
    return "/" in name  # a name without a slash can only be a missing folder


class Picker:
    """Loads each checkpoint of a list once, and no other checkpoint.

    Args:
        checkpoints: the list; the first is the default.
    """

    def __init__(self, checkpoints: Sequence[Checkpoint]):
        self._checkpoints = {checkpoint.label: checkpoint for checkpoint in checkpoints}
        self._pipelines = {}
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
            ValueError: if it is not on the list, or cannot be loaded; the log has the cause.
        """
        checkpoint = self.checkpoint(label)
        with self._locks[checkpoint.label]:
            if checkpoint.label not in self._pipelines:
                self._pipelines[checkpoint.label] = _load(checkpoint)
                gc.freeze()  # without this, garbage collection scans the loaded network, for 5 % of the time
            return self._pipelines[checkpoint.label]


def _load(checkpoint: Checkpoint):
    try:
        _check_code(checkpoint)
        pipe = pipeline(TASK, model=checkpoint.source, revision=checkpoint.revision, trust_remote_code=True)
        missing_methods = [name for name in METHODS if not hasattr(pipe, name)]
        if missing_methods:
            raise ValueError(f"its code is too old for this demo: its pipeline has no {', '.join(missing_methods)}")
    except Exception as error:  # transformers, safetensors, the Hub's client and the checkpoint's own code
        logger.exception("The checkpoint %s cannot be loaded", checkpoint.source)
        raise ValueError(f"The checkpoint {checkpoint.label} cannot be loaded. The server's log says why.") from error
    return pipe


def _check_code(checkpoint: Checkpoint):
    """Refuses a checkpoint that names code of another repository, which transformers would download and run."""
    for name in SETTINGS_FILES:
        options = {"revision": checkpoint.revision, "_raise_exceptions_for_missing_entries": False}
        file = cached_file(checkpoint.source, name, **options)
        if file is None:
            continue
        settings = json.loads(Path(file).read_text(encoding="utf-8"))
        foreign_references = [entry for entry in _class_references(settings) if "--" in entry]
        if foreign_references:
            raise ValueError(f"{name} must name code of its own checkpoint, but got {foreign_references[0]}")


def _class_references(settings) -> list[str]:
    """All strings under `auto_map` and `custom_pipelines`, at any depth."""
    if isinstance(settings, dict):
        values = [settings[key] for key in ("auto_map", "custom_pipelines") if key in settings]
        return [text for value in values for text in _strings(value)] + [
            text for value in settings.values() for text in _class_references(value)
        ]
    return [text for value in settings for text in _class_references(value)] if isinstance(settings, list) else []


def _strings(value) -> list[str]:
    if isinstance(value, str):
        return [value]
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for child in children for text in _strings(child)]
