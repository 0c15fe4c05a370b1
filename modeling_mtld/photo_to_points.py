"""From a photo's file to landmarks: the stages of the pipeline, the runtime without PyTorch, and other programs."""

import contextlib
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from .export import DETECTOR
from .face_detection_mtld import detect_faces
from .pipeline_mtld import FacialLandmarkDetectionPipeline
from .turns import WARM_UP

STAGES = ("read", "detect", "crop", "network", "post-process")


@torch.inference_mode()
def time_stages(pipe: FacialLandmarkDetectionPipeline, path: str, detector: str | None = None) -> dict[str, float]:
    """Milliseconds of each of `STAGES` for one photo, with one crop of each face. A photo without a face ends after
    "detect"."""
    clock, times = _Clock(), {}
    photo = pipe.read(path)
    times["read"] = clock()
    boxes = [pipe.box_around(box) for box in detect_faces(photo, detector).boxes]
    times["detect"] = clock()
    if boxes:
        inputs = pipe.image_processor(photo, boxes=boxes, return_tensors="pt")
        times["crop"] = clock()
        outputs = pipe.model(pixel_values=inputs["pixel_values"].to(pipe.device))
        times["network"] = clock()
        pipe.image_processor.post_process_landmark_detection(outputs, inputs)
        times["post-process"] = clock()
    return times


class _Clock:
    """Milliseconds since the last call."""

    def __init__(self):
        self.last = time.perf_counter()

    def __call__(self) -> float:
        now = time.perf_counter()
        self.last, last = now, self.last
        return 1000 * (now - last)


class Peer:
    """Another program: it reads a photo's path from each line of its input, and prints a line once it has the points.

    Args:
        command: starts it; split as a shell does.
    """

    def __init__(self, command: str):
        self.command = command
        try:
            self.process = subprocess.Popen(
                shlex.split(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
            )
        except OSError as error:
            raise ValueError(f"--peer must be a command, but {command!r} cannot be started: {error}") from None

    def __call__(self, path: str) -> str:
        """Its line for a photo. Raises ValueError if it ended."""
        try:
            self.process.stdin.write(f"{path}\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise ValueError(f"--peer must answer each path with a line, but {self.command!r} ended")
        return line.rstrip()

    def stop(self):
        with contextlib.suppress(BrokenPipeError):  # of a program that ended before
            self.process.stdin.close()
        self.process.wait(timeout=10)


def programs(
    pipe: FacialLandmarkDetectionPipeline,
    detector: str | None,
    exported: Sequence[Path],
    peers: Mapping[str, Peer],
    threads: int,
) -> dict[str, Callable[[str], object]]:
    """What finds the points of a photo at a path: the pipeline, the runtime without PyTorch, and `peers`."""
    calls = {"pipeline": partial(pipe, detector=detector)}
    for folder in exported:
        if (folder / DETECTOR).is_file():
            from .onnx_landmarks import Landmarks

            calls[f"{folder.name} with onnx_landmarks.py"] = Landmarks(str(folder / "model.onnx"), threads=threads)
    return calls | dict(peers)


def time_photos(
    paths: Sequence[str], stages: Callable[[str], dict], calls: Mapping[str, Callable], runs: int
) -> dict[str, list[float]]:
    """Milliseconds a photo of each stage and of each of `calls`, which take turns, after `WARM_UP` runs."""
    times: dict[str, list[float]] = {}
    for run in range(runs + WARM_UP):
        for path in paths:
            measured = stages(path)
            for name, call in calls.items():
                clock = _Clock()
                call(path)
                measured[name] = clock()
            for name, ms in measured.items() if run >= WARM_UP else ():
                times.setdefault(name, []).append(ms)
    return times
