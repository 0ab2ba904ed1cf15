"""The metadata of a run in a notebook: a dict that shows itself as a short page, and its raters as a table."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..evaluate.compare import Evaluation
from ..outputs import METADATA, PRODUCTS
from ..record import EvaluationRecord
from ..record.section import parse
from ..stats.intervals import Estimate
from .formats import number

if TYPE_CHECKING:
    import pandas as pd

FIGURES = {"macro_f1": "Macro-F1", "kappa": "Kappa", "accuracy": "Accuracy", "log_loss": "Log-loss"}


class RunMetadata(dict[str, Any]):
    """Contents of fine_tuning_metadata.json as a dict. In a notebook it is shown as verdict, raters and files.

    Neither that nor the table has the text of a record.
    """

    def to_frame(self) -> pd.DataFrame:
        """Build a table with one row for each rater, the recommended one first; figures are those of the test records.

        Each figure has three columns, such as `kappa`, `kappa_low` and `kappa_high`: its value and the ends of its
        interval, NaN where there is none. The table is empty if nothing could be evaluated.
        """
        import pandas as pd

        ends = [f"{figure}{end}" for figure in FIGURES for end in ("", "_low", "_high")]
        found = self._evaluations()
        frame = pd.DataFrame([list(_values(each)) for each in found], columns=ends, dtype=float)
        frame.insert(0, "rater", [each.name for each in found])
        frame.insert(1, "records", [each.rows for each in found])
        return frame

    def _repr_html_(self) -> str:
        """Render verdict, failed checks, raters with intervals, and the names of the files, as IPython shows them."""
        checks = "".join(f"<li>{escape(each)}</li>" for each in self.get("failed_checks") or ())
        failed = f"<p>Failed checks:</p><ul>{checks}</ul>" if checks else ""
        files = ", ".join(f"<code>{escape(name)}</code>" for name in self._files())
        return f"<p><b>{escape(self.get('verdict', ''))}</b></p>{failed}{self._table()}<p>Files: {files}</p>"

    def _table(self) -> str:
        names = "".join(f"<th>{name}</th>" for name in ("Rater", "Records", *FIGURES.values()))
        rows = "".join(
            f"<tr><td>{escape(each.name)}</td><td>{each.rows}</td>"
            + "".join(f"<td>{_with_interval(getattr(each, figure))}</td>" for figure in FIGURES)
            + "</tr>"
            for each in self._evaluations()
        )
        return f"<table><thead><tr>{names}</tr></thead><tbody>{rows}</tbody></table>" if rows else ""

    def _evaluations(self) -> tuple[Evaluation, ...]:
        found = self.get("evaluation")
        return parse(EvaluationRecord, found, Path(METADATA)).evaluations if found else ()

    def _files(self) -> list[str]:
        hashes = self.get("provenance", {}).get("hashes", {})
        return [*(name for name in PRODUCTS if name in hashes), "report.html", METADATA]


def _values(evaluation: Evaluation) -> Iterator[float | None]:
    for figure in FIGURES:
        estimate: Estimate = getattr(evaluation, figure)
        ends = (estimate.interval.low, estimate.interval.high) if estimate.interval else (None, None)
        yield from (estimate.value, *ends)


def _with_interval(estimate: Estimate) -> str:
    interval = estimate.interval
    shown = f" [{number(interval.low)} to {number(interval.high)}]" if interval else ""
    return number(estimate.value) + shown
