import dataclasses
import json
import re
import shlex
import subprocess

import pytest
from huggingface_hub import ModelCard

from modeling_mtld.configuration_mtld import MTLDConfig
from modeling_mtld.model_card import (
    Stage,
    git_commit,
    library_versions,
    read_stages,
    shown_command,
    write_model_card,
)

STAGE = Stage(
    command="accelerate launch train_accelerate.py --data_dir 300w --output_dir out",
    dataset="300w",
    title="300W",
    homepage="https://example.org/300w",
    licence="Images and annotations are for non-commercial research only.",
    split="train",
    faces=2012,
    official_faces=3148,
    epochs=30,
    seed=5,
    setting="1 process on cpu, bf16 autocast",
    versions={"torch": "2.15.0", "timm": "1.0.31"},
    normalizer="inter-ocular",
    threshold=0.08,
    commit="0123abc with uncommitted changes",
    results={
        "common": {"nme": 0.034567, "failure_rate": 0.0126, "auc": 0.5678, "faces": 554},
        "challenging": {"nme": 0.0612, "failure_rate": 0.0740, "auc": 0.2, "faces": 135},
    },
)
CONFIG = MTLDConfig(backbone="resnet18")


def card_of(directory, *stages):
    write_model_card(directory, CONFIG, stages)
    return ModelCard.load(directory / "README.md")


def test_front_matter_is_what_the_hub_reads(tmp_path):
    data = card_of(tmp_path, STAGE).data
    assert data.license == "other" and data.license_name == "non-commercial-research"
    assert data.license_link == STAGE.homepage
    assert data.library_name == "transformers" and data.pipeline_tag == "keypoint-detection"
    assert "facial-landmark-detection" in data.tags and "300w" in data.tags
    results = {(r.dataset_split, r.metric_type): (r.metric_value, r.metric_name) for r in data.eval_results}
    assert results["common", "nme"] == (3.457, "NME in % (inter-ocular)")
    assert results["challenging", "failure_rate"] == (7.4, "FR@8% in %")
    assert results["common", "auc"][0] == 56.78 and len(results) == 6
    assert {result.dataset_type for result in data.eval_results} == {"300w"}


def test_body_tells_results_data_command_and_code(tmp_path):
    text = card_of(tmp_path, STAGE).text
    assert "| split | faces | NME (inter-ocular) | FR@8% | AUC@8% |" in text
    assert "| 300W common | 554 | 3.457 | 1.26 | 56.78 |" in text
    assert f"```bash\n{STAGE.command}\n```" in text
    assert "2012 faces (the complete split has 3148)" in text
    for words in ("epochs: 30", "seed: 5", "commit 0123abc with uncommitted changes", "torch 2.15.0", "bf16 autocast"):
        assert words in text
    assert "Stage 1" not in text
    licence = text.partition("## Licence")[2]
    assert "Apache-2.0" in licence and "non-commercial research only" in licence


def test_usage_is_ten_lines_of_python(tmp_path):
    code = re.search(r"```python\n(.*?)```", card_of(tmp_path, STAGE).text, re.DOTALL)[1]
    compile(code, "card", "exec")
    assert len(code.splitlines()) <= 10
    for name in ("AutoModel.", "AutoImageProcessor.", "pipeline(", "trust_remote_code=True"):
        assert name in code


def test_stages_are_read_back_and_all_told(tmp_path):
    first = dataclasses.replace(STAGE, command="first command", dataset="aflw", title="AFLW", official_faces=None)
    text = card_of(tmp_path, first, STAGE).text
    assert read_stages(tmp_path) == [first, STAGE]
    assert text.index("first command") < text.index("### Stage 2 of 2") < text.index(STAGE.command)
    assert text.count("complete split") == 1
    assert text.count("non-commercial research only") == 2
    assert "aflw" in ModelCard.load(tmp_path / "README.md").data.tags


def test_stages_of_one_data_set_tell_its_licence_once(tmp_path):
    assert card_of(tmp_path, STAGE, STAGE).text.count("non-commercial research only") == 1


def test_training_that_does_not_know_its_commit_says_so(tmp_path):
    assert "commit unknown" in card_of(tmp_path, dataclasses.replace(STAGE, commit=None)).text


def test_checkpoint_without_a_record_has_no_stages(tmp_path):
    assert read_stages(None) == read_stages(tmp_path) == read_stages("nobody/nothing") == []


@pytest.mark.parametrize("content", ["{", '{"command": "x"}', '[{"command": "x"}]', '["x"]', "[1]", "5"])
def test_record_of_another_form_is_named(tmp_path, content):
    (tmp_path / "training.json").write_text(content)
    with pytest.raises(ValueError, match=r"training\.json must be a list of trainings, but got: "):
        read_stages(tmp_path)


def test_record_names_the_field_that_it_does_not_know(tmp_path):
    (tmp_path / "training.json").write_text(json.dumps([dataclasses.asdict(STAGE) | {"sed": 3}]))
    with pytest.raises(ValueError, match="sed"):
        read_stages(tmp_path)


def test_shown_command_can_be_typed_again_and_hides_where_this_machine_keeps_things():
    words = [
        "accelerate",
        "launch",
        "--data_dir",
        "../my data",
        "--out=/home/me/out/",
        "/a/b=c/d",
        "~/x",
        "--config",
        "a=1",
    ]
    assert shown_command(words) == "accelerate launch --data_dir '../my data' --out=out d x --config a=1"
    assert shlex.split(shown_command(["a", "it's", "$HOME"])) == ["a", "it's", "$HOME"]
    assert shown_command(["/"]) == "/"


def test_versions_of_what_trains():
    assert set(library_versions()) == {"torch", "transformers", "timm", "accelerate"}


def test_commit_and_uncommitted_changes(tmp_path):
    assert git_commit(tmp_path) is None and git_commit(tmp_path / "missing") is None

    def git(*words):
        identity = ("-c", "user.name=n", "-c", "user.email=e@example.org")
        return subprocess.run(["git", "-C", tmp_path, *identity, *words], check=True, capture_output=True, text=True)

    git("init")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "first")
    (tmp_path / "untracked").write_text("outputs lie here")
    commit = git("rev-parse", "HEAD").stdout.strip()
    assert git_commit(tmp_path) == commit
    (tmp_path / "file").write_text("2")
    assert git_commit(tmp_path) == f"{commit} with uncommitted changes"
