"""Keeps the pages up to date: the measured figures of README.md and results/README.md are those of the JSON files that
evaluations wrote, and modeling_mtld/API.md is made from the docstrings.

    python -m training_mtld.readme           # write them anew
    python -m training_mtld.readme --check   # only say what is out of date, and exit with status 1 if anything is

The JSON files lie in training_mtld/results/: `scores.json` of an evaluation under a name of its own, and `tableN.json`
of training_mtld.tables. The pages say in comments, which a reader of the page does not see, what stands where.

A figure in a sentence names a file and the keys of a value within, and perhaps how to write it:

    NME <!--= mtld-r18 common nme -->3.42<!--=--> %, <!--= speed networks resnet18 cpu ratio | .2f -->1.28<!--=-->

- Keys of scores.json are shortened: "common nme" is the main normaliser's; "common nme low" the end of its interval.
- Of the rows of a table, one is named by its run or backbone: "table3 rows mst nme".
- "A below B" is by which share A is lower than B, such as "mtld-r18 common nme below base common nme".
- The form is Python's, and after it % (a fraction in percent), M or G; by default .2%, and for whole numbers a comma.

A block names its kind, and in YAML what it shows:

    <!-- begin scores
    columns: [trained on]
    rows:
      - {label: ours, cells: [all of it], file: mtld-r18, score: common}
      - {label: the paper, cells: [all of it], paper: [ResNet-18, 300w, common]}
    -->
    (a table: faces, NME with its interval, failure rate, AUC)
    <!-- end scores -->

Kinds: scores; confidence (rows as before; the error ratio and gain of the scale head); noise (file: that of an
evaluation with --box_noise); table (file: table3).
"""

import argparse
import functools
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from modeling_mtld.auto_mtld import write_whole
from modeling_mtld.configuration_mtld import MTLDConfig
from modeling_mtld.model_card_mtld import is_generated, model_card, read_stages

from .api_page import api_page
from .evaluation.report import read_report
from .tables import paper
from .tables.pages import NOTHING, grid, interval, page, percent

ROOT = Path(__file__).resolve().parents[1]
RESULTS, CHECKPOINTS = Path(__file__).parent / "results", ROOT / "space" / "checkpoints"
PAGES = (ROOT / "README.md", RESULTS / "README.md")
API = ROOT / "modeling_mtld" / "API.md"
FENCED = re.compile(r"^```.*?^```[ \t]*$", re.DOTALL | re.MULTILINE)
BLOCK = re.compile(
    r"(?P<head><!-- begin (?P<kind>\w+)(?P<what>.*?)-->\n)(?P<old>.*?)(?P<tail><!-- end (?P=kind) -->)", re.DOTALL
)
FIGURE = re.compile(r"(?P<head><!--=(?P<what>[^>]+?)-->)(?P<old>[^<]*)(?P<tail><!--=-->)")
OPENINGS = re.compile(r"<!-- (?:begin|end)\b|<!--=")
UNITS = {"%": 0.01, "M": 1e6, "G": 1e9}
SCORED = re.compile(r"\b(?:NME|AUC|FR)\b|failure rate", re.IGNORECASE)
DECIMAL = re.compile(r"(?<![\w.@])\d+\.\d+(?![\w.]|,\d)")
PERCENTAGE = re.compile(rf"{DECIMAL.pattern}(?= ?%)")


class Results:
    """The JSON files of a folder, by name and read once."""

    def __init__(self, folder: Path = RESULTS):
        self.folder = folder
        self.read = functools.cache(self._read)

    def _read(self, name: str) -> dict:
        file = self.folder / f"{name}.json"
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{file} must be a result's JSON, but got: {error}") from error
        return read_report(file) if "scores" in found else found


# Figures ---------------------------------------------------------------------------------------------------------


def figure(expression: str, results: Results) -> str:
    """The text of a figure; see the module.

    Raises:
        ValueError: naming the expression, if it names nothing.
    """
    what, _, form = (part.strip() for part in expression.partition("|"))
    value, *others = (look_up(part.split(), results) for part in what.split(" below "))
    if others:
        return write_number((others[0] - value) / others[0], form or ".1%")
    return write_number(value, form or ("," if isinstance(value, int) else ".2%"))


def look_up(keys: Sequence[str], results: Results) -> float:
    """The number that a file's name and keys within lead to."""
    name, *path = keys
    value = results.read(name)
    if path and path[0] in value.get("scores", ()):
        path = ["scores", *path]
        if len(path) > 2 and path[2] not in value["scores"][path[1]]:
            path[2:2] = ["normalizers", value["normalizer"]]
    for key in path:
        value = _child(value, key)
    value = value.get("value") if isinstance(value, Mapping) else value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"a figure must name a number of {results.folder}, but got {' '.join(keys)!r}")
    return value


def _child(value, key: str):
    if isinstance(value, Mapping):
        return value.get(key)
    if isinstance(value, list):
        return next((row for row in value if key in (row.get("run"), row.get("backbone"))), None)
    return None


def write_number(value: float, form: str) -> str:
    """ "3.42" of 0.0342 and ".2%"."""
    unit = UNITS.get(form[-1])
    try:
        return format(value / unit, f"{form[:-1]}f") if unit else format(value, form)
    except ValueError as error:
        raise ValueError(f"a figure's form must be one of Python's, or with %, M or G, but got {form!r}") from error


# Blocks ----------------------------------------------------------------------------------------------------------


def scores_block(what: Mapping, results: Results) -> str:
    reports = [results.read(row["file"]) for row in what["rows"] if "file" in row]
    kinds = {(report["normalizer"], report["threshold"]) for report in reports}
    if len(kinds) != 1:
        raise ValueError(f"rows must share normaliser and threshold, but got {sorted(kinds)}")
    normalizer, limit = kinds.pop()[0], f"{100 * reports[0]['threshold']:g}%"
    extra = what.get("columns", [])
    rows = []
    for row in what["rows"]:
        cells = [row["label"], *row.get("cells", [NOTHING] * len(extra))]
        if "paper" in row:
            rows.append([*cells, NOTHING, f"{_quoted(*row['paper']):.2f}", NOTHING, NOTHING])
            continue
        scored = results.read(row["file"])["scores"][row["score"]]
        main = scored["normalizers"][normalizer]
        shares = [percent(main[f"{name}@{limit}"]["value"]) for name in ("failure_rate", "auc")]
        rows.append([*cells, f"{scored['faces']:,}", interval(main["nme"]), *shares])
    header = ["", *extra, "faces", f"NME in % ({normalizer})", f"FR@{limit} in %", f"AUC@{limit} in %"]
    return grid(header, rows) + "\n\nIn brackets 95 % intervals: bootstrap over the faces."


def _quoted(backbone: str, dataset: str, score: str) -> float:
    """The paper's NME of its own network."""
    rows = (row for row in (*paper.TABLE_1, *paper.TABLE_2) if (row.method, row.backbone) == ("MTLD", backbone))
    return next(row.nme[dataset, score] for row in rows if (dataset, score) in row.nme)


def confidence_block(what: Mapping, results: Results) -> str:
    rows = []
    for row in what["rows"]:
        scored = results.read(row["file"])["scores"][row["score"]]
        cells = [f"{scored['faces']:,} of {row['score']}", f"{scored['confidence_ratio']:.2f}"]
        rows.append([row["label"], *cells, f"{scored['likelihood_gain']:.3f}"])
    header = [
        "",
        "faces",
        "error of the least confident tenth over that of the most confident",
        "gain, nats a landmark",
    ]
    return grid(header, rows)


def noise_block(what: Mapping, results: Results) -> str:
    noise = results.read(what["file"])["box_noise"]
    rows = [[name, *(interval(value) for value in curve)] for name, curve in noise["curves"].items()]
    return grid(["", *(f"up to {level:.0%}" if level else "exact" for level in noise["levels"])], rows)


def table_block(what: Mapping, results: Results) -> str:
    return page(results.read(what["file"]))


BLOCKS: dict[str, Callable[[Mapping, Results], str]] = {
    "scores": scores_block,
    "confidence": confidence_block,
    "noise": noise_block,
    "table": table_block,
}


def block(kind: str, what: str, results: Results) -> str:
    """The text of a block; see the module.

    Raises:
        ValueError: naming the block, if it is of no known kind or names what is not there.
    """
    if kind not in BLOCKS:
        raise ValueError(f"a block must be one of {', '.join(BLOCKS)}, but got {kind!r}")
    try:
        return BLOCKS[kind](yaml.safe_load(what), results)
    except (yaml.YAMLError, LookupError, TypeError, StopIteration) as error:
        raise ValueError(f"the block {kind} must say what is there, but got {what.strip()!r}: {error!r}") from error


# Pages -----------------------------------------------------------------------------------------------------------


def renew(text: str, results: Results) -> str:
    """`text` with all figures and blocks written anew; what is between ``` stays.

    Raises:
        ValueError: for a comment of one that is not closed, or as `figure` and `block`.
    """

    def renew_part(part: str) -> str:
        part = BLOCK.sub(lambda m: m["head"] + block(m["kind"], m["what"], results) + "\n" + m["tail"], part)
        part = FIGURE.sub(lambda m: m["head"] + figure(m["what"], results) + m["tail"], part)
        left = FIGURE.sub("", BLOCK.sub("", part))
        if found := OPENINGS.search(left):
            line = left[found.start() :].partition("\n")[0]
            raise ValueError(f"every block and figure must be closed and of a known form, but got {line!r}")
        return part

    fences = FENCED.findall(text)
    parts = FENCED.split(text)
    return "".join(renew_part(part) + fence for part, fence in zip(parts, [*fences, ""], strict=True))


def loose_figures(text: str) -> Iterator[str]:
    """What looks like a measured score outside blocks and figures, each with the words around it.

    That is a decimal number before a percent sign, and in a paragraph or table that speaks of NME, FR or AUC any
    decimal number. Code is left out.
    """
    for pattern in (FENCED, BLOCK, FIGURE, re.compile(r"`[^`\n]*`")):
        text = pattern.sub("", text)
    for paragraph in re.split(r"\n\s*\n", text):
        pattern = DECIMAL if SCORED.search(paragraph) else PERCENTAGE
        for found in pattern.finditer(paragraph):
            yield " ".join(paragraph[max(0, found.start() - 40) : found.end() + 20].split())


def card_of(checkpoint: Path) -> str | None:
    """The model card that the record of a checkpoint's training makes; None where somebody has written one."""
    if not is_generated((checkpoint / "README.md").read_text(encoding="utf-8")):
        return None
    return model_card(MTLDConfig.from_pretrained(checkpoint), read_stages(str(checkpoint)))


def outdated(
    with_figures: Sequence[Path] = PAGES, folder: Path = RESULTS, checkpoints: Path = CHECKPOINTS
) -> dict[Path, str]:
    """The pages that are not what results and records make them, with what they should be."""
    results = Results(folder)
    pages = {page: renew(page.read_text(encoding="utf-8"), results) for page in with_figures}
    pages |= {path / "README.md": card_of(path) for path in sorted(checkpoints.glob("*/"))}
    return {
        path: text for path, text in pages.items() if text is not None and text != path.read_text(encoding="utf-8")
    }


def outdated_api(path: Path = API) -> dict[Path, str]:
    """The page of the API with what it should be, if it is not what the docstrings make it."""
    text = api_page()
    return {} if path.is_file() and text == path.read_text(encoding="utf-8") else {path: text}


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns the exit status: 0, 1 if --check finds something, or 2 after one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m training_mtld.readme",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args(argv)
    try:
        pages = outdated() | outdated_api()
        for path, text in pages.items():
            if not arguments.check:
                write_whole(path, text.encode())
            print(f"{path.relative_to(ROOT)} {'is out of date' if arguments.check else 'was brought up to date'}")
    except (ValueError, OSError) as error:
        print(f"readme: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return int(arguments.check and bool(pages))


if __name__ == "__main__":
    sys.exit(main())
