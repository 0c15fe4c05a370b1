"""Plots of scores: the cumulative error distribution, and the error of each landmark."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Told apart by whoever is colour-blind (Okabe and Ito), and by their dashes on a black-and-white print.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
GREY = "#666666"


def draw_ced(scores: dict) -> np.ndarray:
    """The share of faces whose error is at most x.

    Args:
        scores: of `score_faces`, at most 6 results.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    figure, axes = _figure("Cumulative error distribution")
    thresholds = {"FR": 100 * scores["failure_threshold"], "AUC": 100 * scores["auc_threshold"]}
    medians = [100 * result["median"] for result in scores["results"]]
    right = max(1.12 * max(thresholds.values()), 1.05 * min(medians))  # half a curve is seen, however bad
    for number, result in enumerate(scores["results"]):
        errors = np.sort(100 * np.asarray(result["per_face"]))
        shares = 100 * np.arange(1, len(errors) + 1) / len(errors)
        axes.step([0, *errors, max(right, errors[-1])], [0, *shares, 100], where="post", **_style(number))
        if medians[number] <= right:
            axes.plot(medians[number], 50, "o", color=COLORS[number], markersize=6, clip_on=False)
    for row, (names, at) in enumerate(_merged(thresholds).items()):
        axes.axvline(at, color=GREY, linewidth=1, linestyle=(0, (2, 2)))
        side = -1 if at > 0.3 * right else 1  # beside the axis of y there is no room
        label = {"text": f"{names} at {at:g} %", "xy": (at, 2 + 6 * row), "xytext": (4 * side, 0)}
        behind = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
        axes.annotate(**label, textcoords="offset points", ha={-1: "right", 1: "left"}[side], color=GREY, bbox=behind)
    axes.set(xlim=(0, right), ylim=(0, 101), xlabel=_label("Error of a face, %", scores), ylabel="Faces, %")
    _legend(axes, scores, [("median", {"marker": "o", "linestyle": "", "color": GREY})])
    return _pixels(figure)


def draw_landmarks(scores: dict) -> np.ndarray:
    """The mean error of each landmark, as (H, W, 3) uint8 RGB; `scores` as in `draw_ced`."""
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
    axes.set_title(title, loc="left", fontsize=12, pad=18)  # beside it are the buttons of the page
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _label(text: str, scores: dict) -> str:
    return f"{text}\nof {scores['normalizer_description']}"


def _style(number: int) -> dict:
    return {"color": COLORS[number], "linestyle": DASHES[number], "linewidth": 1.8}


def _merged(thresholds: dict) -> dict:
    """Thresholds by name, those at one place under one."""
    if thresholds["FR"] == thresholds["AUC"]:
        return {"FR, AUC": thresholds["FR"]}
    return thresholds


def _legend(axes: Axes, scores: dict, more: list[tuple[str, dict]]):
    """Names of files, which may hold anything, beside what they look like."""
    entries = [
        (f"{100 * result['nme']:.2f} %  {_short(result['predictions'])}", _style(number))
        for number, result in enumerate(scores["results"])
    ] + more
    handles = [axes.plot([], [], **style)[0] for _, style in entries]
    legend = axes.legend(
        handles, [label for label, _ in entries], title="NME", alignment="left", edgecolor="none", framealpha=0.9
    )
    for text in legend.get_texts():
        text.set_parse_math(False)  # a dollar sign is no formula


def _short(name: str) -> str:
    return name if len(name) <= 32 else f"{name[:16]}…{name[-15:]}"


def _pixels(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
