"""Class weighting: given, or found by trying on the dev rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..config import Config
from ..model.load import Tunable
from .encode import Candidates, Row
from .events import Event
from .loop import Trainer, TrainingResult

EVEN = 1.5  # largest class over smallest: below, weighting changes too little to be worth a second training


@dataclass(frozen=True)
class Trial:
    """One training with one weighting, and what it reached on dev."""

    weighting: str
    result: TrainingResult


class Trials:
    """Trains once for each weighting to try; afterwards the adapter holds the best state of the best one."""

    def __init__(
        self,
        tunable: Tunable,
        train_rows: Sequence[Row],
        dev_rows: Sequence[Row],
        candidates: Candidates,
        config: Config,
        *,
        folder: Path,
        run_id: str,
        resume: bool,
        should_stop: Callable[[], bool],
    ) -> None:
        self._tunable, self._train, self._dev, self._candidates = tunable, train_rows, dev_rows, candidates
        self._config, self._folder, self._run_id = config, folder, run_id
        self._resume, self._should_stop = resume, should_stop
        self.weightings = weightings(config.class_weight, train_rows)
        self.done: list[Trial] = []
        self.best: Trial | None = None

    def run(self) -> Iterator[tuple[str, Event]]:
        """Events with the name of their weighting."""
        kept_P = self._tunable.lora.values_P.clone()
        for weighting in self.weightings:
            self._tunable.lora.restart()
            trainer = Trainer(
                self._tunable,
                self._train,
                self._dev,
                self._candidates,
                self._config,
                class_weights=class_weights(weighting, self._train, len(self._candidates.own)),
                folder=self._folder / weighting,
                run_id=f"{self._run_id}-{weighting}",
                resume=self._resume,
                should_stop=self._should_stop,
            )
            for event in trainer.run():
                yield weighting, event
            trial = Trial(weighting, trainer.result)
            self.done.append(trial)
            if self.best is None or _score(trial) > _score(self.best):
                self.best = trial
                kept_P.copy_(self._tunable.lora.values_P)
        self._tunable.lora.load(kept_P)


def _score(trial: Trial) -> tuple[float, float]:
    return trial.result.macro_f1, -trial.result.loss


def weightings(wanted: str, rows: Sequence[Row]) -> tuple[str, ...]:
    """What to try: "auto" tries both where the classes are uneven."""
    if wanted != "auto":
        return (wanted,)
    counts = Counter(row.label for row in rows).values()
    return ("none", "balanced") if max(counts) > EVEN * min(counts) else ("none",)


def class_weights(weighting: str, rows: Sequence[Row], labels: int) -> list[float]:
    """A factor for each label: 1, or rows / (classes · rows of the class); a label without rows gets 1."""
    counts = Counter(row.label for row in rows)
    if weighting == "none":
        return [1.0] * labels
    return [len(rows) / (len(counts) * counts[label]) if counts[label] else 1.0 for label in range(labels)]
