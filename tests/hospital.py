"""A hospital's export of 120 emergency visits, as it comes: its own column names, ids and codes."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

MAPPING = {"Match": 1, "Does Not Match": 0, "Unknown": -1}
TOPIC = "respiratory infections"
TEXT = ("Presenting problem", "Nurse note")
CASES = (  # presenting problem, nurse note, rating, reason
    ("cough, fever", "productive cough since Monday, temp 38.9", "Match", "lower airway"),
    ("ankle pain", "twisted the ankle on stairs", "Does Not Match", "an injury"),
    ("feels unwell", "", "Unknown", "too little said"),
    ("sore throat", "red tonsils, no fever", "Match", "upper airway"),
    ("chest pain", "after lifting boxes, ECG normal", "Does Not Match", "muscular"),
)


def visits(count: int = 120, *, rated: bool = True, start: int = 0) -> list[dict[str, Any]]:
    """Visits of a third as many patients; a visit's number is in its note, so that no two texts are equal."""
    rows = []
    for number in range(start, start + count):
        problem, note, rating, reason = CASES[number % len(CASES)]
        patient = number * 7 % max(1, count // 3) + start
        row = {
            "MRN": f"00{4000 + patient}",
            "Visit ID": f"V-{number:05}",
            "Ward": f"ward {number % 4}",
            "Presenting problem": f"{problem} ({words(number)})",
            "Nurse note": note and f"{note}, bed {number}",
            "Age": 20 + patient % 60,
            "Sex": "FM"[patient % 2],
        }
        rows.append(row | ({"Reviewer1": rating, "Why": reason} if rated else {}))
    return rows


def words(number: int) -> str:
    """A few words that differ from visit to visit, so that no two texts are near-duplicates."""
    parts = ("arm", "back", "calf", "door", "east", "farm", "gate", "hall", "inn", "jaw")
    return " ".join(parts[int(digit)] + digit * 2 + str(number % 13) for digit in f"{number * 37 % 1000:03}")


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path
