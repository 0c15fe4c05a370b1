"""Opening of data sets on the Hub, with the reason in one line if it fails."""

import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import datasets
import huggingface_hub

_SECONDS_TO_ANSWER = 10


def is_hub_id(data_dir: str | Path) -> bool:
    """Whether `data_dir` is such as "org/300w" and no such path exists."""
    return (
        isinstance(data_dir, str)
        and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", data_dir) is not None
        and not Path(data_dir).exists()
    )


def open_from_hub(repo_id: str, cache_dir: str | None) -> datasets.DatasetBuilder:
    """The builder of a data set on the Hub; with HF_HUB_OFFLINE=1, of its faces in the cache.

    Raises:
        ValueError: if it does not exist or the Hub cannot be reached, without retries; the message names `repo_id`.
    """
    try:
        commit = None if datasets.config.HF_HUB_OFFLINE else _latest_commit(repo_id)
        return datasets.load_dataset_builder(repo_id, cache_dir=cache_dir, revision=commit)
    except Exception as error:  # datasets, the Hub's client and its HTTP library each raise their own
        raise ValueError(
            f"data_dir must be an existing folder or a data set on the Hub, but got {repo_id}: {hub_reason(error)}"
        ) from error


def _latest_commit(repo_id: str) -> str:
    """Fails at once without a connection; `datasets` would retry for half a minute."""
    try:
        return huggingface_hub.HfApi().dataset_info(repo_id, timeout=_SECONDS_TO_ANSWER).sha
    except (huggingface_hub.errors.HfHubHTTPError, ValueError):
        raise
    except Exception as error:  # no answer
        hint = "HF_HUB_OFFLINE=1 reads the faces in the cache, if there are any"
        raise ConnectionError(f"{hub_reason(error)}; {hint}") from error


def stream_splits(builder: datasets.DatasetBuilder, splits: Sequence[str]) -> list[datasets.IterableDataset]:
    """A stream of each split of a builder of any kind.

    Raises:
        ValueError: if a data set on the Hub cannot be read, now or while the streams are read; the message names it.
    """
    if builder.repo_id is None:
        return [builder.as_streaming_dataset(split=split) for split in splits]
    builder._generate_tables = functools.partial(_read_tables, builder)
    try:
        return [builder.as_streaming_dataset(split=split) for split in splits]
    except Exception as error:
        raise hub_error(builder.repo_id, error) from error


def _read_tables(builder: datasets.DatasetBuilder, **options) -> Iterator:
    # The class's method, because the instance's attribute is this function, also after unpickling in a worker.
    try:
        yield from type(builder)._generate_tables(builder, **options)
    except Exception as error:
        raise hub_error(builder.repo_id, error) from error


def hub_error(repo_id: str, error: Exception) -> ValueError:
    """The ValueError to raise for an `error` while a data set on the Hub is downloaded or read."""
    return ValueError(f"data_dir must be complete and readable on the Hub, but got {repo_id}: {hub_reason(error)}")


def hub_reason(error: Exception) -> str:
    """The reason, in one line, of an error of the Hub's client, the HTTP library or the operating system."""
    if isinstance(error, huggingface_hub.errors.GatedRepoError):
        return "access to it must be requested on its page"
    if isinstance(error, (huggingface_hub.errors.RepositoryNotFoundError, datasets.exceptions.DatasetNotFoundError)):
        return "there is none of this name, or it is private and the token gives no access (hf auth login)"
    if isinstance(error, huggingface_hub.errors.HfHubHTTPError):
        return error.server_message or " ".join(str(error).split())
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
