"""Results for a spreadsheet and for R, SAS and Stata: Excel workbooks, the byte order mark, names and the codebook."""

from __future__ import annotations

import datetime
import re
import stat
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from openpyxl import Workbook, load_workbook

from expertune.errors import Interrupted, OutputError, UsageError
from expertune.predict.uncertainty import Uncertainty
from expertune.rate.codebook import HEAD, write_codebook
from expertune.rate.columns import Wanted, share_columns, valid_name
from expertune.rate.excel import LONGEST_TEXT, MOST_ROWS, check_fits_sheet, write_xlsx
from expertune.rate.journal import Journal
from expertune.rate.merge import merge_review
from expertune.rate.review import make_queue
from expertune.rate.runner import rate_records
from expertune.rate.writer import checked_output
from expertune.ratings.read import read_ratings
from expertune.ratings.records import RecordFile, open_records
from expertune.ratings.scale import make_scale
from expertune.ratings.tables import TableFile
from rate.stub import SCALE, Counted, RuleEngine, asked, read_csv, visits, write_csv


def rate(
    source: Path, output: Path, engine: RuleEngine, counted: Counted | None = None, *, excel: bool = False
) -> None:
    with Journal(output.with_name(f"{output.name}.journal.sqlite")) as journal:
        rate_records(open_records(source), output, asked(engine), journal, (counted or Counted()).stage, excel=excel)


def cells(path: Path) -> list[list[Any]]:
    book = load_workbook(path)
    assert len(book.worksheets) == 1
    return [list(row) for row in book.worksheets[0].iter_rows()]


def test_text_is_never_a_formula(tmp_path: Path) -> None:
    odd = ["=1+1", "+1", "-1", "@SUM(A1)", "#N/A", "0010", "1-2", "TRUE", "\tx", " x "]
    source = write_csv(tmp_path / "new.csv", [{"Row_ID": text, "Prompt": f"{text} cough"} for text in odd])
    rate(source, tmp_path / "out.xlsx", RuleEngine())
    found = cells(tmp_path / "out.xlsx")
    assert [row[0].value for row in found[1:]] == odd
    assert {(cell.data_type, type(cell.value)) for row in found for cell in row[:2]} == {("s", str)}
    kinds = dict(zip([cell.value for cell in found[0]], [cell.data_type for cell in found[1]], strict=True))
    assert kinds["Predicted_Rating"] == kinds["Confidence"] == kinds["p_match"] == "n"
    assert kinds["Predicted_Label"] == "s"


def test_types_of_excel(tmp_path: Path) -> None:
    zone = datetime.timezone.utc
    row = {
        "whole": 34,
        "number": 36.6,
        "true": True,
        "day": datetime.date(2026, 11, 27),
        "when": datetime.datetime(2026, 11, 27, 13, 45),
        "time": datetime.time(13, 45),
        "money": Decimal("1.50"),
        "nothing": None,
        "empty": "",
        "long": 2024010112345678901,
        "zone": datetime.datetime(2026, 11, 27, 13, 45, tzinfo=zone),
        "old": datetime.date(1867, 1, 2),
        "list": ["x", 1],
        "nan": float("nan"),
        "last": 1,
    }
    write_xlsx(tmp_path / "a.xlsx", list(row), [row])
    found = {head.value: cell for head, cell in zip(*cells(tmp_path / "a.xlsx"), strict=True)}
    assert {name: cell.value for name, cell in found.items()} == {
        **row,
        "day": datetime.datetime(2026, 11, 27),
        "money": 1.5,
        "empty": None,
        "long": "2024010112345678901",
        "zone": "2026-11-27 13:45:00+00:00",
        "old": "1867-01-02",
        "list": '["x", 1]',
        "nan": None,
    }
    assert [name for name, cell in found.items() if cell.is_date] == ["day", "when", "time"]
    (record,) = next(iter(_records(tmp_path / "a.xlsx").batches(9)))
    assert (record.cells["day"], record.cells["when"]) == (row["day"], row["when"])


def _records(path: Path) -> RecordFile:
    return open_records(path, prompt=("empty", "whole"))


def test_a_stopped_run_goes_on_and_leaves_nothing_behind(tmp_path: Path) -> None:
    class Stopping(Counted):
        def advance(self, n: int = 1) -> None:
            super().advance(n)
            if self.done == 300:
                raise KeyboardInterrupt

    source, output, engine = write_csv(tmp_path / "new.csv", visits(600)), tmp_path / "rated.xlsx", RuleEngine()
    with pytest.raises(Interrupted):
        rate(source, output, engine, Stopping())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.csv", "rated.xlsx.journal.sqlite"]
    for left in ("rows", "part"):  # as after kill -9
        (tmp_path / f".rated.xlsx.{left}").write_text("half")
    rate(source, output, engine)
    assert len(engine.scored) == len(set(engine.scored)) == 600
    assert [row[0].value for row in cells(output)[1:]] == [f"r{i}" for i in range(600)]
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    assert not list(tmp_path.glob(".*"))


def test_rows_wait_next_to_the_output_with_its_mode(tmp_path: Path) -> None:
    class Looking(Counted):
        modes: tuple[int, ...] = ()

        def advance(self, n: int = 1) -> None:
            self.modes = tuple(stat.S_IMODE(path.stat().st_mode) for path in sorted(tmp_path.glob(".rated.xlsx.*")))

    looking = Looking()
    rate(write_csv(tmp_path / "new.csv", visits(9)), tmp_path / "rated.xlsx", RuleEngine(), looking)
    assert looking.modes == (0o600, 0o600)


def test_what_no_sheet_holds_is_refused_before_rating(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "new.csv", [*visits(3), {"Row_ID": "r3", "Prompt": "x" * (LONGEST_TEXT + 1)}])
    engine = RuleEngine()
    with pytest.raises(UsageError, match=r'new\.csv row 5, column "Prompt": longer than the 32,767 characters'):
        rate(source, tmp_path / "rated.xlsx", engine)
    assert engine.scored == []
    rate(source, tmp_path / "rated.csv", engine)
    with pytest.raises(OutputError, match="longer than the 32,767 characters"):
        write_xlsx(tmp_path / "a.xlsx", ["x"], [{"x": "x" * (LONGEST_TEXT + 1)}])
    assert not list(tmp_path.glob("*.xlsx")) and not list(tmp_path.glob(".*"))
    many = RecordFile(TableFile(Path("many.csv"), ("Prompt",)), ("Prompt",), MOST_ROWS, "Prompt", {})
    with pytest.raises(UsageError, match=r"1,048,576 records; an Excel sheet holds 1,048,575, write \.csv"):
        check_fits_sheet(many)


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_a_byte_order_mark_on_request(tmp_path: Path, suffix: str) -> None:
    source = write_csv(tmp_path / "new.csv", [{"Prompt": "fièvre"}])
    for excel in (True, False):
        rate(source, tmp_path / f"out{suffix}", RuleEngine(), excel=excel)
        assert (tmp_path / f"out{suffix}").read_bytes().startswith(b"\xef\xbb\xbf") is excel
        assert open_records(tmp_path / f"out{suffix}").columns[0] == "Prompt"
    for name in ("out.xlsx", "out.jsonl", "out.parquet"):
        with pytest.raises(UsageError, match="--excel: it marks a"):
            checked_output(tmp_path / name, source, excel=True)


# --- a review that was saved as a workbook ---


def test_a_review_saved_as_a_workbook_is_merged(tmp_path: Path) -> None:
    """Excel makes numbers of plain numbers and an apostrophe of its own of a line end."""
    prompts = ["34", "=cough", "0010", "-", "two\nlines", "fièvre, 38.5"]
    source = write_csv(tmp_path / "new.csv", [{"Row_ID": f"n{i}", "Prompt": text} for i, text in enumerate(prompts)])
    rate(source, tmp_path / "rated.xlsx", RuleEngine())
    assert make_queue(tmp_path / "rated.xlsx", tmp_path / "review.csv", sample=1.0).queued == len(prompts)
    book = Workbook()
    sheet: Any = book.active
    rows = read_csv(tmp_path / "review.csv")
    sheet.append(list(rows[0]))
    for row in rows:
        sheet.append([_typed(cell) for cell in ({**row, "Reviewed_Rating": "Match"}).values()])
    book.create_sheet("Notes").append(["mine"])
    book.save(tmp_path / "back.xlsx")
    into = write_csv(tmp_path / "into.csv", [{"Row_ID": "1", "Prompt": "ankle", "Standardized_Rating": 0}])
    for output in ("out.csv", "out.xlsx"):
        merged = merge_review(tmp_path / "back.xlsx", into, tmp_path / output, SCALE)
        assert (merged.added, merged.damaged, merged.conflicts) == (len(prompts), (), ())
        assert merged.notes[0].startswith(f'{tmp_path / "back.xlsx"}: sheet "Sheet" is read, not Notes')
        found = read_ratings(tmp_path / output, SCALE)
        assert {row.id: row.prompt for row in found[1:]} == {f"n{i}": text for i, text in enumerate(prompts)}
        assert [row.value for row in found] == [0, *[1] * len(prompts)]


def _typed(cell: str) -> Any:
    return int(cell) if re.fullmatch("[1-9][0-9]*", cell) else float(cell) if re.fullmatch(r"0\.[0-9]+", cell) else cell


# --- names and the codebook ---

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,31}")


@pytest.mark.parametrize(
    ("mapping", "names"),
    [
        ({"Match": 1, "Does Not Match": 0, "Unknown": -1}, ["p_match", "p_does_not_match", "p_unknown"]),
        ({"Élevé": 1, "Übereinstimmung ≥ 5": 0}, ["p_eleve", "p_ubereinstimmung_5"]),
        ({"符合": 1, "不符合": 0, "不明": -1}, ["p_value_1", "p_value_0", "p_value_minus_1"]),
        ({"A+": 1, "A-": 2, "a !": 3}, ["p_a", "p_a_2", "p_a_3"]),
        ({"x" * 40: 1, "x" * 41: 2}, ["p_" + "x" * 30, "p_" + "x" * 28 + "_2"]),
        ({"1 of 2": 1, "2 of 2": 2}, ["p_1_of_2", "p_2_of_2"]),
    ],
)
def test_columns_of_the_labels(mapping: dict[str, int], names: list[str]) -> None:
    found = share_columns(make_scale(mapping))
    assert list(found.values()) == names and all(NAME.fullmatch(name) for name in names)


def test_every_added_column_has_a_name_that_statistics_programs_take() -> None:
    names = list(Wanted(SCALE, Uncertainty(), rationale=True, votes=True).columns())
    assert all(NAME.fullmatch(name) for name in names)
    assert len({name.casefold() for name in names}) == len(names) == 11


def test_valid_names() -> None:
    taken = set[str]()
    given = ["Chief Complaint", "chief_complaint", "2nd visit", "Größe", "if", "熱", "", "x" * 40, "x" * 39]
    found = [valid_name(each, taken) for each in given]
    short = "x" * 32, "x" * 30 + "_2"
    assert found == ["Chief_Complaint", "chief_complaint_2", "v_2nd_visit", "Grosse", "v_if", "v", "v_2", *short]


def test_the_codebook(tmp_path: Path) -> None:
    table = pa.table({"Prompt": ["a"], "Visit Age": [34], "confidence": [1.5], "Ward": ["W1 secret"]})
    pq.write_table(table, tmp_path / "new.parquet")
    records = open_records(tmp_path / "new.parquet")
    path = write_codebook(tmp_path / "rated.csv", records, Wanted(SCALE, Uncertainty(), votes=True))
    assert path == tmp_path / "rated_codebook.csv" and stat.S_IMODE(path.stat().st_mode) == 0o600
    rows = {row["name"]: row for row in read_csv(path)}
    assert tuple(rows["Prompt"]) == HEAD
    assert [(row["name"], row["type"], row["valid_name"]) for row in rows.values()][:5] == [
        ("Prompt", "string", "Prompt"),
        ("Visit Age", "int64", "Visit_Age"),
        ("confidence", "double", "confidence_2"),
        ("Ward", "string", "Ward"),
        ("Predicted_Rating", "integer", "Predicted_Rating"),
    ]
    assert rows["Predicted_Rating"]["values"] == "1 = Match; 0 = Does Not Match; -1 = Unknown"
    assert (rows["p_match"]["label"], rows["p_match"]["values"]) == ("Probability of Match", "0 to 1")
    assert rows["Conformal_Set"]["values"] == "Match; Does Not Match; Unknown"
    assert rows["Models_Disagree"]["values"] == "0 = no; 1 = yes"
    assert "models disagree" in rows["Review_Reasons"]["values"]
    assert all(row["label"] and NAME.fullmatch(row["valid_name"]) for row in rows.values())
    assert "secret" not in path.read_text()


def test_the_codebook_of_a_typed_file(tmp_path: Path) -> None:
    lines = '{"Prompt": "a", "Age": 34, "T": 38.5, "Sure": true}\n{"Prompt": "b", "Age": null}\n'
    (tmp_path / "new.jsonl").write_text(lines)
    records = open_records(tmp_path / "new.jsonl")
    path = write_codebook(tmp_path / "rated.xlsx", records, Wanted(SCALE, Uncertainty()), excel=True)
    assert path.read_bytes().startswith(b"\xef\xbb\xbf")
    kinds = {row["name"]: row["type"] for row in read_csv(path)}
    assert [kinds[name] for name in ("Prompt", "Age", "T", "Sure")] == ["text", "integer", "number", "boolean"]
