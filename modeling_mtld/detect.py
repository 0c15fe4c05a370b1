"""`python -m modeling_mtld.detect`: the faces of a photo and their landmarks, as JSON and as a picture."""

import argparse
import json
import logging
import os
import signal
import sys
from pathlib import Path
from urllib.parse import urlparse

HERE = Path(__file__).resolve().parent
INSTALLED = HERE / "checkpoints" / "mtld_r18"  # where the wheel has it
CHECKPOINT = INSTALLED if INSTALLED.is_dir() else HERE.parent / "space" / "checkpoints" / "mtld-r18"


class Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"detect: {message}\n")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m modeling_mtld.detect", description="Finds faces and their landmarks in a photo.")
    parser.add_argument("image", nargs="?", help="path or URL; without it, scikit-image's photo of an astronaut")
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
    parser.add_argument("--topology", metavar="NAME", help="which landmarks, where a checkpoint has several sets")
    parser.add_argument("--flip", action="store_true", help="average with each face's mirror image: surer, slower")
    parser.add_argument("--numbers", action="store_true", help="write each landmark's index beside it in the picture")
    parser.add_argument("--confidence", action="store_true", help="colour by scores, purple (0.5) to yellow (0.95)")
    parser.add_argument("--output_dir", type=Path, default=Path("detect_output"), metavar="DIR")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps, …; by default an accelerator where there is one")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Runs the command. Returns the exit status: 0, or 2 after one line on stderr where it cannot be done."""
    arguments = parse_arguments(argv)
    try:
        _detect(arguments)
    except ValueError as error:
        print(f"detect: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _detect(arguments: argparse.Namespace):
    _check_output_dir(arguments.output_dir)
    name, photo = load_photo(arguments.image)
    find = load_pipeline(arguments.model, arguments.device)
    faces = find(photo, boxes=arguments.boxes, flip=arguments.flip, topology=arguments.topology)
    if not faces:
        raise ValueError(f"no face found in {name}; give --box X0 Y0 X1 Y1")
    options = {"numbers": arguments.numbers, "by_confidence": arguments.confidence}
    written = _write(arguments.output_dir, name, photo, faces, options)
    print(f"{_count(faces)} in {name}: {' and '.join(written)}", file=sys.stderr)
    print(json.dumps(faces, indent=2))


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


def load_pipeline(model: str, device: str | None):
    """The pipeline, of this repository's code, on the checkpoint in the directory, or of the Hub id, `model`.

    Raises:
        ValueError: if there is no such checkpoint, or no such device.
    """
    from .auto_mtld import first_line
    from .configuration_mtld import MTLDConfig
    from .image_processing_mtld import MTLDImageProcessor
    from .modeling_mtld import MTLDForFacialLandmarkDetection
    from .pipeline_mtld import FacialLandmarkDetectionPipeline
    from .quiet import quiet_libraries

    quiet_libraries()
    local = Path(model).exists()
    if local and not (Path(model) / "config.json").is_file() or not local and model.count("/") != 1:
        raise ValueError(f"--model must be a checkpoint's directory or an id on the Hub, but got {model}")
    try:
        settings, _ = MTLDConfig.get_config_dict(model, local_files_only=local)
        if settings.get("model_type") != MTLDConfig.model_type:
            raise ValueError(f"a model of type {settings.get('model_type')}, not {MTLDConfig.model_type}")
        network = MTLDForFacialLandmarkDetection.from_pretrained(model, local_files_only=local)
        processor = MTLDImageProcessor.from_pretrained(model, local_files_only=local)
    except Exception as error:  # transformers, safetensors and the Hub's client each raise their own
        raise ValueError(f"--model {model} cannot be loaded: {first_line(error)}") from error
    try:
        return FacialLandmarkDetectionPipeline(model=network, image_processor=processor, device=device)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ValueError(
            f"--device must be a device of this machine, but got {device}: {first_line(error)}"
        ) from error


def _write(directory: Path, name: str, photo, faces: list, options: dict) -> list[str]:
    """Writes the picture, drawn with `options`, and the JSON. Returns both paths."""
    from PIL import Image

    from .drawing_mtld import draw_faces

    picture = Image.fromarray(draw_faces(photo, faces, **options))
    targets = [directory / f"{Path(name).stem}_landmarks{suffix}" for suffix in (".png", ".json")]
    unfinished = [target.with_name(f".{target.name}.{os.getpid()}.tmp") for target in targets]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        picture.save(unfinished[0], format="PNG", compress_level=1)
        unfinished[1].write_text(json.dumps(faces, indent=2) + "\n", encoding="utf-8")
        for temporary, target in zip(unfinished, targets):
            os.replace(temporary, target)
    except OSError as error:
        raise ValueError(f"{directory} cannot be written to: {error}") from error
    finally:
        for temporary in unfinished:
            temporary.unlink(missing_ok=True)
    return [str(target) for target in targets]


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    if hasattr(signal, "SIGPIPE"):  # `| head` has read enough: that is no error
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
