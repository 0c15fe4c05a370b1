import dataclasses
import json
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pillow_heif
import pytest
import yaml
from hostile_files import sideways_exif
from PIL import Image

from dataset_scripts import BENCHMARKS, conversion, load_faces
from dataset_scripts.benchmark_facts import Distance, Part, box_side
from dataset_scripts.check import check_faces
from dataset_scripts.metadata import read_metadata
from dataset_scripts.own_data import benchmark_yaml, default_data_dir, find_benchmark, read_benchmark
from modeling_mtld.photo_mtld import load_rgb

NAMES = ["right_eye", "left_eye", "nose_tip", "mouth_0", "mouth_1"]
FACTS = {
    "name": "dolls",
    "landmarks": NAMES,
    "flip_pairs": [["right_eye", "left_eye"], [3, 4]],
    "normalizer": ["right_eye", "left_eye"],
}
POINTS = [[10.25, 12], [30, 11.5], None, [14, 30], [26, 31]]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def dolls(tmp_path):
    """Two faces in train, two of one photo in validation, one in test."""
    root = tmp_path / "dolls"
    write_yaml(root)
    write_split(root / "train", {"a.png": POINTS, "more/b.jpg": points_of(1)})
    write_split(root / "val", {"c.png": points_of(2)})
    write_split(root / "test", {"d.png": points_of(3)})
    with open(root / "val" / "metadata.jsonl", "a") as rows:
        rows.write(json.dumps({"file_name": "c.png", "landmarks": points_of(4)}) + "\n")
    return root


def write_yaml(root, text=None, **changes):
    root.mkdir(parents=True, exist_ok=True)
    facts = {key: value for key, value in (FACTS | changes).items() if value is not ...}
    (root / "landmarks.yaml").write_text(text or yaml.safe_dump(facts), encoding="utf-8")
    return root / "landmarks.yaml"


def write_split(folder, faces):
    folder.mkdir(parents=True, exist_ok=True)
    for name in faces:
        write_photo(folder / name)
    write_rows(folder, *({"file_name": name, "landmarks": points} for name, points in faces.items()))


def write_rows(folder, *rows):
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "metadata.jsonl").write_text("".join(f"{line}\n" for line in lines))


def write_photo(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels_of(path.name)).save(path)


def pixels_of(name):
    return np.random.default_rng(sum(name.encode())).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def points_of(seed):
    return np.random.default_rng(seed).uniform(5, 40, (5, 2)).round(3).tolist()


def as_array(points):
    return np.array([[np.nan, np.nan] if point is None else point for point in points], np.float32)


# Folders ---------------------------------------------------------------------------------------------------------


def test_splits_read_back_exactly(dolls):
    train = load_faces(dolls / "landmarks.yaml", None, "train").with_format("numpy")
    np.testing.assert_array_equal(train["landmarks"][:], [as_array(POINTS), as_array(points_of(1))])
    np.testing.assert_array_equal(train[0]["landmark_box"], [10, 11, 30, 31])
    assert np.isnan(train["box"][:]).all() and "occluded" not in train.features
    assert train["image_id"][:].tolist() == ["train/a", "train/more/b"]
    np.testing.assert_array_equal(train[0]["image"], pixels_of("a.png"))
    validation = load_faces(str(dolls / "landmarks.yaml"), dolls, "validation")
    assert validation["image_id"][:] == ["val/c", "val/c"]
    assert len(load_faces(dolls / "landmarks.yaml", None, "train+test[:1]")) == 3
    with pytest.raises(ValueError, match="split must be made of train, validation, test for .*dolls, but got 'full'"):
        load_faces(dolls / "landmarks.yaml", None, "full")


def test_streaming(dolls):
    read = load_faces(dolls / "landmarks.yaml", None, "train+validation", streaming=True)
    expected = load_faces(dolls / "landmarks.yaml", None, "train+validation")
    faces = list(read.with_format("numpy"))
    assert [face["image_id"] for face in faces] == expected["image_id"][:]
    np.testing.assert_array_equal([face["landmarks"] for face in faces], expected.with_format("numpy")["landmarks"][:])
    np.testing.assert_array_equal(faces[0]["image"], pixels_of("a.png"))


def test_one_file_at_the_root_is_the_split_train(tmp_path):
    write_yaml(tmp_path / "dolls")
    write_split(tmp_path / "dolls", {"images/a.png": POINTS})
    faces = load_faces(tmp_path / "dolls" / "landmarks.yaml", None, "train")
    assert faces["image_id"][:] == ["images/a"]


@pytest.mark.parametrize(
    "folder, split",
    [("training", "train"), ("valid", "validation"), ("dev", "validation"), ("Test", "test"), ("eval", "test")],
)
def test_names_of_split_folders(tmp_path, folder, split):
    write_yaml(tmp_path / "dolls")
    write_split(tmp_path / "dolls" / folder, {"a.png": POINTS})
    assert len(load_faces(tmp_path / "dolls" / "landmarks.yaml", None, split)) == 1


def test_folders_that_are_no_data_set(dolls, tmp_path):
    expected = r"data_dir must hold either metadata\.jsonl \(split train\) or folders train/, validation/ and test/"
    write_rows(dolls, {"file_name": "val/c.png", "landmarks": POINTS})
    with pytest.raises(ValueError, match=rf"{expected}.*got metadata\.jsonl and train/metadata\.jsonl in .*dolls"):
        load_faces(dolls / "landmarks.yaml", None, "train")
    yaml_file = write_yaml(tmp_path / "empty")
    with pytest.raises(ValueError, match=rf"{expected}.*got none of these in .*empty"):
        load_faces(yaml_file, None, "train")
    with pytest.raises(ValueError, match="data_dir must be an existing folder, but got .*nowhere"):
        load_faces(yaml_file, tmp_path / "nowhere", "train")
    with pytest.raises(ValueError, match=r"data_dir must be the folder of dolls, but got None\."):
        load_faces(read_benchmark(yaml_file), None, "train")


def test_a_root_file_may_not_mix_splits(tmp_path):
    write_yaml(tmp_path / "dolls")
    write_split(tmp_path / "dolls", {"a.png": POINTS, "test/b.png": POINTS})
    with pytest.raises(ValueError, match=r"metadata\.jsonl row 2: file_name must not be in test/.*'test/b\.png'"):
        load_faces(tmp_path / "dolls" / "landmarks.yaml", None, "train")


def test_what_changes_later_is_noticed(dolls):
    path = dolls / "landmarks.yaml"
    assert len(load_faces(path, None, "train")) == 2
    write_split(dolls / "train", {"a.png": POINTS, "more/b.jpg": points_of(1), "e.png": POINTS})
    assert len(load_faces(path, None, "train")) == 3
    Image.fromarray(pixels_of("other")).save(dolls / "train" / "e.png")
    np.testing.assert_array_equal(load_faces(path, None, "train")[2]["image"], pixels_of("other"))
    rows = [{"file_name": "a.png", "landmarks": dict(zip(NAMES, points_of(5), strict=True))}]
    write_rows(dolls / "train", *rows)
    np.testing.assert_array_equal(load_faces(path, None, "train")[0]["landmarks"], np.float32(points_of(5)))
    write_yaml(dolls, landmarks=NAMES[::-1], flip_pairs=[])
    np.testing.assert_array_equal(load_faces(path, None, "train")[0]["landmarks"], np.float32(points_of(5)[::-1]))


def test_plain_imagefolder_reads_the_same_folder(dolls):
    loaded = datasets.load_dataset("imagefolder", data_dir=str(dolls))
    assert {split: len(faces) for split, faces in loaded.items()} == {"train": 2, "validation": 2, "test": 1}
    assert loaded["train"][0]["landmarks"] == [[10.25, 12], [30, 11.5], None, [14, 30], [26, 31]]
    np.testing.assert_array_equal(loaded["train"][0]["image"], pixels_of("a.png"))


# Rows ------------------------------------------------------------------------------------------------------------


def read_row(tmp_path, row, **changes):
    benchmark = read_benchmark(write_yaml(tmp_path, **changes))
    write_rows(tmp_path, row if isinstance(row, str) else {"file_name": "a.png", **row})
    return next(read_metadata(tmp_path / "metadata.jsonl", benchmark))


@pytest.mark.parametrize("unannotated", [None, [None, None], [float("nan"), float("nan")]])
def test_unannotated_points(tmp_path, unannotated):
    face = read_row(tmp_path, {"landmarks": [*POINTS[:4], unannotated]})
    np.testing.assert_array_equal(face.landmarks, as_array([*POINTS[:4], None]))
    by_name = {"mouth_0": [14, 30], "right_eye": [10.25, 12], "left_eye": [30, 11.5], "nose_tip": unannotated}
    face = read_row(tmp_path, {"landmarks": by_name})
    np.testing.assert_array_equal(face.landmarks, as_array([*POINTS[:4], None]))


def test_box_and_occluded(tmp_path):
    row = {"landmarks": POINTS, "box": [1, 2, 30.5, 40], "occluded": [False, True, False, 0, 1], "age": {"years": 9}}
    face = read_row(tmp_path, row, occluded=True, crop="box")
    assert face.box.tolist() == [1, 2, 30.5, 40] and face.occluded.tolist() == [False, True, False, False, True]
    face = read_row(tmp_path, row | {"occluded": {"nose_tip": True}, "box": [None] * 4}, occluded=True)
    assert face.box is None and face.occluded.tolist() == [False, False, True, False, False]
    assert read_row(tmp_path, row | {"box": None}).occluded is None


def test_columns_of_box_and_occluded(tmp_path):
    path = write_yaml(tmp_path / "dolls", occluded=True, crop="box")
    write_photo(tmp_path / "dolls" / "a.png")
    one = {"file_name": "a.png", "landmarks": [[9, 9], None, None, None, None], "occluded": [True] + 4 * [False]}
    write_rows(tmp_path / "dolls", one | {"box": [1, 2, 30.5, 40]})  # one landmark is enough where there is a box
    face = load_faces(path, None, "train")[0]
    assert face["box"] == [1, 2, 30.5, 40] and face["occluded"] == [True] + 4 * [False]


def test_visibility_and_groups(tmp_path):
    path = write_yaml(tmp_path / "dolls", visibility=True, groups=["left", "yaw_60-90"])
    one = {"file_name": "a.png", "landmarks": POINTS, "visibility": [1, 0, 2, 1, 1], "group": "left"}
    other = {"file_name": "b.png", "landmarks": POINTS, "visibility": {"nose_tip": 0, "mouth_0": None}, "group": None}
    unknown = {"file_name": "c.png", "landmarks": POINTS}
    for name in ("a.png", "b.png", "c.png"):
        write_photo(tmp_path / "dolls" / name)
    write_rows(tmp_path / "dolls", one, other, unknown)
    faces = load_faces(path, None, "train")
    assert faces["visibility"][:] == [[1, 0, 2, 1, 1], [1, 1, 0, -1, 1], [-1] * 5]
    assert faces["group"][:] == ["left", None, None]
    assert list(read_benchmark(path).subsets) == ["left", "yaw_60-90"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"visibility": [1, 1]}, "visibility must be a list of 5 times"),
        ({"visibility": [1, 3, 1, 1, 1]}, "visibility must be 0, 1, 2 or null for each landmark, but got 3"),
        ({"visibility": [True] * 5}, "visibility must be 0, 1, 2 or null for each landmark, but got True"),
        ({"group": "right"}, "group must be one of left or null, but got 'right'"),
        ({"group": ["left"]}, r"group must be one of left or null, but got \['left'\]"),
    ],
)
def test_malformed_visibility_and_groups(tmp_path, row, message):
    with pytest.raises(ValueError, match=rf"metadata\.jsonl row 1: {message}"):
        read_row(tmp_path, {"landmarks": POINTS, **row}, visibility=True, groups=["left"])


def test_rows_of_another_editor(tmp_path):
    """A byte order mark, blank lines, Windows's line ends and separators, a line separator within a text."""
    benchmark = read_benchmark(write_yaml(tmp_path))
    rows = [{"landmarks": POINTS, "file_name": name, "note": "\u2028"} for name in ("in\\a.png", "./b.png", "c.PNG")]
    text = "\r\n\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "metadata.jsonl").write_bytes(b"\xef\xbb\xbf" + text.encode())
    faces = list(read_metadata(tmp_path / "metadata.jsonl", benchmark))
    assert [face.image_id for face in faces] == ["in/a", "b", "c"]
    assert faces[1].where == f"{tmp_path / 'metadata.jsonl'} row 3" and faces[2].photo == tmp_path / "c.PNG"


@pytest.mark.parametrize(
    "row, message",
    [
        ("{", r"must be a JSON object on one line, but got: Expecting property name"),
        ("[1]", r"must be a JSON object on one line, but got \[1\]"),
        ("[" * 100000, r"must be a JSON object"),
        ('"\\', r"must be a JSON object"),
        ('{"file_name": "a.png", "file_name": "b.png"}', r"the key 'file_name' twice"),
        ('{"file_name": "a.png", "landmarks": {"nose_tip": null, "nose_tip": [1, 2]}}', "the key 'nose_tip' twice"),
        ({"file_name": None}, "file_name must be the path of a photo, but got None"),
        ({"file_name": "../a.png"}, r"file_name must be a path below the folder of metadata\.jsonl, .*'\.\./a\.png'"),
        ({"file_name": "b/../../a.png"}, "file_name must be a path below"),
        ({"file_name": "/a.png"}, "file_name must be a path below"),
        ({"file_name": "C:\\a.png"}, "file_name must be a path below"),
        ({"file_name": "https://host/a.png"}, "file_name must be a path below"),
        ({"file_name": "."}, "file_name must be a path below"),
        ({}, "landmarks must be a list of 5 times .*, but got None"),
        ({"landmarks": POINTS[:4]}, "landmarks must be a list of 5 .*, but got a list of 4"),
        (
            {"landmarks": {"nose": [1, 2]}},
            r"landmarks must be named as in .*'nose' \(did you mean nose_tip\?\)",
        ),
        ({"landmarks": [*POINTS[:4], [1, None]]}, "landmark mouth_1 must be two finite numbers"),
        ({"landmarks": [*POINTS[:4], [float("nan"), 1]]}, "landmark mouth_1 must be two finite numbers"),
        ({"landmarks": [*POINTS[:4], [1, float("inf")]]}, r"landmark mouth_1 must be two finite.*\[1, inf\]"),
        ({"landmarks": [*POINTS[:4], [1, 10**400]]}, "landmark mouth_1 must be two finite"),
        ({"landmarks": [*POINTS[:4], [1, 1e39]]}, "landmark mouth_1 must be two finite"),
        ({"landmarks": [*POINTS[:4], [1, 2, 3]]}, r"landmark mouth_1 must be \[x, y\] or null, but got \[1, 2, 3\]"),
        ({"landmarks": [*POINTS[:4], ["1", "2"]]}, "landmark mouth_1 must be"),
        ({"landmarks": [*POINTS[:4], [True, 2]]}, "landmark mouth_1 must be"),
        ({"landmarks": [*POINTS[:4], 3]}, "landmark mouth_1 must be"),
        ({"landmarks": [None] * 5}, "landmarks must hold at least one annotated point, but all 5 are NaN"),
        ({"landmarks": [[1, 2]] + [None] * 4}, "has no area: give the row a `box` .* and write `crop: box`"),
        ({"landmarks": [[1, 2], [9, 2]] + [None] * 3}, "has no area: give the row a `box`"),
        ({"landmarks": POINTS, "box": [1, 2, 3]}, r"box must be \[x0, y0, x1, y1\], but got \[1, 2, 3\]"),
        ({"landmarks": POINTS, "box": ["1", "2", "3", "4"]}, "box must be"),
        ({"landmarks": POINTS, "box": [1, 2, float("inf"), 4]}, "the annotated box must be finite"),
    ],
)
def test_malformed_rows_name_file_and_row(tmp_path, row, message):
    path = write_yaml(tmp_path / "dolls")
    write_photo(tmp_path / "dolls" / "a.png")
    good = {"file_name": "a.png", "landmarks": POINTS}
    write_rows(tmp_path / "dolls", good, row if isinstance(row, str) else {"file_name": "a.png", **row})
    with pytest.raises(ValueError, match=rf"dolls/metadata\.jsonl row 2.*{message}"):
        load_faces(path, None, "train")
    assert not list((tmp_path / "cache").rglob("*.arrow"))
    write_rows(tmp_path / "dolls", good)
    assert len(load_faces(path, None, "train")) == 1


@pytest.mark.parametrize("occluded", [None, [True], [None] * 5, [0.5] * 5, {"nose": True}, {"nose_tip": "yes"}])
def test_malformed_occluded(tmp_path, occluded):
    with pytest.raises(ValueError, match=r"metadata\.jsonl row 1: occluded must be"):
        read_row(tmp_path, {"landmarks": POINTS, "occluded": occluded}, occluded=True)


def test_missing_and_damaged_photos(dolls):
    (dolls / "train" / "more" / "b.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(ValueError, match=r"train/metadata\.jsonl row 2: .*b\.jpg must be an image"):
        load_faces(dolls / "landmarks.yaml", None, "train")
    (dolls / "train" / "more" / "b.jpg").unlink()
    with pytest.raises(ValueError, match=r"train/metadata\.jsonl row 2: file_name must be an image.*no file .*b\.jpg"):
        load_faces(dolls / "landmarks.yaml", None, "train")


def test_empty_metadata(dolls):
    (dolls / "test" / "metadata.jsonl").write_text("\n")
    with pytest.raises(ValueError, match=r"test/metadata\.jsonl must hold a row for each face, but it is empty"):
        load_faces(dolls / "landmarks.yaml", None, "train")


# YAML ------------------------------------------------------------------------------------------------------------


def test_facts_and_defaults(tmp_path):
    benchmark = read_benchmark(write_yaml(tmp_path, name=...))
    assert benchmark.name == benchmark.title == tmp_path.name and benchmark.num_landmarks == 5  # not "landmarks"
    assert benchmark.landmark_names == tuple(NAMES) and benchmark.flip_pairs == ((0, 1), (3, 4))
    assert list(benchmark.normalizer_kinds) == ["right_eye-left_eye", "box", "diagonal"]
    assert (benchmark.crop_box, benchmark.failure_threshold, benchmark.occlusion) == ("landmark_box", 0.1, False)
    assert (benchmark.licence, benchmark.homepage, benchmark.citation, dict(benchmark.splits)) == ("", "", "", {})
    assert set(benchmark.sources.values()) == {"landmarks.yaml"}
    np.testing.assert_allclose(benchmark.normalizers([as_array([[0, 0], [3, 4], None, None, None])]), [5])


EVERYTHING = """\
title: Old dolls
landmarks: [right_eye, left_eye, nose_tip, mouth_0, mouth_1]  # in the order of the points
flip_pairs: []
normalizer:
  eye-mouth: [[right_eye, 1], [mouth_0, mouth_1]]
  box: box
crop: box
failure_threshold: 0.08
visibility: true
groups: [frontal, profile]
parts:
  mouth: [mouth_0, mouth_1]
  eyes: {landmarks: [0, 1, nose_tip], closed: true}
occluded: true
licence: CC BY 4.0
homepage: https://example.org/dolls
citation: |
  @misc{dolls,
    title = {Dolls}
  }
"""


def test_all_keys(tmp_path):
    (tmp_path / "old-dolls.YAML").write_text(EVERYTHING)
    benchmark = find_benchmark(str(tmp_path / "old-dolls.YAML"))
    assert (benchmark.name, benchmark.title) == ("old-dolls", "Old dolls")
    assert benchmark.normalizer_kinds["eye-mouth"] == Distance((0, 1), (3, 4))
    assert list(benchmark.normalizer_kinds) == ["eye-mouth", "box", "diagonal"]
    assert (benchmark.crop_box, benchmark.failure_threshold, benchmark.occlusion) == ("box", 0.08, True)
    assert benchmark.parts == {"mouth": Part((3, 4)), "eyes": Part((0, 1, 2), closed=True)}
    assert benchmark.homepage == "https://example.org/dolls" and benchmark.citation.endswith("{Dolls}\n}")


SPACES = "landmarks: [right eye, 'left: eye', '1', Nasenflügel]\nflip_pairs: [[0, 1]]\nnormalizer: [0, 1]"


@pytest.mark.parametrize("text", [EVERYTHING, yaml.safe_dump(FACTS), SPACES])
def test_written_and_read_again(tmp_path, text):
    benchmark = read_benchmark(write_yaml(tmp_path, text=text))
    (tmp_path / "again.yaml").write_text(benchmark_yaml(benchmark), encoding="utf-8")
    assert dataclasses.replace(read_benchmark(tmp_path / "again.yaml"), sources=benchmark.sources) == benchmark


def test_normalizer_by_the_box(tmp_path):
    benchmark = read_benchmark(write_yaml(tmp_path, normalizer="box"))
    assert list(benchmark.normalizer_kinds) == ["box", "diagonal"] and benchmark.normalizer_kinds["box"] is box_side
    assert benchmark.normalizers(np.zeros((1, 5, 2)), boxes=[[0, 0, 4, 9]]) == [6]
    benchmark = read_benchmark(write_yaml(tmp_path, normalizer=[["right_eye", "left_eye"], ["nose_tip"]]))
    assert benchmark.default_normalizer == "between-means"


def test_one_landmark(tmp_path):
    benchmark = read_benchmark(write_yaml(tmp_path, landmarks=["nose"], flip_pairs=[], normalizer="box"))
    assert benchmark.num_landmarks == 1 and benchmark.flip_pairs == ()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"landmarks": ...}, "landmarks must be given, but got name, flip_pairs, normalizer|landmarks must be given"),
        ({"flip_pairs": ...}, r"flip_pairs must be given, \[\] for no pairs"),
        ({"normalizer": None}, "normalizer must be given"),
        ({"license": "MIT"}, r"keys must be among .*, but got 'license' \(did you mean licence\?\)"),
        ({"name": "my dolls"}, "name .* must be letters, digits, - and _, but got 'my dolls'"),
        ({"name": "300w"}, "name .* must not be that of a benchmark, but got '300w'"),
        ({"title": 5}, "title must be text, but got 5"),
        ({"landmarks": []}, r"landmarks must be a list of at least one name, but got \[\]"),
        ({"landmarks": 5}, "landmarks must be a list"),
        ({"landmarks": ["a", True]}, "landmarks must be names, in quotes .*, but got True"),
        ({"landmarks": ["a", "b\n"]}, "landmarks must be names"),
        ({"landmarks": ["a", "b", "a"]}, "landmarks must have different names, but got 'a' 2 times"),
        ({"flip_pairs": {"right_eye": "left_eye"}}, "flip_pairs must be a list of pairs"),
        ({"flip_pairs": ["right_eye", "left_eye"]}, "flip_pairs must be pairs of landmarks, but got 'right_eye'"),
        ({"flip_pairs": [[0, 1, 2]]}, "flip_pairs must be pairs"),
        (
            {"flip_pairs": [["right_eye", "left_ey"]]},
            r"flip_pairs must be .*'left_ey' \(did you mean left_eye",
        ),
        ({"flip_pairs": [[0, 5]]}, "flip_pairs must be made of .* indices from 0 to 4, but got 5"),
        ({"flip_pairs": [[0, -1]]}, "flip_pairs must be made of .*, but got -1"),
        ({"flip_pairs": [[0, True]]}, "flip_pairs must be made of .*, but got True"),
        ({"flip_pairs": [["right_eye", 0]]}, "flip_pairs must be made of different landmarks, but got 'right_eye'"),
        ({"flip_pairs": [[0, 1], [1, 2]]}, "flip_pairs must hold a landmark once at most, but got 'left_eye' in two"),
        ({"normalizer": "inter-ocular"}, "normalizer must be two landmarks or .*, but got 'inter-ocular'"),
        ({"normalizer": [0, 0]}, "normalizer must be a distance between different landmarks"),
        ({"normalizer": [0, []]}, r"normalizer must be a list of landmarks, but got \[\]"),
        ({"normalizer": [0, "eye"]}, "normalizer must be made of names in landmarks"),
        ({"normalizer": {"side": "box"}}, "normalizer must be written `box: box`.*got side: box"),
        ({"normalizer": {"box": [0, 1]}}, "normalizer must be written `box: box`"),
        ({"normalizer": {"inter ocular": [0, 1]}}, "normalizer must have names of letters"),
        ({"normalizer": {"eyes": [0]}}, "normalizer eyes must be two landmarks"),
        ({"crop": "boxes"}, r"crop must be landmark_box or box, but got 'boxes' \(did you mean box"),
        ({"failure_threshold": 0}, "failure_threshold must be a fraction between 0 and 1, such as 0.1, but got 0"),
        ({"failure_threshold": 8}, "failure_threshold must be"),
        ({"failure_threshold": "8 %"}, "failure_threshold must be"),
        ({"failure_threshold": float("nan")}, "failure_threshold must be"),
        ({"parts": [0, 1]}, "parts must be a mapping"),
        ({"parts": {"a\nb": [0, 1]}}, r"parts must have names, but got 'a\\nb'"),
        ({"parts": {"mouth": ["mouth_9"]}}, "parts mouth must be made of names in landmarks"),
        ({"parts": {"mouth": {"points": [3, 4]}}}, "parts mouth must have the keys landmarks and closed, .*'points'"),
        ({"visibility": "no"}, "visibility must be true or false, but got 'no'"),
        ({"groups": "left"}, "groups must be names of letters, digits, ., - and _, but got 'left'"),
        ({"groups": ["left", "left"]}, "groups must have different names that no split has, but got 'left'"),
        ({"groups": ["test"]}, "groups must have different names that no split has, but got 'test'"),
        ({"occluded": "no"}, "occluded must be true or false, but got 'no'"),
        ({"homepage": "example.org"}, "homepage must be an address"),
    ],
)
def test_yaml_names_file_and_key(tmp_path, changes, message):
    with pytest.raises(ValueError, match=rf"landmarks\.yaml: (?:{message})"):
        read_benchmark(write_yaml(tmp_path, **changes))


@pytest.mark.parametrize(
    "text, message",
    [
        ("landmarks: [a, b\nname: c", "must be YAML, but got: .* on line 2"),
        ("landmarks: *nothing", "must be YAML, but got: found undefined alias"),
        ("!!python/name:os.system x", "must be YAML, but got: could not determine a constructor"),
        ("? [a]\n: b", "must be YAML, but got: found unhashable key"),
        ("name: \x01", "must be YAML text, but got"),
        ("name: a\ncrop: box\nname: b", "keys must stand once in a mapping, but got 'name' 2 times"),
        ("normalizer: {a: [0, 1], a: [1, 2]}", "keys must stand once"),
        ("- a", r"must hold keys such as landmarks, but got \['a'\]"),
        ("# nothing", "must hold keys such as landmarks, but got None"),
        ("[" * 5000, "must be YAML text"),
    ],
)
def test_files_that_are_no_description(tmp_path, text, message):
    with pytest.raises(ValueError, match=rf"landmarks\.yaml: .*{message}") as caught:
        read_benchmark(write_yaml(tmp_path, text=text))
    assert "\n" not in str(caught.value)


def test_find_benchmark(tmp_path):
    assert find_benchmark("300w") is BENCHMARKS["300w"] is find_benchmark(BENCHMARKS["300w"])
    path = write_yaml(tmp_path)
    assert find_benchmark(path) == find_benchmark(str(path)) == read_benchmark(path)
    for name in ("301w", "landmarks.json", Path("300w"), None):
        with pytest.raises(ValueError, match="dataset must be one of 300w, .* or a YAML file of your own landmarks"):
            find_benchmark(name)
    with pytest.raises(ValueError, match=r"dataset must be an existing YAML file, but got .*none\.yaml"):
        find_benchmark(tmp_path / "none.yaml")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="must be YAML text"):
        find_benchmark(path)


def test_default_data_dir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert default_data_dir("dolls/landmarks.yml") == tmp_path / "dolls"
    assert default_data_dir(Path("landmarks.yaml")) == tmp_path
    assert default_data_dir("300w") is default_data_dir(BENCHMARKS["300w"]) is None


# Conversion ------------------------------------------------------------------------------------------------------


def test_conversion_is_a_data_set_of_its_own(dolls, tmp_path):
    path = write_yaml(dolls, text=(dolls / "landmarks.yaml").read_text().replace("name: dolls", "title: My dolls"))
    path = path.rename(dolls / "dolls.yaml")
    assert conversion.convert(path, dolls, tmp_path / "out") == {"train": 2, "validation": 2, "test": 1}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["README.md", "data", "landmarks.yaml"]
    assert find_benchmark(tmp_path / "out" / "landmarks.yaml").name == "dolls"
    for split in ("train", "validation", "test"):
        before = load_faces(path, None, split)
        after = load_faces(tmp_path / "out" / "landmarks.yaml", None, split)
        assert before.features == after.features
        for one, other in zip(before.with_format("numpy"), after.with_format("numpy"), strict=True):
            for column in one:
                np.testing.assert_array_equal(one[column], other[column])
    streamed = load_faces(tmp_path / "out" / "landmarks.yaml", None, "validation", streaming=True)
    assert [face["image_id"] for face in streamed] == ["val/c", "val/c"]
    assert set(datasets.load_dataset(str(tmp_path / "out"))) == {"train", "validation", "test"}


@pytest.mark.parametrize("stated", [True, False])
def test_card(dolls, tmp_path, stated):
    terms = {"licence": "CC BY 4.0", "homepage": "https://example.org", "citation": "@misc{dolls}"} if stated else {}
    path = write_yaml(dolls, title="My dolls", occluded=False, **terms)
    conversion.convert(path, dolls, tmp_path / "out")
    card = huggingface_hub.DatasetCard.load(tmp_path / "out" / "README.md")
    assert card.data.pretty_name == "My dolls" and "dolls" in card.data.tags
    assert card.data.license == ("other" if stated else None)
    assert card.data.get("license_link") == terms.get("homepage")
    assert ("## Citation" in card.text) == ("Official source" in card.text) == stated
    assert "| validation | 2 |" in card.text and "official |" not in card.text and "on-commercial" not in card.text
    assert "`landmarks.yaml`" in card.text and "right_eye-left_eye" in card.text and "`mouth_1`" in card.text
    assert "<>" not in card.text and "Not the complete" not in card.text


def test_a_photo_stands_as_people_see_it(dolls):
    """As `load_dataset("imagefolder")` and the pipeline have it: turned by its EXIF orientation."""
    exif = Image.Exif()
    exif[Image.ExifTags.Base.Orientation] = 6
    Image.open(dolls / "test" / "d.png").convert("RGB").save(dolls / "test" / "d.png", exif=exif)
    stored = Image.open(dolls / "test" / "d.png").size
    ours = load_faces(dolls / "landmarks.yaml", None, "test")[0]["image"]
    plain = datasets.load_dataset("imagefolder", data_dir=str(dolls / "test"), split="train")[0]["image"]
    assert ours.size == plain.size == stored[::-1]
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(plain.convert("RGB")))


def test_a_photo_with_a_damaged_tag_stands_as_people_see_it(dolls):
    """PIL, and so `datasets`, cannot turn it."""
    photo = dolls / "test" / "d.png"
    stored = Image.open(photo).convert("RGB")
    stored.save(photo, exif=sideways_exif())
    faces = load_faces(dolls / "landmarks.yaml", None, "test")
    np.testing.assert_array_equal(np.asarray(faces[0]["image"]), np.rot90(stored, -1))
    report = check_faces({"test": faces}, find_benchmark(dolls / "landmarks.yaml"))
    assert report.faults == () and not any("outside" in line for line in report.warnings)


def test_unreadable_exif_data_do_not_cost_a_photo(dolls):
    photo = dolls / "test" / "d.png"
    stored = Image.open(photo).convert("RGB")
    stored.save(photo.with_suffix(".jpg"), exif=b"Exif\0\0nonsense")
    photo.with_suffix(".jpg").rename(photo)
    assert load_faces(dolls / "landmarks.yaml", None, "test")[0]["image"].size == stored.size


def test_heic_photos_of_a_phone(dolls):
    photo = dolls / "test" / "IMG_1.HEIC"
    pillow_heif.from_pillow(Image.open(dolls / "test" / "d.png").convert("RGB")).save(photo)
    write_rows(dolls / "test", {"file_name": "IMG_1.HEIC", "landmarks": points_of(3)})
    (face,) = load_faces(dolls / "landmarks.yaml", None, "test")
    assert face["image_id"] == "test/IMG_1"
    np.testing.assert_array_equal(np.asarray(face["image"]), load_rgb(photo))


def test_landmarks_told_apart_by_a_number_are_joined(tmp_path):
    facts = {"landmarks": ["eye_0", "eye_1", "nose", "jaw0", "jaw1"], "flip_pairs": [], "normalizer": "box"}
    parts = read_benchmark(write_yaml(tmp_path, **facts)).parts
    assert parts == {"eye": Part((0, 1), closed=True), "jaw": Part((3, 4))}
    assert read_benchmark(write_yaml(tmp_path, **facts, parts={})).parts == {}
