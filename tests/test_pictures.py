import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dataset_scripts import BENCHMARKS
from dataset_scripts.augmentation import FaceCrops
from dataset_scripts.benchmark_facts import Distance, Part
from modeling_mtld.configuration_mtld import MTLDConfig
from modeling_mtld.image_processing_mtld import MTLDImageProcessor
from training_mtld.evaluation import pictures
from training_mtld.evaluation.pictures import (
    ANNOTATION_COLOR,
    CAPTION,
    HEADING,
    PREDICTION_COLOR,
    TILE,
    compare_fixed_faces,
    draw_comparison,
    picture_grid,
    save_picture,
    worst_faces,
)

FOUR = dataclasses.replace(
    BENCHMARKS["300w"],
    landmark_names=("brow_0", "brow_1", "chin_0", "chin_1"),
    flip_pairs=(),
    parts={"brow": Part((0, 1)), "chin": Part((2, 3))},
    normalizer_kinds={"box": BENCHMARKS["300w"].normalizer_kinds["box"]},
)
ANNOTATIONS = np.array([[0.2, 0.2], [0.8, 0.2], [0.2, 0.8], [0.8, 0.8]])
GREY = np.full((TILE, TILE, 3), 128, dtype=np.uint8)


def shows(picture, place, colour, size=TILE):
    """Whether `colour` is drawn within a pixel of `place`, fractions of a crop at the picture's top left."""
    x, y = np.rint(np.asarray(place) * size - 0.5).astype(int)
    near = picture[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].astype(int)
    return bool((np.abs(near - colour).max(axis=-1) < 60).any())


def crops_of(count, size=32):
    """Faces of different greys, number i is 10 * i; the box of the crops is 0.1 to 0.9 of each."""
    faces = [
        {
            "image": Image.fromarray(np.full((110, 120, 3), 10 * index, dtype=np.uint8)),
            "landmarks": 20 + 100 * (ANNOTATIONS - 0.1),
            "landmark_box": [20.0, 20.0, 100.0, 100.0],
            "box": [np.nan] * 4,
            "image_id": f"photo {index}",
        }
        for index in range(count)
    ]
    return FaceCrops(faces, MTLDImageProcessor(size=size), FOUR)


def tiles_of(picture):
    step = [TILE + CAPTION + pictures.GAP, TILE + pictures.GAP]
    for row in range((len(picture) - HEADING) // step[0]):
        for column in range(picture.shape[1] // step[1]):
            top, left = HEADING + row * step[0], pictures.GAP + column * step[1]
            yield picture[top : top + TILE + CAPTION, left : left + TILE]


def greys_of(picture):
    """Of the faces drawn, from left to right and down."""
    tiles = [tile[TILE // 2, TILE // 2] for tile in tiles_of(picture)]
    return [int(colour[0]) for colour in tiles if (colour == colour[0]).all()]


@pytest.fixture
def labels(monkeypatch):
    """What is written below the faces."""
    written = []
    draw = pictures.draw_comparison

    def note(*args):
        written.append(args[-1])
        return draw(*args)

    monkeypatch.setattr(pictures, "draw_comparison", note)
    return written


# A face -----------------------------------------------------------------------------------------------------------


def test_both_sets_of_landmarks_are_drawn_with_their_contours():
    predicted = ANNOTATIONS + [0.0, 0.1]
    picture = draw_comparison(GREY, predicted, ANNOTATIONS, list(FOUR.parts.values()), "label")
    assert picture.shape == (TILE + CAPTION, TILE, 3) and picture.dtype == np.uint8
    for points, colour, other in (
        (ANNOTATIONS, ANNOTATION_COLOR, PREDICTION_COLOR),
        (predicted, PREDICTION_COLOR, ANNOTATION_COLOR),
    ):
        for place in (*points, (points[0] + points[1]) / 2, (points[2] + points[3]) / 2):
            assert shows(picture, place, colour) and not shows(picture, place, other)
        assert not shows(picture, (points[0] + points[2]) / 2, colour)
    assert (GREY == 128).all()


def test_what_is_not_annotated_is_left_out_with_its_part_of_the_contour():
    annotated = ANNOTATIONS.copy()
    annotated[1] = np.nan
    picture = draw_comparison(GREY, ANNOTATIONS + [0.0, 0.1], annotated, list(FOUR.parts.values()), "")
    assert shows(picture, ANNOTATIONS[0], ANNOTATION_COLOR) and shows(picture, ANNOTATIONS[3], ANNOTATION_COLOR)
    for place in (ANNOTATIONS[1], ANNOTATIONS[:2].mean(axis=0)):
        assert not shows(picture, place, ANNOTATION_COLOR) and shows(picture, place + [0, 0.1], PREDICTION_COLOR)


def test_landmarks_that_agree_both_show():
    picture = draw_comparison(GREY, ANNOTATIONS, ANNOTATIONS, [], "")
    assert shows(picture, ANNOTATIONS[0], PREDICTION_COLOR)
    x, y = np.rint(ANNOTATIONS[0] * TILE - 0.5).astype(int)
    around = picture[y - 5 : y + 6, x - 5 : x + 6].astype(int)
    assert (around[..., 1] > around[..., 0] + 20).any()  # of the annotated one's rim


def test_landmarks_far_outside_do_no_harm():
    wild = np.array([[-9e9, 5.0], [0.5, 1.05], [np.inf, 0.5], [0.5, 0.5]])
    picture = draw_comparison(GREY, wild, ANNOTATIONS, list(FOUR.parts.values()), "")
    assert shows(picture, (0.5, 0.5), PREDICTION_COLOR)
    assert not (picture[TILE + 3 :] == PREDICTION_COLOR).all(axis=-1).any()  # what lies below the crop is cut off


def test_a_long_label_keeps_within_its_tile():
    picture = draw_comparison(GREY, ANNOTATIONS, ANNOTATIONS, [], "1: NME 9.99%  " + "very_long_name/" * 20)
    assert picture.shape[1] == TILE and (picture[TILE:] > 150).any()


# Grids ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count, rows, columns", [(1, 1, 1), (4, 1, 4), (5, 2, 4), (8, 2, 4)])
def test_grid_has_every_image_once(count, rows, columns):
    images = [np.full((30, 200, 3), 100 + index, dtype=np.uint8) for index in range(count)]
    picture = picture_grid(images, columns=4)
    assert picture.shape == (HEADING + rows * (30 + pictures.GAP), pictures.GAP + columns * (200 + pictures.GAP), 3)
    below = picture[HEADING:]
    assert [int((below == 100 + index).all(axis=-1).sum()) for index in range(count)] == [30 * 200] * count
    heading = picture[:HEADING]
    assert all((heading == colour).all(axis=-1).sum() > 100 for colour in (ANNOTATION_COLOR, PREDICTION_COLOR))


def test_grid_of_nothing_is_told():
    with pytest.raises(ValueError, match="images must hold at least one image, but got none"):
        picture_grid([], 4)


def test_worst_faces_come_first_and_are_named(labels):
    crops, rng = crops_of(20), np.random.default_rng(0)
    faces = {"landmarks": np.tile(ANNOTATIONS + 0.05, (20, 1, 1)), "labels": np.tile(ANNOTATIONS, (20, 1, 1))}
    errors = rng.permutation(20) / 100
    errors[3] = np.nan
    picture = worst_faces(crops, faces, errors, count=6)
    expected = [index for index in np.argsort(-errors) if index != 3][:6]
    assert greys_of(picture) == [10 * index for index in expected]
    assert labels == [f"{n}: NME {errors[i]:.2%}  photo {i}" for n, i in enumerate(expected, 1)]
    first = next(tiles_of(picture))
    assert shows(first, ANNOTATIONS[0], ANNOTATION_COLOR) and shows(first, ANNOTATIONS[0] + 0.05, PREDICTION_COLOR)


def test_fewer_faces_than_asked_for():
    faces = {"landmarks": np.tile(ANNOTATIONS, (2, 1, 1)), "labels": np.tile(ANNOTATIONS, (2, 1, 1))}
    assert greys_of(worst_faces(crops_of(2), faces, np.array([0.1, 0.2]))) == [10, 0]


def test_errors_of_other_faces_are_told():
    with pytest.raises(ValueError, match="errors must be one for each of 2 faces, but got 3"):
        worst_faces(crops_of(2), {}, np.zeros(3))


def test_labels_of_the_crops_fall_on_the_photo_that_is_drawn():
    """The picture is made anew from the photo, larger than the network's crop."""
    crops = crops_of(1)
    pixels = np.zeros((110, 120, 3), dtype=np.uint8)
    pixels[25:36, 25:36] = 255  # around the first landmark
    crops.faces[0]["image"] = Image.fromarray(pixels)
    place = crops[0]["labels"][0].numpy()
    faces = {"landmarks": np.full((1, 4, 2), 0.99), "labels": np.full((1, 4, 2), np.nan)}
    tile = next(tiles_of(worst_faces(crops, faces, np.array([0.5]))))
    rows, columns = np.nonzero((tile[:TILE] > 128).all(axis=-1))
    np.testing.assert_allclose((np.array([columns.mean(), rows.mean()]) + 0.5) / TILE, place, atol=0.005)


# During training --------------------------------------------------------------------------------------------------


class Network(torch.nn.Module):
    """Stands for a network: puts all landmarks where the crop is as bright as this."""

    def __init__(self):
        super().__init__()
        self.weight, self.batches = torch.nn.Parameter(torch.zeros(1)), []
        self.config = MTLDConfig(num_landmarks=len(ANNOTATIONS))

    def forward(self, pixel_values):
        assert not self.training and not torch.is_grad_enabled()
        self.batches.append(pixel_values)
        landmarks = torch.tensor(ANNOTATIONS).float() + torch.tensor([0.0, 0.1])
        return type("Output", (), {"landmarks": landmarks.expand(len(pixel_values), -1, -1)})


def test_the_same_faces_every_time_spread_over_the_set(labels):
    model, crops = Network().train(), crops_of(20)
    first, second = (compare_fixed_faces(model, crops) for _ in range(2))
    assert np.array_equal(first, second) and torch.equal(*model.batches)
    assert greys_of(first) == [10 * index for index in (0, 3, 5, 8, 11, 14, 16, 19)]
    assert torch.equal(model.batches[0][1], crops[3]["pixel_values"])
    assert labels[1] == "NME 12.50%  photo 3"  # 0.1 of the crop is 1 / 8 of the box
    tile = next(tiles_of(first))
    assert shows(tile, ANNOTATIONS[3], ANNOTATION_COLOR) and shows(tile, ANNOTATIONS[3] + [0, 0.1], PREDICTION_COLOR)


def test_a_set_of_few_faces_and_one_without_its_normalizer(labels):
    crops = crops_of(2)
    assert greys_of(compare_fixed_faces(Network(), crops)) == [0, 10]
    crops.crop.benchmark = dataclasses.replace(FOUR, normalizer_kinds={"brow": Distance((0,), (1,))})
    crops.faces[1]["landmarks"] = np.where([[True], [False], [False], [False]], np.nan, crops.faces[1]["landmarks"])
    compare_fixed_faces(Network(), crops)
    assert "NME" in labels[-2] and labels[-1].strip() == "photo 1"


def test_a_picture_is_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "faces.png"
    save_picture(GREY, path)
    assert (np.asarray(Image.open(path)) == GREY).all()

    def fill_disk(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fill_disk)
    with pytest.raises(ValueError, match="picture must be a file that can be written.*other.png: disk full"):
        save_picture(GREY, tmp_path / "other.png")
    assert [file.name for file in Path(tmp_path).rglob("*.*")] == ["faces.png"]
