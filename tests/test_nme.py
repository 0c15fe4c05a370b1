"""The metric: values worked out by hand, what it refuses, and its life inside `evaluate`."""

import doctest
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
NME_FOLDER = ROOT / "space" / "nme"
NAN = float("nan")


@pytest.fixture
def metric(tmp_path):
    return evaluate.load(str(NME_FOLDER), cache_dir=str(tmp_path))


@pytest.fixture
def module(metric):
    return sys.modules[type(metric).__module__]


def toy_faces():
    """Two faces, three points. Errors over the normaliser: (0.5, 0, unannotated) and (0.1, 0.2, 0.3)."""
    references = np.array([[[0, 0], [10, 0], [NAN, NAN]], [[1, 1], [2, 2], [3, 3]]], dtype=np.float64)
    offsets = np.array([[[3, 4], [0, 0], [0, 0]], [[2, 0], [0, -4], [6, 0]]], dtype=np.float64)
    return {
        "predictions": np.nan_to_num(references, nan=99.0) + offsets,
        "references": references,
        "normalizers": np.array([10.0, 20.0]),
    }


def perfect_faces(count, points=4):
    references = np.arange(count * points * 2, dtype=np.float64).reshape(count, points, 2)
    return {"predictions": references.copy(), "references": references, "normalizers": np.ones(count)}


def faces_with_errors(errors):
    """One point a face, off by the given fraction of a normaliser of 1."""
    faces = perfect_faces(len(errors), points=1)
    faces["references"][:] = 0
    faces["predictions"][:] = 0
    faces["predictions"][:, 0, 1] = errors
    return faces


def test_hand_computed_values(module):
    scores = module.compute_nme(
        **toy_faces(), failure_threshold=0.22, auc_threshold=0.4, per_landmark=True, per_face=True
    )
    assert scores["per_face"] == pytest.approx([0.25, 0.2])
    assert scores["nme"] == pytest.approx(0.225)
    assert scores["failure_rate"] == 0.5
    assert scores["auc"] == pytest.approx((0.375 + 0.5) / 2)
    assert scores["per_landmark"] == pytest.approx([0.3, 0.1, 0.3])


def test_each_face_counts_alike_however_many_points_it_has(module):
    faces = perfect_faces(2)
    faces["predictions"][0] += [0.3, 0.4]
    faces["references"][0, 1:] = NAN
    assert module.compute_nme(**faces)["nme"] == pytest.approx(0.25)


def test_point_with_one_nan_coordinate_is_unannotated(module):
    faces = toy_faces()
    faces["references"][0, 0, 1] = NAN
    assert module.compute_nme(**faces, per_face=True)["per_face"] == pytest.approx([0.0, 0.2])


def test_landmark_that_no_face_has_is_nan(module):
    faces = toy_faces()
    faces["references"][:, 2] = NAN
    assert module.compute_nme(**faces, per_landmark=True)["per_landmark"] == pytest.approx(
        [0.3, 0.1, NAN], nan_ok=True
    )


def test_perfect_prediction(module):
    assert module.compute_nme(**perfect_faces(3)) == {"nme": 0.0, "failure_rate": 0.0, "auc": 1.0}


def test_default_thresholds_are_eight_percent_and_failing_means_exceeding(module):
    scores = module.compute_nme(**faces_with_errors([0.0, 0.04, 0.08, 0.0801]))
    assert scores["failure_rate"] == 0.25
    assert scores["auc"] == pytest.approx((1 + 0.5 + 0 + 0) / 4)


def test_thresholds_are_independent(module):
    scores = module.compute_nme(**faces_with_errors([0.05, 0.15]), failure_threshold=0.01, auc_threshold=0.2)
    assert scores["failure_rate"] == 1.0
    assert scores["auc"] == pytest.approx((0.75 + 0.25) / 2)


def test_auc_is_the_area_under_the_curve(module):
    errors = np.random.default_rng(0).uniform(0, 0.2, size=50)
    grid = np.linspace(0, 0.1, 200_001)
    curve = np.searchsorted(np.sort(errors), grid, side="right") / len(errors)
    area = np.trapezoid(curve, grid) / 0.1
    assert module.compute_nme(**faces_with_errors(errors), auc_threshold=0.1)["auc"] == pytest.approx(area, abs=1e-5)


@pytest.mark.parametrize("points", [1, 19, 98])
def test_any_number_of_points(metric, points):
    assert metric.compute(**perfect_faces(2, points))["nme"] == 0.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"predictions": np.zeros((2, 4, 2))}, r"predictions must have the shape .*\(2, 3, 2\).* got \(2, 4, 2\)"),
        ({"predictions": np.zeros((3, 3, 2))}, r"predictions must have the shape .* got \(3, 3, 2\)"),
        ({"references": np.zeros((2, 6))}, r"references must be .*\(faces, points, 2\).* got shape \(2, 6\)"),
        ({"references": np.zeros((2, 3, 3))}, r"references must be .* got shape \(2, 3, 3\)"),
        ({"references": np.zeros((0, 3, 2))}, r"references must be .* got shape \(0, 3, 2\)"),
        ({"references": [[[0, 0]], [[0, 0], [1, 1]]]}, "references must be numbers of shape"),
        ({"predictions": "points"}, "predictions must be numbers of shape"),
        ({"predictions": [[[0, 0]] * 3, [[0, 0], [0, NAN], [0, 0]]]}, "predictions .* got nan at face 1, point 1"),
        ({"predictions": [[[0, 0]] * 3, [[0, 0], [0, 0], [np.inf, 0]]]}, "predictions .* got inf at face 1, point 2"),
        ({"references": [[[0, 0]] * 3, [[0, 0], [0, np.inf], [0, 0]]]}, "references .* got inf at face 1, point 1"),
        ({"references": [[[0, 0]] * 3, [[NAN, NAN]] * 3]}, "references .* only NaN for face 1"),
        ({"normalizers": [1.0]}, r"normalizers must be one number a face, shape \(2,\), but got shape \(1,\)"),
        ({"normalizers": 1.0}, r"normalizers .* got shape \(\)"),
        ({"normalizers": [[1.0], [1.0]]}, r"normalizers .* got shape \(2, 1\)"),
        ({"normalizers": [1.0, 0.0]}, "normalizers must be positive and finite, but got 0.0 for face 1"),
        ({"normalizers": [-2.0, 1.0]}, "normalizers .* got -2.0 for face 0"),
        ({"normalizers": [1.0, NAN]}, "normalizers .* got nan for face 1"),
        ({"normalizers": [np.inf, 1.0]}, "normalizers .* got inf for face 0"),
        ({"failure_threshold": 0}, "failure_threshold must be a positive fraction, but got 0"),
        ({"auc_threshold": NAN}, "auc_threshold must be a positive fraction, but got nan"),
        ({"auc_threshold": "8 %"}, "auc_threshold must be .* '8 %'"),
    ],
)
def test_bad_input_is_named(module, changes, message):
    with pytest.raises(ValueError, match=message):
        module.compute_nme(**{**toy_faces(), **changes})


def test_metric_passes_the_message_on_and_stays_usable(metric):
    with pytest.raises(ValueError, match="got 0.0 for face 1"):
        metric.compute(**{**toy_faces(), "normalizers": [1.0, 0.0]})
    with pytest.raises(ValueError, match="normalizers"):
        metric.compute(predictions=toy_faces()["predictions"], references=toy_faces()["references"])
    assert metric.compute(**toy_faces())["nme"] == pytest.approx(0.225)


def test_metric_equals_the_function_to_the_last_bit(metric, module):
    generator = np.random.default_rng(1)
    references = generator.uniform(0, 256, size=(7, 29, 2))
    predictions = references + generator.normal(size=references.shape)
    references[generator.random((7, 29)) < 0.3] = NAN
    faces = {"predictions": predictions, "references": references, "normalizers": generator.uniform(50, 100, size=7)}
    options = {"failure_threshold": 0.01, "auc_threshold": 0.05, "per_landmark": True, "per_face": True}
    assert metric.compute(**faces, **options) == module.compute_nme(**faces, **options)


def test_float64_survives_the_metric(metric):
    """In float32 a coordinate near 1000 moves in steps of 6e-5, so the difference would vanish or grow."""
    faces = perfect_faces(2)
    faces["references"] += 1000
    faces["predictions"] = faces["references"] + [1e-9, 0]
    assert metric.compute(**faces)["nme"] == pytest.approx(1e-9, rel=1e-3)


def test_incremental_use(metric):
    faces = toy_faces()
    expected = metric.compute(**faces)
    for prediction, reference, normalizer in zip(*faces.values(), strict=True):
        metric.add(prediction=prediction, reference=reference, normalizers=normalizer)
    assert metric.compute() == expected
    metric.add_batch(**{name: values[:1] for name, values in faces.items()})
    metric.add_batch(**{name: values[1:] for name, values in faces.items()})
    assert metric.compute() == expected


def marked_faces(points: int):
    """Two faces of random points in 100 x 100, each off by 1 in x."""
    references = np.random.default_rng(points).uniform(0, 100, (2, points, 2))
    return {"predictions": references + [1, 0], "references": references}


@pytest.mark.parametrize(
    "points, kind, length",
    [
        (68, "inter-ocular", lambda face: np.linalg.norm(face[36] - face[45])),
        (98, "inter-ocular", lambda face: np.linalg.norm(face[60] - face[72])),
        (29, "inter-ocular", lambda face: np.linalg.norm(face[8] - face[9])),
        (68, "inter-pupil", lambda face: np.linalg.norm(face[36:42].mean(axis=0) - face[42:48].mean(axis=0))),
        (98, "inter-pupil", lambda face: np.linalg.norm(face[96] - face[97])),
        (5, "box", lambda face: np.sqrt(np.ptp(face[:, 0]) * np.ptp(face[:, 1]))),
        (5, "diagonal", lambda face: np.hypot(np.ptp(face[:, 0]), np.ptp(face[:, 1]))),
    ],
)
def test_normalizers_are_computed_from_the_references(metric, points, kind, length):
    faces = marked_faces(points)
    lengths = [length(face) for face in faces["references"]]
    expected = metric.compute(**faces, normalizers=lengths)
    assert expected["nme"] == pytest.approx(np.mean([1 / value for value in lengths]))
    assert metric.compute(**faces, normalizer=kind) == pytest.approx(expected)
    metric.add_batch(**faces)
    assert metric.compute(normalizer=kind) == pytest.approx(expected)
    for prediction, reference in zip(*faces.values(), strict=True):
        metric.add(prediction=prediction, reference=reference)
    assert metric.compute(normalizer=kind) == pytest.approx(expected)


def test_a_box_is_that_of_the_annotated_points(module):
    face = [[0, 0], [8, 2], [NAN, NAN]]
    assert module.face_normalizers([face], "box").tolist() == [4.0]


@pytest.mark.parametrize(
    "points, options, message",
    [
        (5, {"normalizer": "inter-ocular"}, "the inter-ocular distance must be that of 29, 68, 98 points a face, but"),
        (68, {"normalizer": "interocular"}, "normalizer must be one of inter-ocular, inter-pupil, box, diagonal, but"),
        (68, {}, "either normalizers .* must be given or normalizer, such as 'inter-ocular'"),
        (68, {"normalizer": "box", "normalizers": [1.0, 1.0]}, "either normalizers"),
    ],
)
def test_a_normalizer_that_cannot_be_computed_is_named(metric, module, points, options, message):
    for score in (metric.compute, module.compute_nme):
        with pytest.raises(ValueError, match=message):
            score(**marked_faces(points), **options)


def test_a_face_without_the_points_of_its_normalizer_is_named(module):
    faces = marked_faces(68)
    faces["references"][1, 36] = NAN
    with pytest.raises(ValueError, match="normalizers must be positive and finite, but got nan for face 1"):
        module.compute_nme(**faces, normalizer="inter-ocular")


def test_result_can_be_saved_as_json(metric):
    scores = metric.compute(**perfect_faces(2), per_landmark=True, per_face=True)
    assert json.loads(json.dumps(scores)) == scores


def test_loads_offline_in_a_fresh_process(tmp_path):
    """From the repository by its relative path, and from elsewhere by the absolute one."""
    code = (
        "import evaluate, os, sys\nnan = float('nan')\nfor folder, path in zip(sys.argv[1::2], sys.argv[2::2]):\n"
        "    os.chdir(folder); metric = evaluate.load(path); print(metric.name, "
        "metric.compute(predictions=[[[0, 1], [5, 5]]], references=[[[0, 0], [nan, nan]]], normalizers=[4])['nme'])"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", code, ROOT, "space/nme", tmp_path, NME_FOLDER]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["nme", "0.25"] * 2


def test_every_import_is_on_a_line_of_its_own():
    """`evaluate` reads one import a line and checks that it can be imported; `import a, b` would look for `a,`."""
    imports = re.findall(r"^(?:import|from) .*$", (NME_FOLDER / "nme.py").read_text(), flags=re.MULTILINE)
    assert imports
    assert not [line for line in imports if "," in line or "(" in line]


def test_examples_of_the_description(metric, module, monkeypatch):
    monkeypatch.chdir(ROOT)
    examples = doctest.DocTestParser().get_doctest(
        metric.inputs_description, {"evaluate": evaluate}, "inputs_description", None, 0
    )
    assert examples.examples
    assert doctest.DocTestRunner().run(examples).failed == 0


def test_space_card():
    _, front_matter, text = (NME_FOLDER / "README.md").read_text().split("---\n", 2)
    assert "sdk: gradio" in front_matter
    assert "- evaluate\n- metric\n" in front_matter
    for option in ("normalizers", "failure_threshold", "auc_threshold", "per_landmark", "per_face"):
        assert f"`{option}`" in text
