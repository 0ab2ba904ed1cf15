"""Ratings become chat examples; the training file is what other trainers read as it is."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path

import pytest

from expertune.errors import DatasetError
from expertune.ratings.examples import make_examples, system_prompt, training_lines
from expertune.ratings.format import format_raw
from expertune.ratings.near_duplicates import find_duplicates
from expertune.ratings.read import frame_table, rated_records, read_ratings
from expertune.ratings.scale import DEFAULT_MAPPING, load_scale, make_scale, parse_answer
from expertune.ratings.schema import BySplit, Example, Split
from expertune.ratings.split import split

DATA = Path(__file__).parent.parent / "data" / "ratings"
SCALE = make_scale(DEFAULT_MAPPING)
ACUITY = load_scale(DATA / "ktas_acuity.json", None)


@pytest.fixture(scope="module")
def parts() -> Split:
    rows = read_ratings(DATA / "ktas_acuity_subset.csv", ACUITY)
    return split(rows, find_duplicates(rows, 0.9), dev_share=0.1, test_share=0.2, seed=42)


@pytest.fixture(scope="module")
def examples(parts: Split) -> BySplit[tuple[Example, ...]]:
    return make_examples(parts, ACUITY, "emergency triage acuity")


@pytest.fixture(scope="module")
def training_file(examples: BySplit[tuple[Example, ...]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("training") / "training_data.jsonl"
    path.write_text(
        "".join(f"{line}\n" for line in training_lines(chain(*examples.parts().values()))),
        encoding="utf-8",
    )
    return path


def test_the_system_prompt_is_short_and_names_all_labels() -> None:
    assert system_prompt(SCALE, " respiratory\n infections") == (
        "Rate the record for: respiratory infections. Answer in JSON: "
        '{"rating": "Match" or "Does Not Match" or "Unknown", "rationale": "why"}'
    )
    assert system_prompt(SCALE, "  ").startswith("Rate the record. Answer")


def test_examples_hold_every_row_in_its_part(parts: Split, examples: BySplit[tuple[Example, ...]]) -> None:
    for part, ratings in parts.parts().items():
        assert [example.id for example in examples.parts()[part]] == [rating.id for rating in ratings]
    by_id = {rating.id: rating for ratings in parts.parts().values() for rating in ratings}
    for example in chain(*examples.parts().values()):
        rating = by_id[example.id]
        assert [message["role"] for message in example.messages] == ["system", "user"]
        assert example.messages[1]["content"] == rating.prompt
        assert parse_answer(example.target, ACUITY) == ("rated", rating.value, rating.rationale)


def test_the_training_file_has_the_training_rows_and_no_other(parts: Split, training_file: Path) -> None:
    lines = [json.loads(line) for line in training_file.read_text(encoding="utf-8").split("\n")[:-1]]
    assert [line["id"] for line in lines] == [rating.id for rating in parts.train]
    assert all(list(line) == ["id", "split", "messages", "rating", "label"] for line in lines)
    assert {line["split"] for line in lines} == {"train"}
    text = training_file.read_text(encoding="utf-8")
    assert not any(json.dumps(r.prompt, ensure_ascii=False) in text for r in (*parts.dev, *parts.test))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # other people's imports
def test_the_datasets_library_reads_the_chat_format(training_file: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset("json", data_files=str(training_file), split="train", cache_dir=str(tmp_path))
    lines = [json.loads(line) for line in training_file.read_text(encoding="utf-8").split("\n")[:-1]]
    assert loaded.to_list() == lines
    assert [message["role"] for message in loaded[0]["messages"]] == ["system", "user", "assistant"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # other people's imports
def test_trl_takes_it_for_a_conversation(training_file: Path) -> None:
    pytest.importorskip("trl")
    from trl.data_utils import is_conversational  # type: ignore[import-not-found]

    for line in training_file.read_text(encoding="utf-8").split("\n")[:-1]:
        assert is_conversational(json.loads(line))


RAW = """C_BioSense_ID,ChiefComplaintOrig,Discharge Diagnosis,TriageNotes,Age,Sex,Hospital,Expert Rating,Rationale
P1,cough,pneumonia,"temp 38.5, SpO2 91",34,F,North,1,lower airway
P2,ankle pain,,,,M,South,2,
P1,??,,unclear,34,F,North,0,too little said
"""


def test_a_raw_file_becomes_a_formatted_dataset(tmp_path: Path) -> None:
    raw = tmp_path / "raw.csv"
    raw.write_text(RAW, encoding="utf-8")
    frame = format_raw(raw, make_scale({1: 1, 2: 0, 0: -1}), "respiratory infections").frame
    assert list(frame.columns) == [
        "Row_ID",
        "C_BioSense_ID",
        "Prompt",
        "Standardized_Rating",
        "Rationale of Rating",
        "ChiefComplaintOrig",
        "Discharge Diagnosis",
        "TriageNotes",
        "Age",
        "Sex",
        "Hospital",
    ]
    assert list(frame["Standardized_Rating"]) == [1, 0, -1]
    assert frame["Prompt"][0].splitlines() == [
        "Task: Rate this record for: respiratory infections.",
        "",
        "Rating schema:",
        "1 = Match",
        "0 = Does Not Match",
        "-1 = Unknown",
        "",
        "Record:",
        "Chief complaint: cough",
        "Discharge diagnosis: pneumonia",
        "Age: 34",
        "Sex: F",
        "Triage notes: temp 38.5, SpO2 91",
    ]
    assert frame["Prompt"][1].endswith("Record:\nChief complaint: ankle pain\nSex: M")
    ratings = rated_records(frame_table(frame, "formatted"), SCALE).ratings
    assert [(rating.id, rating.group, rating.label) for rating in ratings] == [
        ("1", "P1", "Match"),
        ("2", "P2", "Does Not Match"),
        ("3", "P1", "Unknown"),
    ]


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ("Expert Rating,Notes\n1,x\n", "a prompt needs one of ChiefComplaintOrig"),
        ("Age,Sex,Rating\n1,F,1\n,,1\n", "row 3: Age, Sex are all blank"),
        ("Age,Rating\n1,3\n", 'row 2, column "Rating": 3 is not one of'),
    ],
)
def test_raw_files_that_cannot_be_used(tmp_path: Path, raw: str, says: str) -> None:
    path = tmp_path / "raw.csv"
    path.write_text(raw, encoding="utf-8")
    with pytest.raises(DatasetError) as caught:
        format_raw(path, SCALE, "anything")
    assert says in str(caught.value)
