"""The base class of the benchmarks' builders.

This module and those of the builders must not open files themselves, because `datasets` replaces `open`, `Path` and
others in the modules of builders by versions for streaming.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import datasets
import numpy as np

from modeling_mtld.geometry_mtld import check_box, landmark_box

from .benchmark_facts import Benchmark, Column
from .download import download_hint
from .face import Face
from .face_files import check_photo, fingerprint, resolve_folder


@dataclass
class FaceConfig(datasets.BuilderConfig):
    """`fingerprint` is a digest of the folder's listing, so that the cache is not used after a file changed."""

    fingerprint: str = ""


class FaceBuilder(datasets.GeneratorBasedBuilder):
    """A benchmark read from its official files.

    A subclass defines BENCHMARK, `list_sources`, `list_files` and `read_faces`. A source is what `read_faces` takes,
    such as a list, an annotation with its photo, or a database.

    Columns, with coordinates in pixels of the photo, 0-based:
        image: RGB.
        landmarks: (K, 2) float32, NaN where not annotated.
        landmark_box: (4,) float32, as in HRNet's protocol: x0 and y0 are the floor of the smallest coordinates, x1
            and y1 the ceiling of the largest.
        box: (4,) float32, the annotated face box, NaN if there is none.
        occluded: (K,) bool, if the data set has it.
        image_id: str.
        The data set's own columns follow.

    Raises:
        ValueError: if `data_dir` is missing, empty or of another layout, or a file in it cannot be read; the message
            names the folder, or the file and the row. Nothing of a failed build stays in the cache.
    """

    VERSION = datasets.Version("2.0.0")
    BUILDER_CONFIG_CLASS = FaceConfig
    BENCHMARK: Benchmark
    UPRIGHT = False  # whether landmarks refer to the photo as turned by its EXIF orientation, or as stored

    def __init__(self, *, data_dir: str, benchmark: Benchmark | None = None, **kwargs):
        self.benchmark = benchmark or self.BENCHMARK
        self.root = resolve_folder(data_dir)
        self._sources = {split: sources for split, sources in self.list_sources(self.root).items() if sources}
        if not self._sources:
            raise ValueError(
                f"data_dir must hold {self.benchmark.layout}, but none of these is in {self.root}. "
                f"{download_hint(self.benchmark, self.root)}"
            )
        files = self.list_files(self.root, self._sources)
        # For your own landmarks, names and crops affect how rows are read and checked, but not the columns.
        facts = face_features(self.benchmark), self.benchmark.landmark_names, self.benchmark.crop_box
        key = fingerprint(self.root, files, *facts)
        super().__init__(data_dir=str(self.root), dataset_name=self.benchmark.name, fingerprint=key, **kwargs)

    @classmethod
    def list_sources(cls, root) -> Mapping[str, Sequence]:
        """The sources of each split below `root`, an absolute path; empty for a split that is missing."""
        raise NotImplementedError

    @classmethod
    def list_files(cls, root, sources: Mapping[str, Sequence]) -> Iterable:
        """Paths of the annotations and photos. If one of them changes, the data set is read anew."""
        raise NotImplementedError

    def read_faces(self, source) -> Iterator[Face]:
        """The faces of a source, in its order."""
        raise NotImplementedError

    @property
    def split_names(self) -> list[str]:
        return list(self._sources)

    def download_and_prepare(self, *args, **kwargs):
        try:
            super().download_and_prepare(*args, **kwargs)
        except datasets.exceptions.DatasetGenerationError as error:
            if isinstance(error.__cause__, ValueError):
                raise error.__cause__ from None  # the message that names the file, not "an error occurred"
            raise

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description=f"{self.benchmark.title}: faces with {self.benchmark.num_landmarks} landmarks.",
            features=face_features(self.benchmark),
            homepage=self.benchmark.homepage,
            license=self.benchmark.licence,
            citation=self.benchmark.citation,
        )

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"sources": sources})
            for split, sources in self._sources.items()
        ]

    def _generate_examples(self, sources: Sequence) -> Iterator[tuple[int, dict]]:
        faces = (face for source in sources for face in self.read_faces(source))
        for number, face in enumerate(faces):
            try:
                yield number, _example(face, self.benchmark, self.UPRIGHT)
            except ValueError as error:
                raise ValueError(f"{face.where}: {error}") from error


def _example(face: Face, benchmark: Benchmark, upright: bool) -> dict:
    """The row of a face. Raises ValueError if it cannot be used."""
    if face.landmarks.shape != (benchmark.num_landmarks, 2):
        raise ValueError(f"landmarks must be ({benchmark.num_landmarks}, 2), but got {face.landmarks.shape}")
    if np.isinf(face.landmarks).any():
        raise ValueError(f"landmarks must not be infinite, but got {face.landmarks[np.isinf(face.landmarks)][0]}")
    box = np.full(4, np.nan) if face.box is None else np.asarray(face.box, dtype=np.float64)
    if np.isinf(box).any() or (face.box is not None and np.isnan(box).any()):
        raise ValueError(f"the annotated box must be finite, but got {box.tolist()}")
    tight_box = box_in_whole_pixels(face.landmarks)
    if face.box is None or benchmark.crop_box == "landmark_box":  # --check reports a wrong annotated box
        check_box(tight_box, "the box of the landmarks")
    else:
        check_box(box, "the annotated box")
    example = {
        "image": check_photo(face.photo, upright),
        "landmarks": face.landmarks.astype(np.float32),
        "landmark_box": tight_box.astype(np.float32),
        "box": box.astype(np.float32),
        "image_id": face.image_id,
    }
    if benchmark.occlusion:
        example["occluded"] = face.occluded
    return example | {name: face.columns[name] for name in benchmark.columns}


def box_in_whole_pixels(landmarks) -> np.ndarray:
    """The box (4,) around the annotated ones of `landmarks` (K, 2), rounded outwards as in HRNet's protocol."""
    box = landmark_box(landmarks)
    return np.concatenate([np.floor(box[:2]), np.ceil(box[2:])])


def face_features(benchmark: Benchmark) -> datasets.Features:
    """The columns of a benchmark; see `FaceBuilder`."""
    box = datasets.Sequence(datasets.Value("float32"), length=4)
    features = {
        "image": datasets.Image(mode="RGB"),
        "landmarks": datasets.Array2D(shape=(benchmark.num_landmarks, 2), dtype="float32"),
        "landmark_box": box,
        "box": box,
        "image_id": datasets.Value("string"),
    }
    if benchmark.occlusion:
        features["occluded"] = datasets.Sequence(datasets.Value("bool"), length=benchmark.num_landmarks)
    features |= {name: _feature(column, benchmark) for name, column in benchmark.columns.items()}
    return datasets.Features(features)


def _feature(column: Column, benchmark: Benchmark):
    value = datasets.Value(column.dtype)
    return datasets.Sequence(value, length=benchmark.num_landmarks) if column.per_landmark else value
