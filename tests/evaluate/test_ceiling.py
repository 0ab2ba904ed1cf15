"""The experts' own agreement next to the model's: right figures, the right records, and what is said of them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from evaluate.samples import SCALE, rated
from expertune.config import Config
from expertune.evaluate.ceiling import READING, ExpertComparison, compare_experts
from expertune.ratings.experts import ExpertRatings

CONFIG = Config(bootstrap_resamples=200)


def panel(*by_expert: Sequence[int | None]) -> ExpertRatings:
    """Label indices by expert; the ids are those of `rated`."""
    values = [[None if at is None else SCALE.values[at] for at in row] for row in zip(*by_expert, strict=True)]
    ids = tuple(f"r{at}" for at in range(len(values)))
    return ExpertRatings(
        experts=tuple("ABCDE"[: len(by_expert)]),
        ids=ids,
        own_ids=True,
        prompts=ids,
        values=tuple(map(tuple, values)),
        rationales=((),) * len(ids),
        adjudicated=(None,) * len(ids),
        groups=ids,
    )


def compare(experts: ExpertRatings, model: Sequence[int], test: Sequence[int]) -> ExpertComparison:
    chosen = [each for each in rated(model) if int(each.id[1:]) in test]
    return compare_experts(experts, chosen, {each.id for each in chosen}, SCALE, {}, CONFIG)


def test_each_expert_is_compared_with_the_majority_of_the_others() -> None:
    from sklearn.metrics import cohen_kappa_score, f1_score

    a, b, c = [0, 0, 1, 1, 2, 2, 0, 1], [0, 0, 1, 2, 2, 2, 1, 1], [0, 1, 1, 1, 2, 0, 0, None]
    model, test = [0, 0, 1, 1, 2, 1, 0, 1], range(8)
    found = compare(panel(a, b, c), model, test).ceiling
    assert [each.expert for each in found] == ["A", "B", "C"]
    others = [at for at in test if b[at] == c[at] or c[at] is None]  # else the two are tied
    truth = [b[at] for at in others]
    assert found[0].records == len(others) == 4 and found[0].all_records == 4
    for agreement, own in ((found[0].on_test, a), (found[0].model, model)):
        assert agreement is not None
        given = [own[at] for at in others]
        assert agreement.macro_f1.value == pytest.approx(f1_score(truth, given, average="macro"))
        assert agreement.kappa.value == pytest.approx(cohen_kappa_score(truth, given))
        assert agreement.macro_f1.n == 4
    assert found[2].records == 5  # A and B agree on five of the seven that C rated


def test_test_records_and_all_records_are_told_apart() -> None:
    a, b = [0, 1, 0, 1, 0, 1, 0, 1], [0, 1, 0, 1, 0, 1, 1, 0]  # they differ on the last two, which are tied
    found = compare(panel(a, b), [0, 1, 1, 1, 0, 1], range(6))
    assert found.by_construction and found.agreement.tied == 2
    for each in found.ceiling:
        assert (each.records, each.all_records) == (6, 8)
        assert (each.on_test.macro_f1.value, each.on_test.macro_f1.interval) == (1.0, None)
        assert each.on_all.macro_f1.value == pytest.approx(0.75) and each.on_all.kappa.value == pytest.approx(0.5)
        assert each.model is not None and each.model.kappa.value == pytest.approx(2 / 3)
    assert found.sentence() == (
        " The experts themselves reach macro-F1 1.000, each against the majority of the others, by construction, "
        "without the 2 tied records, and 0.750 on all records, tied or not; the model reaches 0.829 against the same "
        f"labels of the test records ({READING})."
    )


def test_the_sentence_gives_the_range_of_experts_and_model() -> None:
    a, b, c = [0, 0, 1, 1] * 10, [0, 0, 1, 0] * 10, [0, 1, 1, 1] * 10
    found = compare(panel(a, b, c), [0, 0, 1, 1] * 10, range(40))
    values = [each.on_test.macro_f1.value or 0 for each in found.ceiling]
    assert not found.by_construction and not found.agreement.tied
    assert f"reach macro-F1 {min(values):.3f} to {max(values):.3f}, each against" in found.sentence()
    assert "the majority of the others; the model reaches" in found.sentence()
    assert "tied" not in found.sentence()
    lines = found.lines()
    assert lines[0].startswith("40 records of 3 experts: A rated 40,") and len(lines) == 5 + 2 + 3
    assert lines[-3].split() == ["A", "20", "1.000,", "1.000", "1.000,", "1.000", "1.000,", "1.000"]


def test_experts_of_whom_no_two_rated_one_record() -> None:
    found = compare(panel([0, 1, None, None], [None, None, 0, 1]), [0, 1, 0, 1], range(4))
    assert [(each.records, each.on_test.macro_f1.value, each.on_all.kappa.value) for each in found.ceiling] == [
        (0, None, None)
    ] * 2
    assert found.sentence() == " The experts cannot be compared with each other: no record was rated by two of them."
    assert found.lines()[-1].split() == ["B", "0", "–", "–", "–"]


def test_without_a_product_the_experts_are_still_compared() -> None:
    found = compare(panel([0, 1, 0], [0, 1, 1]), [0, 1, 0], [])
    assert [each.model for each in found.ceiling] == [None, None] and found.ceiling[0].all_records == 3
    assert "reach macro-F1 –, each" in found.sentence() and "the model reaches" not in found.sentence()
