"""Files in and out: what is read is what is written, and faults name file, row and column."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expertune.errors import DatasetError, OutputError, UsageError
from expertune.rate.excel import write_xlsx
from expertune.rate.journal import Journal
from expertune.rate.runner import rate_records
from expertune.rate.writer import checked_output
from expertune.ratings.read import read_table
from expertune.ratings.records import open_records
from rate.stub import Counted, RuleEngine, asked

ODD = [
    "plain",
    'quoted "text", with commas',
    "two\nlines",
    "carriage\rreturn",
    "both\r\nends",
    "café 熱 🤧",
    "=1+1",
    " x ",
]


def rated(source: Path, output: Path) -> None:
    with Journal(output.with_suffix(".sqlite")) as journal:
        rate_records(open_records(source), output, asked(RuleEngine()), journal, Counted().stage)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".xlsx":
        write_xlsx(path, list(rows[0]), rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        import csv

        with open(path, "w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            table.writeheader()
            table.writerows(rows)
    return path


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    return [dict(cells) for _, cells in read_table(path).records]


@pytest.mark.parametrize("target", [".csv", ".tsv", ".xlsx", ".jsonl", ".parquet"])
@pytest.mark.parametrize("source", [".csv", ".tsv", ".xlsx", ".jsonl", ".parquet"])
def test_every_form_into_every_other(tmp_path: Path, source: str, target: str) -> None:
    rows = [{"Row_ID": f"r{i}", "Prompt": text, "Notes": text[::-1]} for i, text in enumerate(ODD)]
    output = tmp_path / f"out{target}"
    rated(write(tmp_path / f"in{source}", rows), output)
    found = read(output)
    assert [{name: row[name] for name in rows[0]} for row in found] == rows
    assert list(found[0])[3:6] == ["Predicted_Rating", "Predicted_Label", "Confidence"]
    assert {str(row["Predicted_Rating"]) for row in found} <= {"1", "0", "-1"}
    if target in (".xlsx", ".jsonl", ".parquet"):
        assert all(isinstance(row["Predicted_Rating"], int) and isinstance(row["p_match"], float) for row in found)
        assert all(row["Rating_Error"] is None for row in found)


def test_types_stay(tmp_path: Path) -> None:
    rows = [
        {
            "Prompt": "a",
            "Age": 34,
            "When": datetime.datetime(2026, 1, 2, 3, 4),
            "Tags": ["x", "y"],
            "Sure": True,
            "T": 38.5,
        },
        {"Prompt": "b", "Age": None, "When": None, "Tags": [], "Sure": False, "T": None},
    ]
    rated(write(tmp_path / "in.parquet", rows), tmp_path / "out.parquet")
    assert [{name: row[name] for name in rows[0]} for row in read(tmp_path / "out.parquet")] == rows
    assert pq.read_schema(tmp_path / "out.parquet").field("Age").type == pa.int64()
    rated(tmp_path / "in.parquet", tmp_path / "out.csv")
    assert [row["Age"] for row in read(tmp_path / "out.csv")] == ["34", ""]
    lines = [
        {"Prompt": "a", "Age": 34, "T": 38, "Tags": ["x"], "Odd": 1},
        {"Prompt": "b", "T": 38.5, "Sure": True, "Odd": "x"},
    ]
    rated(write(tmp_path / "in.jsonl", lines), tmp_path / "lines.parquet")
    schema = pq.read_schema(tmp_path / "lines.parquet")
    kinds = {name: str(schema.field(name).type) for name in ("Age", "T", "Tags", "Sure", "Odd")}
    assert kinds == {"Age": "int64", "T": "double", "Tags": "string", "Sure": "bool", "Odd": "string"}
    rated(tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    found = read(tmp_path / "out.jsonl")
    assert found[0]["Tags"] == ["x"] and "Sure" not in found[0] and found[1]["Sure"] is True


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=8), st.sampled_from([".csv", ".xlsx", ".jsonl"]))
def test_any_text_survives(tmp_path_factory: pytest.TempPathFactory, texts: list[str], suffix: str) -> None:
    folder = tmp_path_factory.mktemp("any")
    rows = [{"Prompt": text.replace("\0", "?"), "Row_ID": str(i)} for i, text in enumerate(texts)]
    rated(write(folder / f"in{suffix}", rows), folder / f"out{suffix}")
    found = [cells for batch in open_records(folder / f"out{suffix}").batches(3) for cells in (r.cells for r in batch)]
    assert [{"Prompt": row["Prompt"], "Row_ID": row["Row_ID"]} for row in found] == rows


def test_rows_that_cannot_be_rated_have_a_reason(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    lines = [{"Prompt": "a"}, {"Prompt": None}, {"Prompt": 7}, {"Prompt": "x\0y"}, {"Prompt": "\ud800"}, {"Age": 3}]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for suffix in (".jsonl", ".csv", ".xlsx", ".parquet"):
        rated(source, tmp_path / f"out{suffix}")
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["Rating_Error"] for row in found] == [
        None,
        "the prompt is blank",
        "the prompt is not a string but int",
        *["the prompt contains a NUL or broken character"] * 2,
        "the prompt is blank",
    ]
    assert [{name: cell for name, cell in row.items() if name in ("Prompt", "Age")} for row in found] == lines
    assert len(pq.read_table(tmp_path / "out.parquet")) == 6


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "in.csv").write_bytes("Prompt;Note\nfièvre;à voir\n".encode(encoding))
    records = open_records(tmp_path / "in.csv")
    (batch,) = records.batches(9)
    assert batch[0].cells == {"Prompt": "fièvre", "Note": "à voir"} and batch[0].row == 2
    assert len(records.notes) == (encoding in ("cp1252", "utf-16"))


def test_batches_are_of_the_size_that_is_asked(tmp_path: Path) -> None:
    for suffix in (".csv", ".jsonl", ".parquet"):
        records = open_records(write(tmp_path / f"in{suffix}", [{"Prompt": str(i)} for i in range(25)]))
        assert records.rows == 25
        assert [len(batch) for batch in records.batches(10)] == [10, 10, 5]
        first = 1 if suffix == ".jsonl" else 2
        assert [record.row for batch in records.batches(10) for record in batch] == list(range(first, first + 25))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"", "the file is empty"),
        ("a.csv", b"Prompt\n", "no rows; there is nothing to rate"),
        ("a.csv", b"Text,Age\na,1\n", 'no column "Prompt" or "formatted_prompt"; it has: Text, Age'),
        ("a.csv", b"Prompt,Age\na,1\nb\n", "row 3: 1 cells where the header has 2"),
        ("a.csv", b'Prompt,Age\n"a,1\n', "broken CSV"),
        ("a.csv", b"Prompt,Prompt\na,1\n", 'duplicate column "Prompt"'),
        ("a.jsonl", b'{"Prompt": "a"}\n{', "row 2: invalid JSON"),
        ("a.jsonl", b"[1]\n", "row 1: list, not an object"),
        ("a.parquet", b"PAR1 not really", "invalid Parquet file"),
        ("a.xls", b"x", ".xls is not supported; save it as .xlsx or .csv in Excel"),
        ("a.xlsx", b"x", "invalid or damaged Excel file (BadZipFile); save it again as .xlsx in Excel"),
        ("a.txt", b"x", ".txt is not supported; give .csv"),
        ("absent", None, "a file without suffix is not supported"),
        ("absent.csv", None, "no such file"),
    ],
)
def test_faults_come_before_any_row_is_rated(tmp_path: Path, name: str, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError) as told:
        open_records(tmp_path / name)
    assert said in str(told.value) and str(tmp_path / name) in str(told.value) and "\n" not in str(told.value)


def test_outputs_that_are_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "in.csv", [{"Prompt": "a"}])
    for name, said in (("out.txt", "not supported"), ("in.csv", "is the input itself"), ("sub.csv", "is a folder")):
        (tmp_path / "sub.csv").mkdir(exist_ok=True)
        with pytest.raises(UsageError, match=said):
            checked_output(tmp_path / name, source)
    with pytest.raises(OutputError, match="the journal"), Journal(tmp_path / "j") as journal:
        (tmp_path / "file").write_text("")
        rate_records(open_records(source), tmp_path / "file" / "o.csv", asked(RuleEngine()), journal, Counted().stage)
