"""Report of a run: report.json, report.html and plots/*.png, the same figures for programs and for people.

No file holds the text of a record. The report is a mapping, the dump of report_record.ReportRecord. Only `verdict` and
`run` must be present: a run without training has no curves.

    verdict      {"line", "base", "tfidf", "majority", ...}    verdict.Verdict; the line comes first on the page
    run          {"topics", "model", "created", "seed", "rows": {"train", "dev", "test"}, ...}
    choice       {"reason", ...} or null          why this product and not the other
    evaluations  [compare.Evaluation, ...]         the judged artefact first, then its base and the others
    differences  [compare.Difference, ...]
    strata       [subgroups.SubgroupColumn, ...]  of the judged artefact
    prevalence   prevalence.at_prevalence()       "
    conformal    coverage.Coverage or null        "
    curves       {"steps": [{"step", "loss", "learning_rate", "tokens", "seconds"}, ...],
                  "dev": [{"step", "loss", "macro_f1", "best"}, ...]}
    audit        {"findings": [{"kind", "severity", "count", "message"}, ...], any other facts}
    export       {"types": [{"type", "tensors", "bytes", "kept"}, ...], "bytes", "base_bytes", "agreement",
                  "probability_gap", "rows_per_second", "base_rows_per_second", any other facts}
    provenance   {"hashes": {file: sha256}, "versions": {package: version}, ...}
    config       {setting: value}
    timings      {stage: seconds}

`kept` is the share of the update that quantisation retained (0 to 1), `bytes` are file or tensor bytes. Facts that are
not named here are shown as they are, nested ones with a dotted name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from ...errors import UsageError
from ...files import write_json, write_text
from ..compare import Evaluation
from ..prevalence import at_prevalence
from .formats import plain
from .page import render_html
from .plots import Plot, draw_plots, write_plots

__all__ = ["plain", "render_html", "rewrite_report", "write_report"]


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Write report.json, report.html and the plots into `folder`, each complete or not at all.

    Figures that are not finite become null. Raises UsageError where a required section is missing, OutputError where
    the folder cannot be written.
    """
    _write(folder, *_render(report))


def rewrite_report(folder: Path, prevalence: float | None = None) -> None:
    """Write the report of a finished run again from its report.json, at another `prevalence` where one is given.

    Raises UsageError where the folder has no report.json or it cannot be read, OutputError as write_report.
    """
    path = Path(folder) / "report.json"
    remedy = "give the output folder of a finished run"
    if prevalence is not None and not 0 <= prevalence < 1:
        raise UsageError(f"--prevalence: {prevalence:g} is not a share (0 or more, below 1)")
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        if prevalence is not None and report.get("evaluations"):
            rater = TypeAdapter(Evaluation).validate_python(report["evaluations"][0])
            report["prevalence"] = at_prevalence(rater, prevalence)
        rendered = _render(report)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    except Exception as error:  # whatever a file that is not our report may lead to
        raise UsageError(f"{path}: not the report of a run ({type(error).__name__}); {remedy}") from None
    _write(folder, *rendered)


def _render(report: Mapping[str, Any]) -> tuple[Any, str, dict[str, Plot]]:
    """Give the report as JSON holds it, its page and its plots."""
    sound = plain(report)
    plots = draw_plots(sound)
    return sound, render_html(sound, plots), plots


def _write(folder: Path, sound: Any, page: str, plots: Mapping[str, Plot]) -> None:
    write_json(Path(folder) / "report.json", sound)
    write_text(Path(folder) / "report.html", page)
    write_plots(Path(folder), plots)
