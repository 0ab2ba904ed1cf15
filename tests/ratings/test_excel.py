"""Excel workbooks as input: what each kind of cell means, which sheet is read, and what is refused."""

from __future__ import annotations

import datetime
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pandas
import pytest
from openpyxl import Workbook, load_workbook

from expertune.cli.main import main
from expertune.errors import DatasetError, UsageError
from expertune.fine_tuner import FineTuner
from expertune.ratings.cells import as_text
from expertune.ratings.dataset import read_rated
from expertune.ratings.read import read_ratings, read_table
from expertune.ratings.records import open_records, read_unrated
from expertune.ratings.scale import DEFAULT_MAPPING, make_scale
from expertune.ratings.tables import open_table
from expertune.review_page.source import find_work, read_records

DATA = Path(__file__).parent.parent / "data/excel"
SCALE = make_scale(DEFAULT_MAPPING)
MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"


def workbook(path: Path, *rows: list[Any], sheet: str = "Visits", **more: list[list[Any]]) -> Path:
    book = Workbook()
    first = book.active
    assert first is not None
    first.title = sheet
    for row in rows:
        first.append(row)
    for name, others in more.items():
        added = book.create_sheet(name)
        for row in others:
            added.append(row)
    book.save(path)
    return path


def as_excel_saves(path: Path, cells: str, shared: tuple[str, ...] = ()) -> Path:
    """Replace the first sheet's rows by XML as Excel writes it, with a table of shared strings."""
    source = workbook(path.with_name("source.xlsx"), ["x"])
    strings = "".join(f'<si><t xml:space="preserve">{text}</t></si>' for text in shared)
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "xl/worksheets/sheet1.xml":
                content = f'<worksheet xmlns="{MAIN}"><sheetData>{cells}</sheetData></worksheet>'.encode()
            if name == "[Content_Types].xml":
                kind = "application/vnd.openxmlformats-officedocument.spreadsheetml.sharedStrings+xml"
                part = f'<Override PartName="/xl/sharedStrings.xml" ContentType="{kind}"/></Types>'
                content = content.replace(b"</Types>", part.encode())
            new.writestr(name, content)
        new.writestr("xl/sharedStrings.xml", f'<sst xmlns="{MAIN}">{strings}</sst>')
    return path


def texts(path: Path) -> list[list[str]]:
    table = open_table(path)
    return [[as_text(cell) for cell in cells.values()] for _, cells in table.rows()]


def test_cells_are_what_excel_shows(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx", ["Prompt", "Cell"])
    book = load_workbook(path)
    cells = (
        (34, "General", "34"),
        (34.0, "General", "34"),
        (0.1 + 0.2, "General", "0.3"),
        (36.6, "0.00", "36.6"),
        (-1, "General", "-1"),
        (True, "General", "True"),
        (False, "General", "False"),
        ("0010", "General", "0010"),
        (123, "000000", "000123"),
        (datetime.date(2026, 11, 27), "yyyy-mm-dd", "2026-11-27"),
        (datetime.datetime(2026, 11, 27), "yyyy-mm-dd hh:mm", "2026-11-27"),
        (datetime.datetime(2026, 11, 27, 13, 45), "dd/mm/yy hh:mm", "2026-11-27 13:45:00"),
        (datetime.time(13, 45), "hh:mm", "13:45:00"),
        ("#N/A", "General", "#N/A"),
        ("fièvre 熱", "General", "fièvre 熱"),
    )
    for row, (value, form, _) in enumerate(cells, start=2):
        book.active["A" + str(row)] = "cough"
        cell = book.active["B" + str(row)]
        cell.value, cell.number_format = value, form
    book.save(path)
    assert [row[1] for row in texts(path)] == [text for *_, text in cells]


def test_a_workbook_says_the_same_as_its_csv(tmp_path: Path) -> None:
    """Text, ids, patients and ratings, and so the digest of the rows, are equal."""
    head = ["Visit ID", "MRN", "Age", "Seen", "Prompt", "Expert Rating"]
    rows = [
        [1000, 5, 34, datetime.date(2026, 1, 2), "cough", "Match"],
        [1001, None, None, None, "ankle", 0],
        ["V-3", 7, 0.5, datetime.datetime(2026, 1, 2, 3, 4), "unwell", -1],
    ]
    csv = tmp_path / "a.csv"
    lines = ["1000,5,34,2026-01-02,cough,Match", "1001,,,,ankle,0", "V-3,7,0.5,2026-01-02 03:04:00,unwell,-1"]
    csv.write_text("\n".join([",".join(head), *lines]))
    book = workbook(tmp_path / "a.xlsx", head, *rows)
    assert read_ratings(book, SCALE) == read_ratings(csv, SCALE)
    assert [row.group for row in read_ratings(book, SCALE)] == ["5", None, "7"]


def test_formulas_are_their_saved_values(tmp_path: Path) -> None:
    cells = (
        '<row r="1"><c r="A1" t="s"><v>0</v></c><c r="B1" t="s"><v>1</v></c><c r="C1" t="s"><v>2</v></c></row>'
        '<row r="2"><c r="A2" t="s"><v>3</v></c><c r="B2"><f>1+1</f><v>2</v></c>'
        '<c r="C2" t="str"><f>A2&amp;"!"</f><v>cough!</v></c></row>'
        '<row r="3"><c r="A3" t="s"><v>4</v></c><c r="B3" t="b"><f>TRUE()</f><v>1</v></c>'
        '<c r="C3" t="str"><f>""</f><v></v></c></row>'
    )
    shared = ("Prompt", "B", "C", "cough", "line_x000D_\nline")
    path = as_excel_saves(tmp_path / "a.xlsx", cells, shared)
    assert open_table(path).notes == ()
    assert texts(path) == [["cough", "2", "cough!"], ["line\r\nline", "True", ""]]


def test_formulas_that_nobody_computed_are_said(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx", ["Prompt", "Sum"], ["cough", "=1+1"], ["fever", "=A2"])
    said = "2 formulas without a saved value read as blank, the first in B2; save the file in Excel once"
    assert open_table(path).notes == (f"{path}: {said}",)
    assert texts(path) == [["cough", ""], ["fever", ""]]


def test_rows_have_their_numbers_and_empty_ends_are_dropped(tmp_path: Path) -> None:
    path = workbook(
        tmp_path / "a.xlsx",
        [None, None],
        ["Prompt", " Standardized_Rating ", None, " ", None],
        ["cough", 1, None, " "],
        [],
        ["fever", "Maybe not"],
        [None, " ", None],
    )
    table = open_table(path)
    assert table.columns == ("Prompt", "Standardized_Rating")
    assert [row for row, _ in table.rows()] == [3, 5]
    with pytest.raises(DatasetError) as told:
        read_ratings(path, SCALE)
    assert str(told.value).startswith(f'{path} row 5, column "Standardized_Rating": Maybe not is not one of')


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([["Prompt", None, None], ["a", 1, 2]], "columns 2, 3 have no name; name them in the header or clear them"),
        ([["Prompt", "Prompt"], ["a", "b"]], 'duplicate column "Prompt"'),
        ([], 'sheet "Visits" is empty; move the sheet with the records to the front'),
        ([["Prompt"]], "no rows"),
        ([["Prompt"], [True]], 'no column "Standardized_Rating"'),
    ],
)
def test_faults_of_a_sheet(tmp_path: Path, rows: list[list[Any]], said: str) -> None:
    path = workbook(tmp_path / "a.xlsx", *rows)
    with pytest.raises(DatasetError) as told:
        read_ratings(path, SCALE)
    assert said in str(told.value) and str(path) in str(told.value) and "\n" not in str(told.value)


def test_workbooks_that_cannot_be_read(tmp_path: Path) -> None:
    """The protected file was encrypted by msoffcrypto, the old one written by xlwt."""
    renamed = shutil.copy(DATA / "old.xls", tmp_path / "renamed.xlsx")
    broken = workbook(tmp_path / "broken.xlsx", ["Prompt"], *(["cough"],) * 100)
    broken.write_bytes(broken.read_bytes()[:3000])
    for path, said in (
        (DATA / "locked.xlsx", "protected by a password; save a copy without one in Excel and give that"),
        (DATA / "old.xls", ".xls is not supported; save it as .xlsx or .csv in Excel"),
        (renamed, "an old Excel file (.xls) with another name; save it as .xlsx in Excel"),
        (broken, "invalid or damaged Excel file (BadZipFile); save it again as .xlsx in Excel"),
    ):
        with pytest.raises(DatasetError) as told:
            open_records(Path(path))
        assert str(told.value) == f"{path}: {said}"


def test_a_damaged_sheet_is_a_fault_of_the_file(tmp_path: Path) -> None:
    path = as_excel_saves(tmp_path / "a.xlsx", '<row r="1"><c r="A1" t="s"><v>7</v></c></row>', ("Prompt",))
    with pytest.raises(DatasetError, match=r"invalid or damaged Excel file \(IndexError\)"):
        open_table(path)


def test_the_first_visible_sheet_is_read_and_named(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx", ["hidden"], ["x"], Notes=[["Prompt"], ["cough"]], Codes=[["Code"], [1]])
    book = load_workbook(path)
    book["Visits"].sheet_state = "hidden"
    book.save(path)
    table = read_table(path)
    assert table.records == ((2, {"Prompt": "cough"}),)
    said = 'sheet "Notes" is read, not Visits, Codes; --sheet NAME reads another, or move it to the front'
    assert table.notes == (f"{path}: {said}",)
    assert read_table(path, "Codes").records == ((2, {"Code": 1}),)


def test_records_without_a_rating_come_from_a_workbook(tmp_path: Path) -> None:
    rated = workbook(tmp_path / "rated.xlsx", ["Row_ID", "Prompt", "Rating"], [1, "cough", "Match"])
    unrated = workbook(tmp_path / "new.xlsx", ["MRN", "Row_ID", "Prompt"], [5, 7, "fever"], [6, 8, None], Notes=[["x"]])
    notes: list[str] = []
    found, unusable = read_unrated(unrated, read_rated(rated, None, "")[0].columns, None, notes=notes)
    assert [(each.row, each.prompt, each.group, each.extra["Row_ID"]) for each in found] == [(2, "fever", "5", "7")]
    assert unusable == 1 and 'sheet "Visits" is read, not Notes' in notes[0]


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return int(end.value.code or 0)


def test_format_reads_and_writes_excel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [["Chief Complaint", "Rating"], ["-cough", "Match"], ["ankle", "Does Not Match"]]
    raw, output = workbook(tmp_path / "raw.xlsx", ["Read me"], ["x"], Visits2=rows), tmp_path / "out.xlsx"
    assert run("format", raw, "--sheet", "Visits2", "--output", output) == 0
    assert 'sheet "Visits2" is read, not Visits\n' in capsys.readouterr().out
    assert output.stat().st_mode & 0o777 == 0o600
    found, _ = read_rated(output, None, "")
    assert [each.label for each in found.ratings] == ["Match", "Does Not Match"]
    assert "-cough" in found.ratings[0].prompt
    assert run("format", raw, "--sheet", "Visit", "--output", output) == 2
    assert f"{raw} has no sheet 'Visit'; it has: Visits, Visits2" in capsys.readouterr().err
    assert run("check", "--input", output) == 0


def test_format_for_excel_has_a_byte_order_mark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = tmp_path / "raw.csv"
    raw.write_text("Chief Complaint\nfièvre\n", encoding="utf-8")
    assert run("format", raw, "--output", tmp_path / "out.csv", "--excel") == 0
    assert (tmp_path / "out.csv").read_bytes()[:3] == b"\xef\xbb\xbf"
    assert "Row_ID" in read_table(tmp_path / "out.csv").columns
    assert run("format", raw, "--output", tmp_path / "plain.csv") == 0
    assert (tmp_path / "plain.csv").read_bytes()[:3] == b"Row"
    capsys.readouterr()
    assert run("format", raw, "--output", tmp_path / "out.xlsx", "--excel") == 2
    assert run("format", raw, "--sheet", "A", "--output", tmp_path / "out.csv") == 2
    err = capsys.readouterr().err
    assert "leave it out" in err and f"--sheet: {raw} has no sheets" in err


# --- --sheet of the other commands ---

RATED = [
    ["Row_ID", "Prompt", "Rating"],
    *([f"r{i}", f"complaint {i} of patient {i}", ("Match", "Unknown")[i % 2]] for i in range(12)),
]


def rated_book(path: Path) -> Path:
    return workbook(path, ["Read me"], ["x"], sheet="Notes", Rated=RATED, Empty=[])


def test_check_and_tune_read_the_named_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = rated_book(tmp_path / "rated.xlsx")
    tune = (
        "tune",
        "--input",
        path,
        "--model",
        tmp_path / "none.gguf",
        "--topics",
        "t",
        "--output-dir",
        tmp_path / "out",
    )
    assert run("check", "--input", path, "--sheet", "Rated", "--no-learning-curve") == 0
    said = capsys.readouterr().out
    assert f'{path}: sheet "Rated" is read, not Notes, Empty\n' in said and "12" in said
    for command in (("check", "--input", path), tune):
        assert run(*command, "--sheet", "Rate") == 2
        assert f"--sheet: {path} has no sheet 'Rate'; it has: Notes, Rated, Empty" in capsys.readouterr().err
    records = FineTuner(quiet=True).prepare_training_data(str(path), sheet="Rated")
    assert {record["id"] for record in records} == {f"r{i}" for i in range(12)}
    with pytest.raises(UsageError, match="a data frame has no sheets"):
        FineTuner(quiet=True).prepare_training_data(pandas.DataFrame({"Prompt": ["a"]}), sheet="Rated")
    with pytest.raises(UsageError, match="sheet: 3 is not a string"):
        FineTuner(quiet=True).prepare_training_data(str(path), sheet=3)


def test_without_a_name_one_line_lists_the_sheets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = workbook(tmp_path / "a.xlsx", *RATED, Codes=[["Code"]], Notes=[["x"]])
    assert run("check", "--input", path, "--no-learning-curve") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "sheet" in line]
    assert lines == [
        f'{path}: sheet "Visits" is read, not Codes, Notes; --sheet NAME reads another, or move it to the front'
    ]


def test_merge_review_reads_the_named_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [["Prompt", "Reviewed_Rating", "Review_Note"], ["cough", "Match", ""], ["ankle", "", ""]]
    path, into = workbook(tmp_path / "review.xlsx", ["x"], Review=rows), rated_book(tmp_path / "rated.xlsx")
    command = ("merge-review", path, "--into", into, "--output", tmp_path / "next.csv")
    assert run(*command) == 2
    book = load_workbook(into)
    book.move_sheet("Rated", -1)
    book.save(into)
    assert run(*command, "--sheet", "Review") == 0
    said = capsys.readouterr().out
    assert "1 reviewed records added" in said and "1 not reviewed" in said
    assert f'note: {path}: sheet "Review" is read, not Visits\n' in said
    assert f'note: {into}: sheet "Rated" is read, not Notes, Empty; --sheet NAME reads another, or move' in said
    assert [rating.prompt for rating in read_ratings(tmp_path / "next.csv", SCALE)][-1] == "cough"


def test_review_reads_the_named_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns = [
        "Row_ID",
        "Prompt",
        "Predicted_Rating",
        "Predicted_Label",
        "Confidence",
        "Review_Reasons",
        "Rating_Error",
    ]
    rows = [
        columns,
        ["r1", "cough", 1, "Match", 0.4, "low confidence", ""],
        ["r2", "ankle", 0, "Does Not Match", 0.9, "", ""],
    ]
    path = workbook(tmp_path / "rated.xlsx", ["x"], Rated=rows)
    command = ("review", path, "--output", tmp_path / "review.csv", "--sample", "0")
    assert run(*command) == 2
    assert run(*command, "--sheet", "Rated") == 0
    said = capsys.readouterr().out
    assert "1 of 2 records to be reviewed" in said and f'note: {path}: sheet "Rated" is read, not Visits' in said
    scale, found = make_scale(DEFAULT_MAPPING), find_work(path, (), "Rated")
    assert found == "review"
    source = read_records(rated_book(tmp_path / "raw.xlsx"), scale, topics="", choices=(), sheet="Rated")
    assert len(source.rows) == 12
