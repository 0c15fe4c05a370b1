"""The benchmarks: their facts, their official downloads as `datasets.Dataset`, their conversion to Parquet."""

from .benchmarks import BENCHMARKS, Benchmark
from .loading import load_faces, select_images

__all__ = ["BENCHMARKS", "Benchmark", "load_faces", "select_images"]
