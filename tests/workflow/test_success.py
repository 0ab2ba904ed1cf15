"""`success`: only for a product that was judged and passed its checks; a failed check is in the first line."""

from __future__ import annotations

from typing import Any

import pytest

from expertune.evaluate.compare import Difference, evaluate
from expertune.evaluate.verdict import Outcome
from expertune.predict.score import Rated
from expertune.ratings.scale import make_scale
from expertune.ratings.schema import Rating
from expertune.record import ApproachChoice, RunRecord
from expertune.register.preflight import failed_checks, with_checks
from expertune.stats.intervals import Interval
from records import MAPPING, MODEL_SET, run_record

SCALE = make_scale(MAPPING)
TRUTH = [Rating(str(at), at, f"text {at}", SCALE.values[at % 3], "") for at in range(12)]
RIGHT = [Rated.of(row.id, [1.0 * (value == row.value) for value in SCALE.values], SCALE) for row in TRUTH]
AGREES_TOO_LITTLE = {"agreement": 0.9, "agreement_passed": False, "agreement_rows": 50}
DISAGREES = "the saved file gives the trained model's label for only 90.0% of 50 validation records"


def judged(
    approach: str,
    *,
    base: Outcome = "better",
    majority: Outcome = "better",
    differences: tuple[Difference, ...] = (),
    **more: Any,
) -> RunRecord:
    """A run that recommends this product, with these outcomes and differences on the test records."""
    verdict = {"line": "The product is good.", "base": base, "majority": majority}
    record = run_record(choice={"approach": approach, "reason": "so"}, evaluation={"verdict": verdict}, **more)
    names = ("readout", "tuned", "base", "majority") if approach == "readout" else (approach, "base", "majority")
    found = tuple(evaluate(name, TRUTH, RIGHT, SCALE, {}, record.config) for name in names)
    changes = {"evaluations": found, "differences": differences}
    return record.model_copy(update={"evaluation": record.evaluation.model_copy(update=changes)})


def difference(rival: str, low: float, high: float) -> Difference:
    return Difference("product", rival, (low + high) / 2, Interval(low, high, "bootstrap", 0.95), 100)


def checked(record: RunRecord) -> RunRecord:
    assert record.choice is not None
    return with_checks(record, record.choice)


def test_a_tuned_model_that_passes() -> None:
    found = checked(judged("tune"))
    assert found.failed_checks == () and found.verdict == "The product is good."
    assert found.fine_tuning_info is not None and found.fine_tuning_info.success


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"export": AGREES_TOO_LITTLE}, DISAGREES),
        ({"base": "not better"}, "the tuned model is not better than its base on the test records"),
        ({"majority": "not better"}, "the tuned model is not better than always choosing the most common label"),
    ],
)
def test_a_failed_check_of_the_tuned_model_is_in_the_first_line(more: dict[str, Any], reason: str) -> None:
    found = checked(judged("tune", **more))
    assert len(found.failed_checks) == 1 and found.failed_checks[0].startswith(reason)
    assert found.verdict.startswith(f"Failed check: {reason}") and found.verdict.endswith(". The product is good.")
    assert found.evaluation.verdict.line == found.verdict  # the report's first line too
    assert found.fine_tuning_info is not None and not found.fine_tuning_info.success


def test_all_failed_checks_are_named() -> None:
    found = checked(judged("tune", base="not better", majority="not better", export=AGREES_TOO_LITTLE))
    assert len(found.failed_checks) == 3 and all(each in found.verdict for each in found.failed_checks)


def test_a_readout_is_a_success_of_its_own_and_says_that_the_tuned_file_failed() -> None:
    found = checked(judged("readout", export=AGREES_TOO_LITTLE))
    assert found.failed_checks == ()
    assert found.verdict.startswith(
        "Recommended for rating: the readout (so); the tuned file is for Ollama, but the saved"
    )
    assert found.fine_tuning_info is not None and not found.fine_tuning_info.success
    worse = checked(judged("readout", differences=(difference("base", -0.3, -0.1),)))
    assert worse.failed_checks == ("the readout is worse than the base on the test records",)
    assert worse.verdict.startswith(
        "Failed check: the readout is worse than the base on the test records. Recommended "
    )


def test_a_model_set_must_be_judged_and_not_worse_than_the_most_common_label() -> None:
    made: dict[str, Any] = {"fine_tuning_info": None, "export": None, "fallback_reason": "it diverged"}
    with_set = {**made, "model_set_info": {**MODEL_SET, "judged": True}}
    good = checked(judged("model-set", **with_set))
    assert good.failed_checks == () and good.model_set_info is not None and good.model_set_info.success
    assert good.verdict == "No tuned model: it diverged. The product is good."
    by_chance = judged("model-set", differences=(difference("majority", -0.2, 0.1),), **with_set)
    assert failed_checks(by_chance) == []  # the verdict says: no clear difference
    poor = checked(judged("model-set", differences=(difference("majority", -0.2, -0.1),), **with_set))
    assert poor.verdict.startswith(
        "Failed check: the model set is worse than always choosing the most common label on "
    )
    assert poor.model_set_info is not None and not poor.model_set_info.success
    choice = ApproachChoice(approach="model-set", reason="so")
    unjudged = with_checks(run_record(choice=choice.to_dict(), model_set_info=MODEL_SET, **made), choice)
    assert unjudged.failed_checks == ("the product has not been evaluated on the test records",)
    assert unjudged.model_set_info is not None and not unjudged.model_set_info.success
    assert unjudged.verdict.startswith("No tuned model: it diverged. ")  # and then why it was not evaluated


@pytest.mark.parametrize(("count", "warned"), [(100, True), (50, True), (49, False)])
def test_a_leak_of_most_ratings_begins_the_verdict(count: int, warned: bool) -> None:
    finding = {"kind": "rating_in_prompt", "severity": "error", "count": count, "row_ids": ["1"], "message": "…"}
    audit = {"rows": 100, "by_label": {"Match": 100}, "findings": [finding]}
    found = checked(judged("tune", data_audit=audit))
    assert found.verdict.startswith(f"Warning: {count} of 100 prompts") is warned
    assert found.verdict.endswith("The product is good.")
    assert found.evaluation.verdict.line == found.verdict
