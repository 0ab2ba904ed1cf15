"""Cores, memory and instructions that this process may use."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager


def usable_cores() -> int:
    """Count the physical cores that this process may use: a second thread on a core slows matrix products."""
    import psutil

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))


def launched() -> tuple[int, int]:
    """Rank of this process, and number of processes, where torchrun or a cluster has started several; else (0, 1)."""
    count, rank = int(os.environ.get("WORLD_SIZE", "1")), os.environ.get("RANK")
    return (int(rank), count) if count > 1 and rank is not None else (0, 1)


def local_processes() -> int:
    """Number of training processes that share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def loopback() -> dict[str, str]:
    """The variable that makes gloo use only the loopback interface; empty where it is set, or unknown."""
    import psutil

    if "GLOO_SOCKET_IFNAME" in os.environ:
        return {}
    found = psutil.net_if_addrs().items()
    names = [name for name, addresses in found if any(each.address == "127.0.0.1" for each in addresses)]
    return {"GLOO_SOCKET_IFNAME": names[0]} if names else {}


def one_thread() -> AbstractContextManager[object]:
    """Limit the numerical libraries that are loaded to one thread: L-BFGS takes three times as long on two (LOG.md)."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1)


def free_memory() -> int:
    import psutil

    return psutil.virtual_memory().available


def multiplies_bf16() -> bool | None:
    """Check for bfloat16 matrix instructions; without them bfloat16 is slower than float32.

    None where this is unknown (not Linux).
    """
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            flags = next((line.split() for line in file if line.lower().startswith(("flags", "features"))), [])
    except OSError:
        return None
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)
