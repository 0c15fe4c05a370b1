"""What is loaded from the Hub does not keep anyone waiting where there is no network, or a download stalls."""

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub.errors import EntryNotFoundError
from training_runs import arguments, make_dolls

import train_accelerate
from modeling_mtld import detect, hub_reach_mtld
from modeling_mtld.hub_reach_mtld import fetch, is_local, within


@pytest.fixture
def no_network(monkeypatch):
    def never(*_, **__):
        raise AssertionError("the network was used")

    monkeypatch.setattr(hub_reach_mtld.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub_reach_mtld, "hub_answers", lambda: False)
    monkeypatch.setattr(hub_reach_mtld, "hf_hub_download", never)


@pytest.fixture
def network(monkeypatch):
    monkeypatch.setattr(hub_reach_mtld.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub_reach_mtld, "hub_answers", lambda: True)


def test_without_a_network_the_cache_is_enough(no_network, monkeypatch, tmp_path):
    cached = {"model.bin": str(tmp_path / "model.bin")}
    monkeypatch.setattr(hub_reach_mtld, "try_to_load_from_cache", lambda repo, name, **_: cached.get(name))
    assert fetch("org/name", ["model.safetensors", "model.bin"]) == cached["model.bin"]
    assert is_local("org/name", "model.bin") and is_local(str(tmp_path))
    with pytest.raises(ValueError, match="org/name is not in the cache and the Hub cannot be reached"):
        is_local("org/name")


def test_with_a_network_the_first_file_that_there_is(network, monkeypatch):
    def download(repo, name, revision, tqdm_class):
        if name == "model.safetensors":
            raise EntryNotFoundError("404")
        return f"{repo}/{name}@{revision}"

    monkeypatch.setattr(hub_reach_mtld, "hf_hub_download", download)
    assert fetch("org/name", ["model.safetensors", "model.bin"], "main") == "org/name/model.bin@main"
    assert not is_local("org/name")


def test_a_download_that_stalls_is_given_up_and_a_slow_one_is_not(network, monkeypatch):
    def download(repo, name, revision, tqdm_class):
        with tqdm_class(total=10) as bar:
            for _ in range(6 if name == "slow" else 1):
                time.sleep(0.1)
                bar.update(1)
            time.sleep(0 if name == "slow" else 5)
        return name

    monkeypatch.setattr(hub_reach_mtld, "hf_hub_download", download)
    monkeypatch.setattr(hub_reach_mtld, "STALL_SECONDS", 0.4)
    assert fetch("org/name", ["slow"]) == "slow"
    start = time.monotonic()
    with pytest.raises(TimeoutError, match="no answer within 0.4 s"):
        fetch("org/name", ["stalled"])
    assert time.monotonic() - start < 3


def test_detect_says_at_once_that_there_is_no_such_model(no_network):
    with pytest.raises(ValueError, match="--model org/nothing cannot be loaded: org/nothing is not in the cache and"):
        detect.load_pipeline("org/nothing", "cpu")


@pytest.mark.parametrize("status, answers", [(200, True), (404, True), (501, True), (502, False), (503, False)])
def test_a_proxy_that_does_not_reach_the_hub_is_no_answer(monkeypatch, status, answers):
    session = SimpleNamespace(head=lambda *_, **__: SimpleNamespace(status_code=status))
    monkeypatch.setattr(hub_reach_mtld, "get_session", lambda: session)
    assert hub_reach_mtld.hub_answers() == answers


def test_an_error_in_time_is_raised():
    with pytest.raises(KeyError, match="x"):
        within(5, lambda: {}["x"])


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"random_backbone": None},
            "backbone weights of 'test_resnet.r160_in1k' from the Hub: timm/test_resnet.r160_in1k is not in the cache "
            "and the Hub cannot be reached; --backbone_checkpoint FILE takes timm's weights from a file, and "
            "--random_backbone trains without",
        ),
        (
            {"random_backbone": None, "backbone": None, "config": None, "model_name_or_path": "org/nothing"},
            "--model_name_or_path must be an MTLD checkpoint, but got org/nothing: org/nothing is not in the cache "
            "and the Hub cannot be reached",
        ),
        (
            {"random_backbone": None, "data_dir": "nowhere"},
            "data_dir must be an existing folder, but got {root}/nowhere",
        ),
    ],
)
def test_a_training_says_what_it_lacks_and_looks_at_the_data_first(
    no_network, tmp_path, capsys, monkeypatch, options, message
):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    monkeypatch.setattr(hub_reach_mtld, "try_to_load_from_cache", lambda *_, **__: None)
    dolls = make_dolls(tmp_path / "dolls")
    assert train_accelerate.run(arguments(dolls, tmp_path / "out", **options)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message.format(root=Path.cwd()) in line
