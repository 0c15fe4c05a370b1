"""The benchmarks, a file each: its facts, the layout of its official download, and the code that reads it.

To add one, write a file with a `Benchmark` and a `FaceBuilder`, and add the builder to the list below.
"""

from ..benchmark_facts import Benchmark
from ..face_builder import FaceBuilder
from .aflw import FacesAFLW, FacesAFLW21
from .cofw import FacesCOFW, FacesCOFW68
from .merl_rav import FacesMERLRAV
from .w300 import Faces300W
from .wflw import FacesWFLW

BUILDERS: dict[str, type[FaceBuilder]] = {
    builder.BENCHMARK.name: builder
    for builder in (Faces300W, FacesWFLW, FacesCOFW, FacesCOFW68, FacesAFLW, FacesAFLW21, FacesMERLRAV)
}
BENCHMARKS: dict[str, Benchmark] = {name: builder.BENCHMARK for name, builder in BUILDERS.items()}
