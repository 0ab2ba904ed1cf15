"""Documented entry point: `from scripts.fine_tuner import FineTuner`, `python scripts/fine_tuner.py --input …`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from expertune.cli.main import main

if TYPE_CHECKING:  # loaded on first use, so that --help stays quick
    from expertune.errors import (
        DatasetError,
        DatasetTooSmallWarning,
        EngineError,
        ExpertuneError,
        FineTuningNotSupportedError,
        Interrupted,
        ModelFileError,
        ModelSetConfigError,
        OutputError,
        TrainingFailedError,
        UsageError,
    )
    from expertune.fine_tuner import FineTuner

__all__ = [
    "DatasetError",
    "DatasetTooSmallWarning",
    "EngineError",
    "ExpertuneError",
    "FineTuner",
    "FineTuningNotSupportedError",
    "Interrupted",
    "ModelFileError",
    "ModelSetConfigError",
    "OutputError",
    "TrainingFailedError",
    "UsageError",
    "main",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from expertune import fine_tuner

    return getattr(fine_tuner, name)


if __name__ == "__main__":
    main(["tune", *sys.argv[1:]])
