"""What a training shows of its progress."""

import io
import os

import pytest

from training_mtld import tracking

MEANS = {"loss": 12.3456, "coordinate": 1.2, "heatmap": 1.2, "structure": 1.2, "scale": 1.2, "visibility": 1.2}
FACTS = {"learning_rate": 3e-4, "images_per_second": 12345.0, "memory_gb": 139.9}


def draw(columns: int, monkeypatch) -> str:
    monkeypatch.setattr(tracking.shutil, "get_terminal_size", lambda *_: os.terminal_size((columns, 24)))
    stream = io.StringIO()
    bar = tracking.progress_bar(range(99999), desc="epoch 150/150", initial=88888, total=99999, file=stream)
    bar.set_postfix(tracking.progress_fields(MEANS, FACTS))
    bar.close()
    return stream.getvalue().rstrip("\n").split("\r")[-1]


@pytest.mark.parametrize("columns", [100, 250])
def test_the_bar_fits_100_columns_with_all_of_its_numbers(columns, monkeypatch):
    line = draw(columns, monkeypatch)
    assert len(line) <= 100
    for words in ("epoch 150/150", "88888/99999", "loss=12.3456", "lr=3e-04", "img/s=12345", "GB=139.9]"):
        assert words in line


def test_the_bar_fits_a_narrow_terminal(monkeypatch):
    assert len(draw(60, monkeypatch)) <= 60


def test_a_stream_of_unknown_length_has_a_bar(monkeypatch):
    stream = io.StringIO()
    with tracking.progress_bar(iter(range(3)), desc="epoch 1/2", total=None, file=stream) as bar:
        for _ in bar:
            bar.set_postfix(tracking.progress_fields(MEANS, FACTS))
    assert "epoch 1/2" in stream.getvalue() and "3/?" in stream.getvalue()
