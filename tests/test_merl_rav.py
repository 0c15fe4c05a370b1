"""MERL-RAV: labels as they are published beside AFLW's photos, and what the owners' script makes of both."""

import datasets
import numpy as np
import pytest
from PIL import Image

from dataset_scripts import BENCHMARKS, conversion, load_faces
from dataset_scripts.__main__ import main
from dataset_scripts.benchmarks.merl_rav import decode_visibility

# (pose, split, label, AFLW's folder of its photo)
LABELS = [
    ("frontal", "trainset", "image00002", "0"),
    ("frontal", "trainset", "image20991_1", "2"),
    ("frontal", "testset", "image20991_2", "2"),
    ("left", "testset", "image00120", "3"),
    ("righthalf", "trainset", "image00186", "0"),
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def points_of(label):
    """What a label file holds: the first three hidden by the head, the next three by something else."""
    points = np.random.default_rng(sum(label.encode())).uniform([5.2, 4.7], [58, 43], (68, 2))
    points[:3] = -1
    points[3:6] *= -1
    return points


def landmarks_of(label):
    landmarks = np.abs(points_of(label))
    landmarks[:3] = np.nan
    return landmarks


def write_label_of(path):
    rows = "\n".join("-1 -1" if x == y == -1 else f"{x} {y}" for x, y in points_of(path.stem).tolist())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".pts").write_text(f"version: 1\nn_points:  68\n{{\n{rows}\n}}")


def write_photo(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 48), (100, 120, 140)).save(path)


@pytest.fixture(params=["aflw/flickr", "aflw/data/flickr", "data/flickr"])
def published(tmp_path, request):
    root = tmp_path / "root"
    for pose, split, label, folder in LABELS:
        write_label_of(root / "merl_rav_labels" / pose / split / "labels" / label)
        write_photo(root / request.param / folder / f"{label.partition('_')[0]}.jpg")
    write_photo(root / request.param / "3" / "image65535.jpg")  # AFLW has more photos than are labelled
    return root


@pytest.fixture
def organized(tmp_path):
    root = tmp_path / "root"
    for pose, split, label, _ in LABELS:
        write_label_of(root / "merl_rav_organized" / pose / split / label)
        write_photo(root / "merl_rav_organized" / pose / split / f"{label}.jpg")
    return root


def check(root, streaming=False):
    for split, folder in (("train", "trainset"), ("test", "testset")):
        expected = [(pose, label) for pose, name, label, _ in LABELS if name == folder]
        faces = load_faces("merl_rav", root, split, streaming=streaming)
        found = list(faces if streaming else faces.with_format("numpy"))
        assert len(found) == len(expected)
        for face, (pose, label) in zip(found, expected):
            landmarks = landmarks_of(label)
            np.testing.assert_array_equal(np.asarray(face["landmarks"]), landmarks.astype(np.float32))
            assert np.asarray(face["visibility"]).tolist() == [0] * 3 + [2] * 3 + [1] * 62
            assert np.asarray(face["occluded"]).tolist() == [True] * 6 + [False] * 62
            assert face["image_id"] == label.partition("_")[0] and face["pose"] == pose
            assert np.isnan(face["box"]).all()
            low, high = np.nanmin(landmarks, axis=0), np.nanmax(landmarks, axis=0)
            assert np.asarray(face["landmark_box"]).tolist() == [*np.floor(low), *np.ceil(high)]


@pytest.mark.parametrize("streaming", [False, True])
def test_labels_beside_the_photos_of_aflw_are_read_exactly(published, streaming):
    check(published, streaming)


def test_what_the_owners_script_makes_is_read_exactly(organized):
    check(organized)


@pytest.mark.parametrize("parent", ["MERL-RAV_dataset-master", "MERL-RAV_dataset"])
def test_the_unpacked_archive_may_stay_as_it_is(published, parent):
    (published / parent).mkdir()
    (published / "merl_rav_labels").rename(published / parent / "merl_rav_labels")
    check(published)


def test_aflw_may_be_a_link(published, tmp_path):
    for folder in ("aflw", "data"):
        if (published / folder).is_dir():
            (published / folder).rename(tmp_path / folder)
            (published / folder).symlink_to(tmp_path / folder)
    check(published)


def test_other_photos_of_the_same_names_are_left_alone(published):
    write_photo(published / "thumbnails" / "image00002.jpg")
    Image.new("RGB", (8, 8)).save(published / "thumbnails" / "image00002.jpg")
    faces = load_faces("merl_rav", published, "train")
    assert {face["image"].size for face in faces} == {(64, 48)}


def test_an_empty_result_of_the_script_hides_no_labels(published):
    (published / "merl_rav_organized" / "frontal" / "trainset").mkdir(parents=True)
    check(published)


def test_faces_of_one_photo_in_both_splits_are_no_fault_of_the_folder(organized, capsys):
    assert main(["merl_rav", "--data_dir", str(organized), "--check"]) == 0
    assert "share 1 photo by image_id" in " ".join(capsys.readouterr().out.split())


def test_survives_parquet(organized, tmp_path):
    conversion.convert("merl_rav", organized, tmp_path / "parquet")
    check(tmp_path / "parquet")


def test_a_label_without_its_photo_is_named(published):
    for photo in [*published.rglob("image20991.jpg"), *published.rglob("image00186.jpg")]:
        photo.unlink()
    message = r"image20991_1\.pts must have its photo image20991\.jpg of AFLW below .*, but it is not there"
    with pytest.raises(ValueError, match=message):
        load_faces("merl_rav", published, "train")


def test_a_folder_of_something_else_is_refused(tmp_path):
    write_photo(tmp_path / "flickr" / "0" / "image00002.jpg")
    with pytest.raises(ValueError, match="data_dir must hold merl_rav_organized/.*, or merl_rav_labels/"):
        load_faces("merl_rav", tmp_path, "train")


@pytest.mark.parametrize(
    "row, message", [("1 2 3", "row 4"), ("nan 4", "two finite numbers on row 4"), ("", "must hold 68 landmarks")]
)
def test_damaged_labels_are_named(organized, row, message):
    path = organized / "merl_rav_organized" / "frontal" / "trainset" / "image00002.pts"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], row, *lines[4:]]))
    with pytest.raises(ValueError, match=rf"image00002\.pts.*{message}"):
        load_faces("merl_rav", organized, "train")


def test_points_beyond_the_edge_are_told_from_hidden_ones():
    points = np.full((6, 2), [20.0, 30.0])
    points[0] = [-3.5, 28]  # visible, left of the photo
    points[1] = [3.5, -28]  # hidden, left of the photo
    points[2] = [22, -2]  # visible, above it
    points[3] = [0.0, -31]  # hidden, on its left edge
    points[4] = [-1, -1]
    landmarks, visibility = decode_visibility(points)
    np.testing.assert_array_equal(landmarks[:4], [[-3.5, 28], [-3.5, 28], [22, -2], [0, 31]])
    assert np.isnan(landmarks[4]).all()
    assert visibility.tolist() == [1, 2, 1, 2, 0, 1]


def test_a_face_with_no_clear_point_is_taken_as_it_stands():
    landmarks, visibility = decode_visibility(np.array([[-3.0, 5.0], [-1.0, -1.0]]))
    assert landmarks[0].tolist() == [-3, 5] and visibility.tolist() == [1, 0]


def test_poses_of_the_test_faces_add_up():
    benchmark = BENCHMARKS["merl_rav"]
    assert sum(subset.faces for subset in benchmark.subsets.values()) == benchmark.splits["test"]
    assert benchmark.default_normalizer == "box"
