"""The demo's list of checkpoints: what it takes, what it never runs, and what it tells of each."""

import json
import sys

import pytest
from cards import describe, summary
from picker import Checkpoint, Picker, read_checkpoints
from test_pipeline import make_pipeline

from modeling_mtld.detect import CHECKPOINT


@pytest.fixture
def folder(tmp_path):
    """A checkpoint's directory, of a network with three landmarks."""
    make_pipeline().save_pretrained(tmp_path / "three")
    return tmp_path / "three"


def change(file, **entries):
    settings = json.loads(file.read_text())
    file.write_text(json.dumps(settings | entries))


class TestList:
    def test_directories_and_hub_ids(self, folder):
        lines = ["# a comment", "", f"{folder.name}  # and another", "org/mtld-r18", "org/own@4f1c2e0"]
        assert read_checkpoints(lines, folder.parent) == [
            Checkpoint("three", str(folder)),
            Checkpoint("org/mtld-r18", "org/mtld-r18"),
            Checkpoint("org/own", "org/own", "4f1c2e0"),
        ]

    @pytest.mark.parametrize("name", ["nowhere", "../outside", "/etc", "a/b/c", "https://host/org/name", "org/"])
    def test_anything_else_is_refused_by_name(self, name, tmp_path):
        with pytest.raises(ValueError, match=f"directories with a config.json or ids on the Hub, but got '{name}'"):
            read_checkpoints([name], tmp_path)

    def test_an_empty_list_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match="at least one directory or Hub id, but got none"):
            read_checkpoints(["# nothing"], tmp_path)

    def test_two_of_one_name_are_refused(self, folder):
        with pytest.raises(ValueError, match="different names, but got three twice"):
            read_checkpoints(["three", str(folder)], folder.parent)


class TestLoading:
    @pytest.mark.parametrize("label", [None, "", "three"])
    def test_the_first_is_the_default_and_loaded_once(self, folder, label):
        picker = Picker(read_checkpoints([str(folder)]))
        assert picker.load(label) is picker.load("three")
        assert picker.load(label).model.config.num_landmarks == 3

    @pytest.mark.parametrize("label", ["other", "../three", 3, ["three"], {"three": 1}])
    def test_what_is_not_on_the_list_is_refused(self, folder, label):
        with pytest.raises(ValueError, match="checkpoint must be one of three, but got"):
            Picker(read_checkpoints([str(folder)])).load(label)

    def test_a_directory_on_the_machine_is_not_loaded_unless_it_is_listed(self, folder, tmp_path):
        make_pipeline().save_pretrained(tmp_path / "other")
        with pytest.raises(ValueError, match="must be one of three"):
            Picker(read_checkpoints([str(folder)])).load(str(tmp_path / "other"))

    def test_a_failure_is_one_line_and_is_tried_again(self, folder, caplog):
        weights = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(weights[:100])
        picker = Picker(read_checkpoints([str(folder)]))
        with pytest.raises(ValueError, match="^The checkpoint three cannot be loaded. The server's log says why.$"):
            picker.load("three")
        assert str(folder) in caplog.text
        (folder / "model.safetensors").write_bytes(weights)
        assert picker.load("three").model.config.num_landmarks == 3

    def test_code_of_an_older_checkpoint_is_refused(self, folder, caplog):
        code = folder / "pipeline_mtld.py"
        code.write_text(code.read_text().replace("def tracker(", "def follower("))
        with pytest.raises(ValueError, match="cannot be loaded"):
            Picker(read_checkpoints([str(folder)])).load("three")
        assert "its pipeline has no tracker" in caplog.text


class TestForeignCode:
    """transformers reads `other/repository--module.Class` as code of another repository, and would run it."""

    def test_of_an_auto_class(self, folder, caplog):
        change(folder / "config.json", auto_map={"AutoConfig": "evil/code--configuration_mtld.MTLDConfig"})
        self.check(folder, caplog, "config.json must name code of its own checkpoint, but got evil/code--")

    def test_of_the_processor(self, folder, caplog):
        change(folder / "preprocessor_config.json", auto_map={"AutoImageProcessor": ["evil/code--x.Y", None]})
        self.check(folder, caplog, "preprocessor_config.json must name code of its own checkpoint")

    def test_of_the_processor_that_transformers_reads_first(self, folder, caplog):
        settings = json.loads((folder / "preprocessor_config.json").read_text())
        nested = {"image_processor": settings | {"auto_map": {"AutoImageProcessor": "evil/code--x.Y"}}}
        (folder / "processor_config.json").write_text(json.dumps(nested))
        self.check(folder, caplog, "must name code of its own checkpoint, but got evil/code--x.Y")

    def test_of_the_pipeline(self, folder, caplog):
        entry = {"impl": "evil/code--p.P", "pt": ["AutoModel"], "type": "image"}
        change(folder / "config.json", custom_pipelines={"facial-landmark-detection": entry})
        self.check(folder, caplog, "but got evil/code--p.P")

    def test_of_a_nested_configuration(self, folder, caplog):
        change(folder / "config.json", backbone_config={"auto_map": {"AutoConfig": "evil/code--c.C"}})
        self.check(folder, caplog, "but got evil/code--c.C")

    def check(self, folder, caplog, reason):
        loaded = set(sys.modules)
        with pytest.raises(ValueError, match="cannot be loaded"):
            Picker(read_checkpoints([str(folder)])).load("three")
        assert reason in caplog.text
        assert not [name for name in set(sys.modules) - loaded if "transformers_modules" in name]


class TestCards:
    def test_the_released_checkpoint(self):
        checkpoint = Checkpoint("mtld-r18", str(CHECKPOINT))
        find = Picker([checkpoint]).load("mtld-r18")
        text = describe(find, checkpoint)
        assert "68 landmarks" in text and "resnet18" in text and "non-commercial-research" in text
        assert "| data | NME in % (inter-ocular) | FR@8% in % | AUC@8% in % |" in text
        facts = summary(find, checkpoint)
        assert facts["num_landmarks"] == len(facts["landmark_names"]) == 68
        [nme] = [
            entry["value"]
            for entry in facts["results"]
            if entry["metric"].startswith("NME") and (entry["dataset"], entry["split"]) == ("300W", "common")
        ]
        assert f"| 300W common | {nme} |" in text

    @pytest.mark.parametrize("card", [None, "no front matter", "---\nlicense: [\n---\n", "---\nlicense: mit\n---\n"])
    def test_a_card_that_tells_little(self, folder, card):
        (folder / "README.md").unlink()
        if card is not None:
            (folder / "README.md").write_text(card)
        checkpoint = Checkpoint("three", str(folder))
        text = describe(Picker([checkpoint]).load("three"), checkpoint)
        assert "3 landmarks" in text and "Its model card lists no results." in text
        assert ("Licence of the weights: mit" in text) == (card is not None and "mit" in card)
