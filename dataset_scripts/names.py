"""Names of the benchmarks, for commands that are to answer before the libraries are loaded."""

BENCHMARK_NAMES = ("300w", "wflw", "cofw", "cofw68", "aflw", "aflw21", "merl_rav")
