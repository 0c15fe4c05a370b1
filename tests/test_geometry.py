"""Changes of coordinates: boxes, matrices, and the one resampling, pinned to a fiftieth of a pixel."""

import cv2
import numpy as np
import pytest

from modeling_mtld.geometry_mtld import (
    check_box,
    crop_matrix,
    fit_similarity,
    fractions_to_pixels,
    invert_matrix,
    landmark_box,
    pixels_to_fractions,
    transform_points,
    warp_image,
)

SIZE = 96


def draw_dots(centers: np.ndarray, sigma: float, width: int, height: int) -> np.ndarray:
    """Photo with one round white dot at each of `centers` (N, 2), in pixels, the first pixel's centre being (0, 0)."""
    x, y = np.arange(width), np.arange(height)
    photo = np.zeros((height, width))
    for cx, cy in centers:
        photo += np.outer(np.exp(-((y - cy) ** 2) / (2 * sigma**2)), np.exp(-((x - cx) ** 2) / (2 * sigma**2)))
    return np.repeat(np.rint(255 * photo.clip(0, 1)).astype(np.uint8)[:, :, None], 3, axis=-1)


def find_dot(crop: np.ndarray, near: np.ndarray, radius: int = 9) -> np.ndarray:
    """Centre of mass of the dot around `near`."""
    column, row = np.rint(near).astype(int)
    window = crop[row - radius : row + radius + 1, column - radius : column + radius + 1, 1].astype(float)
    window = np.maximum(window - 8, 0)  # rounding to whole grey values pulls at the wide faint rim
    offsets = np.arange(-radius, radius + 1)
    return np.array([column, row]) + [window.sum(axis=0) @ offsets, window.sum(axis=1) @ offsets] / window.sum()


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("rotation", [0.0, 30.0, -77.0])
@pytest.mark.parametrize("step", [0.3, 0.8, 1.0, 1.4, 1.99, 2.0, 3.7, 5.99, 11.3])
def test_dots_land_where_the_matrix_says(step, rotation, flip):
    """`step`: photo pixels from one crop pixel to the next. Libraries' warps differ by half a pixel of either."""
    side = SIZE * step / 1.25
    box = np.array([70.3, 41.7, 70.3 + side, 41.7 + 0.8 * side])
    matrix = crop_matrix(box, SIZE, rotation=rotation, shift=(0.013, -0.021), flip=flip)
    assert 1 / np.sqrt(abs(np.linalg.det(matrix[:, :2]))) == pytest.approx(step)
    targets = np.array([[20.2, 20.7], [70.4, 24.1], [47.5, 48.0], [24.9, 72.3], [71.6, 70.8]])
    radius = 9
    if step < 1:  # a dot fills more of the crop
        targets, radius = targets[2:3], 27
    centers = transform_points(invert_matrix(matrix), targets)
    sigma = 2.2 * max(step, 1)
    moved = np.maximum(0, 5 * sigma - centers.min(axis=0))  # a rotation may have put dots beyond the photo's edge
    matrix[:, 2] -= matrix[:, :2] @ moved
    centers += moved
    width, height = np.ceil(centers.max(axis=0) + 5 * sigma).astype(int)
    crop = warp_image(draw_dots(centers, sigma, width, height), matrix, SIZE)
    for target in targets:
        np.testing.assert_allclose(find_dot(crop, target, radius), target, atol=0.02)


def test_flip_mirrors_about_the_pixels_centres():
    """In a crop of width W, pixel x is mirrored to W - 1 - x."""
    photo = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    box = (-0.5, -0.5, SIZE - 0.5, SIZE - 0.5)
    plain = warp_image(photo, crop_matrix(box, SIZE, enlargement=1), SIZE)
    flipped = warp_image(photo, crop_matrix(box, SIZE, enlargement=1, flip=True), SIZE)
    assert (plain == photo).all()
    assert (flipped == photo[:, ::-1]).all()


def test_positive_rotation_turns_clockwise():
    matrix = crop_matrix((0, 0, 10, 10), 100, enlargement=1, rotation=90)
    np.testing.assert_allclose(transform_points(matrix, [[5, 0], [10, 5]]), [[99.5, 49.5], [49.5, 99.5]], atol=1e-9)


def test_crop_is_the_enlarged_square_around_the_box():
    matrix = crop_matrix((100, 200, 180, 240), 256)
    corners = transform_points(invert_matrix(matrix), [[-0.5, -0.5], [255.5, 255.5]])
    np.testing.assert_allclose(corners, [[90, 170], [190, 270]])


def test_shift_is_a_fraction_of_the_longer_side():
    moved = crop_matrix((100, 200, 180, 240), 256, shift=(0.1, -0.05))
    np.testing.assert_allclose(moved, crop_matrix((108, 196, 188, 236), 256))


def test_round_trips():
    random = np.random.default_rng(0)
    matrix = crop_matrix((1000.25, 800.5, 1300.75, 1200.0), 256, rotation=33, shift=(0.1, 0.2), flip=True)
    points = random.uniform(900, 1300, (5, 68, 2))
    there_and_back = transform_points(invert_matrix(matrix), transform_points(matrix, points))
    np.testing.assert_allclose(there_and_back, points, atol=1e-9)
    np.testing.assert_allclose(invert_matrix(invert_matrix(matrix)), matrix, atol=1e-9)
    np.testing.assert_allclose(fractions_to_pixels(pixels_to_fractions(points, 256), 256), points, atol=1e-9)


def test_fractions_span_the_crop_from_edge_to_edge():
    assert pixels_to_fractions([-0.5, 127.5, 255.5], 256).tolist() == [0.0, 0.5, 1.0]
    assert pixels_to_fractions(np.float32([1.0]), 256).dtype == np.float64


def test_unannotated_points_stay_nan():
    matrix = crop_matrix((0, 0, 10, 10), 64, rotation=20)
    moved = transform_points(matrix, [[1.0, 2.0], [np.nan, np.nan]])
    assert np.isfinite(moved[0]).all() and np.isnan(moved[1]).all()
    assert landmark_box([[1.0, 5.0], [np.nan, np.nan], [3.0, 2.0]]).tolist() == [1.0, 2.0, 3.0, 5.0]
    with pytest.raises(ValueError, match="all 2 are NaN"):
        landmark_box(np.full((2, 2), np.nan))


@pytest.mark.parametrize(
    "box",
    [
        (0, 0, 0, 5),
        (0, 5, 5, 5),
        (5, 0, 0, 5),
        (0, 0, np.nan, 5),
        (0, 0, np.inf, 5),
        (0, 0, 5),
        [[0, 0, 5, 5]],
        "box",
        None,
        7,
        (0, 0, "x", 5),
        (0, 0, 10**400, 5),
        (0, 0, [1], 5),
        (0, 0, 1j, 5),
    ],
    ids=repr,
)
def test_bad_boxes(box):
    with pytest.raises(ValueError, match="^face 3 must"):
        check_box(box, "face 3")
    with pytest.raises(ValueError, match="^box must"):
        crop_matrix(box, 64)


# ---- shrinking


@pytest.mark.parametrize("step", [1.5, 2.0, 3.3, 7.9])
def test_shrinking_averages_instead_of_skipping_pixels(step):
    """A chequerboard of single pixels turns grey; a bilinear warp alone would show a moiré pattern."""
    side = int(SIZE * step) + 8
    y, x = np.mgrid[0:side, 0:side]
    photo = np.repeat((255 * ((x + y) % 2)).astype(np.uint8)[:, :, None], 3, axis=-1)
    box = (3.5, 3.5, 3.5 + SIZE * step, 3.5 + SIZE * step)
    matrix = crop_matrix(box, SIZE, enlargement=1)
    inside = warp_image(photo, matrix, SIZE)[2:-2, 2:-2].astype(float)
    unfiltered = cv2.warpAffine(photo, matrix, (SIZE, SIZE), flags=cv2.INTER_LINEAR)[2:-2, 2:-2].astype(float)
    assert abs(inside.mean() - 127.5) < 1
    assert inside.std() < 0.6 * unfiltered.std() or inside.std() < 1


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_enlarged_photo_gives_the_same_crop(factor):
    y, x = np.mgrid[0:160, 0:160] / 9.0
    photo = np.stack([np.sin(x) * np.cos(y), np.sin(x + y), np.cos(x - 2 * y)], axis=-1)
    photo = (128 + 100 * photo).astype(np.uint8)
    enlarged = cv2.resize(photo, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    box = np.array([40.2, 30.7, 110.9, 105.1])
    crops = [
        warp_image(photo, crop_matrix(box, SIZE, rotation=15), SIZE),
        warp_image(enlarged, crop_matrix((box + 0.5) * factor - 0.5, SIZE, rotation=15), SIZE),
    ]
    difference = np.abs(crops[0].astype(int) - crops[1])
    assert difference.max() <= 8 and difference.mean() < 1.5


# ---- edges


def test_outside_the_photo_is_black():
    photo = np.full((40, 60, 3), 200, np.uint8)
    crop = warp_image(photo, crop_matrix((-40, -40, 39, 39), 80, enlargement=1), 80)
    assert (crop[:38, :] == 0).all() and (crop[:, :38] == 0).all() and (crop[42:, 42:] == 200).all()
    assert (warp_image(photo, crop_matrix((500, 500, 600, 600), 80), 80) == 0).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (3, 2), (40, 40_000), (40_000, 40)])
@pytest.mark.parametrize("side", [0.05, 1.0, 37.3, 1000.0, 100_000.0])
def test_photos_and_boxes_of_any_size(shape, side):
    """OpenCV's warp refuses images of 32,768 pixels and more; the photo is cut and shrunk before."""
    photo = np.full((*shape, 3), 255, np.uint8)
    box = np.array([-side / 2, -side / 2, side / 2, side / 2]) + 0.1
    crop = warp_image(photo, crop_matrix(box, 32, rotation=10), 32)
    assert crop.shape == (32, 32, 3) and crop.dtype == np.uint8
    if side < 1:
        assert (crop > 150).all()  # near the photo's corner it fades to the black outside


def test_photo_is_not_changed_and_may_be_a_read_only_view():
    photo = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    copy = photo.copy()
    photo.flags.writeable = False
    for view in (photo, photo[::-1], photo[:, ::-1, ::-1], photo[::2, ::2]):
        for size in (16, 256):
            matrix = crop_matrix((10, 10, 130, 90), size)
            assert (warp_image(view, matrix, size) == warp_image(view.copy(), matrix, size)).all()
    assert (photo == copy).all()


def test_only_what_the_crop_shows_is_touched():
    """The cut-out before the warp leaves no seam: the crop is that of the whole photo warped at once."""
    photo = np.random.default_rng(1).integers(0, 256, (400, 500, 3), dtype=np.uint8)
    matrix = crop_matrix((201.3, 150.8, 240.1, 190.2), SIZE, rotation=21)
    whole = cv2.warpAffine(photo, matrix, (SIZE, SIZE), flags=cv2.INTER_LINEAR)
    assert np.abs(warp_image(photo, matrix, SIZE).astype(int) - whole).max() <= 8  # OpenCV rounds to 1/32 of a pixel


FACE = np.array([[30.0, 40.0], [70.0, 38.0], [52.0, 60.0], [38.0, 80.0], [66.0, 79.0]])


@pytest.mark.parametrize("rotation", [0, 20, 90, 180, -135])
def test_a_similarity_is_found_again(rotation):
    matrix = crop_matrix((13, 17, 71, 102), 256, rotation=rotation, shift=(0.1, -0.2))
    np.testing.assert_allclose(fit_similarity(FACE, transform_points(matrix, FACE)), matrix, atol=1e-9)
    there = fit_similarity(FACE, transform_points(matrix, FACE))
    back = fit_similarity(transform_points(matrix, FACE), FACE)
    np.testing.assert_allclose(transform_points(back, transform_points(there, FACE)), FACE, atol=1e-9)


def test_a_similarity_leaves_out_points_that_are_not_annotated():
    matrix = crop_matrix((13, 17, 71, 102), 64, rotation=30)
    points, targets = FACE.copy(), transform_points(matrix, FACE)
    points[0], targets[3] = np.nan, [np.nan, 5]
    np.testing.assert_allclose(fit_similarity(points, targets), matrix, atol=1e-9)
    np.testing.assert_allclose(fit_similarity(points[1:3], targets[1:3]), matrix, atol=1e-9)


def test_a_similarity_is_the_nearest_and_no_mirror():
    """scikit-image, which fits by singular values, finds the same; mirrored targets are turned to, not mirrored."""
    from skimage.transform import SimilarityTransform

    targets = crop_matrix((0, 0, 90, 90), 64, rotation=50) @ np.vstack([FACE.T, np.ones(5)])
    targets = targets.T + np.random.default_rng(0).normal(0, 3, FACE.shape)
    expected = SimilarityTransform.from_estimate(FACE, targets).params[:2]
    np.testing.assert_allclose(fit_similarity(FACE, targets), expected, atol=1e-9)
    assert np.linalg.det(fit_similarity(FACE, FACE * [-1, 1])[:, :2]) > 0


@pytest.mark.parametrize(
    "points, targets, culprit",
    [
        (FACE, FACE[:4], r"both be \(K, 2\), but got \(5, 2\) and \(4, 2\)"),
        (FACE.T, FACE.T, r"both be \(K, 2\)"),
        (FACE[:1], FACE[:1], "must hold two .*, but got 1 of 1"),
        (FACE * [[1], [1], [np.nan], [np.nan], [np.nan]], FACE * [[np.nan], [1], [1], [1], [1]], "got 1 of 5"),
        (FACE * 0, FACE, "no turn and scale"),
        (FACE * 0 + 4000.1, FACE, "no turn and scale"),
        (FACE, FACE * 0 + 4000.1, "no turn and scale"),
        ([[1, 0], [0, 1], [-1, 0], [0, -1]], [[-1, 0], [0, 1], [1, 0], [0, -1]], "no turn and scale"),
    ],
)
def test_points_that_tell_no_similarity_are_refused(points, targets, culprit):
    with pytest.raises(ValueError, match=culprit):
        fit_similarity(points, targets)
