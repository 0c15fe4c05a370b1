import math
import sqlite3
import time

import datasets
import numpy as np
import pytest
import scipy.io
from matlab_stub import object_cells, write_mat73
from PIL import Image

from dataset_scripts import conversion, load_faces
from dataset_scripts.benchmarks.aflw import AflwDatabase, AflwMat, read_aflw_database, read_aflw_mat

NAMES = ["0/image00013.jpg", "0/image00035.png", "2/image00099.jpg", "2/image00099.jpg", "3/image65000.jpg"]
RA = np.array([[4, 1, 5, 2, 3]], dtype=np.uint16)
TRAIN, TEST = [3, 0, 4], [1, 2]  # rows, counted from 0, with three faces in the training set
EARS = [13, 17]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("dataset_scripts.benchmarks.aflw.TRAIN_FACES", 3)


def pixels_of(name):
    return np.random.default_rng(sum(name.encode())).integers(0, 256, (60, 80, 3), dtype=np.uint8)


def write_photos(folder, names=NAMES):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels_of(name)).save(path)
    return folder


# AFLWinfo_release.mat --------------------------------------------------------------------------------------------


def lists():
    random = np.random.default_rng(0)
    visible = random.integers(0, 2, (5, 19)).astype(np.uint8)
    visible[[0, 2]] = 1
    left, top = random.integers(-9, 20, (2, 5))
    size = np.arange(30, 35)
    return {
        "data": random.uniform(2, 58, (5, 38)).round(3),
        "bbox": np.stack([left, left + size, top, top + size], axis=1).astype(np.int16),
        "mask_new": visible,
        "nameList": list(NAMES),
        "ra": RA,
    }


def write_lists(path, variables=None, version73=False):
    variables = dict(variables or lists())
    path.parent.mkdir(parents=True, exist_ok=True)
    if version73:
        return write_mat73(path, **variables)
    if isinstance(variables.get("nameList"), list):
        variables["nameList"] = object_cells(variables["nameList"])
    scipy.io.savemat(path, variables)


@pytest.fixture
def root(tmp_path):
    write_photos(tmp_path / "aflw" / "data" / "flickr")
    write_lists(tmp_path / "aflw" / "AFLWinfo_release.mat")
    return tmp_path / "aflw"


def check_lists(faces, rows):
    variables = lists()
    assert [face["image_id"] for face in faces] == [NAMES[row].rsplit(".", 1)[0] for row in rows]
    for row, face in zip(rows, faces, strict=True):
        expected = np.stack([variables["data"][row, :19], variables["data"][row, 19:]], axis=1)
        np.testing.assert_array_equal(np.float32(face["landmarks"]), expected.astype(np.float32))
        np.testing.assert_array_equal(face["box"], variables["bbox"][row][[0, 2, 1, 3]])
        np.testing.assert_array_equal(face["occluded"], variables["mask_new"][row] == 0)
        assert face["frontal"] == (row in (0, 2))
        if NAMES[row].endswith(".png"):
            np.testing.assert_array_equal(np.asarray(face["image"]), pixels_of(NAMES[row]))


def test_the_official_file_holds_the_names_as_loaded_here(root):
    names = scipy.io.loadmat(root / "AFLWinfo_release.mat")["nameList"]
    assert names.shape == (5, 1) and names[0, 0][0] == "0/image00013.jpg"


@pytest.mark.parametrize("version73", [False, True])
@pytest.mark.parametrize("streaming", [False, True])
def test_lists_read_back_exactly(root, version73, streaming):
    write_lists(root / "AFLWinfo_release.mat", version73=version73)
    for split, rows in (("train", TRAIN), ("test", TEST)):
        faces = list(load_faces("aflw", root, split, streaming=streaming))
        check_lists(faces, rows)
        assert all(math.isnan(face[angle]) for face in faces for angle in ("roll", "pitch", "yaw"))
    frontal = load_faces("aflw", root, "frontal", streaming=streaming)
    assert [face["image_id"] for face in frontal] == ["2/image00099"]


@pytest.mark.parametrize("photos", ["data/flickr", "flickr", ".", "aflw/data/flickr"])
@pytest.mark.parametrize("mat", ["AFLWinfo_release.mat", "data/AFLWinfo_release.mat"])
def test_places_of_the_photos_and_of_the_lists(tmp_path, photos, mat):
    write_photos(tmp_path / "root" / photos)
    write_lists(tmp_path / "root" / mat)
    check_lists(list(load_faces("aflw", tmp_path / "root", "train")), TRAIN)


def test_photo_of_another_format_than_its_name(root):
    photo = root / "data" / "flickr" / "0" / "image00035.png"
    Image.fromarray(pixels_of("other")).save(photo.with_suffix(".jpg"), quality=95)
    np.testing.assert_array_equal(load_faces("aflw", root, "test")[0]["image"], pixels_of(NAMES[1]))
    photo.unlink()
    assert load_faces("aflw", root, "test")[0]["image_id"] == "0/image00035"


def test_lists_are_read_without_photos(tmp_path):
    write_lists(tmp_path / "AFLWinfo_release.mat")
    faces = list(read_aflw_mat(AflwMat(tmp_path, tmp_path / "AFLWinfo_release.mat", "train", None)))
    np.testing.assert_array_equal(faces[0].landmarks.T.ravel(), lists()["data"][3])
    assert faces[0].where.endswith("AFLWinfo_release.mat row 4")


def test_missing_photo_is_named_and_leaves_nothing(root, tmp_path):
    (root / "data" / "flickr" / "3" / "image65000.jpg").unlink()
    with pytest.raises(ValueError, match=r"AFLWinfo_release\.mat row 5: .*image65000\.jpg .*no such file"):
        load_faces("aflw", root, "train")
    assert not list((tmp_path / "cache").rglob("*.arrow"))


def test_files_changed_later_are_noticed(root):
    load_faces("aflw", root, "train")
    photo = root / "data" / "flickr" / "0" / "image00035.png"
    Image.fromarray(pixels_of("changed")).save(photo)
    np.testing.assert_array_equal(load_faces("aflw", root, "test")[0]["image"], pixels_of("changed"))
    write_lists(root / "AFLWinfo_release.mat", lists() | {"ra": np.arange(1, 6)[None]})
    assert load_faces("aflw", root, "train")[0]["image_id"] == "0/image00013"


def test_conversion_reads_back_exactly(root, tmp_path):
    assert conversion.convert("aflw", root, tmp_path / "out") == {"train": 3, "test": 2}
    check_lists(list(load_faces("aflw", tmp_path / "out", "train")), TRAIN)
    check_lists(list(load_faces("aflw", tmp_path / "out", "test")), TEST)
    assert len(load_faces("aflw", tmp_path / "out", "frontal")) == 1


def at(name, index, value):
    def put(variables):
        variables[name] = np.array(variables[name], dtype=np.float64)
        variables[name][index] = value

    return put


def replaced(name, value):
    return lambda variables: variables.update({name: value})


@pytest.mark.parametrize("version73", [False, True])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda v: v.pop("mask_new"), " must hold the variable mask_new, but got bbox, data, nameList, ra"),
        (replaced("data", np.ones((5, 42))), ": data must be N x 38, but got 5 x 42"),
        (replaced("bbox", np.ones((4, 4))), ": bbox must be 5 x 4, but got 4 x 4"),
        (replaced("nameList", NAMES[:4]), ": nameList must hold 5 names, one for each face, but got 4"),
        (replaced("nameList", np.ones((5, 1))), ": nameList must be a cell array, but got 5 x 1 float64"),
        (replaced("nameList", [np.ones((1, 2))] * 5), " row 1: nameList must be text, but got float64"),
        (replaced("ra", np.array([[1, 2, 3, 4]])), ": ra must hold each number from 1 to 5 once, but got 4 from"),
        (replaced("ra", np.array([[0, 1, 2, 3, 4]])), ": ra must hold each .* from 0 to 4"),
        (replaced("ra", np.array([[1, 2, 2, 4, 5]])), ": ra must hold each number from 1 to 5 once"),
        (at("data", (3, 7), np.nan), " row 4: data must be finite, but got nan"),
        (at("data", (3, 7), np.inf), " row 4: data must be finite, but got inf"),
        (at("bbox", (0, 1), np.nan), " row 1: bbox must be finite, but got nan"),
        (at("mask_new", (0, 1), 2), " row 1: mask_new must be 0 or 1, but got 2"),
        (at("bbox", 0, [20, 20, 5, 30]), " row 1: the annotated box must have .* no area"),
    ],
)  # fmt: skip
def test_malformed_lists_are_named(root, version73, spoil, message):
    variables = lists()
    spoil(variables)
    write_lists(root / "AFLWinfo_release.mat", variables, version73)
    with pytest.raises(ValueError, match=r"AFLWinfo_release\.mat" + message):
        load_faces("aflw", root, "train")


@pytest.mark.parametrize("kept", [0, 0.05, 0.5, 0.9])
@pytest.mark.parametrize("version73", [False, True])
def test_truncated_lists_are_named(root, version73, kept):
    path = root / "AFLWinfo_release.mat"
    write_lists(path, version73=version73)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(ValueError, match=r"AFLWinfo_release\.mat must"):
        load_faces("aflw", root, "train")


# aflw.sqlite -----------------------------------------------------------------------------------------------------

TABLES = """
CREATE TABLE Faces (face_id INTEGER PRIMARY KEY, file_id TEXT, db_id TEXT);
CREATE TABLE FaceImages (image_id INTEGER PRIMARY KEY, db_id TEXT, file_id TEXT, filepath TEXT, bw INTEGER,
                         width INTEGER, height INTEGER);
CREATE TABLE FaceRect (face_id INTEGER, x INTEGER, y INTEGER, w INTEGER, h INTEGER, annot_type_id INTEGER);
CREATE TABLE FacePose (face_id INTEGER, roll REAL, pitch REAL, yaw REAL, annot_type_id INTEGER);
CREATE TABLE FeatureCoords (face_id INTEGER, feature_id INTEGER, x REAL, y REAL, annot_type_id INTEGER);
CREATE TABLE FeatureCoordTypes (feature_id INTEGER PRIMARY KEY, descr TEXT, code TEXT, x REAL, y REAL, z REAL);
CREATE TABLE FaceMetaData (face_id INTEGER, sex TEXT, occluded INTEGER, glasses INTEGER, bw INTEGER,
                           annot_type_id INTEGER);
"""
MISSING = {0: [], 1: [1, 7, 13, 21], 2: [13], 3: list(range(1, 20)), 4: [17]}  # feature_id, of the faces in NAMES
ANGLES = np.random.default_rng(1).uniform(-1.5, 1.5, (5, 3)).round(4)


def points_of(face):
    points = np.random.default_rng(face + 10).uniform(3, 57, (21, 2)).round(3)
    points[[number - 1 for number in MISSING[face]]] = np.nan
    return points


def write_database(path, *statements):
    """The faces of NAMES, with face_id 39341, 39342, … in reverse order of the rows, and `statements` after them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(path) as database:
        database.executescript(TABLES)
        for row, name in enumerate(dict.fromkeys(NAMES)):
            values = (row, "flickr", name.split("/")[1], name, 0, 80, 60)
            database.execute("INSERT INTO FaceImages VALUES (?, ?, ?, ?, ?, ?, ?)", values)
        for face in reversed(range(5)):
            face_id, (left, right, top, bottom) = 39341 + face, lists()["bbox"][face].tolist()
            database.execute("INSERT INTO Faces VALUES (?, ?, 'flickr')", (face_id, NAMES[face].split("/")[1]))
            rectangle = (face_id, left + 1, top, right - left, bottom - top)  # not just where the lists have it
            database.execute("INSERT INTO FaceRect VALUES (?, ?, ?, ?, ?, 0)", rectangle)
            database.execute("INSERT INTO FacePose VALUES (?, ?, ?, ?, 0)", (face_id, *ANGLES[face].tolist()))
            for number, (x, y) in reversed(list(enumerate(points_of(face).tolist(), start=1))):
                if not math.isnan(x):
                    database.execute("INSERT INTO FeatureCoords VALUES (?, ?, ?, ?, 0)", (face_id, number, x, y))
        for statement in statements:
            database.execute(statement)
    database.close()


@pytest.fixture
def original(tmp_path):
    """The official archives as unpacked."""
    write_photos(tmp_path / "aflw" / "data" / "flickr")
    write_database(tmp_path / "aflw" / "data" / "aflw.sqlite")
    return tmp_path / "aflw"


@pytest.mark.parametrize("streaming", [False, True])
def test_database_reads_back_exactly(original, streaming):
    faces = list(load_faces("aflw21", original, "database", streaming=streaming))
    assert [face["image_id"] for face in faces] == [name.rsplit(".", 1)[0] for name in NAMES]
    for row, face in enumerate(faces):
        np.testing.assert_array_equal(np.float32(face["landmarks"]), points_of(row).astype(np.float32))
        left, right, top, bottom = lists()["bbox"][row].tolist()
        np.testing.assert_array_equal(face["box"], [left + 1, top, right + 1, bottom])
        angles = [face["roll"], face["pitch"], face["yaw"]]
        np.testing.assert_allclose(angles, np.degrees(ANGLES[row]), rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(faces[1]["image"]), pixels_of(NAMES[1]))
    assert "occluded" not in faces[0] and "frontal" not in faces[0]


def test_database_without_the_ears(original):
    faces = load_faces("aflw", original, "database")
    for row, face in enumerate(faces.with_format("numpy")):
        points = np.delete(points_of(row), np.array(EARS) - 1, axis=0).astype(np.float32)
        np.testing.assert_array_equal(face["landmarks"], points)
        np.testing.assert_array_equal(face["occluded"], np.isnan(points[:, 0]))
    assert faces["frontal"][:] == [True, False, True, False, True]
    with pytest.raises(ValueError, match="split must be made of database for"):
        load_faces("aflw", original, "test")


def test_database_at_the_root_is_read_and_nothing_is_written(tmp_path):
    root = write_photos(tmp_path / "with space?#" / "flickr").parent
    write_database(root / "aflw.sqlite")
    assert len(load_faces("aflw21", root, "database")) == 5
    assert sorted(path.name for path in root.iterdir()) == ["aflw.sqlite", "flickr"]


def test_official_archive_names_its_folder(tmp_path):
    write_photos(tmp_path / "root" / "aflw" / "data" / "flickr")
    write_database(tmp_path / "root" / "aflw" / "data" / "aflw.sqlite")
    assert len(load_faces("aflw", tmp_path / "root", "database")) == 5


def test_points_that_are_not_there(original):
    (original / "data" / "aflw.sqlite").unlink()
    write_database(
        original / "data" / "aflw.sqlite",
        "UPDATE FeatureCoords SET x = -1, y = -1 WHERE face_id = 39341 AND feature_id = 2",
        "UPDATE FeatureCoords SET x = 0, y = 0 WHERE face_id = 39341 AND feature_id = 3",
        "UPDATE FeatureCoords SET x = NULL WHERE face_id = 39341 AND feature_id = 4",
        "UPDATE FeatureCoords SET x = -2 WHERE face_id = 39341 AND feature_id = 5",  # outside, but a point
        "INSERT INTO FeatureCoords VALUES (39341, 22, 5, 6, 0), (39341, 0, 5, 6, 0)",
        "INSERT INTO FeatureCoordTypes (feature_id, descr) VALUES (28, 'one that no face has')",
    )
    landmarks = np.array(load_faces("aflw21", original, "database")[0]["landmarks"])
    expected = points_of(0)
    expected[1:4] = np.nan
    expected[4, 0] = -2
    np.testing.assert_array_equal(landmarks.astype(np.float32), expected.astype(np.float32))


def test_faces_that_cannot_be_cropped_are_left_out(original):
    (original / "data" / "aflw.sqlite").unlink()
    write_database(
        original / "data" / "aflw.sqlite",
        "DELETE FROM FeatureCoords WHERE face_id = 39341",
        "DELETE FROM FaceRect WHERE face_id IN (39342, 39343, 39345)",
        "DELETE FROM FeatureCoords WHERE face_id = 39343 AND feature_id > 1",
        "DELETE FROM FacePose WHERE face_id = 39342",
        "UPDATE FaceImages SET filepath = '3/missing.jpg' WHERE filepath = '3/image65000.jpg'",
    )
    faces = load_faces("aflw21", original, "database")
    assert faces["image_id"][:] == ["0/image00035", "2/image00099"]
    assert np.isnan(faces[0]["box"]).all() and math.isnan(faces[0]["yaw"])
    assert not np.isnan(faces[0]["landmark_box"]).any() and not np.isnan(faces[1]["box"]).any()


def test_second_rectangle_of_a_face_adds_no_face(original):
    with sqlite3.connect(original / "data" / "aflw.sqlite") as database:
        database.execute("INSERT INTO FaceRect SELECT face_id, x, y, w + 9, h, 1 FROM FaceRect")
    database.close()
    assert len(load_faces("aflw21", original, "database")) == 5


def test_database_is_read_without_photos(tmp_path):
    write_database(tmp_path / "aflw.sqlite")
    faces = list(read_aflw_database(AflwDatabase(tmp_path, tmp_path / "aflw.sqlite", ears=True)))
    assert len(faces) == 5 and faces[4].where.endswith("aflw.sqlite face_id 39345")


def test_missing_photo_of_the_database_is_named(original):
    (original / "data" / "flickr" / "3" / "image65000.jpg").unlink()
    with pytest.raises(ValueError, match=r"aflw\.sqlite face_id 39345: .*image65000\.jpg .*no such file"):
        load_faces("aflw21", original, "database")


def test_database_changed_later_is_noticed(original):
    load_faces("aflw21", original, "database")
    with sqlite3.connect(original / "data" / "aflw.sqlite") as database:
        database.execute("DELETE FROM FeatureCoords WHERE face_id = 39345")
    database.close()
    assert len(load_faces("aflw21", original, "database")) == 4


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("DROP TABLE FacePose", r"aflw\.sqlite must be AFLW's database.*no such table: FacePose"),
        ("ALTER TABLE FaceRect RENAME COLUMN w TO width", r"aflw\.sqlite must be .*no such column: FaceRect\.w"),
        ("UPDATE FeatureCoords SET x = 'x1'", r"face_id 39341: FeatureCoords must hold finite numbers.*'x1'"),
        ("UPDATE FeatureCoords SET x = 9e999", r"face_id 39341: FeatureCoords must hold finite numbers.*inf"),
        ("UPDATE FacePose SET yaw = 9e999", r"face_id 39341: FacePose must hold finite numbers.*inf"),
        ("UPDATE FaceRect SET w = 0 WHERE face_id = 39342", r"face_id 39342: the annotated box must.*no area"),
    ],
)
def test_malformed_database_is_named_and_leaves_nothing(tmp_path, statement, message):
    write_photos(tmp_path / "root" / "flickr")
    write_database(tmp_path / "root" / "aflw.sqlite", statement)
    with pytest.raises(ValueError, match=message):
        load_faces("aflw21", tmp_path / "root", "database")
    assert not list((tmp_path / "cache").rglob("*.arrow"))


@pytest.mark.parametrize("kept", [0, 50, 4096, 0.5, 0.9, 0.95])
def test_truncated_database_is_named(original, kept):
    path = original / "data" / "aflw.sqlite"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept) if kept < 1 else kept])
    with pytest.raises(ValueError, match=r"aflw\.sqlite must be AFLW's database, readable to its end, but got: "):
        load_faces("aflw21", original, "database")


def test_neither_lists_nor_database(tmp_path):
    write_photos(tmp_path / "root" / "flickr")
    with pytest.raises(ValueError, match=r"AFLWinfo_release\.mat.*aflw\.sqlite.*tugraz"):
        load_faces("aflw", tmp_path / "root", "train")
    write_lists(tmp_path / "root" / "AFLWinfo_release.mat")
    with pytest.raises(ValueError, match=r"data_dir must hold .*aflw\.sqlite"):
        load_faces("aflw21", tmp_path / "root", "database")


# Both together ---------------------------------------------------------------------------------------------------


def test_poses_of_the_lists_come_from_the_database(root):
    write_database(
        root / "data" / "aflw.sqlite",
        "UPDATE FaceRect SET w = w + 3 WHERE face_id = 39341",  # no match
        "UPDATE FaceRect SET w = w + 1 WHERE face_id = 39345",  # a match, rounded otherwise
        "INSERT INTO Faces VALUES (50000, 'image00035.png', 'flickr')",  # a second match
        "INSERT INTO FaceRect SELECT 50000, x, y, w, h, 0 FROM FaceRect WHERE face_id = 39342",
        "INSERT INTO FacePose VALUES (50000, 1, 1, 1, 0)",
    )
    rows = {"train": TRAIN, "test": TEST}
    for split, faces in {split: load_faces("aflw", root, split) for split in rows}.items():
        check_lists(list(faces), rows[split])
        for row, face in zip(rows[split], faces, strict=True):
            angles = [face["roll"], face["pitch"], face["yaw"]]
            expected = np.full(3, np.nan) if row in (0, 1) else np.degrees(ANGLES[row])
            np.testing.assert_allclose(angles, expected, rtol=1e-6)
    assert len(load_faces("aflw21", root, "database")) == 5


def test_damaged_database_beside_the_lists_is_named(root):
    (root / "aflw.sqlite").write_bytes(b"not a database at all, but long enough for a header" * 20)
    with pytest.raises(ValueError, match=r"aflw\.sqlite must be AFLW's database.*not a database"):
        load_faces("aflw", root, "train")


def test_database_of_official_size_is_read_in_seconds(tmp_path):
    with sqlite3.connect(tmp_path / "aflw.sqlite") as database:
        database.executescript(TABLES)
        ids = range(39341, 39341 + 24386)
        database.executemany("INSERT INTO Faces VALUES (?, ?, 'flickr')", ((i, f"image{i}.jpg") for i in ids))
        images = ((i, f"image{i}.jpg", f"0/image{i}.jpg") for i in ids)
        database.executemany("INSERT INTO FaceImages VALUES (?, 'flickr', ?, ?, 0, 80, 60)", images)
        database.executemany("INSERT INTO FaceRect VALUES (?, 5, 6, 50, 50, 0)", ((i,) for i in ids))
        database.executemany("INSERT INTO FacePose VALUES (?, 0, 0, 1, 0)", ((i,) for i in ids))
        points = ((i, number, 9 + number, 8) for i in ids for number in range(1, 22))
        database.executemany("INSERT INTO FeatureCoords VALUES (?, ?, ?, ?, 0)", points)
    database.close()
    start = time.perf_counter()
    count = sum(1 for _ in read_aflw_database(AflwDatabase(tmp_path, tmp_path / "aflw.sqlite", ears=False)))
    assert count == 24386 and time.perf_counter() - start < 60


def test_a_sample_without_test_faces_has_one_split(root, monkeypatch):
    monkeypatch.setattr("dataset_scripts.benchmarks.aflw.TRAIN_FACES", 20000)
    assert len(load_faces("aflw", root, "train")) == len(TRAIN) + len(TEST)
    with pytest.raises(ValueError, match="split must be made of train"):
        load_faces("aflw", root, "test")
