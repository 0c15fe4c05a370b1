"""Command line: `python -m dataset_scripts 300w --data_dir RAW --output_dir OUT`; see `--help`."""

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import datasets

from .benchmark_facts import Benchmark
from .benchmarks import BENCHMARKS
from .check import check_faces
from .conversion import check_hub_access, check_output_dir, convert, push_to_hub
from .download import download, download_hint, manual_download_hint
from .loading import load_faces, open_faces, split_names
from .own_data import default_data_dir, find_benchmark
from .preview import check_preview_path, write_preview

_EXAMPLES = """
Files that RAW must hold, as unpacked from the official download (a split is read if its folders exist):
{layouts}
For your own landmarks, RAW holds photos and a metadata.jsonl: see README.md.

Examples:
  fetch the files that need no form:
    python -m dataset_scripts wflw --data_dir ~/wflw --download
  draw and check it without a conversion:
    python -m dataset_scripts wflw --data_dir ~/wflw --preview wflw.png --check
    python -m dataset_scripts landmarks.yaml --preview faces.png --check
  convert it, and upload it as a private data set:
    python -m dataset_scripts 300w --data_dir ~/300w --output_dir ~/300w-parquet
    python -m dataset_scripts 300w --data_dir ~/300w --output_dir ~/300w-parquet --push_to_hub my-lab/300w

The result is read by load_dataset("~/300w-parquet") anywhere, or from this project by
  python train_accelerate.py --dataset 300w --data_dir ~/300w-parquet ...

Exit status: 0; 1 if --check found faults (they do not stop a conversion); 2 after an error, printed as one line.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status: 0, 1 if `--check` found faults, 2 after an error or 130 after an
    interruption, both with one line on stderr."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace) -> int:
    _check_options(options)
    benchmark = find_benchmark(options.dataset)
    data_dir = options.data_dir or default_data_dir(options.dataset)
    if data_dir is None:
        hint = download_hint(benchmark)
        raise ValueError(f"--data_dir must be the folder of {benchmark.title}, but got none. {hint}")
    if options.output_dir:
        check_output_dir(options.output_dir)
    if options.preview:
        check_preview_path(options.preview)
    if options.push_to_hub:
        check_hub_access(options.push_to_hub, private=not options.public)
    if options.download:
        _download(benchmark, data_dir)
    has_faults = _inspect(benchmark, data_dir, options) if options.preview or options.check else False
    if options.output_dir:
        _convert(benchmark, data_dir, options)
    return int(has_faults)


def _check_options(options: argparse.Namespace) -> None:
    if not (options.output_dir or options.download or options.preview or options.check):
        raise ValueError("--output_dir must be given, or one of --preview, --check and --download")
    if options.push_to_hub and not options.output_dir:
        raise ValueError("--output_dir must be given with --push_to_hub, which uploads that folder")
    if options.public and not options.push_to_hub:
        raise ValueError("--public must be given with --push_to_hub only")


def _download(benchmark: Benchmark, data_dir: str | Path) -> None:
    filenames = download(benchmark, data_dir)
    print(f"{data_dir}: {'fetched ' + ', '.join(filenames) if filenames else 'all files that can be fetched exist'}")
    if benchmark.form:
        print(f"The rest needs a form. {manual_download_hint(benchmark, data_dir)}")


def _inspect(benchmark: Benchmark, data_dir: str | Path, options: argparse.Namespace) -> bool:
    """Writes the preview and prints the check, if asked for. Returns whether the check found faults."""
    splits = _load_splits(benchmark, data_dir)
    if options.preview:
        write_preview(options.preview, splits, benchmark)
        print(f"{options.preview}: faces of {', '.join(splits)}")
    if not options.check:
        return False
    report = check_faces(splits, benchmark)
    print(report)
    return bool(report.faults)


def _load_splits(benchmark: Benchmark, data_dir: str | Path) -> dict[str, datasets.Dataset]:
    """All splits of the data set: the official ones in their order, then train, then the others."""
    order = [*benchmark.splits, "train"]
    names = split_names(open_faces(benchmark, data_dir))
    names = sorted(names, key=lambda name: order.index(name) if name in order else len(order))
    return {name: load_faces(benchmark, data_dir, name) for name in names}


def _convert(benchmark: Benchmark, data_dir: str | Path, options: argparse.Namespace) -> None:
    sizes = convert(benchmark, data_dir, options.output_dir)
    print(f"{options.output_dir}: " + ", ".join(f"{split} {size} faces" for split, size in sizes.items()))
    if options.push_to_hub:
        print(push_to_hub(options.output_dir, options.push_to_hub, private=not options.public))


def _parser() -> argparse.ArgumentParser:
    layouts = "\n".join(
        textwrap.fill(f"{benchmark.name}: {benchmark.layout}", 100, initial_indent="  ", subsequent_indent="    ")
        for benchmark in BENCHMARKS.values()
    )
    parser = argparse.ArgumentParser(
        prog="python -m dataset_scripts",
        description="Fetch a data set of faces, look at it, and convert it to Parquet files with a dataset card: a "
        "benchmark from its official download, or your own landmarks.",
        epilog=_EXAMPLES.format(layouts=layouts),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "dataset",
        metavar="DATASET",
        help=f"{', '.join(BENCHMARKS)}, or the YAML file that describes your own landmarks",
    )
    parser.add_argument(
        "--data_dir",
        metavar="RAW",
        help="folder of the official download or of a conversion, or the name of a data set on the Hub; by default "
        "the folder of the YAML file. Only --download writes to it",
    )
    parser.add_argument(
        "--download",
        action="store_true",
        help="first fetch into RAW the missing files that need no form (wflw, cofw and cofw68, and the annotations of "
        "aflw and merl_rav). Unpacking takes about twice their size on the disk. The addresses were last reported "
        "working in 2026; an error names the one that fails",
    )
    _add_inspection(parser)
    _add_conversion(parser)
    return parser


def _add_inspection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--preview",
        type=Path,
        metavar="OUT.png",
        help="draw eight faces of every split at even intervals, with numbered landmarks, contours, boxes and crops",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="print the numbers of faces, photos and points beside the official ones. Warnings: numbers that differ, "
        "points outside the photo. Faults: points outside by more than half the side of the crop; photos that are in "
        "several splits (equal image_id or equal files, not near copies); boxes that are empty, tiny or not around "
        "the landmarks; flip pairs that do not look symmetric on the mean face",
    )


def _add_conversion(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output_dir",
        type=Path,
        metavar="OUT",
        help="convert to data/SPLIT-00000-of-0000N.parquet and README.md in this folder, which must be new or empty. "
        "It appears once all files are written",
    )
    parser.add_argument(
        "--push_to_hub",
        metavar="ORG/NAME",
        help="then upload OUT as this data set. A new data set is private. The faces of an existing one are replaced; "
        "a public one is refused without --public. Sign in first (hf auth login)",
    )
    parser.add_argument(
        "--public",
        action="store_true",
        help="make a new data set on the Hub public, or write to a public one. The benchmarks' photos are "
        "licensed for non-commercial research: keep them private",
    )


if __name__ == "__main__":
    sys.exit(main())
