"""Every error that Expertune raises on purpose.

    ExpertuneError                      exit code 1 unless said otherwise
    ├── DatasetError                    2: a rating file that cannot be used; names file, row and column
    ├── UsageError                      2: a setting out of its range, a missing path
    ├── ModelFileError                  2: a GGUF that is truncated, damaged or not a GGUF
    ├── FineTuningNotSupportedError     1: a sound model that cannot be tuned here (leads to the model set)
    ├── TrainingFailedError             1: training or export did not give a usable file
    ├── EngineError                     1: the serving engine failed
    ├── ModelSetConfigError             1: no valid model set could be made
    ├── RegistrationError               1: the model was not registered with Ollama; what was there is as it was
    ├── OutputError                     1: an output cannot be written (permission, full disk)
    └── Interrupted                     130: stopped by the user; can be resumed
    DatasetTooSmallWarning (UserWarning)  fewer than 50 usable rows
    RenamedSettingWarning (FutureWarning) a setting is given by its old name or value

Messages are one line and say what to do. They never hold the text of a row.
"""

from __future__ import annotations

from typing import Any


class ExpertuneError(Exception):
    """Base of all; `exit_code` is what the command line returns."""

    exit_code = 1


class DatasetError(ExpertuneError):
    exit_code = 2


class UsageError(ExpertuneError):
    exit_code = 2


class ModelFileError(ExpertuneError):
    exit_code = 2


class FineTuningNotSupportedError(ExpertuneError):
    pass


class TrainingFailedError(ExpertuneError):
    pass


class EngineError(ExpertuneError):
    pass


class ModelSetConfigError(ExpertuneError):
    pass


class RegistrationError(ExpertuneError):
    """`override` is the flag with which the refused file is registered all the same; empty where none does."""

    def __init__(self, message: str, *, override: str = "") -> None:
        super().__init__(message)
        self.override = override


class OutputError(ExpertuneError):
    pass


class Interrupted(ExpertuneError):
    """`metadata` are those of a run that was stopped after its results were written: while it registered them."""

    exit_code = 130
    metadata: dict[str, Any] | None = None


class DatasetTooSmallWarning(UserWarning):
    """Fewer than 50 usable rows: a tuned model would be a guess."""


class RenamedSettingWarning(FutureWarning):
    """A setting is given by its old name or with an old value, which the next version will not know."""
