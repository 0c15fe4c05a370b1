import dataclasses
import io

import datasets
import numpy as np
import pytest
import torch
from hostile_files import sideways_exif
from PIL import Image

from dataset_scripts import BENCHMARKS
from dataset_scripts.augmentation import Augmentation, FaceCrops, FaceStream, box_margins, mean_face
from dataset_scripts.benchmark_facts import subset_names
from modeling_mtld.geometry_mtld import crop_matrix, fractions_to_pixels, invert_matrix, transform_points
from modeling_mtld.image_processing_mtld import MTLDImageProcessor

SIZE = 64
W300 = BENCHMARKS["300w"]
PAIRS = W300.flip_pairs
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
            "landmark_box": [20.0, 20.0, 100.0, 90.0],
            "box": [np.nan] * 4,
            "image_id": f"afw/{index}",
        }
        for index in range(count)
    ]


def batches(faces, epoch, workers, seed=7, size=2):
    crops = FaceCrops(faces, PROCESSOR, W300, Augmentation(), seed)
    crops.set_epoch(epoch)
    return list(torch.utils.data.DataLoader(crops, batch_size=size, num_workers=workers))


def same(first, second):
    return all(torch.equal(a[key], b[key]) for a, b in zip(first, second, strict=True) for key in a)


def test_draws_depend_on_seed_epoch_and_face_alone():
    faces = noise_faces()
    here = batches(faces, epoch=3, workers=0)
    assert same(here, batches(faces, epoch=3, workers=0))
    assert same(here, batches(faces, epoch=3, workers=2))
    for other in (batches(faces, epoch=4, workers=0), batches(faces, epoch=3, workers=0, seed=8)):
        assert all(not torch.equal(a["pixel_values"], b["pixel_values"]) for a, b in zip(here, other))
        assert all(not torch.equal(a["labels"], b["labels"]) for a, b in zip(here, other))
    backwards = FaceCrops(faces[::-1], PROCESSOR, W300, Augmentation(), 7)
    backwards.set_epoch(3)
    assert torch.equal(backwards[len(faces) - 1]["pixel_values"], here[0]["pixel_values"][0])
    other = faces[0] | {"landmarks": faces[0]["landmarks"] + 1}  # another face of the photo
    items = [FaceCrops([face], PROCESSOR, W300, Augmentation())[0] for face in (faces[0], other)]
    assert not torch.equal(items[0]["pixel_values"], items[1]["pixel_values"])


def test_a_stream_gives_the_same_crops_whatever_the_workers():
    faces = noise_faces()
    table = datasets.Dataset.from_list([face | {"landmarks": face["landmarks"].tolist()} for face in faces])
    streams = [FaceStream(table.to_iterable_dataset(3), PROCESSOR, W300, Augmentation(), 7) for _ in range(2)]
    here = [{"pixel_values": b["pixel_values"][0]} for b in batches(faces, epoch=3, workers=0, size=1)]
    for workers, stream in enumerate(streams):
        stream.set_epoch(3)
        items = list(torch.utils.data.DataLoader(stream, batch_size=None, num_workers=2 * workers))
        same_crops = [[torch.equal(item["pixel_values"], b["pixel_values"]) for b in here] for item in items]
        assert len(items) == len(here) and np.array(same_crops).sum(axis=0).tolist() == [1] * len(here)


def test_a_face_of_a_stream_that_cannot_be_read_is_placed():
    def faces():
        yield noise_faces(1)[0]
        raise SyntaxError("broken PNG")

    stream = iter(FaceStream(faces(), PROCESSOR, W300))
    next(stream)
    with pytest.raises(ValueError, match="the face after afw/0 must be readable, but got SyntaxError: broken PNG"):
        next(stream)


def test_a_face_of_a_stream_that_cannot_be_cut_is_named():
    face = noise_faces(1)[0] | {"landmark_box": [5.0, 5.0, 5.0, 9.0]}
    with pytest.raises(ValueError, match=r"face afw/0: box must have x1 > x0"):
        next(iter(FaceStream([face], PROCESSOR, W300)))


@pytest.mark.parametrize("persistent", [True, False])
def test_epoch_reaches_workers(persistent):
    faces = noise_faces(4)
    crops = FaceCrops(faces, PROCESSOR, W300, Augmentation(), 7)
    loader = torch.utils.data.DataLoader(crops, batch_size=2, num_workers=1, persistent_workers=persistent)
    for epoch in (0, 5):
        crops.set_epoch(epoch)
        assert same(list(loader), batches(faces, epoch, workers=0))


def test_no_face_is_mirrored_after_the_last_epoch_with_flip():
    faces = noise_faces(8)
    crops = FaceCrops(faces, PROCESSOR, W300, Augmentation(rotation_probability=0), 7, flip_epochs=3)
    right, left = W300.flip_pairs[0]

    def is_mirrored(face, item) -> bool:
        """They have changed places: upright, the one that was higher is lower now."""
        before, after = (points[right][1] > points[left][1] for points in (face["landmarks"], item["labels"]))
        return bool(before != after)

    mirrored = {}
    for epoch in (2, 3):
        crops.set_epoch(epoch)
        mirrored[epoch] = {is_mirrored(face, crops[index]) for index, face in enumerate(faces)}
    assert mirrored == {2: {True, False}, 3: {False}}


@pytest.mark.parametrize("field", [{"rotation": -1}, {"box_jitter": 0.5}, {"flip_probability": float("nan")}])
def test_ranges_and_probabilities_are_checked(field):
    with pytest.raises(ValueError, match=f"{next(iter(field))} must be from 0 to"):
        Augmentation(**field)


def test_box_jitter_moves_each_edge_by_itself():
    kind, rng, box = (
        dataclasses.replace(STILL, box_jitter=0.1),
        np.random.default_rng(0),
        np.array([20.0, 20, 100, 90]),
    )
    sides, centres = [], []
    for _ in range(2000):
        matrix, _ = kind.matrix(box, SIZE, 1.25, rng)
        sides.append(SIZE / matrix[0, 0] / 1.25)
        centres.append((transform_points(invert_matrix(matrix), [(SIZE - 1) / 2] * 2) - [60, 55]) / [80, 70])
    assert 64 <= min(sides) < 68 and 94 < max(sides) <= 96
    assert 0.09 < np.abs(centres).max() <= 0.1 and abs(np.corrcoef(np.transpose(centres))[0, 1]) < 0.1


def test_box_of_an_unchanged_face_comes_along_in_fractions():
    item = FaceCrops(noise_faces(1), PROCESSOR, W300)[0]
    torch.testing.assert_close(item["boxes"], torch.tensor([0.1, 0.15, 0.9, 0.85]))
    assert "boxes" not in FaceCrops(noise_faces(1), PROCESSOR, W300, Augmentation())[0]


def test_box_stays_that_of_the_face_where_the_crop_moves():
    """In the fractions of the moved crop, so that errors there are divided by the true size of the face."""
    face = noise_faces(1)[0]
    face["landmarks"][:2] = [[20, 20], [100, 90]]
    moved, plain = (
        FaceCrops([face], PROCESSOR, W300, kind)[0]
        for kind in (dataclasses.replace(STILL, scale=0.2, shift=0.2, box_jitter=0.1), None)
    )
    torch.testing.assert_close(moved["boxes"], moved["labels"][:2].flatten())
    torch.testing.assert_close(plain["boxes"], plain["labels"][:2].flatten())
    assert (moved["boxes"] - plain["boxes"]).abs().max() > 0.01


@pytest.mark.parametrize("kind", [{"rotation": 30.0, "rotation_probability": 1.0}, {"flip_probability": 1.0}])
def test_a_turned_or_mirrored_face_has_no_box(kind):
    assert "boxes" not in FaceCrops(noise_faces(1), PROCESSOR, W300, dataclasses.replace(STILL, **kind))[0]


def test_faces_tell_which_subsets_they_are_in():
    """By columns alone: "full" is a union of splits. Sources that lack a column, or a value, are in none."""
    assert subset_names(W300) == ("indoor", "outdoor")
    values = ["outdoor", "indoor", "helen", None]
    faces = [face | {"source": value} for face, value in zip(noise_faces(5), values)] + noise_faces(5)[4:]
    expected = torch.tensor([[0, 1], [1, 0], [0, 0], [0, 0], [0, 0]], dtype=torch.bool)
    batch = next(iter(torch.utils.data.DataLoader(FaceCrops(faces, PROCESSOR, W300), batch_size=5)))
    assert batch["subsets"].dtype == torch.bool and torch.equal(batch["subsets"], expected)
    stream = torch.utils.data.DataLoader(FaceStream(faces, PROCESSOR, W300), batch_size=5)
    assert torch.equal(next(iter(stream))["subsets"], expected)
    assert "subsets" not in FaceCrops(faces, PROCESSOR, W300, Augmentation())[0]


def test_subsets_of_flags_and_of_a_set_without_any():
    wflw = BENCHMARKS["wflw"]
    face = noise_faces(1, np.ones((1, 98, 2)))[0] | {"blur": True, "pose": np.bool_(True), "makeup": False}
    subsets = FaceCrops([face], PROCESSOR, wflw)[0]["subsets"]
    assert [name for name, inside in zip(subset_names(wflw), subsets) if inside] == ["pose", "blur"]
    cofw = noise_faces(1, np.ones((1, 29, 2)))
    assert "subsets" not in FaceCrops(cofw, PROCESSOR, BENCHMARKS["cofw"])[0]


def test_types_and_shapes():
    item = FaceCrops(noise_faces(1), PROCESSOR, W300, Augmentation())[0]
    assert item["pixel_values"].shape == (3, SIZE, SIZE) and item["pixel_values"].dtype == torch.float32
    assert item["labels"].shape == (68, 2) and item["labels"].dtype == torch.float32


def test_without_augmentation_a_face_is_what_the_processor_makes_of_its_box():
    face = noise_faces(1)[0]
    item = FaceCrops([face], PROCESSOR, W300)[0]
    inputs = PROCESSOR(face["image"], boxes=[face["landmark_box"]], return_tensors="pt")
    assert torch.equal(item["pixel_values"], inputs["pixel_values"][0])
    back = fractions_to_pixels(item["labels"].double().numpy(), SIZE)
    np.testing.assert_allclose(
        transform_points(invert_matrix(inputs["matrices"][0]), back), face["landmarks"], atol=1e-4
    )


def test_processors_own_settings_are_followed():
    processor = MTLDImageProcessor(size=96, box_enlargement=1.6, image_mean=[0.1, 0.2, 0.3])
    face = noise_faces(1)[0]
    inputs = processor(face["image"], boxes=[face["landmark_box"]], return_tensors="pt")
    assert torch.equal(FaceCrops([face], processor, W300)[0]["pixel_values"], inputs["pixel_values"][0])


def test_grey_photo_becomes_three_channels():
    face = noise_faces(1)[0]
    item = FaceCrops([face | {"image": face["image"].convert("L")}], PROCESSOR, W300)[0]
    pixels = item["pixel_values"] * torch.tensor(PROCESSOR.image_std)[:, None, None]
    pixels += torch.tensor(PROCESSOR.image_mean)[:, None, None]
    torch.testing.assert_close(pixels[0], pixels[1])
    torch.testing.assert_close(pixels[0], pixels[2])


# Geometry ---------------------------------------------------------------------------------------------------------


def dot_photo(points, sigma, shape):
    """Dots of light at points, each brighter than the one before."""
    dots = sum((150 + 25 * index) * gaussian(point, sigma, shape)[0] for index, point in enumerate(points))
    return Image.fromarray(np.repeat(dots.round().astype(np.uint8)[:, :, None], 3, axis=2))


def gaussian(center, sigma, shape):
    """Its values, and the x and y of each pixel from its centre."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    x, y = x - center[0], y - center[1]
    return np.exp(-(x**2 + y**2) / (2 * sigma**2)), x, y


def find_dots(pixel_values, expected, sigma):
    """Centres (n, 2) and brightness (n,) of the dots near each of the places (n, 2), in pixels of the crop: Gaussians
    fitted by least squares, which the rounding to grey values moves by some thousandths of a pixel."""
    light = 255 * pixel_values.double().mean(dim=0).numpy()
    centers, brightness = np.array(expected), []
    for center in centers:
        for _ in range(4):
            dot, x, y = gaussian(center, sigma, light.shape)
            height = (light * dot).sum() / (dot * dot).sum()
            rest = (light - height * dot) * dot
            moves = [(rest * axis).sum() / (dot * axis).ravel().dot((dot * axis).ravel()) for axis in (x, y)]
            center += np.array(moves) * sigma**2 / height
        brightness.append(height)
    return centers, np.array(brightness)


@pytest.mark.parametrize("zoom, size", [(1, 256), (1, 400), (3, 256)])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"flip_probability": 1.0},
        {"rotation": 30.0, "rotation_probability": 1.0},
        {"box_jitter": 0.1},
        {"rotation": 30.0, "rotation_probability": 1.0, "scale": 0.2, "shift": 0.05, "flip_probability": 1.0},
    ],
)
def test_dots_are_where_the_labels_say_to_a_hundredth_of_a_pixel(change, zoom, size):
    """The photo's resampling and the labels' transformation agree; in a mirrored face partners have changed places."""
    sigma = 6.0 * zoom  # 6 pixels of the crop or so: smaller dots look different from place to place
    points = zoom * np.array([[260.3, 240.0], [370.0, 247.6], [269.7, 350.2], [356.0, 345.5], [311.5, 294.0]])
    box = zoom * np.array([200.0, 180.0, 420.0, 400.0])
    photo = dot_photo(points, sigma, (600 * zoom, 640 * zoom))
    face = {"image": photo, "landmarks": points, "landmark_box": box, "box": [np.nan] * 4, "image_id": "dots"}
    five = dataclasses.replace(W300, landmark_names=tuple("abcde"), flip_pairs=((0, 1), (2, 3)))
    processor = MTLDImageProcessor(size=size, do_normalize=False)
    crops = FaceCrops([face], processor, five, dataclasses.replace(STILL, **change))
    for epoch in range(4):
        crops.set_epoch(epoch)
        item = crops[0]
        labels = fractions_to_pixels(item["labels"].double().numpy(), size)
        partners = [1, 0, 3, 2, 4] if "flip_probability" in change else [0, 1, 2, 3, 4]
        scale = np.linalg.norm(labels[0] - labels[3]) / np.linalg.norm(points[partners[0]] - points[partners[3]])
        found, brightness = find_dots(item["pixel_values"], labels, sigma * scale)
        assert np.abs(found - labels).max() < 0.01
        assert np.argsort(brightness).tolist() == partners


def test_mirrored_face_is_the_mirrored_photo_with_landmarks_in_changed_places():
    points = np.random.default_rng(3).uniform([30, 20], [90, 90], (68, 2))
    face = noise_faces(1, points[None])[0]
    mirrored = dataclasses.replace(STILL, flip_probability=1.0)
    flipped, plain = (FaceCrops([face], PROCESSOR, W300, kind)[0] for kind in (mirrored, STILL))
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
        labels = FaceCrops([face], PROCESSOR, W300, kind)[0]["labels"]
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
    changed, plain = (FaceCrops(noise_faces(1), PROCESSOR, W300, kind)[0] for kind in kinds)
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


def test_small_occlusions():
    kind = dataclasses.replace(STILL, occlusion_probability=1.0, occlusion_size=0.05)
    changed = kind.change_pixels(np.full((SIZE, SIZE, 3), 128, dtype=np.uint8), np.random.default_rng(0))
    assert 0 < (changed != 128).any(axis=2).sum() <= (0.05 * SIZE) ** 2


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
    columns = {
        "landmark_box": [[20.0, 20.0, 100.0, 90.0]] * 3,
        "box": [[np.nan] * 4] * 3,
        "landmarks": points.tolist(),
    }
    faces = datasets.Dataset.from_dict(columns)
    mean = mean_face(faces, W300)
    assert torch.equal(mean, mean_face(faces.to_iterable_dataset(), W300))
    labels = torch.stack([FaceCrops(noise_faces(3, points), PROCESSOR, W300)[index]["labels"] for index in range(3)])
    assert mean.dtype == torch.float32
    torch.testing.assert_close(mean, labels.nanmean(dim=0))


def test_a_face_that_cannot_be_cut_is_named():
    faces = datasets.Dataset.from_dict(
        {
            "image": [Image.new("RGB", (9, 9))] * 2,
            "landmarks": [np.ones((68, 2)).tolist()] * 2,
            "landmark_box": [[0.0, 0.0, 8.0, 8.0], [0.0, 0.0, float("nan"), 8.0]],
            "box": [[np.nan] * 4] * 2,
            "image_id": ["afw/good", "afw/bad"],
        }
    )
    crops = FaceCrops(faces, PROCESSOR, W300)
    assert crops[0]["labels"].shape == (68, 2)
    with pytest.raises(ValueError, match=r"face afw/bad: box must be finite, but got \[0.0, 0.0, nan, 8.0\]"):
        crops[1]


def test_a_face_whose_photo_raises_anything_is_named():
    """PIL cannot turn it, so that `datasets` raises a TypeError."""
    stored = io.BytesIO()
    Image.new("RGB", (9, 9)).save(stored, "JPEG", exif=sideways_exif())
    columns = {"image": [{"bytes": stored.getvalue(), "path": None}], "image_id": ["afw/bad"]}
    faces = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    with pytest.raises(ValueError, match=r"face afw/bad: its photo must be readable, but got TypeError"):
        FaceCrops(faces, PROCESSOR, W300)[0]


def test_margins_of_boxes_are_medians_and_always_such_that_a_processor_takes_them():
    aflw = BENCHMARKS["aflw"]
    boxes = [[5.0, 10, 95, 90], [5.0, 10, 95, 90], [0.0, 0, 1000, 1000]]
    columns = {"landmark_box": [[15.0, 20, 95, 90]] * 3, "box": boxes, "landmarks": [[[1.0, 1]] * 19] * 3}
    assert box_margins(datasets.Dataset.from_dict(columns), aflw) == [0.125, 0.125, 0, 0]
    assert box_margins(datasets.Dataset.from_dict(columns), W300) == [0, 0, 0, 0]
    columns["landmark_box"] = [[50.0, 50, 50, 50]] * 3  # of a single landmark
    MTLDImageProcessor(box_margins=box_margins(datasets.Dataset.from_dict(columns), aflw))
