"""Download of the files of a benchmark that need no form."""

import glob
import hashlib
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import datasets

from .benchmark_facts import Archive, Benchmark

# A download may take hours, but aiohttp's default limit is five minutes. A server is given up after a silent minute.
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=60, sock_read=60)


def download(benchmark: Benchmark, data_dir: str | Path) -> list[str]:
    """Fetches the missing ones of the benchmark's `archives` into `data_dir` and unpacks them.

    The files of an archive lie in a hidden folder inside `data_dir` until the archive is complete. The folder is
    removed after an error. Existing files are not overwritten.

    Returns:
        The names of the archives fetched.

    Raises:
        ValueError: if the benchmark has no archives, or one of them cannot be fetched, has unexpected content or would
            overwrite files; the message names its address.
    """
    if not benchmark.archives:
        hint = manual_download_hint(benchmark, data_dir)
        raise ValueError(f"{benchmark.title} has no files that can be fetched without a form. {hint}")
    root = Path(data_dir).expanduser().resolve()
    if root.exists() and not root.is_dir():
        raise ValueError(f"data_dir must be a folder, but got {root}")
    archives = _missing_archives(benchmark, root)
    root.mkdir(parents=True, exist_ok=True)
    for archive in archives:
        _fetch(archive, root)
    return [archive.filename for archive in archives]


def download_hint(benchmark: Benchmark, data_dir: str | Path = "DIR") -> str:
    """For a message: where the official download starts, and the command that fetches what `data_dir` lacks."""
    filenames = ", ".join(archive.filename for archive in _missing_archives(benchmark, data_dir))
    command = f"python -m dataset_scripts {benchmark.name} --data_dir {shlex.quote(str(data_dir))} --download"
    return _origin(benchmark) + (f"; `{command}` fetches {filenames}" if filenames else "")


def manual_download_hint(benchmark: Benchmark, data_dir: str | Path) -> str:
    """For a message: where the official download starts, and the layout that it is unpacked to."""
    return f"{_origin(benchmark)}; unpack it so that {data_dir} holds {benchmark.layout}"


def _origin(benchmark: Benchmark) -> str:
    return f"From {benchmark.homepage or 'your own files'}: {benchmark.download}"


def _missing_archives(benchmark: Benchmark, root: str | Path) -> list[Archive]:
    return [archive for archive in benchmark.archives if not all(_find(root, pattern) for pattern in archive.provides)]


def _find(root: str | Path, pattern: str) -> str | None:
    """A path below `root` that matches, or None. `glob` skips hidden folders, as those of unfinished downloads."""
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
    """Raises ValueError if `file` is empty, is a web page (a refusal), or has another md5 sum than the archive."""
    digest = hashlib.md5(usedforsecurity=False)
    with file.open("rb") as stream:
        start = stream.read(1024).lstrip(b"\xef\xbb\xbf \t\r\n")
        stream.seek(0)
        while block := stream.read(1 << 20):
            digest.update(block)
    if not start or start.lower().startswith((b"<!doctype", b"<html", b"<?xml", b"{")):
        content = "a web page" if start else "an empty file"
        raise ValueError(f"{archive.url} must give {archive.filename}, but gave {content}; open it in a browser")
    if archive.md5 not in (None, digest.hexdigest()):
        raise ValueError(
            f"{archive.url} must give {archive.filename} with the md5 sum {archive.md5}, but gave "
            f"{file.stat().st_size} bytes with {digest.hexdigest()}"
        )


def _unpack(archive: Archive, file: Path, manager: datasets.DownloadManager) -> Path:
    """Unpacks `file` and returns the folder of its content."""
    if not archive.filename.endswith((".zip", ".gz")):
        folder = file.with_name("unpacked")
        folder.mkdir()
        file.rename(folder / archive.filename)
        return folder
    print(f"Unpacking {archive.filename}")
    with _as_value_error(f"{archive.url} must give an archive that can be unpacked, but gave a damaged one"):
        folder = Path(manager.extract(str(file)))  # skips members whose paths lead out of the folder
    if not folder.is_dir():
        raise ValueError(f"{archive.url} must give {archive.filename}, but gave a file that is no archive")
    return folder


def _move(archive: Archive, folder: Path, root: Path) -> None:
    """Moves the entries of `folder` that provide missing files into `root`."""
    entries = set()
    for pattern in archive.provides:
        path = _find(folder, pattern)
        if not path:
            names = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"
            name = pattern.removeprefix("**/")
            raise ValueError(f"{archive.url} must give an archive with {name}, but gave one with {names}")
        if not _find(root, pattern):
            entries.add(Path(path).parts[0])
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
    """Raises any error of the HTTP library, the file formats or the operating system as a ValueError of one line."""
    try:
        yield
    except Exception as error:
        reason = error.__cause__ if isinstance(error, FileNotFoundError) and error.__cause__ else error
        lines = str(reason).strip().splitlines() or [type(reason).__name__]
        raise ValueError(f"{message}: {lines[0]}") from error
