"""AFLW: 19 or 21 points on faces in any pose, many of them hidden."""

from .aflw_files import (
    AflwDatabase,
    AflwMat,
    list_aflw,
    list_aflw21,
    list_aflw_files,
    read_aflw_database,
    read_aflw_mat,
)
from .benchmarks import BENCHMARKS
from .face_builder import FaceBuilder


class FacesAFLW(FaceBuilder):
    """AFLW with the 19 points of the papers, photos in data/flickr/ or flickr/.

    train, test: from AFLWinfo_release.mat, at the root or in data/, with the hidden points and, where aflw.sqlite
    lies there too, the poses. database: from aflw.sqlite alone, without the hidden points. See `FaceBuilder` for
    columns and errors.
    """

    BENCHMARK = BENCHMARKS["aflw"]

    @classmethod
    def list_sources(cls, root):
        return list_aflw(root)

    @classmethod
    def list_files(cls, root, sources):
        return list_aflw_files(root)

    def read_faces(self, source: AflwMat | AflwDatabase):
        yield from read_aflw_mat(source) if isinstance(source, AflwMat) else read_aflw_database(source)


class FacesAFLW21(FaceBuilder):
    """AFLW with the 21 points of the original database: data/aflw.sqlite, photos in data/flickr/; one split, database.

    See `FaceBuilder` for columns and errors.
    """

    BENCHMARK = BENCHMARKS["aflw21"]

    @classmethod
    def list_sources(cls, root):
        return list_aflw21(root)

    @classmethod
    def list_files(cls, root, sources):
        return list_aflw_files(root)

    def read_faces(self, source: AflwDatabase):
        yield from read_aflw_database(source)
