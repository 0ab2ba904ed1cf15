"""What a command prints on stdout when it is done: the verdict first, then figures, then files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import size_text
from ..pace import time_text

if TYPE_CHECKING:
    from ..evaluate.compare import Evaluation
    from ..export.summary import ExportSummary
    from ..rate.merge import MergedReview
    from ..rate.review import Queue
    from ..rate.runner import Tally
    from ..record import Registration, RunRecord
    from ..stats.intervals import Estimate
    from ..train.summary import TrainingSummary


def print_summary(record: RunRecord, folder: Path) -> None:
    """The result of a run."""
    print(record.verdict)
    if record.choice is not None and record.choice.dev is not None:
        print(f"Chosen: {record.choice.approach}; {record.choice.reason}.")
    if evaluations := record.evaluation.evaluations:
        _print_table(evaluations, record.config.confidence_level)
    for line in _training(record.training, record.export):
        print(line)
    for finding in record.data_audit.findings:
        if finding.severity != "info":
            print(f"{finding.severity}: {finding.message}")
    print(f"\nFiles in {folder}/ (they hold patient text; mode 0600):")
    for path in sorted(Path(folder).iterdir()):
        if path.is_file():
            print(f"  {path.name:28} {size_text(path.stat().st_size):>9}")


def _print_table(evaluations: Sequence[Evaluation], confidence: float) -> None:
    print(
        f"\nOn {evaluations[0].rows} rows that nothing was trained on or chosen by ({confidence:.0%} intervals):\n"
        f"  {'':10} {'accuracy':>20} {'macro-F1':>20} {'kappa':>21}"
    )
    for each in evaluations:
        print(f"  {each.name:10} {' '.join(map(_estimate, (each.accuracy, each.macro_f1, each.kappa)))}")


def refusal(registration: Registration) -> str:
    """The line that says why there is no registered model, and how to go on."""
    reason = (registration.reason or "").rstrip(".")
    return f"not registered as {registration.name}: {reason}. Go on with: {registration.command}"


def print_registration(made: Registration) -> None:
    """How a registered model was proven in the server."""
    found = made.agreement
    assert found is not None  # a registered model has been compared
    kept = "byte for byte the judged file" if made.bytes == "same file" else "all tensors those of the judged file"
    print(f"\nRegistered as {made.name} with Ollama {made.ollama} at {made.server}: {kept}.")
    if found.labels is None:
        scored = "get the file's label by a plain /api/chat (Ollama gives no probabilities for labels in this script)"
        rated = f"{found.chat_labels:.0%} {scored}."
    else:
        rated = (
            f"{found.labels:.0%} are rated as by the file (probabilities {found.probability_gap:.4f} apart), "
            f"{found.chat_labels:.0%} also by a plain /api/chat."
        )
    print(f"{made.prompts} prompts are rendered as in training; of {found.rows} held-out rows {rated}")
    for line in made.overridden:
        print(f"warning: registered although {line} (--force)")
    print(f"Try it: ollama run {made.name}")


def print_tally(tally: Tally, output: Path) -> None:
    """What came of rating a file."""
    counts = tally.counts
    print(
        f"{output}: {counts.rows:,} rows, {counts.computed:,} rated now in {time_text(tally.seconds)} "
        f"({tally.rows_per_second:,.1f} rows/s), {counts.failed:,} not rated, {counts.review:,} to be reviewed"
    )
    for note in tally.notes:
        print(f"note: {note}")
    if counts.failed:
        print("warning: rows without a rating have the reason in Rating_Error; the same command tries them again")


def print_queue(queue: Queue, output: Path) -> None:
    """What there is to review."""
    print(f"{output}: {queue.queued:,} of {queue.rows:,} rows to be reviewed, the most useful first")
    for reason, count in sorted(queue.reasons.items(), key=lambda pair: -pair[1]):
        print(f"  {count:6,}  {reason}")
    print("Fill in Reviewed_Rating (a value or a label) and Review_Note, then: expertune merge-review")


def print_merged(merged: MergedReview, output: Path) -> None:
    """What came of a review."""
    print(
        f"{output}: {merged.added:,} reviewed rows added, {merged.known:,} were there with the same rating, "
        f"{merged.not_reviewed:,} not reviewed, {len(merged.conflicts):,} conflicts"
    )
    for line in merged.conflicts:
        print(f"conflict, not taken: {line}")
    if merged.renamed:
        print(f"note: {merged.renamed:,} rows have a Row_ID that was taken; it got a suffix")
    if merged.journalled is not None:
        print(f"note: the journal had rated {merged.journalled:,} of the reviewed rows")


def _estimate(estimate: Estimate) -> str:
    if estimate.value is None:
        return f"{'–':>20}"
    interval = estimate.interval
    if interval is None:
        return f"{estimate.value:6.3f}{'':14}"
    return f"{estimate.value:6.3f} ({interval.low:.2f} to {interval.high:.2f})"


def _training(training: TrainingSummary | None, export: ExportSummary | None) -> list[str]:
    if training is None or export is None:
        return []
    types = ", ".join(
        f"{each.tensors} tensors in {each.type} ({each.kept:.0%} of the change kept)" for each in export.types
    )
    return [
        f"\nTrained {training.steps} steps at {training.tokens_per_second or 0:,.0f} tokens/s "
        f"(learning rate {training.learning_rate:g}, {training.precision}, base {training.base_memory}); "
        f"kept step {training.best_step}.",
        f"Exported {types}; {size_text(export.bytes)}, base {size_text(export.base_bytes)}.",
        f"File and adapter agree on {export.agreement:.1%} of {export.agreement_rows} dev rows, "
        f"probabilities within {export.probability_gap:.3f} on average"
        f"{'' if export.agreement_passed else ' – BELOW the gate'}.",
        f"The file rates {export.rows_per_second:.1f} rows/s, its base {export.base_rows_per_second:.1f}.",
    ]
