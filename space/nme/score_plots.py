"""Plots of scores: the cumulative error distribution, and the error of each landmark."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Colours that colour-blind people can distinguish (Okabe and Ito), and dashes for black-and-white prints.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
GREY = "#666666"


def draw_ced(scores: dict) -> np.ndarray:
    """Plots the share of faces whose error is at most x.

    Args:
        scores: the result of `score_faces`, with at most 6 files of predictions.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    figure, axes = _figure("Cumulative error distribution")
    thresholds = {"FR": 100 * scores["failure_threshold"], "AUC": 100 * scores["auc_threshold"]}
    medians = [100 * result["median"] for result in scores["results"]]
    x_max = max(1.12 * max(thresholds.values()), 1.05 * min(medians))  # shows at least half of the best curve
    for number, result in enumerate(scores["results"]):
        errors = np.sort(100 * np.asarray(result["per_face"]))
        shares = 100 * np.arange(1, len(errors) + 1) / len(errors)
        axes.step([0, *errors, max(x_max, errors[-1])], [0, *shares, 100], where="post", **_style(number))
        if medians[number] <= x_max:
            axes.plot(medians[number], 50, "o", color=COLORS[number], markersize=6, clip_on=False)
    for row, (names, threshold) in enumerate(_merge_equal(thresholds).items()):
        axes.axvline(threshold, color=GREY, linewidth=1, linestyle=(0, (2, 2)))
        side = -1 if threshold > 0.3 * x_max else 1  # near the y axis there is no room on the left
        label = {"text": f"{names} at {threshold:g} %", "xy": (threshold, 2 + 6 * row), "xytext": (4 * side, 0)}
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
        axes.annotate(**label, textcoords="offset points", ha={-1: "right", 1: "left"}[side], color=GREY, bbox=box)
    axes.set(xlim=(0, x_max), ylim=(0, 101), xlabel=_label("Error of a face, %", scores), ylabel="Faces, %")
    _legend(axes, scores, [("median", {"marker": "o", "linestyle": "", "color": GREY})])
    return _pixels(figure)


def draw_landmarks(scores: dict) -> np.ndarray:
    """Plots the mean error of each landmark, (H, W, 3) uint8 RGB; `scores` as in `draw_ced`."""
    figure, axes = _figure("Error of each landmark")
    points = np.arange(scores["points"])
    for number, result in enumerate(scores["results"]):
        errors = 100 * np.array(result["per_landmark"], dtype=np.float64)
        if number == 0 and len(scores["results"]) == 1:
            axes.bar(points, errors, width=1, color=COLORS[0], edgecolor="white", linewidth=0.4)
        else:
            axes.step(points, errors, where="mid", **_style(number))
    axes.set(xlim=(-0.6, len(points) - 0.4), ylabel="Mean error, %")
    axes.set_xlabel(_label("Landmark, counted from 0; errors in %", scores))
    axes.set_ylim(bottom=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    if len(scores["results"]) > 1:
        _legend(axes, scores, [])
    return _pixels(figure)


def _figure(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6, 4.5), dpi=200, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=12, pad=18)  # the page's buttons are beside the title
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _label(text: str, scores: dict) -> str:
    return f"{text}\nof {scores['normalizer_description']}"


def _style(number: int) -> dict:
    return {"color": COLORS[number], "linestyle": DASHES[number], "linewidth": 1.8}


def _merge_equal(thresholds: dict) -> dict:
    """The thresholds by name; equal ones share an entry."""
    if thresholds["FR"] == thresholds["AUC"]:
        return {"FR, AUC": thresholds["FR"]}
    return thresholds


def _legend(axes: Axes, scores: dict, extra_entries: list[tuple[str, dict]]):
    """Adds a legend: NME, file name and line style of each result, then `extra_entries` of label and style."""
    entries = [
        (f"{100 * result['nme']:.2f} %  {_shorten_name(result['predictions'])}", _style(number))
        for number, result in enumerate(scores["results"])
    ] + extra_entries
    handles = [axes.plot([], [], **style)[0] for _, style in entries]
    legend = axes.legend(
        handles, [label for label, _ in entries], title="NME", alignment="left", edgecolor="none", framealpha=0.9
    )
    for text in legend.get_texts():
        text.set_parse_math(False)  # file names may contain dollar signs, which are no formulas


def _shorten_name(name: str) -> str:
    return name if len(name) <= 32 else f"{name[:16]}…{name[-15:]}"


def _pixels(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
