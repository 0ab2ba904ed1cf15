from __future__ import annotations

import csv
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from expertune.cli.main import main
from expertune.errors import DatasetError, UsageError
from expertune.rate.journal import Journal, record_hash
from expertune.rate.merge import merge_review
from expertune.rate.review import make_queue
from expertune.rate.runner import rate_records
from expertune.ratings.read import open_records, read_ratings
from rate.stub import SCALE, Counted, RuleEngine, asked, read_csv, visits, write_csv

HEAD = ["Reviewed_Rating", "Review_Note", "Review_Reasons", "Predicted_Label", "Confidence"]


def rated_file(folder: Path, rows: list[dict[str, Any]]) -> Path:
    source = write_csv(folder / "new.csv", rows)
    with Journal(folder / "journal.sqlite") as journal:
        rate_records(open_records(source), folder / "rated.csv", asked(RuleEngine()), journal, Counted().stage)
    return folder / "rated.csv"


def test_the_queue_has_every_doubtful_row_and_a_sample_of_the_others(tmp_path: Path) -> None:
    rows = visits(400)
    rows[7]["Prompt"] = "bad"
    rated = rated_file(tmp_path, [row | {"Models_Disagree": "1" if i in (3, 5) else "0"} for i, row in enumerate(rows)])
    all_rows = read_csv(rated)
    queue = make_queue(rated, tmp_path / "review.csv", sample=0.1, seed=1)
    found = read_csv(tmp_path / "review.csv")
    assert list(found[0])[:5] == HEAD and set(found[0]) == {*all_rows[0], *HEAD, "Review_Key"}
    assert {row["Reviewed_Rating"] + row["Review_Note"] for row in found} == {""}
    by_id = {row["Row_ID"]: row["Review_Reasons"] for row in found}
    doubtful = {row["Row_ID"] for row in all_rows if row["Review_Reasons"]} | {"r3", "r5"}
    sampled = {name for name, reason in by_id.items() if reason == "random sample of the confident ones"}
    assert set(by_id) == doubtful | sampled and not doubtful & sampled
    assert len(sampled) == -(-(400 - len(doubtful)) // 10)
    assert all("models disagree" in by_id[name] for name in ("r3", "r5"))
    assert queue.rows == 400 and queue.queued == len(found) and queue.reasons["not rated"] == 1
    assert stat.S_IMODE((tmp_path / "review.csv").stat().st_mode) == 0o600


def test_the_most_useful_rows_come_first(tmp_path: Path) -> None:
    rows = visits(200)
    rows[50]["Prompt"] = "bad"
    rated = rated_file(tmp_path, rows)
    make_queue(rated, tmp_path / "review.csv")
    found = read_csv(tmp_path / "review.csv")
    assert found[0]["Row_ID"] == "r50"
    counts = [len(row["Review_Reasons"].split(" | ")) for row in found[1:]]
    assert counts == sorted(counts, reverse=True)
    doubtful = [float(row["Confidence"]) for row in found if row["Review_Reasons"] == "low confidence"]
    assert doubtful == sorted(doubtful) and len(doubtful) > 20
    kinds = ["sample" in row["Review_Reasons"] for row in found]
    assert kinds == sorted(kinds)


def test_the_sample_hangs_on_the_seed_only(tmp_path: Path) -> None:
    rated = rated_file(tmp_path, visits(300))
    texts = []
    for seed in (1, 1, 2):
        make_queue(rated, tmp_path / "review.csv", sample=0.2, seed=seed)
        texts.append((tmp_path / "review.csv").read_text())
    assert texts[0] == texts[1] != texts[2]
    assert make_queue(rated, tmp_path / "review.csv", sample=0).reasons.keys() == {"low confidence"}
    assert make_queue(rated, tmp_path / "review.csv", sample=1).queued == 300


def test_a_file_that_was_not_rated_is_refused(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "new.csv", visits(3))
    with pytest.raises(DatasetError, match='no column "Predicted_Rating"; give a file that expertune rate has written'):
        make_queue(source, tmp_path / "review.csv")
    rated = rated_file(tmp_path, visits(3))
    with pytest.raises(UsageError, match="is the input itself"):
        make_queue(rated, rated)
    with pytest.raises(UsageError, match="not between 0 and 1"):
        make_queue(rated, tmp_path / "review.csv", sample=2)
    with pytest.raises(UsageError, match=r"is a \.csv file"):
        make_queue(rated, tmp_path / "review.xlsx")


# --- the way back ---

BEFORE = [
    {
        "Row_ID": "r1",
        "Prompt": "visit 900: fall",
        "Standardized_Rating": "0",
        "Rationale of Rating": "injury",
        "Age": "7",
    },
    {
        "Row_ID": "a2",
        "Prompt": "visit 2: cough, fever",
        "Standardized_Rating": "1",
        "Rationale of Rating": "",
        "Age": "8",
    },
    {
        "Row_ID": "a3",
        "Prompt": "Visit 3: cough; FEVER",
        "Standardized_Rating": "1",
        "Rationale of Rating": "",
        "Age": "",
    },
]


def review(folder: Path, marks: dict[str, tuple[str, str]]) -> Path:
    """The queue of 40 rows with a reviewer's marks: Row_ID → rating, note."""
    rated = rated_file(folder, [row | {"Age": str(i)} for i, row in enumerate(visits(40))])
    make_queue(rated, folder / "review.csv", sample=1.0)
    rows = read_csv(folder / "review.csv")
    for row in rows:
        row["Reviewed_Rating"], row["Review_Note"] = marks.get(row["Row_ID"], ("", ""))
    return write_csv(folder / "reviewed.csv", rows)


def test_reviewed_rows_become_rated_rows(tmp_path: Path) -> None:
    into = write_csv(tmp_path / "formatted_dataset.csv", BEFORE)
    before = into.read_bytes()
    marks = {
        "r1": ("Match", "cough"),
        "r2": ("1", ""),
        "r3": ("0", "no"),
        "r4": ("-1", ""),
        "r5": ("not a match", "x, y"),
    }
    reviewed, output = review(tmp_path, marks), tmp_path / "next.csv"
    merged = merge_review(reviewed, into, output, SCALE, journal=tmp_path / "journal.sqlite")
    assert (merged.added, merged.known, merged.not_reviewed, merged.renamed, merged.journalled) == (3, 1, 35, 1, 5)
    (conflict,) = merged.conflicts
    assert "rated 0, but 1 in" in conflict and conflict.endswith("row 4") and "cough" not in conflict
    assert into.read_bytes() == before
    rows = read_csv(output)
    assert rows[:3] == BEFORE
    assert {
        row["Row_ID"]: (row["Prompt"], row["Standardized_Rating"], row["Rationale of Rating"], row["Age"])
        for row in rows[3:]
    } == {
        "r1-2": ("visit 1: cough, fever", "1", "cough", "1"),
        "r4": ("visit 4: cough, fever", "-1", "", "4"),
        "r5": ("visit 5: cough, fever", "0", "x, y", "5"),
    }
    notes: list[str] = []
    ratings = read_ratings(output, SCALE, notes=notes)
    assert [rating.value for rating in ratings] == [0, 1, 1, *(int(row["Standardized_Rating"]) for row in rows[3:])]
    assert notes == []  # ids are unique
    # a second time all of them are known
    again = merge_review(reviewed, output, tmp_path / "third.csv", SCALE)
    assert (again.added, again.known, len(again.conflicts)) == (0, 4, 1)


def test_the_journal_knows_the_review_and_the_row_is_not_queued_again(tmp_path: Path) -> None:
    into = write_csv(tmp_path / "formatted_dataset.csv", BEFORE)
    doubtful = next(row["Row_ID"] for row in read_csv(rated_file(tmp_path, visits(40))) if row["Review_Reasons"])
    merge_review(
        review(tmp_path, {doubtful: ("1", "")}), into, tmp_path / "n.csv", SCALE, journal=tmp_path / "journal.sqlite"
    )
    row = next(row for row in read_csv(rated_file(tmp_path, visits(40))) if row["Row_ID"] == doubtful)
    assert row["Review_Reasons"] == "" and row["Predicted_Rating"] != ""
    with Journal(tmp_path / "journal.sqlite") as journal:
        found = journal._db.execute("SELECT record, value FROM overrides").fetchall()
    assert found == [(record_hash(row["Prompt"]), 1)]


def test_one_text_reviewed_in_two_ways_is_a_conflict(tmp_path: Path) -> None:
    into = write_csv(tmp_path / "formatted_dataset.csv", BEFORE)
    rows = [
        {"Prompt": "same text", "Reviewed_Rating": "1", "Review_Note": ""},
        {"Prompt": "Same text.", "Reviewed_Rating": "0", "Review_Note": ""},
        {"Prompt": "other", "Reviewed_Rating": "0", "Review_Note": ""},
        {"Prompt": "other", "Reviewed_Rating": "0", "Review_Note": ""},
    ]
    merged = merge_review(write_csv(tmp_path / "r.csv", rows), into, tmp_path / "n.csv", SCALE)
    assert (merged.added, merged.known, len(merged.conflicts)) == (1, 1, 2)
    assert all("the same text is rated 1 in row 2, 0 in row 3" in line for line in merged.conflicts)
    assert read_csv(tmp_path / "n.csv")[-1]["Row_ID"] == "review-4"


def test_a_rating_outside_the_mapping_names_file_row_and_column(tmp_path: Path) -> None:
    into = write_csv(tmp_path / "formatted_dataset.csv", BEFORE)
    rows = [{"Prompt": "a", "Reviewed_Rating": ""}, {"Prompt": "b", "Reviewed_Rating": "7"}]
    with pytest.raises(DatasetError, match=r'r\.csv row 3, column "Reviewed_Rating": 7 is not one of'):
        merge_review(write_csv(tmp_path / "r.csv", rows), into, tmp_path / "n.csv", SCALE)
    assert not (tmp_path / "n.csv").exists()
    with pytest.raises(UsageError, match="is the input itself"):
        merge_review(tmp_path / "r.csv", into, into, SCALE)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_other_forms_and_a_spreadsheets_semicolons(tmp_path: Path, suffix: str) -> None:
    into = tmp_path / f"formatted_dataset{suffix}"
    if suffix == ".jsonl":
        into.write_text("".join(json.dumps(row) + "\n" for row in BEFORE))
    else:
        write_csv(into, BEFORE)
    with open(tmp_path / "r.csv", "w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file, delimiter=";").writerows(
            [["Reviewed_Rating", "Prompt", "Review_Note"], ["1", "neu; ja", "so"]]
        )
    merge_review(tmp_path / "r.csv", into, tmp_path / f"n{suffix}", SCALE)
    last = read_ratings(tmp_path / f"n{suffix}", SCALE)[-1]
    assert (last.prompt, last.value, last.rationale) == ("neu; ja", 1, "so")


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    into = write_csv(tmp_path / "formatted_dataset.csv", BEFORE)
    reviewed = review(tmp_path, {"r3": ("0", ""), "r4": ("1", "")})
    for arguments, said in (
        (
            ["review", tmp_path / "rated.csv", "--output", tmp_path / "q.csv"],
            "records to be reviewed, the most useful first",
        ),
        (["merge-review", reviewed, "--into", into, "--output", tmp_path / "n.csv"], "1 reviewed records added"),
    ):
        with pytest.raises(SystemExit) as ended:
            main([str(part) for part in arguments])
        told = capsys.readouterr().out
        assert not ended.value.code and said in told
    assert "conflict, left out: " in told and "cough" not in told
