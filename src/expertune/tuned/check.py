"""Write the merged file of a tuned model, and check it on the validation records."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..errors import EngineError
from ..estimate.job import SERVED_SAMPLE, RunStage
from ..evaluate.compare import groups_of
from ..evaluate.judgement import dev_macro_f1, rate_shown
from ..export.agreement import CheckedFile, ValidationTruth, check
from ..export.merged import MergeTarget, merged_bytes, write_merged
from ..export.quant_types import TypeChoice
from ..predict.score import Rated, sample_of
from ..torch_engine import LLAMA_CPP, rate_validation
from ..train.advice import failed, rate_too_high
from ..train.encode import Tokenized
from ..workspace import Workspace
from .adapter import TrainedAdapter

log = logging.getLogger("expertune")

MEGABYTE = 1_000_000


@contextmanager
def served_or_diverged(trained: TrainedAdapter) -> Iterator[None]:
    """Raise TrainingFailedError for an adapter that has diverged: without probabilities, or none that can be served."""
    if any(math.isnan(each.probabilities[0]) for each in trained.adapter_dev):
        raise failed("the trained adapter gives no probabilities", trained.history)
    try:
        yield
    except EngineError as error:
        if not rate_too_high(trained.history):
            raise
        raise failed(f"the tuned file cannot be served ({error})", trained.history) from error


def write_file(target: MergeTarget, ws: Workspace, choices: Sequence[TypeChoice]) -> None:
    total = merged_bytes(target.base, choices) // MEGABYTE
    with ws.progress.stage(RunStage.WRITE.shown, total=total, unit="MB") as stage:
        write_merged(target, choices, progress=lambda done, _: stage.advance(done // MEGABYTE - stage.done))


def check_file(
    tokens: Tokenized, trained: TrainedAdapter, target: MergeTarget, ws: Workspace, attempt: int
) -> CheckedFile:
    """Rate the validation records with the merged file, by our decoder and, a sample or all of them, by llama.cpp, and
    compare with the adapter.
    """
    plan, dataset, rows = tokens.plan, tokens.dataset, tokens.rows.dev
    config, examples = plan.config, dataset.examples.dev
    some = examples if config.engine == LLAMA_CPP else sample_of(examples, SERVED_SAMPLE, config.seed)
    title = RunStage.CHECK.shown + (" (attempt 2, at a higher precision)" if attempt > 1 else "")
    with (
        ws.part("check"),
        plan.base.open(context=tokens.context, threads=config.threads, file=target.path) as engine,
    ):
        served = rate_shown(ws.progress, engine, some, dataset.scale, title)
    with ws.part("check"), ws.progress.stage(f"{RunStage.CHECK.shown}: by a second program"):
        reread, by_code = rate_validation(target.path, tokens)
    ids = {each.id for each in some}
    compared = [row for row in rows if row.id in ids]
    truth = ValidationTruth(
        [row.label for row in compared], groups_of([row.id for row in compared], dataset.split.groups)
    )
    adapter, reader = ([each for each in by if each.id in ids] for by in (trained.adapter_dev, reread.rated))
    agreement = check(adapter, served.rated, reader, truth, config)
    log.info("attempt %d: %s", attempt, agreement)
    return CheckedFile(served, reread, agreement, by_code)


def require_gain_over_base(by_file: Sequence[Rated], trained: TrainedAdapter, tokens: Tokenized) -> None:
    """Raise TrainingFailedError unless the file is better than its base on the validation records, by one reader."""
    dataset, config = tokens.dataset, tokens.plan.config
    file, base = (dev_macro_f1(each, dataset, config) for each in (by_file, trained.base_dev))
    log.info("validation macro-F1: file %.4f, base %.4f", file, base)
    if file <= base:
        figures = f"{len(by_file)} validation records (macro-F1 {file:.3f} against {base:.3f})"
        raise failed(f"the tuned model is not better than its base on the {figures}", trained.history)
