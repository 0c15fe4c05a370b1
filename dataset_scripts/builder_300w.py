"""300W: 68 points on the faces of AFW, Helen, LFPW and iBUG."""

from .benchmarks import BENCHMARKS
from .face_builder import FaceBuilder
from .face_files import FaceFile
from .faces import Face
from .folders_300w import list_300w, source_of
from .pts import read_pts


class Faces300W(FaceBuilder):
    """300W in the folders of the official download; each split exists where its folders do.

    train: afw, helen/trainset, lfpw/trainset. common: helen/testset, lfpw/testset. challenging: ibug. private:
    300W/01_Indoor, 300W/02_Outdoor. `box` is NaN: 300W has no annotated one. See `FaceBuilder` for columns and errors.
    """

    BENCHMARK = BENCHMARKS["300w"]

    @classmethod
    def list_sources(cls, root):
        return list_300w(root)

    @classmethod
    def list_files(cls, root, sources):
        return [path for faces in sources.values() for face in faces for path in (face.photo, face.annotation)]

    def read_faces(self, source: FaceFile):
        landmarks = read_pts(source.annotation, self.benchmark.num_landmarks)
        columns = {"source": source_of(source)}
        yield Face(source.image_id, source.photo, landmarks, where=str(source.annotation), columns=columns)
