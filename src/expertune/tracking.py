"""Send the numbers of a run to experiment trackers: MLflow, TensorBoard, trackio, each by its own library.

Off unless asked for (`--log-to`). Only numbers go there: losses, rates and figures, never the text of a record, a label
or a path. All stays in tracking/ of the output folder, unless the library's own environment (MLFLOW_TRACKING_URI,
TRACKIO_SPACE_ID, TRACKIO_SERVER_URL) names a server.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Protocol

from .errors import UsageError
from .log import log
from .optional import require
from .record import EvaluationRecord
from .train.events import DevEvent, Event

PROJECT = "expertune"
BY_ENVIRONMENT = "the server of its environment variables"  # whose address may hold a password
Numbers = Mapping[str, float]


class Tracker(Protocol):
    """One library. `log` may raise anything: the library, its disk and its server are not ours."""

    place: str

    def log(self, numbers: Numbers, step: int) -> None: ...
    def close(self) -> None: ...


class TensorBoard:
    """Event files in a folder of their own for each run."""

    def __init__(self, folder: Path, run: str) -> None:
        from tensorboard.summary import DirectoryOutput, Writer

        self.place = str(folder / "tensorboard")
        self._writer = Writer(DirectoryOutput(str(folder / "tensorboard" / run)))

    def log(self, numbers: Numbers, step: int) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()  # so that it can be followed

    def close(self) -> None:
        self._writer.close()


class MLflow:
    """A run in MLFLOW_TRACKING_URI, or in a database in the folder; the experiment is MLFLOW_EXPERIMENT_NAME."""

    def __init__(self, folder: Path, run: str) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it is on by default, and goes to another host
        from mlflow import MlflowClient  # pyright: ignore[reportMissingImports] - installed by those who use it

        server, own = os.environ.get("MLFLOW_TRACKING_URI"), folder.resolve() / "mlflow.db"
        self.place = BY_ENVIRONMENT if server else str(own)
        self._client = MlflowClient(server or f"sqlite:///{own}")
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
        found = self._client.get_experiment_by_name(name)
        artifacts = None if server else (own.parent / "mlartifacts").as_uri()
        experiment = found.experiment_id if found else self._client.create_experiment(name, artifacts)
        self._run = self._client.create_run(experiment, run_name=run).info.run_id

    def log(self, numbers: Numbers, step: int) -> None:
        for name, value in numbers.items():
            self._client.log_metric(self._run, name, value, step=step)

    def close(self) -> None:
        self._client.set_terminated(self._run)


class Trackio:
    """A run in TRACKIO_DIR, or in the folder. The library reads that variable once: later runs of the same Python
    process go where the first one went."""

    def __init__(self, folder: Path, run: str) -> None:
        local = os.environ.setdefault("TRACKIO_DIR", str(folder.resolve() / "trackio"))
        import trackio  # pyright: ignore[reportMissingImports]

        server = os.environ.get("TRACKIO_SPACE_ID") or os.environ.get("TRACKIO_SERVER_URL")
        self.place = BY_ENVIRONMENT if server else local
        with contextlib.redirect_stdout(io.StringIO()):  # stdout is for results
            trackio.init(PROJECT, name=run, embed=False, auto_log_gpu=False, auto_log_cpu=False)
        self._trackio = trackio

    def log(self, numbers: Numbers, step: int) -> None:
        self._trackio.log(dict(numbers), step=step)

    def close(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            self._trackio.finish()


TRACKERS: Mapping[str, Callable[[Path, str], Tracker]] = {
    "mlflow": MLflow,
    "tensorboard": TensorBoard,
    "trackio": Trackio,
}


class Tracking:
    """The trackers of one run. One that fails is left out from then on: it must not end hours of work."""

    def __init__(self, names: Sequence[str] = (), folder: Path = Path(), say: Callable[[str], object] = print) -> None:
        self._say, self._step = say, 0
        self._open: dict[str, Tracker] = {}
        run = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H-%M-%SZ")
        if names:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in names:
            with self._or_without(name):
                self._open[name] = TRACKERS[name](folder, run)
                say(f"Numbers of this run go to {name}: {self._open[name].place}")

    def event(self, event: Event) -> None:
        """Send the numbers of a training event."""
        self._step = event.step
        self._send(numbers_of(event))

    def final(self, evaluation: EvaluationRecord) -> None:
        """Send the recommended rater's figures on the test records."""
        self._send(final_numbers(evaluation))

    def close(self) -> None:
        for name in list(self._open):
            with self._or_without(name):
                self._open.pop(name).close()

    def _send(self, numbers: Numbers) -> None:
        for name in list(self._open):
            with self._or_without(name):
                self._open[name].log(numbers, self._step)

    @contextlib.contextmanager
    def _or_without(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._open.pop(name, None)
            line = f"warning: {name} failed ({type(error).__name__}); the run goes on without it"
            self._say(line)
            log.warning("%s", line)


def check_trackers(names: Sequence[str]) -> tuple[str, ...]:
    """The names, each once. Raises UsageError for one that is not known, or whose library is not installed."""
    for name in names:
        if name not in TRACKERS:
            raise UsageError(f"log_to: {name!r} is not one of {', '.join(TRACKERS)}")
        require(name, f"--log-to {name}", name)
    return tuple(dict.fromkeys(names))


def numbers_of(event: Event) -> dict[str, float]:
    """The finite numbers of a training event under the names that trackers group by."""
    if isinstance(event, DevEvent):
        names = ("loss", "label_loss", "rationale_loss", "macro_f1", "accuracy")
        return _finite({f"validation/{name}": getattr(event, name) for name in names})
    found = {f"train/{name}": getattr(event, name) for name in ("loss", "learning_rate", "gradient_norm", "epoch")}
    return _finite({**found, "train/tokens_per_second": event.tokens / event.seconds if event.seconds else None})


def final_numbers(evaluation: EvaluationRecord) -> dict[str, float]:
    """Macro-F1, accuracy and log-loss of the recommended rater on the test records, with the ends of the intervals."""
    found: dict[str, float | None] = {}
    for rater in evaluation.evaluations[:1]:
        for name in ("macro_f1", "accuracy", "log_loss"):
            figure = getattr(rater, name)
            found[f"test/{name}"] = figure.value
            if figure.interval is not None:
                found |= {f"test/{name}_{end}": getattr(figure.interval, end) for end in ("low", "high")}
    return _finite(found)


def _finite(numbers: Mapping[str, float | None]) -> dict[str, float]:
    return {name: float(value) for name, value in numbers.items() if value is not None and math.isfinite(value)}
