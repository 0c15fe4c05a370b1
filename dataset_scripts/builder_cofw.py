"""COFW: 29 points on faces that are often occluded, and COFW68: 68 points on its test photos."""

from .benchmarks import BENCHMARKS
from .cofw_files import Cofw68Files, CofwFile, list_cofw, list_cofw68, read_cofw, read_cofw68
from .face_builder import FaceBuilder


class FacesCOFW(FaceBuilder):
    """COFW as it is downloaded: each split exists where its MATLAB file does.

    train: COFW_train_color.mat. test: COFW_test_color.mat. At the root or in a folder below it; the grey files
    COFW_train.mat and COFW_test.mat where those are missing. `source` is lfpw for the first 845 training faces, else
    cofw. See `FaceBuilder` for columns and errors.
    """

    BENCHMARK = BENCHMARKS["cofw"]

    @classmethod
    def list_sources(cls, root):
        return list_cofw(root)

    @classmethod
    def list_files(cls, root, sources):
        return [file.path for files in sources.values() for file in files]

    def read_faces(self, source: CofwFile):
        yield from read_cofw(source)


class FacesCOFW68(FaceBuilder):
    """COFW68 as it is downloaded, beside COFW's test photos; one split, test, with COFW's `image_id`.

    COFW68_Data/test_annotations/1_points.mat, …, and COFW_test_color.mat. `box` is that of
    COFW68_Data/cofw68_test_bboxes.mat, NaN without this file. See `FaceBuilder` for columns and errors.
    """

    BENCHMARK = BENCHMARKS["cofw68"]

    @classmethod
    def list_sources(cls, root):
        return list_cofw68(root)

    @classmethod
    def list_files(cls, root, sources):
        listed = [files for listed in sources.values() for files in listed]
        points = [path for files in listed for _, path in files.points]
        return points + [path for files in listed for path in (files.photos.path, files.boxes) if path]

    def read_faces(self, source: Cofw68Files):
        yield from read_cofw68(source)
