"""Measures how fast faces are loaded and augmented, and compares it with a plain pipeline of PIL and torchvision.

python -m dataset_scripts.throughput --data_dir 300w
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from modeling_mtld.auto_mtld import write_whole
from modeling_mtld.geometry_mtld import BOX_ENLARGEMENT
from modeling_mtld.image_processing_mtld import MTLDImageProcessor

from .augmentation import Augmentation, FaceCrops
from .loading import load_faces
from .own_data import default_data_dir, find_benchmark

BATCH_SIZE = 64
BASELINE = "PIL + torchvision"


class PlainCrops(Dataset):
    """A plain pipeline: each step by itself on a PIL image, with the ranges of `Augmentation`. It has no landmarks."""

    def __init__(self, faces: datasets.Dataset, benchmark, size: int):
        images = faces.select_columns(["image"]).cast_column("image", datasets.Image(decode=False))
        self.photos = [photo["path"] for photo in images["image"]]
        self.boxes = [benchmark.box_to_crop(face) for face in faces.select_columns(["box", "landmark_box"])]
        augmentation = Augmentation()
        self.transform = v2.Compose(
            [
                v2.Resize((size, size), antialias=True),
                v2.RandomApply(
                    [v2.RandomRotation(augmentation.rotation, v2.InterpolationMode.BILINEAR)],
                    augmentation.rotation_probability,
                ),
                v2.RandomHorizontalFlip(augmentation.flip_probability),
                v2.ColorJitter(brightness=augmentation.color, contrast=augmentation.color),
                v2.RandomApply(
                    [v2.GaussianBlur(7, (0.3, augmentation.blur_sigma * size))], augmentation.blur_probability
                ),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
                v2.RandomErasing(augmentation.occlusion_probability, (0.01, augmentation.occlusion_size**2)),
            ]
        )

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> torch.Tensor:
        image = Image.open(self.photos[index]).convert("RGB")
        box = self.boxes[index]
        side = BOX_ENLARGEMENT * max(box[2] - box[0], box[3] - box[1]) * np.random.uniform(0.8, 1.2)
        center = [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]
        x0, y0 = (round(value - side / 2) for value in center)
        return self.transform(image.crop((x0, y0, x0 + round(side), y0 + round(side))))


def measure(loader: DataLoader) -> float:
    """Images a second over all of `loader`, including the start of its workers."""
    start, count = time.perf_counter(), 0
    for batch in loader:
        count += len(batch["pixel_values"] if isinstance(batch, dict) else batch)
    return count / (time.perf_counter() - start)


def compare(pipelines: dict[str, Dataset], workers: int, repeats: int) -> dict[str, list[float]]:
    """Images a second of each pipeline in each repeat. The pipelines alternate to share background load."""
    speeds: dict[str, list[float]] = {name: [] for name in pipelines}
    for _ in range(repeats):
        for name, crops in pipelines.items():
            speeds[name].append(measure(DataLoader(crops, BATCH_SIZE, num_workers=workers)))
    return speeds


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        benchmark = find_benchmark(options.dataset)
        data_dir = options.data_dir or default_data_dir(options.dataset)
        faces = load_faces(benchmark, data_dir, options.split)
        processor = MTLDImageProcessor(size=options.image_size)
        pipelines = {
            "ours": FaceCrops(faces, processor, benchmark, Augmentation()),
            BASELINE: PlainCrops(faces, benchmark, options.image_size),
        }
        torch.set_num_threads(1)  # as in each worker
        facts = {"dataset": benchmark.name, "faces": len(faces), "image_size": options.image_size}
        report = {**facts, "repeats": options.repeats, "workers": {}}
        for workers in options.workers:
            speeds = compare(pipelines, workers, options.repeats)
            speed, baseline = (statistics.median(values) for values in speeds.values())
            ratio = statistics.median(first / second for first, second in zip(*speeds.values()))
            speeds_text = f"ours {speed:.0f}, {BASELINE} {baseline:.0f} images/s"
            print(f"{workers} workers: {speeds_text}, ratio {ratio:.2f}", flush=True)
            report["workers"][str(workers)] = {"ours": speed, "plain": baseline, "ratio": ratio}
        if options.json:
            write_whole(Path(options.json), (json.dumps(report, indent=2) + "\n").encode())
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dataset_scripts.throughput", description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", default="300w", metavar="NAME|YAML", help="(default: %(default)s)")
    parser.add_argument("--data_dir", metavar="DIR", help="official folders, with a file for each photo")
    parser.add_argument("--split", default="train", help="(default: %(default)s)")
    parser.add_argument("--image_size", type=int, default=256, help="side of the crops (default: %(default)s)")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="(default: 0 1 2)")
    parser.add_argument(
        "--repeats", type=int, default=5, help="passes of each pipeline, for the medians (default: %(default)s)"
    )
    parser.add_argument("--json", metavar="FILE", help="write the medians to this file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
