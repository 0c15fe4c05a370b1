"""Updates the generated pages: figures and tables of README.md and results/README.md from JSON files of evaluations,
model cards from the records of trainings, and modeling_mtld/API.md from the docstrings.

    python -m training_mtld.readme           # write them
    python -m training_mtld.readme --check   # only list outdated pages; exit status 1 if there are any

The JSON files are in training_mtld/results/: `scores.json` of each evaluation, renamed, and `tableN.json` of
training_mtld.tables. Comments in the Markdown, which the rendered page does not show, name the source of each figure.

A figure in a sentence names a file, the keys of a value in it, and optionally a format:

    NME <!--= mtld-r18 common nme -->3.42<!--=--> %, <!--= speed networks resnet18 cpu ratio | .2f -->1.28<!--=-->

- Keys of scores.json are shortened: "common nme" is the main normaliser's; "common nme low" is the lower end of its
  interval.
- A row of a table is named by its run or backbone: "table3 rows mst nme".
- "A below B" is the fraction by which A is lower than B, such as "mtld-r18 common nme below base common nme".
- The format is Python's, followed by % (a fraction in percent), M or G. The default is .2%, and a comma for integers.

A block names its kind, and in YAML its content:

    <!-- begin scores
    columns: [trained on]
    rows:
      - {label: ours, cells: [all of it], file: mtld-r18, score: common}
      - {label: the paper, cells: [all of it], paper: [ResNet-18, 300w, common]}
    -->
    (a table: faces, NME with its interval, failure rate, AUC)
    <!-- end scores -->

Kinds: scores; confidence (the same rows; the error ratio and gain of the scale head); noise (file: an evaluation with
--box_noise); table (file: table3).
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
from .tables.pages import NO_VALUE, grid, interval, page, percent

ROOT = Path(__file__).resolve().parents[1]
RESULTS, CHECKPOINTS = Path(__file__).parent / "results", ROOT / "space" / "checkpoints"
PAGES = (ROOT / "README.md", RESULTS / "README.md")
API = ROOT / "modeling_mtld" / "API.md"
CODE_BLOCK = re.compile(r"^```.*?^```[ \t]*$", re.DOTALL | re.MULTILINE)
BLOCK = re.compile(
    r"(?P<head><!-- begin (?P<kind>\w+)(?P<content>.*?)-->\n)(?P<old>.*?)(?P<tail><!-- end (?P=kind) -->)", re.DOTALL
)
FIGURE = re.compile(r"(?P<head><!--=(?P<expression>[^>]+?)-->)(?P<old>[^<]*)(?P<tail><!--=-->)")
OPENINGS = re.compile(r"<!-- (?:begin|end)\b|<!--=")
UNITS = {"%": 0.01, "M": 1e6, "G": 1e9}
SCORE_NAME = re.compile(r"\b(?:NME|AUC|FR)\b|failure rate", re.IGNORECASE)
DECIMAL = re.compile(r"(?<![\w.@])\d+\.\d+(?![\w.]|,\d)")
PERCENTAGE = re.compile(rf"{DECIMAL.pattern}(?= ?%)")


class Results:
    """The JSON files of a folder, by name; each is read once."""

    def __init__(self, folder: Path = RESULTS):
        self.folder = folder
        self.read = functools.cache(self._read)

    def _read(self, name: str) -> dict:
        file = self.folder / f"{name}.json"
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{file} must be a result's JSON, but got: {error}") from error
        return read_report(file) if "scores" in content else content


# Figures ---------------------------------------------------------------------------------------------------------


def figure(expression: str, results: Results) -> str:
    """The text of a figure; see the module.

    Raises:
        ValueError: with the expression, if it names no number.
    """
    names, _, form = (text.strip() for text in expression.partition("|"))
    value, *others = (look_up(name.split(), results) for name in names.split(" below "))
    if others:
        return write_number((others[0] - value) / others[0], form or ".1%")
    return write_number(value, form or ("," if isinstance(value, int) else ".2%"))


def look_up(keys: Sequence[str], results: Results) -> float:
    """The number under a file's name and keys."""
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


def scores_block(content: Mapping, results: Results) -> str:
    reports = [results.read(row["file"]) for row in content["rows"] if "file" in row]
    kinds = {(report["normalizer"], report["threshold"]) for report in reports}
    if len(kinds) != 1:
        raise ValueError(f"rows must share normaliser and threshold, but got {sorted(kinds)}")
    normalizer, limit = kinds.pop()[0], f"{100 * reports[0]['threshold']:g}%"
    columns = content.get("columns", [])
    rows = []
    for row in content["rows"]:
        cells = [row["label"], *row.get("cells", [NO_VALUE] * len(columns))]
        if "paper" in row:
            rows.append([*cells, NO_VALUE, f"{_paper_nme(*row['paper']):.2f}", NO_VALUE, NO_VALUE])
            continue
        scores = results.read(row["file"])["scores"][row["score"]]
        main = scores["normalizers"][normalizer]
        shares = [percent(main[f"{name}@{limit}"]["value"]) for name in ("failure_rate", "auc")]
        rows.append([*cells, f"{scores['faces']:,}", interval(main["nme"]), *shares])
    header = ["", *columns, "faces", f"NME in % ({normalizer})", f"FR@{limit} in %", f"AUC@{limit} in %"]
    return grid(header, rows) + "\n\nIn brackets 95 % intervals: bootstrap over the faces."


def _paper_nme(backbone: str, dataset: str, score: str) -> float:
    """The NME that the paper reports for its network."""
    rows = (row for row in (*paper.TABLE_1, *paper.TABLE_2) if (row.method, row.backbone) == ("MTLD", backbone))
    return next(row.nme[dataset, score] for row in rows if (dataset, score) in row.nme)


def confidence_block(content: Mapping, results: Results) -> str:
    rows = []
    for row in content["rows"]:
        scores = results.read(row["file"])["scores"][row["score"]]
        cells = [f"{scores['faces']:,} of {row['score']}", f"{scores['confidence_ratio']:.2f}"]
        rows.append([row["label"], *cells, f"{scores['likelihood_gain']:.3f}"])
    header = [
        "",
        "faces",
        "error of the least confident tenth over that of the most confident",
        "gain, nats a landmark",
    ]
    return grid(header, rows)


def noise_block(content: Mapping, results: Results) -> str:
    noise = results.read(content["file"])["box_noise"]
    rows = [[name, *(interval(value) for value in curve)] for name, curve in noise["curves"].items()]
    return grid(["", *(f"up to {level:.0%}" if level else "exact" for level in noise["levels"])], rows)


def table_block(content: Mapping, results: Results) -> str:
    return page(results.read(content["file"]))


BLOCKS: dict[str, Callable[[Mapping, Results], str]] = {
    "scores": scores_block,
    "confidence": confidence_block,
    "noise": noise_block,
    "table": table_block,
}


def block(kind: str, content: str, results: Results) -> str:
    """The text of a block; see the module.

    Raises:
        ValueError: with the block, if its kind is unknown or its content names missing files or keys.
    """
    if kind not in BLOCKS:
        raise ValueError(f"a block must be one of {', '.join(BLOCKS)}, but got {kind!r}")
    try:
        return BLOCKS[kind](yaml.safe_load(content), results)
    except (yaml.YAMLError, LookupError, TypeError, StopIteration) as error:
        raise ValueError(
            f"the block {kind} must name existing files and keys, but got {content.strip()!r}: {error!r}"
        ) from error


# Pages -----------------------------------------------------------------------------------------------------------


def renew(text: str, results: Results) -> str:
    """`text` with all figures and blocks renewed; code between ``` stays.

    Raises:
        ValueError: if the comment of a figure or block is not closed, and where `figure` and `block` raise it.
    """

    def renew_section(section: str) -> str:
        section = BLOCK.sub(lambda m: m["head"] + block(m["kind"], m["content"], results) + "\n" + m["tail"], section)
        section = FIGURE.sub(lambda m: m["head"] + figure(m["expression"], results) + m["tail"], section)
        rest = FIGURE.sub("", BLOCK.sub("", section))
        if match := OPENINGS.search(rest):
            line = rest[match.start() :].partition("\n")[0]
            raise ValueError(f"every block and figure must be closed and of a known form, but got {line!r}")
        return section

    code_blocks = CODE_BLOCK.findall(text)
    sections = CODE_BLOCK.split(text)
    return "".join(renew_section(section) + code for section, code in zip(sections, [*code_blocks, ""], strict=True))


def loose_figures(text: str) -> Iterator[str]:
    """Numbers outside blocks and figures that may be measured scores, each with the words around it.

    These are decimal numbers before a percent sign, and all decimal numbers in a paragraph or table that mentions NME,
    FR or AUC. Code is left out.
    """
    for pattern in (CODE_BLOCK, BLOCK, FIGURE, re.compile(r"`[^`\n]*`")):
        text = pattern.sub("", text)
    for paragraph in re.split(r"\n\s*\n", text):
        pattern = DECIMAL if SCORE_NAME.search(paragraph) else PERCENTAGE
        for match in pattern.finditer(paragraph):
            yield " ".join(paragraph[max(0, match.start() - 40) : match.end() + 20].split())


def card_of(checkpoint: Path) -> str | None:
    """The model card generated from the record of a checkpoint's training; None for a card written by hand."""
    if not is_generated((checkpoint / "README.md").read_text(encoding="utf-8")):
        return None
    return model_card(MTLDConfig.from_pretrained(checkpoint), read_stages(str(checkpoint)))


def find_outdated(
    with_figures: Sequence[Path] = PAGES, folder: Path = RESULTS, checkpoints: Path = CHECKPOINTS
) -> dict[Path, str]:
    """The new text of the pages and model cards that differ from their sources."""
    results = Results(folder)
    pages = {page: renew(page.read_text(encoding="utf-8"), results) for page in with_figures}
    pages |= {path / "README.md": card_of(path) for path in sorted(checkpoints.glob("*/"))}
    return {
        path: text for path, text in pages.items() if text is not None and text != path.read_text(encoding="utf-8")
    }


def find_outdated_api(path: Path = API) -> dict[Path, str]:
    """The new text of the API page, if it differs from the docstrings."""
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
        pages = find_outdated() | find_outdated_api()
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
