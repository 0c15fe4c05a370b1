"""What the builders of the benchmarks share.

This module and those of the builders open no files themselves: `datasets` replaces `open`, `Path` and others inside
the modules of builders by versions for streaming.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import datasets
import numpy as np

from modeling_mtld.geometry_mtld import check_box, landmark_box

from .benchmarks import Benchmark
from .face_files import FaceFile, check_photo, fingerprint, resolve_folder


@dataclass
class FaceConfig(datasets.BuilderConfig):
    """`fingerprint` stands for the folder's listing, so that the cache is not used after a file changed."""

    fingerprint: str = ""


class FaceBuilder(datasets.GeneratorBasedBuilder):
    """A benchmark read from its official folders. A subclass gives BENCHMARK, `list_faces` and `read_landmarks`.

    Columns: `image` (RGB), `landmarks` (K, 2) float32 in pixels of the photo, 0-based, NaN where not annotated, `box`
    (4,) float32 and `image_id`. `box` is the landmark box of HRNet's protocol in the same pixels: x0 and y0 are the
    floor of the smallest coordinates, x1 and y1 the ceiling of the largest.

    Raises:
        ValueError: if `data_dir` is missing, empty or of another layout, or a file in it cannot be read; it names the
            folder or the file. Nothing of a failed build stays in the cache.
    """

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = FaceConfig
    BENCHMARK: Benchmark

    def __init__(self, *, data_dir: str, **kwargs):
        root = resolve_folder(data_dir)
        self._faces = {split: faces for split, faces in self.list_faces(root).items() if faces}
        if not self._faces:
            raise ValueError(f"data_dir must hold {self.BENCHMARK.layout}, but none of these is in {root}")
        key = fingerprint(root, (face for faces in self._faces.values() for face in faces))
        super().__init__(data_dir=str(root), dataset_name=self.BENCHMARK.name, fingerprint=key, **kwargs)

    @classmethod
    def list_faces(cls, root) -> Mapping[str, Sequence[FaceFile]]:
        """The faces of each split below `root`, an absolute path."""
        raise NotImplementedError

    @classmethod
    def read_landmarks(cls, face: FaceFile) -> np.ndarray:
        """Landmarks (K, 2) of a face, float64, 0-based pixels of the photo, NaN where not annotated."""
        raise NotImplementedError

    def download_and_prepare(self, *args, **kwargs):
        try:
            super().download_and_prepare(*args, **kwargs)
        except datasets.exceptions.DatasetGenerationError as error:
            if isinstance(error.__cause__, ValueError):
                raise error.__cause__ from None  # the message that names the file, not "an error occurred"
            raise

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description=f"{self.BENCHMARK.title}: faces with {self.BENCHMARK.num_landmarks} landmarks.",
            features=face_features(self.BENCHMARK),
            homepage=self.BENCHMARK.homepage,
            license=self.BENCHMARK.licence,
            citation=self.BENCHMARK.citation,
        )

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"faces": faces}) for split, faces in self._faces.items()
        ]

    def _generate_examples(self, faces: Sequence[FaceFile]) -> Iterator[tuple[str, dict]]:
        for face in faces:
            landmarks = self.read_landmarks(face)
            yield (
                face.image_id,
                {
                    "image": check_photo(face.photo),
                    "landmarks": landmarks.astype(np.float32),
                    "box": _box_in_whole_pixels(landmarks, face).astype(np.float32),
                    "image_id": face.image_id,
                },
            )


def _box_in_whole_pixels(landmarks: np.ndarray, face: FaceFile) -> np.ndarray:
    box = landmark_box(landmarks)
    return check_box(
        np.concatenate([np.floor(box[:2]), np.ceil(box[2:])]), f"box of the landmarks in {face.annotation}"
    )


def face_features(benchmark: Benchmark) -> datasets.Features:
    """The columns that every benchmark has; see `FaceBuilder`."""
    return datasets.Features(
        {
            "image": datasets.Image(mode="RGB"),
            "landmarks": datasets.Array2D(shape=(benchmark.num_landmarks, 2), dtype="float32"),
            "box": datasets.Sequence(datasets.Value("float32"), length=4),
            "image_id": datasets.Value("string"),
        }
    )
