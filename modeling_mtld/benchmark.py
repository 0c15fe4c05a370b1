"""`python -m modeling_mtld.benchmark`: how much slower a network is than its bare timm trunk, side by side."""

import argparse
import json
import statistics
import time

import torch

from .configuration_mtld import MTLDConfig
from .modeling_mtld import MTLDForFacialLandmarkDetection


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m modeling_mtld.benchmark",
        description="Times a network and its bare backbone in turns, in float32 on the CPU, and prints the medians.",
    )
    parser.add_argument("--backbone", default="resnet18", help="timm model (default: %(default)s)")
    parser.add_argument("--num_landmarks", type=int, default=68, help="(default: %(default)s)")
    parser.add_argument("--image_size", type=int, default=256, help="side of the crop (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="CPU cores (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=100, help="of each (default: %(default)s)")
    return parser.parse_args(argv)


@torch.inference_mode()
def time_in_turns(networks: dict, pixel_values: torch.Tensor, runs: int) -> dict[str, float]:
    """Median milliseconds of each network. They take turns: what else the machine does meets all."""
    times = {name: [] for name in networks}
    for run in range(runs + 3):
        for name, network in networks.items():
            start = time.perf_counter()
            network(pixel_values)
            if run >= 3:  # the first ones warm up
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def main(argv: list[str] | None = None):
    arguments = parse_arguments(argv)
    torch.set_num_threads(arguments.threads)
    config = MTLDConfig(
        backbone=arguments.backbone, num_landmarks=arguments.num_landmarks, image_size=arguments.image_size
    )
    model = MTLDForFacialLandmarkDetection(config).eval()
    pixel_values = torch.randn(arguments.batch_size, 3, arguments.image_size, arguments.image_size)
    medians = time_in_turns({"model": model, "trunk": model.backbone._backbone}, pixel_values, arguments.runs)
    print(json.dumps({f"{name}_ms": round(value, 2) for name, value in medians.items()}))
    print(f"model over trunk: {medians['model'] / medians['trunk']:.3f}")


if __name__ == "__main__":
    main()
