"""Detection of faces, measured as people use it: the pipeline gets photos without boxes.

    python -m training_mtld.detection --model space/checkpoints/mtld-r18 --dataset 300w --data_dir 300w \\
        --split common --no_faces photos_without_faces

For each data set it prints how many faces are missed, how many others are reported, and the NME of the detected faces
beside their NME with annotated boxes. It prints both kinds of errors for each threshold of a face's score, and the
constants of `modeling_mtld/yunet_mtld.py` as these faces would have them. `--write` saves the best threshold in the
checkpoint's configuration, where the pipeline reads it. Use photos that the network was not trained on.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from tqdm.auto import tqdm

from dataset_scripts import BENCHMARKS, find_benchmark, load_faces
from dataset_scripts.benchmark_facts import subset_names, subsets_of
from dataset_scripts.loading import select_images
from modeling_mtld.auto_mtld import write_whole
from modeling_mtld.detect import load_pipeline
from modeling_mtld.face_detection_mtld import detect_faces, load_detector
from modeling_mtld.geometry_mtld import landmark_box
from modeling_mtld.photo_mtld import load_rgb
from modeling_mtld.yunet_mtld import BOX_SHIFT, BOX_SIDE

from .evaluation.scores import errors_of

MAX_DISTANCE = 0.35  # of a detected face's centre from the annotated one, over the side of the annotated box
SMALL_PHOTO = 256  # pixels; a smaller photo is a crop of a face, and is pasted into a photo without faces
SCENE_SIDE = 640  # longer side of that photo, pixels
THRESHOLDS = np.arange(0.30, 0.801, 0.01)


@dataclass
class Result:
    """What was detected in the photos of a set or a subset.

    Attributes:
        scores: of each annotated face, 0 where it was missed.
        others: scores of reported faces that are not annotated.
        errors, true_errors: (N,) NME of the faces that were detected, and of the same with annotated boxes.
        boxes: for each detected face its box's shift (x, y) and side, over the side of the annotated box.
    """

    scores: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    true_errors: list[float] = field(default_factory=list)
    boxes: list[np.ndarray] = field(default_factory=list)

    def row(self, name: str, threshold: float) -> str:
        scores = np.array(self.scores)
        kept = scores[scores > 0] >= threshold
        errors, true_errors = (100 * np.array(values)[kept].mean() for values in (self.errors, self.true_errors))
        others = (np.array(self.others) >= threshold).sum()
        missed = 100 * (scores < threshold).mean()
        return f"| {name} | {len(scores)} | {missed:.1f} | {others} | {errors:.3f} | {true_errors:.3f} |"


class Evaluation:
    """Photos through the pipeline, without a threshold of the score.

    Attributes:
        results: by the name of the set or subset.
        no_faces: the scores of faces reported in each photo without faces.
    """

    def __init__(self, pipe, detector, scenes: list[np.ndarray]):
        self.pipe, self.detector, self.scenes = pipe, detector, scenes
        self.results: dict[str, Result] = {}
        self.no_faces = [[face["score"] for face in self._faces(scene)[1]] for scene in tqdm(scenes, desc="no faces")]
        self._random = np.random.default_rng(0)

    def add(self, face: dict, benchmark, name: str):
        """Adds an annotated face of `load_faces`."""
        photo = np.asarray(face["image"].convert("RGB"))
        landmarks = np.asarray(face["landmarks"], dtype=np.float64)
        if max(photo.shape) < SMALL_PHOTO and self.scenes:
            photo, landmarks = self._paste(photo, landmarks)
        subsets = np.array(subset_names(benchmark))[subsets_of(face, benchmark)]
        results = [self.results.setdefault(key, Result()) for key in (name, *(f"{name}, {key}" for key in subsets))]
        boxes, faces = self._faces(photo)
        truth = landmark_box(landmarks)
        side = (truth[2:] - truth[:2]).max()
        offsets = [(_center(box) - _center(truth)) / side for box in map(_box_of, faces)]
        nearest = min(range(len(faces)), key=lambda index: np.linalg.norm(offsets[index]), default=None)
        is_detected = nearest is not None and np.linalg.norm(offsets[nearest]) < MAX_DISTANCE
        others = [face["score"] for index, face in enumerate(faces) if not is_detected or index != nearest]
        for result in results:
            result.others += others
            result.scores.append(faces[nearest]["score"] if is_detected else 0.0)
            if is_detected:
                (true_face,) = self.pipe(photo, boxes=[self.pipe.box_around(truth)])
                result.errors.append(_nme(faces[nearest], landmarks, benchmark, truth))
                result.true_errors.append(_nme(true_face, landmarks, benchmark, truth))
                box = boxes[nearest]
                result.boxes.append(np.array([*(_center(box) - _center(truth)), box[2] - box[0]]) / side)

    def _faces(self, photo: np.ndarray) -> tuple[list[np.ndarray], list[dict]]:
        """The boxes of the detector and their faces."""
        height, width = photo.shape[:2]
        boxes, scores, _ = detect_faces(photo, self.detector)
        in_photo = (boxes[:, 2:] > -0.5).all(axis=1) & (boxes[:, :2] < [width - 0.5, height - 0.5]).all(axis=1)
        boxes, scores = boxes[in_photo], scores[in_photo]
        faces = self.pipe(photo, detector=lambda _: (boxes, scores), min_score=0.0, quarter_turns=False)
        return list(boxes), faces

    def _paste(self, photo: np.ndarray, landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The photo at a random place of a photo without faces, with soft edges."""
        scene = self.scenes[self._random.integers(len(self.scenes))].copy()
        height, width = photo.shape[:2]
        left, top = (self._random.integers(0, size + 1) for size in (scene.shape[1] - width, scene.shape[0] - height))
        edge = round(0.08 * min(height, width))
        mask = np.zeros((height, width, 1), np.float32)
        mask[edge:-edge, edge:-edge] = 1
        mask = cv2.GaussianBlur(mask, (0, 0), edge / 2)[..., None]
        area = scene[top : top + height, left : left + width]
        area[:] = mask * photo + (1 - mask) * area
        return scene, landmarks + [left, top]

    def errors_at(self, threshold: float) -> tuple[float, float]:
        """The share of missed faces, the mean over sets or their subsets, and faces for each photo without faces."""
        last = {name: result for name, result in self.results.items() if not self._has_subsets(name)}
        missed = np.mean([np.mean(np.array(result.scores) < threshold) for result in last.values()])
        return missed, np.mean([np.sum(np.array(scores) >= threshold) for scores in self.no_faces] or [0])

    def _has_subsets(self, name: str) -> bool:
        return any(other.startswith(f"{name}, ") for other in self.results)

    def best_threshold(self) -> float:
        """The threshold with the lowest sum of `errors_at`, the middle one of several."""
        sums = np.array([sum(self.errors_at(threshold)) for threshold in THRESHOLDS])
        best = THRESHOLDS[sums <= sums.min() + 1e-9]
        return round(float(best[len(best) // 2]), 2)


def _center(box) -> np.ndarray:
    return (np.asarray(box)[:2] + np.asarray(box)[2:]) / 2


def _box_of(face: dict) -> np.ndarray:
    return np.array(list(face["box"].values()))


def _nme(face: dict, landmarks: np.ndarray, benchmark, box: np.ndarray) -> float:
    points = np.array([[mark["x"], mark["y"]] for mark in face["landmarks"]])
    values = {"landmarks": points[None], "labels": landmarks[None], "boxes": box[None]}
    return float(errors_of(values, benchmark)[0])


def report(evaluation: Evaluation, threshold: float) -> Iterator[str]:
    """The lines of the tables, in Markdown."""
    yield "| set | faces | missed (%) | others | NME detected (%) | NME with boxes (%) |\n|---|--:|--:|--:|--:|--:|"
    for name, result in evaluation.results.items():
        yield result.row(name, threshold)
    yield "\n| threshold | missed (%) | faces a photo without faces |\n|--:|--:|--:|"
    for limit in np.unique([*THRESHOLDS[::5], threshold]):
        missed, false = evaluation.errors_at(limit)
        yield f"| {limit:.2f} | {100 * missed:.1f} | {false:.3f} |"
    boxes = np.array([box for result in evaluation.results.values() for box in result.boxes])
    if len(boxes):
        side = BOX_SIDE / np.median(boxes[:, 2])
        shift = BOX_SHIFT - np.median(boxes[:, 1] / boxes[:, 2]) * BOX_SIDE
        spread = ", ".join(f"{mean:.3f} +- {std:.3f}" for mean, std in zip(boxes.mean(axis=0), boxes.std(axis=0)))
        yield f"\nboxes over the annotated side: shift x, shift y, side {spread}"
        yield f"these faces would have BOX_SIDE = {side:.3f}, BOX_SHIFT = {shift:.3f}"


def read_scenes(folder: Path | None) -> list[np.ndarray]:
    """The photos of a folder, made smaller to a longer side of `SCENE_SIDE`.

    Raises:
        ValueError: if there is none, or one cannot be read.
    """
    if folder is None:
        return []
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not files:
        raise ValueError(f"--no_faces must be a folder of photos, but got {folder}")
    return [_shrink(load_rgb(file, "--no_faces")) for file in tqdm(files, desc="read photos")]


def _shrink(photo: np.ndarray) -> np.ndarray:
    scale = SCENE_SIDE / max(photo.shape)
    return cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else photo


def evaluate(args: argparse.Namespace) -> Evaluation:
    pipe, detector = load_pipeline(args.model, "cpu"), load_detector(args.detector)
    evaluation = Evaluation(pipe, detector, read_scenes(args.no_faces))
    for number, dataset in enumerate(args.dataset):
        benchmark = find_benchmark(dataset)
        faces = load_faces(benchmark, args.data_dir[number], args.split[number])
        if args.list:
            faces = select_images(faces, args.list[number], keep=True)
        order = np.random.default_rng(0).permutation(len(faces))[: args.max_faces]
        for index in tqdm(order.tolist(), desc=benchmark.name):
            evaluation.add(faces[index], benchmark, benchmark.title)
    return evaluation


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training_mtld.detection",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True, metavar="DIR_OR_ID", help="checkpoint")
    parser.add_argument("--dataset", nargs="+", required=True, help=f"{', '.join(BENCHMARKS)}, or YAML files")
    parser.add_argument("--data_dir", nargs="+", required=True, help="data of each --dataset")
    parser.add_argument("--split", nargs="+", required=True, help="split of each --dataset")
    parser.add_argument("--list", nargs="+", metavar="FILE", help="for each --dataset, the photos to use, one a line")
    parser.add_argument(
        "--no_faces", type=Path, metavar="DIR", help="photos without faces, into which crops are pasted"
    )
    parser.add_argument("--detector", help="as of the pipeline (default: YuNet, or Haar if it cannot be had)")
    parser.add_argument("--max_faces", type=int, help="faces of each set, drawn at random (default: all)")
    parser.add_argument("--write", action="store_true", help="save the best threshold in --model, a directory")
    args = parser.parse_args(argv)
    for name in ("data_dir", "split", "list"):
        values = getattr(args, name)
        if values and len(values) != len(args.dataset):
            parser.error(f"--{name} must be given for each of {len(args.dataset)} --dataset, but got {len(values)}")
    if args.write and not (args.no_faces and Path(args.model, "config.json").is_file()):
        parser.error("--write needs --no_faces, and a directory as --model")
    return args


def main(argv: list[str] | None = None) -> int:
    """The command. Returns the exit status: 0, or 2 after one line on stderr."""
    args = parse_args(argv)
    try:
        evaluation = evaluate(args)
    except ValueError as error:
        print(f"detection: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    threshold = evaluation.best_threshold() if args.no_faces else evaluation.pipe.min_score
    print("\n".join(report(evaluation, threshold)))
    print(f"\nmin_face_score: {threshold:.2f} in these tables, {evaluation.pipe.min_score:.2f} in {args.model}")
    if args.write:
        file = Path(args.model, "config.json")
        config = json.loads(file.read_text(encoding="utf-8")) | {"min_face_score": threshold}
        write_whole(file, (json.dumps(config, indent=2, sort_keys=True) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
