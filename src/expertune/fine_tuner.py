"""FineTuner, the Python interface: tune, register, check, and build a model set.

ratings → audit, split → tokenize → train on the GGUF → merge → evaluate the saved file on the test records
                                  └ if tuning is impossible or gains nothing → model set, evaluated on the same records
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from . import outputs
from .config import Config, as_dict, make_config
from .engine.ollama.server import running_server
from .errors import (
    DatasetError,
    DatasetTooSmallWarning,
    EngineError,
    ExpertuneError,
    FineTuningNotSupportedError,
    Interrupted,
    ModelFileError,
    ModelSetConfigError,
    OutputError,
    RankLostError,
    RegistrationError,
    TrainingFailedError,
    UsageError,
)
from .estimate.capability import Capability
from .estimate.capability import capability as capability_of
from .estimate.plan import with_throughput
from .log import log_file
from .machine import launched
from .modelset.build import build, inputs_of, recipes
from .modelset.config import write as write_model_set
from .optional import require_torch
from .progress import Progress
from .ratings.dataset import Dataset, load_dataset
from .ratings.examples import chat_record
from .record import RunRecord, read_record
from .register.folder import RegistrationTarget, check_target, load_dataset_again, register_again
from .register.preflight import gate_failures
from .report.metadata import RunMetadata
from .torch_engine import LLAMA_CPP
from .tracking import check_trackers
from .workflow.run import dry_run, run
from .workflow.state import RunRequest
from .workspace import Workspace, open_workspace

log = logging.getLogger("expertune")

__all__ = [
    "Capability",
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
    "RankLostError",
    "RegistrationError",
    "TrainingFailedError",
    "UsageError",
]


class FineTuner:
    """Tune a local model on expert ratings.

    With `fallback_mode`, a model that cannot be tuned, a training that fails or gains nothing, and fewer than 50
    records lead to a model set, and the metadata gives the reason; without it the first two raise. Invalid input always
    raises. `allow_remote` permits OLLAMA_HOST on another machine, to which the records' text is then sent.
    """

    def __init__(
        self, debug_mode: bool = False, fallback_mode: bool = True, *, quiet: bool = False, allow_remote: bool = False
    ) -> None:
        self.debug_mode, self.fallback_mode, self.quiet = debug_mode, fallback_mode, quiet
        self.allow_remote = allow_remote

    def process_dataset(
        self,
        df: Any,
        model_name: str,
        rating_mapping: Any = None,
        target_topics: str = "",
        output_dir: str | Path = "outputs",
        *,
        resume: bool = False,
        overwrite: bool = True,
        register: str | None = None,
        replace: bool = False,
        force: bool = False,
        log_to: Sequence[str] = (),
        nproc: int = 1,
        on_result: Callable[[RunRecord], None] = lambda record: None,
        **settings: Any,
    ) -> tuple[bool, RunMetadata]:
        """Tune `model_name` (a GGUF path or an Ollama name) on `df` (a DataFrame or path); returns (success, metadata).

        `settings` are fields of `config.Config`. Success means that a product was made, evaluated on records that it
        never saw, and passed its checks; metadata["failed_checks"] has the reasons if not. The metadata are a dict, the
        contents of fine_tuning_metadata.json, that a notebook shows as a short page.
        `overwrite` allows `output_dir` to hold a finished run, which is kept in previous/run.
        `register` registers the tuned model with the running Ollama under this name if it passes the quality gate;
        `replace` and `force` as in `register_model`. Success then also means that it was registered. A refused
        registration raises nothing and loses no result: metadata["registration"] has "registered" False, the reason,
        and the command to continue with. `log_to` names trackers ("mlflow", "tensorboard", "trackio") that get the
        numbers of the run; `nproc` processes share the training. `on_result` gets the record when the results are
        written, before registration.
        Raises DatasetError, UsageError and ModelFileError for invalid input, OutputError if nothing can be written,
        RankLostError if one of the processes was lost and Interrupted on Ctrl-C (resume=True continues; its `metadata`
        is set if only the registration was stopped), and without fallback FineTuningNotSupportedError and
        TrainingFailedError. RegistrationError and EngineError are raised before any work: no free name or no server.
        """
        config, trackers = make_config(settings), check_trackers(log_to)
        _check_processes(nproc)
        _require_torch(config)
        _check_folder(Path(output_dir), model_name, config, target_topics, resume=resume, overwrite=overwrite)
        target = RegistrationTarget(register, replace, force, self.allow_remote) if register is not None else None
        if target is not None:
            check_target(target, model_name, config)
        folder = outputs.open_folder(Path(output_dir))
        dataset = load_dataset(df, rating_mapping, target_topics, config)
        request = RunRequest(model_name, config, self.fallback_mode, self.allow_remote, target)
        how = {"resume": resume, "quiet": self.quiet, "debug": self.debug_mode}
        with open_workspace(folder, **how, log_to=trackers, nproc=nproc) as ws, self._logged():
            _log_start(request, dataset)
            _say_columns(dataset, ws)
            record = run(request, dataset, ws, on_result)
        registration = record.registration
        registered = registration is None or registration.registered
        return registered and not record.failed_checks, RunMetadata(record.to_dict())

    def plan_run(
        self,
        df: Any,
        model_name: str,
        rating_mapping: Any = None,
        target_topics: str = "",
        output_dir: str | Path = "outputs",
        *,
        resume: bool = False,
        overwrite: bool = True,
        **settings: Any,
    ) -> list[str]:
        """Plan of `process_dataset` with these arguments, in lines: its settings and times; writes nothing there.

        Raises what the run itself would raise before its long work.
        """
        config, folder = make_config(settings), Path(output_dir)
        _require_torch(config)
        _check_folder(folder, model_name, config, target_topics, resume=resume, overwrite=overwrite)
        dataset = load_dataset(df, rating_mapping, target_topics, config)
        request = RunRequest(model_name, config, self.fallback_mode, self.allow_remote)
        with open_workspace(folder, resume=resume, quiet=self.quiet, debug=self.debug_mode, dry_run=True) as ws:
            _say_columns(dataset, ws)
            return dry_run(request, dataset, ws)

    @contextmanager
    def _logged(self) -> Iterator[None]:
        """Log the error that ends a run; Ctrl-C becomes Interrupted."""
        try:
            yield
        except KeyboardInterrupt:
            raise Interrupted("stopped; run the same command with --resume to continue") from None
        except Exception as error:
            shown = error if isinstance(error, ExpertuneError) else "unexpected"
            log.error("%s: %s", type(error).__name__, shown, exc_info=self.debug_mode)
            raise

    def register_model(
        self, output_dir: str | Path, name: str, df: Any = None, *, replace: bool = False, force: bool = False
    ) -> dict[str, Any]:
        """Register the tuned model of a finished run with the running Ollama as `name`; returns how it was verified.

        `df` is the run's dataset (a DataFrame or a path) if it has moved. `replace` overwrites an existing model of
        this name, `force` registers even if the quality gate failed.
        Raises RegistrationError, and EngineError if no server answers; Ollama's models are then unchanged.
        """
        folder = Path(output_dir)
        record = read_record(folder)
        gate_failures(record)  # refuses a folder without a tuned model before its dataset is read
        dataset = load_dataset_again(folder, record, Path(df) if isinstance(df, str) else df)
        target = RegistrationTarget(name, replace, force, self.allow_remote)
        with log_file(folder / outputs.LOG, debug=self.debug_mode), Progress(quiet=self.quiet) as progress:
            return register_again(target, record, dataset, folder, progress).to_dict()

    def capability(self, model_name: str, *, allow_remote: bool = False, measure: bool = False) -> Capability:
        """Locate the model, first in the running Ollama server, and check if it can be tuned and what that takes.

        Never raises for a model that cannot be tuned. `allow_remote` permits OLLAMA_HOST on another machine. `measure`
        adds the training throughput, cached or measured in some seconds.
        """
        server = None if os.path.isfile(model_name) else running_server(allow_remote=allow_remote)  # noqa: PTH113
        with server or nullcontext():
            result = capability_of(model_name, server)
        return with_throughput(result) if measure else result

    def check_fine_tuning_capability(self, model_name: str) -> bool:
        """True if `model_name` can be tuned here; `capability` gives the reason if not."""
        return self.capability(model_name).tunable

    def prepare_training_data(
        self, df: Any, rating_mapping: Any = None, target_topics: str = "", **settings: Any
    ) -> list[dict[str, Any]]:
        """Convert every record to its chat example for training or evaluation: id, split, messages, rating, label."""
        dataset = load_dataset(df, rating_mapping, target_topics, make_config(settings))
        return [chat_record(example) for examples in dataset.examples.parts().values() for example in examples]

    def create_model_set_config(
        self,
        model_name: str,
        df: Any,
        rating_mapping: Any = None,
        target_topics: str = "",
        output_dir: str | Path | None = None,
        **settings: Any,
    ) -> dict[str, Any]:
        """Build a model set for these ratings; written to model_set_config.json if `output_dir` is given.

        Raises DatasetError, and ModelSetConfigError if no valid configuration can be made.
        """
        config = make_config(settings)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DatasetTooSmallWarning)  # a model set needs few records
            dataset = load_dataset(df, rating_mapping, target_topics, config)
        inputs = inputs_of(model_name, dataset, config)
        model_set = build(inputs, recipes(len(dataset.scale.labels), redact=config.redact)[0])
        if output_dir is not None:
            write_model_set(outputs.open_folder(Path(output_dir)) / outputs.MODEL_SET, model_set)
        return model_set.model_dump(mode="json")


def _require_torch(config: Config) -> None:
    """Raise UsageError where torch is needed and not installed."""
    if config.approach != "model-set" or config.engine != LLAMA_CPP:
        require_torch("tuning (--approach model-set --engine llama.cpp does without)")


def _check_processes(nproc: int) -> None:
    """Raise UsageError for a number of processes that is not possible, and in all but the first that were started."""
    rank, count = launched()
    if nproc < 1:
        raise UsageError(f"nproc: {nproc} is less than 1")
    if count > 1 and nproc > 1:
        raise UsageError(f"nproc: {nproc}, but {count} processes have been started already (WORLD_SIZE); leave it out")
    if rank:
        raise UsageError("only the first process (RANK 0) runs a job; start the command with torchrun, not a script")


def _check_folder(folder: Path, model: str, config: Config, topics: str, *, resume: bool, overwrite: bool) -> None:
    """Raise UsageError for a finished run without `overwrite`, and for a resumed run with other settings."""
    outputs.check_finished(folder, (model, *config.models), overwrite=overwrite)
    if resume:
        outputs.check_resumed(folder, config, topics)


def _say_columns(dataset: Dataset, ws: Workspace) -> None:
    for line in (str(dataset.columns), *dataset.notes):
        ws.progress.say(line)


def _log_start(request: RunRequest, dataset: Dataset) -> None:
    """Log dataset, model and settings; no text of a record."""
    facts = len(dataset.ratings), dataset.counts.parts(), request.model, as_dict(request.config)
    log.info("%d records, %s, model %s, settings %s", *facts)
    if dataset.unlabelled:
        log.info("%s", dataset.unlabelled.line())
    for line in dataset.audit.lines():
        log.info("audit: %s", line)
