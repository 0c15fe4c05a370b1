"""The tables as Markdown: results of the trainings here, beside the paper's numbers."""

from collections.abc import Iterable, Mapping, Sequence

from dataset_scripts import BENCHMARKS

from . import paper

TITLES = {
    1: "Table 1: NME on 300W, AFLW and COFW",
    2: "Table 2: NME on WFLW and its subsets",
    3: "Table 3: the modules, on 300W",
    4: "Table 4: size and speed",
    5: "Table 5: neighbours in the structure loss, on 300W",
}
NO_VALUE = "–"
RUN_LABELS = {"base": "base", "mst": "MST", "mst-heatmap": "MST, Heat.", "mst-structure": "MST, Struc."}
HASH_DIGITS = 7


def page(table: Mapping) -> str:
    """A `tableN.json` as Markdown without a title: the setup, the table, and contradictions of the paper.

    Raises:
        ValueError: if `table` has no number from 1 to 5.
    """
    makers = {1: _backbone_page, 2: _backbone_page, 3: _module_page, 4: _cost_page, 5: _neighbor_page}
    if table.get("table") not in makers:
        raise ValueError(f"table must be 1 to 5, but got {table.get('table')!r}")
    notes = [f"{note[0].upper()}{note[1:]}." for note in paper.FOOTNOTES.get(table["table"], ())]
    return "\n\n".join([*makers[table["table"]](table), *([" ".join(notes)] if notes else [])])


def grid(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is aligned left, the others right."""
    lines = [header, ["---", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def interval(estimate: Mapping | None, digits: int = 2) -> str:
    """ "3.42 [3.30, 3.55]" in percent."""
    if estimate is None:
        return NO_VALUE
    value, low, high = (percent(estimate[name], digits) for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def change(estimate: Mapping) -> str:
    """As `interval`, for a difference, with signs."""
    value, low, high = (_signed(estimate[name]) for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def percent(fraction: float, digits: int = 2) -> str:
    return f"{100 * fraction:.{digits}f}"


def join_names(names: Iterable) -> str:
    """ "a", "a and b", "a, b and c"."""
    *first, last = map(str, names)
    return f"{', '.join(first)} and {last}" if first else last


def budget(facts: Mapping) -> str:
    """Sentences on how the trainings of a table were run and scored."""
    official = facts["official_train_faces"]
    of_all = "" if official in (None, facts["train_faces"]) else f" of the {official:,}"
    count = "streamed" if facts["train_faces"] is None else f"{facts['train_faces']:,}{of_all}"
    seeds = f"{'seed' if len(facts['seeds']) == 1 else 'seeds'} {join_names(facts['seeds'])}"
    scored_faces = join_names(f"{count:,} of {score}" for score, count in facts["faces"].items())
    weights = join_names(dict.fromkeys(facts["backbone_weights"].values()))
    return (
        f"{facts['dataset']}: {facts['epochs']} epochs, of which the last is scored, at {facts['image_size']} x "
        f"{facts['image_size']}, batch {facts['batch_size']}, {seeds}, on {count} faces of {facts['train_split']} "
        f"({facts['trained_on']}; backbone's weights: {weights}; {_commits(facts)}). Scored on {scored_faces} "
        f"({facts['scored_on']}). NME in %, {facts['normalizer']}."
    )


def _commits(facts: Mapping) -> str:
    commits = [
        commit.replace(commit.split()[0], commit.split()[0][:HASH_DIGITS]) if commit != "None" else "unknown"
        for commit in facts["commits"]
    ]
    return f"commit{'s' if len(commits) > 1 else ''} {join_names(commits)}"


def _signed(fraction: float) -> str:
    return f"{100 * fraction:+.2f}"


def _seeds(estimate: Mapping, form) -> str:
    return ", ".join(form(value) for value in estimate["seeds"].values())


_ABOUT_DIFFERENCES = (
    "In brackets 95 % intervals: bootstrap over faces of each face's error averaged over the seeds. Differences are "
    "between errors of the same face and seed, and their intervals are those of the difference; below 0 is better. "
    "The intervals do not cover the variation between seeds, which the values by seed show."
)


def _module_page(table: Mapping) -> list[str]:
    rows = []
    for row in table["rows"]:
        against = [
            f"{change(other)} for {other['adds']} on {RUN_LABELS[run]} ({_seeds(other, _signed)})"
            for run, other in row["against"].items()
        ]
        marks = ["✓", *("✓" if name in row["modules"] else "" for name in ("MST", "Heat.", "Struc."))]
        rows.append(
            [
                *marks,
                f"{row['paper']:.2f}",
                interval(row["nme"]),
                _seeds(row["nme"], percent),
                ", ".join(percent(value) for value in row.get("layers", {}).values()) or NO_VALUE,
                "<br>".join(against) or NO_VALUE,
            ]
        )
    header = ["Base", "MST", "Heat.", "Struc.", "paper", "here", "by seed", "by layer", "what the module changes"]
    by_layer = "By layer: the NME of the first decoder layer's input and of each layer's output."
    return [f"{budget(table['facts'])} {_paper_budget()}", grid(header, rows), f"{_ABOUT_DIFFERENCES} {by_layer}"]


def _neighbor_page(table: Mapping) -> list[str]:
    measured = {row["neighbors"]: row for row in table["rows"]}
    rows = []
    for neighbors, paper_nme in paper.TABLE_5.items():
        row = measured.get(neighbors)
        cells = [NO_VALUE] * 3
        if row:
            differences = [f"{change(other)} ({_seeds(other, _signed)})" for other in row["against"].values()]
            cells = [interval(row["nme"]), _seeds(row["nme"], percent), *(differences or [NO_VALUE])]
        rows.append([str(neighbors), f"{paper_nme:.2f}", *cells])
    header = ["neighbours", "paper", "here", "by seed", f"against {table['first']} (by seed)"]
    return [f"{budget(table['facts'])} {_paper_budget()}", grid(header, rows), _ABOUT_DIFFERENCES]


def _paper_budget() -> str:
    return "The paper: 150 epochs at 256 x 256 on all training faces, scored on 300W full."


def _backbone_page(table: Mapping) -> list[str]:
    number = table["table"]
    sources = {1: (paper.TABLE_1_COLUMNS, paper.TABLE_1), 2: (paper.TABLE_2_COLUMNS, paper.TABLE_2)}
    columns, paper_rows = sources[number]
    titles = [f"{BENCHMARKS[name].title} {score}" for name, score in columns]
    rows = [
        [_method_title(row.method), row.backbone, *(_format_paper_value(row.nme.get(column)) for column in columns)]
        for row in paper_rows
    ]
    for row in table["rows"]:
        cells = [interval(row["cells"].get(f"{name} {score}")) for name, score in columns]
        rows.append(["**MTLD, here**", paper.BACKBONE_TITLES[row["backbone"]], *cells])
    missing = [BENCHMARKS[name].title for name in dict.fromkeys(n for n, _ in columns) if name not in table["facts"]]
    notes = [budget(facts) for facts in table["facts"].values()]
    if "aflw" in table["facts"]:
        notes.append('AFLW test is the paper\'s "full".')
    if missing:
        notes.append(f"Not measured here, without data: {join_names(missing)}.")
    return ["\n".join(f"- {note}" for note in notes), grid(["method", "backbone", *titles], rows), _ABOUT_INTERVALS]


_ABOUT_INTERVALS = "In brackets 95 % intervals: bootstrap over faces of each face's error averaged over the seeds."


def _method_title(method: str) -> str:
    return f"{method}, the paper" if method == "MTLD" else method


def _format_paper_value(value: float | None) -> str:
    return NO_VALUE if value is None else f"{value:.2f}"


def _cost_page(table: Mapping) -> list[str]:
    rows = [
        [_method_title(row.method), row.backbone, f"{row.parameters} M", f"{row.multiply_adds} G", f"{row.cpu:g}"]
        + [f"{row.gpu:g}", NO_VALUE, NO_VALUE]
        for row in paper.TABLE_4
    ]
    for backbone, row in table["networks"].items():
        # No absolute speed of the CPU, as its other load is not known.
        speeds = [NO_VALUE, f"{row['gpu']['images_per_second']:.1f}" if row.get("gpu") else NO_VALUE]
        ratios = [f"{row[d]['ratio']:.2f}" if row.get(d) else NO_VALUE for d in ("cpu", "gpu")]
        size = [f"{row['parameters'] / 1e6:.1f} M", f"{row['multiply_adds'] / 1e9:.2f} G"]
        rows.append(["**MTLD, here**", paper.BACKBONE_TITLES.get(backbone, backbone), *size, *speeds, *ratios])
    header = ["method", "backbone", "parameters", "multiply-adds", "CPU, faces/s", "GPU, faces/s"]
    size = table["image_size"]
    text = (
        f"{table['num_landmarks']} landmarks, {size} x {size}, batch {table['batch_size']}, float32, medians of "
        f"{table['runs']} runs. The paper's speeds are of {paper.TABLE_4_MACHINES}. Measured here is the time "
        f"relative to the timm trunk alone, timed alternately, on {table['cpu']} ({table['threads']} threads) and "
        f"{table['gpu'] or 'no GPU'}."
    )
    return [text, grid([*header, "time over trunk, CPU", "GPU"], rows)]
