"""Tokenize the dataset with the engine that serves the model, and rate the test records with the base."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

from ..engine.base import Engine
from ..engine.llama_cpp.engine import LlamaCppEngine
from ..engine.ollama.render import check_tokens
from ..errors import TrainingFailedError
from ..estimate.job import BASE_SAMPLE, RunStage
from ..evaluate.judgement import rate_shown
from ..predict.score import sample_of
from ..rate.artifact import ANSWER_ROOM
from ..ratings.codes import CodeBranch
from ..ratings.dataset import Dataset
from ..torch_engine import LLAMA_CPP, open_base, rating_in_a_run
from ..train.encode import Candidates, candidates, check_lengths, encode, unrated_row
from .code_branch import branch_of, decision_frame
from .plan import write_inputs
from .plan_time import Served, plan_time
from .state import EncodedDataset, NotTuned, TokenRows, TrainingPlan, as_value
from .workspace import Workspace


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

    rows: TokenRows
    candidates: Candidates
    dataset: Dataset
    plan: TrainingPlan
    engine: LlamaCppEngine
    rater: Engine
    branch: CodeBranch | None
    notes: tuple[str, ...]


@contextmanager
def _tokenized(plan: TrainingPlan, ws: Workspace) -> Iterator[_Tokenized]:
    config, base = plan.config, plan.base
    context = config.max_tokens + ANSWER_ROOM
    start = time.perf_counter()
    opened = base.open(context=context, threads=config.threads)
    open_seconds = time.perf_counter() - start
    with ws.stage("read"), opened as engine, _opened_to_compare(plan, engine, context) as rater:
        branch, notes = branch_of(engine, plan)
        plan = replace(plan, dataset=plan.dataset.with_codes(branch))
        answers = candidates(engine, plan.dataset.examples.train[0], plan.dataset.scale, branch)
        rows, dataset = _token_rows(engine, answers, plan, ws)
        if base.renderer is not None:
            check_tokens(base.renderer, engine, dataset.examples.train[0].messages)
        plan = plan_time(plan, dataset, rows, Served(engine, rater, open_seconds, branch), ws)
        yield _Tokenized(rows, answers, dataset, plan, engine, rater, branch, notes)


def _encode(plan: TrainingPlan, ws: Workspace) -> EncodedDataset:
    with _tokenized(plan, ws) as found:
        dataset, plan = found.dataset, found.plan
        write_inputs(plan, ws)
        test = sample_of(dataset.examples.test, BASE_SAMPLE, plan.config.seed)
        rate_base = partial(rate_shown, ws.progress, found.rater, test, dataset.scale, RunStage.BASE.shown)
        with ws.part("base"):
            rated = ws.once("base-test", plan.run_id, rate_base)
        return EncodedDataset(
            dataset=dataset,
            rows=found.rows,
            candidates=found.candidates,
            context=found.engine.context,
            test=rated,
            notes=(*found.rater.notes, *found.notes),
            folds_system=found.engine.folds_system,
            plan=plan,
            branch=found.branch,
            frame=decision_frame(found.engine, dataset.examples.train, found.branch) if found.branch else None,
        )


def _opened_to_compare(plan: TrainingPlan, engine: LlamaCppEngine, context: int) -> AbstractContextManager[Engine]:
    """The engine that rates the base: our decoder, which is faster and reads every base that can be tuned."""
    if plan.config.engine == LLAMA_CPP:
        return nullcontext(engine)
    return closing(open_base(plan.base, rating_in_a_run(plan.config), context=context))


def _token_rows(engine: Engine, answers: Candidates, plan: TrainingPlan, ws: Workspace) -> tuple[TokenRows, Dataset]:
    """Token rows by part and of the records without a rating, and the dataset without records that are too long."""
    dataset, config = plan.dataset, plan.config
    unrated = dataset.unlabelled.records if dataset.unlabelled else ()
    examples = [example for part in dataset.examples.parts().values() for example in part]
    with ws.progress.stage(RunStage.READ.shown, total=len(examples) + len(unrated), unit="records") as stage:
        rows = encode(engine, examples, dataset.scale, rationale_weight=config.rationale_weight, on_row=stage.advance)
        others = []
        for each in unrated:
            messages = (*examples[0].messages[:-1], {"role": "user", "content": each.prompt})
            others.append(unrated_row(each.id, engine.tokenize(engine.render(messages)), answers))
            stage.advance()
    limit = min(config.max_tokens, engine.context)
    fitting = {row.id: row for row in check_lengths(rows, limit, drop=config.long_records == "drop")}
    fitting |= {row.id: row for row in check_lengths(others, limit, drop=True)}
    kept = dataset.without(frozenset(each.id for each in (*examples, *unrated) if each.id not in fitting))
    empty = [part for part, left in kept.examples.parts().items() if not left]
    if empty:
        raise TrainingFailedError(
            f"no records are left in {' and '.join(empty)}; give more records or raise --max-tokens"
        )
    by_part = kept.examples.map(lambda examples: tuple(fitting[example.id] for example in examples))
    return TokenRows(**by_part.parts(), unlabelled=tuple(row for row in others if row.id in fitting)), kept
