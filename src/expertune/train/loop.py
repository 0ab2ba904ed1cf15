"""The training loop: it yields events; showing them is left to the caller.

trainer = Trainer(tunable, TrainingData(train_rows, dev_rows, candidates), config)
for event in trainer.run():
    progress.show(event)
trainer.result
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch

from ..config import Config
from ..errors import Interrupted, RankLostError, TrainingFailedError
from ..model.load import Tunable
from ..model.memory import tokens_at_once
from . import checkpoint
from .adamw import AdamW
from .batches import (
    Batch,
    epoch_order,
    groups_of,
    micro_batches,
    rows_of_evaluation,
    shared_beginning,
    training_batch,
)
from .checkpoint import Checkpoint, CheckpointPlace
from .class_balance import balance
from .cuda_graph import GraphedStep
from .data import TrainingData, TrainingResult
from .evaluate import DevEvaluation, evaluate
from .events import DevEvent, Event, StepEvent, evaluations_of
from .loss import weighted_loss
from .ranks import ALONE, Ranks, T
from .rows import training_rows
from .schedule import Schedule
from .trunk import Trunk, make_trunk, packs_of_all


class Trainer:
    """LoRA training of one adapter. A stopped `run` can be resumed with bit-identical results (on the CPU).
    Of several `ranks` each has a Trainer with the same data; rank 0 writes."""

    def __init__(
        self,
        tunable: Tunable,
        data: TrainingData,
        config: Config,
        *,
        checkpoints: CheckpointPlace | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        ranks: Ranks = ALONE,
    ) -> None:
        self._ranks = ranks
        self._tunable, self._data, self._config = tunable, data, config
        self._checkpoints, self._should_stop = checkpoints, should_stop
        self._balance = balance(config, data.candidates, data.train, data.teacher)
        self._shared = shared_beginning(data.train)
        self._trunk: Trunk | None = None
        self.schedule = Schedule.of(config, len(data.train))
        values_P = tunable.lora.values_P
        self._optimizer = AdamW(values_P, weight_decay=config.weight_decay)
        self._graphed = GraphedStep(tunable) if tunable.decoder.fills_rows else None
        self._step, self._best_step, self._without_gain, self._done = 0, 0, 0, False
        self._best_P = values_P.clone()
        self._best_score = (-1.0, -math.inf)
        self._base_log_RK = self._best_log_RK = torch.empty(0, len(data.candidates.own))
        self._best_code_log_RK: torch.Tensor | None = None
        self._history: list[Event] = []
        self.last_evaluation: DevEvaluation | None = None
        if checkpoints is not None and checkpoints.resume:
            self._resume(ranks.first(partial(checkpoint.load, checkpoints.folder, checkpoints.run_id)))

    @property
    def trunk_rows(self) -> int:
        """Number of rows that `read_trunk` reads; 0 if no block is below the adapted ones, or if all steps are done."""
        useful = self._checkpoints is not None and self._tunable.decoder.trunk_blocks > 0 and not self._done
        return len(self._data.train) + len(self._data.dev) if useful and self._graphed is None else 0

    def read_trunk(self, advance: Callable[[int], object] = lambda rows: None) -> None:
        """Compute the blocks below the adapted ones once for all rows; without it each step computes them again.

        Raises Interrupted after a stop.
        """

        def go_on(rows: int) -> None:
            advance(rows)
            if self._should_stop():
                raise Interrupted("stopped before the training; run the same command with --resume to continue")

        if self.trunk_rows and self._checkpoints is not None:
            data, dev_rows = self._data, rows_of_evaluation(self._config)
            packs = partial(packs_of_all, data.train, data.dev, data.candidates, dev_rows=dev_rows)
            make = partial(make_trunk, self._tunable, packs, self._checkpoints, go_on)
            self._trunk = make() if self._ranks.rank == 0 else None
            if self._ranks.first(lambda: self._trunk is not None):
                self._trunk = self._trunk or make(write=False)

    @property
    def step(self) -> int:
        """Number of finished steps."""
        return self._step

    @property
    def result(self) -> TrainingResult:
        """The best state so far; available once the base has been evaluated."""
        return TrainingResult(
            self._step,
            self._best_step,
            self._best_score[0],
            -self._best_score[1],
            evaluations_of(self._history)[0].macro_f1,
            tuple(self._history),
            self._base_log_RK,
            self._best_log_RK,
            self._best_code_log_RK,
        )

    @property
    def steps(self) -> int:
        """Number of steps of the whole training."""
        return self.schedule.steps

    def run(self, seconds: float | None = None) -> Iterator[Event]:
        """Train to the end or until early stopping; afterwards the adapter holds the best state.

        With `seconds` to train in, the number of steps is settled once more, from the speed of the first tenth.
        Raises Interrupted after a stop and RankLostError (the state is saved), and TrainingFailedError if the loss is
        NaN or infinite.
        """
        started, limit = time.monotonic(), self._ranks.first(lambda: seconds)
        if self._step == 0 and not self._history:
            yield self._evaluate()
        saved = time.monotonic()
        while not self._done and self._step < self.steps:
            yield self._saved_if_lost(self.one_step)
            if limit is not None:
                left = limit - (time.monotonic() - started)
                self.schedule = self._ranks.first(partial(self.schedule.within, left, self._history))
            if self._step in self.schedule.evaluation_steps():
                yield self._evaluate()
                self._done = self._without_gain >= self._config.early_stopping_patience
            if any(self._saved_if_lost(lambda: self._ranks.sum(self._should_stop()))):
                self._save()
                raise Interrupted(
                    f"stopped after step {self._step} of {self.steps}; run the same command with --resume to continue"
                )
            if time.monotonic() - saved >= self._config.checkpoint_seconds:
                self._save()
                saved = time.monotonic()
        self._done = True
        self._save()
        self._tunable.lora.load(self._best_P)
        if self._trunk is not None and self._ranks.rank == 0:
            self._trunk.remove()
        self._trunk = None

    def one_step(self) -> StepEvent:
        """One optimiser step without an evaluation. Raises TrainingFailedError if the loss is NaN or infinite."""
        start = time.perf_counter()
        lora = self._tunable.lora
        lora.gradients_P.zero_()
        batches = self._batches(self._step)
        weight, tokens = self._ranks.sum(sum(each.weight for each in batches), sum(each.tokens for each in batches))
        losses = [self._backward(batch, weight) for batch in batches]
        loss = self._ranks.add_up(lora.gradients_P, sum(map(float, losses)))
        norm = float(torch.linalg.vector_norm(lora.gradients_P))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise TrainingFailedError(
                f"loss is NaN or infinite at step {self._step + 1}; lower --learning-rate or use --compute-dtype fp32"
            )
        if norm > self._config.max_grad_norm:
            lora.gradients_P.mul_(self._config.max_grad_norm / norm)
        rate = self.schedule.learning_rate(self._step)
        self._optimizer.step(lora.gradients_P, rate)
        lora.refresh()
        self._step += 1
        event = StepEvent(
            self._step,
            self.steps,
            self._step / self.schedule.steps_in_epoch,
            loss,
            rate,
            norm,
            int(tokens),
            time.perf_counter() - start,
        )
        self._history.append(event)
        return event

    def _backward(self, batch: Batch, weight: float) -> torch.Tensor | float:
        if self._graphed is not None:
            return self._graphed.backward(batch, weight)
        device, decoder = self._tunable.placement.device, self._tunable.decoder
        hidden_ND = decoder.hidden(batch.pack, batch.places_N, self._trunk and self._trunk.start(batch.pack))
        targets_N, weights_N = batch.targets_N.to(device), batch.weights_N.to(device)
        loss = weighted_loss(decoder, hidden_ND, targets_N, weights_N, batch.decisions) / weight
        loss.backward()
        return float(loss.detach())

    def _batches(self, step: int) -> list[Batch]:
        """Batches of a step; they depend only on seed and step, so that a resumed run has the same ones."""
        epoch, within = divmod(step, self.schedule.steps_in_epoch)
        rated = self._data.rated
        order = epoch_order(rated, seed=self._config.seed, epoch=epoch, unrated=len(self._data.train) - rated)
        first = within * self._config.gradient_accumulation_steps * self._config.batch_size
        rows = order[first : first + self._config.gradient_accumulation_steps * self._config.batch_size]
        if self._ranks.count > 1:  # dealt out by length, so that all have about as much to compute
            rows = self._ranks.share(sorted(rows, key=lambda at: self._data.train[at].length))
        decoder, device = self._tunable.decoder, self._tunable.placement.device.type
        limit = tokens_at_once(device, decoder.config, decoder.first_adapted)
        make = partial(training_batch, shared=self._shared) if self._graphed is None else training_rows
        make = partial(make, code=self._data.candidates.code, code_weight=self._config.code_weight)
        return [
            make(part, self._balance.weights, self._balance.decisions)
            for group in groups_of(self._data.train, rows, self._config.batch_size)
            for part in micro_batches(group, limit, self._shared)
        ]

    def _evaluate(self) -> DevEvent:
        start = time.perf_counter()
        found = evaluate(
            self._tunable,
            self._data.dev,
            self._data.candidates,
            batch_size=rows_of_evaluation(self._config),
            trunk=self._trunk,
            ranks=self._ranks,
        )
        self.last_evaluation = found
        score = (found.macro_f1, -found.label_loss)
        # A later state is kept unless it is worse in both: the best of several by one figure of few rows is chance
        best = any(new > old for new, old in zip(score, self._best_score, strict=True))
        if not self._history:
            self._base_log_RK = found.log_probabilities_RK
        if best:
            self._best_score, self._best_step, self._best_log_RK = score, self._step, found.log_probabilities_RK
            self._best_code_log_RK = found.code_log_RK
            self._best_P.copy_(self._tunable.lora.values_P)
        self._without_gain = 0 if best else self._without_gain + 1
        event = DevEvent(
            self._step,
            self.steps,
            found.loss,
            found.label_loss,
            found.rationale_loss,
            found.macro_f1,
            found.accuracy,
            best,
            time.perf_counter() - start,
        )
        self._history.append(event)
        return event

    def _saved_if_lost(self, act: Callable[[], T]) -> T:
        """The result of `act`; the state after the last step is saved if a process was lost in it."""
        try:
            return act()
        except RankLostError:
            self._save()
            raise

    def _save(self) -> None:
        if self._checkpoints is None or self._ranks.rank:
            return
        checkpoint.save(
            self._checkpoints.folder,
            Checkpoint(
                self._step,
                self._tunable.lora.values_P.cpu(),
                self._optimizer.first_moment_P.cpu(),
                self._optimizer.second_moment_P.cpu(),
                self._best_P.cpu(),
                self._best_score,
                self._best_step,
                self._without_gain,
                tuple(self._history),
                self._done,
                self._base_log_RK,
                self._best_log_RK,
                self.schedule.steps if self.schedule.settled else None,
                self._best_code_log_RK,
            ),
            self._checkpoints.run_id,
        )

    def _resume(self, saved: Checkpoint | None) -> None:
        if saved is None:
            return
        lora = self._tunable.lora
        lora.load(saved.values_P)
        self._best_P.copy_(saved.best_P)
        self._optimizer.resume(saved.step, saved.first_moment_P, saved.second_moment_P)
        self._step, self._best_step, self._without_gain = saved.step, saved.best_step, saved.evaluations_without_gain
        self._best_score, self._done = saved.best_score, saved.done
        self._base_log_RK, self._best_log_RK = saved.base_log_RK, saved.best_log_RK
        self._best_code_log_RK = saved.best_code_log_RK
        self._history = list(saved.history)
        if saved.settled_steps is not None:
            self.schedule = replace(self.schedule, steps=saved.settled_steps, settled=True)
        if saved.done:
            lora.load(saved.best_P)
