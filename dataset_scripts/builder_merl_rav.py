"""MERL-RAV: 68 points on AFLW's faces in any pose, and whether each can be seen."""

from .benchmarks import BENCHMARKS
from .face_builder import FaceBuilder
from .face_files import FaceFile
from .merl_rav_files import list_merl_rav, read_merl_rav


class FacesMERLRAV(FaceBuilder):
    """MERL-RAV as its script leaves it, merl_rav_organized/, or its labels, merl_rav_labels/, beside AFLW's photos.

    train: trainset of each pose. test: testset. Landmarks that the head hides are NaN. `box` is NaN: there is no
    annotated one. See `FaceBuilder` for columns and errors.
    """

    BENCHMARK = BENCHMARKS["merl_rav"]

    @classmethod
    def list_sources(cls, root):
        return list_merl_rav(root)

    @classmethod
    def list_files(cls, root, sources):
        return [path for faces in sources.values() for face in faces for path in (face.photo, face.annotation)]

    def read_faces(self, source: FaceFile):
        yield from read_merl_rav(source)
