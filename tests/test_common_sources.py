"""Getting transformers' own tests; `make test-common` runs them."""

import importlib.util
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "common" / "sources.py"


@pytest.fixture
def sources(monkeypatch):
    spec = importlib.util.spec_from_file_location("sources", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_archive(path: Path, version: str, names) -> Path:
    for name in names:
        file = path / f"transformers-{version}" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"# {name}")
    with tarfile.open(path / "archive.tar.gz", "w:gz") as archive:
        archive.add(path / f"transformers-{version}", f"transformers-{version}")
    return path / "archive.tar.gz"


def test_unpacks_what_is_needed(sources, tmp_path, monkeypatch):
    names = [f"tests/{name}" for name in sources.FILES] + ["tests/test_other.py", "setup.py"]
    archive = write_archive(tmp_path, sources.VERSION, names)
    monkeypatch.setattr(sources, "_download", lambda folder: archive)
    target = tmp_path / "venv" / "tests"
    target.parent.mkdir()
    sources.fetch(target)
    assert {file.name for file in target.iterdir()} == {"__init__.py", *sources.FILES}
    assert (target / sources.FILES[0]).read_text() == f"# tests/{sources.FILES[0]}"
    assert list(target.parent.iterdir()) == [target]


def test_leaves_nothing_of_a_distribution_without_tests(sources, tmp_path, monkeypatch):
    archive = write_archive(tmp_path, sources.VERSION, ["setup.py", f"tests/{sources.FILES[0]}"])
    monkeypatch.setattr(sources, "_download", lambda folder: archive)
    (tmp_path / "venv").mkdir()
    with pytest.raises(ValueError, match=f"must hold .*{sources.FILES[1]}, but got none"):
        sources.fetch(tmp_path / "venv" / "tests")
    assert list((tmp_path / "venv").iterdir()) == []


def test_leaves_nothing_where_pip_fails(sources, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(ValueError, match=f"transformers {sources.VERSION} must be on pip's index, but got .*found"):
        sources.fetch(tmp_path / "tests")
    assert list(tmp_path.iterdir()) == []


def test_says_in_one_line_what_is_missing_without_them(tmp_path):
    """Whoever runs pytest on the folder by hand is told what to run."""
    code = f"import sys, pytest; sys.prefix = {str(tmp_path)!r}; sys.exit(pytest.main([{str(SCRIPT.parent)!r}]))"
    finished = subprocess.run([sys.executable, "-c", code], cwd=SCRIPT.parents[2], capture_output=True, text=True)
    assert finished.returncode == 4, finished
    assert finished.stderr.strip().splitlines()[-1].endswith("run `make test-common`")
