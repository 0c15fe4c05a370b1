"""The benchmarks: their facts, their official downloads as `datasets.Dataset`, their conversion to Parquet."""

__all__ = ["BENCHMARKS", "Benchmark", "default_data_dir", "find_benchmark", "load_faces", "select_images"]


def __getattr__(name: str):
    """Each when it is asked for: `datasets`, which they import, takes seconds."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import benchmark_facts, benchmarks, loading, own_data

    modules = (benchmarks, benchmark_facts, own_data, loading)
    return next(vars(module)[name] for module in modules if name in vars(module))
