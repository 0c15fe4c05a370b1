"""What is in a saved directory, and that it is all that a machine without this repository needs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import test_modeling
import torch
from transformers.dynamic_module_utils import get_relative_import_files

from modeling_mtld import auto_mtld
from modeling_mtld.auto_mtld import CODE_FILES, complete_checkpoint
from modeling_mtld.configuration_mtld import MTLDConfig
from modeling_mtld.image_processing_mtld import MTLDImageProcessor
from modeling_mtld.modeling_mtld import MTLDForFacialLandmarkDetection

SOURCES = Path(auto_mtld.__file__).parent
TINY = test_modeling.TINY | {"heatmap_sigma": 1.25}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = MTLDForFacialLandmarkDetection(MTLDConfig(**TINY)).eval()
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(0.03 * torch.randn_like(weights))
    return model


@pytest.fixture
def saved(model, tmp_path) -> Path:
    model.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def read_config(directory: Path) -> dict:
    return json.loads((directory / "config.json").read_text(encoding="utf-8"))


def check_complete(directory: Path):
    config = read_config(directory)
    assert config["dtype"] == "float32"
    assert (config["num_landmarks"], config["heatmap_sigma"]) == (5, 1.25)
    assert config["auto_map"].keys() == {
        "AutoConfig",
        "AutoModel",
        "AutoModelForKeypointDetection",
        "AutoImageProcessor",
    }
    assert config["custom_pipelines"].keys() == {"facial-landmark-detection"}
    for reference in [*config["auto_map"].values(), config["custom_pipelines"]["facial-landmark-detection"]["impl"]]:
        module, name = reference.split(".")
        assert module == "auto_mtld" and getattr(auto_mtld, name).__name__ == name
    for name in CODE_FILES:
        assert (directory / name).read_bytes() == (SOURCES / name).read_bytes(), name
    assert [path for path in directory.iterdir() if path.suffix == ".tmp"] == []


def test_code_files_need_each_other_and_nothing_else_of_this_repository():
    for name in CODE_FILES:
        needed = {Path(file).name for file in get_relative_import_files(SOURCES / name)}
        assert needed <= set(CODE_FILES), name
        text = (SOURCES / name).read_text(encoding="utf-8")
        assert "import modeling_mtld" not in text and "from modeling_mtld" not in text, name


LOADED = """
import json, sys
from transformers import AutoImageProcessor, AutoModel, pipeline

def ours():
    return [name for name in sys.modules if name.endswith("_mtld")]

def heavy():
    return [name for name in ("cv2", "gradio", "datasets") if name in sys.modules]

folder = sys.argv[1]
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
told = {"of_the_model": ours(), "heavy": heavy()}
processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
told["of_the_processor"] = [name for name in ours() if name not in told["of_the_model"]]
finders = [
    pipeline("facial-landmark-detection", model=folder, trust_remote_code=True),
    pipeline("facial-landmark-detection", model=model, image_processor=processor),
]
told["of_the_pipeline"], told["finders"] = ours(), [type(find).__module__ for find in finders]
print(json.dumps(told))
"""


def run_elsewhere(code: str, tmp_path: Path, *arguments) -> dict:
    """In a process that cannot import this repository."""
    command = [sys.executable, "-I", "-c", code, *map(str, arguments)]
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_the_network_comes_without_what_only_pipelines_need(model, saved, tmp_path):
    MTLDImageProcessor(size=64).save_pretrained(saved)
    told = run_elsewhere(LOADED, tmp_path, saved)
    assert told["heavy"] == [] and len(told["of_the_model"]) <= 7
    files = {name.rpartition(".")[2] for name in told["of_the_processor"]}
    assert files == {"image_processing_mtld", "photo_mtld", "geometry_mtld"}
    names = [name.rpartition(".")[2] for name in told["of_the_pipeline"]]
    assert len(names) == len(set(names)), "a file is there twice"
    assert len(set(told["finders"])) == 1


OTHER_CODE = """
import json, sys
from transformers import AutoModel, pipeline

told = []
for folder in sys.argv[1:]:
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    find = pipeline("facial-landmark-detection", model=model, image_processor=folder, trust_remote_code=True)
    told.append(getattr(sys.modules[type(find).__module__], "VERSION", 1))
print(json.dumps(told))
"""


def test_each_of_two_checkpoints_runs_its_own_code(saved, tmp_path):
    MTLDImageProcessor(size=64).save_pretrained(saved)
    shutil.copytree(saved, tmp_path / "other")
    with open(tmp_path / "other" / "pipeline_mtld.py", "a") as code:
        code.write("VERSION = 2\n")
    assert run_elsewhere(OTHER_CODE, tmp_path, saved, tmp_path / "other") == [1, 2]


def test_a_saved_model_is_complete(saved):
    check_complete(saved)


def test_a_loaded_model_saved_again_is_complete(saved, tmp_path):
    MTLDForFacialLandmarkDetection.from_pretrained(saved).half().save_pretrained(tmp_path / "again")
    check_complete(tmp_path / "again")


def test_a_configuration_alone_brings_everything(model, tmp_path):
    model.config.save_pretrained(tmp_path)
    check_complete(tmp_path)


def test_saving_again_replaces_older_code(model, saved):
    (saved / "loss_mtld.py").write_text("of an older release")
    model.save_pretrained(saved)
    check_complete(saved)


def test_only_the_main_process_writes(model, tmp_path):
    model.save_pretrained(tmp_path / "saved", is_main_process=False)
    assert list((tmp_path / "saved").iterdir()) == []


@pytest.mark.parametrize("content", [None, '{"num_landmarks": 5,'])
def test_a_directory_without_a_configuration_is_refused_and_left_alone(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json must be a configuration that save_pretrained wrote, but got "):
        complete_checkpoint(tmp_path)
    assert [path.read_text() for path in tmp_path.iterdir()] == ([] if content is None else [content])


@pytest.mark.parametrize("failing", ["loss_mtld.py", "config.json"])
@pytest.mark.parametrize("moment", ["writing", "renaming"])
def test_a_failure_leaves_no_half_written_file(saved, monkeypatch, failing, moment):
    config = (saved / "config.json").read_text().replace("1.25", "2.5")
    (saved / "config.json").write_text(config)
    (saved / "loss_mtld.py").write_text("old")
    replace, write_bytes = os.replace, Path.write_bytes

    def failing_replace(source, target):
        if moment == "renaming" and Path(target).name == failing:
            raise OSError("disk full")
        replace(source, target)

    def failing_write(path, content):
        if moment == "writing" and path.name.startswith(failing):
            write_bytes(path, content[:10])
            raise OSError("disk full")
        return write_bytes(path, content)

    monkeypatch.setattr(os, "replace", failing_replace)
    monkeypatch.setattr(Path, "write_bytes", failing_write)
    with pytest.raises(OSError, match="disk full"):
        complete_checkpoint(saved)
    assert (saved / "config.json").read_text() == config
    assert (saved / "loss_mtld.py").read_text() in ("old", (SOURCES / "loss_mtld.py").read_text())
    assert [path for path in saved.iterdir() if path.suffix == ".tmp"] == []


def test_code_that_is_nowhere_is_named_in_a_warning(saved, monkeypatch, caplog):
    monkeypatch.setattr(auto_mtld, "CODE_FILES", (*CODE_FILES, "ghost_mtld.py"))
    complete_checkpoint(saved)
    assert "ghost_mtld.py" in caplog.text and "loss_mtld.py" not in caplog.text
    check_complete(saved)


# A machine that has the libraries and a checkpoint, but neither this repository nor a network

OTHER_MACHINE = '''
"""Usage: SCRIPT SOURCE[=TARGET] ...: checks each checkpoint, and saves what it gave to TARGET."""
import sys


class Hidden:
    def find_spec(name, path=None, target=None):
        if name in ("modeling_mtld", "dataset_scripts", "train_accelerate", "space"):
            raise ModuleNotFoundError(f"No module named {name!r}")


sys.meta_path.insert(0, Hidden)

import numpy as np
import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForKeypointDetection, pipeline

expected = torch.load("expected.pt")
photo = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
box = [30.0, 20.0, 80.0, 75.0]
for argument in sys.argv[1:]:
    source, _, target = argument.partition("=")
    assert AutoConfig.from_pretrained(source, trust_remote_code=True).num_landmarks == 5
    processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=True)
    for auto_class in (AutoModel, AutoModelForKeypointDetection):
        model = auto_class.from_pretrained(source, trust_remote_code=True)
        with torch.no_grad():
            landmarks = model(expected["pixels"]).landmarks
            assert torch.allclose(landmarks, expected["landmarks"], rtol=0, atol=1e-5), source
    if target:  # before the pipeline has brought the other code files
        model.save_pretrained(target)
        processor.save_pretrained(target)
    inputs = processor(photo, boxes=[box], return_tensors="pt")
    with torch.no_grad():
        keypoints = processor.post_process_landmark_detection(model(**inputs), inputs)[0][0]["keypoints"]
    detector = pipeline("facial-landmark-detection", model=source, trust_remote_code=True)
    (face,) = detector(photo, boxes=[box])
    found = torch.tensor([[point["x"], point["y"]] for point in face["landmarks"]])
    assert (found - keypoints).abs().max() < 1e-3, source
assert "modeling_mtld" not in sys.modules
'''


def run_on_other_machine(folder: Path, *arguments: str):
    (folder / "script.py").write_text(OTHER_MACHINE)
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "HF_HOME": str(folder / "hf")}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-I", "script.py", *arguments]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def put_into_hub_cache(directory: Path, folder: Path, repository: str):
    """As if `repository` had been downloaded from the Hub."""
    commit = "0123456789abcdef" * 2 + "01234567"
    cached = folder / "hf" / "hub" / f"models--{repository.replace('/', '--')}"
    shutil.copytree(directory, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)


def test_a_directory_and_a_hub_repository_work_alone_and_can_be_saved_again(model, tmp_path):
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.save({"pixels": pixels, "landmarks": model(pixels).landmarks}, tmp_path / "expected.pt")
    model.save_pretrained(tmp_path / "first")
    MTLDImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path / "first")
    put_into_hub_cache(tmp_path / "first", tmp_path, "org/mtld")
    run_on_other_machine(tmp_path, "first=from_directory", "org/mtld=from_hub")
    check_complete(tmp_path / "from_directory")
    check_complete(tmp_path / "from_hub")
    for gone in ("first", "hf"):
        shutil.rmtree(tmp_path / gone)
    run_on_other_machine(tmp_path, "from_directory", "from_hub")
