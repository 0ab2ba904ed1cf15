"""Tokenize the dataset with the engine that serves the model, and rate the test records with the base."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

from ..engine.base import Engine
from ..engine.llama_cpp.engine import LlamaCppEngine
from ..engine.ollama.render import check_tokens
from ..estimate.job import BASE_SAMPLE, TITLES
from ..estimate.run_time import Served
from ..evaluate.judgement import rate_shown
from ..export.decision import decision_frame
from ..predict.score import sample_of
from ..rate.artifact import ANSWER_ROOM
from ..ratings.codes import CodeBranch
from ..ratings.dataset import Dataset
from ..torch_engine import LLAMA_CPP, open_base, rating_in_a_run
from ..train.code_branch import NO_BRANCH, choose_branch
from ..train.encode import Candidates, Row, candidates, encode_all, rows_by_part
from ..workspace import Workspace
from .plan import plan_time, write_inputs
from .state import EncodedDataset, NotTuned, TrainingPlan, as_value


def encode_dataset(plan: TrainingPlan | NotTuned, ws: Workspace) -> EncodedDataset | NotTuned:
    """Encode the dataset as token rows, and write the training's inputs to the folder.

    Raises DatasetError for records that are too long; nothing is written then.
    """
    return plan if isinstance(plan, NotTuned) else as_value(lambda: _encode(plan, ws))


def time_run(plan: TrainingPlan | NotTuned, ws: Workspace) -> TrainingPlan | NotTuned:
    """Add the plan of the run's time, for which the records are tokenized. Raises as `encode_dataset`."""

    def timed(plan: TrainingPlan) -> TrainingPlan:
        with _tokenized(plan, ws) as found:
            return found.plan

    return plan if isinstance(plan, NotTuned) else as_value(lambda: timed(plan))


@dataclass(frozen=True)
class _Tokenized:
    """Token rows, the plan with its times, and the open engines: that of the file, and that of the base's ratings."""

    rows: Mapping[str, tuple[Row, ...]]
    candidates: Candidates
    dataset: Dataset
    plan: TrainingPlan
    engine: LlamaCppEngine
    rater: Engine
    branch: CodeBranch | None


@contextmanager
def _tokenized(plan: TrainingPlan, ws: Workspace) -> Iterator[_Tokenized]:
    config, base, scale = plan.config, plan.base, plan.dataset.scale
    context = config.max_tokens + ANSWER_ROOM
    start = time.perf_counter()
    opened = base.open(context=context, threads=config.threads)
    open_seconds = time.perf_counter() - start
    with ws.stage("read"), opened as engine, _opened_to_compare(plan, engine, context) as rater:
        branch = _code_branch(plan, engine)
        whole = plan.dataset.with_codes(branch)
        answers = candidates(engine, whole.examples["train"][0], scale, branch)
        total = sum(whole.counts.values()) + (len(whole.unlabelled.records) if whole.unlabelled else 0)
        with ws.progress.stage(TITLES["read"], total=total, unit="records") as stage:
            weight = config.rationale_weight
            every = encode_all(engine, whole, answers, rationale_weight=weight, on_row=stage.advance)
        limit = min(config.max_tokens, engine.context)
        rows, dataset = rows_by_part(every, whole, limit, drop=config.long_records == "drop")
        if base.renderer is not None:
            check_tokens(base.renderer, engine, dataset.examples["train"][0].messages)
        served = Served(engine, rater, open_seconds, branch)
        planned = plan_time(replace(plan, dataset=whole), dataset, rows, served, ws)
        yield _Tokenized(rows, answers, dataset, planned, engine, rater, branch)


def _code_branch(plan: TrainingPlan, engine: Engine) -> CodeBranch | None:
    if not plan.config.code_branch:
        return None
    dataset = plan.dataset
    return choose_branch(engine, engine.render(dataset.examples["train"][0].messages), len(dataset.scale.labels))


def _opened_to_compare(plan: TrainingPlan, engine: LlamaCppEngine, context: int) -> AbstractContextManager[Engine]:
    """The engine that rates the base: our decoder, which is faster and reads every base that can be tuned."""
    if plan.config.engine == LLAMA_CPP:
        return nullcontext(engine)
    return closing(open_base(plan.base, rating_in_a_run(plan.config), context=context))


def _encode(plan: TrainingPlan, ws: Workspace) -> EncodedDataset:
    with _tokenized(plan, ws) as found:
        dataset, planned, engine, branch = found.dataset, found.plan, found.engine, found.branch
        write_inputs(planned, ws)
        test = sample_of(dataset.examples["test"], BASE_SAMPLE, planned.config.seed)
        rate_base = partial(rate_shown, ws.progress, found.rater, test, dataset.scale, TITLES["base"])
        with ws.part("base"):
            rated = ws.once("base-test", planned.run_id, rate_base)
        return EncodedDataset(
            dataset=dataset,
            rows=found.rows,
            candidates=found.candidates,
            context=engine.context,
            test=rated,
            notes=(*found.rater.notes, *((NO_BRANCH,) if planned.config.code_branch and not branch else ())),
            folds_system=engine.folds_system,
            plan=planned,
            branch=branch,
            frame=decision_frame(engine, branch, dataset.examples["train"]) if branch else None,
        )
