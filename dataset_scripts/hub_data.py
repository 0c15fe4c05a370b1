"""Data sets on the Hub: opening them, and one line that says why it did not work."""

import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import datasets
import huggingface_hub

_SECONDS_TO_ANSWER = 10


def names_a_hub_data_set(data_dir: str | Path) -> bool:
    """Whether it is such as "org/300w", and no folder of this name is there."""
    return (
        isinstance(data_dir, str)
        and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", data_dir) is not None
        and not Path(data_dir).exists()
    )


def open_from_hub(repo_id: str, cache_dir: str | None) -> datasets.DatasetBuilder:
    """The builder of a data set on the Hub; with HF_HUB_OFFLINE=1, of what was prepared from it before.

    Raises:
        ValueError: at once if it is not there or the Hub cannot be reached, naming `repo_id`.
    """
    try:
        commit = None if datasets.config.HF_HUB_OFFLINE else _latest_commit(repo_id)
        return datasets.load_dataset_builder(repo_id, cache_dir=cache_dir, revision=commit)
    except Exception as error:  # datasets, the Hub's client and its HTTP library each raise their own
        raise ValueError(
            f"data_dir must be an existing folder or a data set on the Hub, but got {repo_id}: {hub_reason(error)}"
        ) from error


def _latest_commit(repo_id: str) -> str:
    """Fails at once, where `datasets` tries for half a minute."""
    try:
        return huggingface_hub.HfApi().dataset_info(repo_id, timeout=_SECONDS_TO_ANSWER).sha
    except (huggingface_hub.errors.HfHubHTTPError, ValueError):
        raise
    except Exception as error:  # no answer
        hint = "HF_HUB_OFFLINE=1 reads what was prepared from it before"
        raise ConnectionError(f"{hub_reason(error)}; {hint}") from error


def stream_splits(builder: datasets.DatasetBuilder, splits: Sequence[str]) -> list[datasets.IterableDataset]:
    """A stream of each split of a builder of any kind.

    Raises:
        ValueError: naming a data set on the Hub that is out of reach, also later, while the streams are read.
    """
    if builder.repo_id is None:
        return [builder.as_streaming_dataset(split=split) for split in splits]
    builder._generate_tables = functools.partial(_read_tables, builder)
    try:
        return [builder.as_streaming_dataset(split=split) for split in splits]
    except Exception as error:
        raise out_of_reach(builder.repo_id, error) from error


def _read_tables(builder: datasets.DatasetBuilder, **options) -> Iterator:
    try:  # the class's own, as a bound one comes back from pickle, for a worker, as this very function
        yield from type(builder)._generate_tables(builder, **options)
    except Exception as error:
        raise out_of_reach(builder.repo_id, error) from error


def out_of_reach(repo_id: str, error: Exception) -> ValueError:
    """What to raise for an `error` while a data set on the Hub is downloaded or read."""
    return ValueError(f"data_dir must be whole and within reach, but got {repo_id}: {hub_reason(error)}")


def hub_reason(error: Exception) -> str:
    """One line for whatever the Hub's client raised: its own errors, the HTTP library's, the operating system's."""
    if isinstance(error, huggingface_hub.errors.GatedRepoError):
        return "its owner gives access to those who ask for it on its page"
    if isinstance(error, (huggingface_hub.errors.RepositoryNotFoundError, datasets.exceptions.DatasetNotFoundError)):
        return "there is none of this name, or it is private and the token at hand does not open it (hf auth login)"
    if isinstance(error, huggingface_hub.errors.HfHubHTTPError):
        return error.server_message or " ".join(str(error).split())
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
