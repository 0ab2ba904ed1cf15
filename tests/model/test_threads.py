"""The OpenMP library that torch and llama.cpp share is told how long its threads spin, before it is loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[2] / "src"
LOAD = """
import expertune.model, torch
from expertune.engine.llama_cpp import server
import xllamacpp
print(sorted({line.split()[-1] for line in open("/proc/self/maps") if "libgomp" in line}))
"""


def settings(**given: str) -> tuple[str, str]:
    """The mapped libraries, and what the library prints of its settings when it is loaded."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", LOAD],
        env={**own, "PYTHONPATH": str(SRC), "OMP_DISPLAY_ENV": "verbose", **given},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems have another OpenMP library")
def test_the_shared_library_spins_briefly_and_does_not_stop_with_many_threads() -> None:
    mapped, shown = settings()
    assert mapped.count("libgomp") == 1  # llama.cpp takes the one that torch has loaded
    assert "GOMP_SPINCOUNT = '3000'" in shown and "OMP_WAIT_POLICY = 'ACTIVE'" in shown
    _, shown = settings(OMP_WAIT_POLICY="passive")
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in shown and "GOMP_SPINCOUNT = '3000'" not in shown
