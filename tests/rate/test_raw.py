"""Raw records are rated with prompts made as the run's were, and keep the hospital's own columns and ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas
import pytest
from openpyxl import Workbook

from expertune.errors import DatasetError
from expertune.fine_tuner import FineTuner
from expertune.outputs import write_config
from expertune.rate.artifact import load_product
from expertune.rate.journal import Journal
from expertune.rate.merge import merge_review
from expertune.rate.review import make_queue
from expertune.rate.runner import rate_file, rate_records
from expertune.rate.serve import ServedModel
from expertune.ratings.format import format_raw
from expertune.ratings.prompts import PromptTemplate
from expertune.ratings.read import read_ratings, read_table
from expertune.ratings.records import open_records
from expertune.record import read_record
from expertune.register.folder import load_dataset_again
from hospital import MAPPING, TEXT, TOPIC, visits, write
from rate.stub import SCALE, Counted, RuleEngine, asked, read_csv

TEXTS = tuple(f"text={name}" for name in TEXT)
NAMED = ("rating=Reviewer1", "rationale=Why", *TEXTS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the raw export; its model is not here, so that it makes a model set without any engine."""
    folder = tmp_path_factory.mktemp("run")
    raw = write(folder / "raw.csv", visits())
    FineTuner(quiet=True).process_dataset(raw, "llama2", MAPPING, TOPIC, folder / "outputs", column=NAMED)
    return folder / "outputs"


def template_of(folder: Path) -> PromptTemplate:
    template = load_product(folder).template
    assert template is not None
    return template


def rated(source: Path, output: Path, template: PromptTemplate | None) -> list[dict[str, Any]]:
    with Journal(output.with_suffix(".sqlite")) as journal:
        rate_records(open_records(source, template), output, asked(RuleEngine()), journal, Counted().stage)
    return [dict(cells) for _, cells in read_table(output).records]


@pytest.mark.slow
def test_the_record_says_how_the_prompts_were_made(folder: Path) -> None:
    content = json.loads((folder / "fine_tuning_metadata.json").read_text())
    assert content["prompt_template"] == {
        "beginning": f"Task: Rate this record for: {TOPIC}.\n\nRating schema:\n1 = Match\n0 = Does Not Match\n"
        "-1 = Unknown\n\nRecord:\n",
        "fields": [{"name": name, "column": name} for name in TEXT],
    }
    assert content["settings"]["column"] == list(NAMED)
    assert template_of(folder) == read_record(folder).prompt_template


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_new_raw_records_get_the_prompts_of_the_run_and_keep_their_columns(
    folder: Path, tmp_path: Path, suffix: str
) -> None:
    new = visits(30, rated=False, start=500)
    source = write(tmp_path / "new.csv", new)
    found = rated(source, tmp_path / f"rated{suffix}", template_of(folder))
    expected = format_raw(source, SCALE, TOPIC, TEXTS).frame
    assert [row["Prompt"] for row in found] == list(expected["Prompt"])
    assert [{name: str(row[name]) for name in new[0]} for row in found] == [
        {name: str(cell) for name, cell in row.items()} for row in new
    ]
    assert list(found[0])[: len(new[0]) + 2] == [*new[0], "Prompt", "Predicted_Rating"]
    assert {str(row["Predicted_Rating"]) for row in found} <= {"1", "0", "-1"}


def test_what_was_made_of_the_columns_is_said(folder: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "new.csv", visits(5, rated=False))
    records = open_records(source, template_of(folder))
    assert records.notes == (
        f"{source}: prompts made as in the run, from Presenting problem, Nurse note; "
        "not used to rate: MRN, Visit ID, Ward, Age, Sex",
    )


def test_a_parquet_file_of_raw_records_keeps_its_types(folder: Path, tmp_path: Path) -> None:
    import pandas as pd
    import pyarrow.parquet as pq

    frame = pd.DataFrame(visits(5, rated=False))
    frame.to_parquet(tmp_path / "new.parquet")
    rated(tmp_path / "new.parquet", tmp_path / "rated.parquet", template_of(folder))
    before, after = (pq.read_schema(tmp_path / name) for name in ("new.parquet", "rated.parquet"))
    assert all(after.field(name).type == before.field(name).type for name in before.names)
    assert str(after.field("Prompt").type) == "string"


def test_columns_may_be_spelled_otherwise_and_must_be_there(folder: Path, tmp_path: Path) -> None:
    new = visits(5, rated=False)
    other = [{"presenting_problem": row["Presenting problem"], "NURSE NOTE": row["Nurse note"]} for row in new]
    template = template_of(folder)
    found = rated(write(tmp_path / "other.csv", other), tmp_path / "a.csv", template)
    same = rated(write(tmp_path / "new.csv", new), tmp_path / "b.csv", template)
    assert [row["Prompt"] for row in found] == [row["Prompt"] for row in same]
    short = write(tmp_path / "short.csv", [{"Presenting problem": "cough", "Age": 3}])
    with pytest.raises(DatasetError) as caught:
        open_records(short, template)
    assert str(caught.value) == (
        f'{short}: no column "Nurse note", from which the run\'s prompts were made; it has: Presenting problem, Age; '
        "rename or add it (blank where unknown)"
    )


def test_records_of_which_no_prompt_can_be_made_have_a_reason(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "new.jsonl"
    texts = [("cough", ""), ("", None), ("x\0y", "z"), ("\ud800", "z"), (["a"], "z"), (" ", "NA")]
    lines = [json.dumps(dict(zip(TEXT, each, strict=True)) | {"Visit ID": i}) for i, each in enumerate(texts)]
    source.write_text("\n".join(lines), encoding="utf-8")
    found = rated(source, tmp_path / "rated.jsonl", template_of(folder))
    assert [row["Rating_Error"] for row in found] == [
        None,
        "Presenting problem, Nurse note are all blank",
        "Presenting problem contains a NUL or broken character",
        "Presenting problem contains a NUL or broken character",
        "Presenting problem is not a string but list",
        "Presenting problem, Nurse note are all blank",
    ]
    assert [row["Visit ID"] for row in found] == list(range(len(texts)))
    assert found[0]["Predicted_Label"] and not any(row["Predicted_Label"] for row in found[1:])


def test_a_file_with_prompts_is_rated_by_them(folder: Path, tmp_path: Path) -> None:
    rows = [{**row, "Prompt": f"mine {i}"} for i, row in enumerate(visits(5, rated=False))]
    found = rated(write(tmp_path / "new.csv", rows), tmp_path / "rated.csv", template_of(folder))
    assert [row["Prompt"] for row in found] == [f"mine {i}" for i in range(5)]


def test_a_folder_that_does_not_know_its_template_gives_one_clear_line(folder: Path, tmp_path: Path) -> None:
    content = json.loads((folder / "fine_tuning_metadata.json").read_text())
    old = tmp_path / "old"
    old.mkdir()
    for name in ("prompt_template", "rating_codes"):
        del content[name]
    (old / "fine_tuning_metadata.json").write_text(json.dumps(content))
    (old / "model_set_config.json").write_bytes((folder / "model_set_config.json").read_bytes())
    product = load_product(old)
    assert product.template is None
    source = write(tmp_path / "new.csv", visits(5, rated=False))
    served = ServedModel(asked(RuleEngine()).scorer, "d", 1)
    with pytest.raises(DatasetError) as caught:
        rate_file(source, tmp_path / "rated.csv", product, served, Counted().stage)
    assert str(caught.value) == (
        f'{source}: no column "Prompt" or "formatted_prompt"; it has: MRN, Visit ID, Ward, Presenting problem, '
        f"Nurse note, Age, Sex; {old} does not say how its prompts were made (by another program or an earlier "
        "version): add the column, made as in training"
    )
    assert not (tmp_path / "rated.csv").exists()


def test_a_review_of_raw_records_is_merged_with_their_ids_and_patients(folder: Path, tmp_path: Path) -> None:
    raw, new = visits(), visits(20, rated=False, start=700)
    into, source = tmp_path / "formatted_dataset.csv", write(tmp_path / "new.csv", new)
    format_raw(write(tmp_path / "raw.csv", raw), SCALE, TOPIC, NAMED).frame.to_csv(into, index=False)
    rated(source, tmp_path / "rated.csv", template_of(folder))
    make_queue(tmp_path / "rated.csv", tmp_path / "review.csv", sample=1.0)
    rows = [{**row, "Reviewed_Rating": "Match"} for row in read_csv(tmp_path / "review.csv")]
    assert rows[0]["MRN"].startswith("'00")  # protected from the spreadsheet
    rows[3]["MRN"] = rows[3]["MRN"].lstrip("'0")  # somebody typed it again, without its zeros
    write(tmp_path / "reviewed.csv", rows)
    merged = merge_review(tmp_path / "reviewed.csv", into, tmp_path / "next.csv", SCALE)
    assert (merged.added, merged.renamed, len(merged.damaged)) == (19, 0, 1)
    assert 'row 5, column "MRN": not the queued one' in merged.damaged[0]
    added = read_ratings(tmp_path / "next.csv", SCALE)[120:]
    expected = {row["Visit ID"]: row["MRN"] for row in new if row["Visit ID"] != rows[3]["Visit ID"].lstrip("'")}
    assert {rating.id: rating.group for rating in added} == expected


def test_the_review_of_a_file_with_names_of_its_own(folder: Path, tmp_path: Path) -> None:
    names = {"Visit ID": "Besuch", "MRN": "Person"}
    raw = [{names.get(name, name): cell for name, cell in row.items()} for row in visits(40)]
    new = [{names.get(name, name): cell for name, cell in row.items()} for row in visits(9, rated=False, start=900)]
    chosen = ("id=Besuch", "patient=Person")
    into = tmp_path / "formatted_dataset.csv"
    frame = format_raw(write(tmp_path / "raw.csv", raw), SCALE, TOPIC, (*NAMED, *chosen)).frame
    frame.to_csv(into, index=False)
    rated(write(tmp_path / "new.csv", new), tmp_path / "rated.csv", template_of(folder))
    make_queue(tmp_path / "rated.csv", tmp_path / "review.csv", sample=1.0)
    rows = [{**row, "Reviewed_Rating": "Unknown"} for row in read_csv(tmp_path / "review.csv")]
    reviewed = write(tmp_path / "reviewed.csv", rows)
    merge_review(reviewed, into, tmp_path / "next.csv", SCALE, choices=chosen)
    added = read_ratings(tmp_path / "next.csv", SCALE)[40:]
    assert {(row.id, row.group) for row in added} == {(row["Besuch"], row["Person"]) for row in new}
    with pytest.raises(DatasetError, match='no column "Besuh"'):
        merge_review(reviewed, into, tmp_path / "next.csv", SCALE, choices=("id=Besuh",))


@pytest.mark.slow
def test_a_raw_file_with_codes_is_read_again_for_registration(tmp_path: Path) -> None:
    codes = {"Match": 1, "Does Not Match": 2, "Unknown": 0}
    raw = write(tmp_path / "raw.csv", [{**row, "Reviewer1": codes[row["Reviewer1"]]} for row in visits()])
    folder = tmp_path / "outputs"
    FineTuner(quiet=True).process_dataset(raw, "llama2", {1: 1, 2: 0, 0: -1}, TOPIC, folder, column=NAMED)
    record = read_record(folder)
    assert (record.rating_mapping, record.rating_codes) == (MAPPING, {"1": 1, "2": 0, "0": -1})
    write_config(folder / "training_config.yaml", record.config, {"input": str(raw)})
    again = load_dataset_again(folder, record)
    assert again.audit.by_label == {"Match": 48, "Does Not Match": 48, "Unknown": 24}


@pytest.mark.slow
def test_the_sheet_of_a_run_is_read_again_for_registration(tmp_path: Path) -> None:
    rows = visits()
    raw, book = write(tmp_path / "raw.csv", rows), Workbook()
    sheet = book.create_sheet("Visits")
    for cells in (list(rows[0]), *(list(row.values()) for row in rows)):
        sheet.append(cells)
    book.save(tmp_path / "raw.xlsx")
    folder, tuner = tmp_path / "outputs", FineTuner(quiet=True)
    tuner.process_dataset(tmp_path / "raw.xlsx", "llama2", MAPPING, TOPIC, folder, column=NAMED, sheet="Visits")
    record = read_record(folder)
    assert record.config.sheet == "Visits"
    write_config(folder / "training_config.yaml", record.config, {"input": str(tmp_path / "raw.xlsx")})
    again = load_dataset_again(folder, record)
    assert again.audit.by_label == {"Match": 48, "Does Not Match": 48, "Unknown": 24}
    for data in (raw, pandas.DataFrame(rows)):  # the same records in a file without sheets
        assert load_dataset_again(folder, record, data).input_sha256 == again.input_sha256
