"""Writes AFLW's crops of 120 px with the 68 points of MERL-RAV as a data set of your own landmarks.

    python -m dataset_scripts.aflw_crops --data_dir aflw_crops --labels labels.parquet --output_dir aflw68

The crops are the data set `aflw_crops` (Parquet, 21 points, yaw). The labels are those of MERL-RAV, moved into the
frame of the crops by a scale and a shift for each face. Protocol and resolution are not those of MERL-RAV: use the
data to train and to compare networks, but do not compare scores with published ones. `aflw_poses.txt` lists 800 of
the faces, of all poses, for `--validation_list`.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from tqdm.auto import tqdm

from .benchmarks import BENCHMARKS
from .metadata import METADATA

GROUPS = {"yaw_0-30": 30, "yaw_30-60": 60, "yaw_60-90": 181}  # upper limits of |yaw| in degrees
MAX_RESIDUAL, MAX_HALF_SPLIT = 0.027, 0.025  # fractions of the face's size; above them, points are inaccurate
POSES = Path(__file__).with_name("aflw_poses.txt")


def write_aflw68(data_dir: Path, labels: Path, output_dir: Path) -> int:
    """Writes the photos, metadata.jsonl and landmarks.yaml of the split train to `output_dir`. Returns the number of
    faces.

    Raises:
        ValueError: if `output_dir` exists, or a file is missing or lacks a column; the message names the argument.
    """
    if output_dir.exists():
        raise ValueError(f"--output_dir must not exist yet, but got {output_dir}")
    labels_by_id = _read_labels(labels)
    shards = sorted(data_dir.glob("data/*.parquet"))
    if not shards:
        raise ValueError(f"--data_dir must hold data/*.parquet, but got {data_dir}")
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output_dir.parent, prefix=".unfinished") as temporary_dir:
        count = _write_faces(shards, labels_by_id, Path(temporary_dir, "aflw68"))
        if not count:
            raise ValueError(f"--labels must be of faces in --data_dir, but none of {labels} is in {data_dir}")
        os.replace(Path(temporary_dir, "aflw68"), output_dir)
    return count


def _write_faces(shards: list[Path], labels: dict[str, dict], folder: Path) -> int:
    (folder / "train").mkdir(parents=True)
    with open(folder / "train" / METADATA, "w", encoding="utf-8") as metadata:
        count = sum(_write_face(face, labels, folder / "train", metadata) for face in _read_crops(shards))
    (folder / "landmarks.yaml").write_text(_description(), encoding="utf-8")
    return count


def _read_labels(file: Path) -> dict[str, dict]:
    """The labels with accurate points, by image id."""
    if not file.is_file():
        raise ValueError(f"--labels must be an existing file, but got {file}")
    rows = _read("--labels", file, ["image_id", "landmarks", "visibility", "fit_residual", "half_split"])
    return {row["image_id"]: row for row in rows if _is_accurate(row)}


def _is_accurate(row: dict) -> bool:
    residual, half_split = row["fit_residual"], row["half_split"]  # half_split is None for a profile with few points
    return residual is not None and residual < MAX_RESIDUAL and (half_split is None or half_split < MAX_HALF_SPLIT)


def _read_crops(shards: list[Path]) -> Iterator[dict]:
    for shard in tqdm(shards, desc="crops"):
        yield from _read("--data_dir", shard, ["image", "image_id", "yaw"])


def _read(option: str, file: Path, columns: list[str]) -> list[dict]:
    try:
        return pq.read_table(file, columns=columns).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{option} must be Parquet with {', '.join(columns)}, but got {file}: {reason}") from error


def _write_face(face: dict, labels: dict[str, dict], folder: Path, metadata) -> bool:
    """Writes the photo and the row of a face that has a label. Returns whether it has one."""
    label = labels.get(face["image_id"])
    if label is None:
        return False
    data = face["image"]["bytes"]
    name = face["image_id"] + (".png" if data.startswith(b"\x89PNG") else ".jpg")
    (folder / name).write_bytes(data)
    row = {
        "file_name": name,
        "landmarks": [None if None in point else [round(value, 2) for value in point] for point in label["landmarks"]],
        "visibility": label["visibility"],
        "group": group_of(face["yaw"]),
    }
    metadata.write(json.dumps(row) + "\n")
    return True


def group_of(yaw: float) -> str | None:
    """The name of the group of a face by its yaw in degrees, positive or negative; None if the yaw is NaN."""
    return next((name for name, limit in GROUPS.items() if abs(yaw) < limit), None)


def _description() -> str:
    benchmark = BENCHMARKS["merl_rav"]
    values = {
        "title": "AFLW crops with MERL-RAV's points",
        "landmarks": list(benchmark.landmark_names),
        "flip_pairs": [[benchmark.landmark_names[index] for index in pair] for pair in benchmark.flip_pairs],
        "normalizer": "box",
        "failure_threshold": benchmark.failure_threshold,
        "visibility": True,
        "groups": list(GROUPS),
        "licence": benchmark.licence,
        "homepage": benchmark.homepage,
        "citation": benchmark.citation,
    }
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def main(argv: list[str] | None = None) -> int:
    """The command. Returns the exit status: 0, or 2 after one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m dataset_scripts.aflw_crops",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data_dir", type=Path, required=True, help="folder of the crops, with data/*.parquet")
    parser.add_argument("--labels", type=Path, required=True, help="file of the labels, labels.parquet")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder to write, which must not exist yet")
    args = parser.parse_args(argv)
    try:
        count = write_aflw68(args.data_dir, args.labels, args.output_dir)
    except (ValueError, OSError) as error:
        print(f"aflw_crops: {error}", file=sys.stderr)
        return 2
    print(f"{args.output_dir} holds {count:,} faces; {POSES} lists those to hold out")
    return 0


if __name__ == "__main__":
    sys.exit(main())
