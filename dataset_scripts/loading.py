"""Faces of a benchmark as a `datasets.Dataset`, from official folders or from their Parquet conversion."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path

import datasets

from .benchmarks import BENCHMARKS, Benchmark
from .builder_300w import Faces300W
from .face_builder import FaceBuilder, face_features
from .face_files import PHOTO_SUFFIXES, resolve_folder

logger = logging.getLogger(__name__)

BUILDERS: dict[str, type[FaceBuilder]] = {"300w": Faces300W}


def load_faces(
    dataset: str, data_dir: str | Path | None, split: str, cache_dir: str | Path | None = None
) -> datasets.Dataset:
    """The faces of one split, or of several joined by "+", of a benchmark.

    Args:
        dataset: a name in `BENCHMARKS`, such as "300w".
        data_dir: the official folders, or the folder that `python -m dataset_scripts` made from them.
        split: such as "train", "common+challenging", "train[:100]", or a subset that the benchmark names ("full").
        cache_dir: where `datasets` keeps what it prepared; by default its usual place.

    Returns:
        Columns `image` (PIL, RGB), `landmarks` (K, 2) in pixels of the photo, 0-based, NaN where not annotated, `box`
        (x0, y0, x1, y1) around them in whole pixels, `image_id`. A split of another size than the official one is
        logged as a warning.

    Raises:
        ValueError: on an unknown data set or split, a missing or empty folder, one of another layout, or a file in it
            that cannot be read; the message names what is at fault.
    """
    builder = prepare_faces(dataset, data_dir, cache_dir)
    sizes = split_sizes(builder)
    expression = BENCHMARKS[dataset].subsets.get(split, split)
    wanted = [re.sub(r"\[.*\]$", "", part.strip()) for part in expression.split("+")]
    if not set(wanted) <= sizes.keys():
        raise ValueError(f"split must be made of {', '.join(sizes)} for {data_dir}, but got {split!r}")
    warn_of_sizes(BENCHMARKS[dataset], {name: sizes[name] for name in wanted})
    return builder.as_dataset(split=expression)


def prepare_faces(
    dataset: str, data_dir: str | Path | None, cache_dir: str | Path | None = None
) -> datasets.DatasetBuilder:
    """The builder behind `load_faces` (same arguments, same errors), with all splits prepared in the cache."""
    if dataset not in BENCHMARKS:
        raise ValueError(f"dataset must be one of {', '.join(BENCHMARKS)}, but got {dataset!r}")
    benchmark = BENCHMARKS[dataset]
    if data_dir is None:
        raise ValueError(f"data_dir must be the folder of {benchmark.title} ({benchmark.homepage}), but got None")
    folder = resolve_folder(data_dir)
    cache_dir = None if cache_dir is None else str(cache_dir)
    shards = _list_shards(folder)
    if shards:
        builder = datasets.load_dataset_builder("parquet", data_files=shards, cache_dir=cache_dir)
    else:
        builder = BUILDERS[dataset](data_dir=str(folder), cache_dir=cache_dir)
    try:
        builder.download_and_prepare()
    except datasets.exceptions.DatasetGenerationError as error:
        raise ValueError(
            f"data_dir must hold files that can be read, but got {error.__cause__} in {folder}"
        ) from error
    _check_features(benchmark, builder.info.features, folder)
    return builder


def split_sizes(builder: datasets.DatasetBuilder) -> dict[str, int]:
    """Number of faces of each split of a prepared builder."""
    return {name: info.num_examples for name, info in builder.info.splits.items()}


def warn_of_sizes(benchmark: Benchmark, sizes: Mapping[str, int]) -> None:
    """Logs one warning that names the splits whose number of faces is not the official one."""
    differing = [
        f"{split}: {size} faces found, official {benchmark.splits[split]}"
        for split, size in sizes.items()
        if size != benchmark.splits.get(split, size)
    ]
    if differing:
        logger.warning("%s, %s", benchmark.title, "; ".join(differing))


def select_images(faces: datasets.Dataset, list_file: str | Path, keep: bool) -> datasets.Dataset:
    """The faces whose photos `list_file` names (`keep`), or all the others, in the order of `faces`.

    Args:
        faces: with a column `image_id`.
        list_file: text, one photo a line, such as `afw/134212_1.jpg`; the suffix does not matter.
        keep: whether to keep or to drop the photos listed.

    Raises:
        ValueError: if the file is missing or empty, or names a photo that `faces` does not hold.
    """
    if not Path(list_file).is_file():
        raise ValueError(f"list_file must be an existing file, but got {list_file}")
    lines = [line.strip() for line in Path(list_file).read_text(encoding="utf-8").splitlines()]
    listed = {_image_id(line): line for line in lines if line}
    if not listed:
        raise ValueError(f"list_file must name at least one photo, but {list_file} is empty")
    ids = faces["image_id"][:]
    unknown = listed.keys() - set(ids)
    if unknown:
        raise ValueError(f"{list_file} must name photos of the data set, but got {listed[min(unknown)]}")
    return faces.select([index for index, image_id in enumerate(ids) if (image_id in listed) == keep])


def _check_features(benchmark: Benchmark, found: datasets.Features, folder: Path) -> None:
    expected = face_features(benchmark)
    if not expected.keys() <= found.keys() or found["landmarks"] != expected["landmarks"]:
        raise ValueError(
            f"data_dir must hold {', '.join(expected)} with {benchmark.num_landmarks} landmarks for {benchmark.name}, "
            f"but got {found} in {folder}"
        )


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
        announced = int(paths[0].removesuffix(".parquet")[-5:])
        if len(paths) != announced:
            raise ValueError(f"{folder / 'data'} must hold {announced} files of {split}, but got {len(paths)}")
    return shards


def _image_id(line: str) -> str:
    path = line.replace("\\", "/")
    stem, dot, suffix = path.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in PHOTO_SUFFIXES else path
