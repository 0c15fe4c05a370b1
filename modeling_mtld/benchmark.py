"""`python -m modeling_mtld.benchmark`: size of networks, and how much slower they are than their bare timm trunks; a
checkpoint in other runtimes; and from a photo to points, beside other programs."""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from .auto_mtld import first_line, write_whole
from .backbone_mtld import build_backbone
from .configuration_mtld import MTLDConfig
from .detect import CHECKPOINT, load_pipeline
from .modeling_mtld import MTLDForFacialLandmarkDetection
from .photo_to_points import Peer, programs, time_photos, time_stages
from .quiet import quiet_libraries
from .runtimes import PRECISIONS, TRUNK, exported_calls, torch_calls
from .turns import cpu_name, machine, markdown, summary, time_in_turns


def count_costs(config: MTLDConfig) -> dict[str, int]:
    """Parameters of a network and multiply-adds for one face, without computing anything.

    `parameters` counts the confidences, not the heatmap branch, which is for training alone.
    """
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        # The fused attention is unknown to the counter.
        model = MTLDForFacialLandmarkDetection._from_config(config, attn_implementation="eager")
        model.eval().requires_grad_(False)
        model(torch.zeros(1, 3, config.image_size, config.image_size))
    return {"parameters": model.num_parameters(), "multiply_adds": counter.get_total_flops() // 2}


def measure_speed(config: MTLDConfig, device: str, batch_size: int, runs: int) -> dict[str, float]:
    """Medians in float32: `model_ms` and `trunk_ms` a batch, their `ratio`, and faces a second.

    The trunk is as timm makes it. The model keeps the weights of its own one channels-last.
    """
    model = MTLDForFacialLandmarkDetection(config).eval().to(device)
    trunk = build_backbone(config.backbone_config, config.timm_kwargs)._backbone.eval().to(device)
    pixel_values = torch.randn(batch_size, 3, config.image_size, config.image_size, device=device)
    calls = {"model": partial(model, pixel_values), "trunk": partial(trunk, pixel_values)}
    medians = {name: statistics.median(values) for name, values in time_in_turns(calls, runs, device).items()}
    return {
        **{f"{name}_ms": value for name, value in medians.items()},
        "ratio": medians["model"] / medians["trunk"],
        "images_per_second": 1000 * batch_size / medians["model"],
    }


def measure_networks(
    backbones: Sequence[str],
    num_landmarks: int,
    image_size: int,
    batch_size: int = 1,
    runs: int = 100,
    watch: Callable[[str], None] = lambda status: None,
) -> dict:
    """Costs and speeds of networks on this machine: on its CPU, with torch's number of threads, and on its GPU.

    Args:
        watch: called with a line before and after each network is timed on each device.

    Returns:
        `num_landmarks`, `image_size`, `batch_size`, `runs`, `threads`; `cpu` and `gpu`, their names, None without a
        GPU; `networks`: by backbone what `count_costs` returns, and in `cpu` and `gpu` what `measure_speed` does.
    """
    devices = {"cpu": "cpu", "gpu": "cuda" if torch.cuda.is_available() else None}
    networks = {}
    for backbone in backbones:
        config = MTLDConfig(backbone=backbone, num_landmarks=num_landmarks, image_size=image_size)
        networks[backbone] = {**count_costs(config), **dict.fromkeys(devices)}
        for name, device in devices.items():
            if device:
                watch(f"{backbone} on the {name.upper()}, {runs} runs")
                networks[backbone][name] = measure_speed(config, device, batch_size, runs)
                watch(f"{backbone} on the {name.upper()}: {networks[backbone][name]['images_per_second']:.1f} faces/s")
    return {
        "num_landmarks": num_landmarks,
        "image_size": image_size,
        "batch_size": batch_size,
        "runs": runs,
        "threads": torch.get_num_threads(),
        "cpu": cpu_name(),
        "gpu": torch.cuda.get_device_name() if devices["gpu"] else None,
        "networks": networks,
    }


def measure_runtimes(arguments: argparse.Namespace) -> list[dict]:
    """Rows of `summary`: a checkpoint's network in PyTorch and as it was exported, in turns with its bare trunk."""
    device = arguments.device
    model = load_pipeline(arguments.model, device).model
    calls = torch_calls(model, arguments.batch_size, device, arguments.precision, arguments.compile)
    for folder in arguments.exported:
        calls |= exported_calls(folder, arguments.batch_size, arguments.threads, arguments.precision)
    return summary(time_in_turns(calls, arguments.runs, device), TRUNK)


def measure_photos(arguments: argparse.Namespace) -> list[dict]:
    """Rows of `summary`: from a photo to points, a photo at a time, in turns with the bare trunk."""
    pipe = load_pipeline(arguments.model, arguments.device)
    peers = {name: Peer(command) for name, _, command in (peer.partition("=") for peer in arguments.peer)}
    try:
        calls = programs(pipe, arguments.detector, arguments.exported, peers, arguments.threads)
        trunk = torch_calls(pipe.model, 1, arguments.device)[TRUNK]
        calls[TRUNK] = lambda _: trunk()
        with torch.inference_mode():
            stages = partial(time_stages, pipe, detector=arguments.detector)
            return summary(time_photos(arguments.photos, stages, calls, arguments.runs), TRUNK)
    finally:
        for peer in peers.values():
            peer.stop()


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m modeling_mtld.benchmark",
        description="Times networks in turns with their bare timm trunks, and prints medians. Without --exported, "
        "--precision and --photos: parameters, multiply-adds and time of new networks in float32.",
        epilog='A peer is a program in an environment of its own: `--peer "dlib=/venv/bin/python dlib_points.py"`. '
        "It reads a path a line and prints a line for each.",
    )
    parser.add_argument("--backbone", nargs="+", default=["resnet18"], help="timm models (default: resnet18)")
    parser.add_argument("--num_landmarks", type=int, default=68, help="(default: %(default)s)")
    parser.add_argument("--image_size", type=int, default=256, help="side of the crop (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="CPU cores (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=100, help="of each (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write all of it there")
    released = parser.add_argument_group("a checkpoint's runtimes and photos")
    released.add_argument("--model", default=str(CHECKPOINT), metavar="DIR_OR_ID", help="(default: the bundled one)")
    released.add_argument("--device", default="cpu", help="of PyTorch (default: %(default)s)")
    released.add_argument("--exported", nargs="+", type=Path, default=[], metavar="DIR", help="folders of export")
    released.add_argument("--precision", nargs="+", choices=PRECISIONS, help="of PyTorch and OpenVINO")
    released.add_argument("--compile", action="store_true", help="time the network by torch.compile too")
    released.add_argument("--photos", nargs="+", metavar="PHOTO", help="time each stage from these files to points")
    released.add_argument("--detector", help="as of the pipeline")
    released.add_argument(
        "--peer", nargs="+", default=[], metavar="NAME=COMMAND", help="other programs, with --photos"
    )
    return parser.parse_args(argv)


def print_networks(measured: dict):
    for backbone, network in measured["networks"].items():
        print(
            f"{backbone}: {network['parameters'] / 1e6:.1f} M parameters, "
            f"{network['multiply_adds'] / 1e9:.2f} G multiply-adds"
        )
        for device in ("cpu", "gpu"):
            if network[device]:
                speed = network[device]
                print(
                    f"  {measured[device]}: {speed['model_ms']:.2f} ms, trunk {speed['trunk_ms']:.2f} ms, "
                    f"model over trunk: {speed['ratio']:.3f}, {speed['images_per_second']:.1f} faces/s"
                )


def run(arguments: argparse.Namespace) -> dict:
    """Measures, prints and returns what `--json` writes."""
    if not (arguments.exported or arguments.precision or arguments.photos):
        sizes = (arguments.num_landmarks, arguments.image_size, arguments.batch_size, arguments.runs)
        measured = measure_networks(arguments.backbone, *sizes, watch=partial(print, file=sys.stderr))
        print_networks(measured)
        return measured
    arguments.precision = arguments.precision or ["float32"]
    rows = measure_photos(arguments) if arguments.photos else measure_runtimes(arguments)
    facts = machine() | {"threads": arguments.threads, "batch_size": arguments.batch_size, "runs": arguments.runs}
    print(f"{facts['cpu']} ({' '.join(facts['flags'])}), {facts['threads']} threads, {facts['runs']} runs in turns\n")
    print(markdown(rows, TRUNK))
    return facts | {"rows": rows}


def main(argv: list[str] | None = None) -> int:
    """The command. Returns the exit status: 0, or 2 after one line on stderr where it cannot be done."""
    arguments = parse_arguments(argv)
    torch.set_num_threads(arguments.threads)
    quiet_libraries()
    try:
        measured = run(arguments)
    except (ValueError, OSError) as error:
        print(f"benchmark: {first_line(error)}", file=sys.stderr)
        return 2
    if arguments.json:
        write_whole(Path(arguments.json), (json.dumps(measured, indent=2) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
