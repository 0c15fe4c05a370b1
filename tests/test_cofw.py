import datasets
import h5py
import numpy as np
import pytest
import scipy.io
from matlab_stub import object_cells, write_mat73

from dataset_scripts import conversion, load_faces
from dataset_scripts.benchmarks.cofw import CofwFile, list_cofw, read_cofw, read_points_68

SUFFIX = {"train": "Tr", "test": "T"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def variables_of(split, count=4, seed=0):
    """Photos (the second is grey), annotations and boxes in MATLAB's order of axes, counted from 1."""
    random = np.random.default_rng([seed, len(split)])
    photos = [random.integers(0, 256, (40 + index, 56, 3), dtype=np.uint8) for index in range(count)]
    photos[1] = photos[1][..., 0]
    points = random.uniform(4, 38, (count, 58)).round(3)
    flags = random.integers(0, 2, (count, 29))
    boxes = np.tile([5.0, 7.0, 30.0, 20.0], (count, 1)) + np.arange(count)[:, None]
    suffix = SUFFIX[split]
    return {f"Is{suffix}": photos, f"phis{suffix}": np.hstack([points, flags]), f"bboxes{suffix}": boxes}


@pytest.fixture
def root(tmp_path):
    for split in SUFFIX:
        write_mat73(tmp_path / "cofw" / f"COFW_{split}_color.mat", **variables_of(split))
    return tmp_path / "cofw"


def check(faces, split, variables):
    photos, phis, boxes = variables.values()
    assert len(faces := list(faces)) == len(photos)
    for index, face in enumerate(faces):
        assert face["image_id"] == f"{split}/{index + 1:04d}"
        pixels = np.asarray(face["image"])
        photo = photos[index] if photos[index].ndim == 3 else np.repeat(photos[index][..., None], 3, axis=2)
        np.testing.assert_array_equal(pixels, photo)
        expected = np.stack([phis[index, :29], phis[index, 29:58]], axis=1) - 1
        np.testing.assert_array_equal(np.float32(face["landmarks"]), expected.astype(np.float32))
        x, y, width, height = boxes[index]
        np.testing.assert_array_equal(face["box"], [x - 1, y - 1, x - 1 + width, y - 1 + height])
        np.testing.assert_array_equal(face["occluded"], phis[index, 58:] == 1)
        np.testing.assert_array_equal(face["landmark_box"][:2], np.floor(expected.min(axis=0)))


# COFW ------------------------------------------------------------------------------------------------------------


def test_file_looks_like_the_official_one(root):
    with h5py.File(root / "COFW_train_color.mat") as file:
        assert file.userblock_size == 512
        assert file["IsTr"].shape == (1, 4) and file["phisTr"].shape == (87, 4) and file["bboxesTr"].shape == (4, 4)
        assert file[file["IsTr"][0, 0]].shape == (3, 56, 40) and file[file["IsTr"][0, 1]].shape == (56, 41)


@pytest.mark.parametrize("split", SUFFIX)
@pytest.mark.parametrize("streaming", [False, True])
def test_reads_back_exactly(root, split, streaming):
    faces = load_faces("cofw", root, split, streaming=streaming)
    check(faces, split, variables_of(split))


def test_first_845_training_faces_are_those_of_lfpw(root, monkeypatch):
    assert set(load_faces("cofw", root, "train")["source"]) == {"lfpw"}
    assert set(load_faces("cofw", root, "test")["source"]) == {"cofw"}
    monkeypatch.setattr("dataset_scripts.benchmarks.cofw._LFPW_FACES", 3)
    sources = [face.columns["source"] for face in read_cofw(CofwFile(root / "COFW_train_color.mat", "train"))]
    assert sources == ["lfpw", "lfpw", "lfpw", "cofw"]


def test_files_below_the_root_and_grey_ones_where_the_coloured_are_missing(tmp_path):
    grey = variables_of("test", seed=1)
    grey["IsT"] = [photo[..., 0] if photo.ndim == 3 else photo for photo in grey["IsT"]]
    write_mat73(tmp_path / "root" / "common" / "behavior" / "code" / "pose" / "COFW_test.mat", **grey)
    check(load_faces("cofw", tmp_path / "root", "test"), "test", grey)
    with pytest.raises(ValueError, match="split must be made of test"):
        load_faces("cofw", tmp_path / "root", "train")
    coloured = variables_of("test")
    write_mat73(tmp_path / "root" / "COFW_color" / "COFW_test_color.mat", **coloured)
    check(load_faces("cofw", tmp_path / "root", "test"), "test", coloured)


def test_files_of_older_versions_of_matlab(tmp_path):
    variables = variables_of("train")
    (tmp_path / "root").mkdir()
    stored = variables | {"IsTr": object_cells(variables["IsTr"]), "phisTr": variables["phisTr"]}
    scipy.io.savemat(tmp_path / "root" / "COFW_train_color.mat", stored, do_compression=True)
    check(load_faces("cofw", tmp_path / "root", "train"), "train", variables)


def test_small_integers_do_not_overflow(tmp_path):
    variables = variables_of("test")
    variables["bboxesT"] = np.full((4, 4), [200, 100, 100, 200], np.uint8)
    write_mat73(tmp_path / "root" / "COFW_test_color.mat", **variables)
    faces = load_faces("cofw", tmp_path / "root", "test")
    np.testing.assert_array_equal(faces[0]["box"], [199, 99, 299, 299])


def test_photos_are_read_one_at_a_time_and_the_file_is_closed(root):
    path = root / "COFW_train_color.mat"
    with h5py.File(path, "r+") as file:
        file["IsTr"][0, 2] = h5py.Reference()
    faces = read_cofw(CofwFile(path, "train"))
    assert [next(faces).image_id, next(faces).image_id] == ["train/0001", "train/0002"]
    with pytest.raises(ValueError, match="row 3"):
        next(faces)
    faces = read_cofw(CofwFile(path, "train"))
    next(faces)
    faces.close()
    h5py.File(path, "r+").close()  # refused while the file is open for reading


def test_a_changed_file_is_noticed(root):
    check(load_faces("cofw", root, "test"), "test", variables_of("test"))
    changed = variables_of("test", count=5, seed=3)
    write_mat73(root / "COFW_test_color.mat", **changed)
    check(load_faces("cofw", root, "test"), "test", changed)


def test_conversion_reads_back_exactly(root, tmp_path):
    assert conversion.convert("cofw", root, tmp_path / "out") == {"train": 4, "test": 4}
    for split in SUFFIX:
        check(load_faces("cofw", tmp_path / "out", split), split, variables_of(split))
    assert (
        datasets.load_dataset(str(tmp_path / "out"), split="test").features
        == load_faces("cofw", root, "test").features
    )


def spoiled(name, value):
    def spoil(variables):
        variables[name] = value(variables[name]) if callable(value) else value

    return spoil


def at(index, value):
    def put(array):
        array = array.copy()
        array[index] = value
        return array

    return put


def one_photo(photo):
    return lambda photos: [photos[0], photos[1], photo, photos[3]]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda v: v.pop("phisTr"), r" must hold the variable phisTr, but got IsTr, bboxesTr"),
        (lambda v: v.pop("IsTr"), r" must hold the variable IsTr, but got bboxesTr, phisTr"),
        (spoiled("phisTr", lambda phis: phis[:, :86]), r": phisTr must be N x 87, but got 4 x 86"),
        (spoiled("phisTr", lambda phis: phis.T), r": phisTr must be N x 87, but got 87 x 4"),
        (spoiled("phisTr", ["a", "b"]), r": phisTr must be"),
        (spoiled("bboxesTr", lambda boxes: boxes[:3]), r": bboxesTr must be 4 x 4, but got 3 x 4"),
        (spoiled("IsTr", lambda photos: photos[:3]), r": IsTr must hold 4 photos, one for each face, but got 3"),
        (spoiled("IsTr", np.zeros((4, 2))), r": IsTr must be a cell array, but got 4 x 2 float64"),
        (spoiled("phisTr", at((2, 30), np.nan)), r" row 3: the landmarks must be finite, but got nan"),
        (spoiled("phisTr", at((2, 3), np.inf)), r" row 3: the landmarks must be finite, but got inf"),
        (spoiled("phisTr", at((1, 60), 2)), r" row 2: the flags of occlusion must be 0 or 1, but got 2"),
        (spoiled("phisTr", at((1, 60), np.nan)), r" row 2: the flags of occlusion must be 0 or 1, but got nan"),
        (spoiled("bboxesTr", at((3, 2), np.inf)), r" row 4: the box must be finite"),
        (spoiled("IsTr", one_photo(np.zeros((4, 5), np.uint16))), r" row 3: the photo must be .* got 4 x 5 of uint16"),
        (spoiled("IsTr", one_photo(np.zeros((4, 5, 4), np.uint8))), r" row 3: the photo .* got 4 x 5 x 4 of uint8"),
        (spoiled("IsTr", one_photo(np.zeros((0, 5), np.uint8))), r" row 3: the photo must be .* 0 x 5 of uint8"),
    ],
)  # fmt: skip
def test_malformed_file_is_named_and_leaves_nothing(tmp_path, spoil, message):
    variables = variables_of("train")
    spoil(variables)
    write_mat73(tmp_path / "root" / "COFW_train_color.mat", **variables)
    with pytest.raises(ValueError, match=r"COFW_train_color\.mat" + message):
        load_faces("cofw", tmp_path / "root", "train")
    assert not list((tmp_path / "cache").rglob("*.arrow"))


def test_missing_reference_is_named(root):
    with h5py.File(root / "COFW_test_color.mat", "r+") as file:
        file["IsT"][0, 2] = h5py.Reference()
    with pytest.raises(ValueError, match=r"COFW_test_color\.mat row 3: IsT must be MATLAB data"):
        load_faces("cofw", root, "test")


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_truncated_file_is_named(root, tmp_path, kept):
    path = root / "COFW_test_color.mat"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(ValueError, match=r"COFW_test_color\.mat must be MATLAB data that can be read whole"):
        load_faces("cofw", root, "test")
    assert not list((tmp_path / "cache").rglob("*.arrow"))


def test_folder_without_the_files_says_where_they_are(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"COFW_train_color\.mat.*data\.caltech\.edu"):
        load_faces("cofw", tmp_path / "root", "train")
    assert list_cofw(tmp_path / "root") == {"train": [], "test": []}


# COFW68 ----------------------------------------------------------------------------------------------------------


def points_68(number):
    random = np.random.default_rng(number)
    return random.uniform(4, 38, (68, 2)).round(3), random.integers(0, 2, (1, 68)).astype(np.uint8)


def write_68(folder, numbers=(1, 2, 3, 4), boxes=4, transposed=False):
    (folder / "test_annotations").mkdir(parents=True)
    for number in numbers:
        points, occluded = points_68(number)
        variables = {"Points": points, "Occ": occluded.T if transposed else occluded}
        scipy.io.savemat(folder / "test_annotations" / f"{number}_points.mat", variables)
    if boxes:
        values = {"bboxes": np.tile([5, 6, 250, 10], (boxes, 1)).astype(np.uint8)}
        scipy.io.savemat(folder / "cofw68_test_bboxes.mat", values)


@pytest.mark.parametrize("folder", ["COFW68_Data", "cofw68-benchmark-master/COFW68_Data", "."])
@pytest.mark.parametrize("streaming", [False, True])
def test_68_points(root, folder, streaming):
    write_68(root / folder, transposed=streaming)
    faces = list(load_faces("cofw68", root, "test", streaming=streaming))
    assert [face["image_id"] for face in faces] == ["test/0001", "test/0002", "test/0003", "test/0004"]
    for number, (face, twin) in enumerate(zip(faces, load_faces("cofw", root, "test"), strict=True), start=1):
        points, occluded = points_68(number)
        np.testing.assert_array_equal(np.float32(face["landmarks"]), np.float32(points - 1))
        np.testing.assert_array_equal(face["occluded"], occluded[0] == 1)
        np.testing.assert_array_equal(face["box"], [4, 5, 254, 15])
        np.testing.assert_array_equal(np.asarray(face["image"]), np.asarray(twin["image"]))
    assert set(face) == {"image", "landmarks", "landmark_box", "box", "image_id", "occluded"}


def test_68_points_of_some_photos_and_without_boxes(root):
    write_68(root / "COFW68_Data", numbers=(2, 4), boxes=0)
    faces = load_faces("cofw68", root, "test")
    assert faces["image_id"][:] == ["test/0002", "test/0004"]
    np.testing.assert_array_equal(np.float32(faces[1]["landmarks"]), np.float32(points_68(4)[0] - 1))
    assert np.isnan(faces[0]["box"]).all()
    np.testing.assert_array_equal(np.asarray(faces[1]["image"]), variables_of("test")["IsT"][3])


def test_68_points_are_in_the_order_of_the_numbers(tmp_path):
    write_mat73(tmp_path / "root" / "COFW_test_color.mat", **variables_of("test", count=11))
    write_68(tmp_path / "root" / "COFW68_Data", numbers=range(1, 12), boxes=11)
    ids = load_faces("cofw68", tmp_path / "root", "test")["image_id"][:]
    assert ids == [f"test/{number:04d}" for number in range(1, 12)]


def test_68_points_added_later_are_noticed(root):
    write_68(root / "COFW68_Data", numbers=(1,), boxes=0)
    assert len(load_faces("cofw68", root, "test")) == 1
    points, occluded = points_68(9)
    scipy.io.savemat(root / "COFW68_Data" / "test_annotations" / "2_points.mat", {"Points": points, "Occ": occluded})
    assert len(load_faces("cofw68", root, "test")) == 2
    scipy.io.savemat(root / "COFW68_Data" / "cofw68_test_bboxes.mat", {"bboxes": np.tile([5.0, 6, 7, 8], (4, 1))})
    assert load_faces("cofw68", root, "test")[1]["box"] == [4, 5, 11, 13]


def test_68_points_need_photos_and_photos_points(root):
    with pytest.raises(ValueError, match=r"data_dir must hold COFW_test_color\.mat and COFW68_Data"):
        load_faces("cofw68", root, "test")
    write_68(root / "COFW68_Data")
    (root / "COFW_test_color.mat").unlink()
    with pytest.raises(ValueError, match=r"data_dir must hold COFW_test_color\.mat and COFW68_Data"):
        load_faces("cofw68", root, "test")


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"Points": np.ones((67, 2)), "Occ": np.zeros((1, 68))}, "Points must be 68 x 2, but got 67 x 2"),
        ({"Points": np.ones((68, 2)), "Occ": np.zeros((1, 67))}, "Occ must be 1 x 68, but got 1 x 67"),
        ({"Points": np.ones((68, 2)), "Occ": np.full((1, 68), 3)}, "flags of occlusion must be 0 or 1, but got 3"),
        ({"Points": np.full((68, 2), np.nan), "Occ": np.zeros((1, 68))}, "landmarks must be finite, but got nan"),
        ({"Occ": np.zeros((1, 68))}, "must hold the variable Points, but got Occ"),
        ({"Points": np.ones((68, 2)), "Occ": np.zeros((1, 68))}, "the box of the landmarks .* no area"),
    ],
)
def test_malformed_68_points_are_named(root, variables, message):
    write_68(root / "COFW68_Data")
    scipy.io.savemat(root / "COFW68_Data" / "test_annotations" / "3_points.mat", variables)
    with pytest.raises(ValueError, match=rf"3_points\.mat.*{message}"):
        load_faces("cofw68", root, "test")


def test_68_points_of_a_photo_that_is_not_there(root):
    write_68(root / "COFW68_Data", numbers=(1, 5))
    with pytest.raises(ValueError, match=r"5_points\.mat must belong to one of the 4 photos of .*, but got 5"):
        load_faces("cofw68", root, "test")


def test_boxes_of_68_points_must_be_as_many_as_the_photos(root):
    write_68(root / "COFW68_Data", boxes=3)
    with pytest.raises(ValueError, match=r"cofw68_test_bboxes\.mat: bboxes must be 4 x 4, but got 3 x 4"):
        load_faces("cofw68", root, "test")


@pytest.mark.parametrize("kept", [0, 100, 400])
def test_truncated_68_points_are_named(root, kept):
    write_68(root / "COFW68_Data")
    path = root / "COFW68_Data" / "test_annotations" / "2_points.mat"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"2_points\.mat must"):
        read_points_68(path)
    with pytest.raises(ValueError, match=r"2_points\.mat must"):
        load_faces("cofw68", root, "test")
