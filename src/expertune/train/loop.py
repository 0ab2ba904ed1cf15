"""The training loop: it yields events; showing them is left to the caller.

trainer = Trainer(tunable, TrainingData(train_rows, dev_rows, candidates), config)
for event in trainer.run():
    progress.show(event)
trainer.result
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ..config import Config
from ..errors import Interrupted, TrainingFailedError
from ..model.load import Tunable
from ..model.memory import TOKENS_AT_ONCE
from . import checkpoint
from .batches import Batch, epoch_order, groups_of, micro_batches, training_batch
from .checkpoint import Checkpoint, CheckpointPlace
from .class_balance import balance
from .cuda_graph import GraphedStep
from .encode import Candidates, Row
from .evaluate import DevEvaluation, evaluate
from .events import DevEvent, Event, StepEvent
from .loss import weighted_loss
from .rows import training_rows


@dataclass(frozen=True)
class TrainingResult:
    """The best state on the dev rows. `history` contains the events as plain mappings."""

    steps: int
    best_step: int
    macro_f1: float
    loss: float
    base_macro_f1: float
    history: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class TrainingData:
    """Rows to train on, rows to choose the best state by, and the candidate answers of the labels.

    Raises TrainingFailedError if a part is empty.
    """

    train: Sequence[Row]
    dev: Sequence[Row]
    candidates: Candidates

    def __post_init__(self) -> None:
        if not self.train or not self.dev:
            raise TrainingFailedError("no rows are left to train on or to evaluate on; add rows")


class Trainer:
    """LoRA training of one adapter. A stopped `run` can be resumed with bit-identical results (on the CPU)."""

    def __init__(
        self,
        tunable: Tunable,
        data: TrainingData,
        config: Config,
        *,
        checkpoints: CheckpointPlace | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._tunable, self._data, self._config = tunable, data, config
        self._checkpoints, self._should_stop = checkpoints, should_stop
        self._peak = float(config.learning_rate)
        self._balance = balance(config, data.candidates, data.train)
        batches = math.ceil(len(data.train) / config.batch_size)
        self.steps_in_epoch = math.ceil(batches / config.gradient_accumulation_steps)
        self.steps = max(1, math.ceil(float(config.epochs) * self.steps_in_epoch))
        values_P = tunable.lora.values_P
        values_P.grad = tunable.lora.gradients_P
        self._optimizer = torch.optim.AdamW([values_P], lr=self._peak, weight_decay=config.weight_decay)
        self._graphed = GraphedStep(tunable) if tunable.decoder.fills_rows else None
        self._step, self._best_step, self._without_gain, self._done = 0, 0, 0, False
        self._best_P = values_P.clone()
        self._best_score = (-1.0, -math.inf)
        self._history: list[dict[str, Any]] = []
        self.last_evaluation: DevEvaluation | None = None
        if checkpoints is not None and checkpoints.resume:
            self._resume(checkpoint.load(checkpoints.folder, checkpoints.run_id))

    @property
    def step(self) -> int:
        """Number of finished steps."""
        return self._step

    @property
    def result(self) -> TrainingResult:
        """The best state so far; available once the base has been evaluated."""
        evaluations = [event for event in self._history if event["kind"] == "dev"]
        return TrainingResult(
            self._step,
            self._best_step,
            self._best_score[0],
            -self._best_score[1],
            evaluations[0]["macro_f1"],
            tuple(self._history),
        )

    def run(self) -> Iterator[Event]:
        """Train to the end or until early stopping; afterwards the adapter holds the best state.

        Raises Interrupted after a stop (the state is saved) and TrainingFailedError if the loss is NaN or infinite.
        """
        if self._step == 0 and not self._history:
            yield self._evaluate()
        saved = time.monotonic()
        while not self._done and self._step < self.steps:
            yield self.one_step()
            if self._step in self._evaluation_steps():
                yield self._evaluate()
                self._done = self._without_gain >= self._config.early_stopping_patience
            if self._should_stop():
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

    def one_step(self) -> StepEvent:
        """One optimiser step without an evaluation. Raises TrainingFailedError if the loss is NaN or infinite."""
        start = time.perf_counter()
        lora = self._tunable.lora
        lora.gradients_P.zero_()
        batches = self._batches(self._step)
        weight = sum(float(batch.weights_N.sum()) for batch in batches)
        losses = [self._backward(batch, weight) for batch in batches]
        norm = float(torch.linalg.vector_norm(lora.gradients_P))
        loss = sum(map(float, losses))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise TrainingFailedError(
                f"loss is NaN or infinite at step {self._step + 1}; lower --learning-rate or use --compute-dtype fp32"
            )
        if norm > self._config.max_grad_norm:
            lora.gradients_P.mul_(self._config.max_grad_norm / norm)
        rate = self._learning_rate(self._step)
        self._optimizer.param_groups[0]["lr"] = rate
        self._optimizer.step()
        lora.refresh()
        self._step += 1
        event = StepEvent(
            self._step,
            self.steps,
            self._step / self.steps_in_epoch,
            loss,
            rate,
            norm,
            sum(batch.tokens for batch in batches),
            time.perf_counter() - start,
        )
        self._history.append({"kind": "step", **asdict(event)})
        return event

    def _backward(self, batch: Batch, weight: float) -> torch.Tensor | float:
        if self._graphed is not None:
            return self._graphed.backward(batch, weight)
        device, decoder = self._tunable.placement.device, self._tunable.decoder
        hidden_ND = decoder.hidden(batch.pack, batch.places_N)
        targets_N, weights_N = batch.targets_N.to(device), batch.weights_N.to(device)
        loss = weighted_loss(decoder, hidden_ND, targets_N, weights_N, batch.offsets) / weight
        loss.backward()
        return float(loss.detach())

    def _batches(self, step: int) -> list[Batch]:
        """Batches of a step; they depend only on seed and step, so that a resumed run has the same ones."""
        epoch, within = divmod(step, self.steps_in_epoch)
        order = epoch_order(len(self._data.train), seed=self._config.seed, epoch=epoch)
        first = within * self._config.gradient_accumulation_steps * self._config.batch_size
        rows = order[first : first + self._config.gradient_accumulation_steps * self._config.batch_size]
        limit = TOKENS_AT_ONCE[self._tunable.placement.device.type]
        make = training_batch if self._graphed is None else training_rows
        return [
            make(part, self._balance.weights, self._balance.offsets)
            for group in groups_of(self._data.train, rows, self._config.batch_size)
            for part in micro_batches(group, limit)
        ]

    def _learning_rate(self, step: int) -> float:
        """Linear warm-up, then cosine decay to zero."""
        warm = math.ceil(self._config.warmup_ratio * self.steps)
        if step < warm:
            return self._peak * (step + 1) / warm
        return self._peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm)))

    def _evaluation_steps(self) -> set[int]:
        every = max(1, self.steps_in_epoch // self._config.evals_per_epoch)
        return {*range(every, self.steps, every), self.steps}

    def _evaluate(self) -> DevEvent:
        start = time.perf_counter()
        batch_size = max(8, self._config.batch_size)
        found = evaluate(self._tunable, self._data.dev, self._data.candidates, batch_size=batch_size)
        self.last_evaluation = found
        score = (found.macro_f1, -found.loss)
        best = score > self._best_score
        if best:
            self._best_score, self._best_step = score, self._step
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
        self._history.append({"kind": "dev", **asdict(event)})
        return event

    def _save(self) -> None:
        if self._checkpoints is None:
            return
        state = self._optimizer.state.get(self._tunable.lora.values_P, {})
        empty_P = torch.zeros_like(self._best_P)
        checkpoint.save(
            self._checkpoints.folder,
            Checkpoint(
                self._step,
                self._tunable.lora.values_P.cpu(),
                state.get("exp_avg", empty_P).cpu(),
                state.get("exp_avg_sq", empty_P).cpu(),
                self._best_P.cpu(),
                self._best_score,
                self._best_step,
                self._without_gain,
                tuple(self._history),
                self._done,
            ),
            self._checkpoints.run_id,
        )

    def _resume(self, saved: Checkpoint | None) -> None:
        if saved is None:
            return
        lora = self._tunable.lora
        lora.load(saved.values_P)
        self._best_P.copy_(saved.best_P)
        self._optimizer.state[lora.values_P] = {
            "step": torch.tensor(float(saved.step)),
            "exp_avg": saved.first_moment_P.to(lora.values_P.device),
            "exp_avg_sq": saved.second_moment_P.to(lora.values_P.device),
        }
        self._step, self._best_step, self._without_gain = saved.step, saved.best_step, saved.evaluations_without_gain
        self._best_score, self._done = saved.best_score, saved.done
        self._history = [dict(event) for event in saved.history]
        if saved.done:
            lora.load(saved.best_P)
