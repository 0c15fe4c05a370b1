"""What a command answers before the libraries are loaded."""

import subprocess
import sys
from pathlib import Path

import pytest
from training_runs import arguments, make_dolls

import train_accelerate
from dataset_scripts import BENCHMARKS
from dataset_scripts.names import BENCHMARK_NAMES
from training_mtld.command_line import Parser
from training_mtld.options import parse_args

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"torch", "transformers", "datasets", "timm", "cv2", "accelerate", "numpy", "PIL"}
SCRIPT = """
import sys
import train_accelerate
try:
    status = train_accelerate.run(sys.argv[1:])
except SystemExit as error:
    status = error.code
print(status, *{name.partition(".")[0] for name in sys.modules})
"""


@pytest.mark.parametrize(
    "words, status",
    [
        (["--help"], 0),
        (["--bacth_size", "4"], 2),
        (["--epochs", "many"], 2),
        (["--epochs", "0"], 2),
        (["--augmentation", "turn=1"], 2),
        (["--eval_only"], 2),
    ],
)
def test_help_and_wrong_options_do_not_wait_for_the_libraries(words, status):
    command = [sys.executable, "-c", SCRIPT, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    code, *modules = done.stdout.splitlines()[-1].split()
    assert int(code) == status
    assert not HEAVY & set(modules)


def test_an_unknown_option_is_told_the_nearest(tmp_path, capsys):
    words = [*arguments(tmp_path, tmp_path / "out"), "--bacth_size=4", "--ema-decay", "1", "--zzz"]
    assert train_accelerate.run(words) == 2
    assert capsys.readouterr().err.endswith("; did you mean --batch_size and --ema_decay?\n")
    with pytest.raises(ValueError, match="unrecognized arguments: --zzz$"):
        Parser().parse_args(["--zzz"])


@pytest.mark.parametrize(
    "option, value, near",
    [
        ("config", "use_heatmap_los=false", "use_heatmap_loss"),
        ("augmentation", "rotations=1", "rotation"),
    ],
)
def test_an_unknown_field_is_told_the_nearest(tmp_path, option, value, near):
    with pytest.raises(ValueError, match=f"; did you mean {near}\\?$"):
        parse_args(arguments(tmp_path, tmp_path / "out", **{option: value}))


def test_names_without_the_libraries_are_those_of_the_benchmarks():
    assert BENCHMARK_NAMES == tuple(BENCHMARKS)


def test_what_is_wrong_with_the_data_comes_after_the_options(tmp_path):
    dolls = make_dolls(tmp_path / "dolls", train=1, test=1)
    assert parse_args(arguments(dolls, tmp_path / "out")).datasets[0].benchmark.num_landmarks == 5
