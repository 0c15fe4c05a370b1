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
SCRIPT = """
import importlib.metadata, json, sys
import numpy as np
import train_accelerate
from modeling_mtld import detect
from training_mtld.evaluation import scores

detect.main(["--device", "cpu", "--output_dir", "out"])
nme = scores._metric()(np.full((1, 2, 2), 0.1), np.zeros((1, 2, 2)), np.ones(1))["nme"]
commands = {entry.name: callable(entry.load()) for entry in importlib.metadata.distribution("mtld").entry_points}
print(json.dumps([nme, commands, detect.__file__, train_accelerate.__file__]))
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


def test_it_has_all_that_its_commands_need(installed):
    # -S: without the editable installation that this environment may have
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(installed), sysconfig.get_path("purelib")])}
    command = [sys.executable, "-S", "-c", SCRIPT]
    done = subprocess.run(command, cwd=installed.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    printed, _, last = done.stdout.rstrip().rpartition("\n")
    nme, commands, *places = json.loads(last)
    (face,) = json.loads(printed)
    assert len(face["landmarks"]) == 68 and face["score"] > 0.7
    assert sorted(path.suffix for path in (installed.parent / "out").iterdir()) == [".json", ".png"]
    assert nme == pytest.approx(0.1 * 2**0.5)
    assert commands == dict.fromkeys(["mtld-detect", "mtld-export", "mtld-data", "mtld-train", "mtld-tables"], True)
    assert all(place.startswith(str(installed)) for place in places)
    assert {path.name.removesuffix(".exe") for path in (installed / "bin").iterdir()} >= commands.keys()
