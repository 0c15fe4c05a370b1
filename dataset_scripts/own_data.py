"""Your own landmarks, described by a small YAML file instead of code."""

from pathlib import Path

from .benchmarks import BENCHMARKS, Benchmark


def find_benchmark(dataset: str | Path | Benchmark) -> Benchmark:
    """The benchmark of a name in `BENCHMARKS` or of a YAML file (see `read_benchmark`).

    Raises:
        ValueError: if it is neither.
    """
    if isinstance(dataset, Benchmark):
        return dataset
    if dataset in BENCHMARKS:
        return BENCHMARKS[dataset]
    if Path(dataset).suffix.lower() in (".yaml", ".yml"):
        return read_benchmark(Path(dataset))
    raise ValueError(
        f"dataset must be one of {', '.join(BENCHMARKS)} or a YAML file of your own landmarks, "
        f"but got {str(dataset)!r}"
    )


def read_benchmark(path: Path) -> Benchmark:
    raise NotImplementedError
