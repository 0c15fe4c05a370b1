import dataclasses

import datasets
import numpy as np
import pytest
from PIL import Image

from dataset_scripts import BENCHMARKS, load_faces, preview
from dataset_scripts.benchmark_facts import Part
from dataset_scripts.face_builder import face_features
from dataset_scripts.preview import draw_preview, write_preview
from modeling_mtld.geometry_mtld import crop_matrix, transform_points

BENCHMARK = dataclasses.replace(
    BENCHMARKS["aflw"],
    landmark_names=("a", "b", "c", "d"),
    flip_pairs=((0, 1),),
    parts={"brow": Part((0, 1, 2, 3), closed=True)},
    columns={},
)
LANDMARKS = np.array([[60.0, 50], [100, 50], [100, 90], [60, 90]])
LANDMARK_BOX, BOX = [60.0, 50, 100, 90], [50.0, 40, 110, 100]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def faces_of(count=1, benchmark=BENCHMARK, **columns):
    """Faces of different greys: number i is 2 * i."""
    face = {"landmarks": LANDMARKS, "landmark_box": LANDMARK_BOX, "box": BOX, "occluded": [False, False, True, False]}
    rows = {name: [value] * count for name, value in (face | columns).items() if name in face_features(benchmark)}
    rows["image"] = [Image.fromarray(np.full((150, 160, 3), 2 * i, np.uint8)) for i in range(count)]
    rows["image_id"] = [f"photo {i}" for i in range(count)]
    return datasets.Dataset.from_dict(rows, features=face_features(benchmark))


def tiles_of(picture):
    """The places of tiles, from left to right and down; those without a face are paper."""
    rows = [top for top in range(len(picture)) if is_edge(picture, top)]
    return [
        picture[top : top + preview.TILE, left : left + preview.TILE]
        for top in rows
        for left in range(preview.GAP, picture.shape[1] - preview.TILE, preview.TILE + preview.GAP)
    ]


def is_edge(picture, top):
    """Whether a row of tiles starts here: the first tile's left column is photo or black from here on, not paper."""
    column = (picture[:, preview.GAP] == preview.PAPER).all(axis=-1)
    return not column[top] and column[top - 1] and not column[top : top + preview.TILE].any()


def place(point, box=BOX):
    """Pixel of the tile where a point of the photo is drawn."""
    side = 1.25 * preview.TILE_ENLARGEMENT
    x, y = transform_points(crop_matrix(box, preview.TILE, side), point).round().astype(int)
    return y, x


def near(tile, point, colour, box=BOX, tolerance=40):
    """Whether the colour is drawn within a pixel of a point of the photo."""
    y, x = place(point, box)
    return (np.abs(tile[y - 1 : y + 2, x - 1 : x + 2].astype(int) - colour).max(axis=-1) < tolerance).any()


def test_one_section_for_each_split():
    one = draw_preview({"train": faces_of(1)}, BENCHMARK)
    two = draw_preview({"train": faces_of(1), "test": faces_of(5)}, BENCHMARK)
    assert one.dtype == np.uint8 and one.ndim == 3 and one.shape[2] == 3
    assert one.shape[1] == two.shape[1] and len(tiles_of(one)) == 4 and len(tiles_of(two)) == 3 * 4


def test_faces_are_spread_over_the_split():
    picture = draw_preview({"train": faces_of(71)}, BENCHMARK)
    greys = [np.median(tile[place([80, 70])[0] + 10 :, 20]) / 2 for tile in tiles_of(picture)]
    assert greys == [0, 10, 20, 30, 40, 50, 60, 70]


def test_points_contours_boxes_and_crop_are_where_they_belong():
    tile = tiles_of(draw_preview({"train": faces_of()}, BENCHMARK))[0]
    for index, point in enumerate(LANDMARKS):
        assert near(tile, point, preview.OCCLUDED if index == 2 else preview.POINT)
    for start, end in ((0, 1), (1, 2), (2, 3), (3, 0)):
        assert near(tile, LANDMARKS[start] * 0.6 + LANDMARKS[end] * 0.4, preview.LINE)
    for corner in ([50, 40], [110, 100]):
        assert near(tile, corner, preview.BOX)
    crop = [80 - 37.5, 70 - 37.5]  # 1.25 times the annotated box of 60 x 60
    assert near(tile, crop, preview.CROP) and not near(tile, np.add(crop, [3, 3]), preview.CROP)


def test_landmark_box_is_drawn_and_cropped_where_none_is_annotated():
    faces = faces_of(box=[np.nan] * 4, landmarks=LANDMARKS + [[3, 3], [-3, 3], [-3, -3], [3, -3]])
    tile = tiles_of(draw_preview({"train": faces}, BENCHMARK))[0]
    assert near(tile, [60, 50], preview.LANDMARK_BOX, LANDMARK_BOX)
    assert near(tile, [80 - 25, 70 - 25], preview.CROP, LANDMARK_BOX)
    assert not (np.abs(tile.astype(int) - preview.BOX).max(axis=-1) < 30).any()


def test_contour_is_broken_at_an_unannotated_point():
    landmarks = LANDMARKS.copy()
    landmarks[1] = np.nan
    tile = tiles_of(draw_preview({"train": faces_of(landmarks=landmarks)}, BENCHMARK))[0]
    assert not near(tile, LANDMARKS[1], preview.POINT)
    assert not near(tile, LANDMARKS[:2].mean(axis=0), preview.LINE)
    assert near(tile, LANDMARKS[2:].mean(axis=0), preview.LINE) and near(tile, LANDMARKS[0], preview.POINT)


def test_no_dot_is_hidden_by_a_number():
    benchmark = BENCHMARKS["wflw"]
    landmarks = np.random.default_rng(0).uniform(50, 110, (98, 2))
    faces = faces_of(benchmark=dataclasses.replace(benchmark, columns={}), landmarks=landmarks)
    tile = tiles_of(draw_preview({"test": faces}, benchmark))[0]
    assert all(near(tile, point, preview.POINT, LANDMARK_BOX) for point in landmarks)


@pytest.mark.parametrize("box", [[70.0, 60, 70, 80], [90.0, 60, 80, 80]])
def test_a_face_without_a_usable_box_is_shown_too(box):
    tile = tiles_of(draw_preview({"train": faces_of(box=box)}, BENCHMARK))[0]
    assert near(tile, LANDMARKS[0], preview.POINT, [-0.5, -0.5, 159.5, 149.5])


def test_landmarks_far_outside_and_an_empty_split():
    far = faces_of(landmarks=LANDMARKS + [[1e6, 0], [0, 0], [0, -1e6], [0, 0]])
    picture = draw_preview({"train": far, "test": faces_of(1).select([])}, BENCHMARK)
    assert len(tiles_of(picture)) == 4
    with pytest.raises(ValueError, match="splits must hold at least one split, but got none"):
        draw_preview({}, BENCHMARK)


def test_long_and_foreign_names_fit():
    faces = faces_of().remove_columns("image_id").add_column("image_id", ["a/" * 200 + "фото_顔"])
    draw_preview({"train": faces}, BENCHMARK)


def test_picture_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "new" / "faces.png"
    write_preview(path, {"train": faces_of()}, BENCHMARK)
    assert [file.name for file in path.parent.iterdir()] == ["faces.png"]
    before = path.read_bytes()
    np.testing.assert_array_equal(np.asarray(Image.open(path)), draw_preview({"train": faces_of()}, BENCHMARK))

    def half_written(image, file):
        file.write_bytes(b"half")
        raise OSError("disk full")

    faces = faces_of()
    monkeypatch.setattr(Image.Image, "save", half_written)
    with pytest.raises(ValueError, match=r"picture must be a file that can be written.*faces\.png: disk full"):
        write_preview(path, {"train": faces}, BENCHMARK)
    assert [file.name for file in path.parent.iterdir()] == ["faces.png"] and path.read_bytes() == before


@pytest.mark.parametrize("name", ["faces", "faces.txt", "faces.parquet"])
def test_other_suffixes_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=rf"preview must be a file ending in \.png, .*but got .*{name}"):
        write_preview(tmp_path / name, {"train": faces_of()}, BENCHMARK)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ValueError, match=r"preview must be a file, but got the folder .*folder\.png"):
        write_preview(tmp_path / "folder.png", {"train": faces_of()}, BENCHMARK)


def test_columns_that_another_conversion_lacks(tmp_path):
    """Neither boxes nor names nor occlusion: `load_faces` makes up for them."""
    (tmp_path / "data").mkdir()
    faces = faces_of().select_columns(["image", "landmarks"])
    faces.to_parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
    tile = tiles_of(draw_preview({"train": load_faces(BENCHMARK, tmp_path, "train")}, BENCHMARK))[0]
    assert all(near(tile, point, preview.POINT, LANDMARK_BOX) for point in LANDMARKS)
