"""report.json, report.html and plots/*.png: the same facts for programs and for people. None holds the text of a row.

The report is a mapping. Only `verdict` and `run` must be there: a run without training has no curves.

    verdict      {"line", "base", "tfidf", "majority", ...}    Verdict.to_dict(); the line is shown first
    run          {"topics", "model", "created", "seed", "rows": {"train", "dev", "test"}, ...}
    choice       {"reason", ...} or null          why this product and not the other
    evaluations  [Evaluation.to_dict(), ...]      the judged artefact first, then its base and the others
    differences  [Difference.to_dict(), ...]
    strata       [StrataColumn, ...]              as mappings; of the judged artefact
    prevalence   prevalence.at_prevalence()       "
    conformal    Coverage.to_dict() or null       "
    curves       {"steps": [{"step", "loss", "learning_rate", "tokens", "seconds"}, ...],
                  "dev": [{"step", "loss", "macro_f1", "best"}, ...]}
    audit        {"findings": [{"kind", "severity", "count", "message"}, ...], any other facts}
    export       {"types": [{"type", "tensors", "bytes", "kept"}, ...], "bytes", "base_bytes", "agreement",
                  "probability_gap", "rows_per_second", "base_rows_per_second", any other facts}
    provenance   {"hashes": {file: sha256}, "versions": {package: version}, ...}
    config       {setting: value}
    timings      {stage: seconds}

`kept` is the share of the change that survived the type (0 to 1), `bytes` are file or tensor bytes. Facts that are
not named here are shown as they are, nested ones with a dotted name.
"""

from __future__ import annotations

import dataclasses
import json
import math
import numbers
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from ..errors import UsageError
from ..files import write_json, write_text
from . import report_plots
from .compare import Evaluation
from .prevalence import at_prevalence
from .report_html import TEMPLATE
from .report_png import write_plots

_EXPORT_SHOWN = (
    "types",
    "bytes",
    "base_bytes",
    "agreement",
    "probability_gap",
    "rows_per_second",
    "base_rows_per_second",
)


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Write report.json, report.html and the plots into `folder`, each whole or not at all.

    Figures that are not finite become null. Raises UsageError where a needed section is missing, OutputError where
    the folder cannot be written.
    """
    sound = plain(report)
    html = render_html(sound)
    write_json(Path(folder) / "report.json", sound)
    write_text(Path(folder) / "report.html", html)
    write_plots(Path(folder), sound)


def rewrite_report(folder: Path, prevalence: float | None = None) -> None:
    """Write the report of a finished run again from its report.json, with another `prevalence` where one is given.

    Raises UsageError where the folder has no report.json or it cannot be read, OutputError as write_report.
    """
    path = Path(folder) / "report.json"
    remedy = "give the output folder of a finished run"
    if prevalence is not None and not 0 <= prevalence < 1:
        raise UsageError(f"--prevalence: {prevalence:g} is no share (from 0 on, below 1)")
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        if prevalence is not None and report.get("evaluations"):
            rater = TypeAdapter(Evaluation).validate_python(report["evaluations"][0])
            report["prevalence"] = plain(at_prevalence(rater, prevalence))
        render_html(report)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    except Exception as error:  # whatever a file that is no report of ours may lead to
        raise UsageError(f"{path}: is no report of a run ({type(error).__name__}); {remedy}") from None
    write_report(folder, report)


def render_html(report: Mapping[str, Any]) -> str:
    """The page as one text: it loads nothing and runs no script."""
    import jinja2

    missing = [key for key in ("verdict", "run") if key not in report]
    if missing:
        raise UsageError(f"report: {' and '.join(missing)} missing; write the report from a finished run")
    pages = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.ChainableUndefined
    )
    pages.filters.update(
        number=number, percent=percent, span=span, size=size, facts=lambda section: list(facts(section))
    )
    pages.globals.update(plots=report_plots, export_shown=_EXPORT_SHOWN, tone=tone)
    return pages.from_string(TEMPLATE).render(report=plain(report))


def plain(value: Any) -> Any:
    """The same value as JSON holds it: lists, texts as keys, null for figures that are not finite."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(each) for each in value]
    if isinstance(value, (str, bool)) or value is None:
        return value
    if isinstance(value, numbers.Integral):  # numpy's too
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
    return str(value)


def tone(verdict: Mapping[str, Any]) -> str:
    """The colour of the verdict: that of its worst outcome."""
    outcomes = {verdict.get(rival) for rival in ("base", "tfidf", "majority")}
    return next((each.replace(" ", "-") for each in ("not better", "unclear", "better") if each in outcomes), "")


def number(value: Any, digits: int = 3) -> str:
    """A figure for people; a dash where it is undefined."""
    if value is None or not isinstance(value, (int, float)):
        return "–"
    return f"{value:.{digits}f}"


def percent(value: Any) -> str:
    """A share for people, to three figures; to two where it is below 10 %."""
    if not isinstance(value, (int, float)):
        return "–"
    return f"{100 * value:.{3 if value >= 0.1 else 2}g} %"


def span(estimate: Any, digits: int = 3) -> str:
    """The interval of an Estimate's or a Difference's mapping, or nothing."""
    interval = estimate.get("interval") if isinstance(estimate, Mapping) else None
    return f"{interval['low']:.{digits}f} to {interval['high']:.{digits}f}" if interval else ""


def size(value: Any) -> str:
    """Bytes for people."""
    if not isinstance(value, (int, float)):
        return "–"
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= step:
            return f"{value / step:.1f} {unit}"
    return f"{value:.0f} bytes"


def facts(section: Any, before: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, value as text) of a nested mapping, in its order; lists of plain values on one line."""
    for key, value in section.items() if isinstance(section, Mapping) else ():
        name = f"{before}{key}"
        if isinstance(value, Mapping):
            yield from facts(value, f"{name}.")
        elif isinstance(value, list) and any(isinstance(each, (Mapping, list)) for each in value):
            for at, each in enumerate(value, start=1):
                yield from facts(each if isinstance(each, Mapping) else {"": each}, f"{name}.{at}.")
        elif isinstance(value, list):
            yield name, ", ".join(map(str, value)) or "–"
        elif value is None:
            yield name, "–"
        else:
            yield name, f"{value:.6g}" if isinstance(value, float) else str(value)
