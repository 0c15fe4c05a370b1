"""Many clients at once: `python tests/space_load.py PHOTO...` measures the demo beside the bare pipeline.

The demo is served by a process of its own; the clients are threads of this one. Boxes of the faces are read from a
`.pts` file beside each photo, 300W's form; a photo without one is taken nearly whole.
"""

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gradio_client import Client, handle_file
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
ALONE = (  # app.py as on the Hub, where nothing of this repository is beside it
    "import runpy, sys; sys.modules.update(modeling_mtld=None, dataset_scripts=None, training_mtld=None);"
    " sys.path.insert(0, ''); sys.argv[0] = 'app.py'; runpy.run_path('app.py', run_name='__main__')"
)
MOST_TIME = 1.3
ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+")


@contextlib.contextmanager
def running_demo(*arguments: str, folder: Path = ROOT / "space", environment: dict | None = None):
    """Serves the demo of `folder` in a process of its own. Yields its address and the process."""
    command = [sys.executable, "-c", ALONE, *arguments]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})}
    server = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        lines = []
        for line in server.stdout:
            lines.append(line)
            if found := ADDRESS.search(line):
                break
        else:
            raise RuntimeError("the demo does not start: " + "".join(lines))
        # Nobody reads on, so what it prints must go somewhere.
        ThreadPoolExecutor(1).submit(lambda: [None for _ in server.stdout])
        yield found[0], server
    finally:
        server.terminate()
        try:
            server.wait(2)
        except subprocess.TimeoutExpired:  # it would wait for those who still listen
            server.kill()
            server.wait()


def boxes_of(photo: Path) -> list[list[float]]:
    points = photo.with_suffix(".pts")
    if not points.is_file():
        width, height = Image.open(photo).size
        return [[0.1 * width, 0.1 * height, 0.9 * width, 0.9 * height]]
    numbers = points.read_text().split("{")[1].split("}")[0].split()
    x, y = ([float(number) - 1 for number in numbers[axis::2]] for axis in (0, 1))
    return [[min(x), min(y), max(x), max(y)]]


def call_all(url: str, photos: list[Path], clients: int) -> tuple[list, float]:
    """The answers of `/detect` for each photo, by so many clients at once, and the seconds that all took."""
    # Without certificates, which plain HTTP does not use: to read them for each call costs more than all the rest.
    connected = [Client(url, verbose=False, ssl_verify=False) for _ in range(clients)]

    def work(index: int) -> list:
        own = range(index, len(photos), clients)
        return [
            (place, connected[index].predict(handle_file(photos[place]), boxes_of(photos[place]), api_name="/detect"))
            for place in own
        ]

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        answers = dict(pair for pairs in pool.map(work, range(clients)) for pair in pairs)
    return [answers[place] for place in range(len(photos))], time.perf_counter() - began


def memory(process: subprocess.Popen) -> float:
    """Resident megabytes."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(photos: list[Path], clients: int, rounds: int):
    from transformers import pipeline

    checkpoint = ROOT / "space" / "checkpoints" / "mtld-r18"
    find = pipeline("facial-landmark-detection", model=str(checkpoint), trust_remote_code=True)

    def bare() -> tuple[list, float]:
        began = time.perf_counter()
        return [find(str(photo), boxes=boxes_of(photo)) for photo in photos], time.perf_counter() - began

    with running_demo() as (url, server):
        single, _ = call_all(url, photos, 1)
        expected, _ = bare()
        results, failed = [], False
        for _ in range(rounds):  # in turns, so that both see the same machine
            answers, seconds = call_all(url, photos, clients)
            results.append((bare()[1], seconds, memory(server)))
            wrong = sum(one != other for one, other in zip(answers, single))
            failed = failed or wrong > 0
            print(
                f"{len(answers)} answers, {wrong} unlike a single client's;"
                f" {len(photos) / results[-1][1]:.1f} photos/s, bare {len(photos) / results[-1][0]:.1f};"
                f" server {results[-1][2]:.0f} MB",
                flush=True,
            )
        gaps = [
            abs(a[axis] - b[axis])
            for one, other in zip(single, expected)
            for face, bare_face in zip(one, other)
            for a, b in zip(face["landmarks"], bare_face["landmarks"])
            for axis in "xy"
        ]
    ratios = sorted(demo / alone for alone, demo, _ in results)
    median = ratios[len(ratios) // 2]
    print(json.dumps({"time_over_bare": ratios, "median": median, "largest_gap_px": max(gaps)}))
    if failed or median > MOST_TIME:
        sys.exit(f"answers must be right and take {MOST_TIME} times as long as the pipeline's at most")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    measure(arguments.photos, arguments.clients, arguments.rounds)
