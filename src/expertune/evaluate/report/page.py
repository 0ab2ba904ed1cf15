"""HTML page of the report, from report.html.j2 and report.css: one file that loads nothing and runs no script."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...errors import UsageError
from .formats import duration, facts, number, percent, plain, size, span
from .plots import Plot, draw_plots, svg

if TYPE_CHECKING:
    from jinja2 import Environment

EXPORT_SHOWN = (
    "types",
    "bytes",
    "base_bytes",
    "agreement",
    "probability_gap",
    "rows_per_second",
    "base_rows_per_second",
)
RIVALS = ("base", "TF-IDF", "majority")  # names of the raters that the verdict compares with
READINGS = ("worse", "no clear difference", "better")


def render_html(report: Mapping[str, Any], plots: Mapping[str, Plot] | None = None) -> str:
    """Render the page as one string; draws the plots unless they are given.

    Raises UsageError where a required section is missing.
    """
    missing = [key for key in ("verdict", "run") if key not in report]
    if missing:
        raise UsageError(f"report: {' and '.join(missing)} missing; write the report from a finished run")
    sound = plain(report)
    drawn = draw_plots(sound) if plots is None else plots
    pictures = {name: svg(name, plot) for name, plot in drawn.items()}
    template = _environment().get_template("report.html.j2")
    return template.render(report=sound, plots=pictures, tone=tone(sound.get("differences")))


def _environment() -> Environment:
    import jinja2

    pages = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__ or "", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.ChainableUndefined,  # most sections may be missing
    )
    pages.filters.update(number=number, percent=percent, span=span, size=size, duration=duration, reading=reading)
    pages.filters["facts"] = lambda section: list(facts(section))
    pages.globals["export_shown"] = EXPORT_SHOWN
    return pages


def reading(difference: Mapping[str, Any]) -> str:
    """Read a Difference's mapping as one of READINGS: "better" and "worse" need an interval without 0."""
    if difference["includes_zero"]:
        return "no clear difference"
    return "better" if difference["value"] > 0 else "worse"


def tone(differences: Any) -> str:
    """Choose the verdict's colour (a CSS class): that of the worst reading against the three rivals."""
    found = {reading(each) for each in differences or () if each["second"] in RIVALS}
    return next((each.replace(" ", "-") for each in READINGS if each in found), "")
