"""Check before anything is uploaded whether a run's file may be registered."""

from __future__ import annotations

from ..errors import RegistrationError
from ..export.summary import ExportSummary
from ..record import RunRecord


def gate_failures(record: RunRecord) -> list[str]:
    """Reasons not to register a run's file, one line each; --force overrides them.

    Raises RegistrationError where there is no tuned file at all.
    """
    if record.fine_tuning_info is None:
        raise RegistrationError(
            f"nothing to register: this run made no tuned model ({record.fallback_reason}); "
            "rate with its model set instead"
        )
    found, verdict = [], record.evaluation.verdict
    if record.export is not None and not record.export.agreement_passed:
        found.append(_disagreement(record.export, record))
    if verdict.base == "not better":
        found.append("the tuned model is not better than its base on the held-out rows")
    if verdict.majority == "not better":
        found.append("the tuned model is not better than always guessing the commonest class")
    return found


def _disagreement(export: ExportSummary, record: RunRecord) -> str:
    """How the file differs from what was trained: in labels, else in their probabilities."""
    config = record.config
    if export.agreement < config.min_label_agreement:
        return (
            f"the file agrees with what was trained on only {export.agreement:.1%} of {export.agreement_rows} "
            "dev rows, which is below the gate"
        )
    return (
        f"the file's probabilities are {export.probability_gap:.3f} from those of what was trained on average over "
        f"{export.agreement_rows} dev rows, which is above the {config.max_probability_gap:g} of the gate"
    )
