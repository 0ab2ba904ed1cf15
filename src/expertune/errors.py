"""Exceptions of Expertune.

    ExpertuneError                      exit code 1 unless said otherwise
    ├── DatasetError                    2: the ratings cannot be used; the message names file, row and column
    ├── UsageError                      2: a setting or argument is invalid, or a path is missing
    ├── ModelFileError                  2: the file is truncated, damaged or not a GGUF
    ├── FineTuningNotSupportedError     1: the model is sound but cannot be tuned (a model set is made instead)
    ├── TrainingFailedError             1: training or export gave no usable file (a model set is made instead)
    ├── EngineError                     1: the serving engine failed
    ├── ModelSetConfigError             1: the model set is invalid, or none could be made
    ├── RegistrationError               1: the model was not registered; Ollama's models are unchanged
    ├── OutputError                     1: an output file cannot be written (permission, full disk)
    ├── RankLostError                   1: a process of a training on several was lost; --resume continues
    └── Interrupted                     130: stopped by the user; --resume continues
    DatasetTooSmallWarning (UserWarning)  fewer than 50 usable records
    RenamedSettingWarning (FutureWarning) a setting is given by its old name or value

Messages are one line, say what to do, and never contain the text of a record.
"""

from __future__ import annotations

from typing import Any


class ExpertuneError(Exception):
    """Base class. `exit_code` is the exit code of the command line."""

    exit_code = 1


class DatasetError(ExpertuneError):
    """The ratings cannot be used: a missing column, a value outside the rating mapping, an unreadable file, or too few
    records of a label to split. The message names file, row and column."""

    exit_code = 2


class UsageError(ExpertuneError):
    """A setting, flag or argument is invalid, or a path does not exist; if possible raised before any work starts."""

    exit_code = 2


class ModelFileError(ExpertuneError):
    """The model file is truncated, damaged or not a GGUF. Fetch or export it again."""

    exit_code = 2


class FineTuningNotSupportedError(ExpertuneError):
    """The model file is valid but cannot be tuned here: unsupported architecture or tensor type, too little memory, or
    no local file. With fallback (the default) a model set is made instead."""


class TrainingFailedError(ExpertuneError):
    """Training or export gave no usable file: the loss is NaN or infinite, or the result is not better than the base on
    the validation records. With fallback (the default) a model set is made instead."""


class EngineError(ExpertuneError):
    """The engine that serves the model (llama.cpp or Ollama) failed: no server answers, the model cannot be loaded, or
    a request was refused."""


class ModelSetConfigError(ExpertuneError):
    """A model set could not be made, or a model_set_config.json is invalid."""


class RegistrationError(ExpertuneError):
    """The tuned model was not registered with Ollama; the models that Ollama has are unchanged.

    `override` is the flag that registers it anyway ("--force"), empty where none does.
    """

    def __init__(self, message: str, *, override: str = "") -> None:
        super().__init__(message)
        self.override = override


class OutputError(ExpertuneError):
    """An output file cannot be written: no permission, or the disk is full."""


class RankLostError(ExpertuneError):
    """A process of a training in several (`--nproc`, torchrun) was killed or failed; `--resume` continues the run."""


class Interrupted(ExpertuneError):
    """The user stopped the run (Ctrl-C); `--resume` continues it.

    `metadata` is the record of a run that was stopped during registration, when its results were already written.
    """

    exit_code = 130
    metadata: dict[str, Any] | None = None


class DatasetTooSmallWarning(UserWarning):
    """There are fewer than 50 usable records: too few to tune a model on."""


class RenamedSettingWarning(FutureWarning):
    """A setting is given by its old name or value, which the next version will not accept."""
