"""Every command and every piece of Python on the pages runs, on toy data and with a toy network."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import timm
from PIL import Image
from safetensors.torch import save_file
from skimage.data import astronaut
from test_check import symmetric_faces
from test_tables import SPLITS, FakeTraining
from training_runs import TINY, as_words, make_dolls

import train_accelerate
from dataset_scripts import BENCHMARKS
from dataset_scripts.__main__ import main as look_at_data
from dataset_scripts.face_builder import face_features
from modeling_mtld import detect, export
from modeling_mtld.configuration_mtld import MTLDConfig
from modeling_mtld.image_processing_mtld import MTLDImageProcessor
from modeling_mtld.modeling_mtld import MTLDForFacialLandmarkDetection
from training_mtld.tables import __main__ as tables
from training_mtld.tables import runs as table_runs

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "modeling_mtld/README.md", "dataset_scripts/README.md", "training_mtld/README.md")
PAGES += ("training_mtld/results/README.md", "space/README.md", "space/web/README.md")
NOT_RUN = {  # with the reason
    "make demo": "serves until it is stopped; tests/test_space_server.py does it",
    "python -m dataset_scripts wflw --data_dir wflw --download": "needs a network",
    "python -m modeling_mtld.export outputs/int8 --int8 300w/lfpw/trainset --score 300w 300w common": "needs faces; "
    "tests/test_int8.py runs it on some",
    "aflw68": "needs the crops of AFLW; tests/test_several_sets.py and test_detection_command.py run on other sets",
    "gradio_client": "needs the demo; tests/test_space_server.py calls its endpoints",
    "from onnx_landmarks import": "needs the Hub's face detector; tests/test_export.py runs it on a given one",
    "space/web": "needs npm's registry; tests/browser/test_web.py does it",
    "HfApi": "needs the Hub; tests/test_space_deploy.py runs it up to the upload",
}
FOLDERS = {"300w": ("train", "common"), "wflw": ("train", "test"), "aflw21": ("train", "test")}
FOLDERS |= {"merl_rav": ("train", "test")}
SCHEDULE = {"epochs": 1, "decay_epochs": (), "batch_size": 2, "num_workers": 0, "mixed_precision": "no"}
NETWORK = {name: TINY[name] for name in ("backbone", "image_size", "config")}


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def commands(page: str) -> list[str]:
    lines = "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    return [" ".join(line.partition("  #")[0].split()) for line in lines if line.strip()]


def write_faces(folder: Path, name: str, count: int = 4):
    """A benchmark in its Parquet layout: symmetric points on pictures of noise."""
    benchmark, rng = BENCHMARKS[name], np.random.default_rng(0)
    features = face_features(benchmark)
    (folder / "data").mkdir(parents=True)
    for split in FOLDERS[name]:
        points = (symmetric_faces(benchmark, count) * [50, 36] + 6).astype(np.float32)
        rows = {column: [_value(feature)] * count for column, feature in features.items()}
        rows |= {"landmarks": list(points), "image_id": [f"{split}/{number}" for number in range(count)]}
        rows["box"] = rows["landmark_box"] = [[*one.min(axis=0), *one.max(axis=0)] for one in points]
        rows["image"] = [Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)) for _ in range(count)]
        faces = datasets.Dataset.from_dict(rows, features=features)
        faces.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")


def _value(feature):
    if isinstance(feature, datasets.Value):
        return {"string": "", "bool": True}.get(feature.dtype, 1)
    return [_value(feature.feature)] * feature.length if hasattr(feature, "length") else None


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with all that the pages name."""
    folder = tmp_path_factory.mktemp("workplace")
    for name in FOLDERS:
        write_faces(folder / {"aflw21": "aflw_crops"}.get(name, name), name)
    make_dolls(folder / "dolls", train=4, test=2)
    for photo in ("photo.jpg", "a.jpg", "b.jpg"):
        Image.fromarray(astronaut()).save(folder / photo)
    (folder / "300w_validation.txt").write_text("train/0.png\n")
    (folder / "space").symlink_to(ROOT / "space")
    MTLDForFacialLandmarkDetection(MTLDConfig(backbone="test_resnet", image_size=64)).save_pretrained(folder / "tiny")
    MTLDImageProcessor(size=64).save_pretrained(folder / "tiny")
    weights = {name: value.contiguous() for name, value in timm.create_model(TINY["backbone"]).state_dict().items()}
    save_file(weights, folder / "resnet18_partial_imagenet.safetensors")
    return folder


@pytest.fixture(autouse=True)
def here(workplace, monkeypatch, fresh_training):
    monkeypatch.chdir(workplace)


def train(words: list[str]):
    given = {**SCHEDULE, "picture_every": 0, "save_minutes": 0} if "--eval_only" not in words else {"num_workers": 0}
    if "--model_name_or_path" not in words:
        given |= NETWORK | ({} if "--backbone_checkpoint" in words else {"random_backbone": ()})
    if "--image_size" in words:
        words[words.index("--image_size") + 1] = "64"
    assert train_accelerate.run([*words, *as_words(given)]) == 0


def make_tables(words: list[str], monkeypatch):
    """The trainings are stood for: they are those of the other commands."""
    speed = {"model_ms": 20.0, "trunk_ms": 16.0, "ratio": 1.25, "images_per_second": 50.0}
    network = {"parameters": 12_000_000, "multiply_adds": 2_450_000_000, "cpu": speed, "gpu": None}
    facts = {"num_landmarks": 98, "image_size": 256, "batch_size": 1, "runs": 100, "threads": 2}
    facts |= {"cpu": "a processor", "gpu": None}
    monkeypatch.setattr(table_runs, "launch", FakeTraining())
    monkeypatch.setattr(table_runs, "open_faces", lambda benchmark, data_dir: data_dir)
    monkeypatch.setattr(table_runs, "split_names", {**SPLITS, "aflw": ["train", "test"]}.get)

    def measure(backbones, *_, **__):
        return {**facts, "networks": dict.fromkeys(backbones, network)}

    monkeypatch.setattr(tables, "measure_networks", measure)
    if "--output_dir" not in words:
        words[words.index("--data_dir") : words.index("--data_dir")] = ["--output_dir", "tables35"]
    assert tables.main(words) == 0


def run_command(command: str, monkeypatch):
    words = shlex.split(command)
    if "train_accelerate.py" in words[:3]:  # after python or accelerate launch
        train(words[words.index("train_accelerate.py") + 1 :])
    elif words[:3] == ["python", "-m", "dataset_scripts"]:
        assert look_at_data(words[3:]) == 0
    elif words[:3] == ["python", "-m", "modeling_mtld.export"]:
        assert export.main([*words[3:], "--model", "tiny"]) == 0
    elif words[0] == "python" and words[1].startswith("outputs/"):
        subprocess.run([sys.executable, *words[1:]], check=True)
    elif words[:3] == ["python", "-m", "training_mtld.tables"]:
        make_tables(words[3:], monkeypatch)
    elif words[:2] == ["make", "detect"]:
        options = dict(word.split("=", 1) for word in words[2:])
        photo = [options["IMAGE"]] if "IMAGE" in options else []
        assert detect.main([*photo, *shlex.split(options.get("ARGS", "")), "--device", "cpu"]) in (0, None)
    else:
        pytest.fail(f"no way to run {command!r}")


@pytest.mark.parametrize("page", PAGES)
def test_commands_run(page, workplace, monkeypatch):
    for folder in workplace.glob("*"):  # each page starts from nothing
        if folder.name in {"outputs", "wflw-parquet", "low", "mtld-r18", "mtld-r18-scored", "tables", "scores"}:
            shutil.rmtree(folder)
    for command in commands(page):
        if not any(name in command for name in NOT_RUN):
            print(f"$ {command}")
            run_command(command, monkeypatch)


def python_blocks() -> list[tuple[str, str]]:
    return [(page, code) for page in PAGES for code in blocks(page, "python")]


@pytest.mark.parametrize("page, code", python_blocks(), ids=[page for page, _ in python_blocks()])
def test_python_runs(page, code, workplace, monkeypatch):
    if any(name in code for name in NOT_RUN):
        pytest.skip("; ".join(reason for name, reason in NOT_RUN.items() if name in code))
    monkeypatch.setattr(MTLDForFacialLandmarkDetection, "load_backbone_weights", lambda model: None)  # needs the Hub
    if "outputs/both" in code:
        train(shlex.split("--dataset 300w aflw21 --data_dir 300w aflw_crops --output_dir outputs/both"))
    from transformers import pipeline

    exec(code, {"frame": astronaut(), "seconds": 0.0, "pipeline": pipeline})
