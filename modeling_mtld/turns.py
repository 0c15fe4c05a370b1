"""Times of calls that take turns, so that what else the machine does slows all of them alike."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

WARM_UP = 3  # runs that do not count
CPU_FACTS = Path("/proc/cpuinfo")
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16", "i8mm")


@torch.inference_mode()
def time_in_turns(calls: Mapping[str, Callable], runs: int, device: str = "cpu") -> dict[str, list[float]]:
    """Milliseconds of each call in each run, after `WARM_UP` runs.

    Args:
        device: of torch, on which the calls compute; what it has begun is waited for.
    """
    times = {name: [] for name in calls}
    for run in range(runs + WARM_UP):
        for name, call in calls.items():
            _wait_for(device)
            start = time.perf_counter()
            call()
            _wait_for(device)
            if run >= WARM_UP:
                times[name].append(1000 * (time.perf_counter() - start))
    return times


def _wait_for(device: str):
    if torch.device(device).type == "cuda":  # which computes on while Python goes on
        torch.cuda.synchronize(device)


def summary(times: Mapping[str, Sequence[float]], reference: str) -> list[dict]:
    """For each call its `name`, the median `ms`, the 10th and 90th percentile as `low` and `high`, and `ratio`, its
    median over that of `reference`."""
    base = statistics.median(times[reference])
    rows = []
    for name, values in times.items():
        low, ms, high = np.percentile(values, (10, 50, 90)).tolist()
        rows.append({"name": name, "ms": ms, "low": low, "high": high, "ratio": ms / base})
    return rows


def markdown(rows: Sequence[dict], reference: str) -> str:
    """The rows of `summary` as a table."""
    lines = [f"| | ms, median | 10 to 90 % of the runs | over {reference} |", "|---|--:|--:|--:|"]
    lines += [
        f"| {row['name']} | {row['ms']:.2f} | {row['low']:.2f} to {row['high']:.2f} | {row['ratio']:.3f} |"
        for row in rows
    ]
    return "\n".join(lines)


def cpu_name() -> str:
    """As the processor calls itself; where that cannot be read, its architecture."""
    return next(iter(_cpu_facts("model name")), "") or platform.processor() or platform.machine()


def cpu_flags() -> list[str]:
    """Those of `FLAGS` that the processor has; empty where they cannot be read."""
    words = " ".join(_cpu_facts("flags") + _cpu_facts("Features")).split()
    return [flag for flag in FLAGS if flag in words]


def _cpu_facts(key: str) -> list[str]:
    lines = CPU_FACTS.read_text().splitlines() if CPU_FACTS.is_file() else []
    return [line.partition(":")[2].strip() for line in lines if line.startswith(key)]


def machine() -> dict:
    """`cpu`, its `flags`, `threads` of torch, and `gpu`, None without one."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": cpu_name(), "flags": cpu_flags(), "threads": torch.get_num_threads(), "gpu": gpu}
