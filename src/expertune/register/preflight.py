"""Quality gate, checked before anything is uploaded."""

from __future__ import annotations

from ..config import Config
from ..errors import RegistrationError
from ..export.summary import ExportSummary
from ..record import RunRecord


def gate_failures(record: RunRecord) -> list[str]:
    """Reasons not to register a run's file, one line each; --force overrides them.

    Raises RegistrationError if the run made no tuned model.
    """
    if record.fine_tuning_info is None:
        raise RegistrationError(
            f"nothing to register: this run made no tuned model ({record.fallback_reason}); "
            "use its model set with expertune rate instead"
        )
    failures, verdict = [], record.evaluation.verdict
    if record.export is not None and not record.export.agreement_passed:
        failures.append(disagreement(record.export, record.config))
    if verdict.base == "not better":
        failures.append("the tuned model is not better than its base on the test records")
    if verdict.majority == "not better":
        failures.append("the tuned model is not better than always choosing the most common label")
    return failures


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
