"""A hospital's own file: which column is what, what is said of it, and the prompts that are made from it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from expertune.cli.main import main
from expertune.config import Config, as_dict, make_config
from expertune.errors import DatasetError, ExpertuneError, UsageError
from expertune.ratings.columns import NO_PATIENT, ROLES, find_columns
from expertune.ratings.dataset import Dataset, load_dataset
from expertune.ratings.format import format_raw
from expertune.ratings.prompts import PromptField, PromptTemplate, recover_template
from expertune.ratings.read import frame_table, rated_records, read_ratings
from expertune.ratings.scale import make_scale
from hospital import MAPPING, TEXT, TOPIC, visits, write
from pages import ROOT

SCALE = make_scale(MAPPING)
TEXTS = tuple(f"text={name}" for name in TEXT)
NAMED = ("rating=Reviewer1", "rationale=Why", *TEXTS)
BEGINNING = (
    "Task: Rate this record for: respiratory infections.\n\n"
    "Rating schema:\n1 = Match\n0 = Does Not Match\n-1 = Unknown\n\nRecord:\n"
)


def load(data: Any, *choices: str) -> Dataset:
    return load_dataset(data, MAPPING, TOPIC, Config(column=choices))


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


# --- format ---


def test_a_rated_export_is_formatted_with_its_own_ids(tmp_path: Path) -> None:
    rows = visits()
    found = format_raw(write(tmp_path / "raw.csv", rows), SCALE, TOPIC, NAMED)
    frame = found.frame
    assert list(frame.columns) == [
        *("Row_ID", "C_BioSense_ID", "Prompt", "Standardized_Rating", "Rationale of Rating"),
        *("Ward", "Presenting problem", "Nurse note", "Age", "Sex"),
    ]
    assert list(frame["Row_ID"]) == [row["Visit ID"] for row in rows] and frame["Row_ID"][7] == "V-00007"
    assert list(frame["C_BioSense_ID"]) == [row["MRN"] for row in rows] and frame["C_BioSense_ID"][0] == "004000"
    assert list(frame["Standardized_Rating"][:5]) == [1, 0, -1, 1, 0]
    assert frame["Rationale of Rating"][1] == "an injury"
    assert frame["Prompt"][0] == (
        f"{BEGINNING}Presenting problem: {rows[0]['Presenting problem']}\nNurse note: {rows[0]['Nurse note']}"
    )
    assert frame["Prompt"][2] == f"{BEGINNING}Presenting problem: {rows[2]['Presenting problem']}"  # a blank note
    assert found.notes == (
        f"{tmp_path / 'raw.csv'}: columns named: rating = Reviewer1, rationale = Why, "
        "text = Presenting problem, Nurse note; recognised: id = Visit ID, patient = MRN; "
        "not used to rate: Ward, Age, Sex",
    )


def test_an_export_without_ratings_is_formatted_and_says_so(tmp_path: Path) -> None:
    rated, unrated = visits(), visits(rated=False)
    found = format_raw(write(tmp_path / "new.csv", unrated), SCALE, TOPIC, TEXTS)
    assert not {"Standardized_Rating", "Rationale of Rating"} & set(found.frame.columns)
    with_ratings = format_raw(write(tmp_path / "raw.csv", rated), SCALE, TOPIC, NAMED)
    assert list(found.frame["Prompt"]) == list(with_ratings.frame["Prompt"])
    assert found.notes[1:] == (
        "no rating column (Standardized_Rating, Expert Rating, Rating): written without ratings; "
        "--column rating=NAME names one",
    )


def test_codes_of_a_named_rating_column_are_translated_by_the_mapping(tmp_path: Path) -> None:
    scale = make_scale({1: 1, 2: 0, 0: -1})
    codes = {"Match": 1, "Does Not Match": 2, "Unknown": 0}
    rows = [{**row, "Reviewer1": codes[row["Reviewer1"]]} for row in visits(60)]
    found = format_raw(write(tmp_path / "raw.csv", rows), scale, TOPIC, NAMED)
    assert list(found.frame["Standardized_Rating"][:5]) == [1, 0, -1, 1, 0]
    direct = load_dataset(tmp_path / "raw.csv", {1: 1, 2: 0, 0: -1}, TOPIC, Config(column=NAMED))
    assert [rating.value for rating in direct.ratings[:5]] == [1, 0, -1, 1, 0]


def test_format_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw, output = write(tmp_path / "raw.csv", visits(30)), tmp_path / "formatted.csv"
    flags = [flag for choice in (*NAMED, "patient=MRN") for flag in ("--column", choice)]
    assert command("format", raw, "--output", output, "--topics", TOPIC, *flags) == 0
    said = capsys.readouterr().out.splitlines()
    assert "patient = MRN" in said[0].split("recognised")[0] and said[-1] == f"{output}: 30 records"
    assert [rating.id for rating in read_ratings(output, SCALE)] == [f"V-{number:05}" for number in range(30)]
    rows = [{name: cell for name, cell in row.items() if name != "MRN"} for row in visits(30)]
    assert command("format", write(raw, rows), "--output", output, *flags[:-2]) == 0
    assert capsys.readouterr().out.count(f"warning: {NO_PATIENT}") == 1


# --- which column is what ---


@pytest.mark.parametrize(("role", "name"), [(role, name) for role, names in ROLES.items() for name in names])
def test_every_common_name_is_recognised_in_every_spelling(role: str, name: str) -> None:
    for spelled in (name, name.upper(), name.lower(), name.replace("_", " "), re.sub(r"[_ ]", "", name), f" {name} "):
        found = find_columns("a.csv", ["Ward", spelled])
        assert found.roles == {role: spelled}
        assert f"recognised: {role} = {spelled}" in str(found)


def test_the_table_in_the_guide_is_that_of_the_program() -> None:
    """Each row of the table is a role with its common names."""
    text = (ROOT / "docs/usage.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|", text, flags=re.M))
    for role, names in ROLES.items():
        assert tuple(re.findall(r"`([^`]+)`", rows[role].split("|")[0])) == names, role
    assert "text" in rows


def test_a_choice_comes_before_a_common_name() -> None:
    names = ["MRN", "Row_ID", "Rating", "Prompt", "Score", "Guardian", "Note"]
    found = find_columns("a.csv", names, ["rating=score", "patient=GUARDIAN", "text=Note"])
    assert dict(found.roles) == {"id": "Row_ID", "patient": "Guardian", "rating": "Score"}
    assert found.text == ("Note",) and found.unused() == ("MRN", "Rating", "Prompt")


@pytest.mark.parametrize(
    ("choices", "kind", "says"),
    [
        (["ratng=Reviewer1"], UsageError, "column: 'ratng=Reviewer1' is not ROLE=NAME with the role id, patient,"),
        (["Reviewer1"], UsageError, "is not ROLE=NAME"),
        (["rating="], UsageError, "is not ROLE=NAME"),
        (["id=Why", "id=Reviewer1"], UsageError, "id is given twice, Why and Reviewer1; only rating, rationale"),
        (["rating=Why", "text=Why"], UsageError, "'Why' is given twice, as rating and text"),
        (["prompt=Ward", "text=Why"], UsageError, "text and prompt are both given"),
        (["rating=Reviewer2"], DatasetError, 'no column "Reviewer2"; it has: MRN, Visit ID, Ward, Presenting problem,'),
        ([], DatasetError, 'no column "Prompt" or "formatted_prompt"; it has: MRN, Visit ID'),
        (["prompt=Nurse note"], DatasetError, 'no column "Standardized_Rating" or "Expert Rating" or "Rating"; it has'),
    ],
)
def test_choices_that_cannot_be(tmp_path: Path, choices: list[str], kind: type[ExpertuneError], says: str) -> None:
    rows = [{name: cell for name, cell in row.items() if name not in ("Age", "Sex")} for row in visits(10)]
    with pytest.raises(kind) as caught:
        load(write(tmp_path / "raw.csv", rows), *choices)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_the_choices_are_one_setting_that_travels_through_yaml_and_flags(tmp_path: Path) -> None:
    from expertune.cli.tune import _merged
    from expertune.outputs import write_config

    config = make_config({"column": [*NAMED, "patient=MRN, old"]})
    assert config.column == (*NAMED, "patient=MRN, old") and make_config(as_dict(config)) == config
    assert make_config({"column": "text=a, b"}).column == ("text=a, b",)
    write_config(tmp_path / "run.yaml", config, {"input": "raw.csv", "model": "m", "topics": "t"})
    nothing = {"input": None, "model": None, "topics": None}
    for given, expected in (([], config.column), (None, config.column), (["id=X"], ("id=X",))):
        assert make_config(_merged(tmp_path / "run.yaml", nothing, {"column": given})[1]).column == expected


# --- patients and ids ---


def test_visits_of_one_patient_stay_on_one_side_of_the_split(tmp_path: Path) -> None:
    dataset = load(write(tmp_path / "raw.csv", visits()), *NAMED)
    patients = [{row.group for row in rows} for rows in dataset.split.parts().values()]
    assert sum(map(len, patients)) == len(set().union(*patients)) == 40
    assert "no_patient_column" not in {finding.kind for finding in dataset.audit.findings}


def test_without_a_patient_column_one_warning_says_what_may_happen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    patient_of = {row["Visit ID"]: row["MRN"] for row in visits()}
    rows = [{name: cell for name, cell in row.items() if name != "MRN"} for row in visits()]
    dataset = load(write(tmp_path / "raw.csv", rows), *NAMED)
    train, test = ({patient_of[row.id] for row in rows} for rows in (dataset.split.train, dataset.split.test))
    assert train & test  # it is so
    flags = [flag for choice in NAMED for flag in ("--column", choice)]
    assert command("check", "--input", tmp_path / "raw.csv", *flags) == 0
    said = capsys.readouterr().out
    assert said.count(f"warning: {NO_PATIENT}") == 1
    assert said.startswith(f"{tmp_path / 'raw.csv'}: columns named: rating = Reviewer1")


def test_errors_and_findings_give_the_users_own_ids(tmp_path: Path) -> None:
    rows = visits(30)
    rows[4]["Reviewer1"], rows[9]["Reviewer1"] = "perhaps", ""
    with pytest.raises(DatasetError, match=r'row 11, column "Reviewer1": no rating; .* \(Visit ID V-00009\)$'):
        load(write(tmp_path / "raw.csv", rows), *NAMED)
    rows[9]["Reviewer1"] = "maybe not"
    with pytest.raises(DatasetError, match=r"rows 6, 11, .*perhaps, maybe not .* \(Visit ID V-00004, V-00009\)$"):
        load(write(tmp_path / "raw.csv", rows), *NAMED)
    rows = visits(30)
    rows[4] |= dict.fromkeys(TEXT, "")
    with pytest.raises(DatasetError, match=r"row 6: Presenting problem, Nurse note are all blank.*\(Visit ID V-00004"):
        format_raw(write(tmp_path / "raw.csv", rows), SCALE, TOPIC, NAMED)
    rows = visits(60)
    rows[8] |= {name: rows[3][name] for name in TEXT}
    findings = {finding.kind: finding for finding in load(write(tmp_path / "raw.csv", rows), *NAMED).audit.findings}
    assert findings["exact_duplicates"].row_ids == ("V-00003", "V-00008")


# --- raw and formatted are one data set ---


def test_a_raw_file_is_tuned_on_as_if_it_had_been_formatted_first(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw.csv", visits())
    frame = format_raw(raw, SCALE, TOPIC, NAMED).frame
    frame.to_csv(tmp_path / "formatted_dataset.csv", index=False)
    direct, formatted = load(raw, *NAMED), load(tmp_path / "formatted_dataset.csv")
    assert direct.input_sha256 == formatted.input_sha256
    assert direct.split.groups == formatted.split.groups and direct.examples == formatted.examples
    fields = tuple(PromptField(name, name) for name in TEXT)
    assert direct.template == formatted.template == PromptTemplate(BEGINNING, fields)
    in_python = load_dataset(pd.read_csv(raw, dtype={"MRN": str}), MAPPING, TOPIC, Config(column=NAMED))
    assert (in_python.input_sha256, in_python.template) == (direct.input_sha256, direct.template)
    assert direct.ratings[0].extra["Age"] == "20"  # for the subgroups


def test_the_template_of_known_columns_has_their_common_names(tmp_path: Path) -> None:
    rows = [
        {"visit_id": "a", "age": 34, "triage notes": "cough", "chief_complaint": "unwell", "Rating": "Match"},
        {"visit_id": "b", "age": "", "triage notes": "", "chief_complaint": "ankle", "Rating": "Does Not Match"},
    ]
    frame = format_raw(write(tmp_path / "raw.csv", rows), SCALE, TOPIC).frame
    assert [prompt.removeprefix(BEGINNING) for prompt in frame["Prompt"]] == [
        "Chief complaint: unwell\nAge: 34\nTriage notes: cough",
        "Chief complaint: ankle",
    ]
    records = frame.to_dict("records")
    template = recover_template(list(frame["Prompt"]), records, list(frame.columns))
    assert template is not None
    assert [(field.name, field.column) for field in template.fields] == [
        ("Chief complaint", "chief_complaint"),
        ("Age", "age"),
        ("Triage notes", "triage notes"),
    ]


def test_two_columns_of_one_field_keep_their_own_names(tmp_path: Path) -> None:
    row = {"ChiefComplaintOrig": "cough!", "ChiefComplaintParsed": "cough", "Sex": "F", "Rating": "Match"}
    choices = [f"text={name}" for name in list(row)[:3]]
    frame = format_raw(write(tmp_path / "raw.csv", [row]), SCALE, TOPIC, choices).frame
    assert frame["Prompt"][0] == f"{BEGINNING}ChiefComplaintOrig: cough!\nChiefComplaintParsed: cough\nSex: F"
    template = recover_template(list(frame["Prompt"]), frame.to_dict("records"), list(frame.columns))
    assert template is not None and [field.column for field in template.fields] == list(row)[:3]


@pytest.mark.parametrize(
    "change",
    [
        lambda prompts: [*prompts[:-1], prompts[-1] + "."],
        lambda prompts: [prompt.replace("Task: Rate", "Rate") if i else prompt for i, prompt in enumerate(prompts)],
        lambda prompts: [prompt.replace("\nRecord:", "\nVisit:") for prompt in prompts],
        lambda prompts: [prompt.replace("Nurse note: ", "Note: ") for prompt in prompts],
    ],
)
def test_prompts_that_were_made_otherwise_have_no_template(tmp_path: Path, change: Any) -> None:
    frame = format_raw(write(tmp_path / "raw.csv", visits()), SCALE, TOPIC, NAMED).frame
    records, prompts = frame.to_dict("records"), list(frame["Prompt"])
    assert recover_template(prompts, records, list(frame.columns)) is not None
    assert recover_template(change(prompts), records, list(frame.columns)) is None


def test_text_of_many_lines_is_given_again_letter_by_letter(tmp_path: Path) -> None:
    rows = [
        {"Note": "first line\nsecond: with a colon\r\nthird", "Reviewer1": "Match"},
        {"Note": "  Record:\n\nRecord:\n", "Reviewer1": "Unknown"},
    ]
    frame = format_raw(write(tmp_path / "raw.csv", rows), SCALE, TOPIC, ["text=Note", "rating=Reviewer1"]).frame
    template = recover_template(list(frame["Prompt"]), frame.to_dict("records"), list(frame.columns))
    assert template == PromptTemplate(BEGINNING, (PromptField("Note", "Note"),))


def test_a_named_column_of_a_file_with_prompts(tmp_path: Path) -> None:
    frame = pd.DataFrame({"Question": ["x", "y"], "R1": ["Match", "Unknown"], "Fall": ["f1", "f2"], "Kind": ["p", "q"]})
    dataset = make_config({"column": ["prompt=Question", "rating=R1", "id=Fall", "patient=Kind"]})
    frame.to_csv(tmp_path / "a.csv", index=False)
    from expertune.ratings.dataset import read_rated

    rated, _ = read_rated(tmp_path / "a.csv", MAPPING, TOPIC, dataset.column)
    assert [(row.id, row.prompt, row.value, row.group) for row in rated.ratings] == [
        ("f1", "x", 1, "p"),
        ("f2", "y", -1, "q"),
    ]
    assert rated.template is None
    named = {"Question": "Prompt", "R1": "Standardized_Rating", "Fall": "Row_ID", "Kind": "C_BioSense_ID"}
    assert rated_records(frame_table(frame.rename(columns=named), "the data frame"), SCALE).ratings == rated.ratings
