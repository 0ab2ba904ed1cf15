"""The whole way on the example set: synthetic emergency visits, a small base model made by this project, no network.

    python demo_fine_tuner.py [output folder]

Everything in it is made up: it shows how the tool works, and says nothing about medicine.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
EXAMPLES = ROOT / "examples"


def main() -> None:
    from expertune.cli import main as expertune

    folder = sys.argv[1] if len(sys.argv) > 1 else "outputs/demo"
    print("Demo: synthetic visits rated for respiratory infections, tuned on this machine's CPU.\n", flush=True)
    expertune(
        [
            "tune",
            "--input",
            str(EXAMPLES / "formatted_dataset.csv"),
            "--model",
            str(EXAMPLES / "base.gguf"),
            "--topics",
            "respiratory infections",
            "--output-dir",
            folder,
            "--learning-rate",
            "0.003",
            "--epochs",
            "6",
            "--batch-size",
            "8",
            "--class-weight",
            "none",
            "--set-seconds",
            "20",
        ]
    )


if __name__ == "__main__":
    main()
