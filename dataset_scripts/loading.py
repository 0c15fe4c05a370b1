"""Faces of a benchmark as a `datasets.Dataset`, from official folders, Parquet folders or the Hub, or as a stream."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path

import datasets
import numpy as np

from .benchmark_facts import Benchmark
from .benchmarks import BUILDERS
from .download import download_hint
from .face_builder import FaceBuilder, box_in_whole_pixels, face_features
from .face_files import PHOTO_SUFFIXES, resolve_folder
from .hub_data import hub_error, is_hub_id, open_from_hub, stream_splits
from .metadata import FacesInFolder
from .own_data import default_data_dir, find_benchmark

logger = logging.getLogger(__name__)

FaceDataset = datasets.Dataset | datasets.IterableDataset


def load_faces(
    dataset: str | Benchmark,
    data_dir: str | Path | None,
    split: str,
    cache_dir: str | Path | None = None,
    streaming: bool = False,
) -> FaceDataset:
    """The faces of one split, of several joined by "+", or of a subset that papers name.

    Args:
        dataset: a name in `BENCHMARKS`, such as "300w", the path of a YAML file that describes your own landmarks, or
            a `Benchmark`.
        data_dir: the official folders, the folder that `python -m dataset_scripts` made from them, or the name of a
            data set on the Hub, such as "org/300w"; for a YAML file by default its folder.
        split: such as "train", "common+challenging", "train[:100]", or a subset that the benchmark names ("full",
            "frontal").
        cache_dir: folder where `datasets` caches the prepared faces; by default its own.
        streaming: read the faces one after another while they are used, without a cache; "[:100]" is refused.

    Returns:
        The columns of `FaceBuilder`. If a Parquet file lacks `landmark_box`, `box` or `image_id`, the column is added.
        A split whose size is not the official one is logged as a warning.

    Raises:
        ValueError: on an unknown data set or split, a missing or empty folder, a folder of another layout, or a file
            that cannot be read or downloaded (from a stream, while it is used); the message names the cause.
    """
    benchmark = find_benchmark(dataset)
    data_dir = default_data_dir(dataset) if data_dir is None else data_dir
    builder = open_faces(benchmark, data_dir, cache_dir)
    subset = benchmark.subsets.get(split)
    expression = subset.splits if subset else split
    splits = [re.sub(r"\[.*\]$", "", name.strip()) for name in expression.split("+")]
    if not set(splits) <= set(split_names(builder)):
        names = [*split_names(builder), *_available(benchmark, split_names(builder))]
        raise ValueError(f"split must be made of {', '.join(names)} for {data_dir}, but got {split!r}")
    if streaming:
        if "[" in expression:
            raise ValueError(f"split must be without [...] when streaming, but got {split!r}")
        streams = stream_splits(builder, splits)
        faces = datasets.concatenate_datasets(streams) if len(streams) > 1 else streams[0]
    else:
        faces = prepare(builder, data_dir).as_dataset(split=expression)
    warn_of_sizes(benchmark, {name: size for name, size in split_sizes(builder).items() if name in splits})
    faces = _add_missing_columns(faces, benchmark, data_dir)
    if subset and subset.column:
        faces = select_rows(faces, subset.column, {subset.value})
    return faces


def open_faces(
    benchmark: Benchmark, data_dir: str | Path | None, cache_dir: str | Path | None = None
) -> datasets.DatasetBuilder:
    """The builder behind `load_faces` (same arguments, same errors), with nothing prepared yet."""
    if data_dir is None:
        raise ValueError(f"data_dir must be the folder of {benchmark.title}, but got None. {download_hint(benchmark)}")
    cache_dir = None if cache_dir is None else str(cache_dir)
    if is_hub_id(data_dir):
        return open_from_hub(str(data_dir), cache_dir)
    try:
        folder = resolve_folder(data_dir)
    except ValueError as error:
        raise ValueError(f"{error}. {download_hint(benchmark, data_dir)}") from None
    shards = _list_shards(folder)
    if shards:
        return datasets.load_dataset_builder("parquet", data_files=shards, cache_dir=cache_dir)
    builder = BUILDERS.get(benchmark.name, FacesInFolder)
    return builder(data_dir=str(folder), benchmark=benchmark, cache_dir=cache_dir)


def prepare(builder: datasets.DatasetBuilder, data_dir: str | Path) -> datasets.DatasetBuilder:
    """Prepares all splits of `data_dir` in the cache. Raises ValueError as `load_faces`."""
    try:
        builder.download_and_prepare()
    except datasets.exceptions.DatasetGenerationError as error:
        raise ValueError(
            f"data_dir must hold files that can be read, but got {error.__cause__} in {data_dir}"
        ) from error
    except datasets.exceptions.SplitsVerificationError as error:
        raise ValueError(
            f"data_dir must hold the faces that its card announces, but got {data_dir}: {error}"
        ) from error
    except Exception as error:
        if builder.repo_id is None or isinstance(error, ValueError):
            raise
        raise hub_error(builder.repo_id, error) from error
    return builder


def split_names(builder: datasets.DatasetBuilder) -> list[str]:
    """The splits that a builder has, prepared or not."""
    if isinstance(builder, FaceBuilder):
        return builder.split_names
    return list(builder.config.data_files or builder.info.splits)  # offline, `info` has the splits in the cache


def split_sizes(builder: datasets.DatasetBuilder) -> dict[str, int]:
    """Number of faces of each split, known of a prepared builder or from a card on the Hub; otherwise empty."""
    return {name: info.num_examples for name, info in (builder.info.splits or {}).items()}


def warn_of_sizes(benchmark: Benchmark, sizes: Mapping[str, int]) -> None:
    """Logs one warning that names the splits whose number of faces is not the official one."""
    differences = [
        f"{split}: {size} faces found, official {benchmark.splits[split]}"
        for split, size in sizes.items()
        if size != benchmark.splits.get(split, size)
    ]
    if differences:
        logger.warning("%s, %s", benchmark.title, "; ".join(differences))


def select_rows(faces: FaceDataset, column: str, values: set, keep: bool = True) -> FaceDataset:
    """The faces whose `column` is in `values`, or without `keep` the others. Only a stream decodes photos for it."""
    if isinstance(faces, datasets.IterableDataset):
        return faces.filter(lambda value: (value in values) == keep, input_columns=[column])
    return faces.select([index for index, value in enumerate(faces[column][:]) if (value in values) == keep])


def select_images(faces: FaceDataset, list_file: str | Path, keep: bool) -> FaceDataset:
    """The faces whose photos `list_file` names, or without `keep` all others, in the order of `faces`.

    Args:
        faces: with a column `image_id`.
        list_file: text, one photo a line, such as `afw/134212_1.jpg`; the suffix does not matter.
        keep: whether to keep or to drop the photos listed.

    Raises:
        ValueError: if the file is missing or empty, or names a photo that `faces` lacks (not checked for a stream).
    """
    if not Path(list_file).is_file():
        raise ValueError(f"list_file must be an existing file, but got {list_file}")
    lines = [line.strip() for line in Path(list_file).read_text(encoding="utf-8").splitlines()]
    photos = {_image_id(line): line for line in lines if line}
    if not photos:
        raise ValueError(f"list_file must name at least one photo, but {list_file} is empty")
    if isinstance(faces, datasets.Dataset):
        unknown_ids = photos.keys() - set(faces["image_id"][:])
        if unknown_ids:
            raise ValueError(f"{list_file} must name photos of the data set, but got {photos[min(unknown_ids)]}")
    return select_rows(faces, "image_id", set(photos), keep)


def _available(benchmark: Benchmark, splits: list[str]) -> list[str]:
    """The subsets whose splits all exist."""
    return [name for name, subset in benchmark.subsets.items() if set(subset.splits.split("+")) <= set(splits)]


def _add_missing_columns(faces: FaceDataset, benchmark: Benchmark, data_dir: str | Path) -> FaceDataset:
    """`faces` with the columns that every data set has. Raises ValueError if `image` or K `landmarks` are missing."""
    _check_features(benchmark, faces.features, data_dir)
    columns = [name for name in ("landmark_box", "box", "image_id") if name not in faces.features]
    if not columns:
        return faces
    features = datasets.Features({name: face_features(benchmark)[name] for name in columns})

    def add(landmarks, index) -> dict:
        box = box_in_whole_pixels(landmarks).astype(np.float32)
        values = {"landmark_box": box, "box": np.full(4, np.nan, np.float32), "image_id": f"{index:06d}"}
        return {name: values[name] for name in columns}

    if isinstance(faces, datasets.IterableDataset):
        features = datasets.Features({**faces.features, **features})
        return faces.map(add, input_columns=["landmarks"], with_indices=True, features=features)
    points = faces.select_columns(["landmarks"]).with_format("numpy")["landmarks"][:]
    rows = [add(landmarks, index) for index, landmarks in enumerate(points)]
    return datasets.concatenate_datasets([faces, datasets.Dataset.from_list(rows, features=features)], axis=1)


def _check_features(benchmark: Benchmark, features: datasets.Features, data_dir: str | Path) -> None:
    num_landmarks = _count(features["landmarks"]) if "landmarks" in features else 0
    if "image" not in features or num_landmarks != benchmark.num_landmarks:
        raise ValueError(
            f"data_dir must hold a column image and a column landmarks of {benchmark.num_landmarks} points for "
            f"{benchmark.name}, but got {features} in {data_dir}"
        )


def _count(landmarks) -> int:
    """Number of points of a column: of an array, or of lists of a fixed length."""
    return landmarks.shape[0] if isinstance(landmarks, datasets.Array2D) else getattr(landmarks, "length", -1)


def _list_shards(folder: Path) -> dict[str, list[str]]:
    """The files `data/SPLIT-00000-of-0000N.parquet` of each split, in order; empty if `folder` is no conversion.

    Raises:
        ValueError: if one of the N is missing.
    """
    shards: dict[str, list[str]] = {}
    for path in sorted(folder.glob("data/*.parquet")):
        name = re.fullmatch(r"(\w+)-\d{5}-of-(\d{5})\.parquet", path.name)
        if name:
            shards.setdefault(name[1], []).append(str(path))
    for split, paths in shards.items():
        num_shards = int(paths[0].removesuffix(".parquet")[-5:])
        if len(paths) != num_shards:
            raise ValueError(f"{folder / 'data'} must hold {num_shards} files of {split}, but got {len(paths)}")
    return shards


def _image_id(line: str) -> str:
    path = line.replace("\\", "/")
    stem, dot, suffix = path.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in PHOTO_SUFFIXES else path
