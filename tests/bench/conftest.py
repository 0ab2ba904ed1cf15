"""The benches are scripts that import each other by their bare names."""

import sys
from pathlib import Path

BENCH = str(Path(__file__).resolve().parents[2] / "bench")
if BENCH not in sys.path:
    sys.path.append(BENCH)  # behind tests/, which has a module `families` of its own
