"""300W: 68 points on the faces of AFW, Helen, LFPW and iBUG."""

from collections.abc import Mapping, Sequence

import numpy as np

from .benchmarks import BENCHMARKS
from .face_builder import FaceBuilder
from .face_files import FaceFile
from .folders_300w import list_300w
from .pts import read_pts


class Faces300W(FaceBuilder):
    """300W in the folders of the official download; each split exists where its folders do.

    train: afw, helen/trainset, lfpw/trainset. common: helen/testset, lfpw/testset. challenging: ibug. private:
    300W/01_Indoor, 300W/02_Outdoor. See `FaceBuilder` for columns and errors.
    """

    BENCHMARK = BENCHMARKS["300w"]

    @classmethod
    def list_faces(cls, root) -> Mapping[str, Sequence[FaceFile]]:
        return list_300w(root)

    @classmethod
    def read_landmarks(cls, face: FaceFile) -> np.ndarray:
        return read_pts(face.annotation, cls.BENCHMARK.num_landmarks)
