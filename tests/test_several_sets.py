"""One network for several data sets: shared landmarks, topologies, offsets, visibility, and their training."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from training_runs import TINY, as_words, assert_same_weights, finish, loss_curve, start, start_all
from transformers import AutoImageProcessor, AutoModel, pipeline

import train_accelerate
from dataset_scripts import BENCHMARKS
from dataset_scripts.own_data import read_benchmark
from modeling_mtld.model_card_mtld import read_stages
from training_mtld import models
from training_mtld.mixture import FaceMixture, Member, StreamMixture
from training_mtld.options import parse_args
from training_mtld.topologies import join_landmarks

EYES = ["right_eye", "left_eye", "nose_tip"]
MOUTHS = ["chin", "mouth_0", "mouth_1"]
LARGEST = 6
FROM = {"backbone": None, "random_backbone": None, "config": None}  # what a checkpoint has


pytestmark = pytest.mark.usefixtures("fresh_training")


def write_set(folder, names, pairs, count=LARGEST, visibility=False, seed=0):
    """Points on pictures of noise in train and test. Returns the YAML that describes them."""
    rng = np.random.default_rng(seed)
    for split, number in (("train", count), ("test", 3)):
        (folder / split).mkdir(parents=True)
        rows = []
        for index in range(number):
            name = f"{index}.png"
            Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(folder / split / name)
            row = {"file_name": name, "landmarks": rng.uniform([6, 6], [58, 42], (len(names), 2)).round(2).tolist()}
            if visibility:
                row |= {"visibility": [0, *[1] * (len(names) - 1)], "group": "odd" if index % 2 else "even"}
                row["landmarks"][0] = None if index else row["landmarks"][0]
            rows.append(row)
        (folder / split / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    facts = {"landmarks": names, "flip_pairs": pairs, "normalizer": "box", "name": folder.name}
    facts |= {"visibility": True, "groups": ["odd", "even"]} if visibility else {}
    (folder / "landmarks.yaml").write_text(yaml.safe_dump(facts))
    return folder / "landmarks.yaml"


@pytest.fixture
def eyes(tmp_path):
    return write_set(tmp_path / "eyes", EYES, [EYES[:2]], visibility=True)


@pytest.fixture
def mouths(tmp_path):
    return write_set(tmp_path / "mouths", MOUTHS, [MOUTHS[1:]], count=4, seed=1)


def arguments(sets, out, **options):
    given = {"dataset": tuple(sets), "output_dir": out, **TINY, "epochs": 2, "batch_size": 2, "picture_every": 1}
    return as_words(given | options)


def scores_in(folder):
    return json.loads((folder / "scores.json").read_text())["scores"]


def failure(capsys, words):
    capsys.readouterr()
    assert train_accelerate.run(words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


# Landmarks -------------------------------------------------------------------------------------------------------


def test_sets_with_the_same_names_share_their_points():
    joint = join_landmarks([BENCHMARKS["300w"], BENCHMARKS["merl_rav"], BENCHMARKS["cofw68"]])
    assert joint.names == list(BENCHMARKS["300w"].landmark_names) and list(joint.topologies) == ["300w"]
    assert joint.config_fields["topologies"] is None


def test_sets_with_other_points_share_the_parts_that_are_the_same():
    joint = join_landmarks([BENCHMARKS["300w"], BENCHMARKS["wflw"]])
    w300, wflw = joint.topologies["300w"], joint.topologies["wflw"]
    shared = {joint.names[index] for index in set(w300.landmarks) & set(wflw.landmarks)}
    assert {name.rpartition("_")[0] for name in shared} == {"nose_bridge", "nostrils", "outer_lip", "inner_lip"}
    for benchmark, topology in ((BENCHMARKS["300w"], w300), (BENCHMARKS["wflw"], wflw)):
        assert topology.landmark_names == list(benchmark.landmark_names)
        assert topology.normalizer == benchmark.default_normalizer
        whole = {tuple(sorted(topology.landmarks[index] for index in pair)) for pair in topology.flip_pairs}
        assert whole <= set(map(tuple, joint.flip_pairs))
    assert len(joint.names) == len(set(joint.names)) == 68 + 98 - len(shared)


def test_a_name_with_another_flip_partner_is_refused(tmp_path, eyes, capsys):
    other = write_set(tmp_path / "other", EYES, [])
    line = failure(capsys, arguments((eyes, other), tmp_path / "out"))
    assert "right_eye of other has right_eye as its partner, and in a set before it left_eye" in line
    assert not (tmp_path / "out").exists()


# Mixture ---------------------------------------------------------------------------------------------------------


class Crops:
    """Faces that tell which they are; a list of them streams."""

    def __init__(self, names, points=2):
        self.names, self.points, self.epoch = names, points, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return len(self.names)

    def repeated(self, index, repeat):
        labels = torch.full((self.points, 2), float(self.names[index]))
        return {"pixel_values": torch.tensor([repeat]), "labels": labels, "mirrored": torch.tensor(True)}

    def __iter__(self):
        return (self.repeated(index, 0) for index in range(len(self)))


def shown(mixture, epoch=0):
    """(face, repeat) of each item of an epoch."""
    mixture.set_epoch(epoch)
    items = list(mixture) if isinstance(mixture, StreamMixture) else [mixture[i] for i in range(len(mixture))]
    return [(int(item["labels"][item["labels"].isfinite()][0]), int(item["pixel_values"])) for item in items]


def test_weights_say_how_often_a_face_is_shown():
    members = [Member(Crops([0, 1, 2]), weight=2.0), Member(Crops([10, 11, 12, 13]), weight=0.5), Member(Crops([20]))]
    mixture = FaceMixture(members, 2, False, seed=0)
    first = shown(mixture)
    assert first[:6] == [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)] and first[-1] == (20, 0)
    halves = [tuple(face for face, _ in shown(mixture, epoch)[6:8]) for epoch in range(12)]
    assert {face for half in halves for face in half} == {10, 11, 12, 13} and len(set(halves)) > 2
    assert all(len(set(half)) == 2 for half in halves) and shown(mixture) == first
    with pytest.raises(IndexError):
        mixture[len(mixture)]


def test_a_face_has_only_the_landmarks_of_its_set():
    members = [Member(Crops([1]), [2, 0], dataset_id=1), Member(Crops([7], points=3), [0, 1, 3], dataset_id=-1)]
    first, second = (FaceMixture(members, 4, True, seed=0)[index] for index in (0, 1))
    assert first["labels"].isnan().all(dim=1).tolist() == [False, True, False, True]
    assert second["labels"].isnan().all(dim=1).tolist() == [False, False, True, False]
    assert int(first["dataset_ids"]) == 1 and int(second["dataset_ids"]) == -1 and bool(first["mirrored"])
    assert first["visibility"].shape == (4,) and first["visibility"].isnan().all()


def test_streams_show_each_face_once_in_turns():
    members = [Member(Crops(list(range(90)))), Member(Crops(list(range(100, 130))))]
    mixture = StreamMixture(members, 2, False, 0, sizes=[90, 30])
    faces = [face for face, _ in shown(mixture)]
    assert sorted(faces) == [*range(90), *range(100, 130)]
    assert sum(face >= 100 for face in faces[:60]) in range(8, 23)  # 15 expected
    evenly = [face for face, _ in shown(StreamMixture(members, 2, False, 0))]
    assert sorted(evenly) == sorted(faces) and sum(face >= 100 for face in evenly[:40]) in range(11, 30)
    assert faces != [face for face, _ in shown(mixture, epoch=1)] and faces == [face for face, _ in shown(mixture)]


# Training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [False, True])
def test_one_network_answers_in_the_landmarks_of_each_set(eyes, mouths, tmp_path, capsys, streaming):
    out, options = tmp_path / "out", {"dataset_offsets": ()} | ({"streaming": ()} if streaming else {})
    options |= {"lr_scheduler": "constant"} if streaming else {"dataset_weights": (1.0, 1.5)}
    assert train_accelerate.run(arguments((eyes, mouths), out, **options)) == 0, capsys.readouterr().err[-500:]
    model = AutoModel.from_pretrained(out, trust_remote_code=True).eval()
    assert list(model.config.topologies) == ["eyes", "mouths"] and model.config.datasets == ["eyes", "mouths"]
    assert (model.dataset_offsets.offsets != 0).any() and model.config.use_visibility_head
    for name in ("eyes", "mouths"):  # each by its own protocol
        scores = scores_in(out / "evaluation" / name)
        assert scores["test"]["faces"] == 3 and next(iter(scores["test"]["normalizers"])) == "box"
    assert {"odd", "even"} <= scores_in(out / "evaluation" / "eyes").keys()
    assert 0 <= scores_in(out / "evaluation" / "eyes")["test"]["visibility_auc"] <= 1
    (stage,) = read_stages(str(out))
    assert [one.dataset for one in stage.datasets] == ["eyes", "mouths"] and all(one.results for one in stage.datasets)
    if not streaming:
        assert [one.faces for one in stage.datasets] == [6, 4]

    photo, box = np.zeros((60, 80, 3), np.uint8), [[10.0, 10.0, 60.0, 50.0]]
    find = pipeline("facial-landmark-detection", model=str(out), trust_remote_code=True)
    for name, names in {"eyes": EYES, "mouths": MOUTHS}.items():
        assert [mark["label"] for mark in find(photo, box, topology=name)[0]["landmarks"]] == names
    assert [mark["label"] for mark in find(photo, box)[0]["landmarks"]] == EYES  # the first set's by default
    aligned = find.align(photo, find(photo, box, topology="mouths")[0], size=32)
    assert aligned.shape == (32, 32, 3)

    processor = AutoImageProcessor.from_pretrained(out, trust_remote_code=True)
    inputs = processor(photo, boxes=box, return_tensors="pt")
    with torch.no_grad():
        ((whole,),) = processor.post_process_landmark_detection(model(**inputs), inputs, topology="mouths")
        ((chosen,),) = processor.post_process_landmark_detection(model(**inputs, topology="mouths"), inputs)
    assert torch.equal(whole["keypoints"], chosen["keypoints"])
    assert chosen["keypoints"].shape == (3, 2) and chosen["visibilities"].shape == (3,)
    with pytest.raises(ValueError, match="topology must be one of eyes, mouths, but got 'ears'"):
        find(photo, box, topology="ears")
    with pytest.raises(ValueError, match="dataset must be one of eyes, mouths, but got 'ears'"):
        find(photo, box, dataset="ears")
    with pytest.raises(ValueError, match="outputs must hold all landmarks of the network for mouths, but got 3"):
        processor.post_process_landmark_detection(model(**inputs, topology="mouths"), inputs, topology="mouths")

    scoring = {"model_name_or_path": out, "eval_only": (), "dataset": mouths, "epochs": None}
    scoring |= {"backbone": None, "random_backbone": None, "config": None, "save_minutes": None}
    assert train_accelerate.run(arguments((), tmp_path / "again", **scoring)) == 0
    assert scores_in(tmp_path / "again") == scores_in(out / "evaluation" / "mouths")


def test_offsets_stay_with_their_set(eyes, mouths, tmp_path, capsys):
    """Whatever the order of the sets in a later training, and for some of them."""
    options = {"dataset_offsets": (), "epochs": 1, "picture_every": 0}
    assert train_accelerate.run(arguments((eyes, mouths), tmp_path / "first", **options)) == 0
    options |= FROM | {"model_name_or_path": tmp_path / "first"}
    model, _ = models.build_model(parse_args(arguments((mouths, eyes), tmp_path / "next", **options)))
    first = AutoModel.from_pretrained(tmp_path / "first", trust_remote_code=True).dataset_offsets.offsets
    assert model.config.datasets == ["mouths", "eyes"] and first.any()
    assert torch.equal(model.dataset_offsets.offsets, first[:, [1, 0]])
    words = arguments((eyes,), tmp_path / "next", **options)
    model, _ = models.build_model(parse_args(words))
    assert model.config.datasets == ["eyes"] and torch.equal(model.dataset_offsets.offsets, first[:, :1])
    assert "--dataset_offsets is for trainings" in failure(capsys, [*words, "--eval_only"])


def test_landmarks_of_a_network_with_several_sets_keep_their_weights(eyes, mouths, tmp_path):
    """A later training has another set beside one of the former, with the same landmarks in another order."""
    assert train_accelerate.run(arguments((eyes, mouths), tmp_path / "first", epochs=1)) == 0
    turned = write_set(tmp_path / "turned", MOUTHS[::-1], [MOUTHS[1:]], seed=2)
    ears = write_set(tmp_path / "ears", ["right_ear", "left_ear", "neck"], [], seed=3)
    words = arguments((ears, turned), tmp_path / "next", **FROM | {"model_name_or_path": tmp_path / "first"})
    model, new_landmarks = models.build_model(parse_args(words))
    first = AutoModel.from_pretrained(tmp_path / "first", trust_remote_code=True)
    assert new_landmarks and list(model.config.topologies) == ["ears", "turned"]
    places = {name: first.config.topologies["mouths"]["landmarks"][place] for place, name in enumerate(MOUTHS)}
    for place, name in zip(model.config.topologies["turned"]["landmarks"], MOUTHS[::-1], strict=True):
        assert torch.equal(model.decoder.queries[place], first.decoder.queries[places[name]])
    assert not torch.equal(model.decoder.queries[0], first.decoder.queries[0])


def test_a_network_without_names_is_not_taken_for_two_sets(eyes, mouths, tmp_path):
    assert train_accelerate.run(arguments((eyes,), tmp_path / "first", epochs=1)) == 0
    config = json.loads((tmp_path / "first" / "config.json").read_text())
    (tmp_path / "first" / "config.json").write_text(json.dumps(config | {"landmark_names": None}))
    words = arguments((eyes, mouths), tmp_path / "next", **FROM | {"model_name_or_path": tmp_path / "first"})
    model, new_landmarks = models.build_model(parse_args(words))
    assert new_landmarks and model.config.num_landmarks == 6


def test_each_topology_has_its_own_boxes(eyes, tmp_path):
    boxed = write_set(tmp_path / "boxed", MOUTHS, [MOUTHS[1:]], seed=1)
    for file in (tmp_path / "boxed").glob("*/metadata.jsonl"):
        rows = [json.loads(line) | {"box": [2, 2, 62, 46]} for line in file.read_text().splitlines()]
        file.write_text("\n".join(map(json.dumps, rows)))
    boxed.write_text(boxed.read_text() + "crop: box\n")
    assert train_accelerate.run(arguments((eyes, boxed), tmp_path / "out", epochs=1)) == 0
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert processor.topologies["eyes"]["box_margins"] == list(processor.box_margins) == [0.0] * 4
    assert min(processor.topologies["boxed"]["box_margins"]) > 0
    find = pipeline("facial-landmark-detection", model=str(tmp_path / "out"), trust_remote_code=True)
    assert find.box_around([10, 10, 50, 50]).tolist() == [10, 10, 50, 50]
    find = pipeline("facial-landmark-detection", model=str(tmp_path / "out"), trust_remote_code=True, topology="boxed")
    assert (find.box_around([10, 10, 50, 50])[:2] < 10).all()


def test_a_set_that_can_only_be_trained_on_is_not_scored(eyes, mouths, tmp_path, caplog):
    shutil.rmtree(tmp_path / "mouths" / "test")
    assert train_accelerate.run(arguments((eyes, mouths), tmp_path / "out", epochs=1)) == 0
    assert "mouths is not scored: --validation_list must tell what to score" in caplog.text
    assert {path.name for path in (tmp_path / "out" / "evaluation").iterdir()} == {"eyes"}


def test_sets_with_the_same_landmarks_are_one_topology(eyes, tmp_path):
    more = write_set(tmp_path / "more", EYES, [EYES[:2]], count=5, seed=3)
    (tmp_path / "list.txt").write_text("train/0.png\ntrain/1.png\n")
    words = arguments((eyes, more), tmp_path / "out", validation_list=("none", tmp_path / "list.txt"))
    assert train_accelerate.run(words) == 0
    (stage,) = read_stages(str(tmp_path / "out"))
    assert [one.faces for one in stage.datasets] == [6, 3]
    assert [list(one.results) for one in stage.datasets] == [[], ["validation"]]
    model = AutoModel.from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert model.config.num_landmarks == 3 and model.config.topologies is None and model.config.datasets is None


def test_training_goes_on_from_a_checkpoint_with_both(eyes, mouths, tmp_path):
    assert train_accelerate.run(arguments((eyes, mouths), tmp_path / "first", epochs=1)) == 0
    given = FROM | {"model_name_or_path": tmp_path / "first"}
    assert train_accelerate.run(arguments((mouths,), tmp_path / "next", epochs=1, **given)) == 0
    model = AutoModel.from_pretrained(tmp_path / "next", trust_remote_code=True)
    assert list(model.config.topologies) == ["eyes", "mouths"]


@pytest.mark.parametrize("way", [{"gradient_accumulation_steps": 2}, {}])
def test_it_does_not_matter_how_the_faces_are_spread(eyes, mouths, tmp_path, way):
    """Over two steps, or over two processes. The sets have different numbers of landmarks and visibilities."""
    options = {"batch_norm": "frozen", "dataset_offsets": (), "picture_every": 0, "decay_epochs": ()}
    finish([start(arguments((eyes, mouths), tmp_path / "one", **options, batch_size=4), tmp_path / "log")], tmp_path)
    words = arguments((eyes, mouths), tmp_path / "spread", **options, **way)
    finish([start(words, tmp_path / "log")] if way else start_all(words, tmp_path / "log", 2), tmp_path / "log")
    for term in ("loss", "coordinate", "structure", "visibility"):
        expected, found = (loss_curve(tmp_path / name, term) for name in ("one", "spread"))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
        assert expected[0] > 0


def test_an_interrupted_training_ends_as_it_would_have(eyes, mouths, tmp_path):
    options = {"dataset_weights": (0.5, 1.5), "save_steps": 3, "save_total_limit": 9, "picture_every": 0}
    options |= {"dataset_offsets": (), "batch_size": 2}
    finish([start(arguments((eyes, mouths), tmp_path / "whole", **options), tmp_path / "log")], tmp_path / "log")
    middle = tmp_path / "whole" / "checkpoints" / "epoch_0001_update_000003"
    shutil.copytree(middle, tmp_path / "out" / "checkpoints" / middle.name)
    words = arguments((eyes, mouths), tmp_path / "out", **options, resume_from_checkpoint="latest")
    finish([start(words, tmp_path / "log")], tmp_path / "log")
    assert_same_weights(tmp_path / "whole", tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset_weights": (1, 0)}, "--dataset_weights must be positive, but got 0"),
        ({"dataset_weights": (1,)}, "--dataset_weights must be given for each of 2 --dataset, but got 1"),
        ({"dataset_weights": ("1", "two")}, "invalid float value: 'two'"),
        ({"dataset_weights": (1, 2), "streaming": ()}, "--dataset_weights needs no --streaming"),
        ({"validation_list": ("none", "none")}, "--validation_list must name a file"),
        ({"eval_splits": "test"}, "--eval_splits needs a single --dataset"),
        ({"normalizer": "inter-ocular"}, "--normalizer must be one of box, diagonal"),
        ({"config": ("topologies=1",)}, "topologies must be given by --dataset"),
        ({"config": ("datasets=1",)}, "datasets must be given by --dataset_offsets"),
    ],
)
def test_wrong_options_are_one_line(eyes, mouths, tmp_path, capsys, options, message):
    assert message in failure(capsys, arguments((eyes, mouths), tmp_path / "out", **options))


def test_a_set_may_be_named_once(eyes, tmp_path, capsys):
    assert "sets of different names, but got eyes, eyes" in failure(capsys, arguments((eyes, eyes), tmp_path / "out"))


def test_options_of_each_set(eyes, mouths, tmp_path):
    args = parse_args(arguments((eyes, mouths), tmp_path / "out", dataset_weights=(1, 3)))
    assert [(part.weight, part.is_alone) for part in args.datasets] == [(1, False), (3, False)]
    assert [part.benchmark for part in args.datasets] == [read_benchmark(eyes), read_benchmark(mouths)]
