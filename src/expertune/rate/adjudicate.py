"""Write the adjudication list: the records on which several experts differ, for a person who settles their labels."""

from __future__ import annotations

from pathlib import Path

from ..errors import UsageError
from ..files import csv_text, write_text
from ..ratings.adjudicated import COMMENT, ID
from ..ratings.columns import ADJUDICATED, PROMPT
from ..ratings.experts import ExpertRatings
from ..ratings.scale import RatingScale
from .queue_key import protected
from .writer import BYTE_ORDER_MARK


def write_adjudication_list(
    path: Path, experts: ExpertRatings | None, scale: RatingScale, *, with_text: bool = False
) -> str:
    """Write `path`, tied records first, and return a line about it. `with_text` adds prompt and rationales.

    With a byte order mark, without which Excel does not read UTF-8. Raises UsageError where the list could not be read
    back: without several experts, without ids of the user's own, or over a list that may be filled in.
    """
    if experts is None:
        raise UsageError(
            "--adjudicate: there is one rating column; name those of all experts with --column rating=R1,R2"
        )
    if not experts.own_ids:
        raise UsageError("--adjudicate: the list is matched by id; name a column of unique ids with --column id=NAME")
    if path.exists():
        raise UsageError(f"{path}: exists and may be filled in; choose another name for the list")
    head = (ID, *experts.experts, ADJUDICATED, COMMENT)
    if repeated := next((name for name in experts.experts if name in (ID, ADJUDICATED, COMMENT)), None):
        raise UsageError(f"--adjudicate: the list has a column {repeated!r} of its own; rename the expert's column")
    whys = len(experts.rationales[0]) if with_text else 0
    lines = [[*head, *([PROMPT[0]] if with_text else []), *(f"rationale {at + 1}" for at in range(whys))]]
    kept = experts.kept()
    differ = [at for at, values in enumerate(experts.values) if len({*values} - {None}) > 1]
    for at in sorted(differ, key=lambda at: (kept[at] is not None, at)):
        given = (*experts.values[at], experts.adjudicated[at])
        labels = ["" if value is None else scale.label_of(value) for value in given]
        texts = (experts.prompts[at], *experts.rationales[at]) if with_text else ()
        lines.append([protected(cell) for cell in (experts.ids[at], *labels, "", *texts)])
    write_text(path, BYTE_ORDER_MARK + csv_text(lines))
    tied = sum(kept[at] is None for at in differ)
    return (
        f"{path}: {len(differ)} records on which the experts differ, {tied} of them tied, first; fill in {ADJUDICATED} "
        f"(a value or a label), then give --column {ADJUDICATED}={path}"
    )
