"""Cells as other systems write them: ids as floats, missing marks, typed ratings, labels that look missing."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from expertune.errors import DatasetError
from expertune.rate.merge import merge_review
from expertune.ratings.cells import as_text
from expertune.ratings.format import format_raw
from expertune.ratings.near_duplicates import find_duplicates
from expertune.ratings.read import Table, frame_table, rated_records, read_ratings, read_table
from expertune.ratings.scale import DEFAULT_MAPPING, load_scale, make_scale
from expertune.ratings.schema import PARTS
from expertune.ratings.split import split

FAULTS = Path(__file__).parent.parent / "data/faults"
SCALE = make_scale(DEFAULT_MAPPING)


def table(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(("Row_ID,C_BioSense_ID,Prompt,Standardized_Rating", *rows)), encoding="utf-8")
    return path


# --- ids ---


def test_one_patient_in_two_spellings_is_in_one_part() -> None:
    rows = read_ratings(FAULTS / "float_ids/rows.csv", SCALE)
    assert len(rows) == 80 and len({row.group for row in rows}) == 40
    parts = split(rows, find_duplicates(rows, 0.9), dev_share=0.15, test_share=0.15, seed=42)
    homes: dict[str | None, set[str]] = {}
    for part in PARTS:
        for row in getattr(parts, part):
            homes.setdefault(row.group, set()).add(part)
    assert [group for group, found in homes.items() if len(found) > 1] == []


def test_a_merged_review_keeps_the_patients(tmp_path: Path) -> None:
    folder, output = FAULTS / "float_ids", tmp_path / "out.csv"
    assert merge_review(folder / "review.csv", folder / "into.csv", output, SCALE).added == 2
    groups = [row.group for row in read_ratings(output, SCALE)]
    assert groups[:2] == ["1000", "1001"] and groups[-2:] == ["1000", "1001"]


def test_an_id_taken_in_another_spelling_is_taken(tmp_path: Path) -> None:
    into = table(tmp_path / "into.csv", "1.0,5.0,fever,1", "2.0,6.0,cough,0")
    review = tmp_path / "review.csv"
    review.write_text("Reviewed_Rating,Row_ID,Prompt\n1,2,rash\n", encoding="utf-8")
    assert merge_review(review, into, tmp_path / "out.csv", SCALE).renamed == 1
    assert [row.id for row in read_ratings(tmp_path / "out.csv", SCALE)] == ["1", "2", "2-2"]


def test_ids_are_ids(tmp_path: Path) -> None:
    """Only a fraction of zeros is dropped: versions, leading zeros and letters stay."""
    ids = ["1000.0", "1001.00", "0010", "12.1", "A.0", "v1.0", "7"]
    rows = read_ratings(table(tmp_path / "a.csv", *(f"{each},{each},text {each},1" for each in ids)), SCALE)
    assert [row.id for row in rows] == ["1000", "1001", "0010", "12.1", "A.0", "v1.0", "7"]
    assert [row.group for row in rows] == [row.id for row in rows]
    frame = pd.DataFrame({"Row_ID": [Decimal("1000"), Decimal("1E+3") + 1], "Prompt": ["a", "b"]})
    ids_only = frame_table(frame.assign(Standardized_Rating=1), "DataFrame")
    assert [row.id for row in rated_records(ids_only, SCALE).ratings] == ["1000", "1001"]


MISSING = [
    "",
    "NA",
    "NaN",
    "<NA>",
    "NaT",
    ".",
    ".a",
    ".Z",
    "._",
    "#N/A",
    "#NV",
    "#NULL!",
    "#DIV/0!",
    "NULL",
    "\\N",
    "None",
]


@pytest.mark.parametrize("mark", MISSING)
def test_a_missing_id_is_nobodys(tmp_path: Path, mark: str) -> None:
    """pandas, R, SAS, Stata, Excel, SPSS, databases: rows without a patient are not one patient, nor one record."""
    rows = read_ratings(table(tmp_path / "a.csv", f"{mark},{mark},fever,1", f"{mark},{mark},cough,0"), SCALE)
    assert [(row.id, row.group, row.extra["Row_ID"]) for row in rows] == [("2", None, ""), ("3", None, "")]


# --- labels that look missing ---


def test_a_label_of_the_mapping_is_a_rating() -> None:
    folder = FAULTS / "none_label"
    severity, region = (load_scale(folder / f"{name}.json", None) for name in ("severity", "region"))
    assert {row.label for row in read_ratings(folder / "severity.csv", severity)} == {"None", "Mild", "Severe"}
    assert {row.label for row in read_ratings(folder / "region.csv", region)} == {"NA", "EU"}
    with pytest.raises(DatasetError, match="no rating; rate the row or remove it"):
        read_ratings(folder / "severity.csv", make_scale({"Mild": 1, "Severe": 2}))


def test_a_reviewers_none_is_merged(tmp_path: Path) -> None:
    folder = FAULTS / "none_label"
    scale, output = load_scale(folder / "severity.json", None), tmp_path / "out.csv"
    merged = merge_review(folder / "review.csv", folder / "into.csv", output, scale)
    assert (merged.added, merged.not_reviewed) == (2, 1)
    assert [row.label for row in read_ratings(output, scale)[-2:]] == ["None", "Severe"]


def test_a_raw_none_is_formatted(tmp_path: Path) -> None:
    raw = tmp_path / "raw.csv"
    raw.write_text("Chief Complaint,Rating\nfever,None\ncough,Mild\n", encoding="utf-8")
    assert list(format_raw(raw, make_scale({"None": 0, "Mild": 1}), "t").frame["Standardized_Rating"]) == [0, 1]


# --- typed ratings ---


def test_typed_files_are_read_as_their_csv() -> None:
    folder = FAULTS / "typed_ratings"
    boolean, half = (load_scale(folder / f"{name}.json", None) for name in ("boolean", "half"))
    read = [
        read_ratings(folder / "decimal.parquet", SCALE),
        read_ratings(folder / "boolean.parquet", boolean),
        read_ratings(folder / "boolean.jsonl", boolean),
        read_ratings(folder / "half.jsonl", half),
    ]
    assert [{row.label for row in rows} for rows in read] == [
        {"Match", "Does Not Match"},
        {"True", "False"},
        {"True", "False"},
        {"0.5", "1.5"},
    ]


@pytest.mark.parametrize(
    ("mapping", "cells"),
    [
        (DEFAULT_MAPPING, [Decimal("1"), Decimal("0.00"), Decimal("-1")]),
        (DEFAULT_MAPPING, [np.int8(1), np.float32(0), np.int64(-1)]),
        ({"True": 1, "False": 0}, [True, False]),
        ({"True": 1, "False": 0}, [np.bool_(True), np.bool_(False)]),
        ({True: 1, False: 0}, [True, False]),
        ({"0.5": 1, "1.5": 2}, [0.5, 1.5]),
        ({0.5: 1, 1.5: 2}, [np.float32(0.5), Decimal("1.50")]),
    ],
)
def test_frames_with_typed_ratings(mapping: dict, cells: list) -> None:
    frame = pd.DataFrame({"Prompt": [f"text {i}" for i in range(len(cells))]})
    frame["Standardized_Rating"] = pd.Series(cells, dtype=object)
    scale = make_scale(mapping)
    rated = rated_records(frame_table(frame, "DataFrame"), scale).ratings
    assert [row.value for row in rated] == list(scale.values[: len(cells)])


@pytest.mark.parametrize("kind", ["boolean", "category", "string"])
def test_frames_of_pandas_own_types(kind: str) -> None:
    cells = pd.Series([True, False] if kind == "boolean" else ["True", "False"], dtype=kind)
    frame = pd.DataFrame({"Prompt": ["a", "b"], "Standardized_Rating": cells})
    rated = rated_records(frame_table(frame, "DataFrame"), make_scale({"True": 1, "False": 0})).ratings
    assert [row.value for row in rated] == [1, 0]


def test_a_truth_value_is_not_a_number(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"Prompt": "a", "Standardized_Rating": True}), encoding="utf-8")
    with pytest.raises(DatasetError, match="True is not one of"):
        read_ratings(path, SCALE)


# --- typed columns ---

DAY, MOMENT = datetime.datetime(2026, 11, 27), datetime.datetime(2026, 11, 27, 13, 45)
COLUMNS: list[tuple[str, list, str, list[str]]] = [  # pandas type, cells, Arrow type, texts
    ("Int64", [3, None], "int64", ["3", ""]),
    ("float64", [3.0, None], "float64", ["3", ""]),
    ("float64", [0.1, 1e-7], "float64", ["0.1", "1e-07"]),
    ("float32", [0.1, None], "float32", ["0.1", ""]),
    ("Float32", [36.6, None], "float32", ["36.6", ""]),
    ("float16", [0.1, 2.0], "float32", ["0.1", "2"]),
    ("object", [Decimal("1.50"), Decimal("2.00")], "decimal", ["1.50", "2"]),
    ("object", [Decimal("1E-7"), Decimal("NaN")], "", ["0.0000001", ""]),
    ("object", [DAY.date(), None], "date32", ["2026-11-27", ""]),
    ("bool", [True, False], "bool", ["True", "False"]),
    ("boolean", [True, None], "bool", ["True", ""]),
    ("object", [True, None], "bool", ["True", ""]),
    ("category", ["low", None], "dictionary", ["low", ""]),
    ("category", [1, None], "int64", ["1", ""]),
    ("string", ["0010", None], "string", ["0010", ""]),
    ("datetime64[ns]", [DAY, None], "timestamp", ["2026-11-27", ""]),
    ("datetime64[ns]", [MOMENT, None], "timestamp", ["2026-11-27 13:45:00", ""]),
    ("datetime64[ns, UTC]", [DAY, None], "", ["2026-11-27 00:00:00+00:00", ""]),
]
ARROW = {
    "decimal": pa.decimal128(9, 2),
    "date32": pa.date32(),
    "timestamp": pa.timestamp("us"),
    "dictionary": pa.dictionary(pa.int8(), pa.string()),
}


@pytest.mark.parametrize(("kind", "cells", "arrow", "texts"), COLUMNS)
def test_typed_columns_are_what_they_mean(tmp_path: Path, kind: str, cells: list, arrow: str, texts: list) -> None:
    """The same in a frame, in a frame of pyarrow's types and in Parquet."""
    frame = pd.DataFrame({"Cell": pd.Series(cells, dtype=kind)})
    assert _texts(frame_table(frame, "frame")) == texts
    if arrow:
        arrow_type = ARROW.get(arrow) or pa.type_for_alias(arrow)
        column = pa.array(cells, arrow_type)
        backed = pd.DataFrame({"Cell": pd.array(column, dtype=pd.ArrowDtype(arrow_type))})
        assert _texts(frame_table(backed, "frame")) == texts
        pq.write_table(pa.table({"Cell": column}), tmp_path / "a.parquet")
        assert _texts(read_table(tmp_path / "a.parquet")) == texts


def test_typed_columns_in_a_prompt(tmp_path: Path) -> None:
    frame = pd.DataFrame({"Chief Complaint": ["cough", "fever"], "Age": pd.Series([34, None], dtype="Int64")})
    frame["Sex"] = pd.Categorical(["F", None])
    frame.to_parquet(tmp_path / "raw.parquet")
    prompts = list(format_raw(tmp_path / "raw.parquet", SCALE, "t").frame["Prompt"])
    assert prompts[0].endswith("Age: 34\nSex: F")
    assert "Age" not in prompts[1] and "nan" not in prompts[1].casefold() and "<na>" not in prompts[1].casefold()


def _texts(table: Table) -> list[str]:
    return [as_text(cells["Cell"]) for _, cells in table.records]
