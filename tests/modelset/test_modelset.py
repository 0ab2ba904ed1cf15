"""model_set_config.json: which rows become examples, that the file is valid, with no row of dev or test."""

from __future__ import annotations

import json
import random
import traceback
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expertune.errors import ModelSetConfigError, OutputError
from expertune.modelset.build import BuildInputs, Recipe, build
from expertune.modelset.config import ModelSetConfig, parse, read, write
from expertune.modelset.schema import schema
from expertune.modelset.select import select, unconflicted
from expertune.ratings.scale import RatingScale, make_scale, parse_answer
from expertune.ratings.schema import Rating, Split

SCALE = make_scale({"Match": 1, "Does Not Match": 0, "Unknown": -1})
COMPLAINTS = {
    1: ["cough", "wheeze", "short of breath", "sore throat", "croup"],
    0: ["ankle sprain", "laceration", "back pain", "rash", "dog bite"],
    -1: ["unwell", "referred by clinic", "no note", "walked out", "check up"],
}
WHEN = "2026-11-23T09:30:00+00:00"


def rating(number: int, value: int, prompt: str, rationale: str = "", scale: RatingScale = SCALE) -> Rating:
    return Rating(f"row-{number}", number + 2, prompt, value, scale.label_of(value), rationale)


def visits(count: int, *, start: int = 0, marker: str = "") -> list[Rating]:
    """Emergency visits made up for the test, rated in turn 1, 0, -1."""
    rows = []
    for number in range(start, start + count):
        value = (1, 0, -1)[number % 3]
        complaint = COMPLAINTS[value][number // 3 % 5]
        rows.append(
            rating(
                number,
                value,
                f"Chief complaint: {complaint}\nAge: {20 + number}\n{marker}Task: rate it.",
                f"{marker}the complaint is {complaint}",
            )
        )
    return rows


def made(rows, *, shots: int = 6, **changes) -> ModelSetConfig:
    """A set of these train rows, or of a whole split."""
    split = rows if isinstance(rows, Split) else Split(tuple(rows), (), (), {}, 7)
    given = {"scale": SCALE, "topics": "respiratory infections", "created_at": WHEN, "seed": 7, **changes}
    return build(BuildInputs("llama2", split, **given), Recipe("examples", shots))


def content_of(rows, **changes):
    """As `made`, as the JSON content of its file."""
    return made(rows, **changes).model_dump(mode="json")


def test_the_file_holds_the_old_keys_and_the_new_ones(tmp_path):
    config = made(visits(60))
    write(tmp_path / "model_set_config.json", config)
    assert read(tmp_path / "model_set_config.json") == config
    content = json.loads((tmp_path / "model_set_config.json").read_text(encoding="utf-8"))
    assert content == config.model_dump(mode="json")
    assert content["version"] == 2 and content["base_model"] == "llama2" and content["dataset_size"] == 60
    assert content["target_topics"] == "respiratory infections" and content["created_at"] == WHEN
    assert content["rating_mapping"] == {"Match": 1, "Does Not Match": 0, "Unknown": -1}
    assert content["contains_patient_text"] is True and content["missing"] == []
    decoding = {"temperature": 0.0, "seed": 7, "num_ctx": 2048, "num_predict": 256, "truncate": False}
    assert content["decoding"] == decoding
    assert (tmp_path / "model_set_config.json").stat().st_mode & 0o777 == 0o600


def test_examples_are_balanced_and_alternate_and_name_their_rows():
    examples = content_of(visits(60))["few_shot_examples"]
    rows = {row.id: row for row in visits(60)}
    assert Counter(each["label"] for each in examples) == dict.fromkeys(SCALE.labels, 2)
    assert all(first["label"] != second["label"] for first, second in pairwise(examples))
    for each in examples:
        assert each["prompt"] == rows[each["id"]].prompt and each["rating"] == rows[each["id"]].value
        answer = parse_answer(each["answer"], SCALE)
        assert (answer.value, answer.rationale) == (each["rating"], rows[each["id"]].rationale)
        assert each["answer"].startswith('{"rating": ')


def test_nothing_of_dev_and_test_is_in_the_file():
    train = visits(30)
    dev, test = visits(30, start=30, marker="DEVCANARY "), visits(30, start=60, marker="TESTCANARY ")
    split = Split(tuple(train), tuple(dev), tuple(test), {row.id: row.id for row in (*train, *dev, *test)}, 7)
    text = json.dumps(content_of(split, shots=90))
    assert "CANARY" not in text
    assert not any(f'"{row.id}"' in text for row in (*dev, *test))
    assert json.loads(text)["dataset_size"] == 90
    assert json.loads(text)["few_shot_examples"] == content_of(train, shots=90)["few_shot_examples"]


def test_the_canary_would_be_seen_in_train():
    assert "CANARY" in json.dumps(content_of(visits(30, marker="TRAINCANARY ")))


def test_no_text_that_was_rated_in_two_ways():
    rows = visits(30)
    clash = [
        rating(100 + at, value, f"Chief complaint: {text}, case 12")
        for at, (value, text) in enumerate([(1, "fever"), (0, "Fever"), (1, "chills"), (1, "chills ")])
    ]
    kept = unconflicted([*rows, *clash])
    assert "row-100" not in {row.id for row in kept} and "row-101" not in {row.id for row in kept}
    assert [row.id for row in kept if "chills" in row.prompt] == ["row-102"]
    assert not {"row-100", "row-101"} & set(content_of([*rows, *clash], shots=40)["example_ids"])


def test_long_rows_are_no_examples_unless_a_label_has_no_other():
    rows = visits(60)
    long = [
        rating(200 + at, value, "Chief complaint: cough. " + "A long history follows. " * 40)
        for at, value in enumerate((1, 1, 0, 0))
    ]
    assert not {row.id for row in long} & set(content_of([*rows, *long])["example_ids"])
    only_long = [row for row in rows if row.value != 0] + [
        rating(300 + at, 0, f"Complaint: sprain {at}. " + f"History number {at}. " * (60 + at)) for at in range(5)
    ]
    chosen = content_of(only_long)["example_ids"]
    assert {"row-300", "row-301"} <= set(chosen) and "row-304" not in chosen


def test_the_first_example_is_typical_and_the_next_is_unlike_it():
    rows = [rating(0, 1, "qwerty typo babble")]  # least like any other, and no use as an example
    rows += [rating(1 + at, 1, f"cough fever wheeze {at:02}") for at in range(12)]
    rows += [rating(20 + at, 1, f"croup fever barking {at:02}") for at in range(8)]
    rows += [rating(50 + at, 0, f"sprain of an ankle or a knee {at:02}") for at in range(21)]
    first, second = (row.prompt for row in select(rows, SCALE, 4, seed=0) if row.value == 1)
    assert first.startswith("cough") and second.startswith("croup")


def test_the_choice_does_not_hang_on_the_order_of_the_rows():
    rows = visits(60)
    mixed = random.Random(1).sample(rows, len(rows))
    assert content_of(rows) == content_of(mixed) == content_of(rows)
    firsts = {content_of(rows, seed=seed)["few_shot_examples"][0]["label"] for seed in range(12)}
    assert len(firsts) > 1  # the seed decides which label comes first


@pytest.mark.parametrize(
    ("rows", "labels", "missing"),
    [
        ([], [], ['rows rated "Match"', 'rows rated "Does Not Match"', 'rows rated "Unknown"']),
        (
            visits(1),
            ["Match"],
            ['examples of "Match": 1 in place of 2', 'rows rated "Does Not Match"', 'rows rated "Unknown"'],
        ),
        (
            visits(3),
            list(SCALE.labels),
            ['examples of "Match"', 'examples of "Does Not Match"', 'examples of "Unknown"'],
        ),
        ([row for row in visits(30) if row.value != -1], ["Match", "Does Not Match"], ['rows rated "Unknown"']),
        ([*visits(30), rating(90, -1, "  ")], list(SCALE.labels), []),
        (
            [rating(0, 1, "one text"), rating(1, 0, "one text"), rating(2, -1, "..")],
            ["Unknown"],
            ['an example of "Match"', 'an example of "Does Not Match"', 'examples of "Unknown"'],
        ),
    ],
)
def test_small_sets_give_a_valid_file_that_says_what_is_missing(rows, labels, missing, tmp_path):
    config = content_of(rows)
    assert {each["label"] for each in config["few_shot_examples"]} == set(labels)
    assert len(config["missing"]) == len(missing)
    for note, beginning in zip(config["missing"], missing, strict=True):
        assert note.startswith(beginning)
    write(tmp_path / "set.json", parse(config))
    assert read(tmp_path / "set.json") == parse(config)


def test_fewer_examples_than_labels_and_none_at_all():
    config = content_of(visits(30), shots=2)
    assert len(config["few_shot_examples"]) == 2
    assert config["missing"] == ['an example of "Unknown": the other labels took the 2 that there was room for']
    assert content_of(visits(30), shots=0)["few_shot_examples"] == [] == content_of(visits(30), shots=0)["missing"]


def test_what_does_not_fit_the_context_is_left_out_and_said():
    rows = [rating(at, (1, 0, -1)[at % 3], f"Visit {at}. " + f"Note {at} of the nurse. " * 60) for at in range(30)]
    config = content_of(rows, context=2048, count_tokens=lambda text: len(text.split()))
    size = sum(len(each["prompt"].split()) + len(each["answer"].split()) for each in config["few_shot_examples"])
    assert 0 < len(config["few_shot_examples"]) < 6
    assert size + len(config["system_prompt"].split()) + 300 + 256 < 2048 == config["decoding"]["num_ctx"]
    assert config["missing"][-1].startswith(f"room for {6 - len(config['few_shot_examples'])} of 6 examples")
    tight = content_of(rows, context=300, count_tokens=lambda text: len(text.split()))
    assert tight["few_shot_examples"] == [] and tight["decoding"]["num_ctx"] == 300
    assert any(note.startswith("room for the longest rows") for note in tight["missing"])
    wide = content_of(rows, context=131_072)
    assert len(wide["few_shot_examples"]) == 6 and wide["decoding"]["num_ctx"] in (4096, 8192)


def test_the_context_has_room_for_the_longest_row_of_every_part():
    train, test = visits(30), [rating(99, 1, "cough " * 3000)]
    split = Split(tuple(train), (), tuple(test), {row.id: row.id for row in (*train, *test)}, 7)
    reckoned = {"context": 8192, "count_tokens": lambda text: len(text.split())}
    assert content_of(train, **reckoned)["decoding"]["num_ctx"] == 2048
    assert 3500 < content_of(split, **reckoned)["decoding"]["num_ctx"] <= 8192


def test_the_system_prompt_says_task_labels_form_and_what_unknown_is_for():
    prompt = content_of(visits(30))["system_prompt"]
    assert "respiratory infections" in prompt
    assert all(f'- "{label}" ({value})' in prompt for label, value in zip(SCALE.labels, SCALE.values, strict=True))
    assert '{"rating": "<label>", "rationale": "<' in prompt
    assert 'Use "Unknown" only where the record lacks' in prompt


def test_the_system_prompt_fits_the_scale():
    scale = make_scale({"Resuscitation": 1, "Emergency": 2, "Urgency": 3})
    rows = [rating(at, at % 3 + 1, f"visit of case {at}", scale=scale) for at in range(20)]
    config = content_of(rows, scale=scale, topics="")
    assert 'ordered, from "Resuscitation" to "Urgency"' in config["system_prompt"]
    assert "topic" not in config["system_prompt"] and "Unknown" not in config["system_prompt"]
    assert "The rationale stays empty." in config["system_prompt"]  # as in every example
    assert [each["definition"] for each in config["rating_schema"]] == ["level 1 of 3", "level 2 of 3", "level 3 of 3"]


def test_definitions_come_from_the_synonyms_not_from_rows():
    entries = {each["label"]: each for each in content_of([])["rating_schema"]}
    assert entries["Unknown"]["definition"] == "the record does not hold enough to decide"
    assert "not a match" in entries["Does Not Match"]["synonyms"]
    assert "match" not in entries["Match"]["synonyms"]
    own = content_of([], scale=make_scale({"Yes": 1, "No": 0}))
    assert [each["definition"] for each in own["rating_schema"]] == ["", ""]


def test_messages_put_the_new_record_last():
    config = made(visits(30))
    turns = config.messages("Chief complaint: sneezing")
    assert [turn["role"] for turn in turns] == ["system", *["user", "assistant"] * 6, "user"]
    assert turns[0]["content"] == config.system_prompt
    assert turns[-1]["content"] == "Chief complaint: sneezing"
    assert [turn["content"] for turn in turns[1:-1]] == [
        text for each in config.few_shot_examples for text in (each.prompt, each.answer)
    ]
    assert turns[:-1] == config.messages("another record")[:-1]  # what the server's cache can keep


def test_every_answer_in_the_examples_has_the_form_that_the_schema_asks_for():
    config = content_of(visits(30))
    form = config["output_schema"]
    assert list(form["properties"]) == form["required"] == ["rating", "rationale"]
    for each in config["few_shot_examples"]:
        answer = json.loads(each["answer"])
        assert list(answer) == form["required"] and answer["rating"] in form["properties"]["rating"]["enum"]


def break_version(config):
    config["version"] = 3


def break_extra(config):
    config["few_shot_exmples"] = []


def break_rating(config):
    config["few_shot_examples"][0]["rating"] = 5


def break_type(config):
    config["few_shot_examples"][1]["prompt"] = ["SECRET TEXT"]


def break_answer(config):
    config["few_shot_examples"][1]["answer"] = "SECRET TEXT"


def break_label(config):
    config["few_shot_examples"][0]["answer"] = '{"rating": "SECRET TEXT", "rationale": ""}'


def break_ids(config):
    config["example_ids"].pop()


def break_twice(config):
    config["few_shot_examples"][1] = config["few_shot_examples"][0]
    config["example_ids"][1] = config["example_ids"][0]


def break_mapping(config):
    config["rating_mapping"]["Match"] = 0


def break_schema(config):
    config["output_schema"]["properties"]["rating"]["enum"].reverse()


def break_truncate(config):
    config["decoding"]["truncate"] = True


def break_temperature(config):
    config["decoding"]["temperature"] = 0.7


def break_patient(config):
    config["contains_patient_text"] = False


def break_time(config):
    config["created_at"] = "yesterday"


def break_json(config):
    config["dataset_size"] = object()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (break_version, "version 3, but version 2 is needed"),
        (break_extra, "few_shot_exmples: Extra inputs"),
        (break_rating, "few_shot_examples: a label or rating is not in rating_mapping"),
        (break_type, r"few_shot_examples\.1\.prompt: Input should be a valid string"),
        (break_answer, r"few_shot_examples\.1: the answer is not JSON"),
        (break_label, r"few_shot_examples\.0: the answer's rating is not the label"),
        (break_ids, "example_ids are not"),
        (break_twice, "one row is used twice"),
        (break_mapping, "rating_schema and rating_mapping differ"),
        (break_schema, "output_schema does not fit"),
        (break_truncate, r"decoding\.truncate"),
        (break_temperature, r"decoding\.temperature"),
        (break_patient, "contains_patient_text"),
        (break_time, "created_at: it is not a date"),
        (break_json, "JSON has no form for"),
    ],
)
def test_a_spoilt_file_is_refused_in_one_line_without_text_of_a_row(spoil, message):
    config = content_of([rating(at, at % 2, f"SECRET TEXT of patient {at}") for at in range(10)])
    spoil(config)
    with pytest.raises(ModelSetConfigError, match=message) as caught:
        parse(config)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("model_set_config.json: ")
    assert "SECRET" not in "".join(traceback.format_exception(caught.value))


def test_an_old_file_without_a_version_is_refused(tmp_path):
    (tmp_path / "old.json").write_text('{"base_model": "llama2", "few_shot_examples": []}')
    with pytest.raises(ModelSetConfigError, match=r"old\.json: no version"):
        read(tmp_path / "old.json")


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", None])
def test_a_file_that_is_no_json_is_refused(content, tmp_path):
    if content is not None:
        (tmp_path / "set.json").write_bytes(content)
    with pytest.raises(ModelSetConfigError, match=r"set\.json: cannot be read as JSON"):
        read(tmp_path / "set.json")


def test_a_folder_that_cannot_be_written_is_an_output_error(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(OutputError):
        write(tmp_path / "taken" / "set.json", made(visits(9)))


def test_the_records_are_frozen_and_the_schema_names_every_key():
    config = made(visits(9))
    with pytest.raises(ValueError, match="frozen"):
        config.base_model = "other"  # type: ignore[misc]
    form = schema()
    assert set(form["required"]) == set(config.model_dump()) == set(form["properties"])
    assert json.loads(json.dumps(form)) == form


texts = st.text(st.characters(blacklist_categories=("Cs",)), max_size=30)


@given(
    st.lists(st.tuples(st.sampled_from(SCALE.values), texts, texts), max_size=12),
    st.integers(0, 9),
    st.integers(1, 5000),
)
@settings(max_examples=60, deadline=None)
def test_any_rows_give_a_valid_file_of_conflict_free_train_rows(cells, shots, context):
    rows = [rating(number, value, prompt, reason) for number, (value, prompt, reason) in enumerate(cells)]
    config = content_of(rows, shots=shots, context=context)
    assert parse(json.loads(json.dumps(config))).model_dump(mode="json") == config
    assert len(config["few_shot_examples"]) <= shots
    by_id = {row.id: row for row in rows}
    for each in config["few_shot_examples"]:
        assert by_id[each["id"]].prompt == each["prompt"]
        assert {row.value for row in rows if row.prompt == each["prompt"]} == {each["rating"]}
