"""Tables of single records, without their text: the predictions of every rater, and the likely label errors."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

from ..outputs import LABEL_ERRORS, TABLES, TEST_PREDICTIONS, retire, variable_names, write_table
from ..predict.score import Rated
from ..ratings.dataset import Dataset
from ..ratings.scale import RatingScale
from ..ratings.schema import Rating
from ..stats.conformal import Conformal
from .compare import groups_of
from .judgement import Judgement
from .label_errors import LabelErrors

RATER_LETTERS, LABEL_LETTERS = 12, 17  # with "_p_" between them a name has at most 32 letters
BETWEEN = " | "  # labels of a set, as in a rated file

Row = dict[str, object]


def write_tables(folder: Path, judgement: Judgement | None, dataset: Dataset) -> None:
    """Write the predictions of the test records and the likely label errors; of a run without them, neither."""
    retire(folder, TABLES)
    if judgement is None:
        return
    split, conformal = dataset.split, judgement.uncertainty.conformal
    rows = prediction_rows(split.test, judgement.raters, conformal, dataset.scale, split.groups)
    write_table(folder / TEST_PREDICTIONS, rows)
    if judgement.label_errors.listed:
        write_table(folder / LABEL_ERRORS, label_error_rows(judgement.label_errors))


def prediction_rows(
    truth: Sequence[Rating],
    raters: Mapping[str, Sequence[Rated]],
    conformal: Conformal | None,
    scale: RatingScale,
    groups: Mapping[str, Hashable],
) -> list[Row]:
    """A row for each test record: the expert's label, each rater's with its probabilities, and the first rater's set.

    The cells of a rater that rated a sample are empty in the other rows. `group` numbers the groups of the split.
    """
    names = variable_names(tuple(raters), RATER_LETTERS)
    values = [f"value_{value}".replace("-", "minus_") for value in scale.values]
    labels = variable_names(scale.labels, LABEL_LETTERS, values)
    by_rater = [(name, {each.id: each for each in rated}) for name, rated in zip(names, raters.values(), strict=True)]
    number = dict[Hashable, int]()
    rows = []
    for row, group in zip(truth, groups_of([each.id for each in truth], groups), strict=True):
        cells: Row = {"id": row.id, "group": number.setdefault(group, len(number) + 1), "expert": row.label}
        for name, own in by_rater:
            rated = own.get(row.id)
            cells[f"{name}_label"] = rated and rated.label
            shares = rated.probabilities if rated else (None,) * len(labels)
            cells |= {f"{name}_p_{label}": share for label, share in zip(labels, shares, strict=True)}
        if conformal is not None:
            cells["conformal_set"] = BETWEEN.join(conformal.labels_for(by_rater[0][1][row.id].probabilities))
        rows.append(cells)
    return rows


def label_error_rows(errors: LabelErrors) -> list[Row]:
    """A row for each listed record, the likeliest error first."""
    return [
        {
            "id": each.id,
            "part": each.part,
            "expert": each.expert,
            "expert_p": each.expert_probability,
            "raters_label": each.label,
            "raters_p": each.probability,
        }
        for each in errors.listed
    ]
