"""Results on stdout: the verdict first, then figures, then files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import size_text
from ..progress import duration_text
from .options import print_json

if TYPE_CHECKING:
    from ..evaluate.compare import Evaluation
    from ..export.summary import ExportSummary
    from ..rate.http_server import Address, ServedFile
    from ..rate.merge import MergedReview
    from ..rate.review import Queue
    from ..rate.runner import Tally
    from ..record import RunRecord
    from ..record.registration import Registration
    from ..stats.intervals import Estimate


def print_summary(record: RunRecord, folder: Path) -> None:
    """Print the result of a run."""
    print(record.verdict)
    if record.choice is not None and record.choice.dev is not None:
        print(f"Chosen: {record.choice.approach}; {record.choice.reason}.")
    if evaluations := record.evaluation.evaluations:
        _print_table(evaluations, record.config.confidence_level)
    if record.evaluation.automatable:
        print(f"\n{record.evaluation.automatable.line()}")
    for curve in record.evaluation.learning_curves[:1]:
        print(f"{curve.line()}.")
    for line in [*(["", *record.experts.lines()] if record.experts else []), *_training_lines(record)]:
        print(line)
    for finding in record.data_audit.findings:
        if finding.severity != "info":
            print(f"{finding.severity}: {finding.message}")
    print(f"\nFiles in {folder}/ (they contain patient text; mode 0600):")
    for path in sorted(Path(folder).iterdir()):
        if path.is_file():
            print(f"  {path.name:28} {size_text(path.stat().st_size):>9}")


def _print_table(evaluations: Sequence[Evaluation], confidence: float) -> None:
    width = max(len(each.name) for each in evaluations)
    print(
        f"\nOn {evaluations[0].rows} records kept back for testing ({confidence:.0%} confidence intervals):\n"
        f"  {'':{width}} {'accuracy':>20} {'macro-F1':>20} {'kappa':>21}"
    )
    for each in evaluations:
        sampled = f"  (on {each.rows} of them)" if each.rows < evaluations[0].rows else ""
        print(f"  {each.name:{width}} {' '.join(map(_estimate, (each.accuracy, each.macro_f1, each.kappa)))}{sampled}")


def refusal(registration: Registration) -> str:
    """Describe why the model was not registered, and the command to continue with."""
    reason = (registration.reason or "").rstrip(".")
    return f"not registered as {registration.name}: {reason}. Continue with: {registration.command}"


def print_registration(registration: Registration) -> None:
    """Print how the registered model was verified in the server."""
    agreement = registration.agreement
    assert agreement is not None  # a registered model has been compared
    same = "byte for byte the evaluated file"
    kept = same if registration.bytes == "same file" else "with all tensors of the evaluated file"
    print(f"\nRegistered as {registration.name} with Ollama {registration.ollama} at {registration.server}: {kept}.")
    if agreement.labels is None:
        scored = "get the file's label by a plain /api/chat (Ollama gives no probabilities for labels in this script)"
        rated = f"{agreement.chat_labels:.0%} {scored}."
    else:
        gap = agreement.probability_gap
        shown = "its probabilities are approximate" if gap is None else f"probabilities differ by {gap:.4f} on average"
        by_chat = f"{agreement.chat_labels:.0%} also by a plain /api/chat"
        rated = f"{agreement.labels:.0%} get the file's label ({shown}) and {by_chat}."
    print(f"{registration.prompts} prompts are rendered as in training; of {agreement.rows} test records {rated}")
    if registration.decisions:
        print(registration.decisions)
    for line in registration.overridden:
        print(f"warning: registered although {line} (--force)")
    print(f"Try it: ollama run {registration.name}")


def print_address(served: ServedFile, address: Address) -> None:
    """Print how other programs ask the running server."""
    print(f"{served.file} at {address.url}, on this machine only, until Ctrl-C. Requests need the key.")
    if served.note:
        print(f"note: {served.note}")
    print(f"\nIn a shell:\n{address.curl(served.route, served.body)}")
    print(f"\nIn Python:\n{address.python(served.route, served.body)}")
    print(f"\nOpenAPI (needs the key): {address.url}/openapi.json · ready: {address.url}/health", flush=True)


def print_tally(tally: Tally, output: Path, *, as_json: bool = False) -> None:
    """Print the counts of rating a file."""
    counts = tally.counts
    if as_json:
        facts = {"output": str(output), **counts._asdict(), "seconds": round(tally.seconds, 3), "notes": tally.notes}
        labels = tally.prevalence.labels if tally.prevalence else ()
        print_json({**facts, "prevalence": [asdict(each) for each in labels]})
        return
    print(
        f"{output}: {counts.rows:,} records, {counts.computed:,} rated now in {duration_text(tally.seconds)} "
        f"({tally.rows_per_second:,.1f} records/s), {counts.failed:,} not rated, {counts.review:,} to be reviewed"
    )
    if tally.prevalence and tally.prevalence.labels:
        print(f"Prevalence, corrected for the rater's errors: {tally.prevalence.line()}")
    for note in tally.notes:
        print(f"note: {note}")
    if counts.failed:
        print("warning: Rating_Error says why a record has no rating; the same command tries these records again")


def print_queue(queue: Queue, output: Path) -> None:
    """Print the size of the review queue."""
    print(f"{output}: {queue.queued:,} of {queue.rows:,} records to be reviewed, the most useful first")
    for reason, count in sorted(queue.reasons.items(), key=lambda pair: -pair[1]):
        print(f"  {count:6,}  {reason}")
    for note in queue.notes:
        print(f"note: {note}")
    print("Fill in Reviewed_Rating (a value or a label) and Review_Note, then: expertune merge-review")


def print_merged(merged: MergedReview, output: Path) -> None:
    """Print the counts of a merged review."""
    print(
        f"{output}: {merged.added:,} reviewed records added, {merged.known:,} already had the same rating, "
        f"{merged.not_reviewed:,} not reviewed, {len(merged.conflicts):,} conflicts"
    )
    for note in merged.notes:
        print(f"note: {note}")
    for line in merged.conflicts:
        print(f"conflict, left out: {line}")
    for line in merged.damaged:
        print(f"damaged, left out: {line}")
    if merged.renamed:
        print(f"note: {merged.renamed:,} records have a Row_ID that was in use; it got a suffix")
    if merged.journalled is not None:
        print(f"note: {merged.journalled:,} of the reviewed records are in the journal")


def _estimate(estimate: Estimate) -> str:
    if estimate.value is None:
        return f"{'–':>20}"
    interval = estimate.interval
    if interval is None:
        return f"{estimate.value:6.3f}{'':14}"
    return f"{estimate.value:6.3f} ({interval.low:.2f} to {interval.high:.2f})"


def _compared(export: ExportSummary) -> str:
    records = f"{export.agreement_rows} validation records"
    return records if export.clear_rows is None else f"the {export.clear_rows} of {records} with a clear label"


def _noise_lines(export: ExportSummary) -> list[str]:
    """How far two servers may differ on a record; empty for a run before this was measured."""
    if export.noise is None:
        return []
    return [
        f"Another server of this file may give probabilities that differ by {export.noise.mean:.3f} on average, and "
        f"another label for {export.noise.labels:.0%} of the records, those near a tie."
    ]


def _training_lines(record: RunRecord) -> list[str]:
    """Size, speed and agreement of the saved file; types, dtype and memory are in the report."""
    training, export = record.training, record.export
    if training is None or export is None:
        return []
    return [
        f"\nTrained {training.steps} steps; step {training.best_step} was best on the validation records and was kept.",
        f"The saved file ({size_text(export.bytes)}, base {size_text(export.base_bytes)}) gives the trained model's "
        f"label for {export.agreement:.1%} of {_compared(export)}.",
        *_noise_lines(export),
        _speed_line(export),
    ]


def _speed_line(export: ExportSummary) -> str:
    base = f" (its base {export.base_rows_per_second:.1f})" if export.base_rows_per_second else ""
    read = f"{export.rows_per_second:.1f} records/s"
    if export.served_apart is None:
        return f"It rates {read}{base}."
    by_us = f"{read} in Expertune's own decoder{base}"
    return f"It rates {export.served_apart:.1f} records/s in llama.cpp, as Ollama serves it, and {by_us}."
