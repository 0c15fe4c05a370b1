import datasets
import numpy as np
import pytest
from PIL import Image

from dataset_scripts import load_faces
from dataset_scripts.benchmarks import BENCHMARKS
from dataset_scripts.benchmarks.wflw import FacesWFLW, read_wflw

ATTRIBUTES = ("pose", "expression", "illumination", "makeup", "occlusion", "blur")
LISTS = "WFLW_annotations/list_98pt_rect_attr_train_test"
# Photo and flags of each face; two faces are on the photo of the parade, and rows of one photo need not follow.
FACES = {
    "train": [
        ("37--Soccer/37_Soccer_soccer_ball_37_45.jpg", "000000"),
        ("0--Parade/0_Parade_marchingband_1_116.jpg", "101010"),
    ],
    "test": [
        ("0--Parade/0_Parade_Parade_0_205.jpg", "100000"),
        ("51--Dressing/51_Dressing_Dressing_51_377.jpg", "010001"),
        ("0--Parade/0_Parade_Parade_0_205.jpg", "001010"),
        ("2--Demonstration/2_Demonstration_Protesters_2_117.jpg", "100100"),
        ("7--Cheering/7_Cheering_Cheering_7_403.jpg", "000000"),
    ],
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def root(tmp_path):
    """A WFLW in the official layout with seven faces of noise on six photos."""
    for split, faces in FACES.items():
        for photo, _ in faces:
            write_photo(tmp_path / "wflw" / "WFLW_images" / photo)
        write_list(tmp_path / "wflw", split, [row(photo, flags) for photo, flags in faces])
    return tmp_path / "wflw"


def write_photo(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_list(root, split, rows, folder=LISTS):
    path = root / folder / f"list_98pt_rect_attr_{split}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in rows))
    return path


def landmarks_of(photo, flags):
    seed = sum((photo + flags).encode())
    return np.random.default_rng(seed).uniform([-3, 4.7], [58, 43], (98, 2)).round(6)


def box_of(flags):
    return [4, 5, 40 + int(flags, 2), 45]


def row(photo, flags):
    """As the official files have it: coordinates, rectangle, flags, path."""
    coordinates = " ".join(f"{value:.6f}" for value in landmarks_of(photo, flags).ravel())
    return f"{coordinates} {' '.join(map(str, box_of(flags)))} {' '.join(flags)} {photo}"


def replace_field(line, number, word):
    """Field `number` of `line`, from 1."""
    fields = line.split(" ")
    fields[number - 1] = word
    return " ".join(fields)


# Reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", FACES)
@pytest.mark.parametrize("streaming", [False, True])
def test_each_split_reads_back_exactly(root, split, streaming):
    faces = list(load_faces("wflw", root, split, streaming=streaming).with_format("numpy"))
    assert len(faces) == len(FACES[split])
    for face, (photo, flags) in zip(faces, FACES[split], strict=True):
        expected = landmarks_of(photo, flags)
        assert face["landmarks"].dtype == np.float32 and face["landmarks"].shape == (98, 2)
        np.testing.assert_array_equal(face["landmarks"], expected.astype(np.float32))
        np.testing.assert_array_equal(face["box"], box_of(flags))
        np.testing.assert_array_equal(face["landmark_box"][:2], np.floor(expected.min(axis=0)))
        np.testing.assert_array_equal(face["landmark_box"][2:], np.ceil(expected.max(axis=0)))
        assert face["image_id"] == photo.removesuffix(".jpg")
        assert [bool(face[name]) for name in ATTRIBUTES] == [flag == "1" for flag in flags]
        with Image.open(root / "WFLW_images" / photo) as image:
            np.testing.assert_array_equal(face["image"], np.asarray(image))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_subset_of_an_attribute(root, attribute, streaming):
    place = ATTRIBUTES.index(attribute)
    expected = [photo.removesuffix(".jpg") for photo, flags in FACES["test"] if flags[place] == "1"]
    faces = load_faces("wflw", root, attribute, streaming=streaming)
    assert expected and [face["image_id"] for face in faces] == expected


def test_subsets_have_official_sizes():
    sizes = {name: (subset.splits, subset.faces) for name, subset in BENCHMARKS["wflw"].subsets.items()}
    assert sizes == dict(zip(ATTRIBUTES, [("test", n) for n in (326, 314, 698, 206, 736, 773)]))


def test_lists_without_their_outer_folder(root):
    (root / LISTS).rename(root / "list_98pt_rect_attr_train_test")
    assert len(load_faces("wflw", root, "test")) == 5


def test_a_split_exists_where_its_list_does(root):
    (root / LISTS / "list_98pt_rect_attr_train.txt").unlink()
    assert len(load_faces("wflw", root, "test")) == 5
    with pytest.raises(ValueError, match="split must be made of test, pose, .*, but got 'train'"):
        load_faces("wflw", root, "train")


def test_a_row_or_a_photo_changed_later_is_noticed(root):
    assert len(load_faces("wflw", root, "train")) == 2
    photo = "0--Parade/0_Parade_marchingband_1_117.jpg"
    write_photo(root / "WFLW_images" / photo)
    write_list(root, "train", [row(photo, "000001")])
    assert load_faces("wflw", root, "train")["blur"][:] == [True]
    write_photo(root / "WFLW_images" / "0--Parade" / "later.jpg")
    before = FacesWFLW(data_dir=str(root)).config.fingerprint
    (root / "WFLW_images" / "0--Parade" / "later.jpg").unlink()
    assert FacesWFLW(data_dir=str(root)).config.fingerprint != before


def test_annotations_are_read_without_photos(tmp_path):
    path = write_list(tmp_path, "test", [row("a/b.jpg", "100000"), row("a/c.d.jpg", "000000")])
    first, second = read_wflw(path, tmp_path / "WFLW_images")
    assert (first.image_id, second.image_id) == ("a/b", "a/c.d")
    assert first.photo == tmp_path / "WFLW_images" / "a" / "b.jpg"
    assert first.where == f"{path} row 1" and first.columns["pose"] is True and first.columns["blur"] is False
    np.testing.assert_array_equal(first.landmarks, landmarks_of("a/b.jpg", "100000"))
    assert first.landmarks.dtype == np.float64


def test_list_is_read_while_it_is_used(tmp_path):
    path = write_list(tmp_path, "test", [row("a/b.jpg", "100000"), "cut off"])
    faces = read_wflw(path, tmp_path)
    assert next(faces).image_id == "a/b"
    with pytest.raises(ValueError, match="row 2"):
        next(faces)


def test_harmless_variants(tmp_path):
    lines = [row("a/with  two spaces.jpg", "000001"), row("a\\b.jpg", "000000").replace(" ", "\t")]
    path = write_list(tmp_path, "test", [])
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode() + b" \r\n\r\n  \r\n")
    faces = list(read_wflw(path, tmp_path))
    assert [face.image_id for face in faces] == ["a/with  two spaces", "a/b"]
    np.testing.assert_array_equal(faces[0].landmarks, landmarks_of("a/with  two spaces.jpg", "000001"))


# Bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "word", "message"),
    [
        (7, "x", "field 7 must be a finite number, but got 'x'"),
        (196, "nan", "field 196 must be a finite number, but got 'nan'"),
        (1, "-inf", "field 1 must be a finite number, but got '-inf'"),
        (198, "1,5", "field 198 must be a finite number, but got '1,5'"),
        (203, "2", "the six flags must be 0 or 1, but got 0 0 2 0 0 0"),
        (206, "a.jpg", "field 206 must be a finite number"),
        (207, "../../secret.jpg", r"the photo must be a path below WFLW_images, but got \.\./\.\./secret\.jpg"),
        (207, "..\\secret.jpg", "the photo must be a path below WFLW_images"),
        (207, "/etc/photo.jpg", "the photo must be a path below WFLW_images, but got /etc/photo.jpg"),
        (207, ".", "the photo must be a path below WFLW_images"),
        (207, "", "a row must have 207 fields, but got 206"),
        (207, "a/missing.jpg", r"missing\.jpg must be an image, but there is no such file"),
    ],
)
def test_a_bad_row_is_named_and_leaves_nothing(root, tmp_path, number, word, message):
    line = row(FACES["train"][0][0], "000000")
    write_list(root, "train", [line, replace_field(line, number, word)])
    with pytest.raises(ValueError, match=rf"list_98pt_rect_attr_train\.txt row 2: .*{message}"):
        load_faces("wflw", root, "train")
    assert not list((tmp_path / "cache").rglob("*.arrow"))
    with pytest.raises(ValueError, match=rf"list_98pt_rect_attr_train\.txt row 2: .*{message}"):
        list(load_faces("wflw", root, "train", streaming=True))


def test_a_row_that_was_cut_off(tmp_path):
    line = row("a/b.jpg", "000000")
    path = write_list(tmp_path, "test", [line, line[: len(line) // 2]])
    with pytest.raises(ValueError, match=r"row 2: a row must have 207 fields, but got \d+"):
        list(read_wflw(path, tmp_path))


def test_no_text(tmp_path):
    path = write_list(tmp_path, "test", [])
    path.write_bytes(b"\x1f\x8b\x08\x00\xff\xfe")
    with pytest.raises(ValueError, match=r"list_98pt_rect_attr_test\.txt must be a text file"):
        list(read_wflw(path, tmp_path))


def test_truncated_photo_is_named(root):
    photo = root / "WFLW_images" / FACES["test"][1][0]
    photo.write_bytes(photo.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"test\.txt row 2: .*Dressing_51_377\.jpg must be an image that can be read"):
        load_faces("wflw", root, "test")


def test_lists_without_photos_and_photos_without_lists(root):
    (root / "WFLW_images").rename(root / "elsewhere")
    with pytest.raises(
        ValueError, match=r"data_dir must hold WFLW_images/ .*--download` fetches WFLW_images\.tar\.gz$"
    ):
        load_faces("wflw", root, "test")
    (root / "elsewhere").rename(root / "WFLW_images")
    (root / "WFLW_annotations").rename(root / "elsewhere")
    with pytest.raises(ValueError, match=r"data_dir must hold WFLW_images/ and .*none of these is in .*--download"):
        load_faces("wflw", root, "test")
