import logging
import re
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dataset_scripts import conversion, load_faces, select_images
from dataset_scripts.__main__ import main
from dataset_scripts.pts import read_pts

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
FACES = {
    "train": [
        "afw/134212_1.jpg",
        "afw/134212_2.jpg",
        "helen/trainset/100032540_1.jpg",
        "lfpw/trainset/image_0001.png",
    ],
    "common": ["helen/testset/296814969_3.jpg", "lfpw/testset/image_0001.png"],
    "challenging": ["ibug/image_003_1.jpg", "ibug/image_092 _01.jpg"],
    "private": ["300W/01_Indoor/indoor_001.png", "300W/02_Outdoor/outdoor_001.png"],
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def root(tmp_path):
    """A 300W in the official layout with ten faces of noise."""
    for names in FACES.values():
        for name in names:
            write_face(tmp_path / "300w" / name)
    (tmp_path / "300w" / "afw" / "bounding_boxes_afw.mat").write_bytes(b"MATLAB")
    return tmp_path / "300w"


def pixels_of(name, mode="RGB"):
    shape = (48, 64, 3) if mode == "RGB" else (48, 64)
    return np.random.default_rng(len(str(name))).integers(0, 256, shape, dtype=np.uint8)


def landmarks_of(name):
    """0-based; the file holds them with six decimals."""
    seed = sum(Path(name).stem.encode())
    return np.random.default_rng(seed).uniform([5.2, 4.7], [58, 43], (68, 2)).round(6)


def write_face(path, mode="RGB", **save):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels_of(path.stem, mode)).save(path, **save)
    write_pts(path.with_suffix(".pts"), landmarks_of(path))


def write_pts(path, landmarks, header=True):
    rows = "\n".join(f"{x:.6f} {y:.6f}" for x, y in landmarks + 1)
    path.write_text(f"version: 1\nn_points:  68\n{{\n{rows}\n}}\n" if header else rows)


# Reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", FACES)
def test_each_split_reads_back_exactly(root, split):
    faces = load_faces("300w", root, split)
    assert sorted(faces["image_id"][:]) == sorted(name.rsplit(".", 1)[0] for name in FACES[split])
    for face in faces.with_format("numpy"):
        expected = landmarks_of(face["image_id"] + ".jpg")
        assert face["landmarks"].dtype == np.float32 and face["landmarks"].shape == (68, 2)
        np.testing.assert_array_equal(face["landmarks"], expected.astype(np.float32))
        x0, y0 = np.floor(expected.min(axis=0))
        x1, y1 = np.ceil(expected.max(axis=0))
        np.testing.assert_array_equal(face["landmark_box"], [x0, y0, x1, y1])
        assert np.isnan(face["box"]).all()  # 300W has no annotated one
        assert face["source"] in face["image_id"].lower()
        if split == "private":
            np.testing.assert_array_equal(face["image"], pixels_of(Path(face["image_id"]).name))


def test_splits_are_disjoint_and_add_up(root):
    ids = [load_faces("300w", root, split)["image_id"][:] for split in FACES]
    assert len({image_id for split in ids for image_id in split}) == sum(map(len, ids)) == 10
    full = load_faces("300w", root, "common+challenging")["image_id"][:]
    assert full == ids[1] + ids[2] == load_faces("300w", root, "full")["image_id"][:]
    assert len(load_faces("300w", root, "train[:2]+common")) == 4


def test_a_split_exists_where_its_folders_do(tmp_path):
    write_face(tmp_path / "300w" / "ibug" / "image_003_1.jpg")
    assert len(load_faces("300w", tmp_path / "300w", "challenging")) == 1
    for split in ("train", "full", "test", "train+challenging", ""):
        with pytest.raises(ValueError, match=rf"split must be made of challenging for .*{re.escape(repr(split))}"):
            load_faces("300w", tmp_path / "300w", split)


@pytest.mark.parametrize("parent", ["300W", "Test", "."])
def test_private_folder_under_its_usual_names(tmp_path, parent):
    write_face(tmp_path / "root" / parent / "01_Indoor" / "indoor_001.png")
    assert len(load_faces("300w", tmp_path / "root", "private")) == 1


def test_grey_photo_upper_case_suffix_and_unannotated_photo(root):
    write_face(root / "ibug" / "GREY.PNG", mode="L")
    (root / "ibug" / "GREY.pts").rename(root / "ibug" / "GREY.PTS")
    Image.new("RGB", (9, 9)).save(root / "ibug" / "alone.jpg")
    faces = load_faces("300w", root, "challenging")
    assert sorted(faces["image_id"][:]) == ["ibug/GREY", "ibug/image_003_1", "ibug/image_092 _01"]
    grey = faces[faces["image_id"][:].index("ibug/GREY")]["image"]
    assert grey.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(grey), np.stack([pixels_of("GREY", "L")] * 3, axis=-1))


def test_photo_stays_as_stored_whatever_its_exif_orientation(root):
    """Landmarks refer to the stored pixels, and `datasets.Image` would turn the photo."""
    exif = Image.Exif()
    exif[Image.ExifTags.Base.Orientation] = 6
    write_face(root / "ibug" / "turned.png", exif=exif)
    faces = load_faces("300w", root, "challenging")
    turned = faces[faces["image_id"][:].index("ibug/turned")]["image"]
    np.testing.assert_array_equal(np.asarray(turned), pixels_of("turned"))


def test_a_file_added_or_changed_later_is_noticed(root):
    assert len(load_faces("300w", root, "train")) == 4
    write_face(root / "afw" / "later_1.jpg")
    assert len(load_faces("300w", root, "train")) == 5
    write_pts(root / "afw" / "later_1.pts", landmarks_of("another.jpg"))
    faces = load_faces("300w", root, "train")
    later = faces[faces["image_id"][:].index("afw/later_1")]
    np.testing.assert_array_equal(np.float32(later["landmarks"]), landmarks_of("another.jpg").astype(np.float32))


def test_relative_folder_and_current_directory(root, monkeypatch):
    monkeypatch.chdir(root.parent)
    assert load_faces("300w", "300w", "private")[0]["image"].size == (64, 48)


def test_incomplete_split_gives_one_warning(root, caplog):
    with caplog.at_level(logging.WARNING):
        load_faces("300w", root, "train")
        assert [record.getMessage() for record in caplog.records] == ["300W, train: 4 faces found, official 3148"]


# Bad input -------------------------------------------------------------------------------------------------------


def test_unknown_data_set_and_missing_folder(tmp_path):
    with pytest.raises(ValueError, match="dataset must be one of 300w.*'301w'"):
        load_faces("301w", tmp_path, "train")
    with pytest.raises(ValueError, match="data_dir must be the folder of 300W, but got None. From https"):
        load_faces("300w", None, "train")
    with pytest.raises(ValueError, match="data_dir must be an existing folder.*nowhere"):
        load_faces("300w", tmp_path / "nowhere", "train")


def test_empty_folder_and_other_layout(tmp_path):
    (tmp_path / "root").mkdir()
    with pytest.raises(ValueError, match="root is empty"):
        load_faces("300w", tmp_path / "root", "train")
    (tmp_path / "root" / "afw").mkdir()
    with pytest.raises(ValueError, match=r"data_dir must hold afw/, helen/trainset/.*none of these is in .*root"):
        load_faces("300w", tmp_path / "root", "train")


def test_annotation_without_photo_or_with_two(root):
    write_face(root / "afw" / "134212_1.png")
    with pytest.raises(ValueError, match=r"134212_1\.pts must have one photo.*134212_1\.jpg and 134212_1\.png"):
        load_faces("300w", root, "train")
    (root / "afw" / "134212_1.png").unlink()
    (root / "afw" / "134212_1.jpg").unlink()
    with pytest.raises(ValueError, match=r"134212_1\.pts must have one photo.*none"):
        load_faces("300w", root, "train")


def test_truncated_photo_is_named_and_leaves_nothing(root, tmp_path):
    photo = root / "helen" / "testset" / "296814969_3.jpg"
    whole = photo.read_bytes()
    photo.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"296814969_3\.jpg must be an image that can be read whole"):
        load_faces("300w", root, "train")
    assert not list((tmp_path / "cache").rglob("*.arrow"))
    photo.write_bytes(whole)
    assert len(load_faces("300w", root, "common")) == 2


def test_photo_of_16_bits_is_refused(root):
    Image.fromarray(np.arange(48 * 64, dtype=np.uint16).reshape(48, 64)).save(root / "lfpw/testset/image_0001.png")
    with pytest.raises(ValueError, match=r"image_0001\.png .*more than 8 bits"):
        load_faces("300w", root, "common")


def test_wrong_annotation_is_named_through_the_builder(root):
    write_pts(root / "ibug" / "image_003_1.pts", landmarks_of("x")[:67])
    with pytest.raises(ValueError, match=r"image_003_1\.pts must hold 68 landmarks, but got 67"):
        load_faces("300w", root, "challenging")
    write_pts(root / "ibug" / "image_003_1.pts", np.full((68, 2), 9.0))
    with pytest.raises(ValueError, match=r"image_003_1\.pts: .*no area"):
        load_faces("300w", root, "challenging")


@pytest.mark.parametrize("header", [True, False])
def test_pts_with_and_without_header(tmp_path, header):
    write_pts(tmp_path / "a.pts", landmarks_of("a"), header)
    points = read_pts(tmp_path / "a.pts", 68)
    assert points.dtype == np.float64
    np.testing.assert_allclose(points, landmarks_of("a"), atol=1e-9)


def test_pts_with_carriage_returns_byte_order_mark_and_blank_lines(tmp_path):
    (tmp_path / "a.pts").write_bytes(b"\xef\xbb\xbfversion: 1\r\nn_points: 2\r\n{\r\n1 2\r\n\r\n 3.5\t4 \r\n}\r\n")
    np.testing.assert_array_equal(read_pts(tmp_path / "a.pts", 2), [[0, 1], [2.5, 3]])


@pytest.mark.parametrize("row", ["1 2 3", "1", "nan 2", "1 inf", "one two", "1,2"])
def test_pts_with_a_bad_row(tmp_path, row):
    (tmp_path / "a.pts").write_text(f"version: 1\nn_points: 2\n{{\n1 2\n{row}\n}}\n")
    with pytest.raises(ValueError, match=rf"a\.pts must hold two finite numbers on row 5, but got '{row}'"):
        read_pts(tmp_path / "a.pts", 2)


@pytest.mark.parametrize("line", ["n_points: 3", "N_POINTS:3", "n_points 3"])
def test_pts_of_another_number_than_it_announces(tmp_path, line):
    (tmp_path / "a.pts").write_text(f"version: 1\n{line}\n{{\n1 2\n3 4\n}}\n")
    with pytest.raises(ValueError, match=r"a\.pts must hold as many landmarks as its n_points, 3, but got 2"):
        read_pts(tmp_path / "a.pts", 2)


@pytest.mark.parametrize("content", [b"", b"version: 1\nn_points: 68\n{\n}\n", b"\xff\xfe\x00\x81"])
def test_pts_without_landmarks(tmp_path, content):
    (tmp_path / "a.pts").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.pts must"):
        read_pts(tmp_path / "a.pts", 68)


# Lists of photos -------------------------------------------------------------------------------------------------


def test_select_images(root, tmp_path):
    faces = load_faces("300w", root, "train+challenging")
    listed = tmp_path / "list.txt"
    listed.write_text("afw/134212_1.JPG\n\nibug\\image_092 _01\nlfpw/trainset/image_0001.jpg\n")
    kept = select_images(faces, listed, keep=True)["image_id"][:]
    dropped = select_images(faces, listed, keep=False)["image_id"][:]
    assert kept == ["afw/134212_1", "lfpw/trainset/image_0001", "ibug/image_092 _01"]
    assert sorted(kept + dropped) == sorted(faces["image_id"][:]) and not set(kept) & set(dropped)


def test_select_images_names_what_is_wrong(root, tmp_path):
    faces = load_faces("300w", root, "train")
    listed = tmp_path / "list.txt"
    with pytest.raises(ValueError, match=r"list_file must be an existing file.*list\.txt"):
        select_images(faces, listed, keep=True)
    listed.write_text("\n")
    with pytest.raises(ValueError, match=r"list\.txt is empty"):
        select_images(faces, listed, keep=True)
    listed.write_text("afw/134212_1.jpg\nafw/unknown.jpg\n")
    with pytest.raises(ValueError, match=r"list\.txt must name photos of the data set, but got afw/unknown\.jpg"):
        select_images(faces, listed, keep=False)


# Conversion ------------------------------------------------------------------------------------------------------


def same_faces(first, second):
    assert first.features == second.features and len(first) == len(second)
    for one, other in zip(first.with_format("numpy"), second.with_format("numpy"), strict=True):
        assert one["image_id"] == other["image_id"]
        for column in ("image", "landmarks", "landmark_box", "box", "source"):
            np.testing.assert_array_equal(one[column], other[column])


def test_conversion_reads_back_exactly(root, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(conversion, "_FACES_IN_SHARD", 2)
    out = tmp_path / "parquet" / "300w"
    assert main(["300w", "--data_dir", str(root), "--output_dir", str(out)]) == 0
    assert "train 4 faces, common 2 faces, challenging 2 faces, private 2 faces" in capsys.readouterr().out
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.*")) == [
        "README.md",
        "data/challenging-00000-of-00001.parquet",
        "data/common-00000-of-00001.parquet",
        "data/private-00000-of-00001.parquet",
        "data/train-00000-of-00002.parquet",
        "data/train-00001-of-00002.parquet",
    ]
    loaded = datasets.load_dataset(str(out))  # all splits (shards at the root would keep one), trap 7 included
    assert set(loaded) == set(FACES)
    originals = {split: load_faces("300w", root, split) for split in FACES}
    for split in FACES:
        same_faces(originals[split], loaded[split])
        same_faces(originals[split], load_faces("300w", out, split))
    same_faces(load_faces("300w", root, "full"), load_faces("300w", out, "full"))
    with pytest.raises(ValueError, match="split must be made of challenging, common, private, train"):
        load_faces("300w", out, "test")


def test_converted_photos_are_inside_and_paths_are_not(root, tmp_path):
    conversion.convert("300w", root, tmp_path / "out")
    for path in (tmp_path / "out" / "data").iterdir():
        for photo in pq.read_table(path)["image"].to_pylist():
            assert photo["bytes"] and "/" not in photo["path"]


def test_dataset_card(root, tmp_path):
    conversion.convert("300w", root, tmp_path / "out")
    card = huggingface_hub.DatasetCard.load(tmp_path / "out" / "README.md")
    assert card.data.license == "other" and card.data.task_categories == ["keypoint-detection"]
    assert "| train | 4 | 3148 |" in card.text and "Non-commercial" in card.text and "@inproceedings" in card.text


def test_missing_shard_is_noticed(root, tmp_path, monkeypatch):
    monkeypatch.setattr(conversion, "_FACES_IN_SHARD", 2)
    conversion.convert("300w", root, tmp_path / "out")
    (tmp_path / "out" / "data" / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(ValueError, match="out/data must hold 2 files of train, but got 1"):
        load_faces("300w", tmp_path / "out", "train")


def test_truncated_parquet_is_refused(root, tmp_path):
    conversion.convert("300w", root, tmp_path / "out")
    shard = tmp_path / "out" / "data" / "train-00000-of-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-99])
    with pytest.raises(ValueError, match="data_dir must hold files that can be read.* in .*out"):
        load_faces("300w", tmp_path / "out", "train")


def test_parquet_of_another_data_set_is_refused(tmp_path):
    (tmp_path / "other" / "data").mkdir(parents=True)
    datasets.Dataset.from_dict({"image_id": ["a"]}).to_parquet(
        tmp_path / "other" / "data" / "train-00000-of-00001.parquet"
    )
    with pytest.raises(ValueError, match="data_dir must hold a column image and a column landmarks of 68 points"):
        load_faces("300w", tmp_path / "other", "train")


def test_interrupted_conversion_leaves_nothing(root, tmp_path, monkeypatch):
    out = tmp_path / "results" / "out"
    write_split = conversion._write_split

    def interrupted(faces, split, folder):
        assert not out.exists()  # so that a kill leaves nothing that looks finished
        if split == "common":
            raise KeyboardInterrupt
        return write_split(faces, split, folder)

    monkeypatch.setattr(conversion, "_write_split", interrupted)
    assert main(["300w", "--data_dir", str(root), "--output_dir", str(out)]) == 130
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("culprit", ["output_dir", "data_dir", "pts"])
def test_command_line_gives_one_line_and_status_2(root, tmp_path, capsys, culprit):
    out = tmp_path / "out"
    if culprit == "output_dir":
        out.mkdir()
        (out / "kept.txt").touch()
    elif culprit == "pts":
        write_pts(root / "ibug" / "image_003_1.pts", landmarks_of("x")[:67])
    source = tmp_path / "data_dir" if culprit == "data_dir" else root
    assert main(["300w", "--data_dir", str(source), "--output_dir", str(out)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and culprit in error
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == (["out"] if out.exists() else [])
    assert not out.exists() or [path.name for path in out.iterdir()] == ["kept.txt"]


def test_empty_output_folder_is_filled(root, tmp_path):
    (tmp_path / "out").mkdir()
    assert conversion.convert("300w", root, tmp_path / "out")["train"] == 4


# Real faces ------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not (SHARED / "300w").is_dir(), reason="needs ../shared/data/300w")
def test_real_300w(tmp_path):
    train = load_faces("300w", SHARED / "300w", "train")
    assert len(train) == 2012 and len(load_faces("300w", SHARED / "300w", "common")) == 554
    assert len(select_images(train, SHARED / "300w_validation.txt", keep=True)) == 201
    assert len(select_images(train, SHARED / "300w_validation.txt", keep=False)) == 1811
    landmarks = train.with_format("numpy")["landmarks"][:]
    assert landmarks.shape == (2012, 68, 2) and np.isfinite(landmarks).all()
