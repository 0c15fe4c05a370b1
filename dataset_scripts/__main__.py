"""Command line: `python -m dataset_scripts 300w --data_dir RAW --output_dir OUT`; `--help` for the rest."""

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from .benchmarks import BENCHMARKS
from .conversion import check_hub_access, check_output_dir, convert, push_to_hub
from .download import by_hand, download
from .own_data import find_benchmark

_EXAMPLES = """
What RAW must hold, as unpacked from the official download (a split exists where its folders do):
{layouts}

Examples:
  python -m dataset_scripts wflw --data_dir ~/wflw --download
  python -m dataset_scripts 300w --data_dir ~/300w --output_dir ~/300w-parquet
  python -m dataset_scripts 300w --data_dir ~/300w --output_dir ~/300w-parquet --push_to_hub my-lab/300w

The result is read by load_dataset("~/300w-parquet") anywhere, or from this project by
  accelerate launch train_accelerate.py --dataset 300w --data_dir ~/300w-parquet ...
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Does what the options ask for and returns the exit status: 0, or 2 after one line on stderr."""
    options = _parser().parse_args(arguments)
    try:
        _run(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130
    return 0


def _run(options: argparse.Namespace) -> None:
    if not options.output_dir and (options.push_to_hub or not options.download):
        raise ValueError("--output_dir must be given, unless --download is all there is to do")
    if options.output_dir:
        check_output_dir(options.output_dir)
    if options.push_to_hub:
        check_hub_access(options.push_to_hub)
    if options.download:
        _download(options)
    if options.output_dir:
        _convert(options)


def _download(options: argparse.Namespace) -> None:
    benchmark = find_benchmark(options.dataset)
    fetched = download(benchmark, options.data_dir)
    print(f"{options.data_dir}: {'fetched ' + ', '.join(fetched) if fetched else 'what can be fetched is there'}")
    if benchmark.form:
        print(f"The rest needs a form. {by_hand(benchmark, options.data_dir)}")


def _convert(options: argparse.Namespace) -> None:
    sizes = convert(options.dataset, options.data_dir, options.output_dir)
    print(f"{options.output_dir}: " + ", ".join(f"{split} {size} faces" for split, size in sizes.items()))
    if options.push_to_hub:
        print(push_to_hub(options.output_dir, options.push_to_hub))


def _parser() -> argparse.ArgumentParser:
    layouts = "\n".join(
        textwrap.fill(f"{benchmark.name}: {benchmark.layout}", 100, initial_indent="  ", subsequent_indent="    ")
        for benchmark in BENCHMARKS.values()
    )
    parser = argparse.ArgumentParser(
        prog="python -m dataset_scripts",
        description="Convert a benchmark from its official download to Parquet files with a dataset card.",
        epilog=_EXAMPLES.format(layouts=layouts),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", choices=list(BENCHMARKS), help="the benchmark")
    parser.add_argument(
        "--data_dir",
        required=True,
        type=Path,
        metavar="RAW",
        help="folder of the official download; only --download writes to it",
    )
    parser.add_argument(
        "--download",
        action="store_true",
        help="first fetch into RAW what its owners offer without a form and is not there yet (wflw, cofw, cofw68, of "
        "aflw the annotations), about twice its size on the disk while it is unpacked. The addresses were last "
        "reported working in 2026; where one no longer is, the message names it",
    )
    parser.add_argument(
        "--output_dir",
        type=Path,
        metavar="OUT",
        help="new or empty folder for data/SPLIT-00000-of-0000N.parquet and README.md; appears when all is written",
    )
    parser.add_argument(
        "--push_to_hub",
        metavar="ORG/NAME",
        help="then upload OUT as this data set, private if it is new; sign in first (hf auth login). The photos are "
        "licensed for non-commercial research: keep it private",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
