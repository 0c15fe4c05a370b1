import json
import os
import re
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from hub_stub import metadata_errors, run_with_hub, running_hub
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_runs import NAMES, TINY, as_words, make_dolls
from transformers import AutoImageProcessor, AutoModel

import train_accelerate
from dataset_scripts import BENCHMARKS
from dataset_scripts.augmentation import FaceCrops
from dataset_scripts.benchmarks.w300 import list_300w
from dataset_scripts.face_builder import box_in_whole_pixels
from dataset_scripts.pts import read_pts
from modeling_mtld.configuration_mtld import MTLDConfig
from modeling_mtld.image_processing_mtld import MTLDImageProcessor
from modeling_mtld.modeling_mtld import MTLDForFacialLandmarkDetection
from training_mtld import data as training_data
from training_mtld import models, tracking
from training_mtld import training as script
from training_mtld.options import parse_args

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "300w"
CHECKPOINT = ROOT / "space" / "checkpoints" / "mtld-r18"
TRAIN_FACES, COMMON_FACES = 22, 5


@pytest.fixture(scope="module", autouse=True)
def one_cpu_thread():
    """As in the training that is started as a process of its own, so that both add up in the same order."""
    threads, os.environ["ACCELERATE_USE_CPU"] = torch.get_num_threads(), "1"
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    del os.environ["ACCELERATE_USE_CPU"]


@pytest.fixture(autouse=True)
def fresh_accelerate():
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A 300W in the official layout with faces of noise."""
    root = tmp_path_factory.mktemp("data") / "300w"
    for index in range(TRAIN_FACES):
        write_face(root / "afw" / f"{index:02d}_1.png", index)
    for index in range(COMMON_FACES):
        write_face(root / "helen" / "testset" / f"{index:02d}_1.png", 100 + index)
    return root


def write_face(path, seed):
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(path)
    rows = "\n".join(f"{x:.3f} {y:.3f}" for x, y in rng.uniform([6, 6], [58, 42], (68, 2)))
    path.with_suffix(".pts").write_text(f"version: 1\nn_points: 68\n{{\n{rows}\n}}\n")


def arguments(data, out, **options):
    """A command line for seconds; `options` replace or add to it, None removes."""
    given = {
        "data_dir": data,
        "output_dir": out,
        **TINY,
        "epochs": 3,
        "batch_size": 2,
        "eval_every": 0,
    } | options
    if given.get("model_name_or_path"):  # which has a backbone
        given |= {"backbone": None, "random_backbone": None}
    return as_words(given)


def scoring(data, checkpoint, **options):
    model = {"config": None, "eval_only": (), "model_name_or_path": checkpoint}
    return arguments(data, None, **model, **options)


def fails(capsys, words):
    """The one line that the command leaves on stderr, progress bars aside."""
    capsys.readouterr()
    assert train_accelerate.run(words) == 2
    lines = [line for line in re.split(r"[\r\n]+", capsys.readouterr().err) if line.strip()]
    assert lines[-1].startswith("train_accelerate.py: ")
    assert not any("Traceback" in line for line in lines)
    return lines[-1]


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """The directory of a finished training, and what it printed of its scores."""
    output_dir = tmp_path_factory.mktemp("trained") / "model"
    AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.MonkeyPatch.context() as patch:
        printed = []
        patch.setattr(tracking.tqdm, "write", lambda line, **_: printed.append(line))
        assert train_accelerate.run(arguments(data, output_dir, eval_every=1)) == 0
    return output_dir, [line for line in printed if "NME" in line]


def scores_in(folder) -> dict:
    return json.loads((folder / "scores.json").read_text())["scores"]


# A training from end to end --------------------------------------------------------------------------------------


def test_training_prints_the_nme_of_each_evaluation_with_its_normalizer(trained):
    assert len(trained[1]) == 3
    for epoch, line in enumerate(trained[1], 1):
        assert re.fullmatch(
            rf"epoch {epoch}: 300W common \(5 faces, inter-ocular\): NME \d+\.\d{{3}}%  FR@8% \d+\.\d{{2}}%  "
            r"AUC@8% \d+\.\d{2}%  layers: initial \d+\.\d{3}%, 1 \d+\.\d{3}%, 2 \d+\.\d{3}%  "
            r"offset: x [+-]\d+\.\d{2}%, y [+-]\d+\.\d{2}%",
            line,
        )


def test_training_leaves_the_scores_of_its_last_epoch(trained):
    folder = trained[0] / "evaluation"
    assert {"scores.json", "scores.csv", "faces.csv", "ced.png", "worst_common.png"} <= {
        p.name for p in folder.iterdir()
    }
    common = scores_in(folder)["common"]
    assert f"NME {common['normalizers']['inter-ocular']['nme']['value']:.3%}  " in trained[1][-1]
    layers = ", ".join(f"{name} {value:.3%}" for name, value in common["layers"].items())
    assert f"layers: {layers}  " in trained[1][-1]
    record = json.loads((trained[0] / "training.json").read_text())[-1]["datasets"][0]
    assert record["results"]["common"]["nme"] == common["normalizers"]["inter-ocular"]["nme"]["value"]
    assert record["results"]["common"]["confidence_ratio"] == common["confidence_ratio"]


def test_saved_directory_is_whole(trained):
    names = {path.name for path in trained[0].iterdir()}
    assert names >= {"config.json", "model.safetensors", "preprocessor_config.json", "README.md", "training.json"}
    assert names >= {"modeling_mtld.py", "pipeline_mtld.py", "checkpoints", "logs"}
    assert not any("tmp" in name or "unfinished" in name for name in names)
    assert sorted(path.name for path in (trained[0] / "checkpoints").iterdir()) == ["epoch_0002", "epoch_0003"]
    assert list((trained[0] / "logs").glob("events.*"))


def test_saved_model_loads_as_float32_and_works(trained):
    model = AutoModel.from_pretrained(trained[0], trust_remote_code=True)
    processor = AutoImageProcessor.from_pretrained(trained[0], trust_remote_code=True)
    assert model.dtype == torch.float32 and processor.size == {"height": 64, "width": 64}
    assert model.config.landmark_names == list(BENCHMARKS["300w"].landmark_names)
    stored = load_file(trained[0] / "model.safetensors")
    assert all(weights.dtype == torch.float16 for weights in stored.values() if weights.is_floating_point())
    inputs = processor(Image.new("RGB", (90, 70)), boxes=[[10, 10, 50, 50]], return_tensors="pt")
    faces = processor.post_process_landmark_detection(model(**inputs), inputs)
    assert faces[0][0]["keypoints"].shape == (68, 2)


@pytest.mark.parametrize("image_size", [64, None])
def test_eval_only_finds_exactly_what_the_training_did(trained, data, tmp_path, capsys, image_size):
    assert (
        train_accelerate.run([*scoring(data, trained[0], image_size=image_size), "--output_dir", str(tmp_path)]) == 0
    )
    assert scores_in(tmp_path) == scores_in(trained[0] / "evaluation")
    assert "common" in capsys.readouterr().out


def test_a_backbone_beside_a_checkpoint_is_one_line(trained, data, capsys):
    line = fails(capsys, [*scoring(data, trained[0]), "--backbone", "resnet18"])
    assert "--backbone must not be given with --model_name_or_path" in line


def test_eval_only_with_box_noise(trained, data, tmp_path):
    words = scoring(data, trained[0], eval_splits=("common",), box_noise=())
    assert train_accelerate.run([*words, "--output_dir", str(tmp_path)]) == 0
    noise = json.loads((tmp_path / "scores.json").read_text())["box_noise"]
    assert noise["split"] == "common" and noise["levels"] == [0, 0.05, 0.1, 0.15, 0.2]
    exact = scores_in(tmp_path)["common"]["normalizers"]["inter-ocular"]["nme"]
    assert [curve[0] for curve in noise["curves"].values()] == [exact] * 3
    assert Image.open(tmp_path / "box_noise.png").width > 300


def test_eval_only_of_several_splits_and_another_normalizer(trained, data, tmp_path, capsys):
    words = scoring(data, trained[0], eval_splits=("train[:7]", "common+train"), normalizer="inter-pupil")
    assert train_accelerate.run([*words, "--output_dir", str(tmp_path)]) == 0
    scores = scores_in(tmp_path)
    assert {name: scored["faces"] for name, scored in scores.items()} == {"train[:7]": 7, "common+train": 27}
    assert all(next(iter(scored["normalizers"])) == "inter-pupil" for scored in scores.values())


def test_challenging_faces_are_scored_along_and_as_full(trained, data, tmp_path):
    shutil.copytree(data, tmp_path / "300w")
    for index in range(3):
        write_face(tmp_path / "300w" / "ibug" / f"{index}_1.png", 200 + index)
    assert train_accelerate.run([*scoring(tmp_path / "300w", trained[0]), "--output_dir", str(tmp_path / "out")]) == 0
    scores = scores_in(tmp_path / "out")
    assert {name: scored["faces"] for name, scored in scores.items()} == {"common": 5, "challenging": 3, "full": 8}


def test_card_tells_how_the_model_came_about(trained):
    record = json.loads((trained[0] / "training.json").read_text())
    assert len(record) == 1 and len(record[0]["datasets"]) == 1
    told = record[0]["datasets"][0]
    assert told["faces"] == TRAIN_FACES and told["official_faces"] == 3148
    card = (trained[0] / "README.md").read_text()
    percent = re.search(r"NME (\d+\.\d{3})%", trained[1][-1])[1]
    assert f"| 300W common | 5 | {percent} [" in card
    assert re.fullmatch(r"[0-9a-f]{16}", told["fingerprint"]) and told["fingerprint"] in card
    assert "accelerate launch train_accelerate.py --data_dir 300w --output_dir model --backbone test_resnet" in card
    assert str(trained[0].parent) not in card + (trained[0] / "training.json").read_text()


def test_second_stage_goes_on_with_the_record(trained, data, tmp_path):
    words = arguments(data, tmp_path / "next", model_name_or_path=trained[0], epochs=1, config=("num_neighbors=3",))
    assert train_accelerate.run(words) == 0
    record = json.loads((tmp_path / "next" / "training.json").read_text())
    assert [stage["epochs"] for stage in record] == [3, 1]
    assert record[0] == json.loads((trained[0] / "training.json").read_text())[0]
    assert "### Stage 2 of 2" in (tmp_path / "next" / "README.md").read_text()
    assert MTLDConfig.from_pretrained(tmp_path / "next").num_neighbors == 3


def test_train_only_changes_one_part_and_the_scores_of_no_landmark(trained, data, tmp_path, capsys):
    before, words = load_file(trained[0] / "model.safetensors"), {"model_name_or_path": trained[0], "config": None}
    words |= {"train_only": "scale_head", "epochs": 2, "learning_rate": 0.01}
    assert train_accelerate.run(arguments(data, tmp_path / "next", **words)) == 0
    after = load_file(tmp_path / "next" / "model.safetensors")
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed >= {"scale_head.fc1.weight", "scale_head.usual_error"}
    assert all(name.startswith("scale_head.") for name in changed)  # batch-norm statistics neither
    assert trained[1][-1].removeprefix("epoch 3: ") in capsys.readouterr().out


def test_train_only_gives_confidences_to_a_checkpoint_without(data, tmp_path):
    fields = ("hidden_size=16", "num_attention_heads=2", "use_scale_head=false")
    assert train_accelerate.run(arguments(data, tmp_path / "bare", config=fields, epochs=1)) == 0
    assert "confidence_ratio" not in (tmp_path / "bare" / "training.json").read_text()
    words = {"model_name_or_path": tmp_path / "bare", "train_only": "scale_head", "config": ("use_scale_head=true",)}
    assert train_accelerate.run(arguments(data, tmp_path / "next", epochs=1, **words)) == 0
    bare, after = (load_file(tmp_path / name / "model.safetensors") for name in ("bare", "next"))
    assert all(torch.equal(value, after[name]) for name, value in bare.items())
    assert "Confidence on common: " in (tmp_path / "next" / "README.md").read_text()


def test_train_only_of_a_part_that_is_none(trained, data, tmp_path, capsys):
    words = arguments(data, tmp_path / "next", model_name_or_path=trained[0], config=None, train_only="head")
    line = fails(capsys, words)
    assert "--train_only must be one of backbone, encoder, decoder, scale_head, but got 'head'" in line
    assert not (tmp_path / "next").exists()
    for words in (arguments(data, tmp_path / "next", train_only=""), scoring(data, trained[0], train_only="decoder")):
        assert "--train_only needs --model_name_or_path, and no --eval_only" in fails(capsys, words)


def test_training_from_a_checkpoint_is_in_training_mode_from_its_first_step(trained, data, tmp_path, monkeypatch):
    """`from_pretrained` returns a model in evaluation mode."""
    modes = []

    def look(model, *args, **kwargs):
        modes.append(model.training)
        raise ValueError("seen")

    monkeypatch.setattr(MTLDForFacialLandmarkDetection, "forward", look)
    assert train_accelerate.run(arguments(data, tmp_path / "out", model_name_or_path=trained[0])) == 2
    assert modes == [True]


def test_validation_photos_are_held_out_and_scored(data, tmp_path):
    (tmp_path / "list.txt").write_text("afw/03_1.png\nafw/07_1.png\n")
    args = parse_args(arguments(data, tmp_path / "out", validation_list=tmp_path / "list.txt"))
    processor = MTLDImageProcessor(size=64)
    train = training_data.load_training(args, processor, MTLDConfig()).members[0].crops
    splits = training_data.load_evaluation(args.datasets[0], processor)
    assert list(splits) == ["validation"]
    assert sorted(splits["validation"].faces["image_id"][:]) == ["afw/03_1", "afw/07_1"]
    assert splits["validation"].crop.augmentation is None and train.crop.augmentation is not None
    held_in = train.faces["image_id"][:]
    assert len(held_in) == TRAIN_FACES - 2 and not {"afw/03_1", "afw/07_1"} & set(held_in)


def test_validation_list_of_all_photos_leaves_nothing_to_train_on(data, tmp_path, capsys):
    (tmp_path / "list.txt").write_text("\n".join(f"afw/{index:02d}_1.png" for index in range(TRAIN_FACES)))
    line = fails(capsys, arguments(data, tmp_path / "out", validation_list=tmp_path / "list.txt"))
    assert "must have faces for training" in line


def test_base_of_table_3_is_one_option_away(data, tmp_path):
    off = ("use_multiscale_transformer=false", "use_heatmap_loss=false", "use_structure_loss=no")
    model, _ = models.build_model(parse_args(arguments(data, tmp_path, config=off)))
    assert not any("encoder" in name or "heatmap" in name for name, _ in model.named_parameters())


def test_config_may_be_given_twice_and_keeps_types(data, tmp_path):
    words = [*arguments(data, tmp_path), "--config", "heatmap_sigma=2", "coordinate_loss_weight=1e-1"]
    fields = dict(parse_args([*words, "--config", "structure_distance=euclidean"]).config)
    assert fields["hidden_size"] == 16 and fields["structure_distance"] == "euclidean"
    assert fields["heatmap_sigma"] == 2.0 and fields["coordinate_loss_weight"] == 0.1


# Interrupted ------------------------------------------------------------------------------------------------------


def test_resume_without_a_checkpoint_starts_from_the_beginning(data, tmp_path, caplog):
    assert train_accelerate.run(arguments(data, tmp_path, resume_from_checkpoint="latest", epochs=1)) == 0
    assert "starting from the beginning" in caplog.text


def test_a_new_training_does_not_mix_with_an_older_one(trained, data, tmp_path, capsys):
    assert "must hold no training yet" in fails(capsys, arguments(data, trained[0]))
    (tmp_path / "checkpoints" / "epoch_0030").mkdir(parents=True)
    line = fails(capsys, arguments(data, tmp_path))
    assert str(tmp_path) in line and "--resume_from_checkpoint latest" in line


def test_interrupt_is_one_line(data, tmp_path, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(script.data, "load_evaluation", interrupt)
    assert train_accelerate.run(arguments(data, tmp_path)) == 130
    assert "interrupted" in capsys.readouterr().err.splitlines()[-1]


# Wrong input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, message",
    [
        ({"data_dir": "nowhere"}, "data_dir must be an existing folder, but got .*nowhere"),
        ({"data_dir": None}, "--data_dir"),
        ({"output_dir": None}, "training needs --output_dir"),
        ({"eval_only": ()}, "--eval_only needs --model_name_or_path"),
        ({"epochs": 0}, "--epochs must be positive, but got 0"),
        ({"epochs": "many"}, "--epochs: invalid int value: 'many'"),
        ({"learning_rate": "nan"}, "--learning_rate must be positive, but got nan"),
        ({"seed": -1}, "--seed must not be negative, but got -1"),
        ({"image_size": 100}, "image_size must be a multiple of 32, but got 100"),
        (
            {"normalizer": "inter-ear"},
            "--normalizer must be one of .*, box, diagonal, but got inter-ear",
        ),
        ({"eval_splits": "private"}, "split must be made of train, common .* 'private'"),
        ({"eval_splits": "train[:0]"}, r"train\[:0\]"),
        ({"validation_list": "nowhere.txt"}, "--validation_list must be an existing file, but got nowhere.txt"),
        ({"random_backbone": None, "backbone_checkpoint": "x.safetensors"}, "--backbone_checkpoint must be .* x.safe"),
        ({"backbone_checkpoint": __file__}, "argument --backbone_checkpoint: not allowed with"),
        ({"random_backbone": None, "backbone_checkpoint": __file__}, "backbone weights .* from .*test_train.py"),
        ({"backbone": "resnet"}, "backbone must be the name of a timm model .* 'resnet'"),
        ({"config": "num_neighbors=abc"}, "num_neighbors must be .* but got 'abc'"),
        ({"config": "num_neighbors=true"}, "num_neighbors must be .* but got True"),
        ({"config": "use_heatmap_loss=nein"}, "use_heatmap_loss must be .* but got 'nein'"),
        (
            {"config": "heatmap_sigma=wide"},
            "heatmap_sigma must have a value of its kind, but got 'heatmap_sigma=wide'",
        ),
        ({"config": "heatmap_size=[1"}, r"heatmap_size must have a value of its kind, but got 'heatmap_size=\[1'"),
        ({"config": "neighbors=3"}, "must be NAME=VALUE with a field of MTLDConfig, but got 'neighbors=3'"),
        ({"config": "to_dict=3"}, "field of MTLDConfig"),
        ({"config": "num_landmarks=98"}, "num_landmarks must be given by --dataset"),
        ({"config": "hidden_size=30"}, "hidden_size must be a multiple of 4"),
        ({"model_name_or_path": "nowhere"}, "--model_name_or_path must be an MTLD checkpoint, but got nowhere"),
    ],
)
def test_wrong_input_is_one_line(data, tmp_path, capsys, options, message):
    line = fails(capsys, arguments(data, tmp_path / "out", **options))
    assert re.search(message, line), line
    assert not (tmp_path / "out" / "config.json").exists()


def test_empty_data_folder_is_one_line(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path / 'empty'} is empty" in fails(capsys, arguments(tmp_path / "empty", tmp_path / "out"))


def test_checkpoint_of_another_number_of_landmarks_is_one_line(data, tmp_path, capsys):
    sizes = {"hidden_size": 16, "num_attention_heads": 2}
    config = MTLDConfig(backbone="test_resnet.r160_in1k", num_landmarks=29, image_size=64, **sizes)
    MTLDForFacialLandmarkDetection(config).save_pretrained(tmp_path / "other")
    line = fails(capsys, scoring(data, tmp_path / "other"))
    assert f"must predict the 68 landmarks of 300w, but {tmp_path / 'other'} predicts others" in line


@pytest.mark.parametrize("content", [{"model_type": "bert"}, {"model_type": "mtld", "hidden_size": 95}, None])
def test_what_is_no_checkpoint_is_one_line(data, tmp_path, capsys, content):
    if content:
        (tmp_path / "config.json").write_text(json.dumps(content))
    assert f"must be an MTLD checkpoint, but got {tmp_path}: " in fails(capsys, scoring(data, tmp_path))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_face_that_cannot_be_used_is_named_in_one_line(trained, data, tmp_path, capsys, workers, monkeypatch):
    def load_broken(*_, **__):
        faces = datasets.load_dataset("imagefolder", data_dir=data / "helen", split="train")
        boxes = [[0.0, 0, 40, 40]] * 3 + [[5.0, 5, 5, 9]] + [[0.0, 0, 40, 40]]
        ids = [f"helen/testset/{index}" for index in range(5)]
        for name, column in {
            "landmark_box": boxes,
            "box": [[np.nan] * 4] * 5,
            "landmarks": [np.ones((68, 2)).tolist()] * 5,
            "image_id": ids,
        }.items():
            faces = faces.add_column(name, column)
        return faces

    monkeypatch.setattr(training_data, "load_faces", load_broken)
    line = fails(capsys, scoring(data, trained[0], num_workers=workers))
    assert "helen/testset/3: box must have x1 > x0 and y1 > y0, but got [5.0, 5.0, 5.0, 9.0]" in line
    assert len(line) < 200


# The released checkpoint ------------------------------------------------------------------------------------------


@pytest.mark.skipif(not CHECKPOINT.is_dir(), reason=f"needs {CHECKPOINT.relative_to(ROOT)}")
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the faces of ../shared/data/300w")
def test_nme_under_bfloat16_autocast_is_that_of_float32():
    model = MTLDForFacialLandmarkDetection.from_pretrained(CHECKPOINT).eval()
    count = 80 if has_fast_bfloat16() else 2  # without, a face takes 8 seconds
    faces = FaceCrops(read_common_faces(count), MTLDImageProcessor.from_pretrained(CHECKPOINT), BENCHMARKS["300w"])
    batches = list(torch.utils.data.DataLoader(faces, batch_size=16))
    labels = torch.cat([batch["labels"] for batch in batches]).double().numpy()
    scores = []
    for autocast in (False, True):
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            found = torch.cat([model(batch["pixel_values"]).landmarks for batch in batches])
        assert found.dtype == torch.float32
        errors = np.linalg.norm(found.double().numpy() - labels, axis=-1).mean(axis=1)
        scores.append(100 * (errors / BENCHMARKS["300w"].normalizers(labels)).mean())
    assert 2 < scores[0] < 4.5
    assert abs(scores[0] - scores[1]) < (0.02 if count > 2 else 0.05)


def has_fast_bfloat16() -> bool:
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    return any(flag in flags for flag in ("avx512_bf16", "amx_bf16", " bf16"))


def read_common_faces(count):
    """Faces spread over the common test set, as `load_faces` has them, without preparing the others."""
    files = list_300w(SHARED)["common"]
    faces = []
    for file in files[:: len(files) // count][:count]:
        landmarks = read_pts(file.annotation, 68)
        around = {"landmark_box": box_in_whole_pixels(landmarks), "box": [np.nan] * 4}
        faces.append({"image": Image.open(file.photo), "landmarks": landmarks, "image_id": file.image_id, **around})
    return faces


# Other landmarks, publishing, tracking ----------------------------------------------------------------------------


def test_a_checkpoint_for_other_landmarks_is_a_start(trained, tmp_path, capsys, caplog):
    """As from the AFLW crops to 300W: the rest is kept, the landmarks are new, and the record tells of both."""
    dolls = make_dolls(tmp_path / "dolls")
    words = arguments(None, tmp_path / "out", dataset=dolls, data_dir=None, epochs=1, learning_rate=1e-9)
    words = [*words, "--model_name_or_path", str(trained[0])]
    for word in ("--backbone", "test_resnet.r160_in1k", "--random_backbone"):
        words.remove(word)
    assert train_accelerate.run(words) == 0
    assert "has other landmarks, so these are new: " in caplog.text and "decoder.queries" in caplog.text
    before, after = (load_file(folder / "model.safetensors") for folder in (trained[0], tmp_path / "out"))
    assert after["decoder.queries"].shape == (5, 16) and before["decoder.queries"].shape == (68, 16)
    name = "decoder.layers.0.feed_forward.fc1.weight"
    torch.testing.assert_close(after[name], before[name], rtol=1e-3, atol=1e-5)
    config = MTLDConfig.from_pretrained(tmp_path / "out")
    assert config.landmark_names == NAMES and config.flip_pairs == [[0, 1], [3, 4]]
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert [stage["datasets"][0]["dataset"] for stage in record] == ["300w", "dolls"]


def test_a_finished_model_is_pushed_with_its_results(data, tmp_path):
    words = arguments(data, "out", push_to_hub="me/faces", private=(), epochs=1)
    code = f"import sys, train_accelerate\nassert train_accelerate.run({words}) == 0\n"
    with running_hub() as hub:
        run_with_hub(hub, tmp_path, "home", code, ACCELERATE_USE_CPU="1")
        files, private = hub.files("me/faces"), hub.repositories["me/faces"].private
    assert {"model.safetensors", "config.json", "training.json", "README.md", "modeling_mtld.py"} <= set(files)
    card = files["README.md"].decode()
    assert metadata_errors(card)[0] == [] and "model-index" in card
    assert private


def test_a_repository_that_cannot_be_written_to_is_one_line_before_the_training(data, tmp_path, capsys):
    line = fails(capsys, arguments(data, tmp_path / "out", push_to_hub="me/faces"))  # without a network
    assert "--push_to_hub must be a repository that can be written to, but got me/faces: " in line
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_pictures_of_the_same_scored_faces_are_tracked(data, tmp_path):
    assert train_accelerate.run(arguments(data, tmp_path / "out", epochs=3, picture_every=2)) == 0
    events = EventAccumulator(str(tmp_path / "out" / "logs"))
    events.Reload()
    assert [image.step for image in events.Images("common/faces")] == [2, 3]
    assert {"loss", "coordinate", "learning_rate", "images_per_second", "memory_gb", "common/nme"} <= set(
        events.Tags()["scalars"]
    )


def test_no_tracker_writes_nothing(data, tmp_path):
    assert train_accelerate.run([*arguments(data, tmp_path / "out", epochs=1), "--report_to"]) == 0
    assert not (tmp_path / "out" / "logs").exists()
