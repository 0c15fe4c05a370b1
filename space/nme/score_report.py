"""The scores as an HTML report."""

from html import escape

import numpy as np
from landmark_files import shorten
from score_plots import COLORS

NUM_WORST_FACES = 10
CSS = """
.report .scroll {overflow-x: auto;}
.report table, .report tr {border: 0 !important;}
.report table {width: 100%; border-collapse: collapse; margin: 0.4em 0 1em;}
.report th, .report td {padding: 0.35em 0.45em !important; border: 0 !important; text-align: right;
  border-bottom: 1px solid var(--border-color-primary) !important; white-space: nowrap;
  font-variant-numeric: tabular-nums;}
.report th:first-child, .report td:first-child {text-align: left; white-space: normal; overflow-wrap: anywhere;
  min-width: 6em;}
.report h3 {margin: 0.2em 0;}
.report summary {cursor: pointer;}
.report .key {display: inline-block; width: 0.7em; height: 0.7em; border-radius: 50%; margin-right: 0.4em;}
@media (max-width: 500px) {
  .report table {font-size: 0.8em;}
  .report th, .report td {padding: 0.3em !important;}
}
"""


def report(scores: dict) -> str:
    """HTML of the main numbers, in percent, and of the faces with the largest errors."""
    results = scores["results"]
    failure_percent, auc_percent = (100 * scores[f"{name}_threshold"] for name in ("failure", "auc"))
    keys = [f'<span class="key" style="background:{color}"></span>' for color in COLORS]
    names = [key + escape(result["predictions"]) for key, result in zip(keys, results)]
    metrics = ("nme", "failure_rate", "auc", "median")
    rows = [[name, *(f"{100 * result[metric]:.2f}" for metric in metrics)] for name, result in zip(names, results)]
    errors = np.array([result["per_face"] for result in results])
    worst_faces = np.argsort(-errors.max(axis=0), kind="stable")[:NUM_WORST_FACES]
    ids = scores["image_ids"] or range(scores["faces"])
    worst_rows = [
        [escape(shorten(ids[face])), *(f"{100 * error:.2f}" for error in errors[:, face])] for face in worst_faces
    ]
    match_keys = " and ".join(sorted({result["matched_by"] for result in results}))
    return (
        '<div class="report"><h3>Scores in %</h3>'
        f"<p>{scores['faces']} faces of {scores['points']} points, matched by {match_keys}. "
        f"Errors are divided by <b>{escape(scores['normalizer_description'])}</b>.</p>"
        + _table(["Predictions", "NME", f"FR at {failure_percent:g}", f"AUC at {auc_percent:g}", "Median"], rows)
        + "<details><summary>Faces with the largest errors</summary>"
        + _table(["Face", *(names if len(names) > 1 else ["Error"])], worst_rows)
        + "</details></div>"
    )


def _table(header: list[str], rows: list[list[str]]) -> str:
    """An HTML table of cells that are escaped already."""
    head = "".join(f"<th>{cell}</th>" for cell in header)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'
