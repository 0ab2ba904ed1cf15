"""HTML page of the report, from report.html.j2 and report.css: one file that loads nothing and runs no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..evaluate.compare import Difference
from ..report_record import ReportRecord
from .formats import duration, facts, number, percent, size, span
from .plots import Plot, draw_plots, svg

if TYPE_CHECKING:
    from jinja2 import Environment

RIVALS = ("base", "TF-IDF", "majority")  # names of the raters that the verdict compares with
READINGS = ("worse", "no clear difference", "better")


def render_html(report: ReportRecord, plots: Mapping[str, Plot] | None = None) -> str:
    """Render the page as one string; draws the plots unless they are given."""
    drawn = draw_plots(report) if plots is None else plots
    pictures = {name: svg(name, plot) for name, plot in drawn.items()}
    template = _environment().get_template("report.html.j2")
    return template.render(report=report, dump=report.to_dict(), plots=pictures, tone=tone(report.differences))


def _environment() -> Environment:
    import jinja2

    pages = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__ or "", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,  # a field that the record lacks is an error
    )
    pages.filters.update(number=number, percent=percent, span=span, size=size, duration=duration, reading=reading)
    pages.filters["facts"] = lambda section: list(facts(section))
    return pages


def reading(difference: Difference) -> str:
    """Read a difference as one of READINGS: "better" and "worse" need an interval without 0."""
    if difference.includes_zero:
        return "no clear difference"
    return "better" if difference.value > 0 else "worse"


def tone(differences: Sequence[Difference]) -> str:
    """Choose the verdict's colour (a CSS class): that of the worst reading against the three rivals."""
    found = {reading(each) for each in differences if each.second in RIVALS}
    return next((each.replace(" ", "-") for each in READINGS if each in found), "")
