"""Checks of a run's products: the quality gate, checked before anything is uploaded, and the verdict's first line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from ..config import Config
from ..errors import RegistrationError
from ..export.summary import ExportSummary
from ..modelset.choose import MODEL_SET, READOUT, TUNE
from ..ratings.leaks import spoiled
from ..record import ApproachChoice, RunRecord

SCORED = {  # end of the verdict
    "words": "",
    "code": " Its labels are scored by their codes, which rate better than the words on the validation records.",
    "both": " Its labels are scored by words and codes, which rate better together on the validation records.",
}


def gate_failures(record: RunRecord) -> list[str]:
    """Reasons not to register a run's file, one line each; --force overrides them.

    Raises RegistrationError if the run made no tuned model.
    """
    if record.fine_tuning_info is None:
        raise RegistrationError(
            f"nothing to register: this run made no tuned model ({record.fallback_reason}); "
            "use its model set with expertune rate instead"
        )
    failures = []
    if record.export is not None and not record.export.agreement_passed:
        failures.append(disagreement(record.export, record.config))
    if _not_better(record, "base"):
        failures.append("the tuned model is not better than its base on the test records")
    if _not_better(record, "majority"):
        failures.append("the tuned model is not better than always choosing the most common label")
    return failures


def failed_checks(record: RunRecord) -> list[str]:
    """Reasons why the recommended product is no success, one line each.

    It must have been evaluated on the test records. A tuned model must pass the quality gate. A readout or a model set,
    which is not registered, must not be worse than the base or than always choosing the most common label.
    """
    approach = record.choice.approach if record.choice else "tune"
    if not record.evaluation.evaluations:
        return ["the product has not been evaluated on the test records"]
    if approach == "tune":
        return gate_failures(record)
    differences = record.evaluation.differences
    worse = {each.second for each in differences if each.value < 0 and not each.includes_zero}
    rivals = {"base": "the base", "majority": "always choosing the most common label"}
    name = approach.replace("-", " ")
    return [
        f"the {name} is worse than {called} on the test records" for rival, called in rivals.items() if rival in worse
    ]


def with_checks(record: RunRecord, choice: ApproachChoice) -> RunRecord:
    """Add the outcome of the checks: the failed ones, whether each product is a success, and the first line."""
    failed, by_gate = failed_checks(record), gate_failures(record) if record.fine_tuning_info else []
    line = _line(record, choice, failed, by_gate)
    tuned, model_set = record.fine_tuning_info, record.model_set_info
    passed = model_set is not None and model_set.judged and not (failed and choice.approach == MODEL_SET)
    changes = {
        "failed_checks": tuple(failed),
        "verdict": line,
        "evaluation": record.evaluation.model_copy(update={"verdict": replace(record.evaluation.verdict, line=line)}),
        "fine_tuning_info": tuned and tuned.model_copy(update={"success": not by_gate}),
        "model_set_info": model_set and model_set.model_copy(update={"success": passed}),
    }
    return record.model_copy(update=changes)


def _line(record: RunRecord, choice: ApproachChoice, failed: Sequence[str], by_gate: Sequence[str]) -> str:
    """The verdict, preceded by a leak of the ratings, by failed checks, and by the reason if there is no tuned model or
    it is not recommended."""
    verdict, why_not = record.evaluation.verdict.line, record.fallback_reason
    judged = spoiled(record.data_audit.findings, record.data_audit.rows)
    judged += f"Failed check: {'; '.join(failed)}. " if failed and record.evaluation.evaluations else ""
    if choice.approach == TUNE:
        return f"{judged}{verdict}" + (SCORED[record.code_branch.scored_by] if record.code_branch else "")
    if choice.approach == READOUT:
        served = f"; no tuned model: {why_not}" if why_not else ""
        if record.fine_tuning_info:
            served = "; the tuned file is for Ollama" + (f", but {'; '.join(by_gate)}" if by_gate else "")
        return f"{judged}Recommended for rating: the readout ({choice.reason}){served}. {verdict}"
    return f"{judged}{f'No tuned model: {why_not}' if why_not else f'Model set ({choice.reason})'}. {verdict}"


def _not_better(record: RunRecord, rival: Literal["base", "majority"]) -> bool:
    """True where the tuned model's macro-F1 on the test records is not above the rival's.

    The verdict is on the tuned model unless the readout was chosen over it.
    """
    if record.choice is None or record.choice.approach != "readout":
        return getattr(record.evaluation.verdict, rival) == "not better"
    figures = {each.name: each.macro_f1.value or 0.0 for each in record.evaluation.evaluations}
    return figures.get("tuned", 0.0) <= figures.get(rival, 0.0)


def disagreement(export: ExportSummary, config: Config) -> str:
    """Describe how the saved file differs from the trained model: in labels, in log-loss, else in probabilities."""
    records = f"{export.agreement_rows} validation records"
    if export.agreement < config.min_label_agreement:
        clear = f"{export.clear_rows} of {records} with a clear label" if export.clear_rows is not None else records
        return (
            f"the saved file gives the trained model's label for only {export.agreement:.1%} of {clear} "
            f"(at least {config.min_label_agreement:.1%} required)"
        )
    loss, limit = export.log_loss, export.log_loss_limit
    if loss is not None and loss.value is not None and limit is not None and loss.value > limit:
        return (
            f"the saved file's log-loss on {records} is {loss.value:.3f} above the trained model's "
            f"(two readers of one file explain {limit:.3f})"
        )
    if export.noise is not None:
        return (
            f"llama.cpp and Expertune's decoder read the saved file differently (probabilities by "
            f"{export.noise.mean:.3f} on average over {records})"
        )
    return (
        f"the saved file's probabilities differ from the trained model's by {export.probability_gap:.3f} on average "
        f"over {records}"
    )
