"""The page in a real browser: each work by keyboard alone, two raters, a reload, many records, accessibility.

With EXPERTUNE_SCREENSHOTS=FOLDER the pages are kept there as pictures, at 1280 and 390 pixels.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from expertune.ratings.read import read_ratings
from rate.stub import write_csv
from review_page.pages import SCALE, rated_file, raw_file, read, serving, truth

pytest.importorskip("uvicorn", reason="the page's packages are not installed (expertune[page])")
playwright = pytest.importorskip("playwright.sync_api", reason="no playwright to drive a browser with")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"),
]
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
PICTURES = os.environ.get("EXPERTUNE_SCREENSHOTS")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


class Expert:
    """A rater in a window of their own, who has only a keyboard. Errors of the page's scripts fail the test."""

    def __init__(self, browser: Any, address: str, name: str, **how: Any) -> None:
        self.context = browser.new_context(**{"viewport": WIDE, **how})
        self.window = self.context.new_page()
        self.errors: list[str] = []
        self.window.on("pageerror", lambda error: self.errors.append(str(error)))
        self.window.on("request", self.check)
        self.address = address
        self.window.goto(address)
        self.type(name)
        with self.window.expect_navigation():
            self.window.keyboard.press("Enter")

    def check(self, request: Any) -> None:
        if not request.url.startswith(self.address):
            self.errors.append(f"another host: {request.url}")

    def type(self, text: str) -> None:
        self.window.keyboard.type(text)

    def press(self, key: str) -> None:
        """Press a key that leads to another record or another step, and wait for it."""
        self.window.evaluate("() => { document.getElementById('work').dataset.old = '1' }")
        self.window.keyboard.press(key)
        self.window.wait_for_selector("#work:not([data-old])", state="attached")

    def rate(self) -> str:
        """Press the key of the label that the record's words say; the record."""
        text = self.text
        self.press(str(1 + SCALE.values.index(truth(text))))
        return text

    @property
    def text(self) -> str:
        return self.window.text_content("#text")

    def says(self) -> str:
        return self.window.inner_text("main")

    def picture(self, name: str) -> None:
        if PICTURES:
            Path(PICTURES).mkdir(parents=True, exist_ok=True)
            for size in (WIDE, PHONE):
                self.window.set_viewport_size(size)
                self.window.screenshot(path=f"{PICTURES}/{name}-{size['width']}.png")
            self.window.set_viewport_size(WIDE)

    def close(self) -> None:
        self.context.close()
        assert self.errors == []


def test_raw_records_are_rated_by_keyboard_with_a_reload_in_the_middle(browser: Any, tmp_path: Path) -> None:
    raw_file(tmp_path, 24)
    arguments = ("raw.csv", "--output", "out.csv", "--topics", "respiratory infections")
    with serving(*arguments, cwd=tmp_path) as (process, address):
        ana = Expert(browser, address, "Ana")
        seen = [ana.rate() for _ in range(9)]
        ana.window.keyboard.press("c")
        ana.type("12 u: no fever")  # keys of a comment rate nothing
        ana.window.keyboard.press("Escape")
        now = ana.text
        ana.window.reload()
        assert ana.text == now and now not in seen
        assert ana.window.input_value("#comment") == "12 u: no fever"
        ana.press("2")
        assert ana.text != now
        ana.press("u")
        assert ana.text == now and "Undone" in ana.says()
        ana.picture("rate")
        while "Nothing is left" not in ana.says():
            seen.append(ana.rate())
        assert len(set(seen)) == len(seen) == 24
        for _ in range(20):  # by Tab to the results, and Enter on the button
            ana.window.keyboard.press("Tab")
            if ana.window.evaluate("() => document.activeElement.textContent") == "See and write the results":
                break
        with ana.window.expect_navigation():
            ana.window.keyboard.press("Enter")
        ana.window.focus("text=Write out.csv")
        with ana.window.expect_navigation():
            ana.window.keyboard.press("Enter")
        assert "24 records with a rating" in ana.says()
        ana.picture("results")
        ana.close()
        process.send_signal(2)
        process.communicate(timeout=60)
    ratings = read_ratings(tmp_path / "out.csv", SCALE)
    assert len(ratings) == 24 and all(rating.value == truth(rating.prompt) for rating in ratings)
    assert [rating.rationale for rating in ratings if rating.rationale] == ["12 u: no fever"]


def test_a_queue_is_reviewed_by_keyboard(browser: Any, tmp_path: Path) -> None:
    rated_file(tmp_path, 40)
    with serving("rated.csv", "--output", "out.csv", "--sample", "0.2", cwd=tmp_path) as (process, address):
        ana = Expert(browser, address, "Ana", color_scheme="dark")
        count = 0
        while "Nothing is left" not in ana.says():
            assert ana.window.query_selector(".reveal") is None and ana.window.query_selector("mark") is None
            if count == 3:
                ana.picture("review-blind-dark")
            text = ana.rate()
            assert ana.text == text and "80 %" in ana.window.inner_text(".reveal")
            if count == 3:
                ana.picture("review-dark")
            ana.press("Enter" if count else "1")
            count += 1
        assert "95 % interval" in ana.window.goto(f"{address}rater/1/review/results").text()
        ana.close()
        process.send_signal(2)
        process.communicate(timeout=60)
    rows = read(tmp_path / "out.csv")
    assert count == len(rows) == 16 and all(row["Reviewed_Rating"] for row in rows)


def test_two_raters_at_once_and_a_third_who_adjudicates(browser: Any, tmp_path: Path) -> None:
    raw_file(tmp_path, 8)
    with serving("raw.csv", "--output", "out.csv", "--overlap", "1", cwd=tmp_path) as (process, address):
        ana, ben = Expert(browser, address, "Ana"), Expert(browser, address, "Ben", viewport=PHONE)
        for _ in range(8):
            for expert in (ana, ben):  # a record that the other has on the screen comes by itself afterwards
                expert.window.wait_for_selector("#text")
            assert ana.text != ben.text
            ana.press("1")
            ben.rate()
        for expert in (ana, ben):
            assert "Nothing is left" in expert.says()
        eve = Expert(browser, address, "Eve")
        eve.window.goto(eve.window.url.removesuffix("rate") + "adjudicate")
        decided = 0
        while "No two experts differ" not in eve.says():
            assert "Ana\nMatch" in eve.window.inner_text(".experts")
            if not decided:
                eve.picture("adjudicate")
            eve.rate()
            decided += 1
        assert decided == 5
        for expert in (ana, ben, eve):
            expert.close()
        process.send_signal(2)
        process.communicate(timeout=60)
    assert all(rating.value == truth(rating.prompt) for rating in read_ratings(tmp_path / "out.csv", SCALE))


def test_progress_of_the_other_rater_comes_without_a_key(browser: Any, tmp_path: Path) -> None:
    raw_file(tmp_path, 12)
    with serving("raw.csv", cwd=tmp_path) as (_, address):
        ana, ben = Expert(browser, address, "Ana"), Expert(browser, address, "Ben")
        for _ in range(3):
            ben.rate()
        ana.window.wait_for_selector("#status:has-text('3 of 12 records')", timeout=30_000)
        ana.close()
        ben.close()


def test_a_lost_server_is_said(browser: Any, tmp_path: Path) -> None:
    raw_file(tmp_path, 12)
    with serving("raw.csv", cwd=tmp_path) as (process, address):
        ana = Expert(browser, address, "Ana")
        process.kill()
        process.wait(30)
        ana.window.keyboard.press("1")
        ana.window.wait_for_selector("#alert:has-text('Not saved')", timeout=30_000)
        ana.picture("lost")
        ana.context.close()


def test_ten_thousand_records(browser: Any, tmp_path: Path) -> None:
    raw_file(tmp_path, 10_000)
    with serving("raw.csv", cwd=tmp_path) as (_, address):
        ana = Expert(browser, address, "Ana")
        seen = {ana.rate() for _ in range(60)}
        assert len(seen) == 60 and "60 of 10,000 records" in ana.says()
        deadline = time.monotonic() + 120
        while not ana.window.query_selector("mark"):  # sixty keys may take less time than the first fit
            assert time.monotonic() < deadline, "no record has marks"
            ana.rate()
        ana.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["1280", "390"])
def test_axe_finds_nothing_and_nothing_is_cut(browser: Any, tmp_path: Path, size: dict[str, int], scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe-core (axe-playwright-python)")
    rows = read(rated_file(tmp_path, 40))
    rows[0]["Prompt"] = "Triage notes: " + "a_very_long_word_" * 30 + " cough\nTask: rate"
    write_csv(tmp_path / "rated.csv", rows)
    with serving("rated.csv", "--sample", "0.2", cwd=tmp_path) as (_, address):
        ana = Expert(browser, address, "Ana", viewport=size, color_scheme=scheme, bypass_csp=True)
        pages = {"blind": lambda: None, "revealed": ana.rate, "results": lambda: ana.window.click("text=Results")}
        pages["start"] = lambda: ana.window.goto(address)
        for name, reach in pages.items():
            reach()
            ana.window.wait_for_load_state("load")
            checked = axe.Axe().run(ana.window).response
            assert len(checked["passes"]) > 8, name
            assert [each["id"] for each in checked["violations"]] == [], name
            width = ana.window.evaluate("() => document.documentElement.scrollWidth")
            assert width <= size["width"], name
        ana.context.close()
