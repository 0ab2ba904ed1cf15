"""The code branch of a tuned file: its decision keys, and the way in which its labels are scored."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..evaluate.judgement import dev_macro_f1
from ..export.decision import PromptFrame, decision_keys
from ..predict.score import Rated, mean_shares
from ..ratings.codes import CodeBranch
from ..ratings.scale import RatingScale
from ..record import CodeBranchInfo
from ..stats.calibration import fit_temperature
from ..train.encode import Tokenized
from .choose import by_scoring

log = logging.getLogger("expertune")

WORSE = 0.02  # macro-F1 by which the codes may be below the words before the file says so


@dataclass(frozen=True)
class DecisionKeys:
    """Metadata of the merged file that make it a decision model by the prompt `frame`, their temperature, and a remark.

    None of them without a code branch or frame, or with --no-decision.
    """

    frame: PromptFrame | None
    metadata: Mapping[str, str | float] = field(default_factory=dict)
    temperature: float | None = None
    note: str = ""


def decision_of(
    tokens: Tokenized,
    frame: PromptFrame | None,
    architecture: str,
    words: Sequence[Rated],
    codes: Sequence[Rated],
) -> DecisionKeys:
    """The decision keys.

    `words` and `codes` are the adapter's predictions of the validation records, by which the temperature is fitted.
    """
    dataset, config = tokens.dataset, tokens.plan.config
    if not config.decision or frame is None:
        return DecisionKeys(frame)
    truth = [row.label for row in tokens.rows.dev]
    temperature = fit_temperature([each.probabilities for each in codes], truth, seed=config.seed)
    by_words, by_codes = (dev_macro_f1(each, dataset, config) for each in (words, codes))
    note = f"codes rate worse than words: macro-F1 {by_codes:.3f} against {by_words:.3f} on {len(truth)} records"
    note = note if by_codes < by_words - WORSE else ""
    return DecisionKeys(frame, decision_keys(architecture, frame, temperature, note), temperature, note)


def untuned(branch: CodeBranch | None, scale: RatingScale) -> CodeBranchInfo | None:
    """Record of a branch without a tuned model: its codes are still in the prompts that the readout has learnt from."""
    if branch is None:
        return None
    codes = dict(zip(scale.labels, branch.codes, strict=True))
    return CodeBranchInfo(lead=branch.lead, codes=codes, scored_by="words", reason="no tuned model", validation={})


def scored(
    tokens: Tokenized, keys: DecisionKeys, words: Sequence[Rated], codes: Sequence[Rated]
) -> CodeBranchInfo | None:
    """Record of the code branch with the way of scoring; `words` and `codes` are predictions by the merged file."""
    dataset = tokens.dataset
    found = untuned(tokens.branch, dataset.scale)
    if found is None:
        return None
    both = [
        Rated.of(one.id, mean_shares([one.probabilities, other.probabilities]), dataset.scale)
        for one, other in zip(words, codes, strict=True)
    ]
    choice = by_scoring(words, {"code": codes, "both": both}, dataset, tokens.plan.config)
    log.info("labels are scored by %s: %s", choice.by, choice.reason)
    way = {"scored_by": choice.by, "reason": choice.reason, "validation": choice.figures}
    return found.model_copy(update={**way, "frame": keys.frame, "temperature": keys.temperature, "note": keys.note})
