"""The pages: their length, their links, and the options and modules that they name."""

import re
from pathlib import Path

import pytest

from training_mtld.tables.runs import parser_of_training

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (
    ".",
    ".github",
    "modeling_mtld",
    "dataset_scripts",
    "training_mtld",
    "training_mtld/results",
    "space",
    "space/web",
)
PAGES = sorted(page for folder in FOLDERS for page in (ROOT / folder).glob("*.md"))


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_front_page_is_short_and_shows_a_face():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 160 and "![" in text


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text(encoding="utf-8")):
        file, _, anchor = target.partition("#")
        linked = (page.parent / file).resolve() if file else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_options_of_the_training_are_there(page):
    known = {option for action in parser_of_training()._actions for option in action.option_strings}
    for block in re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE):
        for command in block.replace("\\\n", " ").splitlines():
            if "train_accelerate.py" in command:
                options = set(re.findall(r"(?<=\s)--\w+", command.partition("train_accelerate.py")[2]))
                assert options <= known, command


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_modules_are_there(page):
    for module in re.findall(r"python -m ([\w.]+)", page.read_text(encoding="utf-8")):
        if module.split(".")[0] in ("modeling_mtld", "dataset_scripts", "training_mtld"):
            place = ROOT / module.replace(".", "/")
            assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), module
