"""What a training script tells about itself for the model card: its command, libraries and commit."""

import shlex
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

LIBRARIES = ("torch", "transformers", "timm", "accelerate")


def shown_command(arguments: Sequence[str]) -> str:
    """The command as typed, quoted for a shell. Of absolute paths the last part alone: the rest is of one machine."""
    return shlex.join(map(_without_place, arguments))


def _without_place(argument: str) -> str:
    option, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    return option + equals + ((Path(value).name or value) if value.startswith(("/", "~")) else value)


def library_versions() -> dict[str, str]:
    return {name: version(name) for name in LIBRARIES}


def git_commit(folder: Path) -> str | None:
    """The commit checked out in `folder`, and whether files differ from it; None where there is no git."""

    def git(*arguments):
        return subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, check=True).stdout

    try:
        changed = git("status", "--porcelain", "--untracked-files=no").strip()
        return git("rev-parse", "HEAD").strip() + (" with uncommitted changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
