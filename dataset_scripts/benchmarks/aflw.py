"""AFLW: 19 or 21 points on faces in any pose, many of them hidden."""

import itertools
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..benchmark_facts import BOX_NORMALIZERS, HRNET, Archive, Benchmark, Column, Part, Subset, contour, names_of
from ..face import Face
from ..face_builder import FaceBuilder
from ..face_files import PHOTO_SUFFIXES, find_file, list_photos
from ..mat_files import MatFile

_AFLW_21_PARTS = {
    "right_brow": contour(0, 2),
    "left_brow": contour(3, 5),
    "right_eye": contour(6, 8),
    "left_eye": contour(9, 11),
    "right_ear": Part((12,)),
    "nose": contour(13, 15),
    "left_ear": Part((16,)),
    "mouth": contour(17, 19),
    "chin": Part((20,)),
}
_AFLW_21_FLIP_PAIRS = ((0, 5), (1, 4), (2, 3), (6, 11), (7, 10), (8, 9), (12, 16), (13, 15), (17, 19))
_AFLW_19_PARTS = {
    "right_brow": contour(0, 2),
    "left_brow": contour(3, 5),
    "right_eye": contour(6, 8),
    "left_eye": contour(9, 11),
    "nose": contour(12, 14),
    "mouth": contour(15, 17),
    "chin": Part((18,)),
}
_AFLW_19_FLIP_PAIRS = ((0, 5), (1, 4), (2, 3), (6, 11), (7, 10), (8, 9), (12, 14), (15, 17))

_AFLW_LICENCE = "Images and annotations are for non-commercial research only, after registration; no redistribution."
AFLW_CITATION = """@inproceedings{koestinger2011annotated,
  title     = {Annotated Facial Landmarks in the Wild: A Large-scale, Real-world Database for Facial Landmark
               Localization},
  author    = {K{\\"o}stinger, Martin and Wohlhart, Paul and Roth, Peter M. and Bischof, Horst},
  booktitle = {IEEE International Conference on Computer Vision Workshops},
  year      = {2011}
}"""
_AFLW_HOMEPAGE = (
    "https://www.tugraz.at/institute/icg/research/team-bischof/learning-recognition-surveillance/downloads/aflw"
)
_AFLW_MAT = Archive(
    "http://mmlab.ie.cuhk.edu.hk/projects/compositional/AFLWinfo_release.mat",
    "AFLWinfo_release.mat",
    ("**/AFLWinfo_release.mat",),
)
_AFLW_COLUMNS = {
    name: Column("float32", f"{name} of the head in degrees, fitted to the landmarks; NaN where unknown")
    for name in ("roll", "pitch", "yaw")
}
AFLW = Benchmark(
    name="aflw",
    title="AFLW",
    landmark_names=names_of(_AFLW_19_PARTS),
    flip_pairs=_AFLW_19_FLIP_PAIRS,
    parts=_AFLW_19_PARTS,
    normalizer_kinds=dict(BOX_NORMALIZERS),
    crop_box="box",
    failure_threshold=0.07,
    splits={"train": 20000, "test": 4386},
    test_split="test",
    subsets={"frontal": Subset("test", 1314, "frontal")},
    columns={"frontal": Column("bool", "all 19 landmarks are visible"), **_AFLW_COLUMNS},
    occlusion=True,
    licence=_AFLW_LICENCE,
    homepage=_AFLW_HOMEPAGE,
    download=(
        "aflw-images-{0,2,3}.tar.gz and aflw-db.tar.gz after filling in its form; "
        f"for 19 points {_AFLW_MAT.url}, no form"
    ),
    form=True,
    archives=(_AFLW_MAT,),
    citation=AFLW_CITATION
    + """
@inproceedings{zhu2016unconstrained,
  title     = {Unconstrained Face Alignment via Cascaded Compositional Learning},
  author    = {Zhu, Shizhan and Li, Cheng and Loy, Chen Change and Tang, Xiaoou},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition},
  year      = {2016}
}""",
    layout=(
        "data/flickr/{0,2,3}/ with the photos and AFLWinfo_release.mat (train, test), or without it data/aflw.sqlite "
        "(one split, database: visible landmarks only)"
    ),
    sources={
        "landmark_names": "FeatureCoordTypes of aflw.sqlite without the ears; its left is the picture's left",
        "flip_pairs": HRNET,
        "normalizer_kinds": "Zhu et al. 2016: face size sqrt(w*h); some papers use the diagonal, 1.414 times larger",
        "crop_box": HRNET,
        "failure_threshold": "FaRL: AUC at 7 % of the box",
        "splits": "Zhu et al. 2016: the first 20,000 of the permutation ra",
        "subsets": "1,314 as papers have it (1,165 in Zhu et al. 2016)",
        "columns": "mask_new of AFLWinfo_release.mat; FacePose of aflw.sqlite, in radians there",
        "occlusion": "mask_new of AFLWinfo_release.mat",
        "licence": "the homepage",
    },
)

AFLW21 = Benchmark(
    name="aflw21",
    title="AFLW with 21 points",
    landmark_names=names_of(_AFLW_21_PARTS),
    flip_pairs=_AFLW_21_FLIP_PAIRS,
    parts=_AFLW_21_PARTS,
    normalizer_kinds=dict(BOX_NORMALIZERS),
    crop_box="box",
    failure_threshold=0.07,
    splits={},
    test_split="test",
    columns=_AFLW_COLUMNS,
    licence=_AFLW_LICENCE,
    homepage=_AFLW_HOMEPAGE,
    download="aflw-images-{0,2,3}.tar.gz and aflw-db.tar.gz after filling in its form",
    form=True,
    citation=AFLW_CITATION,
    layout="data/flickr/{0,2,3}/ with the photos and data/aflw.sqlite (one split: database)",
    sources={
        "landmark_names": "FeatureCoordTypes of aflw.sqlite; its left is the picture's left",
        "flip_pairs": "symmetry of the names",
        "normalizer_kinds": "as AFLW with 19 points",
        "crop_box": "as AFLW with 19 points",
        "failure_threshold": "as AFLW with 19 points",
        "splits": "no official ones",
        "columns": "FacePose of aflw.sqlite, in radians there",
        "licence": "the homepage",
    },
)


# Reading -----------------------------------------------------------------------------------------------------------

# Zhu et al. 2016, "Unconstrained Face Alignment via Cascaded Compositional Learning": the training set is the
# first 20,000 faces of `ra`, a permutation of all 24,386.
TRAIN_FACES = 20_000
_POINTS_19 = 19
_POINTS_21 = 21
_BOX_TOLERANCE = 1.5  # pixels
_EARS = (13, 17)  # feature_id of LeftEar and RightEar, which the 19 points lack
_FOLDERS = ("", "data/", "aflw/data/", "aflw/")  # the official archives unpack to aflw/data/
_PHOTO_FOLDERS = tuple(f"{folder}flickr" for folder in ("data/", "", "aflw/data/", "aflw/")) + ("",)


@dataclass(frozen=True)
class AflwMat:
    """One split, train or test, of the lists of 19 points. The database, if there is one, gives the poses."""

    root: Path
    mat: Path
    split: str
    database: Path | None


@dataclass(frozen=True)
class AflwDatabase:
    """All faces of the database, with 21 points or, without the ears, 19."""

    root: Path
    database: Path
    ears: bool


def list_aflw(root: Path) -> dict[str, list]:
    """The lists of 19 points as splits train and test, or without them the database as the split "database".

    (`datasets` reserves the name "all".)
    """
    mat, database = _find(root, "AFLWinfo_release.mat"), _find(root, "aflw.sqlite")
    if mat:
        with MatFile(mat) as lists:
            count = lists.read_array("ra", None, None).size
        splits = ("train", "test") if count > TRAIN_FACES else ("train",)  # a sample may have no test faces
        return {split: [AflwMat(root, mat, split, database)] for split in splits}
    return {"database": [AflwDatabase(root, database, ears=False)] if database else []}


def list_aflw21(root: Path) -> dict[str, list[AflwDatabase]]:
    """The database as the only split; empty without it."""
    database = _find(root, "aflw.sqlite")
    return {"database": [AflwDatabase(root, database, ears=True)] if database else []}


def list_aflw_files(root: Path) -> list[Path]:
    """The annotations and all photos below `root`."""
    annotations = (_find(root, "AFLWinfo_release.mat"), _find(root, "aflw.sqlite"))
    return [path for path in annotations if path] + list_photos(root)


def list_aflw_photos(root: Path) -> list[Path]:
    """The photos in AFLW's folders flickr/0, flickr/2 and flickr/3 below `root`, which may be links."""
    folders = (root / folder / number for folder in _PHOTO_FOLDERS for number in ("0", "2", "3"))
    return sorted(
        path
        for folder in folders
        if folder.is_dir()
        for path in folder.iterdir()
        if path.suffix.lower() in PHOTO_SUFFIXES
    )


def _find(root: Path, name: str) -> Path | None:
    return find_file(root, *(folder + name for folder in _FOLDERS))


class _Photos:
    """Finds the photos by their names in the annotations."""

    def __init__(self, root: Path):
        self._folders = [root / name for name in _PHOTO_FOLDERS if (root / name).is_dir()]

    def find(self, name: str) -> Path:
        """The photo's path, also if a copy of AFLW has another format; the annotated path if it is missing."""
        names = [name, *(_without_suffix(name) + suffix for suffix in (".jpg", ".png"))]
        candidates = [folder / spelling for folder in self._folders for spelling in names]
        return next((path for path in candidates if path.is_file()), self._folders[0] / name)


def _image_id(name: str) -> str:
    return _without_suffix(name.strip().replace("\\", "/"))


def _without_suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and "/" not in suffix else name


# AFLWinfo_release.mat --------------------------------------------------------------------------------------------


def read_aflw_mat(source: AflwMat) -> Iterator[Face]:
    """The faces of a split in the order of `ra`. All 19 points are annotated, hidden ones too.

    `roll`, `pitch` and `yaw`, in degrees, are those of the face of the database in the same photo with a box of nearly
    the same size. They are NaN if there is no such face, more than one, or no database. Coordinates are read as
    0-based, as in all published code.

    Raises:
        ValueError: if the file is malformed; the message names it and, for an error in a row, its number (from 1).
    """
    with MatFile(source.mat) as mat:
        data = mat.read_array("data", None, 2 * _POINTS_19)
        count = len(data)
        sides = mat.read_array("bbox", count, 4)
        visible = mat.read_array("mask_new", count, _POINTS_19)
        order = _check_order(mat.read_array("ra", None, None), count, source.mat)
        names = mat.read_strings("nameList")
    if len(names) != count:
        raise ValueError(f"{source.mat}: nameList must hold {count} names, one for each face, but got {len(names)}")
    order = order[:TRAIN_FACES] if source.split == "train" else order[TRAIN_FACES:]
    poses = _read_poses(source.database) if source.database else {}
    photos = _Photos(source.root)
    for row in order:
        where = f"{source.mat} row {row + 1}"
        _check_row(data[row], sides[row], visible[row], where)
        left, right, top, bottom = sides[row]
        name = names[row].strip()
        yield Face(
            image_id=_image_id(name),
            photo=photos.find(name),
            landmarks=data[row].reshape(2, _POINTS_19).T,
            where=where,
            box=np.array([left, top, right, bottom]),
            occluded=visible[row] == 0,
            columns={"frontal": bool(visible[row].all())}
            | _angles(_poses_of(poses.get(_image_id(name), []), [right - left, bottom - top])),
        )


def _check_order(order: np.ndarray, count: int, path: Path) -> np.ndarray:
    """The rows, counted from 0, in the order of `ra`."""
    order = order.ravel()
    if not np.array_equal(np.sort(order), np.arange(1, count + 1)):
        content = f"{len(order)} from {order.min():g} to {order.max():g}" if order.size else "none"
        raise ValueError(f"{path}: ra must hold each number from 1 to {count} once, but got {content}")
    return order.astype(np.int64) - 1


def _check_row(points: np.ndarray, sides: np.ndarray, visible: np.ndarray, where: str) -> None:
    for name, values in (("data", points), ("bbox", sides)):
        if not np.isfinite(values).all():
            raise ValueError(f"{where}: {name} must be finite, but got {values[~np.isfinite(values)][0]}")
    if not np.isin(visible, (0, 1)).all():
        raise ValueError(f"{where}: mask_new must be 0 or 1, but got {visible[~np.isin(visible, (0, 1))][0]:g}")


def _angles(poses: list[np.ndarray]) -> dict[str, float]:
    angles = poses[0] if len(poses) == 1 else np.full(3, np.nan)
    return dict(zip(("roll", "pitch", "yaw"), np.degrees(angles).tolist(), strict=True))


def _poses_of(poses: list[tuple[list[float], np.ndarray]], size: list[float]) -> list[np.ndarray]:
    """The angles of the faces of a photo whose box is nearest to `size`, (width, height), within `_BOX_TOLERANCE`."""
    differences = [np.abs(np.subtract(box_size, size)).max() for box_size, _ in poses]
    nearest = min([*differences, _BOX_TOLERANCE])
    return [angles for (_, angles), difference in zip(poses, differences) if difference <= nearest + 1e-3]


# aflw.sqlite -----------------------------------------------------------------------------------------------------

_FACES_AND_POINTS = f"""
SELECT Faces.face_id, FaceImages.filepath, FaceRect.x, FaceRect.y, FaceRect.w, FaceRect.h,
       FacePose.roll, FacePose.pitch, FacePose.yaw, FeatureCoords.feature_id, FeatureCoords.x, FeatureCoords.y
FROM Faces
JOIN FaceImages ON FaceImages.file_id = Faces.file_id
JOIN FeatureCoords ON FeatureCoords.face_id = Faces.face_id AND FeatureCoords.feature_id BETWEEN 1 AND {_POINTS_21}
LEFT JOIN FaceRect ON FaceRect.face_id = Faces.face_id
LEFT JOIN FacePose ON FacePose.face_id = Faces.face_id
ORDER BY Faces.face_id, FeatureCoords.feature_id
"""  # FeatureCoordTypes lists further features, which no face has
_POSES = """
SELECT Faces.face_id, FaceImages.filepath, FaceRect.w, FaceRect.h, FacePose.roll, FacePose.pitch, FacePose.yaw
FROM Faces
JOIN FaceImages ON FaceImages.file_id = Faces.file_id
JOIN FaceRect ON FaceRect.face_id = Faces.face_id
JOIN FacePose ON FacePose.face_id = Faces.face_id
"""


def read_aflw_database(source: AflwDatabase) -> Iterator[Face]:
    """The faces of the database in the order of their face_id. Hidden points have no coordinates and are NaN.

    With 19 points, `occluded` marks points without coordinates, and `frontal` marks faces that have all of them. Faces
    that cannot be cropped are left out: those without a point, and those without a rectangle if their points span no
    area or their photo is missing (the official database holds twelve faces without a rectangle). If a face has two
    rectangles, poses or positions of a point, the first is used.

    Raises:
        ValueError: if the file is malformed; the message names it and, for an error in a face, the face_id.
    """
    photos = _Photos(source.root)
    feature_ids = [number for number in range(1, _POINTS_21 + 1) if source.ears or number not in _EARS]
    with _connect(source.database) as database:
        for face_id, group in itertools.groupby(database.execute(_FACES_AND_POINTS), key=lambda row: row[0]):
            rows = list(group)
            where = f"{source.database} face_id {face_id}"
            name, photo = str(rows[0][1]), photos.find(str(rows[0][1]))
            landmarks = _landmarks(rows, where)[np.array(feature_ids) - 1]
            box = _box(rows[0][2:6], where)
            if not _can_be_cropped(landmarks, box, photo):
                continue
            annotated = ~np.isnan(landmarks).any(axis=1)
            poses = _angles([_numbers(rows[0][6:9], "FacePose", where)])
            yield Face(
                image_id=_image_id(name),
                photo=photo,
                landmarks=landmarks,
                where=where,
                box=box,
                occluded=None if source.ears else ~annotated,
                columns=poses if source.ears else {"frontal": bool(annotated.all())} | poses,
            )


def _landmarks(rows: list[tuple], where: str) -> np.ndarray:
    points = np.full((_POINTS_21, 2), np.nan)
    for *_, number, x, y in reversed(rows):
        points[number - 1] = _numbers((x, y), "FeatureCoords", where)
    points[(points <= 0).all(axis=1)] = np.nan  # AFLW's own tools store (-1, -1) where a point is deleted
    points[np.isnan(points).any(axis=1)] = np.nan
    return points


def _box(rectangle: tuple, where: str) -> np.ndarray | None:
    x, y, width, height = _numbers(rectangle, "FaceRect", where)
    box = np.array([x, y, x + width, y + height])
    return None if np.isnan(box).any() else box


def _can_be_cropped(landmarks: np.ndarray, box: np.ndarray | None, photo: Path) -> bool:
    points = landmarks[~np.isnan(landmarks).any(axis=1)]
    if len(points) == 0 or box is not None:
        return len(points) > 0
    return bool((np.ptp(points, axis=0) > 0).all()) and photo.is_file()


def _read_poses(path: Path) -> dict[str, list[tuple[list[float], np.ndarray]]]:
    """For each photo, (width, height) of the box and (roll, pitch, yaw) in radians of each of its faces."""
    poses: dict[str, list[tuple[list[float], np.ndarray]]] = {}
    with _connect(path) as database:
        for face_id, name, width, height, *angles in database.execute(_POSES):
            where = f"{path} face_id {face_id}"
            size = _numbers([width, height], "FaceRect", where).tolist()
            poses.setdefault(_image_id(str(name)), []).append((size, _numbers(angles, "FacePose", where)))
    return poses


def _numbers(values, table: str, where: str) -> np.ndarray:
    """float64, NaN for NULL."""
    try:
        numbers = np.array([np.nan if value is None else float(value) for value in values])
    except (TypeError, ValueError):
        numbers = np.array([np.inf])
    if np.isinf(numbers).any():
        raise ValueError(f"{where}: {table} must hold finite numbers, but got {tuple(values)}")
    return numbers


@contextmanager
def _connect(path: Path) -> Iterator[sqlite3.Connection]:
    """A read-only connection. Errors of SQLite are raised as ValueError, which names the file."""
    try:
        # A stream of faces may be closed by another thread than the one that opened it.
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, check_same_thread=False)) as database:
            database.execute("PRAGMA schema_version")  # raises if the file is no database
            (page,) = database.execute("PRAGMA page_size").fetchone()
            if path.stat().st_size % page:  # SQLite would fill a truncated last page with zeros
                raise sqlite3.DatabaseError("the last page is truncated")
            yield database
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} must be AFLW's database, readable to its end, but got: {error}") from error


class FacesAFLW(FaceBuilder):
    """AFLW with the 19 points of the papers, photos in data/flickr/ or flickr/.

    train, test: from AFLWinfo_release.mat, at the root or in data/, with the hidden points and, where aflw.sqlite
    lies there too, the poses. database: from aflw.sqlite alone, without the hidden points. See `FaceBuilder` for
    columns and errors.
    """

    BENCHMARK = AFLW

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

    BENCHMARK = AFLW21

    @classmethod
    def list_sources(cls, root):
        return list_aflw21(root)

    @classmethod
    def list_files(cls, root, sources):
        return list_aflw_files(root)

    def read_faces(self, source: AflwDatabase):
        yield from read_aflw_database(source)
