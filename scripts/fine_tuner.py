"""The documented entry point: `from scripts.fine_tuner import FineTuner`, `python scripts/fine_tuner.py --input …`."""

from __future__ import annotations

import sys

from expertune.cli import main

__all__ = [  # noqa: F822 – loaded on first use, so that --help stays quick
    "DatasetError", "DatasetTooSmallWarning", "EngineError", "ExpertuneError", "FineTuner", "FineTuningNotSupportedError",
    "Interrupted", "ModelFileError", "ModelSetConfigError", "OutputError", "TrainingFailedError", "UsageError", "main",
]


def __getattr__(name: str) -> object:
    from expertune import fine_tuner

    return getattr(fine_tuner, name)


if __name__ == "__main__":
    main(["tune", *sys.argv[1:]])
