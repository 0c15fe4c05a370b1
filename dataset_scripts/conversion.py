"""An official download as a folder of Parquet files that `load_dataset` reads anywhere, and its upload to the Hub."""

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
    """Writes `output_dir/data/SPLIT-00000-of-0000N.parquet`, photos inside, and a dataset card.

    The card tells `datasets` the columns and the size of each split, so that they are known before anything is read
    or downloaded. Beside your own data it writes landmarks.yaml too, so that `output_dir/landmarks.yaml` can stand
    for the data set.
    `output_dir` appears when all of it is written; until then the files lie in a hidden folder beside it.

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
    with _complete_or_absent(output_dir) as unfinished:
        (unfinished / "data").mkdir()
        info = datasets.DatasetInfo(features=builder.info.features, splits=datasets.SplitDict())
        for split in sizes:
            info.splits.add(_write_split(builder.as_dataset(split=split), split, unfinished / "data"))
        info.dataset_size = sum(split.num_bytes for split in info.splits.values())
        info.download_size = sum(shard.stat().st_size for shard in (unfinished / "data").iterdir())
        if benchmark.name not in BENCHMARKS:
            (unfinished / OWN_YAML).write_text(benchmark_yaml(benchmark), encoding="utf-8")
        (unfinished / "README.md").write_text(dataset_card(benchmark, info), encoding="utf-8")
    return sizes


def check_output_dir(output_dir: Path) -> None:
    """Raises ValueError if `output_dir` exists and is not an empty folder."""
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise ValueError(f"output_dir must be a new or an empty folder, but got {output_dir}, which exists")


def check_hub_access(repo_id: str, private: bool = True) -> None:
    """Raises ValueError if `push_to_hub(..., repo_id, private)` cannot work, as far as is seen beforehand: `repo_id`
    is no name of a repository, no valid token is at hand, or the data set is there and public without leave."""
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
        raise ValueError(f"push_to_hub must name a new or a private data set, or --public be given, but got {repo_id}")


def push_to_hub(folder: str | Path, repo_id: str, private: bool = True) -> str:
    """Uploads a converted folder as a data set and returns its address.

    A new data set is made private or not; with `private`, one that is there and public is left alone. Otherwise the
    upload takes the place of the faces that are there, in one commit.

    Raises:
        ValueError: if the Hub cannot be reached or refuses, or the data set is public.
    """
    check_hub_access(repo_id, private)
    api = huggingface_hub.HfApi()
    again = f"`hf upload {repo_id} {folder} --repo-type dataset{' --private' * private}` tries again"
    with _as_value_error(f"{folder} is complete, but its upload to {repo_id} failed ({again})"):
        address = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id,
            repo_type="dataset",
            folder_path=folder,
            commit_message="Upload faces",
            delete_patterns="data/*.parquet",  # shards of an earlier upload that this one has not
        )
    return str(address)


def _is_public(repo_id: str) -> bool:
    try:
        return not huggingface_hub.HfApi().dataset_info(repo_id).private
    except huggingface_hub.errors.RepositoryNotFoundError:
        return False


def _write_split(faces: datasets.Dataset, split: str, folder: Path) -> datasets.SplitInfo:
    count, num_bytes = -(-len(faces) // _FACES_IN_SHARD), 0
    tables = faces.with_format("arrow")
    with tqdm(total=len(faces), desc=f"Writing {split}", unit=" faces") as progress:
        for shard in range(count):
            path = folder / f"{split}-{shard:05d}-of-{count:05d}.parquet"
            with pq.ParquetWriter(path, faces.features.arrow_schema, write_page_index=True) as writer:
                stop = min((shard + 1) * _FACES_IN_SHARD, len(faces))
                for start in range(shard * _FACES_IN_SHARD, stop, _FACES_IN_ROW_GROUP):
                    table = embed_table_storage(tables[start : min(start + _FACES_IN_ROW_GROUP, stop)])
                    writer.write_table(table)
                    num_bytes += table.nbytes
                    progress.update(len(table))
    return datasets.SplitInfo(split, num_bytes=num_bytes, num_examples=len(faces))


@contextmanager
def _complete_or_absent(output_dir: Path) -> Iterator[Path]:
    """A hidden folder beside `output_dir`, which takes its name at the end and is removed after an error."""
    unfinished = output_dir.with_name(f".{output_dir.name}.unfinished-{os.getpid()}")
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        if output_dir.is_dir():
            output_dir.rmdir()
        unfinished.rename(output_dir)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def _as_value_error(message: str) -> Iterator[None]:
    """One line for whatever the Hub's client raises: its own errors, the HTTP library's, the operating system's."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{message}: {hub_reason(error)}") from error
