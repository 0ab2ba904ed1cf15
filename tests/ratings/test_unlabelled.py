"""Records without a rating: how they are read, and which of them are left out."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import hospital
from expertune.config import make_config
from expertune.errors import DatasetError, UsageError
from expertune.ratings import unlabelled as reasons
from expertune.ratings.dataset import Dataset, load_dataset
from expertune.ratings.unlabelled import MOST_PER_RATED, Unlabelled

ROOT = Path(__file__).resolve().parents[2]
VISITS = pd.read_csv(ROOT / "examples/formatted_dataset.csv")
RATED, OTHERS = VISITS.head(120), VISITS.iloc[400:430].drop(columns=["Standardized_Rating", "Rationale of Rating"])
MAPPING = {"Match": 1, "Does Not Match": 0, "Unknown": -1}


def load(folder: Path, others: pd.DataFrame, rated: pd.DataFrame = RATED, name: str = "others.csv") -> Dataset:
    path = folder / name
    if path.suffix == ".parquet":
        others.to_parquet(path)
    elif path.suffix == ".jsonl":
        others.to_json(path, orient="records", lines=True)
    else:
        others.to_csv(path, index=False)
    return load_dataset(rated, MAPPING, "topic", make_config({"unlabelled": str(path)}))


def found(*arguments: object, **more: object) -> Unlabelled:
    dataset = load(*arguments, **more)  # pyright: ignore[reportArgumentType]
    assert dataset.unlabelled is not None
    return dataset.unlabelled


@pytest.mark.parametrize("name", ["others.csv", "others.jsonl", "others.parquet"])
def test_new_records_are_read_from_each_format_and_change_no_split(tmp_path: Path, name: str) -> None:
    dataset = load(tmp_path, OTHERS, name=name)
    plain = load_dataset(RATED, MAPPING, "topic", make_config({}))
    unlabelled = dataset.unlabelled
    assert unlabelled is not None and plain.unlabelled is None
    assert (unlabelled.read, len(unlabelled.records), dict(unlabelled.left_out)) == (30, 30, {})
    assert [each.prompt for each in unlabelled.records] == OTHERS.Prompt.tolist()
    assert (dataset.split, dataset.input_sha256) == (plain.split, plain.input_sha256)
    assert not {each.id for each in unlabelled.records} & {each.id for each in dataset.ratings}


def test_what_a_rated_record_says_too_is_left_out_wherever_that_record_is(tmp_path: Path) -> None:
    repeated = OTHERS.copy()
    same = load_dataset(RATED, MAPPING, "topic", make_config({})).split
    prompts = [same.train[0].prompt, same.dev[0].prompt.upper(), same.test[0].prompt + "  "]
    repeated.loc[repeated.index[:3], "Prompt"] = prompts
    unlabelled = found(tmp_path, repeated)
    assert dict(unlabelled.left_out) == {reasons.RATED: 3}
    assert [each.prompt for each in unlabelled.records] == OTHERS.Prompt.tolist()[3:]


@pytest.mark.parametrize("column", ["C_BioSense_ID", "Row_ID"])
def test_what_belongs_to_a_record_kept_back_is_left_out_and_what_belongs_to_a_training_record_stays(
    tmp_path: Path, column: str
) -> None:
    parts = load_dataset(RATED, MAPPING, "topic", make_config({})).split
    others = OTHERS.copy()
    known = [next(each for each in rows if each.group) for rows in (parts.train, parts.dev, parts.test)]
    others.loc[others.index[:3], column] = [each.group if column == "C_BioSense_ID" else int(each.id) for each in known]
    unlabelled = found(tmp_path, others)
    assert dict(unlabelled.left_out) == {reasons.KEPT_BACK: 2}
    assert [each.prompt for each in unlabelled.records] == OTHERS.Prompt.tolist()[:1] + OTHERS.Prompt.tolist()[3:]


def test_a_chain_to_a_record_kept_back_is_followed(tmp_path: Path) -> None:
    """The first new record is of a test record's patient; the second repeats the first's text."""
    test = load_dataset(RATED, MAPPING, "topic", make_config({})).split.test[0]
    others = OTHERS.copy()
    others.loc[others.index[0], "C_BioSense_ID"] = test.group
    others.loc[others.index[1], "Prompt"] = others.Prompt.iloc[0]
    assert dict(found(tmp_path, others).left_out) == {reasons.KEPT_BACK: 2}


def test_row_numbers_are_no_identity(tmp_path: Path) -> None:
    unlabelled = found(tmp_path, OTHERS.assign(Row_ID=range(2, 32)), RATED.drop(columns="Row_ID"))
    assert (len(unlabelled.records), dict(unlabelled.left_out)) == (30, {})


def test_repeats_and_blank_prompts_are_left_out(tmp_path: Path) -> None:
    others = OTHERS.copy()
    others.loc[others.index[5], "Prompt"] = None
    others.loc[others.index[6], "Prompt"] = others.Prompt.iloc[7]
    unlabelled = found(tmp_path, others)
    assert dict(unlabelled.left_out) == {reasons.UNUSABLE: 1, reasons.REPEATED: 1}
    assert (unlabelled.read, len(unlabelled.records)) == (30, 28)
    line = unlabelled.line()
    assert "28 of 30 records without a rating" in line and "1 without a usable prompt" in line and "\n" not in line


def test_more_than_so_many_for_each_training_record_are_drawn_by_the_seed(tmp_path: Path) -> None:
    rated, others = VISITS.head(60), VISITS.iloc[100:500]
    dataset = load(tmp_path, others, rated)
    unlabelled = dataset.unlabelled
    assert unlabelled is not None
    most = MOST_PER_RATED * len(dataset.split.train)
    assert len(unlabelled.records) == most < 400
    assert unlabelled.left_out[reasons.TOO_MANY] == 400 - most - sum(
        count for reason, count in unlabelled.left_out.items() if reason != reasons.TOO_MANY
    )
    rows = [each.row for each in unlabelled.records]
    assert rows == sorted(rows) and load(tmp_path, others, rated).unlabelled == unlabelled


def test_what_is_too_long_is_counted(tmp_path: Path) -> None:
    dataset = load(tmp_path, OTHERS)
    assert dataset.unlabelled is not None
    gone = dataset.unlabelled.records[0]
    kept = dataset.without(frozenset((gone.id,))).unlabelled
    assert kept is not None and gone not in kept.records and dict(kept.left_out) == {reasons.TOO_LONG: 1}
    assert kept.sha256 != dataset.unlabelled.sha256


def test_a_broken_file_is_an_error_of_one_line(tmp_path: Path) -> None:
    for name, text, said in (("no.csv", "Text\na\n", 'no column "Prompt"'), ("a.txt", "Prompt\na\n", "not supported")):
        (tmp_path / name).write_text(text)
        with pytest.raises(DatasetError, match=said):
            load_dataset(RATED, MAPPING, "topic", make_config({"unlabelled": tmp_path / name}))
    with pytest.raises(DatasetError, match="no such file"):
        load_dataset(RATED, MAPPING, "topic", make_config({"unlabelled": "gone.csv"}))
    with pytest.raises(UsageError, match="unlabelled: 3 is not the path of a file"):
        make_config({"unlabelled": 3})


COLUMNS = ("rating=Reviewer1", "rationale=Why", "patient=MRN", *(f"text={name}" for name in hospital.TEXT))


def load_export(folder: Path, others: list[dict[str, object]], columns: tuple[str, ...] = COLUMNS) -> Dataset:
    """A hospital's export of rated visits, and another one of visits that nobody rated."""
    rated = hospital.write(folder / "rated.csv", hospital.visits())
    path = hospital.write(folder / "others.csv", others)
    config = make_config({"unlabelled": path, "column": columns})
    return load_dataset(rated, hospital.MAPPING, hospital.TOPIC, config)


def test_raw_records_get_their_prompts_by_the_template_of_the_rated_file(tmp_path: Path) -> None:
    visits = hospital.visits(20, rated=False, start=500)
    dataset = load_export(tmp_path, visits)
    unlabelled, template = dataset.unlabelled, dataset.template
    assert unlabelled is not None and template is not None and unlabelled.records
    by_row = dict(enumerate(visits, start=2))
    for each in unlabelled.records:
        visit = by_row[each.row]
        assert (
            each.prompt == template.text(visit) and f"Presenting problem: {visit['Presenting problem']}" in each.prompt
        )
        assert each.group == visit["MRN"]
    assert any("others.csv: prompts made as in the run" in note for note in dataset.notes)


def test_patients_of_raw_records_are_known_by_the_column_that_was_named(tmp_path: Path) -> None:
    """An export's other name for patients comes after the one that was chosen for the rated file."""
    test = load_export(tmp_path, hospital.visits(20, rated=False, start=500)).split.test[0]
    visits = [
        {"patient_id": f"other {at}", **each} for at, each in enumerate(hospital.visits(20, rated=False, start=500))
    ]
    visits[3]["MRN"] = test.group
    unlabelled = load_export(tmp_path, visits).unlabelled
    assert unlabelled is not None and unlabelled.left_out[reasons.KEPT_BACK] >= 1
    assert 5 not in [each.row for each in unlabelled.records]


def test_raw_records_without_a_column_of_the_template_are_refused(tmp_path: Path) -> None:
    visits = [{name: each[name] for name in ("MRN", "Nurse note")} for each in hospital.visits(20, start=500)]
    with pytest.raises(
        DatasetError, match=r'others.csv: no column "Presenting problem", from which .* prompts were made'
    ):
        load_export(tmp_path, visits)


def test_raw_records_need_a_prompt_column_if_the_template_is_not_known(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r'others.csv: no column "Prompt".*not made by expertune') as caught:
        load(tmp_path, OTHERS.drop(columns="Prompt"))
    assert "\n" not in str(caught.value)
