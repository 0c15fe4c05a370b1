import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dataset_scripts import load_faces, select_images
from dataset_scripts.aflw_crops import POSES, group_of, main
from dataset_scripts.own_data import read_benchmark

YAWS = {"image00001": 10.0, "image00002": -45.0, "image00003": 99.0, "image00004": float("nan"), "image00005": 0.0}


@pytest.fixture
def crops(tmp_path):
    """Five crops, of which the last fits badly, and labels for all; the second has a hidden point."""
    rows, labels = [], []
    for number, (name, yaw) in enumerate(YAWS.items()):
        content = io.BytesIO()
        Image.fromarray(np.full((120, 120, 3), 50 * number, np.uint8)).save(content, "PNG")
        rows.append({"image": {"bytes": content.getvalue(), "path": None}, "image_id": name, "yaw": yaw})
        points = [[float(10 + index), float(20 + index)] for index in range(68)]
        visibility = [1] * 68
        if number == 1:
            points[0], visibility[0] = [None, None], 0
        fit = {"fit_residual": 0.1 if number == 4 else 0.01, "half_split": None if number == 2 else 0.01}
        labels.append({"image_id": name, "landmarks": points, "visibility": visibility, **fit})
    (tmp_path / "crops" / "data").mkdir(parents=True)
    for split, part in (("train", rows[:3]), ("test", rows[3:])):
        pq.write_table(pa.Table.from_pylist(part), tmp_path / "crops" / "data" / f"{split}-00000-of-00001.parquet")
    pq.write_table(pa.Table.from_pylist(labels), tmp_path / "labels.parquet")
    return tmp_path


def run(folder, **changes):
    options = {"data_dir": folder / "crops", "labels": folder / "labels.parquet", "output_dir": folder / "aflw68"}
    return main([word for name, value in (options | changes).items() for word in (f"--{name}", str(value))])


def test_crops_and_points_become_own_data(crops):
    assert run(crops) == 0
    faces = load_faces(crops / "aflw68" / "landmarks.yaml", None, "train", cache_dir=crops / "cache").sort("image_id")
    assert faces["image_id"][:] == [f"train/image0000{number}" for number in range(1, 5)]
    assert faces["group"][:] == ["yaw_0-30", "yaw_30-60", "yaw_60-90", None]
    assert faces[1]["visibility"][:2] == [0, 1] and np.isnan(faces[1]["landmarks"][0]).all()
    assert faces[0]["landmarks"][67] == [77, 87] and np.asarray(faces[2]["image"])[0, 0, 0] == 100
    benchmark = read_benchmark(crops / "aflw68" / "landmarks.yaml")
    assert benchmark.name == "aflw68" and len(benchmark.flip_pairs) == 29


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": "nowhere.parquet"}, "--labels must be an existing file, but got nowhere.parquet"),
        ({"data_dir": "nowhere"}, "--data_dir must hold data/*.parquet, but got nowhere"),
        ({"output_dir": "."}, "--output_dir must not exist yet, but got ."),
    ],
)
def test_wrong_places_are_one_line(crops, capsys, changes, message):
    assert run(crops, **changes) == 2
    assert message in capsys.readouterr().err and not (crops / "aflw68").exists()


def test_other_files_are_named(crops, capsys):
    (crops / "text").write_text(json.dumps({}))
    assert run(crops, labels=crops / "text") == 2
    assert "--labels must be Parquet with image_id, landmarks" in capsys.readouterr().err
    pq.write_table(
        pa.Table.from_pylist([{"image_id": "a"}]), crops / "crops" / "data" / "train-00000-of-00001.parquet"
    )
    assert run(crops) == 2
    assert "--data_dir must be Parquet with image, image_id, yaw" in capsys.readouterr().err.splitlines()[-1]


def test_labels_of_other_faces_are_refused(crops, capsys):
    table = pq.read_table(crops / "labels.parquet")
    other = table.set_column(0, "image_id", pa.array([f"other{number}" for number in range(5)]))
    pq.write_table(other, crops / "labels.parquet")
    assert run(crops) == 2
    assert "--labels must be of faces in --data_dir, but none" in capsys.readouterr().err.splitlines()[-1]
    assert sorted(path.name for path in crops.iterdir()) == ["crops", "labels.parquet"]


def test_the_listed_poses():
    names = POSES.read_text().split()
    assert len(names) == len(set(names)) == 800 and all(name.startswith("train/image") for name in names)


@pytest.mark.parametrize(
    ("yaw", "name"), [(-29.9, "yaw_0-30"), (30, "yaw_30-60"), (-60, "yaw_60-90"), (115, "yaw_60-90")]
)
def test_groups_by_yaw(yaw, name):
    assert group_of(yaw) == name


def test_the_list_selects_by_photo(crops, tmp_path):
    run(crops)
    (tmp_path / "list.txt").write_text("train/image00002.jpg\n")
    faces = load_faces(crops / "aflw68" / "landmarks.yaml", None, "train", cache_dir=crops / "cache")
    assert select_images(faces, tmp_path / "list.txt", keep=True)["image_id"][:] == ["train/image00002"]
