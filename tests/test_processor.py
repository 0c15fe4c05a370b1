"""What the options take from the machine."""

import logging
import os

import pytest
import torch

from training_mtld import processor
from training_mtld.options import parse_args
from training_mtld.processor import choose_precision, default_workers, processor_flags, warn_of_slow_bfloat16

X86 = "processor : 0\nflags\t\t: fpu avx2 avx512f {}\nbugs : x\n\nprocessor : 1\nflags\t\t: fpu\n"


@pytest.fixture
def cpu(tmp_path, monkeypatch):
    """Sets the text of /proc/cpuinfo; the training is on the CPU."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    monkeypatch.setattr(processor, "CPU_FACTS", tmp_path / "cpuinfo")
    return (tmp_path / "cpuinfo").write_text


@pytest.mark.parametrize(
    "text, chosen, words",
    [
        (X86.format("avx512_bf16"), "bf16", "auto is bf16 on this processor (avx512_bf16)"),
        (X86.format("amx_bf16 avx512_bf16"), "bf16", "(amx_bf16 avx512_bf16)"),
        ("Features\t: fp asimd bf16\n", "bf16", "(bf16)"),
        (X86.format(""), "no", "auto is no on this processor (none of amx_bf16 avx512_bf16 bf16)"),
        ("", "no", "none of"),
    ],
)
def test_auto_is_bfloat16_where_the_processor_has_it_and_says_so(cpu, caplog, text, chosen, words):
    cpu(text)
    assert choose_precision("auto") == chosen
    assert words in caplog.text


def test_auto_is_bfloat16_on_a_gpu_that_has_it(cpu, monkeypatch):
    cpu("")
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for has_it, chosen in ((True, "bf16"), (False, "no")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has_it=has_it, **_: has_it)
        assert choose_precision("auto") == chosen


def test_other_precisions_stay(cpu):
    assert [choose_precision(name) for name in (None, "no", "bf16")] == [None, "no", "bf16"]


def test_slow_bfloat16_is_warned_of_with_the_flags_that_are_missing(cpu, caplog):
    cpu(X86.format(""))
    warn_of_slow_bfloat16("cuda", "bf16")
    warn_of_slow_bfloat16("cpu", "no")
    assert not caplog.records
    warn_of_slow_bfloat16("cpu", "bf16")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "avx512_bf16" in caplog.text and "--mixed_precision no trains in float32" in caplog.text


@pytest.mark.parametrize("text", [X86.format("avx512_bf16"), ""])
def test_no_warning_where_the_processor_has_it_or_does_not_tell(cpu, caplog, text):
    cpu(text)
    warn_of_slow_bfloat16("cpu", "bf16")
    assert not caplog.records
    assert (processor_flags() is None) == (not text)


@pytest.mark.parametrize("cores, processes, workers", [(1, 1, 1), (2, 1, 2), (64, 1, 16), (16, 4, 4), (2, 8, 1)])
def test_a_worker_a_core_shared_by_the_processes(tmp_path, monkeypatch, cores, processes, workers):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert default_workers() == workers
    words = ["--data_dir", str(tmp_path), "--output_dir", str(tmp_path / "out")]
    assert parse_args(words).num_workers == workers
