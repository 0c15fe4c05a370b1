"""WFLW: 98 points, a face rectangle and six attributes."""

from .benchmarks import BENCHMARKS
from .face_builder import FaceBuilder
from .face_files import list_photos
from .wflw_lists import IMAGES, list_wflw, read_wflw


class FacesWFLW(FaceBuilder):
    """WFLW in the folders of the official download; each split exists where its list does.

    Faces of one photo are rows of their own and share `image_id`. `box` is the annotated rectangle. See `FaceBuilder`
    for columns and errors.
    """

    BENCHMARK = BENCHMARKS["wflw"]

    @classmethod
    def list_sources(cls, root):
        return list_wflw(root)

    @classmethod
    def list_files(cls, root, sources):
        return [*(path for lists in sources.values() for path in lists), *list_photos(root / IMAGES)]

    def read_faces(self, source):
        yield from read_wflw(source, self.root / IMAGES)
