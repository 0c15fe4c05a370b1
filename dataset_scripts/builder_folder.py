"""A folder of photos with a metadata.jsonl: your own data."""

from .face_builder import FaceBuilder
from .metadata import list_files, list_metadata, read_metadata


class FacesInFolder(FaceBuilder):
    """Your own landmarks on your own photos, in the layout of Hugging Face's ImageFolder.

    Each of the folders train/, validation/ (valid, val, dev) and test/ that holds a metadata.jsonl is a split; a
    single metadata.jsonl beside them is the split train. `benchmark` says what the landmarks are, see
    `own_data.read_benchmark`. `image_id` is the path of the photo without suffix. See `metadata.read_metadata` for the
    rows and `FaceBuilder` for columns and errors.
    """

    UPRIGHT = True  # as people see their photos, and as `load_dataset("imagefolder")` has them

    @classmethod
    def list_sources(cls, root):
        return list_metadata(root)

    @classmethod
    def list_files(cls, root, sources):
        return [file for paths in sources.values() for path in paths for file in list_files(path, root)]

    def read_faces(self, source):
        return read_metadata(source, self.benchmark, self.root)
