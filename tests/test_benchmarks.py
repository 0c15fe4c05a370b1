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
    for parts in benchmark.subsets.values():
        assert set(parts.split("+")) <= benchmark.splits.keys()


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
    assert benchmark.subsets["full"] == "common+challenging"
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


def test_a_normalizer_of_unannotated_points_is_nan():
    assert np.isnan(BENCHMARKS["300w"].normalizers(np.full((1, 68, 2), np.nan))).all()


def test_normalizers_refuse_what_they_do_not_know():
    with pytest.raises(ValueError, match=r"kind must be one of inter-ocular, inter-pupil.*'face-box'"):
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
