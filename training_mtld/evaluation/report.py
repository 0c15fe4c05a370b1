"""The report of an evaluation, as files and on the screen.

A report is what `scores.json` holds: the facts of the evaluation (`checkpoint`, `weights`, `command`, `commit`,
`versions`, `setting`, `dataset`, `title`, `normalizer`, `threshold`, `flip`, `resamples`, `data`), the `scores` of
`scores.score_faces`, and with box noise `box_noise` (see `plots.plot_box_noise`). Scores are fractions in JSON, and
percent in tables, CSV and on the screen.
"""

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from modeling_mtld.auto_mtld import write_whole

SCORES = "scores.json"
NUM_WORST_LANDMARKS = 5
_REQUIRED = ("dataset", "title", "normalizer", "scores")
_UNLIMITED = 10_000  # columns of a terminal


# Files -----------------------------------------------------------------------------------------------------------


def write_report(directory: str | Path, report: Mapping, face_rows: Sequence[Mapping]) -> None:
    """Writes `scores.csv`, `faces.csv` and then `scores.json` to `directory`, each whole or not at all.

    In JSON, NaN becomes null. `scores.csv` has one row a name and normaliser: dataset, split, faces, normalizer, unit
    (percent), then each statistic with the ends of its interval (`nme`, `nme_low`, `nme_high`, …). `faces.csv` has
    one row a face: split, number, image_id if known, unit (percent), the error under each normaliser
    (`nme_inter-ocular`, …; empty where it is not known), and for each subset whether the face belongs to it.

    Args:
        directory: created if missing.
        report: see the module.
        face_rows: from `scores.face_rows`.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    write_whole(directory / "scores.csv", _csv(_score_rows(report)))
    write_whole(directory / "faces.csv", _csv(_face_rows(face_rows)))
    text = json.dumps(_nan_to_null(report), indent=2, ensure_ascii=False, allow_nan=False)
    write_whole(directory / SCORES, (text + "\n").encode())


def read_report(path: str | Path) -> dict:
    """The report in the file `path`, or in `scores.json` of the folder `path`; null in scores and box noise is NaN.

    Raises:
        ValueError: naming the file, if it is missing or is not such a report.
    """
    path = Path(path)
    path = path / SCORES if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"{path} must be the {SCORES} of an evaluation, but there is no such file")
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # UnicodeDecodeError included
        raise ValueError(f"{path} must be JSON, but got: {error}") from error
    missing = [key for key in _REQUIRED if key not in report] if isinstance(report, dict) else _REQUIRED
    if missing:
        raise ValueError(f"{path} must be the {SCORES} of an evaluation, but it has no {', '.join(missing)}")
    for name, scores in _entries(report["scores"], "scores", path):
        for kind, values in _entries(_child(scores, "normalizers"), f"scores of {name}", path):
            value = _child(_child(values, "nme"), "value")
            if not isinstance(value, (int, float)) or not isinstance(_child(scores, "faces"), int):
                raise ValueError(f"{path} must hold faces and nme of {name} under {kind}, but got {scores!r:.80}")
        if report["normalizer"] not in scores["normalizers"]:
            raise ValueError(
                f"{path} must hold {name} under {report['normalizer']}, but got {', '.join(scores['normalizers'])}"
            )
    return {key: _null_to_nan(value) if key in ("scores", "box_noise") else value for key, value in report.items()}


def _child(values: object, key: str):
    return values.get(key) if isinstance(values, dict) else None


def _entries(values: object, what: str, path: Path) -> Iterable[tuple[str, object]]:
    if not isinstance(values, dict) or not values:
        raise ValueError(f"{path} must hold {what} by name, but got {values!r:.80}")
    return values.items()


def _nan_to_null(value):
    if isinstance(value, Mapping):
        return {key: _nan_to_null(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [_nan_to_null(child) for child in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _null_to_nan(value):
    if isinstance(value, dict):
        return {key: _null_to_nan(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_null_to_nan(child) for child in value]
    return math.nan if value is None else value


def _score_rows(report: Mapping) -> Iterator[dict]:
    for name, scores in report["scores"].items():
        for kind, values in scores["normalizers"].items():
            row = {"dataset": report["dataset"], "split": name, "faces": scores["faces"]}
            row |= {"normalizer": kind, "unit": "percent"}
            for statistic in _statistics(values):
                estimate = values[statistic]
                row[statistic] = _csv_percent(estimate["value"])
                row |= {f"{statistic}_{end}": _csv_percent(estimate[end]) for end in ("low", "high")}
            yield row


def _face_rows(faces: Iterable[Mapping]) -> Iterator[dict]:
    for face in faces:
        row = {key: face[key] for key in ("split", "number", "image_id") if key in face}
        row["unit"] = "percent"
        row |= {f"nme_{kind}": _csv_percent(error) for kind, error in face["nme"].items()}
        yield row | dict(face["subsets"])


def _csv(rows: Iterable[dict]) -> bytes:
    rows = list(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0] if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _csv_percent(value: float) -> float | str:
    return "" if math.isnan(value) else round(100 * value, 6)


def _statistics(values: Mapping) -> list[str]:
    """The keys of a normaliser's scores that hold a value with its interval."""
    return [key for key in values if key not in ("parts", "landmarks")]


# Screen ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Column:
    title: str
    cells: tuple[str, ...]
    text: bool = False


def show_report(report: Mapping, console: Console | None = None) -> None:
    """Prints the scores in percent, as tables: splits (the main normaliser first), decoder layers and mean offset,
    facial parts, worst landmarks, and if the report has them confidences, visibility and box noise.

    A table too wide for the terminal continues below; no number is cut off.
    """
    console = console or Console()
    main, scores = report["normalizer"], report["scores"]
    flip = ", mean of each face and its mirror image" if report.get("flip") else ""
    subtitle = f"in %; 95 % interval of the NME by bootstrap over faces{flip}"
    title = f"{report['checkpoint']} on {report['title']}" if "checkpoint" in report else report["title"]
    _print(console, title, subtitle, *_split_columns(report))
    if any("offset" in values for values in scores.values()):
        subtitle = f"in %, {main}; NME after each decoder layer, and mean of prediction minus annotation"
        _print(console, "Layers and offset", subtitle, *_layer_columns(scores))
    parts = _part_columns(scores, main)
    if parts[0][0].cells:
        _print(console, "Facial parts", f"NME in %, {main}", *parts)
    _print(console, "Worst landmarks", f"NME in %, {main}", *_worst_columns(scores, main))
    if any("confidence_ratio" in values for values in scores.values()):
        subtitle = (
            "error of the least confident tenth over that of the most confident; gain in nats over a constant scale"
        )
        _print(console, "Confidences", subtitle, *_confidence_columns(scores))
    aucs = {name: values["visibility_auc"] for name, values in scores.items() if "visibility_auc" in values}
    if aucs:
        subtitle = "area under the ROC curve of landmarks that the head itself hides against the others"
        columns = [_Column("AUC", tuple(f"{auc:.3f}" for auc in aucs.values()))]
        _print(console, "Visibility", subtitle, [_Column("split", tuple(aucs), text=True)], [columns])
    if "box_noise" in report:
        noise = report["box_noise"]
        subtitle = f"NME in %, {noise['split']}, {noise['normalizer']}; noise in % of the box"
        _print(console, "Box noise", subtitle, *_noise_columns(noise))


def _split_columns(report: Mapping) -> tuple[list[_Column], list[list[_Column]]]:
    """The label columns, left of every table, and groups of columns that are not split between tables."""
    main, scores = report["normalizer"], report["scores"]
    kinds = [main, *dict.fromkeys(kind for name in scores for kind in scores[name]["normalizers"] if kind != main)]
    rows = [(name, kind) for kind in kinds for name in scores if kind in scores[name]["normalizers"]]
    values = [scores[name]["normalizers"][kind] for name, kind in rows]
    labels = [
        _Column("split", tuple(name for name, _ in rows), text=True),
        _Column("normaliser", tuple(kind for _, kind in rows), text=True),
    ]
    faces = _Column("faces", tuple(str(scores[name]["faces"]) for name, _ in rows))
    low, high = ([_percent(row["nme"][end], 3) for row in values] for end in ("low", "high"))
    interval = _Column("interval", tuple(f"{first}-{last}" for first, last in zip(low, high)))
    groups = {"nme": [faces, _statistic(values, "nme", 3), interval]}
    for name in _statistics(values[0]):
        if name != "nme":
            group = groups.setdefault("percentiles" if "@" not in name else name.partition("@")[0], [])
            group.append(_statistic(values, name, 2 if "@" in name else 3))
    return labels, list(groups.values())


def _statistic(values: Sequence[Mapping], name: str, digits: int) -> _Column:
    kind, _, threshold = name.partition("@")
    title = {"failure_rate": "FR"}.get(kind, kind.upper()) + (f"\n@{threshold}" if threshold else "")
    return _Column(title, tuple(_percent(row[name]["value"], digits) for row in values))


def _layer_columns(scores: Mapping) -> tuple[list[_Column], list[list[_Column]]]:
    layers = tuple(dict.fromkeys(layer for values in scores.values() for layer in values.get("layers", ())))
    titles = tuple(f"layer {name}" if name.isdigit() else name for name in layers) + ("offset x", "offset y")
    columns = []
    for name, values in scores.items():
        cells = [_percent(values.get("layers", {}).get(layer, math.nan), 3) for layer in layers]
        cells += [_percent(values.get("offset", {}).get(axis, math.nan), 3) for axis in "xy"]
        columns.append([_Column(name, tuple(cells))])
    return [_Column("", titles, text=True)], columns


def _part_columns(scores: Mapping, kind: str) -> tuple[list[_Column], list[list[_Column]]]:
    errors = {name: values["normalizers"][kind]["parts"] for name, values in scores.items()}
    parts = tuple(dict.fromkeys(part for split_errors in errors.values() for part in split_errors))
    columns = [
        [_Column(name, tuple(_percent(split_errors.get(part, math.nan), 3) for part in parts))]
        for name, split_errors in errors.items()
    ]
    return [_Column("part", parts, text=True)], columns


def _worst_columns(scores: Mapping, kind: str) -> tuple[list[_Column], list[list[_Column]]]:
    columns = []
    for name, values in scores.items():
        landmarks = values["normalizers"][kind]["landmarks"].items()
        errors = {landmark: error for landmark, error in landmarks if not math.isnan(error)}
        worst_landmarks = sorted(errors, key=errors.get, reverse=True)[:NUM_WORST_LANDMARKS]
        cells = [f"{landmark} {_percent(errors[landmark], 3)}" for landmark in worst_landmarks]
        columns.append([_Column(name, tuple(cells))])
    count = max(len(column.cells) for (column,) in columns)
    return [_Column("", tuple(str(rank + 1) for rank in range(count)))], columns


def _confidence_columns(scores: Mapping) -> tuple[list[_Column], list[list[_Column]]]:
    with_confidences = {name: values for name, values in scores.items() if "confidence_ratio" in values}
    ratios = tuple(f"{values['confidence_ratio']:.2f}" for values in with_confidences.values())
    gains = tuple(f"{values['likelihood_gain']:+.3f}" for values in with_confidences.values())
    labels = [_Column("split", tuple(with_confidences), text=True)]
    return labels, [[_Column("error ratio", ratios), _Column("gain", gains)]]


def _noise_columns(noise: Mapping) -> tuple[list[_Column], list[list[_Column]]]:
    levels = tuple(f"{100 * level:g}" for level in noise["levels"])
    curves = [
        [_Column(name, tuple(_percent(point["value"], 3) for point in points))]
        for name, points in noise["curves"].items()
    ]
    return [_Column("noise", levels)], curves


def _percent(value: float, digits: int) -> str:
    return "" if math.isnan(value) else f"{100 * value:.{digits}f}"


def _print(console: Console, title: str, subtitle: str, labels: list[_Column], groups: list[list[_Column]]) -> None:
    """Prints tables that fit the terminal, each with `labels` and as many groups of columns as it has space for."""
    console.print()
    console.print(Text.assemble((title, "bold"), f": {subtitle}"))
    columns: list[_Column] = []
    for group in groups:
        if columns and _width(console, _table([*labels, *columns, *group])) > console.width:
            _print_table(console, _table([*labels, *columns]))
            console.print()
            columns = []
        columns = [*columns, *group]
    _print_table(console, _table([*labels, *columns]))


def _table(columns: list[_Column]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for column in columns:
        side = "left" if column.text else "right"
        table.add_column(Text(column.title), justify=side, no_wrap=True, vertical="bottom")
    for row in range(max(len(column.cells) for column in columns)):
        table.add_row(*(Text(column.cells[row] if row < len(column.cells) else "") for column in columns))
    return table


def _width(console: Console, table: Table) -> int:
    return Measurement.get(console, console.options.update(width=_UNLIMITED), table).maximum


def _print_table(console: Console, table: Table) -> None:
    """Prints at the table's width if the terminal is narrower, so that nothing is cut off."""
    terminal_width, table_width = console.width, _width(console, table)
    if table_width > terminal_width:
        console.width = table_width
    console.print(table, crop=False)
    if table_width > terminal_width:
        console.width = terminal_width
