"""The streaming reader: every format row by row, with flat memory, and the same table as the reader of whole files."""

from __future__ import annotations

import tracemalloc
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from expertune.errors import DatasetError
from expertune.ratings.read import read_table
from expertune.ratings.records import open_records
from expertune.ratings.tables import open_table

ROWS = [{"Prompt": f"cough {i}", "Age": str(i)} for i in range(5)]


def write(path: Path, rows: int) -> Path:
    if path.suffix == ".parquet":
        columns = {"Prompt": [f"cough {i}" for i in range(rows)], "Age": [str(i) for i in range(rows)]}
        pq.write_table(pa.table(columns), path, row_group_size=1000)
    elif path.suffix == ".jsonl":
        path.write_text("".join(f'{{"Prompt": "cough {i}", "Age": "{i}"}}\n' for i in range(rows)))
    else:
        between = "\t" if path.suffix == ".tsv" else ","
        path.write_text(f"Prompt{between}Age\n" + "".join(f"cough {i}{between}{i}\n" for i in range(rows)))
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_rows_come_with_their_position_as_often_as_asked(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a{suffix}", 5)
    first = 1 if suffix == ".jsonl" else 2
    table = open_table(path)
    assert list(table.rows(2)) == list(table.rows()) == list(enumerate(ROWS, start=first))
    assert list(table.rows()) == list(read_table(path).records)
    assert table.columns == (() if suffix == ".jsonl" else ("Prompt", "Age"))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, suffix: str) -> None:
    def peak(rows: int) -> int:
        path = write(tmp_path / f"{rows}{suffix}", rows)
        tracemalloc.start()
        assert sum(len(batch) for batch in open_records(path).batches(100)) == rows
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(10)  # imports
    # 30,000 rows as cells would take 10 MB
    assert peak(30_000) < peak(10_000) + 500_000


def test_a_late_broken_row_is_found_where_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 3000)
    path.write_text(path.read_text() + "one cell\n")
    assert len(list(islice(open_table(path).rows(), 3000))) == 3000
    with pytest.raises(DatasetError, match=r"a\.csv row 3002: 1 cells where the header has 2"):
        open_records(path)


def test_a_damaged_parquet_file_names_the_last_good_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", 3000)
    content = bytearray(path.read_bytes())
    at = pq.ParquetFile(path).metadata.row_group(2).column(0).data_page_offset
    content[at : at + 200] = b"\xff" * 200
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"a\.parquet after row 2001: damaged"):
        list(open_table(path).rows(100))


@pytest.mark.parametrize(
    ("text", "columns", "rows"),
    [
        ('sep=;\nPrompt;Age, years\n"a,b";1\n', ("Prompt", "Age, years"), [(2, ["a,b", "1"])]),
        ("SEP=|\r\nPrompt|Age\r\na;b|1\r\n", ("Prompt", "Age"), [(2, ["a;b", "1"])]),
        ('"sep=,"\nPrompt,Age;x;y\na,1\n', ("Prompt", "Age;x;y"), [(2, ["a", "1"])]),
        ("sep=\t\nPrompt\tAge\na\t1\n", ("Prompt", "Age"), [(2, ["a", "1"])]),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_line_that_names_the_delimiter(
    tmp_path: Path, text: str, columns: tuple[str, ...], rows: list, encoding: str
) -> None:
    """Rows have the numbers that Excel shows, which hides that line."""
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode(encoding))
    table = open_table(path)
    assert table.columns == columns
    assert [(row, list(cells.values())) for row, cells in table.rows()] == rows
    path.write_bytes((text + '"open').encode(encoding))
    lines = len(text.splitlines()) + 1
    with pytest.raises(DatasetError, match=rf"row {len(rows) + 2} \(near line {lines}\): broken CSV"):
        list(open_table(path).rows())


def test_a_column_whose_name_looks_like_that_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("sep=x,Prompt\na,1\n")
    assert read_table(tmp_path / "a.csv").records == ((2, {"sep=x": "a", "Prompt": "1"}),)


@pytest.mark.parametrize(
    ("text", "columns", "left_out"),
    [
        ("Prompt,Age,,,\na,1,,,\nb,2, ,,\n", ("Prompt", "Age"), 3),
        ("Prompt,Age,\na,1,\nb,2,\n", ("Prompt", "Age"), 1),
        ("Prompt,Age\na,1,,\nb,2\n", ("Prompt", "Age"), 2),
        ("Prompt,Age,,\na,1\nb,2,\n", ("Prompt", "Age"), 2),
        (",Prompt\na,1\nb,2\n", ("", "Prompt"), 0),  # the index of a data frame
        ("Prompt,Age\na,1\nb,2\n", ("Prompt", "Age"), 0),
    ],
)
def test_empty_columns_at_the_end_are_left_out(
    tmp_path: Path, text: str, columns: tuple[str, ...], left_out: int
) -> None:
    (tmp_path / "a.csv").write_text(text)
    table = open_table(tmp_path / "a.csv")
    assert table.columns == columns
    assert [[cell.strip() for cell in cells.values()] for _, cells in table.rows()] == [["a", "1"], ["b", "2"]]
    plural = "s" if left_out > 1 else ""
    said = f"{tmp_path / 'a.csv'}: {left_out} empty column{plural} at the end left out"
    assert table.notes == ((said,) if left_out else ())


def test_a_cell_without_a_column_is_no_empty_column(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("Prompt,Age,\na,1,x\nb,2,\n")  # as before: one column may have no name
    assert [list(cells.values()) for _, cells in open_table(path).rows()] == [["a", "1", "x"], ["b", "2", ""]]
    for text, said in (
        ("Prompt,Age\na,1\nb,2,x\n", "row 3: 3 cells where the header has 2"),
        ("Prompt,Age\na,b,1\n", "row 2: 3 cells where the header has 2"),
        ("Prompt,Age,\na,1,,x\n", "row 2: 4 cells where the header has 3"),
        ("Prompt,Age,,\na,1,,x\n", "columns 3, 4 have no name; name them in the header or clear them"),
    ):
        path.write_text(text)
        with pytest.raises(DatasetError, match=said):
            list(open_table(path).rows())


@pytest.mark.parametrize("read", [read_table, open_records])
def test_broken_utf_16_is_refused(tmp_path: Path, read) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("Prompt,Age\ncough,1\n".encode("utf-16") + b"x")
    with pytest.raises(DatasetError, match=r"a\.csv: broken UTF-16; save the file as UTF-8"):
        read(path)


def test_the_line_of_a_byte_is_found_after_a_megabyte(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"Prompt\n" + b"cough and fever\n" * 100_000 + b"fi\xe8vre\n" + b"cough\n" * 10)
    assert open_table(path).notes == (f"{path}: not UTF-8 (line 100002); read as Windows-1252, check the accents",)
    path.write_bytes(b"Prompt\n" + b"cough and fever\n" * 100_000 + b"fe\0ver\n")
    with pytest.raises(DatasetError, match="line 100002: NUL byte"):
        read_table(path)
