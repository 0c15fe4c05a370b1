"""Scores of a split: values worked out by hand, intervals of known width, subsets, and what cannot be scored."""

from dataclasses import replace

import evaluate
import numpy as np
import pytest
from scipy import stats

from dataset_scripts.benchmark_facts import BOX_NORMALIZERS, Distance, Part, Subset
from dataset_scripts.benchmarks import BENCHMARKS
from training_mtld.evaluation import scores
from training_mtld.evaluation.scores import (
    METRIC,
    errors_of,
    face_normalizers,
    face_rows,
    predictions_of,
    score_faces,
    scored_names,
)

NAN = float("nan")
NAMES = ("right_eye", "left_eye", "mouth_0", "mouth_1", "chin")
TOY = replace(
    BENCHMARKS["300w"],
    name="toy",
    landmark_names=NAMES,
    flip_pairs=((0, 1), (2, 3)),
    parts={"eyes": Part((0, 1)), "mouth": Part((2, 3))},
    normalizer_kinds={"inter-ocular": Distance((0,), (1,)), "mouth": Distance((2,), (3,)), **BOX_NORMALIZERS},
    subsets={
        "full": Subset("common+challenging", 0),
        "dark": Subset("common+challenging", 0, "dark"),
        "blur": Subset("common", 0, "blur"),
        "indoor": Subset("private", 0, "source", "indoor"),
    },
)  # eyes 0.4 apart, mouth 0.2 wide, boxes 0.8 by 0.2
POINTS = np.array([[0.3, 0.4], [0.7, 0.4], [0.4, 0.7], [0.6, 0.7], [0.5, 0.9]])


def toy_faces(errors, subsets=None) -> dict[str, np.ndarray]:
    """One face an entry of `errors`, all of whose points are off by that share of the distance between the eyes."""
    errors = np.asarray(errors, dtype=np.float64)
    labels = np.tile(POINTS, (len(errors), 1, 1))
    offset = np.zeros_like(labels)
    offset[..., 1] = 0.4 * errors[:, None]
    return {
        "landmarks": labels + offset,
        "labels": labels,
        "boxes": np.tile([0.1, 0.4, 0.9, 0.6], (len(errors), 1)),
        "subsets": np.zeros((len(errors), 3), dtype=bool) if subsets is None else np.asarray(subsets, dtype=bool),
    }


def random_faces(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    faces = toy_faces(np.zeros(count), generator.random((count, 3)) < 0.5)
    faces["landmarks"] = faces["labels"] + generator.normal(scale=0.015, size=faces["labels"].shape)
    return faces


def score(faces, name: str = "common", benchmark=TOY, **options) -> dict:
    return score_faces({name: faces}, benchmark, [name], **options)[name]


def main_scores(errors, **options) -> dict:
    return score(toy_faces(errors), **options)["normalizers"]["inter-ocular"]


@pytest.fixture
def few_resamples(monkeypatch):
    monkeypatch.setattr(scores, "RESAMPLES", 20)


# Values ----------------------------------------------------------------------------------------------------------


def test_values_worked_out_by_hand():
    found = main_scores([0.02, 0.04, 0.09, 0.11])
    values = {name: entry["value"] for name, entry in found.items() if name not in ("parts", "landmarks")}
    assert values == pytest.approx(
        {
            "nme": 0.065,
            "failure_rate@8%": 0.5,
            "auc@8%": (0.75 + 0.5) / 4,
            "failure_rate@10%": 0.25,
            "auc@10%": (0.8 + 0.6 + 0.1) / 4,
            "p50": 0.065,
            "p90": 0.09 + 0.7 * 0.02,
            "p95": 0.09 + 0.85 * 0.02,
            "p99": 0.09 + 0.97 * 0.02,
        }
    )
    assert found["parts"] == pytest.approx({"eyes": 0.065, "mouth": 0.065})
    assert found["landmarks"] == pytest.approx(dict.fromkeys(NAMES, 0.065))


def test_offset_is_the_signed_mean_of_prediction_minus_annotation(few_resamples):
    faces = toy_faces([0.02, -0.05])  # of the distance between the eyes, downwards
    faces["landmarks"][..., 0] -= 0.4 * 0.01
    assert score(faces)["offset"] == pytest.approx({"x": -0.01, "y": -0.015})


def test_offset_leaves_out_what_is_not_annotated(few_resamples):
    faces = toy_faces([0.02])
    faces["landmarks"][:, 4], faces["labels"][:, 4] = 9, NAN
    assert score(faces)["offset"] == pytest.approx({"x": 0, "y": 0.02})


def test_every_layer_has_its_error(few_resamples):
    faces = toy_faces([0.02, 0.04])
    assert "layers" not in score(faces)
    estimates = [toy_faces([error, error])["landmarks"] for error in (0.3, 0.2, 0.1)]
    faces["intermediate_landmarks"] = np.stack([*estimates[1:], faces["landmarks"]], axis=1)
    assert score(faces)["layers"] == pytest.approx({"1": 0.2, "2": 0.1, "3": 0.03})
    faces["initial_landmarks"] = estimates[0]
    assert list(score(faces)["layers"]) == ["initial", "1", "2", "3"]
    assert score(faces)["layers"]["initial"] == pytest.approx(0.3)


def test_every_normaliser_the_main_one_first(few_resamples):
    found = score(toy_faces([0.05]), normalizer="box")["normalizers"]
    assert list(found) == ["box", "inter-ocular", "mouth", "diagonal"]
    values = {kind: entry["nme"]["value"] for kind, entry in found.items()}
    assert values == pytest.approx(
        {"box": 0.02 / 0.4, "inter-ocular": 0.05, "mouth": 0.1, "diagonal": 0.02 / np.hypot(0.8, 0.2)}
    )


def test_agrees_with_the_metric_through_evaluate(tmp_path, few_resamples):
    faces = random_faces(30)
    faces["labels"][:20, 4] = NAN
    metric = evaluate.load(str(METRIC), cache_dir=str(tmp_path))
    for kind, found in score(faces)["normalizers"].items():
        normalizers = TOY.normalizers(faces["labels"], kind, faces["boxes"])
        for threshold in (0.08, 0.1):
            expected = metric.compute(
                predictions=faces["landmarks"],
                references=faces["labels"],
                normalizers=normalizers,
                failure_threshold=threshold,
                auc_threshold=threshold,
                per_landmark=True,
                per_face=True,
            )
            assert found["nme"]["value"] == expected["nme"]
            assert found[f"failure_rate@{100 * threshold:g}%"]["value"] == expected["failure_rate"]
            assert found[f"auc@{100 * threshold:g}%"]["value"] == expected["auc"]
        assert list(found["landmarks"].values()) == expected["per_landmark"]
        assert errors_of(faces, TOY, kind).tolist() == expected["per_face"]


def test_threshold_of_the_benchmark_is_added(few_resamples):
    found = score(toy_faces([0.075]), benchmark=replace(TOY, failure_threshold=0.07))["normalizers"]["inter-ocular"]
    assert found["failure_rate@7%"]["value"] == 1
    assert found["failure_rate@8%"]["value"] == 0
    assert list(found).count("failure_rate@8%") == 1


def test_nme_of_a_part_is_over_the_faces_that_have_it(few_resamples):
    faces = toy_faces([0.1, 0.2, 0.3])
    faces["labels"][0, 2:4] = NAN
    faces["labels"][1, 2] = NAN
    faces["labels"][:, 4] = NAN
    found = score(faces)["normalizers"]["inter-ocular"]
    assert found["parts"] == pytest.approx({"eyes": 0.2, "mouth": 0.25})
    assert found["landmarks"] == pytest.approx(
        {"right_eye": 0.2, "left_eye": 0.2, "mouth_0": 0.3, "mouth_1": 0.25, "chin": NAN}, nan_ok=True
    )
    assert found["nme"]["value"] == pytest.approx(0.2)


def test_part_and_landmark_that_no_face_has_are_nan(few_resamples):
    faces = toy_faces([0.1, 0.2])
    faces["labels"][:, 2:4] = NAN
    found = score(faces)["normalizers"]["inter-ocular"]
    assert np.isnan([found["parts"]["mouth"], found["landmarks"]["mouth_0"]]).all()
    assert found["parts"]["eyes"] == pytest.approx(0.15)


def test_confidences_come_with_a_scale_head(few_resamples):
    faces = random_faces(100)
    assert "confidence_ratio" not in score(faces)
    errors = np.linalg.norm(faces["landmarks"] - faces["labels"], axis=-1)
    faces |= {"scores": -errors, "scales": np.full(errors.shape, 0.01)}
    found = score(faces)
    assert found["confidence_ratio"] > 3
    assert found["likelihood_gain"] < 0


# Intervals -------------------------------------------------------------------------------------------------------


def test_intervals_are_those_of_scipy():
    errors = np.random.default_rng(1).gamma(2, 0.02, size=200)
    found = main_scores(errors)
    statistics = {
        "nme": np.mean,
        "failure_rate@8%": lambda drawn, axis: (drawn > 0.08).mean(axis=axis),
        "auc@10%": lambda drawn, axis: np.clip(1 - drawn / 0.1, 0, None).mean(axis=axis),
        "p50": lambda drawn, axis: np.percentile(drawn, 50, axis=axis),
        "p90": lambda drawn, axis: np.percentile(drawn, 90, axis=axis),
        "p99": lambda drawn, axis: np.percentile(drawn, 99, axis=axis),
    }
    for name, statistic in statistics.items():
        expected = stats.bootstrap((errors,), statistic, n_resamples=4000, method="percentile", rng=0)
        low, high = expected.confidence_interval
        width = high - low
        assert found[name]["low"] == pytest.approx(low, abs=0.15 * width), name
        assert found[name]["high"] == pytest.approx(high, abs=0.15 * width), name


def test_interval_of_the_mean_has_the_width_that_theory_gives():
    errors = np.abs(np.random.default_rng(2).normal(0.05, 0.01, size=2500))
    nme = main_scores(errors)["nme"]
    assert nme["high"] - nme["low"] == pytest.approx(2 * 1.96 * errors.std() / 50, rel=0.08)
    assert nme["low"] < nme["value"] < nme["high"]


def test_interval_holds_the_truth_as_often_as_it_says(monkeypatch):
    monkeypatch.setattr(scores, "RESAMPLES", 300)
    plain = replace(TOY, normalizer_kinds={"inter-ocular": TOY.normalizer_kinds["inter-ocular"]}, parts={})
    generator = np.random.default_rng(3)
    held = {"nme": 0, "p50": 0, "failure_rate@8%": 0}
    truth = {"nme": 0.06, "p50": stats.gamma.ppf(0.5, 3, scale=0.02), "failure_rate@8%": stats.gamma.sf(4, 3)}
    for _ in range(200):
        found = main_scores(generator.gamma(3, 0.02, size=100), benchmark=plain)
        for name, value in truth.items():
            held[name] += found[name]["low"] <= value <= found[name]["high"]
    assert all(0.88 <= count / 200 <= 0.99 for count in held.values()), held


def test_intervals_depend_on_the_seed_alone():
    faces = random_faces(50)
    assert score(faces, seed=1) == score(faces, seed=1)
    assert score(faces, seed=1) != score(faces, seed=2)


def test_statistics_share_their_resampled_faces():
    """The diagonal of these boxes is one length for all faces: its intervals are those of the box, resized."""
    found = score(random_faces(40))["normalizers"]
    for statistic in ("nme", "p50", "p99"):
        ratios = [found["diagonal"][statistic][end] / found["box"][statistic][end] for end in ("value", "low", "high")]
        assert ratios == pytest.approx([0.4 / np.hypot(0.8, 0.2)] * 3)


def test_intervals_do_not_depend_on_the_order_of_equal_draws(monkeypatch):
    """Many faces are resampled in several blocks, with the same answer."""
    faces = random_faces(60)
    whole = score(faces)
    monkeypatch.setattr(scores, "_BLOCK", 500)
    assert score(faces) == whole


def test_one_face_alone_has_no_width():
    found = main_scores([0.0437])
    for name, entry in found.items():
        if name not in ("parts", "landmarks"):
            assert entry["low"] == entry["value"] == entry["high"], name


# Names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("requested", "loaded", "expected"),
    [
        (["common"], ["common"], ["common", "blur"]),
        (["common", "challenging"], ["common", "challenging"], ["common", "challenging", "full", "dark", "blur"]),
        (["full"], ["common", "challenging"], ["full", "dark", "blur"]),
        (["common+challenging"], ["common", "challenging"], ["common+challenging", "dark", "blur"]),
        (["challenging + common"], ["common", "challenging"], ["challenging + common", "dark", "blur"]),
        (["dark"], ["common", "challenging"], ["dark", "full", "blur"]),
        (["common", "common"], ["common"], ["common", "blur"]),
        (["validation"], ["validation"], ["validation", "dark", "blur", "indoor"]),
        (["common[:10]"], ["common[:10]"], ["common[:10]"]),
    ],
)
def test_names_that_are_scored(requested, loaded, expected):
    assert scored_names(TOY, requested, loaded) == expected


def test_names_of_the_real_benchmarks():
    wflw = scored_names(BENCHMARKS["wflw"], ["test"], ["test"])
    assert wflw == ["test", "pose", "expression", "illumination", "makeup", "occlusion", "blur"]
    assert scored_names(BENCHMARKS["aflw"], ["test"], ["test"]) == ["test", "frontal"]
    assert scored_names(BENCHMARKS["cofw"], ["test"], ["test"]) == ["test"]


def test_joined_splits_and_subsets_hold_their_faces(few_resamples):
    dark, blur = [True, False, False], [False, True, False]
    parts = {
        "common": toy_faces([0.01, 0.02, 0.03], [dark, blur, blur]),
        "challenging": toy_faces([0.1, 0.2], [dark, blur]),
    }
    names = [*scored_names(TOY, ["common"], parts), "challenging+common"]
    found = score_faces(parts, TOY, names)
    assert {name: entry["faces"] for name, entry in found.items()} == {
        "common": 3,
        "full": 5,
        "dark": 2,
        "blur": 2,
        "challenging+common": 5,
    }
    values = {name: entry["normalizers"]["inter-ocular"]["nme"]["value"] for name, entry in found.items()}
    assert values["full"] == values["challenging+common"] == pytest.approx(0.072)
    assert values["dark"] == pytest.approx(0.055)
    assert values["blur"] == pytest.approx(0.025)
    assert errors_of(predictions_of(parts, TOY, "dark"), TOY) == pytest.approx([0.01, 0.1])


def test_subset_without_a_face_is_left_out(few_resamples):
    parts = {"common": toy_faces([0.01])}
    assert list(score_faces(parts, TOY, ["common", "blur"])) == ["common"]
    with pytest.raises(ValueError, match="names must have a face to score, but got blur"):
        score_faces(parts, TOY, ["blur"])


def test_faces_without_subsets_can_be_scored(few_resamples):
    faces = toy_faces([0.01, 0.02])
    del faces["subsets"]
    plain = replace(TOY, subsets={})
    assert score(faces, benchmark=plain)["faces"] == 2
    assert face_rows({"common": faces}, plain)[0]["subsets"] == {}


@pytest.mark.parametrize("name", ["private", "indoor", "full", "common+private", "nothing"])
def test_name_whose_faces_are_not_loaded(name):
    with pytest.raises(
        ValueError, match=rf"names must be made of common .* toy within, but got '{name}'".replace("+", r"\+")
    ):
        score_faces({"common": toy_faces([0.01])}, TOY, [name])


# What cannot be scored -------------------------------------------------------------------------------------------


def test_normaliser_that_some_faces_lack_is_left_out_there_alone(few_resamples):
    parts = {"common": toy_faces([0.01, 0.02]), "challenging": toy_faces([0.1])}
    parts["challenging"]["labels"][0, 2] = NAN
    found = score_faces(parts, TOY, ["common", "challenging", "full"])
    assert {name: list(entry["normalizers"]) for name, entry in found.items()} == {
        "common": ["inter-ocular", "mouth", "box", "diagonal"],
        "challenging": ["inter-ocular", "box", "diagonal"],
        "full": ["inter-ocular", "box", "diagonal"],
    }


def test_normaliser_of_no_length_is_left_out(few_resamples):
    faces = toy_faces([0.01, 0.02])
    faces["labels"][0, 2] = faces["labels"][0, 3]
    assert list(score(faces)["normalizers"]) == ["inter-ocular", "box", "diagonal"]


def test_main_normaliser_that_some_faces_lack():
    faces = toy_faces([0.01, 0.02, 0.03])
    faces["labels"][:2, 0] = NAN
    message = (
        "--normalizer must have its landmarks annotated in every face, but those of inter-ocular are missing in "
        "2 of 3 faces of common; box and diagonal need no landmarks"
    )
    with pytest.raises(ValueError, match=message):
        score(faces)
    with pytest.raises(ValueError, match=message):
        face_normalizers({"labels": faces["labels"], "boxes": faces["boxes"]}, TOY, "inter-ocular", "common")
    assert list(score(faces, normalizer="box")["normalizers"]) == ["box", "mouth", "diagonal"]


def test_unknown_normaliser():
    with pytest.raises(
        ValueError, match="kind must be one of inter-ocular, mouth, box, diagonal for toy, but got 'ear'"
    ):
        score(toy_faces([0.01]), normalizer="ear")


def test_prediction_that_is_not_finite_is_named():
    faces = toy_faces([0.01, 0.02])
    faces["landmarks"][1, 3, 0] = NAN
    with pytest.raises(ValueError, match="common: predictions must be finite, but got nan at face 1, point 3"):
        score(faces)


# Faces -----------------------------------------------------------------------------------------------------------


def test_errors_of_faces_without_the_normaliser_are_nan():
    faces = toy_faces([0.01, 0.02, 0.03])
    faces["labels"][1, 0] = NAN
    assert errors_of(faces, TOY) == pytest.approx([0.01, NAN, 0.03], nan_ok=True)
    assert errors_of(faces, TOY, "mouth") == pytest.approx([0.02, 0.04, 0.06])


def test_rows_of_faces():
    parts = {"common": toy_faces([0.01, 0.02], [[1, 0, 0], [0, 1, 0]]), "challenging": toy_faces([0.1])}
    parts["common"]["labels"][1, 2] = NAN
    rows = face_rows(parts, TOY, {"common": ["a", "b"], "challenging": ["c"]})
    assert [(row["split"], row["number"], row["image_id"]) for row in rows] == [
        ("common", 0, "a"),
        ("common", 1, "b"),
        ("challenging", 0, "c"),
    ]
    assert [row["nme"]["mouth"] for row in rows] == pytest.approx([0.02, NAN, 0.2], nan_ok=True)
    assert list(rows[0]["nme"]) == ["inter-ocular", "mouth", "box", "diagonal"]
    assert [row["subsets"]["dark"] for row in rows] == [True, False, False]
    assert list(rows[0]["subsets"]) == ["dark", "blur", "indoor"]
    assert "image_id" not in face_rows(parts, TOY)[0]
