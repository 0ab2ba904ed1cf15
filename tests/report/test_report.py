from __future__ import annotations

import json
import re
import stat
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluate.samples import rated, truth
from expertune.config import Config, as_dict
from expertune.errors import OutputError, UsageError
from expertune.evaluate.automatable import AutomatableShare, automatable_share
from expertune.evaluate.ceiling import compare_experts
from expertune.evaluate.compare import Difference, compare, evaluate
from expertune.evaluate.coverage import conformal_coverage
from expertune.evaluate.label_errors import ExaminedPart, LabelError, LabelErrors
from expertune.evaluate.prevalence import at_prevalence
from expertune.evaluate.subgroups import subgroups_of
from expertune.evaluate.verdict import Verdict, verdict
from expertune.export.summary import ExportSummary, TypeShare
from expertune.ratings.audit import Finding
from expertune.ratings.experts import ExpertRatings
from expertune.ratings.scale import make_scale
from expertune.record import ApproachChoice, AuditRecord, Provenance, ReadoutInfo
from expertune.record.section import parse
from expertune.report import render_html, rewrite_report, write_report
from expertune.report.formats import duration, facts, number, percent, size
from expertune.report.page import reading, tone
from expertune.report.plots import PNG_NAMES, draw_plots, svg
from expertune.report_record import Curves, ReportRecord, RunFacts
from expertune.stats.conformal import Conformal
from expertune.stats.intervals import Estimate, Interval, wilson
from expertune.stats.learning_curve import CurvePoint, ExpectedGain, LearningCurve
from expertune.train.events import DevEvent, StepEvent
from expertune.train.summary import TrainingSummary

HOSTILE = "<script>alert('x')</script>"
HOSTILE_HTML = "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;"
CONFIG = Config(bootstrap_resamples=100)


class Page(HTMLParser):
    """Tags, ids, links and table rows of a page; raises where tags are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.alternatives: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.links += [found[name] for name in ("src", "href", "srcset", "xlink:href", "data") if name in found]
        self.ids += [found["id"]] if "id" in found else []
        self.alternatives += [found.get("aria-label", "")] if tag == "svg" else []
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag != "meta":
            self.open.append(tag)

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] = " ".join([*self.rows[-1][-1].split(), *data.split()])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def shown(estimate: Estimate | Difference | None, digits: int) -> str:
    """The cell of an estimate."""
    if estimate is None:
        return "n < 20"
    if estimate.value is None:
        return "–"
    interval = estimate.interval
    low_high = f" {interval.low:.{digits}f} to {interval.high:.{digits}f}" if interval else ""
    return f"{estimate.value:.{digits}f}{low_high}"


def step(at: int, loss: float) -> StepEvent:
    return StepEvent(at, 30, at / 30, loss, 1e-4, 0.5, 9, 0.1)


def dev(at: int, loss: float, macro_f1: float, best: bool = False) -> DevEvent:
    return DevEvent(at, 30, loss, loss, None, macro_f1, 0.5, best, 0.1)


def least_report(**parts: Any) -> ReportRecord:
    """A report with no more than it must have, and these parts."""
    least = {
        "verdict": Verdict("No model was made."),
        "run": RunFacts(topics="", model="m", created="2026-01-02", seed=1, rows={"train": 0, "dev": 0, "test": 0}),
        "audit": AuditRecord(rows=0, by_label={}, findings=()),
        "provenance": Provenance(hashes={}, versions={}),
        "config": {},
        "timings": {},
    }
    return ReportRecord(**{**least, **parts})


def learning(name: str, more: float) -> LearningCurve:
    """A curve of four points, and a gain that is clear where `more` is above 0."""
    points = [
        CurvePoint(50 * at, estimate(0.4 + 0.1 * at + more, 200), estimate(1.2 - 0.1 * at, 200)) for at in range(1, 5)
    ]
    return LearningCurve(name, tuple(points), ExpectedGain(200, 100, estimate(0.01 + more, 200), more > 0))


def estimate(value: float, n: int) -> Estimate:
    return Estimate(value, Interval(value - 0.05, value + 0.05, "t", 0.95), n)


def full_report() -> ReportRecord:
    """A report as the functions of this package make it; each prompt is "visit" and a number."""
    scale = make_scale({HOSTILE: 1, "No & never": 0, "$\\frac{": 2, "Unbekannt 不明": 3})
    expert = [replace(row, extra={"Sex": HOSTILE}) for row in truth([0, 1, 2, 0, 1, 0, 1, 1] * 30, scale)]
    tuned = rated([0, 1, 2, 0, 1, 0, 1, 0] * 30, scale)
    raters = {
        "tuned": tuned,
        "few-shot": rated([0, 1, 2, 0, 1, 0, 0, 0] * 30, scale),
        "base": rated([0] * 240, scale),
        "TF-IDF": rated([1] * 240, scale),
        "majority": rated([3] * 240, scale),
    }
    figures = [evaluate(name, expert, rows, scale, {}, CONFIG, 3.0) for name, rows in raters.items()]
    thresholds = Conformal(0.9, scale.labels, (0.3,) * 4, (20, 20, 20, 3), (True, True, True, False))
    coverage = conformal_coverage(thresholds, expert, tuned, scale, {}, 0.95)
    differences = compare(("tuned", raters.pop("tuned")), raters, expert, scale, {}, CONFIG)
    steps = [step(at, float("nan") if at == 4 else 2 / at) for at in range(1, 30)]
    return ReportRecord(
        verdict=verdict(figures[0], *figures[2:], differences),
        run=RunFacts(
            topics=HOSTILE,
            model=HOSTILE,
            created="2026-01-02T03:04:05+00:00",
            seed=1,
            rows={"train": 30, "dev": 5, "test": 8},
        ),
        choice=ApproachChoice(approach="tune", reason="better on 50 dev rows"),
        evaluations=tuple(figures),
        differences=tuple(differences),
        strata=tuple(subgroups_of(expert, tuned, scale, {}, ("Sex", "Ward"), 0.95)),
        prevalence=at_prevalence(figures[0], 0.02),
        conformal=coverage,
        label_errors=LabelErrors(
            (ExaminedPart("train", 30, (HOSTILE,)), ExaminedPart("test", 240, ("tuned", "TF-IDF"))),
            17,
            (LabelError(HOSTILE, "train", HOSTILE, 0.02, "No & never", 0.91),),
        ),
        automatable=automatable_share((expert, tuned), (expert, tuned), scale, {}, None, CONFIG),
        learning_curves=(learning("TF-IDF", 0.0), learning(HOSTILE, 0.1)),
        curves=Curves(steps=tuple(steps), dev=(dev(10, 1.0, 0.5, best=True),)),
        audit=AuditRecord(rows=43, by_label={HOSTILE: 43}, findings=(Finding(HOSTILE, "warning", 3, (), HOSTILE),)),
        export=ExportSummary(
            types=(TypeShare("Q5_K", 7, 10**7, 0.97),),
            base_types={"Q4_K": 7},
            bytes=10**8,
            base_bytes=9 * 10**7,
            agreement=0.995,
            probability_gap=float("inf"),
            agreement_passed=True,
            agreement_rows=50,
            rounds=(),
            rows_per_second=3.0,
            base_rows_per_second=3.2,
            served_rows_per_second=1.7,
        ),
        provenance=Provenance(hashes={HOSTILE: "ab" * 32}, versions={"torch": "2.8"}),
        config=as_dict(CONFIG),
        timings={"read": 12.5, "train": 728.6},
    )


@pytest.fixture(scope="module")
def whole() -> ReportRecord:
    return full_report()


@pytest.fixture(scope="module")
def html(whole: ReportRecord) -> str:
    return render_html(whole)


HEADINGS = (
    "Overall performance",
    "Performance by label",
    "Subgroup performance",
    "Predictive values by prevalence",
    "Conformal coverage",
    "Automatable share",
    "Learning curve",
    "Training",
    "Data audit",
    "Likely label errors",
    "Quantisation of the update",
    "Methods text",
    "Reproducibility",
)


@pytest.mark.slow
def test_everything_is_there(html: str) -> None:
    assert re.findall("<h2>(.*?)</h2>", html) == list(HEADINGS)
    assert html.index("The tuned model is") < html.index("Overall performance")
    assert not re.search(r"\bnan\b|\binf\b|None|Undefined", html)
    for words in ("30 / 5 / 8", "97", "100.0 MB (90.0 MB)", "3.00 (3.20)", "0.995", "learning_rate", "不明"):
        assert words in html
    assert "Why this product: better on 50 dev rows." in html
    assert "not guaranteed" in html and "the dataset has no such column" in html
    assert "<details open" not in html


def test_nothing_is_loaded_and_nothing_is_run(html: str) -> None:
    page = Page(html)
    assert {link for link in page.links if not link.startswith("#")} == set()
    assert not {"script", "link", "img", "image", "iframe", "object"} & set(page.tags)
    assert "://" not in html and "@import" not in html
    assert re.findall(r"url\((?!#)", html) == []
    assert HOSTILE not in html and "&lt;script&gt;" in html


def test_ids_are_unique_and_references_are_met(html: str) -> None:
    page = Page(html)
    assert len(page.ids) == len(set(page.ids)) > 100
    references = [link[1:] for link in page.links] + re.findall(r"url\(#([^)]+)\)", html)
    assert len(references) > 100 and set(references) <= set(page.ids)


@pytest.mark.slow
def test_no_text_of_a_record_is_in_a_file(tmp_path: Path, whole: ReportRecord) -> None:
    write_report(tmp_path, whole)
    for path in (each for each in tmp_path.rglob("*") if each.is_file()):
        assert not re.search(rb"visit \d", path.read_bytes()), path.name


def test_the_figures_of_the_raters_are_those_of_the_record(html: str, whole: ReportRecord) -> None:
    rows = Page(html).rows
    assert len(whole.evaluations) == 5
    for rater in whole.evaluations:
        figures = [shown(getattr(rater, name), 3) for name in ("accuracy", "kappa", "weighted_kappa")]
        assert [rater.name, shown(rater.macro_f1, 3), "", *figures, "3.0"] in rows
        for each in rater.per_class:
            figures = [shown(getattr(each, name), 2) for name in ("sensitivity", "specificity", "ppv", "npv")]
            f1 = "–" if each.f1 is None else f"{each.f1:.2f}"
            assert [each.label, str(each.support), str(each.predicted), *figures, f1] in rows
        for each, line in zip(rater.per_class, rater.confusion, strict=True):
            assert [f"{each.label} ({each.value})", *map(str, line)] in rows
        brier, error = (rater.calibration.brier, rater.calibration.expected_error)
        assert f"Brier score {brier:.3f}" in html and re.search(rf"calibration error\s+{error:.3f} over", html)
    for each in whole.differences:
        cell = " ".join([f"{each.value:+.3f}", shown(each, 3).partition(" ")[2]]).strip()
        assert [f"{each.first} − {each.second}", cell, reading(each)] in rows


def test_the_figures_of_the_parts_are_those_of_the_record(html: str, whole: ReportRecord) -> None:
    rows = Page(html).rows
    for each in whole.prevalence.labels:
        shares = [percent(each.in_test), percent(each.prevalence)]
        assert [each.label, *shares, shown(each.ppv, 3), shown(each.npv, 3)] in rows
    conformal = whole.conformal
    for each in conformal.labels:
        mean = number(each.mean_size, 2) + ("" if each.exact else " not guaranteed: too few validation records")
        assert [each.label, str(each.covered.n), shown(each.covered, 3), mean] in rows
    means = ["all", "240", shown(conformal.covered, 3), f"{conformal.mean_size:.2f}"]
    assert means in rows
    (column,) = [each for each in whole.strata if not each.note]
    (stratum,) = column.strata
    for at, each in enumerate(stratum.per_class):
        first = [stratum.name, "240", shown(stratum.accuracy, 2)] if at == 0 else []
        figures = [shown(getattr(each, name), 2) for name in ("sensitivity", "specificity", "ppv", "npv")]
        assert [*first, each.label, *figures] in rows
    assert ["Q5_K", "7", "10.0 MB", "0.970"] in rows
    assert ["read", "12 s"] in rows and ["train", "12 min 9 s"] in rows
    assert [HOSTILE, "warning", "3", HOSTILE] in rows
    assert [HOSTILE, "training", HOSTILE, "0.02", "No & never", "0.91"] in rows
    said = " ".join(html.split())
    assert (
        f"Examined were 30 training records ({HOSTILE_HTML}), 240 test records (tuned, TF-IDF). No rater had learned"
        in said
    )
    assert (
        "To 17 records they confidently" in said and "the 1 to which the expert’s label fits worst are listed" in said
    )


@pytest.mark.slow
def test_the_amount_of_data_is_in_the_page(html: str, whole: ReportRecord) -> None:
    share = whole.automatable
    assert share is not None and share.threshold is None  # one rating in eight is wrong, all with one confidence
    assert "No share is proved. At least 59 accepted records without an error are needed" in html
    proved = AutomatableShare(0.05, 0.95, 100, 59, 0.875, estimate(0.62, 100), estimate(0.01, 62), 0.0475)
    rows = Page(render_html(whole.model_copy(update={"automatable": proved}))).rows
    assert ["0.875", "0.620 0.570 to 0.670", "0.010 -0.040 to 0.060", "0.048"] in rows
    rows = Page(html).rows
    assert ["TF-IDF", "50", "0.500 0.450 to 0.550", "1.100 1.050 to 1.150"] in rows
    assert ["200", "0.900 0.850 to 0.950", "0.800 0.750 to 0.850"] in rows
    assert "TF-IDF, from 200 records: no clear gain from 100 more ratings (+0.010 [-0.040 to +0.060])." in html
    assert "100 more ratings should change it by +0.110 [+0.060 to +0.160]." in html
    (plot,) = [each for each in Page(html).alternatives if each.startswith("Learning curve")]
    assert "0.500 with 50 records, 0.800 with 200" in plot and "0.600 with 50 records, 0.900 with 200" in plot


def test_every_plot_has_its_figures_in_words(html: str, whole: ReportRecord) -> None:
    page = Page(html)
    calibrations = [each for each in page.alternatives if each.startswith("Calibration of")]
    assert [each.split(":")[0][15:] for each in calibrations] == [each.name for each in whole.evaluations]
    assert len(page.alternatives) == 5 + 5  # PPV, coverage, learning curve, loss, macro-F1
    assert "Loss by step: training from 2.000 to 0.069, validation from 1.000 to 1.000." in page.alternatives
    assert "Macro-F1 on the validation records: step 10: 0.500; kept: step 10." in page.alternatives
    (coverage,) = [each for each in page.alternatives if each.startswith("Conformal")]
    for each in whole.conformal.labels:
        if each.covered.value is not None:
            assert f"{each.label} {each.covered.value:.2f} (n = {each.covered.n})" in coverage


EMPTY = {
    "choice": None,
    "evaluations": (),
    "differences": (),
    "strata": (),
    "prevalence": None,
    "conformal": None,
    "label_errors": None,
    "automatable": None,
    "learning_curves": (),
    "curves": None,
    "audit": AuditRecord(rows=0, by_label={}, findings=()),
    "export": None,
    "provenance": Provenance(hashes={}, versions={}),
    "config": {},
    "timings": {},
}


@pytest.mark.slow
@pytest.mark.parametrize("first", range(5))
def test_sections_that_are_empty(first: int, whole: ReportRecord, html: str) -> None:
    """Three at a time; test_the_least_report has all of them empty."""
    text = render_html(whole.model_copy(update={gone: EMPTY[gone] for gone in list(EMPTY)[first::5]}))
    Page(text)
    assert len(text) < len(html)


NEED_NOT_BE_THERE = sorted(EMPTY.keys() - {"audit", "provenance", "config", "timings"})


@pytest.mark.parametrize("gone", NEED_NOT_BE_THERE)
def test_a_section_that_is_not_in_the_file_is_read_as_empty(gone: str, whole: ReportRecord) -> None:
    content = whole.to_dict()
    del content[gone]
    found = parse(ReportRecord, content, Path("report.json"))
    assert found.to_dict() == whole.model_copy(update={gone: EMPTY[gone]}).to_dict()


def test_a_file_without_these_sections_is_written_again(whole: ReportRecord, tmp_path: Path) -> None:
    content = {name: value for name, value in whole.to_dict().items() if name not in NEED_NOT_BE_THERE}
    (tmp_path / "report.json").write_text(json.dumps(content))
    rewrite_report(tmp_path)
    empty = whole.model_copy(update={gone: EMPTY[gone] for gone in NEED_NOT_BE_THERE})
    assert (tmp_path / "report.html").read_text("utf-8") == render_html(empty)


def test_the_least_report() -> None:
    text = render_html(least_report())
    Page(text)
    assert "No model was made." in text and re.findall("<h2>(.*?)</h2>", text) == ["Data audit"]


@pytest.mark.slow
def test_empty_parts(whole: ReportRecord) -> None:
    empty = {"curves": Curves(steps=(), dev=()), "audit": AuditRecord(rows=3, by_label={}, findings=())}
    text = render_html(whole.model_copy(update=empty))
    Page(text)
    assert "<h2>Training</h2>" not in text and "No finding." in text


@pytest.mark.slow
def test_the_record_of_version_0_1_0_is_read(whole: ReportRecord, tmp_path: Path) -> None:
    content = whole.to_dict()
    del content["version"]
    content["choice"]["dev"] = {}
    content["verdict"]["better_than_base"] = True
    (tmp_path / "report.json").write_text(json.dumps(content))
    rewrite_report(tmp_path)
    again = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert again == whole.to_dict() | {"version": 1}


@pytest.mark.slow
def test_the_files(tmp_path: Path, whole: ReportRecord) -> None:
    folder = tmp_path / "new"
    write_report(folder, whole)
    assert sorted(each.name for each in folder.iterdir()) == ["plots", "report.html", "report.json"]
    assert sorted(each.stem for each in (folder / "plots").iterdir()) == sorted(PNG_NAMES)
    assert stat.S_IMODE((folder / "plots").stat().st_mode) == 0o700
    for each in (path for path in folder.rglob("*") if path.is_file()):
        assert stat.S_IMODE(each.stat().st_mode) == 0o600

    def refuse(name: str) -> None:
        raise AssertionError(name)

    again = json.loads((folder / "report.json").read_text("utf-8"), parse_constant=refuse)
    assert again["curves"]["steps"][3]["loss"] is None and again["export"]["probability_gap"] is None
    assert list(again["curves"]["steps"][0])[:2] == ["kind", "step"]
    assert render_html(parse(ReportRecord, again, folder)) == (folder / "report.html").read_text("utf-8")


@pytest.mark.slow
def test_the_plots_are_pictures_and_old_ones_go(tmp_path: Path, whole: ReportRecord) -> None:
    from matplotlib.image import imread

    write_report(tmp_path, whole)
    for path in (tmp_path / "plots").iterdir():
        picture = imread(path)
        assert picture.shape[1] == 864 and picture.shape[0] > 300
        assert picture[..., :3].std() > 0.02, path.name
    write_report(tmp_path, least_report())
    assert list((tmp_path / "plots").iterdir()) == []


@pytest.mark.slow
def test_the_report_is_written_again(tmp_path: Path, whole: ReportRecord) -> None:
    write_report(tmp_path, whole)
    before = (tmp_path / "report.html").read_text("utf-8")
    (tmp_path / "report.html").unlink()
    rewrite_report(tmp_path)
    assert (tmp_path / "report.html").read_text("utf-8") == before
    rewrite_report(tmp_path, 0.3)
    after = json.loads((tmp_path / "report.json").read_text("utf-8"))["prevalence"]
    assert after["stated"] == 0.3 and "Stated prevalence:" in (tmp_path / "report.html").read_text("utf-8")
    ppv = after["labels"][1]["ppv"]["value"]  # "No & never": 90 of 120 found, none of the others
    assert ppv == 1.0
    rewrite_report(tmp_path, 0)
    again = json.loads((tmp_path / "report.json").read_text("utf-8"))
    for label, found in zip(again["prevalence"]["labels"], again["evaluations"][0]["per_class"], strict=True):
        if label["ppv"]["value"] is not None:
            assert label["ppv"]["value"] == pytest.approx(found["ppv"]["value"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        ("{", "JSONDecodeError"),
        ("[]", "at its beginning"),
        ("{}", "at verdict"),
        ('{"verdict": {"line": "-"}, "evaluations": [3]}', r"at evaluations\.0"),
        ('{"verdict": {"line": "-"}, "evaluations": [{"accuracy": 1}]}', r"at evaluations\.0\.name"),
    ],
)
def test_a_file_that_is_not_a_report_is_refused_in_one_line(tmp_path: Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    with pytest.raises(UsageError, match=said) as caught:
        rewrite_report(tmp_path, 0.1)
    assert "\n" not in str(caught.value) and "report.json" in str(caught.value)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("prevalence", [-0.1, 1.0, float("nan")])
def test_a_prevalence_that_is_not_a_share(tmp_path: Path, whole: ReportRecord, prevalence: float) -> None:
    (tmp_path / "report.json").write_text(json.dumps(whole.to_dict()))
    with pytest.raises(UsageError, match="is not a share"):
        rewrite_report(tmp_path, prevalence)


@pytest.mark.slow
def test_a_folder_that_is_a_file(tmp_path: Path, whole: ReportRecord) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_report(tmp_path / "file", whole)
    (tmp_path / "plots").write_text("")
    with pytest.raises(OutputError):
        write_report(tmp_path, whole)


def difference(second: str, value: float, includes_zero: bool) -> Difference:
    reach = 1.0 if includes_zero else 0.05
    return Difference("tuned", second, value, Interval(value - reach, value + reach, "t", 0.95), 100)


def test_a_difference_is_worse_or_better_only_where_its_interval_is_without_0() -> None:
    assert [reading(difference("base", value, False)) for value in (0.2, -0.2)] == ["better", "worse"]
    assert {reading(difference("base", value, True)) for value in (0.2, -0.2)} == {"no clear difference"}


def test_the_tone_is_that_of_the_worst_comparison() -> None:
    better, unclear = difference("base", 0.3, False), difference("TF-IDF", -0.1, True)
    worse = difference("majority", -0.2, False)
    assert tone([better, worse, unclear]) == "worse"
    assert tone([better, unclear]) == "no-clear-difference"
    assert tone([better, difference("few-shot", -0.2, False)]) == "better"  # the verdict compares with three
    assert tone([]) == tone(()) == ""


def test_small_formats() -> None:
    assert (number(None), number(0.12345), number(float("inf"))) == ("–", "0.123", "–")
    assert [percent(each) for each in (None, 0.35, 0.1234, 0.00123, 1)] == ["–", "35 %", "12.3 %", "0.12 %", "100 %"]
    assert (size(999), size(1500), size(4_200_000_000), size(None)) == ("999 B", "1.5 kB", "4.2 GB", "–")
    seconds = (None, 0.04, 59.9, 59.96, 729, 3599.6, 7500)
    assert [duration(each) for each in seconds] == [
        "–",
        "0.0 s",
        "1 min 0 s",
        "1 min 0 s",
        "12 min 9 s",
        "1 h 0 min",
        "2 h 5 min",
    ]
    assert list(facts({"a": {"b": 1.0, "c": None}, "d": [1, 2], "e": [{"f": True}, [3]]})) == [
        ("a.b", "1"),
        ("a.c", "–"),
        ("d", "1, 2"),
        ("e.1.f", "True"),
        ("e.2.", "3"),
    ]


def drawn_points(line: Any) -> list[list[float]]:
    """[x, y] of each point of a line of a plot."""
    return np.asarray(line.get_xydata()).tolist()


def test_the_plots_draw_the_figures_of_the_record(whole: ReportRecord) -> None:
    plots = draw_plots(whole)
    main = whole.evaluations[0]
    assert set(PNG_NAMES) <= set(plots)
    counts = [int(text.get_text()) for text in plots["confusion"].figure.axes[0].texts]
    assert counts == [count for line in main.confusion for count in line]
    losses, looks = whole.curves.steps, whole.curves.dev
    lines = plots["loss"].figure.axes[0].lines
    assert drawn_points(lines[0]) == [[each.step, each.loss] for each in losses if np.isfinite(each.loss)]
    assert drawn_points(lines[-1]) == [[each.step, each.loss] for each in looks]
    for at, rater in enumerate(whole.evaluations, 1):
        axes = plots[f"calibration_{at}" if at > 1 else "calibration"].figure.axes[0]
        dots = [drawn_points(line)[0] for line in axes.lines if line.get_marker() == "o"]
        bins = [each for each in rater.calibration.bins if each.accuracy.n]
        assert dots == [[each.confidence, each.accuracy.value] for each in bins]
    curves = [line for line in plots["ppv_by_prevalence"].figure.axes[0].lines if line.get_marker() == "None"]
    expected = [each.curve for each in whole.prevalence.labels if each.curve]
    assert list(map(drawn_points, curves)) == [[[at.prevalence, at.ppv] for at in each] for each in expected]


@pytest.mark.slow
def test_the_same_report_gives_the_same_files(tmp_path: Path, whole: ReportRecord) -> None:
    for name in ("one", "two"):
        write_report(tmp_path / name, whole)
    for path in (tmp_path / "one").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes(), path.name


LONG = (
    "likely influenza or another acute viral respiratory infection",
    "x" * 80,
    "不" * 40,
    "no",
    "a\x07 b",
    "$\\frac{",
)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Glyph .* missing from")
@pytest.mark.parametrize("count", [2, 3, 6])
def test_no_word_of_a_plot_is_cut(count: int) -> None:
    scale = make_scale({label: at for at, label in enumerate(LONG[:count])})
    expert = truth([at % count for at in range(120)], scale)
    model = rated([0 if at % 5 == 0 else at % count for at in range(120)], scale)
    figures = evaluate("tuned", expert, model, scale, {}, CONFIG)
    thresholds = Conformal(0.9, scale.labels, (0.3,) * count, (20,) * count, (True,) * count)
    report = least_report(
        evaluations=(figures,),
        prevalence=at_prevalence(figures, 0.02),
        conformal=conformal_coverage(thresholds, expert, model, scale, {}, 0.95),
        curves=Curves(steps=(step(1, 3.0),), dev=(dev(1, 2.0, 0.5),)),
        learning_curves=(learning("TF-IDF", 0.0), learning("readout without word counts", 0.1)),
    )
    plots = draw_plots(report)
    assert set(plots) == set(PNG_NAMES)
    for name, plot in plots.items():
        assert svg(name, plot).startswith("<svg ")
        plot.figure.draw_without_rendering()  # lays it out
        drawn, (width, height) = plot.figure.get_tightbbox(), plot.figure.get_size_inches()
        assert drawn.x0 >= 0 and drawn.y0 >= 0 and drawn.x1 <= width and drawn.y1 <= height, name


def test_curves_of_one_point_and_of_none() -> None:
    assert draw_plots(least_report(curves=Curves(steps=(), dev=()))) == draw_plots(least_report()) == {}
    one = Curves(steps=(step(1, 0.0),), dev=(dev(1, 0.0, float("nan"), best=True),))
    assert set(draw_plots(least_report(curves=one))) == {"loss"}


def test_the_experts_stand_next_to_the_model() -> None:
    columns = ([0, 0, 1, 2] * 10, [0, 0, 1, 1] * 10, [0, 1, 1, 0] * 10)
    scale, ids = make_scale({"a": 0, "b": 1, "c": 2}), tuple(f"r{at}" for at in range(40))
    panel = ExpertRatings(
        experts=(HOSTILE, "Second", "Third"),
        ids=ids,
        own_ids=True,
        prompts=ids,
        values=tuple(zip(*columns, strict=True)),
        rationales=((),) * 40,
        adjudicated=(None,) * 40,
        groups=ids,
    )
    found = compare_experts(panel, rated([0, 1, 1, 0] * 10, scale), ids[:20], scale, {}, CONFIG)
    report = least_report(experts=found)
    page = render_html(report)
    rows = {row[0]: row[1:] for row in Page(page).rows if len(row) == 6}
    second = found.ceiling[1]
    assert second.model is not None and second.records == 10
    figures = (second.on_test.macro_f1, second.model.macro_f1, second.on_test.kappa, second.model.kappa)
    assert rows["Second"] == ["10", *(shown(each, 3) for each in figures)] and HOSTILE in rows
    assert "Tied records are left out of testing" in page and found.agreement.tied == 10
    assert shown(found.agreement.alpha, 3) in [row[3] for row in Page(page).rows if len(row) == 4]
    again = parse(ReportRecord, report.to_dict(), Path("report.json"))
    assert again.experts == found and render_html(again) == page
    assert "Agreement of the experts" not in render_html(least_report())


@pytest.mark.slow
def test_the_methods_text_has_the_figures_of_the_record(whole: ReportRecord) -> None:
    training = TrainingSummary(
        approach="lora_on_gguf",
        family="llama",
        layers_touched=42,
        trained_numbers=466944,
        device="cpu",
        precision="float32",
        base_memory="cached",
        threads=2,
        load_seconds=0.1,
        learning_rate=0.003,
        epochs=6.0,
        steps=1264,
        best_step=1220,
        class_weighting="balanced",
        dev_macro_f1=0.7,
        dev_loss=0.5,
        base_dev_macro_f1=0.2,
        tokens_per_second=9.0,
        last_loss=0.3,
    )
    run = whole.run.model_copy(update={"groups": 37, "topics": "flu"})
    hashes = {"input_rows": "ab" * 32, "base": "cd" * 32, "Modelfile": "ef" * 32}
    provenance = Provenance(hashes=hashes, versions={"torch": "2.8"})
    page = render_html(whole.model_copy(update={"training": training, "run": run, "provenance": provenance}))
    said = " ".join(re.sub("<[^>]+>", " ", page.split('<div class="methods">')[1].split("</div>")[0]).split())
    for words in (
        "The data were 43 records rated for “flu”",
        f"{HOSTILE_HTML} (43) [Annotation].",
        "30 (69.8 %) training, 5 (11.6 %) validation and 8 (18.6 %) test records",
        f"37 groups, of which {whole.evaluations[0].groups} were in the evaluated test records",
        f"The base model was {HOSTILE_HTML} (90.0 MB; the adapted tensors of type Q4_K (7))",
        "rank 16, alpha 32; 466,944 trained parameters in 42 tensors) of the quantised weights, in float32 on cpu",
        "peak learning rate 0.003 with a cosine schedule, batches of 8 records, at most 6 epochs, 1,264 steps, "
        "class weights: balanced, seed 1.",
        "The state after step 1,220 was kept",
        "quantised as Q5_K (7) (100.0 MB)",
        "Evaluated was the tuned model, on 240 test records.",
        "the base model with a prompt that holds examples; the base model before tuning; logistic regression on TF-IDF",
        "95 % intervals",
        "(100 resamples)",
        "a prevalence of 2 %",
        "nominal coverage of 90 % for each label",
        "an error rate of at most 5 % with 95 % confidence",
        "evaluated by Sex.",
        f"Software: torch 2.8. SHA-256: rated records {'ab' * 32}, base model {'cd' * 32} [Open science].",
    ):
        assert words in said, words
    assert "Methods text" not in render_html(whole.model_copy(update={"evaluations": ()}))


@pytest.mark.slow
def test_the_methods_text_says_how_a_readout_chooses_its_label(whole: ReportRecord) -> None:
    main = replace(whole.evaluations[0], name="readout")
    info = ReadoutInfo(
        output_file="readout.json",
        depths=(10, 20),
        weights={"states after block 20": 0.4, "TF-IDF": 1.25},
        label_weights={"Match": 2.1685, "Unknown": 1.0},
        out_of_fold={},
    )
    page = render_html(whole.model_copy(update={"evaluations": (main, *whole.evaluations[1:]), "readout": info}))
    said = " ".join(re.sub("<[^>]+>", " ", page.split('<div class="methods">')[1].split("</div>")[0]).split())
    for words in (
        "It is the log-linear pool of 2 classifiers (weights: states after block 20 0.40, TF-IDF 1.25), "
        "fitted on the training",
        "product of probability and a weight (Match 2.17, Unknown 1.00), set there for the highest expected macro-F1; "
        "nothing was sampled",
    ):
        assert words in said, said
    assert "label with the highest probability" not in said


@pytest.mark.slow
def test_no_absolute_path_is_in_a_file(tmp_path: Path, whole: ReportRecord) -> None:
    lines = {
        "/home/ward/My models/base.gguf": "base.gguf",
        "C:\\Users\\ward\\base.gguf": "base.gguf",
        "/home/ward/base.gguf: has no tensor and/or 1/2": "base.gguf: has no tensor and/or 1/2",
        "rated by ~/llama/server (D:/ward/a.dll)": "rated by server (a.dll)",
        "hf.co/some/model:Q4_K": "hf.co/some/model:Q4_K",
    }
    content = whole.to_dict()
    first = next(iter(lines))
    content["run"]["model"] = content["verdict"]["line"] = content["choice"]["reason"] = first
    content["provenance"]["base"] = {"path": first, "source": "file", "prompts_by": "the file"}
    content["config"] |= {"unlabelled": first, "models": [first]}
    content["unlabelled"] = {"file": first, "read": 1, "used": 1, "left_out": {}}
    content["audit"]["notes"] = list(lines)
    (tmp_path / "report.json").write_text(json.dumps(content))
    rewrite_report(tmp_path)
    again = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert again["audit"]["notes"] == list(lines.values())
    assert again["config"]["models"] == ["base.gguf"] and again["provenance"]["base"]["path"] == "base.gguf"
    for name in ("report.json", "report.html"):
        assert not re.search(r"ward|llama/", (tmp_path / name).read_text("utf-8")), name


@pytest.mark.slow
def test_the_random_sample_of_a_review_is_shown_and_kept(tmp_path: Path, whole: ReportRecord) -> None:
    write_report(tmp_path / "run", whole)
    found = asdict(wilson(3, 40, 0.95))
    summary = {"work": "review", "raters": {"Dr Who": 40}, "random_sample": {"records": 50, "error_rate": found}}
    path = tmp_path / "review.summary.json"
    path.write_text(json.dumps(summary))
    rewrite_report(tmp_path / "run", review=path)
    rewrite_report(tmp_path / "run", 0.1)
    html = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "<h2>How good the confident ratings are</h2>" in html and "Dr Who" not in html
    assert ["random sample", "50", "40", shown(wilson(3, 40, 0.95), 3)] in Page(html).rows


@pytest.mark.slow
def test_the_agreement_of_a_review_is_shown_without_names(tmp_path: Path, whole: ReportRecord) -> None:
    write_report(tmp_path / "run", whole)
    pair = {"first": "Dr Who", "second": "Ana", "records": 40, "agreed": 34, "share": 0.85}
    span = {"low": 0.6, "high": 0.81, "method": "bootstrap", "confidence": 0.95}
    agreement = [
        {**pair, "kappa": 0.71, "kappa_interval": span},
        {**pair, "second": "Eve", "kappa": None, "kappa_interval": None},
    ]
    sample = {"records": 0, "error_rate": None}
    path = tmp_path / "formatted_dataset.summary.json"
    path.write_text(json.dumps({"work": "rate", "random_sample": sample, "agreement": agreement}))
    rewrite_report(tmp_path / "run", review=path)
    rewrite_report(tmp_path / "run", 0.1)
    html = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "<h2>Agreement of the experts in the review</h2>" in html and "Dr Who" not in html
    assert "<h2>How good the confident ratings are</h2>" not in html
    rows = Page(html).rows
    assert ["Expert 2 and Expert 1", "40", "85 %", "0.710 0.600 to 0.810"] in rows
    assert ["Expert 2 and Expert 3", "40", "85 %", "–"] in rows
    path.write_text(json.dumps({"random_sample": {"records": 50, "error_rate": asdict(wilson(3, 40, 0.95))}}))
    rewrite_report(tmp_path / "run", review=path)  # what another summary has is added
    html = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "<h2>How good the confident ratings are</h2>" in html and "Expert 2 and Expert 3" in html


@pytest.mark.parametrize("content", [None, "{", "{}", '{"random_sample": {"records": 50, "error_rate": null}}'])
def test_a_review_without_a_reviewed_sample_is_refused(tmp_path: Path, content: str | None) -> None:
    write_report(tmp_path, least_report())
    before = (tmp_path / "report.html").read_bytes()
    path = tmp_path / "review.summary.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=r"review\.summary\.json: not the summary of a review") as caught:
        rewrite_report(tmp_path, review=path)
    assert "\n" not in str(caught.value) and (tmp_path / "report.html").read_bytes() == before


def test_the_plots_have_titles_and_take_the_colours_of_the_page(whole: ReportRecord, html: str) -> None:
    for name, plot in draw_plots(whole).items():
        assert plot.figure.axes[0].get_title(loc="left"), name
    plots = "".join(re.findall("<svg.*?</svg>", html, re.DOTALL))
    assert len(re.findall(r"var\(--plot-\d, #\w{6}\)", plots)) > 100
    assert not re.findall(r"(?:fill|stroke): #(?!000|fff)\w+", plots)  # a colour that dark mode would not change
