"""What this machine lets the process use."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Physical cores that this process may use: a second thread on a core only slows the matrix products."""
    import psutil

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))


def free_memory() -> int:
    """Bytes that a program may still take."""
    import psutil

    return psutil.virtual_memory().available


def multiplies_bf16() -> bool | None:
    """Whether the processor has instructions for products of bfloat16; without them these are slower than float32.

    None where it does not say (not Linux).
    """
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            flags = next((line.split() for line in file if line.lower().startswith(("flags", "features"))), [])
    except OSError:
        return None
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)
