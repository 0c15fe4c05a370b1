"""A folder of photos with a metadata.jsonl: your own data."""

from .face_builder import FaceBuilder


class FacesInFolder(FaceBuilder):
    pass
