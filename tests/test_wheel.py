"""The wheel, installed without the repository, has all that its commands need."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCORE = """
from training_mtld.evaluation import scores
import modeling_mtld, numpy as np, train_accelerate
print(scores._metric()(np.full((1, 2, 2), 0.1), np.zeros((1, 2, 2)), np.ones(1))["nme"])
print(modeling_mtld.__file__, train_accelerate.__file__)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The folder of the packages of an environment of its own, which sees the libraries of this one beside them."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("modeling_mtld", "dataset_scripts", "training_mtld", "space"):
        shutil.copytree(ROOT / name, folder / "source" / name)
    for name in ("pyproject.toml", "README.md", "LICENSE", "train_accelerate.py"):
        shutil.copy(ROOT / name, folder / "source")
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    building = [*pip, "wheel", "./source", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run(building, check=True, cwd=folder, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    target = folder / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(target), str(wheel)], check=True, cwd=folder)
    return target


def run(installed: Path, *words: str) -> str:
    # -S: without the editable installation that this environment may have
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(installed), sysconfig.get_path("purelib")])}
    command = [sys.executable, "-S", *words]
    done = subprocess.run(command, cwd=installed.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_it_finds_the_astronaut(installed):
    out = installed.parent / "out"
    (face,) = json.loads(run(installed, "-m", "modeling_mtld.detect", "--device", "cpu", "--output_dir", str(out)))
    assert len(face["landmarks"]) == 68 and face["score"] > 0.7
    assert sorted(path.suffix for path in out.iterdir()) == [".json", ".png"]


def test_it_scores_and_has_the_training_script(installed):
    nme, places = run(installed, "-c", SCORE).splitlines()
    assert float(nme) == pytest.approx(0.1 * 2**0.5)
    assert all(place.startswith(str(installed)) for place in places.split())


def test_its_commands(installed):
    names = {path.name.removesuffix(".exe") for path in (installed / "bin").iterdir()}
    assert {"mtld-detect", "mtld-data", "mtld-train", "mtld-tables"} <= names
    assert "--dataset" in run(installed, str(installed / "bin" / "mtld-train"), "--help")
