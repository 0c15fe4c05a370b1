import csv
import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dataset_scripts import BENCHMARKS
from modeling_mtld.configuration_mtld import MTLDConfig
from modeling_mtld.model_card_mtld import Stage, TrainingSet
from training_mtld.command_line import command_line
from training_mtld.facts import file_fingerprint
from training_mtld.tables import __main__ as tables
from training_mtld.tables import paper
from training_mtld.tables import runs as table_runs
from training_mtld.tables.errors import estimate
from training_mtld.tables.pages import page
from training_mtld.tables.runs import TrainingFailed, parser_of_training

FACES = 40
ERRORS = {"base": 0.05, "mst": 0.045, "mst-heatmap": 0.044, "mst-structure": 0.043, "mst-heatmap-structure": 0.042}
SPLITS = {
    "300w": ["train", "common", "challenging"],
    "common_only": ["train", "common"],
    "wflw": ["train", "test"],
    "cofw": ["train", "test"],
}
OPTIONS = ["--image_size", "64", "--epochs", "3", "--batch_size", "4"]


class FakeTraining:
    """Stands for train_accelerate.py under `accelerate launch`: writes what it would, and remembers its calls."""

    def __init__(self):
        self.calls, self.broken = [], {}

    def __call__(self, arguments, log, watch):
        given = parser_of_training().parse_args(arguments)
        self.calls.append(given)
        log.write_text("epoch 1/3\nno space left\n")
        watch("epoch 1/3")
        if given.eval_only:
            self.evaluate(Path(given.model_name_or_path), Path(given.output_dir), given)
            return
        folder = Path(given.output_dir)
        name, _, seed = folder.name.rpartition("-seed")
        if name in self.broken:
            raise self.broken[name]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"image_size": given.image_size or 256}))
        (folder / "model.safetensors").write_text(folder.name)
        (folder / "training.json").write_text(json.dumps([dataclasses.asdict(self.stage(given, arguments))]))
        self.evaluate(folder, folder / "evaluation", given)

    def stage(self, given, arguments):
        return Stage(
            command=command_line(["accelerate", "launch", "train_accelerate.py", *arguments]),
            datasets=[self.data(*given.dataset)],
            epochs=given.epochs,
            seed=given.seed,
            setting="1 process on cpu, float32",
            versions={"torch": "2"},
            commit="0123456789abcdef",
        )

    def data(self, dataset):
        title = BENCHMARKS[dataset].title
        numbers = {"faces": 1811, "official_faces": 3148, "normalizer": "inter-ocular", "threshold": 0.08}
        return TrainingSet(dataset=dataset, title=title, homepage="", licence="", split="train", **numbers)

    def evaluate(self, folder, output_dir, given):
        benchmark = BENCHMARKS[given.dataset[0]]
        splits = ["validation"] if given.validation_list else given.eval_splits
        names = splits + [n for n, s in benchmark.subsets.items() if set(s.splits.split("+")) <= set(splits)]
        name, _, seed = folder.name.rpartition("-seed")
        rng = np.random.default_rng(0)  # the faces are as hard for every network
        errors = ERRORS.get(name, 0.06) * rng.uniform(0.5, 1.5, (len(splits), FACES)) + 0.001 * int(seed)
        report = {
            "weights": file_fingerprint(folder / "model.safetensors"),
            "setting": "1 process on cpu, float32",
            "dataset": given.dataset,
            "title": benchmark.title,
            "normalizer": benchmark.default_normalizer,
            "data": {split: {"faces": FACES, "fingerprint": "abc"} for split in splits},
            "scores": {
                name: {"faces": FACES, "normalizers": {benchmark.default_normalizer: {"nme": {"value": 0.05}}}}
                for name in names
            },
        }
        output_dir.mkdir(parents=True, exist_ok=True)
        (output_dir / "scores.json").write_text(json.dumps(report))
        with (output_dir / "faces.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            columns = [n for n, subset in benchmark.subsets.items() if subset.column]
            rows.writerow(["split", "number", "image_id", "unit", f"nme_{benchmark.default_normalizer}", *columns])
            for split, values in zip(splits, errors):
                for number, value in enumerate(values):
                    members = [number % 2 == 0 for _ in columns]
                    rows.writerow([split, number, f"{split}_{number}", "percent", 100 * value, *members])


@pytest.fixture
def training(monkeypatch):
    fake = FakeTraining()
    monkeypatch.setattr(table_runs, "launch", fake)
    monkeypatch.setattr(table_runs, "open_faces", lambda benchmark, data_dir: data_dir)
    monkeypatch.setattr(table_runs, "split_names", SPLITS.get)
    monkeypatch.setattr(signal, "signal", lambda *arguments: None)
    return fake


@pytest.fixture
def make(tmp_path, training, capsys):
    """Calls the command; returns the exit status, what it wrote on stderr, and the folder."""

    def call(*words, options=OPTIONS, data_dirs=("300w=300w",)):
        folder = tmp_path / "tables"
        status = tables.main([*words, "--data_dir", *data_dirs, "--output_dir", str(folder), "--", *options])
        return status, capsys.readouterr().err, folder

    return call


def read(folder, table):
    return json.loads((folder / f"table{table}.json").read_text())


# The paper -------------------------------------------------------------------------------------------------------


def test_quoted_tables_contradict_each_other_as_the_footnotes_say():
    quoted = next(row for row in paper.TABLE_1 if (row.method, row.backbone) == ("MTLD", "ResNet-18")).nme
    assert quoted["300w", "full"] == 3.28 and paper.TABLE_3["MST", "Heat.", "Struc."] == paper.TABLE_5[5] == 3.25
    assert (paper.TABLE_5[0], paper.TABLE_3["MST", "Heat."]) == (3.29, 3.34)
    assert round((554 * quoted["300w", "common"] + 135 * quoted["300w", "challenging"]) / 689, 2) == 3.23
    assert all("3.25" in notes[0] for notes in paper.FOOTNOTES.values())


def test_columns_are_scores_of_the_benchmarks():
    for dataset, score in (*paper.TABLE_1_COLUMNS, *paper.TABLE_2_COLUMNS):
        assert score in {*BENCHMARKS[dataset].splits, *BENCHMARKS[dataset].subsets}


# Numbers ---------------------------------------------------------------------------------------------------------


def test_estimate_is_the_mean_over_faces_of_means_over_seeds():
    values = np.random.default_rng(0).normal(0.05, 0.01, (2, 400))
    found = estimate(values, [3, 7])
    assert found["value"] == pytest.approx(values.mean())
    assert found["seeds"] == {"3": pytest.approx(values[0].mean()), "7": pytest.approx(values[1].mean())}
    spread = 1.96 * values.mean(axis=0).std() / 20
    assert found["low"] == pytest.approx(values.mean() - spread, abs=spread / 5)
    assert found["high"] == pytest.approx(values.mean() + spread, abs=spread / 5)


# Trainings -------------------------------------------------------------------------------------------------------


def test_trains_what_two_tables_share_once_and_does_nothing_twice(make, training):
    assert make("3", "5", "--neighbors", "0", "5", "30", "--seeds", "0", "1")[0] == 0
    names = [Path(call.output_dir).name for call in training.calls]
    expected = [*ERRORS, "mst-heatmap-structure-n30"]
    assert names == [f"{name}-seed{seed}" for seed in (0, 1) for name in expected]
    assert make("5", "3", "--neighbors", "0", "5", "30", "--seeds", "0", "1")[0] == 0
    assert len(training.calls) == len(names)


def test_rows_are_trained_as_the_paper_describes_them(make, training):
    make("3", "5", "--neighbors", "0", "5", "30")
    configs = {Path(call.output_dir).name: dict(call.config) for call in training.calls}
    off = dict.fromkeys(["use_multiscale_transformer", "use_heatmap_loss", "use_structure_loss"], False)
    assert configs["base-seed0"] == off
    assert configs["mst-seed0"] == {k: v for k, v in off.items() if k != "use_multiscale_transformer"}
    assert configs["mst-heatmap-seed0"] == {"use_structure_loss": False}
    assert configs["mst-structure-seed0"] == {"use_heatmap_loss": False}
    assert configs["mst-heatmap-structure-seed0"] == {} and MTLDConfig().num_neighbors == 5
    assert configs["mst-heatmap-structure-n30-seed0"] == {"num_neighbors": 30}
    for call in training.calls:
        assert (call.image_size, call.epochs, call.batch_size) == (64, 3, 4)
        assert call.resume_from_checkpoint == "latest" and call.eval_splits == ["common", "challenging"]


def test_goes_on_after_a_failure_that_names_the_log(make, training):
    training.broken["mst-structure"] = TrainingFailed("mst-structure-seed0 failed, see x.log: no space left")
    status, error, folder = make("3")
    assert status == 1 and error == "tables: mst-structure-seed0 failed, see x.log: no space left\n"
    assert not (folder / "table3.md").exists()
    del training.broken["mst-structure"], training.calls[:]
    assert make("3")[0] == 0
    names = [Path(call.output_dir).name for call in training.calls]
    assert names == ["mst-structure-seed0", "mst-heatmap-structure-seed0"]


def test_an_interruption_is_one_line(make, training):
    training.broken["base"] = KeyboardInterrupt()
    assert make("3")[:2] == (130, "tables: interrupted; the same command goes on with it\n")


def test_budgets_are_never_mixed(make, training):
    make("3")
    trained = len(training.calls)
    status, error, _ = make("3", options=["--image_size", "64", "--epochs", "5", "--batch_size", "4"])
    assert status == 2 and error.count("\n") == 1
    assert "base-seed0 must be a training with the same options, but got --epochs 3 there, 5 asked for" in error
    assert len(training.calls) == trained


def test_a_training_that_was_begun_keeps_its_budget(make, training):
    training.broken["base"] = TrainingFailed("x")
    make("3")
    status, error, _ = make("3", options=[*OPTIONS, "--learning_rate", "0.1"])
    assert status == 2 and "--learning_rate 0.0003 there, 0.1 asked for" in error


def test_options_that_change_no_weights_and_their_order_do_not_matter(make, training):
    make("3")
    trained = len(training.calls)
    options = ["--num_workers", "1", *reversed(["3", "--epochs", "64", "--image_size", "4", "--batch_size"])]
    assert make("3", options=options)[0] == 0 and len(training.calls) == trained


def test_records_that_differ_in_what_no_option_tells_are_not_put_into_one_table(make, training):
    _, _, folder = make("3")
    file = folder / "runs" / "mst-seed0" / "training.json"
    record = json.loads(file.read_text())
    record[-1]["datasets"][0]["faces"] = 2012
    file.write_text(json.dumps(record))
    status, error, _ = make("3")
    assert status == 2 and "got train_faces 2012 and not 1811" in error


def test_errors_of_other_faces_are_not_compared(make, training):
    _, _, folder = make("3")
    file = folder / "runs" / "mst-seed0" / "evaluation" / "faces.csv"
    file.write_text(file.read_text().replace("common_7,", "common_x,"))
    status, error, _ = make("3")
    assert status == 2 and "must be of the same faces as" in error


def test_a_training_without_an_evaluation_is_scored_with_the_same_precision(make, training, tmp_path):
    held_out = tmp_path / "held_out.txt"
    held_out.write_text("a\n")
    words, options = ("3", "--validation_list", str(held_out)), [*OPTIONS, "--mixed_precision", "bf16"]
    _, _, folder = make(*words, options=options)
    (folder / "runs" / "base-seed0" / "evaluation" / "scores.json").unlink()
    (folder / "runs" / "mst-seed0" / "model.safetensors").write_text("trained further")
    del training.calls[:]
    assert make(*words, options=options)[0] == 0
    assert [Path(call.model_name_or_path).name for call in training.calls] == ["base-seed0", "mst-seed0"]
    for call in training.calls:
        assert call.eval_only and call.mixed_precision == "bf16" and call.validation_list == [str(held_out)]
        assert Path(call.output_dir) == Path(call.model_name_or_path) / "evaluation"


def test_records_of_an_older_script_are_understood():
    old = (
        "accelerate launch train_accelerate.py --dataset 300w --data_dir 300w --validation_list held_out.txt "
        "--channels_last --epochs 12 --eval_every 0 --seed 0 --output_dir base-seed0 --resume_from_checkpoint latest "
        "--config use_heatmap_loss=false use_structure_loss=false"
    )
    new = (
        "accelerate launch train_accelerate.py --dataset 300w --data_dir other/300w --epochs 12 --seed 0 "
        "--config use_structure_loss=false --config use_heatmap_loss=false --output_dir x "
        "--validation_list lists/held_out.txt"
    )
    assert table_runs.differences(old, new) == []
    assert table_runs.differences(old, new.replace("held_out", "other")) == [
        "--validation_list held_out.txt there, other.txt asked for"
    ]


# Tables ----------------------------------------------------------------------------------------------------------


def test_table_3_compares_each_row_with_those_that_lack_one_of_its_modules(make):
    _, _, folder = make("3", "--seeds", "0", "1")
    rows = {row["run"]: row for row in read(folder, 3)["rows"]}
    assert {name: list(row["against"]) for name, row in rows.items()} == {
        "base": [],
        "mst": ["base"],
        "mst-heatmap": ["mst"],
        "mst-structure": ["mst"],
        "mst-heatmap-structure": ["mst-heatmap", "mst-structure"],
    }
    last = rows["mst-heatmap-structure"]
    assert last["against"]["mst-heatmap"]["adds"] == "Struc." and last["against"]["mst-structure"]["adds"] == "Heat."
    difference = rows["mst"]["against"]["base"]
    assert difference["value"] == pytest.approx(rows["mst"]["nme"]["value"] - rows["base"]["nme"]["value"])
    assert difference["value"] == pytest.approx(-0.005, abs=5e-4)
    width, alone = difference["high"] - difference["low"], rows["mst"]["nme"]["high"] - rows["mst"]["nme"]["low"]
    assert width < alone / 5  # the same faces are hard for both
    seeds = rows["mst"]["nme"]["seeds"]
    assert seeds["1"] - seeds["0"] == pytest.approx(0.001)


def test_table_3_in_markdown_stands_beside_the_paper_and_states_its_budget(make):
    _, _, folder = make("3", "--seeds", "0", "1")
    text = (folder / "table3.md").read_text()
    for words in (
        *("3 epochs", "64 x 64", "batch 4", "seeds 0 and 1", "1,811 of the 3,148 faces of train", "commit 0123456"),
        *("40 of full", "1 process on cpu, float32", "inter-ocular", "3.28 for this network"),
    ):
        assert words in text
    table = read(folder, 3)
    assert page(table) in text
    row = next(line for line in text.splitlines() if line.startswith("| ✓ |  |"))
    assert row.startswith("| ✓ |  |  |  | 4.02 | ") and row.endswith("| – |")
    nme = table["rows"][0]["nme"]
    assert f"{100 * nme['value']:.2f} [{100 * nme['low']:.2f}, {100 * nme['high']:.2f}]" in row
    assert "for MST on base (" in text and "<br>" in text


def test_table_3_is_scored_on_common_where_there_is_no_challenging(make):
    _, _, folder = make("3", data_dirs=["300w=common_only"])
    assert read(folder, 3)["facts"]["faces"] == {"common": FACES}
    assert "40 of common" in (folder / "table3.md").read_text()


def test_table_5_shows_the_rows_that_were_not_asked_for_empty(make):
    _, _, folder = make("5", "--neighbors", "0", "5", "30")
    text, rows = (folder / "table5.md").read_text(), read(folder, 5)["rows"]
    assert [row["neighbors"] for row in rows] == [0, 5, 30]
    assert [list(row["against"]) for row in rows] == [[], ["mst-heatmap"], ["mst-heatmap"]]
    assert "| 8 | 3.27 | – | – | – |" in text and "against 0" in text
    assert [line.split(" | ")[1] for line in text.splitlines() if line.startswith("| ") and line[2].isdigit()] == [
        f"{value:.2f}" for value in paper.TABLE_5.values()
    ]


def test_tables_1_and_2_leave_what_has_no_data_empty(make, training):
    status, _, folder = make("1", "2", "3", "--seeds", "0", data_dirs=["300w=300w", "wflw=wflw"])
    assert status == 0
    names = {Path(call.output_dir).name for call in training.calls}
    assert names == {f"{name}-seed0" for name in ERRORS} | {
        *("300w-resnet50-seed0", "300w-resnet101-seed0"),
        *("wflw-resnet18-seed0", "wflw-resnet50-seed0", "wflw-resnet101-seed0"),
    }
    rows = read(folder, 1)["rows"]
    assert list(rows[0]["cells"]) == ["300w full", "300w common", "300w challenging"]
    text = (folder / "table1.md").read_text()
    assert "Not measured here, without data: AFLW and COFW" in text
    assert "| MTLD, the paper | ResNet-50 | 3.20 | 2.75 |" in text
    assert list(read(folder, 2)["rows"][2]["cells"]) == [f"wflw {score}" for _, score in paper.TABLE_2_COLUMNS]
    half = read(folder, 2)["rows"][0]["cells"]
    assert half["wflw pose"]["value"] != half["wflw test"]["value"]


def test_tables_1_and_3_share_no_training_where_photos_are_held_out(make, training, tmp_path):
    held_out = tmp_path / "held_out.txt"
    held_out.write_text("a\n")
    make("1", "3", "--validation_list", str(held_out))
    calls = {Path(call.output_dir).name: call for call in training.calls}
    assert calls["mst-heatmap-structure-seed0"].validation_list == [str(held_out)]
    assert calls["300w-resnet18-seed0"].validation_list is None
    assert calls["300w-resnet18-seed0"].eval_splits == ["common", "challenging"]


def test_weights_from_files_are_for_their_backbone(make, training, tmp_path):
    weights = tmp_path / "weights.safetensors"
    weights.write_text("")
    make("1", "--backbone_weights", f"resnet50={weights}")
    given = {call.backbone: call.backbone_checkpoint for call in training.calls}
    assert given == {None: None, "resnet50": str(weights), "resnet101": None}


def test_table_4_stands_beside_the_paper_and_names_the_machine(training, tmp_path, capsys, monkeypatch):
    speed = {"model_ms": 20.0, "trunk_ms": 16.0, "ratio": 1.25, "images_per_second": 50.0}
    network = {"parameters": 11_900_000, "multiply_adds": 2_660_000_000, "cpu": speed, "gpu": None}

    def measure(backbones, num_landmarks, image_size, watch):
        assert (num_landmarks, image_size) == (98, 256)
        watch("resnet18 on the CPU, 100 runs")
        facts = {"num_landmarks": 98, "image_size": 256, "batch_size": 1, "runs": 100, "threads": 2}
        return {**facts, "cpu": "Some CPU", "gpu": None, "networks": dict.fromkeys(backbones, network)}

    monkeypatch.setattr(tables, "measure_networks", measure)
    status = tables.main(["4", "--output_dir", str(tmp_path / "tables")])
    assert "Table 4: resnet18 on the CPU, 100 runs\n" in capsys.readouterr().out
    text = (tmp_path / "tables" / "table4.md").read_text()
    assert status == 0 and "Some CPU (2 threads) and no GPU" in text and "Intel i7-9700" in text
    assert "| **MTLD, here** | ResNet-18 | 11.9 M | 2.66 G | – | – | 1.25 | – |" in text
    assert "| MTLD, the paper | ResNet-18 | 12.6 M | 2.7 G | 45.8 | 213.5 | – | – |" in text


def test_a_dry_run_lists_the_trainings_and_runs_none(make, training, tmp_path, capsys):
    make("3", "--seeds", "0")
    done = len(training.calls)
    words = ["3", "--seeds", "0", "1", "--data_dir", "300w=300w", "--output_dir", str(tmp_path / "tables")]
    assert tables.main([*words, "--dry_run", "--", *OPTIONS]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(training.calls) == done
    assert [line.partition(": ")[0].endswith("-seed0 (done)") for line in lines[:-1]] == [True] * 5 + [False] * 5
    assert all("python train_accelerate.py --dataset 300w --data_dir 300w" in line for line in lines[:-1])
    assert lines[-1] == "10 trainings, 5 of them to do"


# Command line ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, message",
    [
        (["6", "--data_dir", "300w=300w"], "invalid choice: 6"),
        (["3"], "--data_dir must give 300w=DIR for Tables 3 and 5"),
        (["2", "--data_dir", "300w=300w"], "--data_dir must give wflw for Table 2"),
        (["3", "--data_dir", "300w"], "must be NAME=DIR, but got '300w'"),
        (["3", "--data_dir", "500w=x"], "must name 300w, wflw, cofw or aflw"),
        (
            ["3", "--data_dir", "300w=300w", "--validation_list", "nowhere"],
            "--validation_list must be an existing file",
        ),
        (["5", "--data_dir", "300w=300w", "--neighbors", "4"], "invalid choice: 4"),
        (["3", "--data_dir", "300w=300w", "--backbone_weights", "resnet18=nowhere"], "must be one of resnet18"),
        (["3", "--data_dir", "300w=300w", "--", "--epoch", "3"], "unrecognized arguments: --epoch 3"),
        (["3", "--data_dir", "300w=300w", "--", "--seed", "3"], "must leave --seed to the tables"),
        (["1", "--data_dir", "300w=300w", "--", "--backbone_checkpoint", "x"], "must come as --backbone_weights"),
    ],
)
def test_bad_input_is_one_line(training, capsys, words, message):
    assert tables.main(words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and training.calls == []


def test_help_teaches(capsys):
    with pytest.raises(SystemExit):
        tables.main(["--help"])
    shown = capsys.readouterr().out
    for words in ("--data_dir 300w=300w", "-- --image_size 128", "continues after an", "--validation_list FILE"):
        assert words in shown


# The real process ------------------------------------------------------------------------------------------------


@pytest.fixture
def script(tmp_path, monkeypatch):
    """`launch` with Python on a script of the test in place of accelerate on train_accelerate.py."""
    file = tmp_path / "script.py"
    real = subprocess.Popen

    def popen(command, **options):
        assert command[1:4] == ["-m", "accelerate.commands.launch", "--quiet"]
        return real([sys.executable, str(file), *command[5:]], **options)

    monkeypatch.setattr(table_runs.subprocess, "Popen", popen)
    return file


def test_a_failing_training_names_its_log_and_last_line(tmp_path, script):
    script.write_text("import sys; print('epoch 1/3', sys.argv[1]); sys.exit('train: the disk is full')")
    log = tmp_path / "base-seed0.log"
    with pytest.raises(TrainingFailed, match="base-seed0 failed, see .*base-seed0.log: train: the disk is full"):
        table_runs.launch(["--epochs"], log, lambda what: None)
    assert "epoch 1/3 --epochs" in log.read_text()


def test_an_interruption_ends_the_whole_training_before_it_is_passed_on(tmp_path, script):
    child = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *a: sys.exit(open('{}', 'w').write('x')))"
    script.write_text(
        f"import subprocess, sys; code = {child.format(tmp_path / 'saved')!r} + "
        "'; print(\"epoch 2/3\", flush=True); time.sleep(60)'\n"
        "subprocess.Popen([sys.executable, '-c', code]).wait()"
    )

    def watch(what):
        if what == "epoch 2/3":
            raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        table_runs.launch([], tmp_path / "x.log", watch)
    assert (tmp_path / "saved").exists() and time.monotonic() - start < 50
