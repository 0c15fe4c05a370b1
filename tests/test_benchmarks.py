from pathlib import Path

import numpy as np
import pytest

from dataset_scripts import BENCHMARKS
from dataset_scripts.pts import read_pts

SHARED_300W = Path(__file__).resolve().parents[2] / "shared" / "data" / "300w"


@pytest.mark.parametrize("benchmark", BENCHMARKS.values(), ids=lambda b: b.name)
def test_facts_agree_with_the_number_of_landmarks(benchmark):
    count = benchmark.num_landmarks
    assert len(benchmark.landmark_names) == len(set(benchmark.landmark_names)) == count
    paired = [index for pair in benchmark.flip_pairs for index in pair]
    assert len(paired) == len(set(paired)) and set(paired) <= set(range(count))
    assert sorted(index for part in benchmark.parts.values() for index in part.indices) == list(range(count))
    for subset in benchmark.subsets.values():
        assert set(subset.splits.split("+")) <= benchmark.splits.keys()
        assert subset.faces <= sum(benchmark.splits[split] for split in subset.splits.split("+"))
        assert subset.column is None or subset.column in benchmark.columns


@pytest.mark.parametrize("benchmark", BENCHMARKS.values(), ids=lambda b: b.name)
def test_every_fact_has_its_source(benchmark):
    facts = {"landmark_names", "flip_pairs", "normalizer_kinds", "crop_box", "failure_threshold", "splits", "licence"}
    facts |= {name for name in ("subsets", "columns", "occlusion") if getattr(benchmark, name)}
    assert benchmark.sources.keys() == facts and all(benchmark.sources.values())
    assert "@" in benchmark.citation and benchmark.homepage.startswith("https://") and benchmark.licence


@pytest.mark.parametrize("benchmark", BENCHMARKS.values(), ids=lambda b: b.name)
def test_flip_pairs_join_right_and_left(benchmark):
    for pair in benchmark.flip_pairs:
        names = [benchmark.landmark_names[index] for index in pair]
        sides = {name.split("_")[0] for name in names} & {"right", "left"}
        assert sides in (set(), {"right", "left"}), names


def test_300w_names_and_splits():
    benchmark = BENCHMARKS["300w"]
    assert benchmark.landmark_names[0] == "jaw_0"
    assert benchmark.landmark_names[36] == "right_eye_0" and benchmark.landmark_names[45] == "left_eye_3"
    assert dict(benchmark.splits) == {"train": 3148, "common": 554, "challenging": 135, "private": 600}
    assert benchmark.subsets["full"].splits == "common+challenging" and benchmark.subsets["full"].faces == 689
    unpaired = set(range(68)) - {index for pair in benchmark.flip_pairs for index in pair}
    assert unpaired == {8, 27, 28, 29, 30, 33, 51, 57, 62, 66}  # the middle of the face


def test_300w_normalizers():
    landmarks = np.full((2, 68, 2), np.nan, dtype=np.float32)
    landmarks[:, 36:48] = 0
    landmarks[:, 36] = [-30, 0]
    landmarks[:, 45] = [[30, 0], [0, 40]]
    ocular = BENCHMARKS["300w"].normalizers(landmarks)
    assert ocular.dtype == np.float64
    np.testing.assert_allclose(ocular, [60, 50])
    np.testing.assert_allclose(BENCHMARKS["300w"].normalizers(landmarks, "inter-pupil"), [10, 50 / 6])


# (points, splits, subsets, who uses which eyes), from the publications and the code of HRNet, PIPNet and mmpose
PUBLISHED = {
    "300w": (68, {"train": 3148, "common": 554, "challenging": 135, "private": 600}, (36, 45)),
    "wflw": (98, {"train": 7500, "test": 2500}, (60, 72)),
    "cofw": (29, {"train": 1345, "test": 507}, (8, 9)),
    "cofw68": (68, {"test": 507}, (36, 45)),
    "aflw": (19, {"train": 20000, "test": 4386}, None),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_and_normalizers_are_the_published_ones(name):
    points, splits, eyes = PUBLISHED[name]
    benchmark = BENCHMARKS[name]
    assert benchmark.num_landmarks == points and dict(benchmark.splits) == splits
    assert benchmark.default_normalizer == ("inter-ocular" if eyes else "box")
    if eyes:
        faces = np.zeros((1, points, 2))
        faces[0, list(eyes)] = [[10, 20], [40, 60]]
        assert benchmark.normalizers(faces).tolist() == [50]
        assert {benchmark.landmark_names[index].rsplit("_", 1)[0] for index in eyes} == {"right_eye", "left_eye"}


def test_wflw_and_aflw_subsets():
    sizes = {name: subset.faces for name, subset in BENCHMARKS["wflw"].subsets.items()}
    published = {"pose": 326, "expression": 314, "illumination": 698, "makeup": 206, "occlusion": 736, "blur": 773}
    assert sizes == published
    assert BENCHMARKS["aflw"].subsets["frontal"].faces == 1314


def test_box_normalizers():
    faces, boxes = np.zeros((2, 19, 2)), [[10, 20, 40, 60], [0, 0, 50, 50]]
    np.testing.assert_allclose(BENCHMARKS["aflw"].normalizers(faces, boxes=boxes), [np.sqrt(1200), 50])
    np.testing.assert_allclose(BENCHMARKS["aflw"].normalizers(faces, "diagonal", boxes), [50, 50 * np.sqrt(2)])


def test_crop_is_made_from_the_box_that_the_benchmark_names():
    face = {"box": [1.0, 2, 30, 40], "landmark_box": [5.0, 6, 20, 30]}
    assert BENCHMARKS["aflw"].box_to_crop(face).tolist() == [1, 2, 30, 40]
    assert BENCHMARKS["wflw"].box_to_crop(face).tolist() == [5, 6, 20, 30]
    assert BENCHMARKS["aflw"].box_to_crop(face | {"box": [np.nan] * 4}).tolist() == [5, 6, 20, 30]


def test_a_normalizer_of_unannotated_points_is_nan():
    assert np.isnan(BENCHMARKS["300w"].normalizers(np.full((1, 68, 2), np.nan))).all()


def test_normalizers_refuse_what_they_do_not_know():
    with pytest.raises(ValueError, match=r"boxes must be \(1, 4\) for the normaliser box, but got \(0,\)"):
        BENCHMARKS["aflw"].normalizers(np.zeros((1, 19, 2)))
    with pytest.raises(ValueError, match=r"kind must be one of inter-ocular, inter-pupil, box, diagonal.*'face-box'"):
        BENCHMARKS["300w"].normalizers(np.zeros((1, 68, 2)), "face-box")
    with pytest.raises(ValueError, match=r"landmarks must be \(N, 68, 2\).*\(1, 98, 2\)"):
        BENCHMARKS["300w"].normalizers(np.zeros((1, 98, 2)))


@pytest.mark.skipif(not SHARED_300W.is_dir(), reason="needs ../shared/data/300w")
def test_flip_pairs_on_real_faces():
    """Mirrored by the pairs, the mean shape of many faces is itself; ocular over pupil distance is as published."""
    benchmark = BENCHMARKS["300w"]
    points = np.stack([read_pts(path, 68) for path in SHARED_300W.glob("lfpw/testset/*.pts")])
    scale = benchmark.normalizers(points)
    mean = ((points - points.mean(axis=1, keepdims=True)) / scale[:, None, None]).mean(axis=0)
    mirrored = mean * [-1, 1]
    for first, second in benchmark.flip_pairs:
        mirrored[[first, second]] = mirrored[[second, first]]
    assert np.linalg.norm(mirrored - mean, axis=1).max() < 0.1
    assert 1.38 < (scale / benchmark.normalizers(points, "inter-pupil")).mean() < 1.46
