import dataclasses

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from dataset_scripts import BENCHMARKS
from dataset_scripts.augmentation import Augmentation, FaceCrops, mean_face
from modeling_mtld.geometry_mtld import crop_matrix, fractions_to_pixels, invert_matrix, transform_points
from modeling_mtld.image_processing_mtld import MTLDImageProcessor

SIZE = 64
PAIRS = BENCHMARKS["300w"].flip_pairs
STILL = Augmentation(  # draws, but changes nothing
    rotation=0, scale=0, shift=0, flip_probability=0, occlusion_probability=0, blur_probability=0, color=0
)
PROCESSOR = MTLDImageProcessor(size=SIZE)


def noise_faces(count=6, landmarks=None):
    rng = np.random.default_rng(0)
    points = rng.uniform([20, 20], [100, 90], (count, 68, 2)) if landmarks is None else landmarks
    return [
        {
            "image": Image.fromarray(rng.integers(0, 256, (110, 120, 3), dtype=np.uint8)),
            "landmarks": points[index],
            "box": [20.0, 20.0, 100.0, 90.0],
            "image_id": f"afw/{index}",
        }
        for index in range(count)
    ]


def batches(faces, epoch, workers, seed=7):
    crops = FaceCrops(faces, PROCESSOR, Augmentation(), PAIRS, seed)
    crops.set_epoch(epoch)
    return list(torch.utils.data.DataLoader(crops, batch_size=2, num_workers=workers))


def same(first, second):
    return all(torch.equal(a[key], b[key]) for a, b in zip(first, second, strict=True) for key in a)


def test_draws_depend_on_seed_epoch_and_index_alone():
    faces = noise_faces()
    here = batches(faces, epoch=3, workers=0)
    assert same(here, batches(faces, epoch=3, workers=0))
    assert same(here, batches(faces, epoch=3, workers=2))
    for other in (batches(faces, epoch=4, workers=0), batches(faces, epoch=3, workers=0, seed=8)):
        assert all(not torch.equal(a["pixel_values"], b["pixel_values"]) for a, b in zip(here, other))
        assert all(not torch.equal(a["labels"], b["labels"]) for a, b in zip(here, other))
    twins = FaceCrops([faces[0], faces[0]], PROCESSOR, Augmentation(), PAIRS)
    assert not torch.equal(twins[0]["labels"], twins[1]["labels"])


def test_epoch_reaches_workers():
    faces = noise_faces(4)
    crops = FaceCrops(faces, PROCESSOR, Augmentation(), PAIRS, 7)
    loader = torch.utils.data.DataLoader(crops, batch_size=2, num_workers=1)
    for epoch in (0, 5):
        crops.set_epoch(epoch)
        assert same(list(loader), batches(faces, epoch, workers=0))


def test_types_and_shapes():
    item = FaceCrops(noise_faces(1), PROCESSOR, Augmentation(), PAIRS)[0]
    assert item["pixel_values"].shape == (3, SIZE, SIZE) and item["pixel_values"].dtype == torch.float32
    assert item["labels"].shape == (68, 2) and item["labels"].dtype == torch.float32


def test_without_augmentation_a_face_is_what_the_processor_makes_of_its_box():
    face = noise_faces(1)[0]
    item = FaceCrops([face], PROCESSOR)[0]
    inputs = PROCESSOR(face["image"], boxes=[face["box"]], return_tensors="pt")
    assert torch.equal(item["pixel_values"], inputs["pixel_values"][0])
    back = fractions_to_pixels(item["labels"].double().numpy(), SIZE)
    np.testing.assert_allclose(
        transform_points(invert_matrix(inputs["matrices"][0]), back), face["landmarks"], atol=1e-4
    )


def test_processors_own_settings_are_followed():
    processor = MTLDImageProcessor(size=96, box_enlargement=1.6, image_mean=[0.1, 0.2, 0.3])
    face = noise_faces(1)[0]
    inputs = processor(face["image"], boxes=[face["box"]], return_tensors="pt")
    assert torch.equal(FaceCrops([face], processor)[0]["pixel_values"], inputs["pixel_values"][0])


def test_grey_photo_becomes_three_channels():
    face = noise_faces(1)[0]
    item = FaceCrops([face | {"image": face["image"].convert("L")}], PROCESSOR)[0]
    pixels = item["pixel_values"] * torch.tensor(PROCESSOR.image_std)[:, None, None]
    pixels += torch.tensor(PROCESSOR.image_mean)[:, None, None]
    torch.testing.assert_close(pixels[0], pixels[1])
    torch.testing.assert_close(pixels[0], pixels[2])


# Geometry ---------------------------------------------------------------------------------------------------------


def dot_photo(points, sigma=2.5, shape=(300, 320)):
    """Dots of light at points, each brighter than the one before."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    dots = sum(
        (100 + 30 * index) * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * sigma**2))
        for index, (px, py) in enumerate(points)
    )
    return Image.fromarray(np.repeat(dots.round().astype(np.uint8)[:, :, None], 3, axis=2))


def find_dots(pixel_values, expected, reach=8):
    """Centroids (n, 2) and brightness (n,) of the light around each of the places (n, 2), in pixels of the crop."""
    light = pixel_values.double().mean(dim=0).numpy()
    y, x = np.mgrid[: light.shape[0], : light.shape[1]]
    near = [light * (np.hypot(x - px, y - py) < reach) for px, py in expected]
    centroids = [[(part * x).sum() / part.sum(), (part * y).sum() / part.sum()] for part in near]
    return np.array(centroids), np.array([part.sum() for part in near])


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"flip_probability": 1.0},
        {"rotation": 30.0, "rotation_probability": 1.0},
        {"rotation": 30.0, "rotation_probability": 1.0, "scale": 0.2, "shift": 0.05, "flip_probability": 1.0},
    ],
)
def test_dots_are_where_the_labels_say(change):
    """The photo's resampling and the labels' transformation agree; in a mirrored face partners have changed places."""
    points = np.array([[130.3, 120.0], [185.0, 123.6], [134.7, 175.2], [178.0, 172.5], [155.5, 147.0]])
    face = {"image": dot_photo(points), "landmarks": points, "box": [100.0, 90.0, 210.0, 200.0]}
    processor = MTLDImageProcessor(size=128, do_normalize=False)
    crops = FaceCrops([face], processor, dataclasses.replace(STILL, **change), ((0, 1), (2, 3)))
    for epoch in range(5):
        crops.set_epoch(epoch)
        item = crops[0]
        labels = fractions_to_pixels(item["labels"].double().numpy(), 128)
        found, brightness = find_dots(item["pixel_values"], labels)
        assert np.abs(found - labels).max() < 0.05
        assert np.argsort(brightness).tolist() == (
            [1, 0, 3, 2, 4] if "flip_probability" in change else [0, 1, 2, 3, 4]
        )


def test_mirrored_face_is_the_mirrored_photo_with_landmarks_in_changed_places():
    points = np.random.default_rng(3).uniform([30, 20], [90, 90], (68, 2))
    face = noise_faces(1, points[None])[0]
    mirrored = dataclasses.replace(STILL, flip_probability=1.0)
    flipped, plain = (FaceCrops([face], PROCESSOR, kind, PAIRS)[0] for kind in (mirrored, STILL))
    # Each side of the resampling rounds to a whole grey value by itself.
    step = 1.01 / 255 / min(PROCESSOR.image_std)
    assert (flipped["pixel_values"] - plain["pixel_values"].flip(-1)).abs().max() <= step
    expected = plain["labels"].clone()
    expected[:, 0] = 1 - expected[:, 0]
    partner = np.arange(68)
    for first, second in PAIRS:
        partner[[first, second]] = second, first
    torch.testing.assert_close(flipped["labels"], expected[partner])


def test_unannotated_landmarks_stay_so_and_change_places_with_their_partners():
    points = np.random.default_rng(3).uniform([30, 20], [90, 90], (68, 2))
    points[[0, 30]] = np.nan  # 0 has the partner 16, 30 has none
    face = noise_faces(1, points[None])[0]
    for flip, missing in ((0.0, [0, 30]), (1.0, [16, 30])):
        kind = Augmentation(flip_probability=flip)
        labels = FaceCrops([face], PROCESSOR, kind, PAIRS)[0]["labels"]
        assert np.flatnonzero(labels.isnan().any(dim=1)).tolist() == missing


def test_drawn_matrices_stay_within_their_ranges():
    kind, rng, box = Augmentation(), np.random.default_rng(0), (20, 20, 100, 90)
    plain = crop_matrix(box, SIZE, 1.25)
    turns, scales, flips, shifts = [], [], [], []
    for _ in range(2000):
        matrix, flip = kind.matrix(box, SIZE, 1.25, rng)
        linear = matrix[:, :2] * [[-1.0], [1.0]] if flip else matrix[:, :2]
        turns.append(np.degrees(np.arctan2(linear[1, 0], linear[0, 0])))
        scales.append(plain[0, 0] / np.hypot(*linear[0]))
        flips.append(flip)
        centre = transform_points(invert_matrix(matrix), [(SIZE - 1) / 2, (SIZE - 1) / 2])
        shifts.append((centre - [60, 55]) / 80)
        assert flip == (np.linalg.det(matrix[:, :2]) < 0)
    assert 29 < np.abs(turns).max() <= 30 and 0.55 < np.mean(np.abs(turns) > 1e-6) < 0.65
    assert 0.8 <= min(scales) < 0.81 and 1.19 < max(scales) <= 1.2
    assert 0.45 < np.mean(flips) < 0.55
    assert 0.049 < np.abs(shifts).max() <= 0.05 + 1e-9


# Pixels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"blur_probability": 1.0}, {"occlusion_probability": 1.0}, {"color": 0.2}])
def test_occlusion_blur_and_colour_leave_landmarks_alone(change):
    kinds = (dataclasses.replace(STILL, **change), STILL)
    changed, plain = (FaceCrops(noise_faces(1), PROCESSOR, kind, PAIRS)[0] for kind in kinds)
    assert torch.equal(changed["labels"], plain["labels"])
    assert not torch.equal(changed["pixel_values"], plain["pixel_values"])


def test_occlusion_is_one_rectangle_of_at_most_its_size():
    kind = dataclasses.replace(STILL, occlusion_probability=1.0)
    grey = np.full((SIZE, SIZE, 3), 128, dtype=np.uint8)
    noises = 0
    for seed in range(60):
        changed = kind.change_pixels(grey.copy(), np.random.default_rng(seed))
        rows, columns = np.nonzero((changed != 128).any(axis=2))
        patch = changed[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert max(patch.shape[:2]) <= 0.4 * SIZE
        noises += len(np.unique(patch)) > 3
    assert 15 < noises < 45
    assert (grey == 128).all()


def test_change_of_colour_follows_its_range():
    kind = dataclasses.replace(STILL, color=0.2)
    levels = [
        kind.change_pixels(np.full((4, 4, 3), value, dtype=np.uint8), np.random.default_rng(seed)).reshape(-1, 3)[0]
        for seed in range(300)
        for value in (0, 100)
    ]
    black, grey = np.array(levels[::2], dtype=int), np.array(levels[1::2], dtype=int)
    assert black.max() <= 255 * 0.1 and 100 * 0.8 - 26 <= grey.min() and grey.max() <= 100 * 1.2 + 26
    assert grey.std(axis=0).min() > 5


# Mean face and errors -------------------------------------------------------------------------------------------


def test_mean_face_leaves_out_unannotated_points():
    points = np.random.default_rng(1).uniform([25, 25], [95, 85], (3, 68, 2))
    points[0, 5] = np.nan
    columns = {"box": [[20.0, 20.0, 100.0, 90.0]] * 3, "landmarks": points.tolist()}
    mean = mean_face(datasets.Dataset.from_dict(columns))
    labels = torch.stack([FaceCrops(noise_faces(3, points), PROCESSOR)[index]["labels"] for index in range(3)])
    assert mean.dtype == torch.float32
    torch.testing.assert_close(mean, labels.nanmean(dim=0))


def test_a_face_that_cannot_be_cut_is_named():
    faces = datasets.Dataset.from_dict(
        {
            "image": [Image.new("RGB", (9, 9))] * 2,
            "landmarks": [np.ones((68, 2)).tolist()] * 2,
            "box": [[0.0, 0.0, 8.0, 8.0], [0.0, 0.0, float("nan"), 8.0]],
            "image_id": ["afw/good", "afw/bad"],
        }
    )
    crops = FaceCrops(faces, PROCESSOR)
    assert crops[0]["labels"].shape == (68, 2)
    with pytest.raises(ValueError, match=r"face afw/bad: box must be finite, but got \[0.0, 0.0, nan, 8.0\]"):
        crops[1]
