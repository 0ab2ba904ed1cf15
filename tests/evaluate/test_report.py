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
from expertune.evaluate.compare import compare, evaluate
from expertune.evaluate.coverage import conformal_coverage
from expertune.evaluate.prevalence import at_prevalence
from expertune.evaluate.report import (
    facts,
    number,
    percent,
    plain,
    render_html,
    rewrite_report,
    size,
    tone,
    write_report,
)
from expertune.evaluate.report_plots import dev_plot, loss_plot, ticks
from expertune.evaluate.report_png import PLOTS
from expertune.evaluate.subgroups import subgroups_of, to_dicts
from expertune.evaluate.verdict import verdict
from expertune.ratings.scale import make_scale
from expertune.stats.conformal import Conformal
from expertune.stats.intervals import Interval

HOSTILE = "<script>alert('x')</script>"
CONFIG = Config(bootstrap_resamples=100)


class Page(HTMLParser):
    """Tags and attributes of a page; raises where tags are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "xlink:href", "data")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def full_report() -> dict[str, Any]:
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
    steps = [{"step": at, "loss": 2 / at, "learning_rate": 1e-4, "tokens": 9, "seconds": 0.1} for at in range(1, 30)]
    steps[3]["loss"] = float("nan")
    return {
        "verdict": verdict(figures[0], *figures[2:], differences).to_dict(),
        "run": {
            "topics": HOSTILE,
            "model": HOSTILE,
            "created": "2026-01-02T03:04:05+00:00",
            "seed": 1,
            "rows": {"train": 30, "dev": 5, "test": 8},
        },
        "choice": {"approach": "tune", "reason": "better on 50 dev rows", "dev": {}},
        "evaluations": [each.to_dict() for each in figures],
        "differences": [each.to_dict() for each in differences],
        "strata": to_dicts(subgroups_of(expert, tuned, scale, {}, ("Sex", "Ward"), 0.95)),
        "prevalence": at_prevalence(figures[0].to_dict(), 0.02),
        "conformal": coverage.to_dict(),
        "curves": {"steps": steps, "dev": [{"step": 10, "loss": 1.0, "macro_f1": 0.5, "best": True}]},
        "audit": {"findings": [{"kind": HOSTILE, "severity": "warning", "count": 3, "message": HOSTILE}], "rows": 43},
        "export": {
            "types": [{"type": "Q5_K", "tensors": 7, "bytes": 10**7, "kept": 0.97}],
            "bytes": 10**8,
            "base_bytes": 9 * 10**7,
            "agreement": 0.995,
            "probability_gap": float("inf"),
            "rows_per_second": 3.0,
            "base_rows_per_second": 3.2,
            "path": Path("model.gguf"),
        },
        "provenance": {"hashes": {HOSTILE: "ab" * 32}, "versions": {"torch": "2.8"}},
        "config": as_dict(CONFIG),
        "timings": {"train": 12.5},
    }


def test_everything_is_there_and_nothing_is_loaded() -> None:
    text = render_html(full_report())
    page = Page(text)
    assert page.links == []
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert "://" not in text and "url(" not in text and "@import" not in text
    assert HOSTILE not in text and "&lt;script&gt;" in text
    assert not re.search(r"\bnan\b|\binf\b|None|Undefined", text)
    for heading in (
        "How good is it?",
        "Where is it right?",
        "For whom is it right?",
        "What is a rating worth elsewhere?",
        "Do its sets hold the truth?",
        "How did it learn?",
        "What is in the data?",
        "What did the file keep?",
        "How can it be repeated?",
    ):
        assert heading in text
    assert text.index("The tuned model is") < text.index("How good is it?")
    for shown in ("30 / 5 / 8", "97", "100.0 MB (90.0 MB)", "3.00\n  (3.20)", "0.995", "learning_rate", "不明"):
        assert shown in text
    assert (
        page.tags.count("svg") == 5 + 5 + 1 + 4 + 2
    )  # whiskers, calibration, PPV, coverage (a label has no rows), curves
    assert "Why this product: better on 50 dev rows." in text
    assert "not assured" in text and "the rating file has no such column" in text
    assert "<details open" not in text


@pytest.mark.parametrize(
    "gone",
    [
        "choice",
        "evaluations",
        "differences",
        "strata",
        "prevalence",
        "conformal",
        "curves",
        "audit",
        "export",
        "provenance",
        "config",
        "timings",
    ],
)
@pytest.mark.parametrize("empty", [False, True])
def test_a_section_that_is_missing(gone: str, empty: bool) -> None:
    report = full_report()
    present = render_html(report)
    report[gone] = type(report[gone])()
    if not empty:
        del report[gone]
    text = render_html(report)
    Page(text)
    assert len(text) < len(present)


def test_the_least_report() -> None:
    text = render_html({"verdict": {"line": "No model was made."}, "run": {}})
    Page(text)
    assert "No model was made." in text and "<h2>" not in text
    with pytest.raises(UsageError, match="verdict and run missing"):
        render_html({})


def test_empty_parts() -> None:
    report = full_report()
    report["curves"] = {"steps": []}
    report["audit"] = {"findings": [], "rows": 3}
    report["export"] = {"agreement": None}
    text = render_html(report)
    Page(text)
    assert "How did it learn?" not in text and "No finding." in text


def test_the_files(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    write_report(folder, full_report())
    assert sorted(each.name for each in folder.iterdir()) == ["plots", "report.html", "report.json"]
    assert sorted(each.stem for each in (folder / "plots").iterdir()) == sorted(PLOTS)
    assert stat.S_IMODE((folder / "plots").stat().st_mode) == 0o700
    for each in (path for path in folder.rglob("*") if path.is_file()):
        assert stat.S_IMODE(each.stat().st_mode) == 0o600

    def refuse(name: str) -> None:
        raise AssertionError(name)

    again = json.loads((folder / "report.json").read_text("utf-8"), parse_constant=refuse)
    assert again["curves"]["steps"][3]["loss"] is None and again["export"]["path"] == "model.gguf"
    assert render_html(again) == (folder / "report.html").read_text("utf-8")


def test_the_plots_are_pictures_and_old_ones_go(tmp_path: Path) -> None:
    from matplotlib.image import imread

    write_report(tmp_path, full_report())
    for path in (tmp_path / "plots").iterdir():
        picture = imread(path)
        assert picture.shape[:2] == (624, 832) and picture[..., :3].std() > 0.02, path.name
    write_report(tmp_path, {"verdict": {"line": "No model was made."}, "run": {}})
    assert list((tmp_path / "plots").iterdir()) == []


def test_the_report_is_written_again(tmp_path: Path) -> None:
    write_report(tmp_path, full_report())
    before = (tmp_path / "report.html").read_text("utf-8")
    (tmp_path / "report.html").unlink()
    rewrite_report(tmp_path)
    assert (tmp_path / "report.html").read_text("utf-8") == before
    rewrite_report(tmp_path, 0.3)
    after = json.loads((tmp_path / "report.json").read_text("utf-8"))["prevalence"]
    assert after["stated"] == 0.3 and "Stated share:" in (tmp_path / "report.html").read_text("utf-8")
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
        ("[]", "no report of a run"),
        ("{}", "verdict and run missing"),
        ('{"verdict": {}, "run": {}, "evaluations": [3]}', "no report of a run"),
        ('{"verdict": {}, "run": {}, "evaluations": [{"accuracy": 1}]}', "no report of a run"),
    ],
)
def test_what_is_no_report_is_told_in_one_line(tmp_path: Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    with pytest.raises(UsageError, match=said) as caught:
        rewrite_report(tmp_path, 0.1)
    assert "\n" not in str(caught.value) and "report.json" in str(caught.value)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("prevalence", [-0.1, 1.0, float("nan")])
def test_a_prevalence_that_is_no_share(tmp_path: Path, prevalence: float) -> None:
    write_report(tmp_path, full_report())
    with pytest.raises(UsageError, match="is no share"):
        rewrite_report(tmp_path, prevalence)


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_report(tmp_path / "file", full_report())
    (tmp_path / "plots").write_text("")
    with pytest.raises(OutputError):
        write_report(tmp_path, full_report())


def test_the_tone_is_the_worst_outcome() -> None:
    assert tone({"base": "better", "tfidf": "not better", "majority": "unclear"}) == "not-better"
    assert tone({"base": "better", "tfidf": "unclear"}) == "unclear"
    assert (tone({"base": "better"}), tone({})) == ("better", "")


def test_small_formats() -> None:
    assert (number(None), number(0.12345), number("x")) == ("–", "0.123", "–")
    assert [percent(each) for each in (None, 0.35, 0.1234, 0.00123, 1)] == ["–", "35 %", "12.3 %", "0.12 %", "100 %"]
    assert (size(999), size(1500), size(4_200_000_000), size(None)) == ("999 bytes", "1.5 kB", "4.2 GB", "–")
    made = Interval(0.1, 0.2, "wilson", 0.95)
    assert plain({1: (1.0, float("nan")), "a": made}) == {"1": [1.0, None], "a": asdict(made)}
    assert plain([np.int64(3), np.float32(0.5), np.float64("nan"), True]) == [3, 0.5, None, True]
    assert list(facts({"a": {"b": 1.0, "c": None}, "d": [1, 2], "e": [{"f": True}, [3]]})) == [
        ("a.b", "1"),
        ("a.c", "–"),
        ("d", "1, 2"),
        ("e.1.f", "True"),
        ("e.2.", "3"),
    ]


def test_ticks() -> None:
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(0, 239) == [0, 50, 100, 150, 200]
    assert ticks(0, 1e-7)[:2] == [0, 2e-8]


def test_curves_of_one_point_and_of_none() -> None:
    assert loss_plot([], []) is dev_plot([]) is None
    one = [{"step": 1, "loss": 0.0, "macro_f1": None, "best": True}]
    assert loss_plot(one, one) is not None and dev_plot(one) is None
