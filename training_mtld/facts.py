"""Records of a training or an evaluation: its libraries, commit and data."""

import hashlib
import subprocess
from importlib.metadata import version
from pathlib import Path

import datasets
import numpy as np
from accelerate import Accelerator

LIBRARIES = ("torch", "transformers", "timm", "accelerate")


def library_versions() -> dict[str, str]:
    return {name: version(name) for name in LIBRARIES}


def git_commit(folder: Path) -> str | None:
    """The commit checked out in `folder`, and whether files differ from it; None without git."""

    def git(*arguments):
        return subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, check=True).stdout

    try:
        changed = git("status", "--porcelain", "--untracked-files=no").strip()
        return git("rev-parse", "HEAD").strip() + (" with uncommitted changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def data_fingerprint(faces: datasets.Dataset) -> str:
    """A hash of the faces' names, landmarks and photo files, in their order: equal for the same data.

    Args:
        faces: from `load_faces`, not streamed.

    Returns:
        The first 16 digits of a BLAKE2 hash. It does not depend on the folder or the file format of the faces.
    """
    digest = hashlib.blake2b()
    columns = faces.select_columns(["image", "landmarks", "image_id"])
    for face in columns.cast_column("image", datasets.Image(decode=False)):
        photo = face["image"]["bytes"] or Path(face["image"]["path"]).read_bytes()
        digest.update(face["image_id"].encode())
        digest.update(np.asarray(face["landmarks"], dtype="<f4").tobytes())
        digest.update(photo)
    return digest.hexdigest()[:16]


def file_fingerprint(path: Path) -> str:
    """SHA-256 of a file, which the Hub shows for weights."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def setting(accelerator: Accelerator) -> str:
    """Processes, device and precision, in words."""
    processes = "1 process" if accelerator.num_processes == 1 else f"{accelerator.num_processes} processes"
    precision = {"no": "float32"}.get(accelerator.mixed_precision, f"{accelerator.mixed_precision} autocast")
    return f"{processes} on {accelerator.device.type}, {precision}"
