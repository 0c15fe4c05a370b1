"""`python -m modeling_mtld.cost`: time and memory of a process until its first landmarks, and for each face after.

Only the standard library is imported before the clock starts.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

SIDE = 64  # pixels between the corners of the boxes of a batch's faces


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m modeling_mtld.cost",
        description="Times the imports, loading, the first photo and each face after it, in this process, and prints "
        "a table in Markdown. Memory is the most that the process had until then.",
    )
    parser.add_argument("image", nargs="?", help="path or URL; without it, scikit-image's photo of an astronaut")
    parser.add_argument("--model", metavar="DIR_OR_ID", help="checkpoint (default: the bundled one)")
    parser.add_argument("--device", help="cpu, cuda, …; by default an accelerator where there is one")
    parser.add_argument("--threads", type=int, help="of the CPU (default: torch's choice)")
    parser.add_argument("--batch_size", type=int, nargs="+", default=[1, 8, 32], help="faces (default: 1 8 32)")
    parser.add_argument("--runs", type=int, default=20, help="of each batch size (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the table there too")
    return parser.parse_args(argv)


def measure(arguments: argparse.Namespace) -> list[dict]:
    """The steps in their order, each with `step`, `ms` and `peak_mb`; ms of a batch are those of one face, the median
    of its runs."""
    rows: list[dict] = []
    modules = _timed(rows, "import", _import)
    if arguments.threads:
        modules["torch"].set_num_threads(arguments.threads)
    detect = modules["detect"]
    model = arguments.model or str(detect.CHECKPOINT)
    find = _timed(rows, "load", lambda: detect.load_pipeline(model, arguments.device))
    photo = arguments.image or _astronaut()
    _timed(rows, "first photo, detector included", lambda: find(photo))
    _timed(rows, "next photo, detector included", lambda: find(photo))
    for size in arguments.batch_size:
        boxes = [[shift, shift, shift + SIDE, shift + SIDE] for shift in range(size)]
        _time_batch(rows, size, arguments.runs, lambda boxes=boxes: find(photo, boxes=boxes))
    return rows


def _import() -> dict:
    import torch

    from . import detect, image_processing_mtld, modeling_mtld, pipeline_mtld  # noqa: F401

    return {"torch": torch, "detect": detect}


def _astronaut():
    from skimage.data import astronaut

    return astronaut()


def _timed(rows: list[dict], step: str, call: Callable):
    start = time.perf_counter()
    result = call()
    rows.append({"step": step, "ms": 1000 * (time.perf_counter() - start), "peak_mb": _peak_mb()})
    return result


def _time_batch(rows: list[dict], size: int, runs: int, call: Callable):
    times: list[dict] = []
    for _ in range(runs + 1):  # the first is to warm up
        _timed(times, "", call)
    median = statistics.median(row["ms"] for row in times[1:])
    rows.append({"step": f"a face with its box, {size} at a time", "ms": median / size, "peak_mb": _peak_mb()})


def _peak_mb() -> float | None:
    """None on Windows, which does not tell."""
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def table(rows: list[dict]) -> str:
    lines = ["| step | ms | peak memory in MB |", "|---|--:|--:|"]
    for row in rows:
        memory = "–" if row["peak_mb"] is None else f"{row['peak_mb']:.0f}"
        lines.append(f"| {row['step']} | {row['ms']:.1f} | {memory} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """The command. Returns the exit status: 0, or 2 after one line on stderr where it cannot be done."""
    arguments = parse_arguments(argv)
    try:
        rows = measure(arguments)
    except ValueError as error:
        print(f"cost: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(table(rows))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
