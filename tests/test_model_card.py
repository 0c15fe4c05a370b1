import dataclasses
import json
import re
import shutil

import pytest
import torch
from huggingface_hub import ModelCard

from modeling_mtld.configuration_mtld import MTLDConfig
from modeling_mtld.model_card_mtld import Stage, TrainingSet, is_generated, read_stages, write_model_card
from modeling_mtld.modeling_mtld import MTLDForFacialLandmarkDetection

W300 = TrainingSet(
    dataset="300w",
    title="300W",
    homepage="https://example.org/300w",
    licence="Images and annotations are for non-commercial research only.",
    split="train",
    faces=2012,
    official_faces=3148,
    normalizer="inter-ocular",
    threshold=0.08,
    results={
        "common": {"nme": 0.034567, "failure_rate": 0.0126, "auc": 0.5678, "faces": 554},
        "challenging": {"nme": 0.0612, "failure_rate": 0.0740, "auc": 0.2, "faces": 135},
    },
)
AFLW = dataclasses.replace(W300, dataset="aflw", title="AFLW", official_faces=None)
STAGE = Stage(
    command="accelerate launch train_accelerate.py --data_dir 300w --output_dir out",
    datasets=[W300],
    epochs=30,
    seed=5,
    setting="1 process on cpu, bf16 autocast",
    versions={"torch": "2.15.0", "timm": "1.0.31"},
    commit="0123abc with uncommitted changes",
)
CONFIG = MTLDConfig(backbone="resnet18")


def card_of(directory, *stages):
    write_model_card(directory, CONFIG, stages)
    return ModelCard.load(directory / "README.md")


def test_front_matter_is_what_the_hub_reads(tmp_path):
    data = card_of(tmp_path, STAGE).data
    assert data.license == "other" and data.license_name == "non-commercial-research"
    assert data.license_link == W300.homepage
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
    first = dataclasses.replace(STAGE, command="first command", datasets=[AFLW])
    text = card_of(tmp_path, first, STAGE).text
    assert read_stages(tmp_path) == [first, STAGE]
    assert text.index("first command") < text.index("### Stage 2 of 2") < text.index(STAGE.command)
    assert text.count("complete split") == 1
    assert text.count("non-commercial research only") == 2
    assert "aflw" in ModelCard.load(tmp_path / "README.md").data.tags


def test_stages_of_one_data_set_tell_its_licence_once(tmp_path):
    assert card_of(tmp_path, STAGE, STAGE).text.count("non-commercial research only") == 1


def test_sets_trained_on_together_are_each_told_with_their_results(tmp_path):
    hidden = {"test": {"nme": 0.02, "failure_rate": 0.0, "auc": 0.5, "faces": 7, "visibility_auc": 0.9514}}
    rav = dataclasses.replace(AFLW, dataset="merl_rav", title="MERL-RAV", normalizer="box", results=hidden)
    card = card_of(tmp_path, dataclasses.replace(STAGE, datasets=[W300, rav]))
    assert "| 300W common | 554 | 3.457 |" in card.text and "| MERL-RAV test | 7 | 2.000 |" in card.text
    assert "Visibility on test: 0.951" in card.text and card.text.count("- data: ") == 2
    assert {result.dataset_type for result in card.data.eval_results} == {"300w", "merl_rav"}
    assert {"300w", "merl_rav"} <= set(card.data.tags) and "Stage 1" not in card.text


def test_topologies_are_listed_with_their_names(tmp_path):
    topologies = {
        "eyes": {"landmarks": [0, 1], "landmark_names": ["eye_0", "eye_1"], "flip_pairs": [], "normalizer": None},
        "nose": {"landmarks": [2], "landmark_names": ["nose"], "flip_pairs": [], "normalizer": "box"},
    }
    write_model_card(tmp_path, MTLDConfig(num_landmarks=3, topologies=topologies, default_topology="eyes"))
    text = (tmp_path / "README.md").read_text()
    assert "`topology=`" in text and "gives `eyes`" in text and "2 or 1 facial landmarks" in text
    assert "- `eyes`: eye (2)\n- `nose`: nose (1)\n" in text


def test_training_that_does_not_know_its_commit_says_so(tmp_path):
    assert "commit unknown" in card_of(tmp_path, dataclasses.replace(STAGE, commit=None)).text


def test_a_model_without_stages_gets_a_plain_card(tmp_path):
    config = MTLDConfig(backbone="resnet18", num_landmarks=4, landmark_names=["jaw_0", "jaw_1", "left_eye_10", "nose"])
    write_model_card(tmp_path, config)
    card = ModelCard.load(tmp_path / "README.md")
    assert is_generated(card.content) and not (tmp_path / "training.json").exists()
    assert card.data.eval_results is None and card.data.license is None and card.data.model_name is None
    assert "4 facial landmarks with resnet18" in card.text
    assert "jaw (2), left_eye (1), nose (1)" in card.text
    assert "None are known for these weights." in card.text and "Not recorded." in card.text


def test_a_training_that_scored_nothing_claims_nothing(tmp_path):
    card = card_of(tmp_path, STAGE.with_results({}))
    assert card.data.eval_results is None and card.data.license == "other"
    assert "None are known for these weights." in card.text and STAGE.command in card.text


def test_a_record_of_other_weights_goes_and_a_card_that_somebody_wrote_stays(tmp_path):
    card_of(tmp_path, STAGE)
    write_model_card(tmp_path, CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    assert "3.457" not in (tmp_path / "README.md").read_text()
    (tmp_path / "README.md").write_text("mine")
    write_model_card(tmp_path, CONFIG, [STAGE])
    assert (tmp_path / "README.md").read_text() == "mine" and read_stages(tmp_path) == [STAGE]


# What a loaded model takes along when it is saved


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "decoder_intermediate_size": 32}
    return MTLDForFacialLandmarkDetection(MTLDConfig(backbone="test_efficientnet", image_size=64, **sizes))


@pytest.fixture
def released(model, tmp_path):
    """Saved in half precision with a card of its training, as train_accelerate.py does it."""
    weights = {name: w.half() if w.is_floating_point() else w for name, w in model.state_dict().items()}
    model.save_pretrained(tmp_path / "released", state_dict=weights)
    write_model_card(tmp_path / "released", model.config, [STAGE])
    return tmp_path / "released"


def results_in(directory):
    return ModelCard.load(directory / "README.md").data.eval_results


def change(model):
    with torch.no_grad():
        model.decoder.mean_face.add_(0.01)


def test_the_same_weights_take_record_and_results_along(released, tmp_path):
    for half in (False, True):
        again = MTLDForFacialLandmarkDetection.from_pretrained(released)
        (again.half() if half else again).save_pretrained(tmp_path / f"again-{half}")
        assert read_stages(tmp_path / f"again-{half}") == [STAGE]
        assert results_in(tmp_path / f"again-{half}") == results_in(released)


def test_changed_weights_do_not(released, tmp_path):
    changed = MTLDForFacialLandmarkDetection.from_pretrained(released)
    change(changed)
    changed.save_pretrained(tmp_path / "changed")
    assert read_stages(tmp_path / "changed") == [] and results_in(tmp_path / "changed") is None


def test_saving_in_place(released):
    model = MTLDForFacialLandmarkDetection.from_pretrained(released)
    model.save_pretrained(released)
    assert read_stages(released) == [STAGE] and len(results_in(released)) == 6
    change(model)
    model.save_pretrained(released)
    assert read_stages(released) == [] and results_in(released) is None
    model.save_pretrained(released)
    assert results_in(released) is None


def test_a_card_that_somebody_wrote_goes_with_its_weights(released, tmp_path):
    (released / "README.md").write_text("mine")
    again = MTLDForFacialLandmarkDetection.from_pretrained(released)
    again.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "README.md").read_text() == "mine"
    change(again)
    again.save_pretrained(tmp_path / "changed")
    assert is_generated((tmp_path / "changed" / "README.md").read_text())


def test_a_spoilt_record_or_a_source_that_is_gone_does_not_stop_the_saving(released, tmp_path, caplog):
    model = MTLDForFacialLandmarkDetection.from_pretrained(released)
    (released / "training.json").write_text("{")
    model.save_pretrained(tmp_path / "again")
    assert "training.json must be a list of trainings" in caplog.text
    shutil.rmtree(released)
    model.save_pretrained(tmp_path / "third")
    for name in ("again", "third"):
        assert results_in(tmp_path / name) is None


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
