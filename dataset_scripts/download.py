"""Fetching of what a benchmark's owners offer without a form."""

import glob
import hashlib
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import datasets

from .benchmark import Archive, Benchmark

# A download may take hours, but a server that is silent for a minute is gone; by default all ends after five minutes.
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=60, sock_read=60)


def download(benchmark: Benchmark, data_dir: str | Path) -> list[str]:
    """Fetches into `data_dir` those of the benchmark's `archives` that are not there, and unpacks them.

    An archive's files take their names when it is complete; until then they lie in a hidden folder inside `data_dir`,
    which is removed after an error. Nothing that is there is overwritten.

    Returns:
        The names of the archives fetched.

    Raises:
        ValueError: if the benchmark has no archives, or one of them cannot be fetched, is not what it should be or
            would overwrite something; the message names its address.
    """
    if not benchmark.archives:
        raise ValueError(f"{benchmark.title} has nothing that can be fetched. {by_hand(benchmark, data_dir)}")
    root = Path(data_dir).expanduser().resolve()
    if root.exists() and not root.is_dir():
        raise ValueError(f"data_dir must be a folder, but got {root}")
    missing = _missing(benchmark, root)
    root.mkdir(parents=True, exist_ok=True)
    for archive in missing:
        _fetch(archive, root)
    return [archive.filename for archive in missing]


def how_to_get(benchmark: Benchmark, data_dir: str | Path = "DIR") -> str:
    """Says, for a message, where the official download starts and which command fetches what is not in `data_dir`."""
    missing = ", ".join(archive.filename for archive in _missing(benchmark, data_dir))
    command = f"python -m dataset_scripts {benchmark.name} --data_dir {shlex.quote(str(data_dir))} --download"
    return _origin(benchmark) + (f"; `{command}` fetches {missing}" if missing else "")


def by_hand(benchmark: Benchmark, data_dir: str | Path) -> str:
    """Says where the official download starts and what to unpack where."""
    return f"{_origin(benchmark)}; unpack it so that {data_dir} holds {benchmark.layout}"


def _origin(benchmark: Benchmark) -> str:
    return f"From {benchmark.homepage or 'your own files'}: {benchmark.download}"


def _missing(benchmark: Benchmark, root: str | Path) -> list[Archive]:
    return [archive for archive in benchmark.archives if not all(_find(root, pattern) for pattern in archive.provides)]


def _find(root: str | Path, pattern: str) -> str | None:
    """The path below `root` of what matches; `glob` passes over hidden folders, those of unfinished downloads too."""
    return next(glob.iglob(pattern, root_dir=root, recursive=True), None)


def _fetch(archive: Archive, root: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as folder:
        manager = datasets.DownloadManager(
            download_config=datasets.DownloadConfig(
                cache_dir=folder,
                download_desc=archive.filename,
                storage_options={"client_kwargs": {"timeout": _TIMEOUT}},
            )
        )
        with _as_value_error(f"{archive.filename} could not be fetched from {archive.url}"):
            file = Path(manager.download(archive.url))
        _check(archive, file)
        _move(archive, _unpack(archive, file, manager), root)


def _check(archive: Archive, file: Path) -> None:
    """Raises ValueError if `file` is a page that says no, or another one than the owners give the md5 sum of."""
    digest = hashlib.md5(usedforsecurity=False)
    with file.open("rb") as stream:
        start = stream.read(1024).lstrip(b"\xef\xbb\xbf \t\r\n")
        stream.seek(0)
        while block := stream.read(1 << 20):
            digest.update(block)
    if not start or start.lower().startswith((b"<!doctype", b"<html", b"<?xml", b"{")):
        found = "a web page" if start else "an empty file"
        raise ValueError(f"{archive.url} must give {archive.filename}, but gave {found}; open it in a browser")
    if archive.md5 not in (None, digest.hexdigest()):
        raise ValueError(
            f"{archive.url} must give {archive.filename} with the md5 sum {archive.md5}, but gave "
            f"{file.stat().st_size} bytes with {digest.hexdigest()}"
        )


def _unpack(archive: Archive, file: Path, manager: datasets.DownloadManager) -> Path:
    """The folder of what `archive` provides."""
    if not archive.filename.endswith((".zip", ".gz")):
        folder = file.with_name("unpacked")
        folder.mkdir()
        file.rename(folder / archive.filename)
        return folder
    print(f"Unpacking {archive.filename}")
    with _as_value_error(f"{archive.url} must give an archive that can be unpacked, but gave a damaged one"):
        folder = Path(manager.extract(str(file)))  # leaves out members with paths out of the folder
    if not folder.is_dir():
        raise ValueError(f"{archive.url} must give {archive.filename}, but gave a file that is no archive")
    return folder


def _move(archive: Archive, folder: Path, root: Path) -> None:
    """Moves from `folder` into `root` the entries that hold what is not there yet."""
    entries = set()
    for pattern in archive.provides:
        found = _find(folder, pattern)
        if not found:
            names = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
            wanted = pattern.removeprefix("**/")
            raise ValueError(f"{archive.url} must give an archive with {wanted}, but gave one with {names}")
        if not _find(root, pattern):
            entries.add(Path(found).parts[0])
    for entry in sorted(entries):
        if (root / entry).exists():
            raise ValueError(
                f"{root / entry} must be complete or not be there, but lacks files of {archive.filename} "
                f"({archive.url}); move it away and download again"
            )
    for entry in sorted(entries):
        (folder / entry).rename(root / entry)


@contextmanager
def _as_value_error(message: str) -> Iterator[None]:
    """One line for whatever the HTTP library, the file formats or the operating system raise."""
    try:
        yield
    except Exception as error:
        reason = error.__cause__ if isinstance(error, FileNotFoundError) and error.__cause__ else error
        lines = str(reason).strip().splitlines() or [type(reason).__name__]
        raise ValueError(f"{message}: {lines[0]}") from error
