"""Time the page for experts on many records: from the command to the first record, and from a key to the next record.

    python bench/page.py [--records 10000] [--keys 200] [--work rate|review]

A real Chromium, driven by Playwright. A key's time is the browser's own: from the event's time stamp to the frame after
the next record is in the page. The server learns TF-IDF in the background meanwhile, as it does for an expert.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
VISITS = ROOT / "examples" / "formatted_dataset.csv"
LABELS = {1: "Match", 0: "Does Not Match", -1: "Unknown"}
WATCH = """() => {
  window.times = [];
  let pressed = 0;
  document.addEventListener("keydown", (event) => { pressed = event.timeStamp; }, true);
  document.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.target.id !== "work") return;
    requestAnimationFrame(() => setTimeout(() => window.times.push(performance.now() - pressed)));
  });
}"""


def write_records(folder: Path, count: int, work: str) -> Path:
    """The example visits, each with a text of its own, raw or as `expertune rate` writes them."""
    with open(VISITS, encoding="utf-8", newline="") as file:
        visits = list(csv.DictReader(file))
    draw = random.Random(1)
    rows: list[dict[str, Any]] = []
    for at in range(count):
        visit = visits[at % len(visits)]
        row: dict[str, Any] = {"Row_ID": at + 1, "Prompt": visit["Prompt"].replace("Age:", f"Visit: {at}\nAge:")}
        if work == "review":
            value, sure = int(visit["Standardized_Rating"]), draw.uniform(0.4, 1.0)
            shares = {f"P({label})": sure if label == LABELS[value] else (1 - sure) / 2 for label in LABELS.values()}
            row |= {"Predicted_Rating": value, "Predicted_Label": LABELS[value], "Confidence": sure, **shares}
            row |= {"Review_Reasons": "low confidence" if sure < 0.9 else "", "Rating_Error": ""}
        rows.append(row)
    path = folder / "records.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


def measure(records: Path, keys: int) -> dict[str, Any]:
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    command = [sys.executable, "-m", "expertune", "review", records.name, "--page"]
    how: dict[str, Any] = {"cwd": records.parent, "env": os.environ | {"PYTHONPATH": str(ROOT / "src")}}
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        window = browser.new_page(viewport={"width": 1280, "height": 800})
        begin = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **how) as server:
            try:
                assert server.stdout is not None
                address = next(line for line in server.stdout if line.startswith("open ")).split()[1]
                listening = time.perf_counter() - begin
                window.goto(address)
                window.keyboard.type("Ana")
                window.keyboard.press("Enter")
                window.wait_for_selector("#text")
                first = time.perf_counter() - begin
                window.wait_for_load_state("load")
                times = press_keys(window, keys)
            finally:
                server.kill()
        browser.close()
    return {"address_s": listening, "first_record_s": first, **spread(times)}


def press_keys(window: Any, keys: int) -> list[float]:
    """Milliseconds of each key."""
    window.evaluate(WATCH)
    for at in range(keys):
        window.keyboard.press("123"[at % 3])
        while window.evaluate("() => window.times.length") <= at:
            time.sleep(0.01)
    return window.evaluate("() => window.times")


def spread(times: list[float]) -> dict[str, float]:
    ordered = sorted(times)
    at = {"median": 0.5, "p95": 0.95}
    return {
        **{f"key_{name}_ms": ordered[min(len(ordered) - 1, int(share * len(ordered)))] for name, share in at.items()},
        "key_max_ms": ordered[-1],
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--records", type=int, default=10_000)
    options.add_argument("--keys", type=int, default=200)
    options.add_argument("--work", choices=("rate", "review"), default="rate")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(write_records(Path(folder), given.records, given.work), given.keys)
    rounded = {name: round(value, 2 if name.endswith("_s") else 1) for name, value in found.items()}
    print(json.dumps({"work": given.work, "records": given.records, "keys": given.keys, **rounded}))


if __name__ == "__main__":
    main()
