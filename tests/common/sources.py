"""Gets the tests that transformers holds its own models to: `python tests/common/sources.py`.

Its wheel does not carry them, its source distribution on PyPI does. They go into the virtual environment, under the
version's name, and are not fetched again. pip downloads, so that its settings (index, proxy, certificates) hold.
"""

import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

VERSION = version("transformers")
SOURCES = Path(sys.prefix) / f"transformers-tests-{VERSION}"
FILES = ("test_configuration_common.py", "test_image_processing_common.py", "test_modeling_common.py")


def fetch(target: Path):
    """Writes `target`, a folder, whole or not at all.

    Raises:
        ValueError: if the source distribution cannot be downloaded, or lacks one of the files.
    """
    with tempfile.TemporaryDirectory(prefix="transformers-", dir=target.parent) as folder:
        tests = Path(folder) / "tests"
        tests.mkdir()
        with tarfile.open(_download(folder)) as archive:
            for name in FILES:
                (tests / name).write_bytes(_read(archive, f"transformers-{VERSION}/tests/{name}"))
        (tests / "__init__.py").touch()  # one of them loads it by its path
        tests.rename(target)


def _download(folder: str) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-binary", "transformers", "--dest", folder, f"transformers=={VERSION}"]
    finished = subprocess.run(command, capture_output=True, text=True)
    archives = list(Path(folder).glob("transformers-*.tar.gz"))
    if finished.returncode or not archives:
        reason = (finished.stderr or finished.stdout).strip().splitlines()
        found = reason[-1] if reason else f"exit status {finished.returncode}"
        raise ValueError(f"source distribution of transformers {VERSION} must be on pip's index, but got {found}")
    return archives[0]


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    try:
        return archive.extractfile(name).read()
    except KeyError:
        raise ValueError(f"source distribution of transformers must hold {name}, but got none") from None


if __name__ == "__main__":
    try:
        if not SOURCES.is_dir():
            fetch(SOURCES)
    except (ValueError, OSError, tarfile.TarError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
