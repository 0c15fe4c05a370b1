"""README's lines that put the two Spaces on the Hub, run up to the network call."""

import json
import posixpath
import re
from pathlib import Path
from types import SimpleNamespace

import gradio
import pytest
import yaml
from huggingface_hub import HfApi, hf_api

ROOT = Path(__file__).resolve().parents[1]


def deployed(folder: str = "space", sdk: str = "gradio") -> dict[str, dict[str, Path]]:
    """The files of each Space by its id, as the page of a folder sends them: place in the Space and file here."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    [lines] = [block for block in blocks if "upload_folder" in block]
    spaces = {}

    def create_repo(self, repo_id, *, repo_type, space_sdk, **_):
        assert (repo_type, space_sdk) == ("space", sdk)
        spaces[repo_id] = {}

    def create_commit(self, repo_id, operations, *, repo_type, **_):
        assert repo_type == "space"
        spaces[repo_id] = {operation.path_in_repo: ROOT / operation.path_or_fileobj for operation in operations}
        return SimpleNamespace(pr_url=None)

    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(ROOT)
        patched.setattr(HfApi, "create_repo", create_repo)
        patched.setattr(HfApi, "create_commit", create_commit)
        patched.setattr(hf_api, "is_xet_available", lambda: False, raising=False)  # all files in one commit
        patched.setattr(HfApi, "_validate_yaml", lambda *_, **__: None)  # by the Hub, of README.md
        exec(lines, {})
    return spaces


def test_what_travels():
    spaces = deployed()
    assert set(spaces) == {"org/mtld", "org/nme"}
    demo, metric = set(spaces["org/mtld"]), set(spaces["org/nme"])
    assert {"app.py", "README.md", "requirements.txt", "checkpoints.txt", "examples/astronaut.jpg"} <= demo
    assert {"checkpoints/mtld-r18/model.safetensors", "checkpoints/mtld-r18/pipeline_mtld.py"} <= demo
    assert {"app.py", "nme.py", "README.md", "requirements.txt"} <= metric
    for name in demo | metric:
        assert (
            not name.startswith(("nme/", "web/")) and not name.endswith((".pyc", ".pyi")) and "__pycache__" not in name
        )


@pytest.mark.parametrize("space", ["org/mtld", "org/nme"])
def test_what_the_hub_reads_of_a_space(space):
    files = deployed()[space]
    facts = yaml.safe_load(files["README.md"].read_text(encoding="utf-8").split("---\n")[1])
    assert facts["sdk"] == "gradio" and facts["sdk_version"] == gradio.__version__.rsplit(".", 1)[0] + ".0"
    assert facts["app_file"] in files and len(facts["short_description"]) <= 60
    colors = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert {facts["colorFrom"], facts["colorTo"]} <= colors


@pytest.mark.parametrize("space", ["org/mtld", "org/nme"])
def test_what_a_space_installs_are_the_versions_of_the_project(space):
    files = deployed()[space]
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lines = files["requirements.txt"].read_text(encoding="utf-8").splitlines()
    for line in filter(None, (line.split("#")[0].strip() for line in lines)):
        assert f'"{line}"' in project


def test_the_static_page_travels_with_all_that_it_loads():
    files = deployed("space/web", "static")["org/mtld-web"]
    facts = yaml.safe_load(files["README.md"].read_text(encoding="utf-8").split("---\n")[1])
    assert facts["sdk"] == "static" and facts["app_file"] == "index.html" and len(facts["short_description"]) <= 60
    page = files["index.html"].read_text(encoding="utf-8")
    loaded = set(re.findall(r'(?:href|src)="([\w./]+)"', page))
    scripts = [name for name in files if name.startswith("js/")]
    for name in scripts:
        imported = re.findall(r'from "(.*?)"', files[name].read_text(encoding="utf-8"))
        loaded |= {posixpath.normpath(posixpath.join("js", path)) for path in imported}
    assert "js/page.js" in loaded and set(scripts) <= loaded
    library = {name for name in loaded if name.startswith("node_modules/")}
    assert loaded - library <= set(files)
    assert library == {"node_modules/onnxruntime-web/dist/ort.wasm.min.mjs"}
    assert not any(name.endswith(".py") or "/onnx_landmarks" in name for name in files)
    version = json.loads((ROOT / "space/web/package.json").read_text(encoding="utf-8"))["dependencies"][
        "onnxruntime-web"
    ]
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
