"""Plots of an evaluation: what stands in them, and what is no plot."""

import re

import matplotlib
import numpy as np
import pytest
from PIL import Image
from test_scores import main_scores

from training_mtld.evaluation.plots import plot_box_noise, plot_ced

NAN = float("nan")
ERRORS = np.array([0.02, 0.04, 0.09, 0.11])


def box_noise(levels=(0, 0.05, 0.1, 0.15, 0.2), points: int = 5) -> dict:
    curve = [{"value": 0.03 + 0.01 * n, "low": 0.028 + 0.01 * n, "high": 0.033 + 0.01 * n} for n in range(points)]
    return {
        "levels": list(levels),
        "normalizer": "inter-ocular",
        "split": "common",
        "curves": {"shift": curve, "scale": curve, "both": curve},
    }


def words_of(draw, path) -> str:
    """What a plot says: the text of its SVG."""
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        draw(path)
    return "\n".join(re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text(encoding="utf-8")))


def test_ced_tells_its_scores(tmp_path):
    words = words_of(
        lambda path: plot_ced({"common": ERRORS, "full": ERRORS / 2}, 0.08, "inter-ocular", "300W", path),
        tmp_path / "ced.svg",
    )
    assert "common: NME 6.500, FR 50.00, AUC 31.25" in words
    assert "full: NME 3.250, FR 0.00, AUC 59.38" in words
    for text in ("300W", "NME in %, inter-ocular", "Share of faces", "In %, FR and AUC at 8 %"):
        assert text in words


def test_ced_scores_are_those_of_the_metric(tmp_path):
    found = main_scores(ERRORS)
    words = words_of(lambda path: plot_ced({"a": ERRORS}, 0.1, "inter-ocular", "", path), tmp_path / "ced.svg")
    shown = [float(number) for number in re.search(r"NME (.*), FR (.*), AUC (.*)", words).groups()]
    expected = [100 * found[name]["value"] for name in ("nme", "failure_rate@10%", "auc@10%")]
    assert shown == pytest.approx(expected, abs=0.005)


def test_curve_is_the_share_of_faces_below(tmp_path):
    """Of half the faces at 1 % and half at 9 %: a plateau at half of the axis, over 8 tenths of its width."""
    path = tmp_path / "ced.png"
    plot_ced({"a": np.repeat([0.01, 0.09], 50)}, 0.1, "box", "", path)
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    black = pixels.sum(axis=-1) < 60
    spine = np.flatnonzero(black[:, black.sum(axis=0).argmax()])  # the vertical axis, from 0 to 1.01
    width = black.sum(axis=1).max()
    blue = abs(pixels - [0, 0x72, 0xB2]).sum(axis=-1) < 60
    plateau = blue.sum(axis=1).argmax()
    assert blue[plateau].sum() == pytest.approx(0.8 * width, rel=0.02)
    bottom = black.sum(axis=1).argmax()
    assert (bottom - plateau) / (bottom - spine[0]) * 1.01 == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    "draw", [lambda p: plot_ced({"a": ERRORS}, 0.08, "box", "A", p), lambda p: plot_box_noise(box_noise(), p)]
)
def test_pictures_are_whole_and_fit_for_print(tmp_path, draw):
    path = tmp_path / "new" / "plot.png"
    draw(path)
    with Image.open(path) as picture:
        picture.load()
        assert min(picture.size) >= 800
    draw(path)
    draw(tmp_path / "new" / "plot.pdf")
    assert sorted(file.name for file in path.parent.iterdir()) == ["plot.pdf", "plot.png"]
    assert (tmp_path / "new" / "plot.pdf").read_bytes().startswith(b"%PDF")


def test_many_curves_one_face_and_errors_beyond_the_threshold(tmp_path):
    curves = {f"subset {number}": ERRORS * (1 + number) for number in range(9)}
    plot_ced({**curves, "one": [0.05], "far": [5.0]}, 0.1, "box", "WFLW", tmp_path / "ced.png")
    with Image.open(tmp_path / "ced.png") as picture:
        assert picture.size[0] < 2000


def test_box_noise_in_percent(tmp_path):
    words = words_of(lambda path: plot_box_noise(box_noise(), path), tmp_path / "noise.svg").splitlines()
    for text in ("shift", "scale", "both", "NME in %, inter-ocular", "Noise of the face box, common"):
        assert text in words
    assert {"5", "10", "15", "20"} <= set(words)


def test_one_level_of_noise_alone(tmp_path):
    plot_box_noise(box_noise(levels=[0], points=1), tmp_path / "noise.png")
    assert (tmp_path / "noise.png").stat().st_size


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda p: plot_ced({}, 0.08, "box", "A", p), "curves must hold at least one"),
        (
            lambda p: plot_ced({"a": [0.1, NAN]}, 0.08, "box", "A", p),
            "curves must be errors of faces, but got .* of a",
        ),
        (lambda p: plot_ced({"a": []}, 0.08, "box", "A", p), "curves must be errors of faces, but got 0 of a"),
        (lambda p: plot_ced({"a": ERRORS}, 0.08, "box", "A", p.with_suffix(".doc")), "path must end in .png, .svg or"),
        (lambda p: plot_box_noise(box_noise(points=4), p), "noise must hold 5 points a curve, but got 4 of shift"),
        (lambda p: plot_box_noise({**box_noise(), "curves": {}}, p), "noise must hold at least one curve"),
    ],
)
def test_what_is_no_plot(tmp_path, draw, message):
    with pytest.raises(ValueError, match=message):
        draw(tmp_path / "plot.png")
    assert not list(tmp_path.iterdir())


def test_plot_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "ced.png"
    plot_ced({"a": ERRORS}, 0.08, "box", "A", path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="no space"):
        plot_ced({"a": ERRORS}, 0.08, "box", "B", path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
