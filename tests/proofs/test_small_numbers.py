"""No figure stands on fewer than 20 rows, in the records, in report.json and on the page."""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluate.samples import SCALE, rated, truth
from expertune.evaluate.subgroups import FEWEST, SubgroupColumn, subgroups_of
from expertune.evaluate.verdict import Verdict
from expertune.record import AuditRecord, Provenance
from expertune.report import render_html
from expertune.report_record import ReportRecord, RunFacts

VALUES = ("F", "M", "X", "", "Jane Doe")
AGES = ("3 months", "4", "12Y", "30", "50", "80", "", "old")


@st.composite
def populations(draw: st.DrawFn) -> tuple[list[dict[str, str]], list[int], list[int]]:
    """Cells, true and rated labels of up to 200 rows, in strata of any size."""
    cells: list[dict[str, str]] = []
    for value in VALUES:
        count = draw(st.sampled_from([0, 1, 5, 19, 20, 21, 40]))
        ages = draw(st.lists(st.sampled_from(AGES), min_size=count, max_size=count))
        cells += [{"Sex": value, "Age": age} for age in ages]
    cells = cells or [{"Sex": "F", "Age": "4"}]
    labels = st.lists(st.integers(0, 2), min_size=len(cells), max_size=len(cells))
    return cells, draw(labels), draw(labels)


def numbers(value: Any) -> list[float]:
    """All numbers inside a JSON value."""
    if isinstance(value, dict):
        return [number for each in value.values() for number in numbers(each)]
    if isinstance(value, (list, tuple)):
        return [number for each in value for number in numbers(each)]
    return [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else []


def report(strata: tuple[SubgroupColumn, ...]) -> ReportRecord:
    """A report of these subgroups alone."""
    return ReportRecord(
        verdict=Verdict("-"),
        run=RunFacts(topics="", model="", created="", seed=1, rows={}),
        strata=strata,
        audit=AuditRecord(rows=0, by_label={}, findings=()),
        provenance=Provenance(hashes={}, versions={}),
        config={},
        timings={},
    )


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(populations())
def test_fewer_than_twenty_rows_show_no_figure(drawn: tuple[list[dict[str, str]], list[int], list[int]]) -> None:
    cells, expert, model = drawn
    rows = [replace(row, extra=each) for row, each in zip(truth(expert), cells, strict=True)]
    strata = tuple(subgroups_of(rows, rated(model), SCALE, {}, (), 0.95))
    columns = [asdict(each) for each in strata]
    page = render_html(report(strata))
    assert {column["column"] for column in columns} == {"Age", "Sex"}
    for column in columns:
        shown = [each for each in column["strata"] if not each["hidden"]]
        left_out = len(rows) - sum(each["rows"] for each in shown)
        assert left_out == 0 or left_out >= min(FEWEST, len(rows))
        for each in column["strata"]:
            if each["hidden"]:
                assert numbers({name: value for name, value in each.items() if name != "name"}) == []
            else:
                assert each["rows"] >= FEWEST
                figures = [label[name] for label in each["per_class"] for name in label if name != "label"]
                assert all(figure is None or figure["n"] >= FEWEST for figure in [each["accuracy"], *figures])
    hidden = re.findall(r'<tbody class="stratum">\s*<tr><th scope="row">.*?</tbody>', page, flags=re.S)
    assert len(hidden) == sum(bool(each["hidden"]) for column in columns for each in column["strata"])
    assert not any(re.search(r"\d[.]\d", line) for line in hidden)
    rare = [value for value in VALUES if 0 < sum(each["Sex"] == value for each in cells) < FEWEST]
    assert "Jane" not in page or "Jane Doe" not in rare
