"""What people who type a command do not see."""

import pytest
from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
from huggingface_hub.utils import logging as hub_logging
from transformers.utils import logging as transformers_logging

import train_accelerate
from modeling_mtld import benchmark
from training_mtld.tables.__main__ import main as make_tables


@pytest.fixture
def told(caplog):
    """Messages of transformers and the Hub's client, which tell all at first, with progress bars."""
    libraries = (transformers_logging, hub_logging)
    former = [library.get_verbosity() for library in libraries]
    for library in libraries:
        library.set_verbosity_warning()
        library.get_logger().addHandler(caplog.handler)
    transformers_logging.enable_progress_bar()
    yield caplog
    for library, level in zip(libraries, former):
        library.set_verbosity(level)
        library.get_logger().removeHandler(caplog.handler)
    enable_progress_bars()


@pytest.mark.parametrize(
    "command, words",
    [
        (benchmark.main, ["--backbone", "test_resnet", "--image_size", "64", "--runs", "1", "--threads", "1"]),
        (
            train_accelerate.run,
            ["--data_dir", "nowhere", "--output_dir", "nowhere"],
        ),  # wrong, but not before the libraries
        (make_tables, ["3"]),
    ],
    ids=["benchmark", "training", "tables"],
)
def test_libraries_do_not_tell_of_their_own_work(told, capsys, monkeypatch, command, words):
    monkeypatch.setattr("signal.signal", lambda *_: None)
    try:
        command(words)
    except SystemExit:  # words are missing
        pass
    transformers_logging.get_logger("transformers.models").warning("attn_implementation='eager' is not propagated")
    hub_logging.get_logger("huggingface_hub.utils").warning("You are sending unauthenticated requests")
    assert told.messages == [] and "propagated" not in capsys.readouterr().err
    assert are_progress_bars_disabled() and not transformers_logging.is_progress_bar_enabled()
