"""The training loop: it reports events and leaves printing to others.

trainer = Trainer(tunable, train_rows, dev_rows, candidates, config, …)
for event in trainer.run():
    progress.show(event)
trainer.result
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..config import Config
from ..errors import Interrupted, TrainingFailedError
from ..model.load import Tunable
from ..model.memory import TOKENS_AT_ONCE
from . import checkpoint as checkpoints
from .batches import Batch, epoch_order, groups_of, parts_of, training_batch
from .checkpoint import Checkpoint
from .class_balance import balance
from .encode import Candidates, Row
from .evaluate import DevLook, look
from .events import DevEvent, Event, StepEvent
from .loss import weighted_loss


@dataclass(frozen=True)
class TrainingResult:
    """The kept state: the one that did best on the dev rows. `history` holds the events as plain mappings."""

    steps: int
    best_step: int
    macro_f1: float
    loss: float
    base_macro_f1: float
    history: tuple[dict[str, Any], ...]


class Trainer:
    """LoRA training of one adapter. `run` may be stopped after any step and taken up again bit for bit (on the CPU)."""

    def __init__(
        self,
        tunable: Tunable,
        train_rows: Sequence[Row],
        dev_rows: Sequence[Row],
        candidates: Candidates,
        config: Config,
        *,
        folder: Path | None = None,
        run_id: str = "",
        resume: bool = False,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        if not train_rows or not dev_rows:
            raise TrainingFailedError("no rows are left to train on or to choose by; add rows")
        self._tunable, self._train, self._dev, self._candidates = (
            tunable,
            tuple(train_rows),
            tuple(dev_rows),
            candidates,
        )
        self._config = config
        self._peak = float(config.learning_rate)
        self._balance = balance(config, candidates, self._train)
        self._folder, self._run_id, self._should_stop = folder, run_id, should_stop
        batches = math.ceil(len(train_rows) / config.batch_size)
        self.steps_in_epoch = math.ceil(batches / config.gradient_accumulation_steps)
        self.steps = max(1, math.ceil(float(config.epochs) * self.steps_in_epoch))
        values_P = tunable.lora.values_P
        values_P.grad = tunable.lora.gradients_P
        self._optimizer = torch.optim.AdamW([values_P], lr=self._peak, weight_decay=config.weight_decay)
        self._step, self._best_step, self._without_gain, self._done = 0, 0, 0, False
        self._best_P = values_P.clone()
        self._best_score = (-1.0, -math.inf)
        self._history: list[dict[str, Any]] = []
        self.last_look: DevLook | None = None
        if resume and folder is not None:
            self._take_up(checkpoints.load(folder, run_id))

    @property
    def step(self) -> int:
        """Steps that are done."""
        return self._step

    @property
    def result(self) -> TrainingResult:
        looks = [event for event in self._history if event["kind"] == "dev"]
        return TrainingResult(
            self._step,
            self._best_step,
            self._best_score[0],
            -self._best_score[1],
            looks[0]["macro_f1"],
            tuple(self._history),
        )

    def run(self) -> Iterator[Event]:
        """Train to the end or to the last gain; afterwards the adapter holds the best state.

        Raises Interrupted after a stop (the state is on disk) and TrainingFailedError where the loss is no number.
        """
        if self._step == 0 and not self._history:
            yield self._look()
        saved = time.monotonic()
        while not self._done and self._step < self.steps:
            yield self.one_step()
            if self._step in self._look_steps():
                yield self._look()
                self._done = self._without_gain >= self._config.early_stopping_patience
            if self._should_stop():
                self._save()
                raise Interrupted(
                    f"stopped after step {self._step} of {self.steps}; run the same command with --resume to go on"
                )
            if time.monotonic() - saved >= self._config.checkpoint_seconds:
                self._save()
                saved = time.monotonic()
        self._done = True
        self._save()
        self._tunable.lora.load(self._best_P)

    def one_step(self) -> StepEvent:
        """One step of the optimiser, without a look. Raises TrainingFailedError where the loss is no number."""
        start = time.perf_counter()
        lora = self._tunable.lora
        lora.gradients_P.zero_()
        batches = self._batches(self._step)
        weight = sum(float(batch.weights_N.sum()) for batch in batches)
        loss = sum(self._backward(batch, weight) for batch in batches)
        norm = float(torch.linalg.vector_norm(lora.gradients_P))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise TrainingFailedError(
                f"the loss became no number at step {self._step + 1}; "
                "lower --learning-rate or take --compute-dtype fp32"
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

    def _backward(self, batch: Batch, weight: float) -> float:
        device, decoder = self._tunable.placement.device, self._tunable.decoder
        hidden_ND = decoder.hidden(batch.pack, batch.places_N)
        targets_N, weights_N = batch.targets_N.to(device), batch.weights_N.to(device)
        loss = weighted_loss(decoder, hidden_ND, targets_N, weights_N, batch.offsets) / weight
        loss.backward()
        return float(loss.detach())

    def _batches(self, step: int) -> list[Batch]:
        """The batches of a step: a function of seed and step, so that a resumed run sees the same ones."""
        epoch, within = divmod(step, self.steps_in_epoch)
        order = epoch_order(len(self._train), seed=self._config.seed, epoch=epoch)
        first = within * self._config.gradient_accumulation_steps * self._config.batch_size
        rows = order[first : first + self._config.gradient_accumulation_steps * self._config.batch_size]
        limit = TOKENS_AT_ONCE[self._tunable.placement.device.type]
        return [
            training_batch(part, self._balance.weights, self._balance.offsets)
            for group in groups_of(self._train, rows, self._config.batch_size)
            for part in parts_of(group, limit)
        ]

    def _learning_rate(self, step: int) -> float:
        """Linear warm-up, then a cosine to zero."""
        warm = math.ceil(self._config.warmup_ratio * self.steps)
        if step < warm:
            return self._peak * (step + 1) / warm
        return self._peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm)))

    def _look_steps(self) -> set[int]:
        every = max(1, self.steps_in_epoch // self._config.evals_per_epoch)
        return {*range(every, self.steps, every), self.steps}

    def _look(self) -> DevEvent:
        start = time.perf_counter()
        seen = look(self._tunable, self._dev, self._candidates, batch_size=max(8, self._config.batch_size))
        self.last_look = seen
        score = (seen.macro_f1, -seen.loss)
        best = score > self._best_score
        if best:
            self._best_score, self._best_step = score, self._step
            self._best_P.copy_(self._tunable.lora.values_P)
        self._without_gain = 0 if best else self._without_gain + 1
        event = DevEvent(
            self._step,
            self.steps,
            seen.loss,
            seen.label_loss,
            seen.rationale_loss,
            seen.macro_f1,
            seen.accuracy,
            best,
            time.perf_counter() - start,
        )
        self._history.append({"kind": "dev", **asdict(event)})
        return event

    def _save(self) -> None:
        if self._folder is None:
            return
        state = self._optimizer.state.get(self._tunable.lora.values_P, {})
        empty_P = torch.zeros_like(self._best_P)
        checkpoints.save(
            self._folder,
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
            self._run_id,
        )

    def _take_up(self, saved: Checkpoint | None) -> None:
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
        self._step, self._best_step, self._without_gain = saved.step, saved.best_step, saved.looks_without_gain
        self._best_score, self._done = saved.best_score, saved.done
        self._history = [dict(event) for event in saved.history]
        if saved.done:
            lora.load(saved.best_P)
