"""Files of the Hub without a long wait: one in the cache needs no network, and a Hub that is silent is told soon."""

import os
import queue
import threading
import time
from collections.abc import Callable, Sequence

from huggingface_hub import constants, get_session, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from tqdm import tqdm

HUB_SECONDS = 3  # until the Hub must answer; without a network, its client would retry for 23
PROXY_ERRORS = (502, 503, 504)  # statuses of one that does not reach the Hub
STALL_SECONDS = 15  # without a byte, after which a download is given up


def hub_answers() -> bool:
    """Whether the Hub itself answers, not a proxy in its place."""
    try:
        response = within(HUB_SECONDS, lambda: get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS))
    except Exception:  # whatever it is, there is no answer
        return False
    return response.status_code not in PROXY_ERRORS


def is_local(checkpoint: str, filename: str = "config.json") -> bool:
    """Whether a checkpoint is to be loaded without the network: it is a directory, or the Hub cannot be reached and
    `filename` is in the cache.

    Raises:
        ValueError: if it is neither on this machine nor can be downloaded.
    """
    if os.path.isdir(checkpoint):
        return True
    if not constants.HF_HUB_OFFLINE and hub_answers():
        return False
    _in_cache_alone(checkpoint, [filename], None)
    return True


def fetch(repo_id: str, filenames: Sequence[str], revision: str | None = None) -> str:
    """The path of the first of `filenames` that a repository has, in the cache or downloaded to it.

    Raises:
        ValueError: if it is not in the cache and the Hub cannot be reached.
        TimeoutError: if nothing arrives for `STALL_SECONDS`; the Hub's client raises others.
    """
    if constants.HF_HUB_OFFLINE or not hub_answers():
        return _in_cache_alone(repo_id, filenames, revision)
    for filename in filenames[:-1]:
        try:
            return _download(repo_id, filename, revision)
        except EntryNotFoundError:
            pass
    return _download(repo_id, filenames[-1], revision)


def _in_cache_alone(repo_id: str, filenames: Sequence[str], revision: str | None) -> str:
    for filename in filenames:
        path = try_to_load_from_cache(repo_id, filename, revision=revision)
        if isinstance(path, str):
            return path
    raise ValueError(f"{repo_id} is not in the cache and the Hub cannot be reached")


def _download(repo_id: str, filename: str, revision: str | None) -> str:
    beats = [time.monotonic()]

    class Beats(tqdm):
        """Shows nothing. The Hub's client calls it when something has arrived."""

        def __init__(self, *args, **options):
            super().__init__(*args, **{**options, "disable": True})

        def update(self, n=1):
            beats.append(time.monotonic())

    def download() -> str:
        return hf_hub_download(repo_id, filename, revision=revision, tqdm_class=Beats)

    return within(STALL_SECONDS, download, since=lambda: beats[-1])


def within(seconds: float, call: Callable, since: Callable[[], float] | None = None):
    """The result of `call`, which runs in a thread and goes on in it after the time is over.

    Args:
        since: when the time began last, by `time.monotonic`; by default now.

    Raises:
        TimeoutError: if it takes longer; else what `call` raises.
    """
    results, start = queue.SimpleQueue(), time.monotonic()

    def run():
        try:
            results.put((call(), None))
        except Exception as error:  # raised again where it is waited for
            results.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    while True:
        left = (since() if since else start) + seconds - time.monotonic()
        try:
            result, error = results.get(timeout=max(left, 0))
        except queue.Empty:
            if left > 0:  # something may have arrived meanwhile
                continue
            raise TimeoutError(f"no answer within {seconds:g} s") from None
        if error is not None:
            raise error
        return result
