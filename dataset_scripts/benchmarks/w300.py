"""300W: 68 points on the faces of AFW, Helen, LFPW and iBUG."""

from pathlib import Path

from ..benchmark_facts import (
    BOX_NORMALIZERS,
    HRNET,
    RESEARCH_ONLY,
    Benchmark,
    Column,
    Distance,
    Subset,
    contour,
    mirror_pairs,
    names_of,
)
from ..face import Face
from ..face_builder import FaceBuilder
from ..face_files import FaceFile, pair_annotations
from ..pts import read_pts

_IBUG_68_PARTS = {
    "jaw": contour(0, 16),
    "right_brow": contour(17, 21),
    "left_brow": contour(22, 26),
    "nose_bridge": contour(27, 30),
    "nostrils": contour(31, 35),
    "right_eye": contour(36, 41, closed=True),
    "left_eye": contour(42, 47, closed=True),
    "outer_lip": contour(48, 59, closed=True),
    "inner_lip": contour(60, 67, closed=True),
}
_IBUG_68_FLIP_PAIRS = mirror_pairs(
    (range(0, 8), range(16, 8, -1)),  # jaw
    (range(17, 22), range(26, 21, -1)),  # brows
    (range(31, 33), range(35, 33, -1)),  # nostrils
    (range(36, 40), range(45, 41, -1)),  # eyes, upper lid and corners
    (range(40, 42), range(47, 45, -1)),  # eyes, lower lid
    (range(48, 51), range(54, 51, -1)),  # outer lip, upper edge
    (range(58, 60), range(56, 54, -1)),  # outer lip, lower edge
    (range(60, 62), range(64, 62, -1)),  # inner lip, upper edge
    (range(67, 68), range(65, 66)),  # inner lip, lower edge
)
IBUG_68_NORMALIZERS = {
    "inter-ocular": Distance((36,), (45,)),
    "inter-pupil": Distance(tuple(range(36, 42)), tuple(range(42, 48))),
    **BOX_NORMALIZERS,
}

W300 = Benchmark(
    name="300w",
    title="300W",
    landmark_names=names_of(_IBUG_68_PARTS),
    flip_pairs=_IBUG_68_FLIP_PAIRS,
    parts=_IBUG_68_PARTS,
    normalizer_kinds=IBUG_68_NORMALIZERS,
    crop_box="landmark_box",
    failure_threshold=0.08,
    splits={"train": 3148, "common": 554, "challenging": 135, "private": 600},
    test_split="common",
    subsets={
        "full": Subset("common+challenging", 689),
        "indoor": Subset("private", 300, "source", "indoor"),
        "outdoor": Subset("private", 300, "source", "outdoor"),
    },
    columns={"source": Column("string", "database of the photo: afw, helen, lfpw, ibug, indoor, outdoor")},
    licence=RESEARCH_ONLY,
    homepage="https://ibug.doc.ic.ac.uk/resources/facial-point-annotations/",
    download="afw.zip, helen.zip, ibug.zip, lfpw.zip, and 300w.zip in four parts (private), after filling in its form",
    form=True,
    citation="""@inproceedings{sagonas2013semi,
  title     = {A Semi-automatic Methodology for Facial Landmark Annotation},
  author    = {Sagonas, Christos and Tzimiropoulos, Georgios and Zafeiriou, Stefanos and Pantic, Maja},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition Workshops},
  year      = {2013}
}
@article{sagonas2016challenge,
  title   = {300 Faces In-The-Wild Challenge: Database and Results},
  author  = {Sagonas, Christos and Antonakos, Epameinondas and Tzimiropoulos, Georgios and Zafeiriou, Stefanos and
             Pantic, Maja},
  journal = {Image and Vision Computing},
  volume  = {47},
  year    = {2016}
}""",
    layout=(
        "afw/, helen/trainset/, lfpw/trainset/ (train), helen/testset/, lfpw/testset/ (common), ibug/ (challenging) "
        "or 300W/01_Indoor/, 300W/02_Outdoor/ (private), each with photos and their .pts"
    ),
    sources={
        "landmark_names": "figure of the 68 points on the homepage",
        "flip_pairs": HRNET,
        "normalizer_kinds": "the homepage's evaluation code (outer eye corners); the challenge of 2013 (eye centres)",
        "crop_box": HRNET,
        "failure_threshold": "papers quote 8 % and 10 %; the AUC is at 8 %",
        "splits": "HRNet's lists; Sagonas et al. 2016 (private)",
        "subsets": "Ren et al., CVPR 2014 (full); Sagonas et al. 2016 (indoor, outdoor)",
        "columns": "the folders of the official download",
        "licence": "the homepage",
    },
)


# Reading -----------------------------------------------------------------------------------------------------------

# Possible names of each folder. The archive of the private test set unpacks to 300W/; other copies are in Test/
# or directly beside the other folders.
_FOLDERS = {
    "train": [["afw"], ["helen/trainset"], ["lfpw/trainset"]],
    "common": [["helen/testset"], ["lfpw/testset"]],
    "challenging": [["ibug"]],
    "private": [
        [f"{parent}{name}" for parent in ("300W/", "300w/", "Test/", "")] for name in ("01_Indoor", "02_Outdoor")
    ],
}


def list_300w(root: Path) -> dict[str, list[FaceFile]]:
    """The annotated faces of each split below `root`; a split without folders is empty. Other files are ignored."""
    return {
        split: [face for names in folders for face in _list_folder(root, names)] for split, folders in _FOLDERS.items()
    }


def _list_folder(root: Path, names: list[str]) -> list[FaceFile]:
    folders = [root / name for name in names if (root / name).is_dir()]
    return pair_annotations(root, folders[0], ".pts") if folders else []


def source_of(face: FaceFile) -> str:
    """The database of the photo: afw, helen, lfpw, ibug, indoor or outdoor."""
    folders = [name.lower().removeprefix("01_").removeprefix("02_") for name in face.image_id.split("/")[:-1]]
    return next(name for name in folders if name in ("afw", "helen", "lfpw", "ibug", "indoor", "outdoor"))


class Faces300W(FaceBuilder):
    """300W in the folders of the official download; each split exists where its folders do.

    train: afw, helen/trainset, lfpw/trainset. common: helen/testset, lfpw/testset. challenging: ibug. private:
    300W/01_Indoor, 300W/02_Outdoor. `box` is NaN: 300W has no annotated one. See `FaceBuilder` for columns and errors.
    """

    BENCHMARK = W300

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
