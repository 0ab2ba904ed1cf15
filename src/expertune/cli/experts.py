"""Output about several experts: how far they agree, and the adjudication list."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..ratings.experts import ExpertAgreement, ExpertRatings
    from ..ratings.scale import RatingScale


def compare_experts(
    experts: ExpertRatings | None, scale: RatingScale, adjudicate: Path | None, *, with_text: bool
) -> tuple[ExpertAgreement | None, list[str]]:
    """The agreement of several experts, and lines about it; writes the adjudication list if one is wanted."""
    from ..config import Config
    from ..errors import UsageError
    from ..rate.adjudicate import write_adjudication_list
    from ..ratings.experts import expert_agreement

    if with_text and adjudicate is None:
        raise UsageError("--adjudicate-with-text: no list is written; name one with --adjudicate FILE")
    agreement = expert_agreement(experts, scale, Config()) if experts else None
    lines = agreement.lines() if agreement else []
    if adjudicate is not None:
        lines.append(write_adjudication_list(adjudicate, experts, scale, with_text=with_text))
    return agreement, lines
