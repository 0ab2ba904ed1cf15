"""What this machine lets the process use."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Physical cores that this process may use: a second thread on a core only slows the matrix products."""
    import psutil

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))
