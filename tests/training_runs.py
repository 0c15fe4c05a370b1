"""Trainings of seconds in processes of their own, for the tests that kill them or spread them over several."""

import json
import multiprocessing
import os
import signal
import socket
import sys
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

NAMES = ["right_eye", "left_eye", "nose_tip", "mouth_0", "mouth_1"]
TINY = {  # a network for seconds, by the options of train_accelerate.py
    "backbone": "test_resnet.r160_in1k",
    "random_backbone": (),
    "image_size": 64,
    "config": ("hidden_size=16", "num_attention_heads=2", "intermediate_size=16", "decoder_intermediate_size=16"),
    "num_workers": 0,
    "mixed_precision": "no",
    "save_minutes": 0,
}
# The libraries are imported once, in a server that every training is forked from.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["train_accelerate", "training_mtld.training"])


def make_dolls(folder: Path, train: int = 24, test: int = 5) -> Path:
    """Five named points on pictures of noise, a third to a half of them not annotated, and the YAML. Returns it."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        (folder / split).mkdir(parents=True)
        rows = [_make_doll(folder / split, f"{index}.png", rng) for index in range(count)]
        (folder / split / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    facts = {"landmarks": NAMES, "flip_pairs": [NAMES[:2], NAMES[3:]], "normalizer": "box", "licence": "CC0"}
    (folder / "landmarks.yaml").write_text(yaml.safe_dump(facts))
    return folder / "landmarks.yaml"


def _make_doll(folder: Path, name: str, rng) -> dict:
    Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(folder / name)
    points = rng.uniform([6, 6], [58, 42], (5, 2)).round(2).tolist()
    for index in rng.permutation(5)[: rng.integers(0, 4)]:
        points[index] = None
    return {"file_name": name, "landmarks": points}


def arguments(dataset: Path, out: Path, **options) -> list[str]:
    """A command line for seconds; `options` replace or add to it, None removes."""
    given = {
        "dataset": dataset,
        "output_dir": out,
        **TINY,
        "epochs": 3,
        "batch_size": 4,
        "picture_every": 0,
    } | options
    return as_words(given)


def as_words(options: dict) -> list[str]:
    """Options of a command by name: None is left out, a tuple has several values."""
    words = []
    for name, value in options.items():
        if value is not None:
            words += [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]
    return words


def start(words: list[str], log: Path, environment: dict | None = None) -> multiprocessing.Process:
    process = PROCESSES.Process(target=_train, args=(words, str(log), environment or {}))
    process.start()
    return process


def start_all(words: list[str], log: Path, count: int) -> list[multiprocessing.Process]:
    """The same training on `count` processes, as `accelerate launch` starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        start(words, log.with_suffix(f".{rank}"), {**shared, "RANK": rank, "LOCAL_RANK": rank})
        for rank in range(count)
    ]


def finish(processes: list[multiprocessing.Process], log: Path, status: int = 0):
    for process in processes:
        process.join(120)
        assert process.exitcode == status, log.parent.joinpath(log.name).read_text() if log.exists() else process


def _train(words: list[str], log: str, environment: dict):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where the tests run under nohup
    import train_accelerate  # in the child, where the server has it

    multiprocessing.set_start_method("fork", force=True)  # for the loaders, as in any other process on Linux
    os.setpgrp()  # of its own, for signals to all of a training
    os.environ.update({"ACCELERATE_USE_CPU": "1", **{name: str(value) for name, value in environment.items()}})
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = open(log, "w", buffering=1)
    sys.exit(train_accelerate.run(words))


def assert_same_weights(first: Path, second: Path):
    one, other = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def loss_curve(out: Path, name: str = "loss") -> list[float]:
    events = EventAccumulator(str(out / "logs"))
    events.Reload()
    return [event.value for event in events.Scalars(name)]


def scores(out: Path) -> dict:
    return json.loads((out / "evaluation" / "scores.json").read_text())["scores"]
