"""Conversion of an official download to Parquet files that `load_dataset` reads, and their upload to the Hub."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets
import huggingface_hub
import pyarrow.parquet as pq
from datasets.table import embed_table_storage
from tqdm.auto import tqdm

from .benchmarks import BENCHMARKS
from .dataset_card import OWN_YAML, dataset_card
from .hub_data import hub_reason
from .loading import open_faces, prepare, split_sizes, warn_of_sizes
from .own_data import benchmark_yaml, find_benchmark

_FACES_IN_SHARD = 1000  # about 400 MB of official photos
_FACES_IN_ROW_GROUP = 100  # the unit that a reader loads at once


def convert(
    dataset: str, data_dir: str | Path, output_dir: str | Path, cache_dir: str | Path | None = None
) -> dict[str, int]:
    """Writes `output_dir/data/SPLIT-00000-of-0000N.parquet`, which include the photos, and a dataset card.

    `datasets` reads the columns and the size of each split from the card, before it reads or downloads the files.
    For your own landmarks, landmarks.yaml is written too, so that `output_dir/landmarks.yaml` can be given as the data
    set. The files are written to a hidden folder beside `output_dir`, which is renamed once it is complete.

    Returns:
        The number of faces of each split.

    Raises:
        ValueError: if `output_dir` exists and is not an empty folder; or as `load_faces`.
    """
    output_dir = Path(output_dir).expanduser().absolute()
    check_output_dir(output_dir)
    benchmark = find_benchmark(dataset)
    builder = prepare(open_faces(benchmark, data_dir, cache_dir), data_dir)
    sizes = split_sizes(builder)
    warn_of_sizes(benchmark, sizes)
    with _atomic_folder(output_dir) as temporary_dir:
        (temporary_dir / "data").mkdir()
        info = datasets.DatasetInfo(features=builder.info.features, splits=datasets.SplitDict())
        for split in sizes:
            info.splits.add(_write_split(builder.as_dataset(split=split), split, temporary_dir / "data"))
        info.dataset_size = sum(split.num_bytes for split in info.splits.values())
        info.download_size = sum(shard.stat().st_size for shard in (temporary_dir / "data").iterdir())
        if benchmark.name not in BENCHMARKS:
            (temporary_dir / OWN_YAML).write_text(benchmark_yaml(benchmark), encoding="utf-8")
        (temporary_dir / "README.md").write_text(dataset_card(benchmark, info), encoding="utf-8")
    return sizes


def check_output_dir(output_dir: Path) -> None:
    """Raises ValueError if `output_dir` exists and is not an empty folder."""
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise ValueError(f"output_dir must be a new or an empty folder, but got {output_dir}, which exists")


def check_hub_access(repo_id: str, private: bool = True) -> None:
    """Raises ValueError if `push_to_hub(..., repo_id, private)` would fail for one of these reasons: `repo_id` is not
    the name of a repository, there is no valid token, or `private` is set and the data set exists and is public."""
    try:
        huggingface_hub.utils.validate_repo_id(repo_id)
    except ValueError as error:
        raise ValueError(f"push_to_hub must be ORG/NAME, but got {repo_id!r}: {error}") from error
    if "/" not in repo_id:
        raise ValueError(f"push_to_hub must be ORG/NAME, but got {repo_id!r}")
    with _as_value_error(f"push_to_hub must name a data set that you may write, but signing in for {repo_id} failed"):
        huggingface_hub.HfApi().whoami()
        public = _is_public(repo_id)
    if private and public:
        raise ValueError(f"push_to_hub must name a new or private data set without --public, but got {repo_id}")


def push_to_hub(folder: str | Path, repo_id: str, private: bool = True) -> str:
    """Uploads a converted folder as a data set and returns its address.

    A new data set is private if `private` is set. With `private`, an existing public data set is refused. The faces of
    any other existing data set are replaced in one commit.

    Raises:
        ValueError: if the Hub cannot be reached or refuses, or as `check_hub_access`.
    """
    check_hub_access(repo_id, private)
    api = huggingface_hub.HfApi()
    retry = f"`hf upload {repo_id} {folder} --repo-type dataset{' --private' * private}` tries again"
    with _as_value_error(f"{folder} is complete, but its upload to {repo_id} failed ({retry})"):
        address = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id,
            repo_type="dataset",
            folder_path=folder,
            commit_message="Upload faces",
            delete_patterns="data/*.parquet",  # removes the shards of an earlier upload
        )
    return str(address)


def _is_public(repo_id: str) -> bool:
    try:
        return not huggingface_hub.HfApi().dataset_info(repo_id).private
    except huggingface_hub.errors.RepositoryNotFoundError:
        return False


def _write_split(dataset: datasets.Dataset, split: str, folder: Path) -> datasets.SplitInfo:
    num_shards, num_bytes = -(-len(dataset) // _FACES_IN_SHARD), 0
    tables = dataset.with_format("arrow")
    with tqdm(total=len(dataset), desc=f"Writing {split}", unit=" faces") as progress:
        for shard in range(num_shards):
            path = folder / f"{split}-{shard:05d}-of-{num_shards:05d}.parquet"
            with pq.ParquetWriter(path, dataset.features.arrow_schema, write_page_index=True) as writer:
                stop = min((shard + 1) * _FACES_IN_SHARD, len(dataset))
                for start in range(shard * _FACES_IN_SHARD, stop, _FACES_IN_ROW_GROUP):
                    table = embed_table_storage(tables[start : min(start + _FACES_IN_ROW_GROUP, stop)])
                    writer.write_table(table)
                    num_bytes += table.nbytes
                    progress.update(len(table))
    return datasets.SplitInfo(split, num_bytes=num_bytes, num_examples=len(dataset))


@contextmanager
def _atomic_folder(output_dir: Path) -> Iterator[Path]:
    """A hidden folder beside `output_dir`, which is renamed to it at the end and removed after an error."""
    temporary_dir = output_dir.with_name(f".{output_dir.name}.unfinished-{os.getpid()}")
    temporary_dir.mkdir(parents=True)
    try:
        yield temporary_dir
        if output_dir.is_dir():
            output_dir.rmdir()
        temporary_dir.rename(output_dir)
    finally:
        shutil.rmtree(temporary_dir, ignore_errors=True)


@contextmanager
def _as_value_error(message: str) -> Iterator[None]:
    """Raises any error of the Hub's client, the HTTP library or the operating system as a ValueError of one line."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{message}: {hub_reason(error)}") from error
