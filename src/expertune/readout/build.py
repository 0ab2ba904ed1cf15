"""Fit the readout on the base's hidden states of the training records, and rate the other parts with it."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from .. import outputs
from ..errors import FineTuningNotSupportedError
from ..estimate.job import RunStage
from ..modelset.word_pool import FittedWords
from ..predict.score import Pass, Rated
from ..ratings.dataset import Dataset
from ..ratings.schema import Example
from ..record import ReadoutInfo
from ..stats.learning_curve import LearningCurve
from ..train.class_balance import Teacher
from ..train.encode import Row, Tokenized
from ..workspace import Workspace
from .classifier import ReadoutClassifier
from .curve import states_curve
from .fit import Fit, fit
from .record import VERSION, ReadoutRecord
from .states import BaseStates, PooledStates, TrainingPass

if TYPE_CHECKING:
    from ..model.states import SharedTokens

log = logging.getLogger("expertune")


@dataclass(frozen=True)
class Readout:
    """The fitted readout and its passes over validation and test records.

    `soft_labels`: the fused probabilities of each training record, by a fit that saw no record of its group, and of
    each record without a rating, by id. `curve`: the learning curve of its classifier on the states. `words`: the
    raters by word counts, fitted to the training records; None where words have no part in it.
    """

    record: ReadoutRecord
    dev: Pass
    test: Pass
    soft_labels: Mapping[str, tuple[float, ...]]
    curve: LearningCurve | None = None
    words: FittedWords | None = None

    @property
    def teacher(self) -> Teacher:
        return Teacher(self.soft_labels, self.record.label_weights)

    @property
    def info(self) -> ReadoutInfo:
        record = self.record
        return ReadoutInfo(
            output_file=outputs.READOUT,
            depths=record.depths,
            weights=record.weights,
            label_weights=dict(zip(record.rating_mapping, record.label_weights, strict=True)),
            out_of_fold={
                name: {"macro_f1": each.macro_f1, "log_loss": each.log_loss}
                for name, each in record.out_of_fold.items()
            },
        )


def build_readout(tokens: Tokenized, ws: Workspace) -> Readout | None:
    """Fit the readout; None if it cannot be fitted. Raises OutputError."""
    try:
        readout = _fitted(tokens, _states(tokens, ws), ws)
    except FineTuningNotSupportedError as error:
        log.warning("no readout: %s", error)
        return None
    if readout is None:
        log.warning("no readout: too few training records or groups for cross-validation")
        return None
    figures = "; ".join(
        f"{name} {each.macro_f1:.3f} / {each.log_loss:.3f}" for name, each in readout.record.out_of_fold.items()
    )
    log.info("readout: out-of-fold macro-F1 / log-loss: %s", figures)
    return readout


def _states(tokens: Tokenized, ws: Workspace) -> PooledStates:
    """States of all records, computed once: a resumed run reads them from the checkpoints."""
    from ..model.states import SharedTokens  # these import torch
    from ..train.checkpoint import CheckpointPlace

    path, run_id = ws.checkpoints / "states.npz", tokens.plan.run_id
    if ws.resume and (kept := PooledStates.read(path, run_id)):
        return kept
    rows = tokens.rows
    shared = SharedTokens.of([row.prompt for row in rows.train])
    place = CheckpointPlace(ws.checkpoints, run_id, ws.resume)
    training = TrainingPass((*rows.train, *rows.unlabelled), rows.dev, tokens.candidates, place)
    title, records = f"{RunStage.READOUT.shown}: reading the records", sum(map(len, rows.in_order))
    with ws.progress.stage(title, total=records, unit="records") as stage:
        start = time.perf_counter()
        base = BaseStates(tokens.plan.base.path, tokens.plan.config)
        parts = [
            base.of_training(training, shared, stage.advance),
            *(base.of([row.prompt for row in part], shared, on_prompt=stage.advance) for part in (rows.dev, rows.test)),
        ]
    found = PooledStates(np.concatenate(parts), base.depths, shared, time.perf_counter() - start)
    found.write(path, run_id)
    return found


def _fitted(tokens: Tokenized, states: PooledStates, ws: Workspace) -> Readout | None:
    dataset, config = tokens.dataset, tokens.plan.config
    rows, train = tokens.rows, dataset.split.train
    ends = np.cumsum([len(part) for part in rows.in_order])[:-1]
    of_parts = np.split(states.states_NLPD, ends)
    found, unlabelled, dev, test = (replace(states, states_NLPD=each) for each in of_parts)
    with ws.progress.stage(f"{RunStage.READOUT.shown}: fitting"):
        made = fit(train, found, dataset.scale, dataset.split.groups, seed=config.seed, words=not config.redact)
    if made is None:
        return None
    base = tokens.plan.base
    record = readout_record(made, dataset, base.name, base.sha256, found.shared)
    each = states.seconds / len(states.states_NLPD)

    def rate(examples: Sequence[Example], rows: Sequence[Row], part: PooledStates) -> Pass:
        rated = rate_by(record, examples, part)
        return Pass(rated, each * len(rows), 1 / each, sum(len(row.prompt) for row in rows))

    soft = {row.id: tuple(map(float, own)) for row, own in zip(train, made.out_of_fold_NK, strict=True)}
    if dataset.unlabelled and (others := dataset.unlabelled.records):
        shares = ReadoutClassifier(record).predict(unlabelled.after(record.depths), [each.prompt for each in others])
        soft |= {each.id: own for each, own in zip(others, shares, strict=True)}
    curve = states_curve(train, found, made.best_states, dataset.scale, dataset.split.groups, config)
    by_dev, by_test = rate(dataset.examples.dev, rows.dev, dev), rate(dataset.examples.test, rows.test, test)
    return Readout(record, by_dev, by_test, soft, curve, made.fitted_words)


def readout_record(
    made: Fit, dataset: Dataset, base_name: str, base_sha256: str, shared: SharedTokens
) -> ReadoutRecord:
    """The fit as the record of readout.json."""
    return ReadoutRecord(
        version=VERSION,
        base_model=base_name,
        base=base_sha256,
        created_at=outputs.now(),
        rating_mapping=dict(zip(dataset.scale.labels, dataset.scale.values, strict=True)),
        target_topics=dataset.topics,
        shared_beginning=shared.beginning,
        shared_end=shared.end,
        states=dict(made.states),
        words=dict(made.words),
        weights=dict(made.weights),
        label_bias=made.label_bias,
        label_weights=made.label_weights,
        out_of_fold=dict(made.figures),
    )


def rate_by(record: ReadoutRecord, examples: Sequence[Example], states: PooledStates) -> tuple[Rated, ...]:
    """The readout's ratings of records, by their states."""
    pairs = list(record.rating_mapping.items())
    readout = ReadoutClassifier(record)
    shares = readout.predict(states.after(record.depths), [each.record for each in examples])
    return tuple(
        Rated(example.id, *pairs[readout.choose(own)], own) for example, own in zip(examples, shares, strict=True)
    )
