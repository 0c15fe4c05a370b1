"""Plots of an evaluation: cumulative error distribution, and error against noise of the face box."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from modeling_mtld.auto_mtld import write_whole

# Distinct for colour-blind readers (Okabe and Ito); the dashes are distinct in black and white.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 1)))
_LEGEND = {"fontsize": 9, "title_fontsize": 9, "edgecolor": "none", "framealpha": 0.9}


def plot_ced(
    curves: Mapping[str, np.ndarray], threshold: float, normalizer: str, title: str, path: str | Path
) -> None:
    """Draws the share of faces whose error is at most x, for x from 0 to `threshold`.

    Args:
        curves: errors of the faces (N,), fractions, by their name in the legend. The legend adds NME, and FR and AUC
            at the threshold.
        threshold: a fraction.
        normalizer: what the errors were divided by.
        title: above the plot.
        path: the file, .png, .svg or .pdf.

    Raises:
        ValueError: if there are no curves, an error is NaN or the file's suffix is another.
    """
    if not curves:
        raise ValueError("curves must hold at least one, but got none")
    figure, axes = _figure(title)
    for number, (name, errors) in enumerate(curves.items()):
        errors = np.asarray(errors, dtype=np.float64)
        if errors.size == 0 or np.isnan(errors).any():
            raise ValueError(f"curves must be errors of faces, but got {errors.size} of {name} or NaN among them")
        auc = np.clip(1 - errors / threshold, 0, None).mean()
        percentages = 100 * errors.mean(), 100 * (errors > threshold).mean(), 100 * auc
        label = "{}: NME {:.3f}, FR {:.2f}, AUC {:.2f}".format(name, *percentages)
        axes.ecdf(100 * errors, label=label, linewidth=1.4, **_style(number))
    axes.set(xlim=(0, 100 * threshold), ylim=(0, 1.01), xlabel=f"NME in %, {normalizer}", ylabel="Share of faces")
    axes.legend(title=f"In %, FR and AUC at {100 * threshold:g} %", alignment="left", **_LEGEND)
    _write(figure, Path(path))


def plot_box_noise(noise: Mapping, path: str | Path) -> None:
    """Draws the NME against the noise of the boxes that the crops are made from, with 95 % intervals.

    Args:
        noise: `levels`, fractions of the box; `curves`, for each kind of noise one dict a level, of `value`, `low`
            and `high`, NME as fractions; `normalizer` and `split`, for the labels.
        path: the file, .png, .svg or .pdf.

    Raises:
        ValueError: if there are no curves, a curve has not one point a level, or the file's suffix is another.
    """
    if not noise["curves"]:
        raise ValueError("noise must hold at least one curve, but got none")
    levels = 100 * np.asarray(noise["levels"], dtype=np.float64)
    figure, axes = _figure(f"Noise of the face box, {noise['split']}")
    for number, (name, points) in enumerate(noise["curves"].items()):
        if len(points) != len(levels):
            raise ValueError(f"noise must hold {len(levels)} points a curve, but got {len(points)} of {name}")
        style = _style(number)
        low, value, high = (100 * np.array([point[key] for point in points]) for key in ("low", "value", "high"))
        axes.plot(levels, value, marker="o", markersize=4, linewidth=1.8, clip_on=False, label=name, **style)
        axes.fill_between(levels, low, high, color=style["color"], alpha=0.15, linewidth=0)
    axes.set(xlabel="Noise in % of the side of the box", ylabel=f"NME in %, {noise['normalizer']}", xticks=levels)
    axes.set_xlim(levels.min(), levels.max() if len(levels) > 1 else None)
    axes.set_ylim(bottom=0)
    axes.legend(**_LEGEND)
    _write(figure, Path(path))


def _figure(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _style(number: int) -> dict:
    return {"color": _COLORS[number % len(_COLORS)], "linestyle": _DASHES[number % len(_DASHES)]}


def _write(figure: Figure, path: Path) -> None:
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise ValueError(f"path must end in .png, .svg or .pdf, but got {path}")
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:], dpi=200)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content.getvalue())
