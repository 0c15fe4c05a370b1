"""Pushing to the Hub and loading from it, by processes that know a stub of it on localhost for the Hub."""

import dataclasses
import json
from pathlib import Path

import pytest
from hub_stub import metadata_errors, run_with_hub, running_hub
from huggingface_hub import ModelCard
from test_model_card import STAGE, W300

from modeling_mtld import auto_mtld
from modeling_mtld.auto_mtld import AUTO_MAP, CODE_FILES
from modeling_mtld.configuration_mtld import MTLDConfig
from modeling_mtld.model_card_mtld import is_generated, write_model_card

START = """
import json, sys, torch, numpy as np
from pathlib import Path
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForKeypointDetection, pipeline

pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
photo = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
box = [30.0, 20.0, 80.0, 75.0]
"""

PUSHING = """
from huggingface_hub import upload_file
from transformers import Trainer, TrainingArguments
from modeling_mtld.configuration_mtld import MTLDConfig
from modeling_mtld.image_processing_mtld import MTLDImageProcessor
from modeling_mtld.model_card_mtld import read_stages, write_model_card
from modeling_mtld.modeling_mtld import MTLDForFacialLandmarkDetection
from modeling_mtld.pipeline_mtld import FacialLandmarkDetectionPipeline

sizes = dict(hidden_size=16, num_attention_heads=2, intermediate_size=32, decoder_intermediate_size=32)
config = MTLDConfig(backbone="test_efficientnet", image_size=64, num_landmarks=5, **sizes)
model = MTLDForFacialLandmarkDetection(config).eval()
processor = MTLDImageProcessor(size={"height": 64, "width": 64})
with torch.no_grad():
    for weights in model.parameters():
        weights.add_(0.03 * torch.randn_like(weights))
    inputs = processor(photo, boxes=[box], return_tensors="pt")
    keypoints = processor.post_process_landmark_detection(model(**inputs), inputs)[0][0]["keypoints"]
    torch.save({"landmarks": model(pixels).landmarks, "keypoints": keypoints}, "expected.pt")

processor.push_to_hub("me/tiny")
model.push_to_hub("me/tiny", commit_message="the first")
model.push_to_hub("me/tiny", revision="branch", tags=["on-a-branch"])
processor.push_to_hub("me/processor")
model.push_to_hub("me/shards", max_shard_size="50KB")

model.save_pretrained("saved", push_to_hub=True, repo_id="me/private", private=True)
processor.save_pretrained("saved", push_to_hub=True, repo_id="me/private")
config.save_pretrained("configuration", push_to_hub=True, repo_id="me/configuration")
finder = FacialLandmarkDetectionPipeline(model=model, image_processor=processor)
finder.save_pretrained("finder", push_to_hub=True, repo_id="me/pipeline", max_shard_size="1GB")

stages = read_stages("record")
model.save_pretrained("trained")
write_model_card("trained", config, stages)
MTLDForFacialLandmarkDetection.from_pretrained("trained").push_to_hub("me/trained")

model.push_to_hub("me/described")
card = b"---\\nlicense: mit\\n---\\n\\nWritten by me."
upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id="me/described")
model.add_model_tags("tiny")
model.push_to_hub("me/described", tags="small")

arguments = TrainingArguments(
    "by-trainer", max_steps=2, save_steps=1, use_cpu=True, report_to=[], push_to_hub=True, hub_strategy="every_save",
)
faces = [{"pixel_values": pixels[0], "labels": torch.full((5, 2), 0.5)}]
trainer = Trainer(model, arguments, train_dataset=faces, processing_class=processor)
trainer.train()
trainer.push_to_hub()
"""

HIDING = """
import sys


class Hidden:
    def find_spec(name, path=None, target=None):
        if name in ("modeling_mtld", "dataset_scripts", "train_accelerate", "space"):
            raise ModuleNotFoundError(f"No module named {name!r}")


sys.meta_path.insert(0, Hidden)
"""

LOADING = """
expected = torch.load("expected.pt")


def load(source):
    model = AutoModelForKeypointDetection.from_pretrained(source, trust_remote_code=True)
    processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=True)
    return model, processor


@torch.no_grad()
def check(source, equal=True):
    assert AutoConfig.from_pretrained(source, trust_remote_code=True).num_landmarks == 5
    model, processor = load(source)
    if equal:
        assert (model(pixels).landmarks - expected["landmarks"]).abs().max() < 1e-5, source
    finder = pipeline("facial-landmark-detection", model=source, trust_remote_code=True)
    (face,) = finder(photo, boxes=[box])
    found = torch.tensor([[point["x"], point["y"]] for point in face["landmarks"]])
    assert not equal or (found - expected["keypoints"]).abs().max() < 1e-4, source
    return model, processor, finder
"""

PUSHING_AGAIN = """
model, processor = load("me/tiny")  # before a pipeline has brought the other code files
assert type(AutoModel.from_pretrained("me/tiny", trust_remote_code=True)) is type(model)
model.push_to_hub("me/tiny-again")
processor.push_to_hub("me/tiny-again")
AutoConfig.from_pretrained("me/tiny", trust_remote_code=True).push_to_hub("me/configuration-again")
check("me/tiny")[2].push_to_hub("me/pipeline-again")
AutoModel.from_pretrained("me/trained", trust_remote_code=True).push_to_hub("me/trained-again")
AutoModel.from_pretrained("me/described", trust_remote_code=True).save_pretrained("described")
changed = AutoModel.from_pretrained("me/trained", trust_remote_code=True)
changed.decoder.mean_face.data += 0.01
changed.push_to_hub("me/changed")
"""

CHECKING = """
for source in ("me/tiny-again", "me/pipeline-again", "me/private"):
    check(source)
check("me/by-trainer", equal=False)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    (folder / "record").mkdir()
    write_model_card(folder / "record", MTLDConfig(), [STAGE])
    return folder


@pytest.fixture(scope="module")
def hub(folder):
    with running_hub() as hub:
        run_with_hub(hub, folder, "home", START + PUSHING)
        yield hub


@pytest.fixture(scope="module")
def loaded(hub, folder):
    """The Hub after a machine without this repository has loaded from it and pushed again."""
    run_with_hub(hub, folder, "other", HIDING + START + LOADING + PUSHING_AGAIN, "-I")
    return hub


def check_code(files: dict[str, bytes]):
    config = json.loads(files["config.json"])
    assert config["auto_map"] == AUTO_MAP  # without the repository that it came from
    assert config["custom_pipelines"]["facial-landmark-detection"]["impl"].startswith("auto_mtld.")
    for name in CODE_FILES:
        assert files[name] == Path(auto_mtld.__file__).with_name(name).read_bytes(), name


def check_complete(files: dict[str, bytes]):
    check_code(files)
    assert files.keys() >= {"model.safetensors", "preprocessor_config.json", "README.md"}
    processor = json.loads(files["preprocessor_config.json"])
    assert processor["auto_map"] == {"AutoImageProcessor": AUTO_MAP["AutoImageProcessor"]}
    card = ModelCard(files["README.md"].decode())
    assert card.data.library_name == "transformers"
    assert metadata_errors(card.content) == ([], [])


@pytest.mark.parametrize("name", ["tiny", "private", "pipeline", "by-trainer"])
def test_what_is_pushed_is_complete(hub, name):
    check_complete(hub.files(f"me/{name}"))
    assert hub.repositories[f"me/{name}"].private == (name == "private")


def test_what_the_trainer_pushes_on_its_way_loads_too(hub):
    commits = [files for files in hub.repositories["me/by-trainer"].commits.values() if "config.json" in files]
    assert len(commits) > 1
    for files in commits:
        assert files.keys() >= {*CODE_FILES, "model.safetensors", "preprocessor_config.json"}


def test_nothing_else_is_pushed(hub):
    files = {*CODE_FILES, "config.json", "model.safetensors", "preprocessor_config.json", "README.md"}
    for name in ("tiny", "private", "pipeline"):
        assert hub.files(f"me/{name}").keys() == files, name


def test_shards_are_pushed(hub):
    names = {name for name in hub.files("me/shards") if ".safetensors" in name}
    index = json.loads(hub.files("me/shards")["model.safetensors.index.json"])
    assert names == {*index["weight_map"].values(), "model.safetensors.index.json"} and len(names) > 2


def test_a_processor_or_configuration_alone_brings_the_code(hub):
    assert hub.files("me/processor").keys() == {*CODE_FILES, "preprocessor_config.json"}
    files = hub.files("me/configuration")
    assert files.keys() == {*CODE_FILES, "config.json"}
    check_code(files)


def test_a_model_without_a_record_gets_a_plain_card(hub):
    content = hub.files("me/tiny")["README.md"].decode()
    card = ModelCard(content)
    assert is_generated(content) and card.data.eval_results is None and card.data.license is None
    assert 'path = "me/tiny"' in content and "5 facial landmarks with test_efficientnet" in content
    assert card.data.pipeline_tag == "keypoint-detection"


def test_a_branch_and_tags(hub):
    tags = ModelCard(hub.files("me/tiny", "branch")["README.md"].decode()).data.tags
    assert "on-a-branch" in tags and "facial-landmark-detection" in tags
    assert "on-a-branch" not in hub.files("me/tiny")["README.md"].decode()


def check_results(card: ModelCard):
    found = {(r.dataset_type, r.dataset_split, r.metric_type): r.metric_value for r in card.data.eval_results}
    expected = {
        (W300.dataset, split, metric): round(100 * scores[metric], 3)
        for split, scores in W300.results.items()
        for metric in ("nme", "failure_rate", "auc")
    }
    assert found == expected
    assert all(result.source_name is None and result.verified is None for result in card.data.eval_results)


def test_results_of_the_record_are_on_the_card(loaded):
    for name in ("trained", "trained-again"):
        files = loaded.files(f"me/{name}")
        assert json.loads(files["training.json"]) == [dataclasses.asdict(STAGE)]
        check_results(ModelCard(files["README.md"].decode()))
        assert f'path = "me/{name}"' in files["README.md"].decode()


def test_weights_that_changed_claim_no_results(loaded):
    files = loaded.files("me/changed")
    assert "training.json" not in files
    assert ModelCard(files["README.md"].decode()).data.eval_results is None


def test_a_card_that_somebody_wrote_stays(loaded, folder):
    card = ModelCard(loaded.files("me/described")["README.md"].decode())
    assert card.text.strip() == "Written by me." and card.data.license == "mit" and card.data.tags == ["tiny", "small"]
    assert (folder / "described" / "README.md").read_bytes() == loaded.files("me/described")["README.md"]


def test_a_machine_without_this_repository_loads_and_pushes_again(loaded, folder):
    for name in ("tiny-again", "pipeline-again"):
        check_complete(loaded.files(f"me/{name}"))
        assert loaded.files(f"me/{name}")["model.safetensors"] == loaded.files("me/tiny")["model.safetensors"]
    check_code(loaded.files("me/configuration-again"))
    run_with_hub(loaded, folder, "third", HIDING + START + LOADING + CHECKING, "-I")


def test_the_stub_refuses_what_the_hub_would():
    card = "---\nlicense: other\nlicense_name: {license}\nmodel-index:\n- name: {name}\n  results:\n"
    card += "  - task: {{type: t}}\n    dataset: {{type: d, name: D}}\n    metrics:\n"
    card += "    - type: m\n      value: {value}\n---\n"
    assert metadata_errors(card.format(license="mine", name="x", value=1)) == ([], [])
    for change in ({"license": "My licence"}, {"name": ""}, {"value": ""}, {"value": "[1"}):
        assert metadata_errors(card.format(**{"license": "mine", "name": "x", "value": 1} | change))[0], change
    assert metadata_errors("no metadata")[1]
