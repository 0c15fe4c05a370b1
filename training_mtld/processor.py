"""What the options take from this machine: the number of loaders' workers, and whether it computes in bfloat16."""

import logging
import os
from pathlib import Path

logger = logging.getLogger("train")

CPU_FACTS = Path("/proc/cpuinfo")
BFLOAT16_FLAGS = ("amx_bf16", "avx512_bf16", "bf16")  # of x86, the last of Arm
MAX_WORKERS = 16


def default_workers() -> int:
    """A worker for each core that this process may use, shared with the other processes of a training here."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MAX_WORKERS, max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))


def processor_flags() -> set[str] | None:
    """What the processor can do, in the words of Linux; None where it does not tell."""
    lines = CPU_FACTS.read_text().splitlines() if CPU_FACTS.is_file() else []
    flags = [line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))]
    return set(flags[0]) if flags else None


def choose_precision(name: str | None) -> str | None:
    """The value of --mixed_precision for accelerate: for "auto" bf16 where the device has it, else no, and a line that
    says so."""
    if name != "auto":
        return name
    import torch
    from accelerate.utils import parse_flag_from_env

    if torch.cuda.is_available() and not parse_flag_from_env("ACCELERATE_USE_CPU"):
        chosen, reason = torch.cuda.is_bf16_supported(including_emulation=False), "this GPU"
    else:
        found = [flag for flag in BFLOAT16_FLAGS if flag in (processor_flags() or ())]
        chosen, reason = bool(found), f"this processor ({' '.join(found) or 'none of ' + ' '.join(BFLOAT16_FLAGS)})"
    precision = "bf16" if chosen else "no"
    logger.warning("--mixed_precision auto is %s on %s", precision, reason)
    return precision


def warn_of_slow_bfloat16(device_type: str, precision: str):
    """Logs a warning if a processor without bfloat16 would compute in it."""
    flags = processor_flags()
    if device_type == "cpu" and precision == "bf16" and flags is not None and not flags & set(BFLOAT16_FLAGS):
        logger.warning(
            "bfloat16 is several times slower than float32 on this processor, which has none of %s; "
            "--mixed_precision no trains in float32",
            " ".join(BFLOAT16_FLAGS),
        )
