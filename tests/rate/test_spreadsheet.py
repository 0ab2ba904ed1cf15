"""A review queue that went through a spreadsheet: its cells come back as they were, or are listed and left out."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertune.cli.main import main
from expertune.rate.journal import Journal
from expertune.rate.merge import MergedReview, merge_review
from expertune.rate.queue_key import KEY, candidates, protected, restored, row_key
from expertune.rate.review import make_queue
from expertune.rate.runner import rate_records
from expertune.ratings.read import open_records, read_ratings
from rate.stub import SCALE, Counted, RuleEngine, asked, read_csv, write_csv

FAULTS = Path(__file__).parent.parent / "data/faults/spreadsheet_review"
INTO = FAULTS / "into.csv"
Row = dict[str, str]


def excel(cell: str) -> str:
    """What a western Excel makes of a cell of a CSV file that is opened by a double click."""
    if re.match(r"[=+\-@]", cell):
        return "#NAME?"
    if cell == "1-2":
        return "02. Jan"
    return re.sub(r"^0+(?=\d+$)", "", f"{float(cell):.5E}" if re.fullmatch(r"\d{16,}", cell) else cell)


def queue(folder: Path) -> list[Row]:
    """The queue of the reported records, all of them rated Match by the reviewer."""
    with Journal(folder / "journal.sqlite") as journal:
        rate_records(
            open_records(FAULTS / "new.csv"), folder / "rated.csv", asked(RuleEngine()), journal, Counted().stage
        )
    make_queue(folder / "rated.csv", folder / "review.csv", sample=1.0)
    return [row | {"Reviewed_Rating": "Match"} for row in read_csv(folder / "review.csv")]


def merged(folder: Path, rows: list[Row], **options: Path) -> MergedReview:
    return merge_review(write_csv(folder / "back.csv", rows), INTO, folder / "out.csv", SCALE, **options)


def added(folder: Path) -> dict[str, str]:
    return {row.id: row.prompt for row in read_ratings(folder / "out.csv", SCALE)[3:]}


RECORDS = {row["Row_ID"]: row["Prompt"] for row in read_csv(FAULTS / "new.csv")}


def test_excel_finds_nothing_to_convert(tmp_path: Path) -> None:
    rows = queue(tmp_path)
    assert (tmp_path / "review.csv").read_bytes().startswith(b"\xef\xbb\xbf")  # else Excel breaks the accents
    own = ("Row_ID", "Prompt", KEY)
    assert len(rows) == 6 and all(excel(row[column]) == row[column] for row in rows for column in own)
    back = merged(tmp_path, rows, journal=tmp_path / "journal.sqlite")
    assert (back.added, back.damaged, back.conflicts, back.journalled) == (6, (), (), 6)
    assert added(tmp_path) == RECORDS


MENDED: dict[str, Callable[[str], str]] = {
    "apostrophes taken as marks": lambda cell: cell.removeprefix("'"),
    "CR LF for LF": lambda cell: re.sub(r"\r\n|\n", "\r\n", cell),
    "LF for CR LF": lambda cell: cell.replace("\r\n", "\n"),
    "read as Windows-1252": lambda cell: cell.encode().decode("cp1252"),
    "read as Mac Roman": lambda cell: cell.encode().decode("mac_roman"),
}


@pytest.mark.parametrize("change", MENDED)
def test_what_can_be_mended_is_mended(tmp_path: Path, change: str) -> None:
    rows = [{column: MENDED[change](cell) for column, cell in row.items()} for row in queue(tmp_path)]
    back = merged(tmp_path, rows, journal=tmp_path / "journal.sqlite")
    assert (back.added, back.damaged, back.journalled) == (6, (), 6)
    assert added(tmp_path) == RECORDS


LOST: dict[str, Callable[[list[Row]], object]] = {
    "a formula's error": lambda rows: rows[0].update(Prompt="#NAME?"),
    "an id as a date": lambda rows: rows[0].update(Row_ID="02. Jan"),
    "an id without its zeros": lambda rows: rows[0].update(Row_ID="10"),
    "a text cut off": lambda rows: rows[0].update(Prompt=rows[0]["Prompt"][:-3]),
    "a row without its key": lambda rows: rows[0].update({KEY: ""}),
    "a key as a number": lambda rows: rows[0].update({KEY: "1,0E+15"}),
}


@pytest.mark.parametrize("change", LOST)
def test_what_cannot_is_listed_and_left_out(tmp_path: Path, change: str) -> None:
    rows = queue(tmp_path)
    LOST[change](rows)
    back = merged(tmp_path, rows)
    assert (back.added, len(back.damaged)) == (5, 1)
    assert "back.csv row 2, column" in back.damaged[0] and "not the queued one" in back.damaged[0]
    assert {id: RECORDS[id] for id in added(tmp_path)} == added(tmp_path)


def test_a_column_sorted_by_itself_merges_nothing(tmp_path: Path) -> None:
    rows = queue(tmp_path)
    prompts = [row["Prompt"] for row in rows]
    back = merged(tmp_path, [row | {"Prompt": text} for row, text in zip(rows, prompts[1:] + prompts[:1], strict=True)])
    assert (back.added, len(back.damaged)) == (0, 6)


def test_the_reported_file_without_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the journal accents and ends of lines are mended; without it the row with broken accents is left out."""
    queue(tmp_path)
    arguments = ["merge-review", FAULTS / "review_after_excel.csv", "--into", INTO, "--output", tmp_path / "out.csv"]
    for more, whole in (([], ["9"]), (["--journal", tmp_path / "journal.sqlite"], ["8", "9"])):
        with pytest.raises(SystemExit) as ended:
            main([str(part) for part in (*arguments, *more)])
        said = capsys.readouterr().out
        assert not ended.value.code and said.count("damaged, left out: ") == 6 - len(whole)
        found = {id: text if more else text.replace("\n", "\r\n") for id, text in added(tmp_path).items()}
        assert found == {id: RECORDS[id] for id in whole}


def test_a_record_that_came_back_is_not_queued_again(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "new.csv", [{"Row_ID": "1", "Prompt": "Complaint: cough\r\nfever"}])
    for rated in ("a.csv", "b.csv"):
        with Journal(tmp_path / "j.sqlite") as journal:
            rate_records(open_records(source), tmp_path / rated, asked(RuleEngine()), journal, Counted().stage)
        if rated == "a.csv":
            make_queue(tmp_path / rated, tmp_path / "review.csv", sample=1.0)
            (row,) = read_csv(tmp_path / "review.csv")
            back = row | {"Reviewed_Rating": "1", "Prompt": row["Prompt"].replace("\r\n", "\n")}
            assert merged(tmp_path, [back], journal=tmp_path / "j.sqlite").journalled == 1
    assert read_csv(tmp_path / "b.csv")[0]["Review_Reasons"] == ""


@pytest.mark.parametrize(
    "cell",
    [
        "=1",
        "-x",
        "+x",
        "@x",
        "'x",
        "0010",
        "1-2",
        "2.5",
        "1,5",
        "1E5",
        "12:30",
        "MARCH1",
        "2 Sep",
        "1" * 16,
        "TRUE",
        "5 %",
    ],
)
def test_cells_that_a_spreadsheet_converts_are_protected(cell: str) -> None:
    assert protected(cell) == f"'{cell}"


@pytest.mark.parametrize(
    "cell", ["", "0", "7", "1" * 15, "cough", "cough, 3 days", "may have a fever", "Age 34", "r12"]
)
def test_other_cells_stay(cell: str) -> None:
    assert protected(cell) == cell


@given(st.text(), st.text())
def test_every_cell_comes_back(text: str, other: str) -> None:
    key = row_key({"Prompt": text, "Row_ID": other})
    assert restored(key, "prompt", protected(text)) == text
    assert restored(key, "Row_ID", other) == other
    if text not in candidates(other):
        assert restored(key, "Prompt", other) is None


def test_a_key_is_a_plain_word() -> None:
    key = row_key({"a": "1", "b": "2"})
    assert re.fullmatch(r"k[0-9a-f]{16}", key) and protected(key) == key
    assert list(csv.reader([key])) == [[key]]
