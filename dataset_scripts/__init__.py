"""The benchmarks: their facts, their official downloads as `datasets.Dataset`, their conversion to Parquet."""

from .benchmark import Benchmark
from .benchmarks import BENCHMARKS
from .loading import load_faces, select_images
from .own_data import default_data_dir, find_benchmark

__all__ = ["BENCHMARKS", "Benchmark", "default_data_dir", "find_benchmark", "load_faces", "select_images"]
