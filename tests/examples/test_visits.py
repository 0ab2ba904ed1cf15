"""The example visits: made again byte for byte, and hard in the way that they are meant to be."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def visits() -> list[dict[str, str]]:
    with open(EXAMPLES / "formatted_dataset.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def make(out: Path, *options: str) -> bytes:
    subprocess.run([sys.executable, EXAMPLES / "make_visits.py", "--out", out, *options], check=True)
    return out.read_bytes()


def test_the_committed_files_are_made_again_byte_for_byte(tmp_path: Path) -> None:
    assert make(tmp_path / "formatted_dataset.csv") == (EXAMPLES / "formatted_dataset.csv").read_bytes()
    name = "rating_mapping_metadata.json"
    assert (tmp_path / name).read_bytes() == (EXAMPLES / name).read_bytes()


def test_the_seed_decides_the_visits(tmp_path: Path) -> None:
    assert make(tmp_path / "a.csv", "--seed", "12", "--rows", "20") != make(tmp_path / "b.csv", "--rows", "20")


def test_enough_rows_of_every_rating(visits: list[dict[str, str]]) -> None:
    counts = Counter(visit["Standardized_Rating"] for visit in visits)
    mapping = json.loads((EXAMPLES / "rating_mapping_metadata.json").read_text())["rating_mapping"]
    assert len(visits) >= 480
    assert set(counts) == {str(value) for value in mapping.values()}
    assert min(counts.values()) >= 0.15 * len(visits)
    assert max(counts.values()) <= 0.5 * len(visits)


def test_rows_are_whole(visits: list[dict[str, str]]) -> None:
    assert [visit["Row_ID"] for visit in visits] == [str(number) for number in range(1, len(visits) + 1)]
    for visit in visits:
        assert visit["ChiefComplaintOrig"] in visit["Prompt"]
        assert visit["Rationale of Rating"]
        assert not re.search(r"[{}]", visit["Prompt"] + visit["Rationale of Rating"])


def test_prompts_are_hardly_ever_the_same(visits: list[dict[str, str]]) -> None:
    assert len({visit["Prompt"] for visit in visits}) >= 0.98 * len(visits)


def test_a_patient_who_returns_keeps_age_and_sex(visits: list[dict[str, str]]) -> None:
    people = {(visit["C_BioSense_ID"], visit["Sex"], visit["Age"]) for visit in visits}
    patients = {visit["C_BioSense_ID"] for visit in visits}
    assert len(people) == len(patients) < len(visits)


@pytest.mark.parametrize("word", ["cough", "fever", "pneumonia"])
def test_no_telling_word_belongs_to_one_rating(visits: list[dict[str, str]], word: str) -> None:
    rated = Counter(visit["Standardized_Rating"] for visit in visits if word in visit["Prompt"].lower())
    assert max(rated.values()) <= 0.75 * rated.total()
