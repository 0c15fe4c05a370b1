"""A training that is killed, stopped or breaks off loses nothing, and ends as if nothing had happened."""

import errno
import json
import os
import random
import re
import shutil
import signal
import time

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from training_runs import arguments, assert_same_weights, finish, loss_curve, make_dolls, start

import train_accelerate
from modeling_mtld.model_card_mtld import read_stages
from training_mtld import training as script
from training_mtld.checkpoints import StopSignal

KILLS = 10
# All that has a state: both schedulers, the moving average, accumulation, clipping and rates of two groups.
OPTIONS = {
    "epochs": 4,
    "decay_epochs": (2,),
    "warmup_steps": 3,
    "ema_decay": 0.9,
    "gradient_accumulation_steps": 2,
    "batch_size": 2,
    "max_grad_norm": 1.0,
    "backbone_lr_factor": 0.5,
    "save_steps": 2,
}


@pytest.fixture(scope="module")
def dolls(tmp_path_factory):
    return make_dolls(tmp_path_factory.mktemp("data") / "dolls")


@pytest.fixture(scope="module")
def whole(dolls, tmp_path_factory):
    """The directory of a training that nobody interrupted."""
    out = tmp_path_factory.mktemp("whole") / "out"
    log = out.parent / "log"
    finish([start(arguments(dolls, out, **OPTIONS), log)], log)
    return out


@pytest.fixture
def in_process(monkeypatch):
    """For `train_accelerate.run` in this very process."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def checkpoint_names(out):
    folder = out / "checkpoints"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_killed_ten_times_at_random_moments_it_ends_with_the_same_weights(dolls, whole, tmp_path):
    out, log = tmp_path / "out", tmp_path / "log"
    words = arguments(dolls, out, resume_from_checkpoint="latest", **OPTIONS)
    chance, kills = random.Random(0), 0
    while kills < KILLS:
        process = start(words, log)
        before = checkpoint_names(out)
        while checkpoint_names(out) == before and process.is_alive():  # else it would never get anywhere
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.15))
        if not process.is_alive():
            break
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
    finish([start(words, log)], log)
    assert kills == KILLS
    assert_same_weights(whole, out)
    assert_same_weights(whole / "checkpoints" / "epoch_0004", out / "checkpoints" / "epoch_0004")
    assert loss_curve(out)[-1] == loss_curve(whole)[-1]


def test_leftovers_of_a_training_killed_while_saving_do_no_harm(dolls, whole, tmp_path):
    out, log = tmp_path / "out", tmp_path / "log"
    last = whole / "checkpoints" / "epoch_0003_update_000006"
    shutil.copytree(last, out / "checkpoints" / last.name)
    half = out / "checkpoints" / "tmp_epoch_0004"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    finish([start(arguments(dolls, out, resume_from_checkpoint="latest", **OPTIONS), log)], log)
    assert_same_weights(whole, out)
    assert not half.exists()


def test_the_last_checkpoints_are_kept(whole, dolls, tmp_path):
    assert checkpoint_names(whole) == ["epoch_0003_update_000006", "epoch_0004"]
    log = tmp_path / "log"
    words = arguments(dolls, tmp_path / "out", save_total_limit=3)
    finish([start(words, log)], log)
    assert checkpoint_names(tmp_path / "out") == ["epoch_0001", "epoch_0002", "epoch_0003"]


@pytest.mark.parametrize("save_epochs, names", [(0, ["epoch_0005"]), (2, ["epoch_0002", "epoch_0004", "epoch_0005"])])
def test_epochs_shorter_than_the_interval_leave_no_checkpoint_but_the_last(dolls, tmp_path, save_epochs, names):
    log = tmp_path / "log"
    options = {"epochs": 5, "save_minutes": 60, "save_epochs": save_epochs, "save_total_limit": 9}
    finish([start(arguments(dolls, tmp_path / "out", **options), log)], log)
    assert checkpoint_names(tmp_path / "out") == names


@pytest.mark.parametrize(
    "number, status, workers", [(signal.SIGTERM, 143, 2), (signal.SIGINT, 130, 0), (signal.SIGHUP, 129, 2)]
)
def test_a_signal_saves_and_ends_cleanly(dolls, whole, tmp_path, number, status, workers):
    """To the whole process group, as a terminal or a cluster sends it: the loaders' workers get it too."""
    out, log = tmp_path / "out", tmp_path / "log"
    options = {**OPTIONS, "save_steps": 0, "num_workers": workers}
    process = start(arguments(dolls, out, **options), log)
    while not checkpoint_names(out):
        time.sleep(0.005)
    os.killpg(process.pid, number)
    finish([process], log, status)
    assert re.search(r"epoch_\d{4}_update_\d{6}$", checkpoint_names(out)[-1])
    last = log.read_text().splitlines()[-1]
    assert last == f"train_accelerate.py: stopped by {number.name}; --resume_from_checkpoint latest goes on with it"
    assert not (out / "config.json").exists()
    name = checkpoint_names(out)[-1]
    finish([start(arguments(dolls, out, resume_from_checkpoint="latest", **options), log)], log)
    assert_same_weights(whole, out)
    epoch, update = (int(number) + 1 for number in re.findall(r"\d+", name))
    assert f"going on from checkpoint {name}: epoch {epoch}, update {update}\n" in log.read_text()


def test_under_nohup_a_closed_terminal_ends_nothing():
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.number is None
    finally:
        signal.signal(signal.SIGHUP, former)


def test_a_training_that_breaks_off_leaves_no_workers(dolls, tmp_path):
    """They do not mind SIGTERM, and the interpreter would wait for them for ever."""
    log, words = tmp_path / "log", arguments(dolls, tmp_path / "out", num_workers=2, learning_rate=1e30)
    process = start(words, log)
    process.join(60)
    assert process.exitcode == 2 and "must be finite" in log.read_text()


def test_a_full_disk_is_one_line_and_leaves_the_checkpoint_before(dolls, tmp_path, capsys, monkeypatch, in_process):
    save_state, saved = Accelerator.save_state, []

    def fill_disk(accelerator, folder, **options):
        saved.append(save_state(accelerator, folder, **options))
        if len(saved) == 2:
            (folder / "optimizer.bin").write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Accelerator, "save_state", fill_disk)
    out = tmp_path / "out"
    assert train_accelerate.run(arguments(dolls, out)) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("train_accelerate.py: --output_dir must take a checkpoint") and "No space left" in line
    assert checkpoint_names(out) == ["epoch_0001"]


def test_a_loss_that_is_not_finite_is_one_line_and_leaves_the_checkpoint_before(
    dolls, tmp_path, capsys, monkeypatch, in_process
):
    optimize = script.train_update

    def explode(training, batches):
        if training.progress.epoch == 1:
            batches[0]["pixel_values"][:] = torch.inf
        return optimize(training, batches)

    monkeypatch.setattr(script, "train_update", explode)
    assert train_accelerate.run(arguments(dolls, tmp_path / "out")) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "the loss must be finite, but got nan in epoch 2, update 1" in line
    assert checkpoint_names(tmp_path / "out") == ["epoch_0001"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"epochs": 9}, "with the same options, but .*epoch_0004 has epochs=4, and this one epochs=9"),
        ({"batch_size": 1}, "has batch_size=2, and this one batch_size=1"),
        ({"ema_decay": None}, r"has ema_decay=0\.9, and this one ema_decay=None"),
        ({"config": ("hidden_size=32",)}, "and this one config="),
        ({"resume_from_checkpoint": "nowhere"}, "--resume_from_checkpoint must be a checkpoint's folder .* nowhere"),
    ],
)
def test_resuming_what_is_not_the_same_training_is_one_line(
    whole, dolls, tmp_path, capsys, in_process, options, message
):
    given = {**OPTIONS, "resume_from_checkpoint": whole / "checkpoints" / "epoch_0004"} | options
    assert train_accelerate.run(arguments(dolls, tmp_path / "out", **given)) == 2
    assert re.search(message, capsys.readouterr().err.splitlines()[-1])
    assert not (tmp_path / "out" / "config.json").exists()


def test_a_damaged_checkpoint_is_one_line(whole, dolls, tmp_path, capsys, in_process):
    copy = tmp_path / "epoch_0004"
    shutil.copytree(whole / "checkpoints" / "epoch_0004", copy)
    (copy / "model.safetensors").write_bytes((copy / "model.safetensors").read_bytes()[:1000])
    words = arguments(dolls, tmp_path / "out", **OPTIONS, resume_from_checkpoint=copy)
    assert train_accelerate.run(words) == 2
    assert f"must be whole and of a training with the same options, but got {copy}" in capsys.readouterr().err


def test_a_stream_goes_on_in_mid_epoch(dolls, tmp_path):
    log, options = tmp_path / "log", {"streaming": (), "save_steps": 4, "save_total_limit": 9, "epochs": 2}
    finish([start(arguments(dolls, tmp_path / "whole", **options), log)], log)
    middle = tmp_path / "whole" / "checkpoints" / "epoch_0001_update_000004"
    shutil.copytree(middle, tmp_path / "out" / "checkpoints" / middle.name)
    words = arguments(dolls, tmp_path / "out", **options, resume_from_checkpoint="latest")
    finish([start(words, log)], log)
    assert_same_weights(tmp_path / "whole", tmp_path / "out")


def test_a_checkpoint_carries_command_commit_versions_and_data(whole):
    (stage,) = read_stages(str(whole / "checkpoints" / "epoch_0004"))
    assert stage == read_stages(str(whole))[-1].with_results({})
    assert stage.command.startswith("accelerate launch train_accelerate.py --dataset landmarks.yaml")
    assert stage.versions["torch"] == torch.__version__.partition("+")[0] and len(stage.datasets[0].fingerprint) == 16


def test_what_other_code_began_is_told(whole, dolls, tmp_path):
    last = whole / "checkpoints" / "epoch_0003_update_000006"
    shutil.copytree(last, tmp_path / "out" / "checkpoints" / last.name)
    record = tmp_path / "out" / "checkpoints" / last.name / "training.json"
    (stage,) = json.loads(record.read_text())
    record.write_text(json.dumps([stage | {"commit": "older", "versions": {**stage["versions"], "timm": "1.0"}}]))
    log, words = tmp_path / "log", arguments(dolls, tmp_path / "out", resume_from_checkpoint="latest", **OPTIONS)
    finish([start(words, log)], log)
    (stage,) = read_stages(str(tmp_path / "out"))
    assert stage.commit.startswith("older, then ") and stage.versions["timm"].startswith("1.0, then ")


def test_an_older_checkpoint_does_not_mix_with_later_ones(whole, dolls, tmp_path, capsys, in_process):
    older = whole / "checkpoints" / "epoch_0003_update_000006"
    words = arguments(dolls, whole, **OPTIONS, resume_from_checkpoint=older)
    assert train_accelerate.run(words) == 2
    assert f"must hold no later checkpoint than {older}, but got " in capsys.readouterr().err
    assert checkpoint_names(whole) == ["epoch_0003_update_000006", "epoch_0004"]


def test_other_data_is_noticed(whole, tmp_path, capsys, in_process):
    others = make_dolls(tmp_path / "dolls", train=25)
    words = arguments(others, tmp_path / "out", **OPTIONS, resume_from_checkpoint=whole / "checkpoints" / "epoch_0004")
    assert train_accelerate.run(words) == 2
    assert "--data_dir must hold the faces that " in capsys.readouterr().err


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(dolls, tmp_path, capsys, monkeypatch, in_process):
    add_gradients = script.add_gradients

    def explode(training, batches):
        result = add_gradients(training, batches)
        next(training.model.parameters()).grad.fill_(torch.inf)
        return result

    monkeypatch.setattr(script, "add_gradients", explode)
    assert train_accelerate.run(arguments(dolls, tmp_path / "out", save_steps=1)) == 2
    assert "the gradient must be finite, but got " in capsys.readouterr().err
    assert checkpoint_names(tmp_path / "out") == []
