"""`python -m modeling_mtld.detect`: the faces of photos and videos and their landmarks, as JSON and as pictures."""

import argparse
import csv
import itertools
import json
import logging
import math
import os
import signal
import sys
from pathlib import Path
from urllib.parse import urlparse

HERE = Path(__file__).resolve().parent
INSTALLED = HERE / "checkpoints" / "mtld_r18"  # where the wheel has it
CHECKPOINT = INSTALLED if INSTALLED.is_dir() else HERE.parent / "space" / "checkpoints" / "mtld-r18"


PHOTOS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".heic", ".heif", ".avif")
VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")
NEAR = 0.2  # below the threshold of a face's score, down to which a dropped face is told


class Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"detect: {message}\n")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m modeling_mtld.detect",
        description="Finds faces and their landmarks in photos and videos. Writes them as pictures and as JSON.",
    )
    parser.add_argument(
        "images",
        nargs="*",
        metavar="IMAGE",
        help="paths or URLs of photos, folders of photos, videos; by default scikit-image's photo of an astronaut",
    )
    parser.add_argument(
        "--model", default=str(CHECKPOINT), metavar="DIR_OR_ID", help="checkpoint (default: %(default)s)"
    )
    parser.add_argument(
        "--box",
        dest="boxes",
        nargs=4,
        type=float,
        action="append",
        metavar=("X0", "Y0", "X1", "Y1"),
        help="a face's landmark box in pixels, instead of looking for faces; can be repeated",
    )
    parser.add_argument("--detector", help="yunet, haar, or a file of YuNet's model (default: YuNet, else Haar)")
    parser.add_argument("--min_score", type=float, help="of a face, below which it is dropped (default: the model's)")
    parser.add_argument("--topology", metavar="NAME", help="which landmarks, where a checkpoint has several sets")
    parser.add_argument("--flip", action="store_true", help="average with each face's mirror image: surer, slower")
    parser.add_argument("--numbers", action="store_true", help="write each landmark's index beside it in the picture")
    parser.add_argument("--confidence", action="store_true", help="colour by scores, purple (0.5) to yellow (0.95)")
    parser.add_argument("--json", action="store_true", help="print the landmarks, as is the default into a pipe")
    parser.add_argument("--csv", action="store_true", help="write the landmarks as CSV too")
    parser.add_argument("--output_dir", type=Path, default=Path("detect_output"), metavar="DIR")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps, …; by default an accelerator where there is one")
    arguments = parser.parse_args(argv)
    if arguments.min_score is not None and not 0 <= arguments.min_score <= 1:
        parser.error(f"--min_score must be from 0 to 1, but got {arguments.min_score}")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Runs the command. Returns the exit status: 0, or 2 after a line on stderr for each photo that cannot be done."""
    arguments = parse_arguments(argv)
    try:
        _check_output_dir(arguments.output_dir)
        images = list_images(arguments.images)
        if sys.stderr.isatty():
            print("detect: loading the network", file=sys.stderr)
        photos = {image: None if is_video(image) else load_photo(image) for image in images[:1]}
        options = {name: getattr(arguments, name) for name in ("flip", "topology", "detector", "min_score")}
        pipe = load_pipeline(arguments.model, arguments.device, **options)
    except ValueError as error:
        return _fail(error)
    statuses, results, stems = [], {}, {}
    for image in images:
        stems[image] = _stem(image, stems.values())
        try:
            detect = _detect_video if is_video(image) else _detect_photo
            results[image or "astronaut"] = detect(arguments, pipe, image, stems[image], photos.get(image))
            statuses.append(0)
        except ValueError as error:
            statuses.append(_fail(error))
    _print_results(arguments, results, len(images) > 1)
    return max(statuses)


def _fail(error: ValueError) -> int:
    print(f"detect: {' '.join(str(error).split())}", file=sys.stderr)
    return 2


def _print_results(arguments: argparse.Namespace, results: dict, several: bool):
    """JSON if it is asked for or into a pipe: of one photo its list of faces, of several a dict by their names."""
    if results and (arguments.json or not sys.stdout.isatty()):
        print(json.dumps(results if several else next(iter(results.values())), indent=2))


def list_images(arguments: list[str]) -> list[str | None]:
    """The photos, URLs and videos of the command line; None is the built-in photo. Needs no library.

    Raises:
        ValueError: if a file is missing or a folder holds no photo.
    """
    images = []
    for argument in arguments:
        if not Path(argument).is_dir():
            if not _is_url(argument) and not Path(argument).is_file():
                raise ValueError(f"IMAGE must be an existing file, but got {argument}")
            images.append(argument)
            continue
        files = sorted(str(file) for file in Path(argument).iterdir() if file.suffix.lower() in PHOTOS)
        if not files:
            raise ValueError(f"IMAGE must be a photo or a directory of photos, but {argument} holds none")
        images += files
    return list(dict.fromkeys(images)) or [None]


def _is_url(image: str) -> bool:
    return image.lower().startswith(("http://", "https://", "data:"))


def is_video(image: str | None) -> bool:
    return image is not None and not _is_url(image) and Path(image).suffix.lower() in VIDEOS


def _stem(image: str | None, taken) -> str:
    """The start of the names of the files that are written, different for each image."""
    if image is None:
        return "astronaut"
    path = urlparse(image).path if image.lower().startswith(("http://", "https://")) else image
    stem = ("" if image.lower().startswith("data:") else Path(path).stem) or "picture"
    numbered = (f"{stem}_{number}" for number in itertools.count(2))
    return next(name for name in itertools.chain([stem], numbered) if name not in taken)


def _detect_photo(arguments: argparse.Namespace, pipe, image: str | None, stem: str, loaded) -> list[dict]:
    """Writes the picture and the landmarks of a photo, and returns its faces."""
    name, photo = loaded or load_photo(image)
    limit = pipe.min_score
    if arguments.boxes:
        faces, dropped = pipe(photo, boxes=arguments.boxes), []
    else:
        detected = pipe(photo, min_score=0.0)
        faces = [face for face in detected if face["score"] >= limit]
        dropped = [face["score"] for face in detected if limit - NEAR <= face["score"] < limit]
    hint = _hint(dropped, limit) if dropped else ""
    if not faces:
        ways = 'give --box X0 Y0 X1 Y1 (with make: ARGS="--box X0 Y0 X1 Y1"), or click its corners in the demo'
        raise ValueError(f"no face found in {name}; {hint or ways}")
    faces = rounded(faces)
    written = _write(arguments, stem, photo, faces)
    note = f" ({hint})" if hint else ""
    print(f"{_count(faces)} in {name}{note}: {' and '.join(written)}", file=sys.stderr)
    return faces


def _hint(dropped: list[float], limit: float) -> str:
    """Which faces were dropped, and the option that keeps all of them."""
    keeps = math.floor(min(dropped) * 100) / 100
    return (
        f"{_count(dropped)} scored {max(dropped):.2f}{' at most' if len(dropped) > 1 else ''}, below {limit:.2f}:"
        f" --min_score {keeps:.2f} keeps {'it' if len(dropped) == 1 else 'them'}"
    )


def _detect_video(arguments: argparse.Namespace, pipe, image: str, stem: str, _) -> dict:
    """Writes a video with the landmarks, and the landmarks; returns them by frame."""
    from .detect_video import follow_video

    if arguments.boxes:
        raise ValueError("--box must be of a photo, but got a video")
    target = arguments.output_dir / f"{stem}_landmarks.mp4"
    track = follow_video(image, pipe, target, {"by_confidence": arguments.confidence})
    track = {"fps": track["fps"], "frames": [frame | {"faces": rounded(frame["faces"])} for frame in track["frames"]]}
    written = write_texts(arguments.output_dir, stem, track, rows_of(track["frames"]) if arguments.csv else None)
    print(
        f"{len(track['frames'])} frames in {Path(image).name}: {' and '.join([*written, str(target)])}",
        file=sys.stderr,
    )
    return track


def rounded(value, digits: int = 2):
    """The same with numbers of `digits` decimals."""
    if isinstance(value, float):
        return round(value, digits)
    if isinstance(value, dict):
        return {key: rounded(entry, digits) for key, entry in value.items()}
    return [rounded(entry, digits) for entry in value] if isinstance(value, list) else value


def rows_of(frames: list[dict]) -> list[dict]:
    """A row for each landmark of each face, as CSV has them."""
    return [
        {"frame": number, "seconds": frame.get("seconds"), "face": face.get("id", place), **landmark}
        for number, frame in enumerate(frames)
        for place, face in enumerate(frame["faces"])
        for landmark in face["landmarks"]
    ]


def _count(faces: list) -> str:
    return "1 face" if len(faces) == 1 else f"{len(faces)} faces"


def _check_output_dir(directory: Path):
    for folder in (directory, *directory.absolute().parents):
        if folder.exists():
            if not folder.is_dir() or not os.access(folder, os.W_OK):
                raise ValueError(f"--output_dir must be a folder that can be written to, but got {directory}")
            return


def load_photo(image: str | None):
    """What to call the photo at this path or URL, or the built-in one, and the photo as (H, W, 3) uint8 RGB.

    Raises:
        ValueError: if it cannot be read.
    """
    from .photo_mtld import load_rgb

    if image is None:
        from skimage.data import astronaut

        return "astronaut", astronaut()
    path = urlparse(image).path if image.lower().startswith(("http://", "https://")) else image
    return "picture" if image.lower().startswith("data:") else Path(path).name or "picture", load_rgb(image)


def load_pipeline(model: str, device: str | None, **options):
    """The pipeline, of this repository's code, on the checkpoint in the directory, or of the Hub id, `model`.

    Args:
        options: of the pipeline's calls; None is its default.

    Raises:
        ValueError: if there is no such checkpoint, no such device, or an option is wrong.
    """
    from .auto_mtld import first_line
    from .configuration_mtld import MTLDConfig
    from .hub_reach_mtld import is_local
    from .image_processing_mtld import MTLDImageProcessor
    from .modeling_mtld import MTLDForFacialLandmarkDetection
    from .pipeline_mtld import FacialLandmarkDetectionPipeline
    from .quiet import quiet_libraries

    quiet_libraries()
    local = Path(model).exists()
    if local and not (Path(model) / "config.json").is_file() or not local and model.count("/") != 1:
        raise ValueError(f"--model must be a checkpoint's directory or an id on the Hub, but got {model}")
    try:
        local = is_local(model)
        settings, _ = MTLDConfig.get_config_dict(model, local_files_only=local)
        if settings.get("model_type") != MTLDConfig.model_type:
            raise ValueError(f"a model of type {settings.get('model_type')}, not {MTLDConfig.model_type}")
        network = MTLDForFacialLandmarkDetection.from_pretrained(model, local_files_only=local)
        processor = MTLDImageProcessor.from_pretrained(model, local_files_only=local)
    except Exception as error:  # transformers, safetensors and the Hub's client each raise their own
        raise ValueError(f"--model {model} cannot be loaded: {first_line(error)}") from error
    try:
        pipe = FacialLandmarkDetectionPipeline(model=network, image_processor=processor, device=device)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ValueError(
            f"--device must be a device of this machine, but got {device}: {first_line(error)}"
        ) from error
    options = {name: value for name, value in options.items() if value is not None}
    return FacialLandmarkDetectionPipeline(model=network, image_processor=processor, device=pipe.device, **options)


def _write(arguments: argparse.Namespace, stem: str, photo, faces: list) -> list[str]:
    """Writes the landmarks and the picture, and returns their paths, the picture's last."""
    from PIL import Image

    from .drawing_mtld import draw_faces

    picture = Image.fromarray(draw_faces(photo, faces, numbers=arguments.numbers, by_confidence=arguments.confidence))
    rows = rows_of([{"faces": faces}]) if arguments.csv else None
    target = arguments.output_dir / f"{stem}_landmarks.png"
    written = write_texts(arguments.output_dir, stem, faces, rows)
    write_file(target, lambda file: picture.save(file, format="PNG", compress_level=1))
    return [*written, str(target)]


def write_texts(directory: Path, stem: str, content, rows: list[dict] | None) -> list[str]:
    """Writes `content` as JSON and `rows`, if there are any, as CSV. Returns the paths."""
    targets = [directory / f"{stem}_landmarks.json"]
    write_file(targets[0], lambda file: file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8"))
    if rows:
        targets.append(directory / f"{stem}_landmarks.csv")
        write_file(targets[1], lambda file: _write_csv(file, rows))
    return [str(target) for target in targets]


def _write_csv(file: Path, rows: list[dict]):
    with file.open("w", newline="", encoding="utf-8") as table:
        writer = csv.DictWriter(table, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def write_file(target: Path, write):
    """Calls `write` with a temporary path, and renames the file to `target` when it is complete.

    Raises:
        ValueError: if it cannot be written.
    """
    temporary = target.with_name(f".{target.stem}.{os.getpid()}{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        os.replace(temporary, target)
    except OSError as error:
        raise ValueError(f"{target.parent} cannot be written to: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("modeling_mtld.face_detection_mtld").setLevel(logging.INFO)  # which detector looks for faces
    if hasattr(signal, "SIGPIPE"):  # `| head` has read enough: that is no error
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
