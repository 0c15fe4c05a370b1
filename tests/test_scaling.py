"""One training on any number of processes and steps, and the options of its optimizer."""

import copy
import re
import time

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from training_runs import PROCESSES, arguments, finish, loss_curve, make_dolls, scores, start, start_all

import train_accelerate
from modeling_mtld.configuration_mtld import MTLDConfig
from modeling_mtld.modeling_mtld import MTLDForFacialLandmarkDetection
from training_mtld import optimization
from training_mtld import training as script
from training_mtld.options import parse_args
from training_mtld.publishing import round_weights

NO_BACKBONE = {"backbone": None, "random_backbone": None}  # which a checkpoint has
TINY = dict(backbone="test_resnet.r160_in1k", image_size=64, hidden_size=16, num_attention_heads=2, num_landmarks=5)


@pytest.fixture(scope="module")
def dolls(tmp_path_factory):
    return make_dolls(tmp_path_factory.mktemp("data") / "dolls", train=26)


@pytest.fixture(autouse=True)
def in_process(monkeypatch):
    """For `train_accelerate.run` in this very process."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def tiny_model():
    torch.manual_seed(0)
    return MTLDForFacialLandmarkDetection(MTLDConfig(**TINY), for_training=True)


def options(dolls, tmp_path, **given):
    return parse_args(arguments(dolls, tmp_path / "args", **given))


# The effective batch ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spread(dolls, tmp_path_factory):
    """The same training with 8 faces an update: by one process, by one in two steps, and by two processes."""
    folder = tmp_path_factory.mktemp("spread")
    common = {"batch_norm": "frozen", "epochs": 3, "decay_epochs": (), "eval_every": 1}
    ways = {"one": {"batch_size": 8}, "steps": {"batch_size": 4, "gradient_accumulation_steps": 2}}
    for name, way in ways.items():
        finish(
            [start(arguments(dolls, folder / name, **common, **way), folder / f"{name}.log")], folder / f"{name}.log"
        )
    words = arguments(dolls, folder / "processes", **common, batch_size=4)
    finish(start_all(words, folder / "processes.log", 2), folder / "processes.0")
    return folder


@pytest.mark.parametrize("way", ["steps", "processes"])
def test_the_same_effective_batch_gives_the_same_loss_and_scores(spread, way):
    """The faces have different numbers of landmarks, so that a mean of means would differ in the second digit."""
    for term in ("loss", "coordinate", "heatmap", "structure"):
        expected, found = (np.array(loss_curve(spread / name, term)) for name in ("one", way))
        assert len(expected) == 3 and expected[0] > 0
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    # Adam's first steps divide rounding by rounding where gradients are near 0; that gradients of parts add up exactly
    # is tested in test_modeling.py. The last scores are of weights rounded to half precision too.
    for score, tolerance in (("nme", 2e-4), ("p90", 2e-4), ("auc@10%", 2e-4)):
        expected, found = (np.array(loss_curve(spread / name, f"test/{score}")) for name in ("one", way))
        np.testing.assert_allclose(found[:2], expected[:2], atol=tolerance)
        assert found[2] == pytest.approx(expected[2], abs=1e-3)


def test_evaluation_on_two_processes_counts_every_face_once_and_in_order(spread, dolls, tmp_path):
    words = ["--eval_only", "--model_name_or_path", str(spread / "one")]
    words += ["--dataset", str(dolls), "--eval_splits", "test", "train", "--batch_size", "2", "--num_workers", "0"]
    finish([start([*words, "--output_dir", str(tmp_path / "one")], tmp_path / "one.log")], tmp_path / "one.log")
    finish(start_all([*words, "--output_dir", str(tmp_path / "two")], tmp_path / "two.log", 2), tmp_path / "two.0")
    rows = [(tmp_path / name / "faces.csv").read_text().splitlines() for name in ("one", "two")]
    assert len(rows[0]) == len(rows[1]) == 1 + 5 + 26
    for one, two in zip(*rows):
        one, two = one.split(","), two.split(",")
        assert one[:3] == two[:3]
        numbers = [[float(cell) for cell in row[3:] if re.fullmatch(r"[\d.]+", cell)] for row in (one, two)]
        assert numbers[0] == pytest.approx(numbers[1], abs=1e-4)  # percent: 1e-6 as a fraction


def test_what_two_processes_score_is_what_they_save(dolls, tmp_path):
    """Each of them has batch-norm statistics of its own faces."""
    words = arguments(dolls, tmp_path / "out", epochs=2, batch_size=4, ema_decay=0.9)
    finish(start_all(words, tmp_path / "log", 2), tmp_path / "log.0")
    again = ["--eval_only", "--model_name_or_path", str(tmp_path / "out"), "--dataset", str(dolls)]
    again += ["--output_dir", str(tmp_path / "again" / "evaluation"), "--num_workers", "0"]
    finish([start(again, tmp_path / "log")], tmp_path / "log")
    trained, found = (scores(tmp_path / name)["test"]["normalizers"]["box"] for name in ("out", "again"))
    assert trained["nme"]["value"] == pytest.approx(found["nme"]["value"], abs=1e-6)


def test_the_effective_batch_and_the_updates_are_told(spread):
    logs = {name: (spread / f"{name}").read_text() for name in ("one.log", "steps.log", "processes.0")}
    assert "effective batch 8 (8 faces x 1 processes x 1 steps), 3 updates an epoch, 9 in all" in logs["one.log"]
    assert "effective batch 8 (4 faces x 1 processes x 2 steps), 3 updates" in logs["steps.log"]
    assert "effective batch 8 (4 faces x 2 processes x 1 steps), 3 updates" in logs["processes.0"]
    assert re.search(r"img/s=\d+, GB=\d\.\d", logs["one.log"])


# Optimizer and schedule -------------------------------------------------------------------------------------------


def rates(args, updates, epochs):
    model = tiny_model()
    optimizer = optimization.build_optimizer(model, args)
    schedule, found = optimization.Schedule(optimizer, args, updates * epochs), []
    for _ in range(epochs):
        for _ in range(updates):
            found.append([group["lr"] for group in optimizer.param_groups])
            optimizer.step()
            schedule.after("update")
        schedule.after("epoch")
    return np.array(found)


def test_the_papers_steps_with_warmup_and_a_rate_of_its_own_for_the_backbone(dolls, tmp_path):
    args = options(dolls, tmp_path, epochs=4, decay_epochs=(2, 3), warmup_steps=3, backbone_lr_factor=0.1)
    found = rates(args, updates=5, epochs=4)
    expected = 3e-4 * np.array([0.25, 0.5, 0.75] + [1] * 7 + [0.1] * 5 + [0.01] * 5)
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-6)
    np.testing.assert_allclose(found[:, 1], 0.1 * expected, rtol=1e-6)


def test_the_papers_recipe_is_the_default(dolls, tmp_path):
    found = rates(options(dolls, tmp_path, epochs=150), updates=1, epochs=150)[:, 0]
    np.testing.assert_allclose(found, 3e-4 * np.repeat([1, 0.1, 0.01], [70, 50, 30]), rtol=1e-6)


@pytest.mark.parametrize("epochs, factors", [(1, [1]), (2, [1, 0.1]), (3, [1, 0.1, 0.01])])
def test_short_trainings_decay_neither_before_their_first_epoch_nor_after_their_last(dolls, tmp_path, epochs, factors):
    args = options(dolls, tmp_path, epochs=epochs)
    np.testing.assert_allclose(rates(args, updates=2, epochs=epochs)[::2, 0], 3e-4 * np.array(factors), rtol=1e-6)
    assert all(0 < epoch < epochs for epoch in optimization.decay_epochs(args))


def test_schedulers_of_transformers(dolls, tmp_path):
    cosine = rates(options(dolls, tmp_path, lr_scheduler="cosine", warmup_steps=2), updates=5, epochs=4)[:, 0]
    assert cosine[0] == 0 and cosine.argmax() == 2 and cosine[-1] < 0.1 * cosine.max()
    constant = rates(options(dolls, tmp_path, lr_scheduler="constant", warmup_steps=2), updates=5, epochs=4)[:, 0]
    assert constant[1] == pytest.approx(1.5e-4) and (constant[2:] == 3e-4).all()


def test_frozen_batch_norm_changes_neither_statistics_nor_weights(dolls, tmp_path):
    model, args = tiny_model(), options(dolls, tmp_path, batch_norm="frozen")
    before = copy.deepcopy(model.state_dict())
    model = optimization.prepare_batch_norm(model, args, torch.device("cpu"))
    optimization.set_training(model, args)
    optimizer = optimization.build_optimizer(model, args)
    for _ in range(2):  # the heads start at 0, and let no gradient through at first
        model(torch.randn(2, 3, 64, 64), labels=torch.rand(2, 5, 2)).loss.backward()
        optimizer.step()
    of_norms = {
        f"{name}.{key}"
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.BatchNorm2d)
        for key in module.state_dict()
    }
    after = model.state_dict()
    assert of_norms and all(torch.equal(after[name], before[name]) for name in of_norms)
    assert not torch.equal(after["backbone._backbone.conv1.0.weight"], before["backbone._backbone.conv1.0.weight"])


def test_synchronised_batch_norm_needs_gpus(dolls, tmp_path, capsys):
    assert train_accelerate.run(arguments(dolls, tmp_path / "out", batch_norm="sync")) == 2
    assert "--batch_norm sync needs GPUs, but got cpu" in capsys.readouterr().err


def test_synchronised_batch_norm_replaces_all_of_it(dolls, tmp_path):
    args = options(dolls, tmp_path, batch_norm="sync")
    model = optimization.prepare_batch_norm(tiny_model(), args, torch.device("cuda"))
    norms = [module for module in model.modules() if isinstance(module, optimization.BATCH_NORMS)]
    assert norms and all(isinstance(module, torch.nn.SyncBatchNorm) for module in norms)
    assert model.state_dict().keys() == tiny_model().state_dict().keys()


def test_weights_that_nothing_depends_on_are_frozen_for_ddp():
    model = tiny_model()
    model.unused = torch.nn.Linear(2, 2)
    before = copy.deepcopy(model.state_dict())
    optimization.freeze_unused(model)
    assert {name for name, weights in model.named_parameters() if not weights.requires_grad} == {
        "unused.weight",
        "unused.bias",
    }
    assert all(weights.grad is None for weights in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_moving_average_is_what_is_saved_and_scored(dolls, tmp_path):
    log = tmp_path / "log"
    finish([start(arguments(dolls, tmp_path / "raw", epochs=2), log)], log)
    finish([start(arguments(dolls, tmp_path / "mean", epochs=2, ema_decay=0.5), log)], log)
    raw, mean = (load_file(tmp_path / name / "model.safetensors") for name in ("raw", "mean"))
    state = load_file(tmp_path / "mean" / "checkpoints" / "epoch_0002" / "model.safetensors")
    name = "decoder.queries"
    assert torch.equal(state[name].half(), raw[name]) and not torch.equal(mean[name], raw[name])
    assert scores(tmp_path / "mean") != scores(tmp_path / "raw")


def test_weights_beyond_half_precision_stay_as_they_are():
    model = tiny_model()
    with torch.no_grad():
        model.decoder.queries[0, 0], model.decoder.queries[1, 0] = 70_000.0, 1 / 3
        model.decoder.mean_face.fill_(1 / 3)
    round_weights(model)
    assert model.decoder.queries[0, 0] == 70_000 and model.decoder.queries[1, 0] == np.float32(1 / 3)
    assert (model.decoder.mean_face == torch.tensor(1 / 3).half().float()).all()


def test_an_epoch_ends_as_accelerate_has_it(dolls, tmp_path, monkeypatch):
    """Else its list of loaders in use grows with each epoch."""
    seen = []
    monkeypatch.setattr(
        script, "train_update", lambda training, batches: seen.append(in_use(training)) or {"loss": 0.0}
    )
    words = arguments(dolls, tmp_path / "out", epochs=3, gradient_accumulation_steps=3)
    assert train_accelerate.run(words) == 0
    assert set(seen) == {1}


def in_use(training) -> int:
    return len([loader for loader in training.accelerator.gradient_state.dataloader_references if loader])


def test_other_processes_outlive_a_training(dolls, tmp_path):
    other = PROCESSES.Process(target=time.sleep, args=(60,))
    other.start()
    try:
        assert train_accelerate.run(arguments(dolls, tmp_path / "out", epochs=1, num_workers=1)) == 0
        assert other.is_alive()
    finally:
        other.kill()
        other.join()


def test_a_compiled_network_is_saved_as_any_other(dolls, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "COMPILER", "eager")
    assert train_accelerate.run(arguments(dolls, tmp_path / "compiled", epochs=1, compile=())) == 0
    AcceleratorState._reset_state(reset_partial_state=True)
    assert train_accelerate.run(arguments(dolls, tmp_path / "plain", epochs=1)) == 0
    compiled, plain = (load_file(tmp_path / name / "model.safetensors") for name in ("compiled", "plain"))
    assert compiled.keys() == plain.keys()
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-3, atol=1e-3)


def test_one_part_with_frozen_batch_norm(dolls, tmp_path):
    model = tiny_model()
    args = options(dolls, tmp_path, train_only="backbone", model_name_or_path="x", batch_norm="frozen", **NO_BACKBONE)
    optimization.train_only(model, "backbone")
    optimization.prepare_batch_norm(model, args, torch.device("cpu"))
    trained = {name for name, weights in model.named_parameters() if weights.requires_grad}
    assert trained and all(name.startswith("backbone.") and weights_of_conv(model, name) for name in trained)


def weights_of_conv(model, name):
    return not isinstance(model.get_submodule(name.rpartition(".")[0]), optimization.BATCH_NORMS)


def test_gradients_are_clipped(dolls, tmp_path):
    log = tmp_path / "log"
    finish([start(arguments(dolls, tmp_path / "clipped", epochs=1, max_grad_norm=1e-9), log)], log)
    finish([start(arguments(dolls, tmp_path / "plain", epochs=1), log)], log)
    # Adam's steps do not depend on the size of gradients, but for their epsilon.
    assert loss_curve(tmp_path / "clipped") != loss_curve(tmp_path / "plain")


@pytest.mark.parametrize(
    "given, message",
    [
        ({"ema_decay": 1}, "--ema_decay must be at least 0 and below 1, but got 1.0"),
        ({"gradient_accumulation_steps": 0}, "--gradient_accumulation_steps must be positive, but got 0"),
        ({"lr_scheduler": "sawtooth"}, "invalid choice: 'sawtooth'"),
        (
            {"lr_scheduler": "cosine", "decay_epochs": (2,)},
            "--decay_epochs needs --lr_scheduler steps, but got cosine",
        ),
        ({"decay_epochs": (0,)}, "--decay_epochs must be 1 or more, as a decay comes after an epoch, but got 0"),
        ({"lr_scheduler": "cosine", "streaming": ()}, "--lr_scheduler must be steps or constant with --streaming"),
        ({"report_to": "nobody"}, "--report_to must be of the installed .*tensorboard.*, but got nobody"),
        ({"box_noise": ()}, "--box_noise needs --eval_only and --output_dir"),
        ({"private": ()}, "--private needs --push_to_hub"),
    ],
)
def test_wrong_options_are_one_line(dolls, tmp_path, capsys, given, message):
    assert train_accelerate.run(arguments(dolls, tmp_path / "out", **given)) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()
