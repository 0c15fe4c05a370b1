"""`python -m modeling_mtld.benchmark`: size of networks, and how much slower they are than their bare timm trunks."""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from .auto_mtld import write_whole
from .backbone_mtld import build_backbone
from .configuration_mtld import MTLDConfig
from .modeling_mtld import MTLDForFacialLandmarkDetection
from .quiet import quiet_libraries

WARM_UP = 3  # runs that do not count
CPU_FACTS = Path("/proc/cpuinfo")


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


@torch.inference_mode()
def time_in_turns(networks: dict, pixel_values: torch.Tensor, runs: int) -> dict[str, float]:
    """Median milliseconds of each network. They are timed alternately to share background load."""
    times = {name: [] for name in networks}
    for run in range(runs + WARM_UP):
        for name, network in networks.items():
            _wait_for(pixel_values.device)
            start = time.perf_counter()
            network(pixel_values)
            _wait_for(pixel_values.device)
            if run >= WARM_UP:
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def _wait_for(device: torch.device):
    if device.type == "cuda":  # which computes on while Python goes on
        torch.cuda.synchronize(device)


def measure_speed(config: MTLDConfig, device: str, batch_size: int, runs: int) -> dict[str, float]:
    """Medians in float32: `model_ms` and `trunk_ms` a batch, their `ratio`, and faces a second.

    The trunk is as timm makes it. The model keeps the weights of its own one channels-last.
    """
    model = MTLDForFacialLandmarkDetection(config).eval().to(device)
    trunk = build_backbone(config.backbone_config, config.timm_kwargs)._backbone.eval().to(device)
    pixel_values = torch.randn(batch_size, 3, config.image_size, config.image_size, device=device)
    medians = time_in_turns({"model": model, "trunk": trunk}, pixel_values, runs)
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


def cpu_name() -> str:
    """As the processor calls itself; where that cannot be read, its architecture."""
    lines = CPU_FACTS.read_text().splitlines() if CPU_FACTS.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), "") or platform.processor() or platform.machine()


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m modeling_mtld.benchmark",
        description="Counts parameters and multiply-adds of networks, and times them and their bare backbones in "
        "turns, in float32 on the CPU and on the GPU if there is one. Prints the medians.",
    )
    parser.add_argument("--backbone", nargs="+", default=["resnet18"], help="timm models (default: resnet18)")
    parser.add_argument("--num_landmarks", type=int, default=68, help="(default: %(default)s)")
    parser.add_argument("--image_size", type=int, default=256, help="side of the crop (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="CPU cores (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=100, help="of each (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write all of it there")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None):
    arguments = parse_arguments(argv)
    torch.set_num_threads(arguments.threads)
    quiet_libraries()
    measured = measure_networks(
        arguments.backbone,
        arguments.num_landmarks,
        arguments.image_size,
        arguments.batch_size,
        arguments.runs,
        watch=lambda status: print(status, file=sys.stderr),
    )
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
    if arguments.json:
        write_whole(Path(arguments.json), (json.dumps(measured, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
