"""Tokenize the dataset with the engine that serves the model, and rate the test records with the base."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import replace
from functools import partial

from ..engine.base import Engine
from ..engine.llama_cpp.engine import LlamaCppEngine
from ..engine.ollama.render import check_tokens
from ..estimate.job import BASE_SAMPLE, JobPlan, RunStage
from ..estimate.run_time import Served
from ..evaluate.judgement import rate_shown
from ..export.decision import decision_frame
from ..predict.score import sample_of
from ..rate.artifact import ANSWER_ROOM
from ..torch_engine import LLAMA_CPP, open_base, rating_in_a_run
from ..train.code_branch import NO_BRANCH, choose_branch
from ..train.encode import Tokenized, candidates, encode_all, rows_by_part
from ..train.recipe import TrainingPlan
from ..workspace import Workspace
from .plan import plan_time
from .state import EncodedDataset, NotTuned, as_value


def encode_dataset(plan: TrainingPlan | NotTuned, ws: Workspace) -> EncodedDataset | NotTuned:
    """Encode the dataset as token rows, and write the training's inputs to the folder.

    Raises DatasetError for records that are too long; nothing is written then.
    """
    return plan if isinstance(plan, NotTuned) else as_value(lambda: _encode(plan, ws))


def time_run(plan: TrainingPlan | NotTuned, ws: Workspace) -> tuple[TrainingPlan, JobPlan | None] | NotTuned:
    """Plan the run's time, for which the records are tokenized. Raises as `encode_dataset`."""

    def timed(plan: TrainingPlan) -> tuple[TrainingPlan, JobPlan | None]:
        with _tokenized(plan, ws) as (tokens, job, _):
            return tokens.plan, job

    return plan if isinstance(plan, NotTuned) else as_value(lambda: timed(plan))


@contextmanager
def _tokenized(plan: TrainingPlan, ws: Workspace) -> Iterator[tuple[Tokenized, JobPlan | None, Served]]:
    """The dataset in tokens, the plan of the time, and the engines, which are open in the block."""
    config, base, scale = plan.config, plan.base, plan.dataset.scale
    context = config.max_tokens + ANSWER_ROOM
    start = time.perf_counter()
    opened = base.open(context=context, threads=config.threads)
    open_seconds = time.perf_counter() - start
    with ws.stage("read"), opened as engine, _opened_to_compare(plan, engine, context) as rater:
        first = plan.dataset.examples.train[0].messages
        branch = choose_branch(engine, engine.render(first), len(scale.labels)) if config.code_branch else None
        whole, served = plan.dataset.with_codes(branch), Served(engine, rater, open_seconds)
        answers = candidates(engine, whole.examples.train[0], scale, branch)
        total = sum(whole.counts.parts().values()) + (len(whole.unlabelled.records) if whole.unlabelled else 0)
        with ws.progress.stage(RunStage.READ.shown, total=total, unit="records") as stage:
            weight = config.rationale_weight
            every = encode_all(engine, whole, answers, rationale_weight=weight, on_row=stage.advance)
        limit = min(config.max_tokens, engine.context)
        rows, dataset = rows_by_part(every, whole, limit, drop=config.long_records == "drop")
        if base.renderer is not None:
            check_tokens(base.renderer, engine, dataset.examples.train[0].messages)
        tokens = Tokenized(replace(plan, dataset=whole), dataset, rows, answers, branch, engine.context)
        planned, job = plan_time(tokens, served, ws)
        yield replace(tokens, plan=planned), job, served


def _opened_to_compare(plan: TrainingPlan, engine: LlamaCppEngine, context: int) -> AbstractContextManager[Engine]:
    """The engine that rates the base: our decoder, which is faster and reads every base that can be tuned."""
    if plan.config.engine == LLAMA_CPP:
        return nullcontext(engine)
    return closing(open_base(plan.base, rating_in_a_run(plan.config), context=context))


def _encode(plan: TrainingPlan, ws: Workspace) -> EncodedDataset:
    with _tokenized(plan, ws) as (tokens, job, served):
        dataset, branch, engine, config = tokens.dataset, tokens.branch, served.engine, tokens.plan.config
        ws.retire_earlier_run()
        tokens.plan.write(ws.folder)
        test = sample_of(dataset.examples.test, BASE_SAMPLE, config.seed)
        rate_base = partial(rate_shown, ws.progress, served.rater, test, dataset.scale, RunStage.BASE.shown)
        with ws.part("base"):
            rated = ws.once("base-test", tokens.plan.run_id, rate_base)
        return EncodedDataset(
            **vars(tokens),
            test=rated,
            notes=(*served.rater.notes, *((NO_BRANCH,) if config.code_branch and not branch else ())),
            folds_system=engine.folds_system,
            job=job,
            frame=decision_frame(engine, branch, dataset.examples.train) if branch else None,
        )
