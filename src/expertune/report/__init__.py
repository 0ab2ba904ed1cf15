"""Report of a run: report.json, report.html and plots/*.png, the same figures for programs and for people.

All are made from one report_record.ReportRecord; no file holds the text of a record. The verdict comes first on the
page, and of the raters the judged artefact, then its base and the others. Sections that the record has nothing for are
left out. Facts without a place of their own are shown as they are, nested ones with a dotted name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..errors import UsageError
from ..evaluate.prevalence import at_prevalence
from ..files import write_json, write_text
from ..record.section import read
from ..report_record import ReportRecord, ReviewSummary
from .page import render_html
from .plots import Plot, draw_plots, write_plots

__all__ = ["render_html", "rewrite_report", "write_report"]


def write_report(folder: Path, report: ReportRecord) -> None:
    """Write report.json, report.html and the plots into `folder`, each complete or not at all.

    Figures that are not finite become null. Raises OutputError where the folder cannot be written.
    """
    _write(folder, report, *_render(report))


def rewrite_report(folder: Path, prevalence: float | None = None, review: Path | None = None) -> None:
    """Write the report of a finished run again from its report.json, at another `prevalence` where one is given.

    `review` is the summary of a review: the error rate of its random sample and the experts' agreement are shown and
    kept in report.json.

    Raises UsageError where report.json or the summary cannot be read, OutputError as write_report.
    """
    path = Path(folder) / "report.json"
    if prevalence is not None and not 0 <= prevalence < 1:
        raise UsageError(f"--prevalence: {prevalence:g} is not a share (0 or more, below 1)")
    report = read(ReportRecord, path)
    if review is not None:
        summary = _review_summary(review)
        parts = {"reviewed": summary.random_sample, "reviewers": summary.numbered()}
        report = report.model_copy(update={name: part for name, part in parts.items() if part})
    try:
        if prevalence is not None and report.evaluations:
            table = at_prevalence(report.evaluations[0], prevalence)
            report = report.model_copy(update={"prevalence": table})
        page, plots = _render(report)
    except Exception as error:  # parts that contradict each other
        raise UsageError(
            f"{path}: not the report of a run ({type(error).__name__}); give the output folder of a finished run"
        ) from None
    _write(folder, report, page, plots)


def _review_summary(review: Path) -> ReviewSummary:
    """Raises UsageError for another file, and for a summary without a figure for the report."""
    try:
        summary, problem = ReviewSummary.model_validate_json(review.read_bytes()), "no figure for the report"
    except (OSError, ValueError) as error:
        summary, problem = ReviewSummary(), type(error).__name__
    if summary == ReviewSummary():
        raise UsageError(
            f"{review}: not the summary of a review whose random sample was rated, or on which two experts worked "
            f"({problem}); give the .summary.json file that expertune review --page wrote after such ratings"
        )
    return summary


def _render(report: ReportRecord) -> tuple[str, dict[str, Plot]]:
    plots = draw_plots(report)
    return render_html(report, plots), plots


def _write(folder: Path, report: ReportRecord, page: str, plots: Mapping[str, Plot]) -> None:
    write_json(Path(folder) / "report.json", report.to_dict())
    write_text(Path(folder) / "report.html", page)
    write_plots(Path(folder), plots)
