"""Reading: what is kept, what is said, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from expertune.errors import DatasetError
from expertune.ratings.read import frame_table, rated_records, read_ratings
from expertune.ratings.scale import DEFAULT_MAPPING, load_scale, make_scale

SCALE = make_scale(DEFAULT_MAPPING)
DATA = Path(__file__).parent.parent / "data" / "ratings"
HEADER = b"Row_ID,Prompt,Standardized_Rating\n"

BAD = {  # name, content, what the error must say
    "empty": ("a.csv", b"", "empty"),
    "only a BOM": ("a.csv", b"\xef\xbb\xbf\r\n", "empty"),
    "no rows": ("a.csv", HEADER, "no rows"),
    "no prompt column": (
        "a.csv",
        b"Text,Standardized_Rating\nx,1\n",
        'no column "Prompt" or "formatted_prompt"; it has: Text',
    ),
    "no rating column": ("a.csv", b"Prompt,Rated\nx,1\n", 'or "Rating"; it has: Prompt, Rated; name one with'),
    "no header": ("a.csv", b"1,a secret text that an expert rated long ago,0\n2,y,1\n", "a text of 43 characters"),
    "column twice": ("a.csv", b"Prompt,Prompt,Standardized_Rating\nx,y,1\n", 'duplicate column "Prompt"'),
    "outside the mapping": (
        "a.csv",
        HEADER + b"1,x,1\n2,y,7\n",
        'row 3, column "Standardized_Rating": 7 is not one of 1 (Match)',
    ),
    "many outside": ("a.csv", HEADER + b"1,x,7\n" * 8, "rows 2, 3, 4, 5, 6 and 3 more"),
    "several outside": ("a.csv", HEADER + b"1,x,7\n2,y,Perhaps\n", "7, Perhaps are not one of"),
    "text for a rating": ("a.csv", HEADER + b"1,x,a secret text of the patient\n", "a text of 28 characters is not"),
    "blank rating": ("a.csv", HEADER + b"1,x,\n", 'row 2, column "Standardized_Rating": no rating'),
    "blank prompt": ("a.csv", HEADER + b"1,x,1\n2,  ,1\n", 'row 3, column "Prompt": is blank'),
    "NaN prompt": ("a.csv", HEADER + b"1,nan,1\n", 'row 2, column "Prompt": is blank'),
    "too few cells": ("a.csv", HEADER + b"1,x,1\n2,y\n", "row 3: 2 cells where the header has 3"),
    "too many cells": ("a.csv", HEADER + b"1,x, and y,1\n", "row 2: 4 cells where the header has 3"),
    "open quotation": ("a.csv", HEADER + b'1,"x,1\n2,y,1\n', "row 2"),
    "NUL byte": ("a.csv", HEADER + b"1,x\0,1\n", "line 2: NUL byte"),
    "binary": ("a.csv", bytes(range(256)), "NUL"),
    "unknown suffix": ("a.doc", b"PK", ".doc is not supported"),
    "no Excel": ("a.xlsx", b"PK", "invalid or damaged Excel file"),
    "no suffix": ("a", b"x", "a file without suffix is not supported"),
    "broken line": (
        "a.jsonl",
        b'{"Prompt": "x", "Standardized_Rating": 1}\n{"Prompt": \n',
        "row 2: invalid JSON at column",
    ),
    "no object": ("a.jsonl", b"[1]\n", "row 1: list, not an object"),
    "deep": ("a.jsonl", b"[" * 99999, "row 1: invalid JSON"),
    "key missing in a line": (
        "a.jsonl",
        b'{"Prompt": "x", "Standardized_Rating": 1}\n{"Standardized_Rating": 1}\n',
        'row 2, column "Prompt": is blank',
    ),
    "null prompt": ("a.jsonl", b'{"Prompt": null, "Standardized_Rating": 1}\n', 'row 1, column "Prompt": is blank'),
    "list for a prompt": (
        "a.jsonl",
        b'{"Prompt": ["x"], "Standardized_Rating": 1}\n',
        'row 1, column "Prompt": is not a string',
    ),
    "NUL in JSON": (
        "a.jsonl",
        b'{"Prompt": "x\\u0000", "Standardized_Rating": 1}\n',
        'row 1, column "Prompt": contains a NUL',
    ),
    "half a character": ("a.jsonl", b'{"Prompt": "x\\ud800", "Standardized_Rating": 1}\n', "broken character"),
    "true for a rating": ("a.jsonl", b'{"Prompt": "x", "Standardized_Rating": true}\n', "True is not one of"),
    "no Parquet": ("a.parquet", b"PAR1 but no", "invalid Parquet file"),
}


@pytest.mark.parametrize("fault", BAD)
def test_bad_input_is_one_line_that_names_the_place(tmp_path: Path, fault: str) -> None:
    name, content, says = BAD[fault]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError) as caught:
        read_ratings(tmp_path / name, SCALE)
    message = str(caught.value)
    assert says in message
    assert str(tmp_path / name) in message
    assert "\n" not in message
    assert "secret" not in message


@pytest.mark.parametrize("name", ["nowhere.csv", "folder.csv"])
def test_a_path_that_is_no_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DatasetError, match=f"{name}: (no such file|cannot be read)"):
        read_ratings(tmp_path / name, SCALE)


def write(tmp_path: Path, content: bytes, name: str = "a.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def test_a_row_keeps_everything(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        b"Prompt,Standardized_Rating,Rationale of Rating,C_BioSense_ID,Age,Sex\n"
        b'"cough,\nfever",Not a Match,"because, so",P7,34,F\nrash,1,,,,M\n',
    )
    first, second = read_ratings(path, SCALE)
    assert (first.id, first.row, first.prompt, first.value) == ("2", 2, "cough,\nfever", 0)
    assert (first.label, first.rationale, first.group) == ("Does Not Match", "because, so", "P7")
    assert dict(first.extra) == {"Age": "34", "Sex": "F"}
    assert (second.id, second.row, second.rationale, second.group) == ("3", 3, "", None)


@pytest.mark.parametrize(
    "header",
    [
        b"Prompt,Standardized_Rating,Rationale_of_Rating,C_Biosense_ID",
        b" prompt ,standardized rating,RATIONALE OF RATING,c_biosense_id",
        b"formatted_prompt,Standardized_Rating,Rationale of Rating,C_BioSense_ID",
    ],
)
def test_column_names_in_all_their_spellings(tmp_path: Path, header: bytes) -> None:
    (rating,) = read_ratings(write(tmp_path, header + b"\nx,1,r,p\n"), SCALE)
    assert (rating.prompt, rating.value, rating.rationale, rating.group) == ("x", 1, "r", "p")


TEXT = "Row_ID,Prompt,Standardized_Rating\r\na,fièvre – toux,1\r\nb,œdème,0\r\n"


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (TEXT.encode(), ""),
        (TEXT.encode("utf-8-sig"), ""),
        (TEXT.encode("cp1252"), "line 2"),
        (TEXT.encode("utf-16"), "UTF-16"),
        (TEXT.replace(",", ";").encode(), ""),
        (TEXT.replace(",", "\t").encode(), ""),
        (("\n" + TEXT).encode(), ""),
    ],
)
def test_encodings_and_separators(tmp_path: Path, content: bytes, note: str) -> None:
    notes: list[str] = []
    ratings = read_ratings(write(tmp_path, content), SCALE, notes=notes)
    assert [(rating.id, rating.prompt) for rating in ratings] == [("a", "fièvre – toux"), ("b", "œdème")]
    assert bool(notes) == bool(note)
    assert all(note in line for line in notes)


def test_bytes_without_meaning_in_windows_1252_are_read_as_latin_1(tmp_path: Path) -> None:
    (rating,) = read_ratings(write(tmp_path, HEADER + b"1,x\x81\xe9,1\n"), SCALE)
    assert rating.prompt == "x\x81é"


def test_a_prompt_longer_than_csv_likes(tmp_path: Path) -> None:
    (rating,) = read_ratings(write(tmp_path, HEADER + b"1," + b"x" * 200_000 + b",1\n"), SCALE)
    assert len(rating.prompt) == 200_000


def test_a_repeated_row_id_is_no_id_but_still_a_group(tmp_path: Path) -> None:
    notes: list[str] = []
    ratings = read_ratings(write(tmp_path, HEADER + b"7,x,1\n7,y,0\n"), SCALE, notes=notes)
    assert [rating.id for rating in ratings] == ["2", "3"]
    assert [rating.extra["Row_ID"] for rating in ratings] == ["7", "7"]
    assert "Row_ID is not unique" in notes[0]


def test_rows_are_numbered_as_a_person_counts(tmp_path: Path) -> None:
    lines = (
        b'{"Prompt": "x", "Standardized_Rating": 1}',
        b"",
        '{"Prompt": "y\u2028z", "Standardized_Rating": "0"}'.encode(),
    )  # JSON may hold a line separator as it is
    jsonl = write(tmp_path, b"\n".join(lines), "a.jsonl")
    assert [(rating.row, rating.id) for rating in read_ratings(jsonl, SCALE)] == [(1, "1"), (3, "3")]
    csv = write(tmp_path, HEADER + b'1,"two\nlines",1\n2,y,9\n')
    with pytest.raises(DatasetError, match="row 3"):
        read_ratings(csv, SCALE)


def test_all_formats_give_the_same_ratings(tmp_path: Path) -> None:
    scale = load_scale(DATA / "ktas_acuity.json", None)
    ratings = read_ratings(DATA / "ktas_acuity_subset.csv", scale)
    assert len(ratings) == 64
    assert {rating.value for rating in ratings} == {1, 2, 3, 4, 5}
    frame = pd.read_csv(DATA / "ktas_acuity_subset.csv")
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_csv(tmp_path / "b.csv", index=False)
    assert list(rated_records(frame_table(frame, "DataFrame"), scale).ratings) == ratings
    assert read_ratings(tmp_path / "a.parquet", scale) == ratings
    assert read_ratings(tmp_path / "b.csv", scale) == ratings
    frame.to_json(tmp_path / "c.jsonl", orient="records", lines=True)
    assert [rating.prompt for rating in read_ratings(tmp_path / "c.jsonl", scale)] == [r.prompt for r in ratings]


def test_frames_with_holes() -> None:
    frame = pd.DataFrame(
        {
            "Prompt": ["x", "y"],
            "Standardized_Rating": [1.0, "Match"],
            "Age": [34, None],
            "Row_ID": pd.array([1, None], dtype="Int64"),
            "When": [pd.NaT, pd.NaT],
            "Rationale of Rating": [float("nan"), "r"],
        }
    )
    first, second = rated_records(frame_table(frame, "DataFrame"), SCALE).ratings
    assert (first.id, first.rationale, first.extra["Age"], first.extra["When"]) == ("2", "", "34", "")
    assert (second.value, second.rationale, second.extra["Age"]) == (1, "r", "")


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (pd.DataFrame(), "no rows|no column"),
        (pd.DataFrame({"Prompt": []}), "no rows"),
        (pd.DataFrame({"Prompt": [None], "Standardized_Rating": [1]}), 'DataFrame row 2, column "Prompt": is blank'),
        (pd.DataFrame({"Prompt": ["x"], "Standardized_Rating": [float("nan")]}), "no rating"),
        (pd.DataFrame([["x", "y", 1]], columns=["Prompt", "Prompt", "Standardized_Rating"]), "duplicate column"),
    ],
)
def test_bad_frames(frame: pd.DataFrame, says: str) -> None:
    with pytest.raises(DatasetError, match=says):
        rated_records(frame_table(frame, "DataFrame"), SCALE)


def test_nothing_of_a_row_is_kept_from_json_by_chance(tmp_path: Path) -> None:
    line = json.dumps({"Prompt": "x", "Standardized_Rating": 1, "nested": {"a": [1]}, "n": None, "Age": 34.0})
    (rating,) = read_ratings(write(tmp_path, line.encode(), "a.jsonl"), SCALE)
    assert dict(rating.extra) == {"nested": "{'a': [1]}", "n": "", "Age": "34"}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=80) | st.text('1xé,;"\n\r\t{}:', max_size=80).map(str.encode),
    name=st.sampled_from(["a.csv", "a.jsonl", "a.parquet"]),
    header=st.booleans(),
)
def test_any_bytes_are_read_or_refused_in_one_line(tmp_path: Path, content: bytes, name: str, header: bool) -> None:
    path = write(tmp_path, HEADER * header + content, name)
    try:
        ratings = read_ratings(path, SCALE)
    except DatasetError as error:
        assert "\n" not in str(error)
    else:
        assert ratings
        assert all(rating.prompt.strip() and rating.value in SCALE.values for rating in ratings)
