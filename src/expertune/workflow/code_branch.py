"""The code branch of a run: choose it before the training, write its decision keys, choose how labels are scored."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..engine.llama_cpp.engine import LlamaCppEngine
from ..evaluate.judgement import dev_macro_f1
from ..export.decision import PromptFrame, decision_keys, frame_of
from ..modelset.choose import by_scoring
from ..predict.score import Rated, mean_shares
from ..ratings.codes import CodeBranch
from ..ratings.scale import RatingScale
from ..ratings.schema import Example
from ..record import CodeBranchInfo
from ..stats.calibration import fit_temperature
from ..train.code_branch import choose_branch, is_decision
from .state import EncodedDataset, TrainingPlan

log = logging.getLogger("expertune")

WORSE = 0.02  # macro-F1 by which the codes may be below the words before the file says so


@dataclass(frozen=True)
class DecisionKeys:
    """Metadata of the merged file that make it a decision model, with their temperature and a remark."""

    metadata: Mapping[str, str | float]
    temperature: float | None = None
    note: str = ""


def branch_of(engine: LlamaCppEngine, plan: TrainingPlan) -> tuple[CodeBranch | None, tuple[str, ...]]:
    """The code branch of this model, and a note if there can be none; None if none was requested."""
    if not plan.config.code_branch:
        return None, ()
    dataset = plan.dataset
    branch = choose_branch(engine, engine.render(dataset.examples.train[0].messages), len(dataset.scale.labels))
    if branch is None:
        return None, ("no code branch: the tokenizer has too few codes that are one token each",)
    return branch, ()


def decision_frame(engine: LlamaCppEngine, examples: Sequence[Example], branch: CodeBranch) -> PromptFrame | None:
    """The prompt up to the code, if a decision model's server can render it and reads the tokens of the codes."""
    readable = is_decision(engine, engine.render(examples[0].messages), branch)
    return frame_of(engine, branch, examples) if readable else None


def decision_of(
    encoded: EncodedDataset, architecture: str, words: Sequence[Rated], codes: Sequence[Rated]
) -> DecisionKeys:
    """The decision keys; none without a code branch or frame, or with --no-decision.

    `words` and `codes` are the adapter's predictions of the validation records, by which the temperature is fitted.
    """
    dataset, config = encoded.dataset, encoded.plan.config
    if not config.decision or encoded.frame is None:
        return DecisionKeys({})
    truth = [row.label for row in encoded.rows.dev]
    temperature = fit_temperature([each.probabilities for each in codes], truth, seed=config.seed)
    by_words, by_codes = (dev_macro_f1(each, dataset, config) for each in (words, codes))
    note = f"codes rate worse than words: macro-F1 {by_codes:.3f} against {by_words:.3f} on {len(truth)} records"
    note = note if by_codes < by_words - WORSE else ""
    return DecisionKeys(decision_keys(architecture, encoded.frame, temperature, note), temperature, note)


def untuned(branch: CodeBranch | None, scale: RatingScale) -> CodeBranchInfo | None:
    """Record of a branch without a tuned model: its codes are still in the prompts that the readout has learnt from."""
    if branch is None:
        return None
    codes = dict(zip(scale.labels, branch.codes, strict=True))
    return CodeBranchInfo(lead=branch.lead, codes=codes, scored_by="words", reason="no tuned model", validation={})


def scored(
    encoded: EncodedDataset, keys: DecisionKeys, words: Sequence[Rated], codes: Sequence[Rated]
) -> CodeBranchInfo | None:
    """Record of the code branch with the way of scoring; `words` and `codes` are predictions by the merged file."""
    branch, dataset = encoded.branch, encoded.dataset
    if branch is None:
        return None
    both = [
        Rated.of(one.id, mean_shares([one.probabilities, other.probabilities]), dataset.scale)
        for one, other in zip(words, codes, strict=True)
    ]
    choice = by_scoring(words, {"code": codes, "both": both}, dataset, encoded.plan.config)
    log.info("labels are scored by %s: %s", choice.by, choice.reason)
    return CodeBranchInfo(
        lead=branch.lead,
        codes=dict(zip(dataset.scale.labels, branch.codes, strict=True)),
        scored_by=choice.by,
        reason=choice.reason,
        validation=choice.figures,
        frame=encoded.frame,
        temperature=keys.temperature,
        note=keys.note,
    )
