"""The rating scale: sources, synonyms, ordinal rule, answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertune.errors import DatasetError
from expertune.ratings.scale import DEFAULT_MAPPING, answer_opening, answer_text, load_scale, make_scale, parse_answer

SCALE = make_scale(DEFAULT_MAPPING)


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (1, 1),
        ("1", 1),
        (1.0, 1),
        ("1.0", 1),
        (" 1 ", 1),
        ("-1", -1),
        ("−1", -1),
        (np.int64(0), 0),
        (np.float32(1), 1),
        ("Match", 1),
        ("MATCH.", 1),
        ("Not a Match", 0),
        ("not  a match", 0),
        ("Does Not Match", 0),
        ("doesn't match", 0),
        ("does_not_match", 0),
        ("Unknown/Not able to determine", -1),
        ("unknown", -1),
        ("Partial Match", None),
        ("no Match at all here", None),
        ("Match or not", None),
        ("2", None),
        (1.5, None),
        ("1.5", None),
        (True, None),
        (None, None),
        (float("nan"), None),
        ("", None),
        ([1], None),
        ("9" * 5000, None),
    ],
)
def test_value_of(raw: object, value: int | None) -> None:
    assert SCALE.value_of(raw) == value


def test_partial_match_counts_only_where_the_mapping_has_it() -> None:
    scale = make_scale({**DEFAULT_MAPPING, "Partial Match": 2})
    assert scale.value_of("partially matches") == 2
    assert SCALE.value_of("partially matches") is None


def test_a_synonym_that_is_a_label_of_its_own_keeps_its_value() -> None:
    scale = make_scale({"Match": 1, "Unknown": -1, "Not sure": 3})
    assert scale.value_of("not sure") == 3
    assert scale.value_of("Unknown") == -1
    assert scale.value_of("unsure") is None  # either could be meant


@pytest.mark.parametrize("mapping", [{1: 1, 2: 0, 0: -1}, {"1": 1, "2": 0, "0": "-1"}])
def test_raw_codes_get_the_default_labels_and_apply_to_raw_files_only(mapping: dict) -> None:
    scale = make_scale(mapping)
    assert scale.labels == ("Match", "Does Not Match", "Unknown")
    assert scale.values == (1, 0, -1)
    assert [scale.standardize(code) for code in (1, "2", 0.0, "Not a Match", 7)] == [1, 0, -1, 0, None]
    assert [scale.value_of(code) for code in (1, 0, -1, 2)] == [1, 0, -1, None]


def test_labels_and_raw_codes_together() -> None:
    scale = make_scale({"Yes": 1, "Y": 1, "No": 0, 9: 0})
    assert scale.labels == ("Yes", "No")
    assert scale.value_of("y") == 1
    assert scale.standardize(9) == 0


@pytest.mark.parametrize(
    ("mapping", "ordinal"),
    [
        ({"a": 1, "b": 2, "c": 3}, True),
        ({"a": 0, "b": 2, "c": 1}, True),
        ({1: 1, 2: 2, 3: 3}, True),
        ({"a": 0, "b": 1}, False),
        ({"a": -1, "b": 0, "c": 1}, False),
        ({"a": 1, "b": 2, "c": 4}, False),
        ({"a": 0, "b": 1, "I don't know": 2}, False),
        ({"Yes": 0, "No": 1, "Maybe": 2}, False),
        (DEFAULT_MAPPING, False),
    ],
)
def test_ordinal_rule(mapping: dict, ordinal: bool) -> None:
    scale = make_scale(mapping)
    assert scale.ordinal is ordinal
    assert scale.ordinal_reason.startswith("ordinal:" if ordinal else "not ordinal:")


@pytest.mark.parametrize(
    ("mapping", "says"),
    [
        ({}, "empty"),
        ([], "empty"),
        ({"Match": 1}, "only one rating"),
        ({"Match": "yes", "No": 0}, "whole number"),
        ({"Match": 1.5, "No": 0}, "whole number"),
        ({"Match": True, "No": 0}, "whole number"),
        ({"Match": 1, "match.": 0}, "rename one"),
        ({"": 1, "No": 0}, "not a label"),
        ({"?": 1, "No": 0}, "not a label"),
        ({None: 1, "No": 0}, "not a label"),
        ({"1": 1, 1: 0}, "duplicate code 1"),
        ({"Yes": 1, "No": 0, "3": 3}, "no label"),
        ({"Yes": [1], "No": 0}, "whole number"),
    ],
)
def test_a_bad_mapping_is_one_clear_line(mapping: dict, says: str) -> None:
    with pytest.raises(DatasetError, match=says) as caught:
        make_scale(mapping)
    assert "\n" not in str(caught.value)


def test_sources_come_in_their_order(tmp_path: Path) -> None:
    data = tmp_path / "formatted_dataset.csv"
    assert load_scale(None, None).labels == load_scale(None, data).labels == tuple(DEFAULT_MAPPING)
    formatting = tmp_path / "formatting_metadata.json"
    formatting.write_text('{"created": "today", "rows": 3, "by": "me"}')
    assert load_scale(None, data).labels == tuple(DEFAULT_MAPPING)
    formatting.write_text(json.dumps({"rating_mapping": {"A": 1, "B": 2, "C": 3}, "ordinal": False, "rows": 3}))
    scale = load_scale(None, data)
    assert (scale.labels, scale.ordinal, scale.ordinal_reason) == (("A", "B", "C"), False, "set to false by the user")
    (tmp_path / "rating_mapping_metadata.json").write_text('{"D": 1, "E": -1, "ordinal": true}')
    scale = load_scale(None, data)
    assert (scale.labels, scale.ordinal) == (("D", "E"), True)
    assert load_scale(formatting, data).labels == load_scale(str(formatting), data).labels == ("A", "B", "C")
    assert load_scale('{"X": 1, "Y": 0}', data).labels == load_scale({"X": 1, "Y": 0}, data).labels == ("X", "Y")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "line 1, column 2"),
        (b"[1, 2]", "not a mapping"),
        (b"\xff\xfe{", "UTF-8"),
        (b'{"rating_mapping": 3}', "mapping"),
        (b'{"A": 1, "B": 0, "ordinal": "yes"}', "true or false"),
        (b'{"by": "me"}', "whole number"),
        (b"[" * 99999, "JSON"),
    ],
)
def test_a_bad_metadata_file_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "rating_mapping_metadata.json"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=says) as caught:
        load_scale(None, tmp_path / "data.csv")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_mapping_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nowhere\.json: no such file"):
        load_scale(str(tmp_path / "nowhere.json"), None)


def test_a_label_of_another_scale_is_refused() -> None:
    with pytest.raises(DatasetError, match="rating 7 is not one of"):
        SCALE.label_of(7)


@pytest.mark.slow
@given(st.sampled_from(SCALE.labels), st.text())
def test_answers_are_read_back_as_written(label: str, rationale: str) -> None:
    text = answer_text(label, rationale)
    assert text.startswith(answer_opening(label))
    assert list(json.loads(text)) == ["rating", "rationale"]
    assert parse_answer(text, SCALE) == ("rated", SCALE.value_of(label), rationale.strip())
    assert parse_answer(f"Sure, here it is:\n```json\n{text}\n```", SCALE).value == SCALE.value_of(label)


def test_the_answer_is_these_very_bytes() -> None:
    assert answer_text("Match", 'é "x"\n') == '{"rating": "Match", "rationale": "é \\"x\\"\\n"}'
    assert answer_opening('A "b"') == '{"rating": "A \\"b\\"", "rationale": "'


@pytest.mark.parametrize(
    ("text", "value", "rationale"),
    [
        ("Rating: 1, Rationale: fever, cough", 1, "fever, cough"),
        ("Rating: Not a Match\nRationale: no", 0, "no"),
        ("**Rating:** Match\n**Rationale:** yes", 1, "yes"),
        ("Rating: Does Not Match. Rationale: x", 0, "x"),
        ("Rating: Unknown/Not able to determine, Rationale: z", -1, "z"),
        ("Rating: -1", -1, ""),
        ('{"rating": 1}', 1, ""),
        ('{"Rating": "0"}', 0, ""),
        ('{"rationale": "r", "rating": "Match"}', 1, "r"),
        ('{"answer": {"rating": "Match"}}', 1, ""),
        ('{"rating": "Match", "rationale": "two\nlines"}', 1, "two\nlines"),
        ('{"rating": "Match", "rationale": "cut off he', 1, "cut off he"),
        ('{"rating": "Match", "rationale": "\\u00', 1, "\\u00"),
        ('<think>{"rating": "Unknown"}</think>{"rating": "Match"}', 1, ""),
        ("Match.", 1, ""),
        (" 0 ", 0, ""),
    ],
)
def test_answers_in_many_forms(text: str, value: int, rationale: str) -> None:
    assert parse_answer(text, SCALE) == ("rated", value, rationale)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "I cannot say",
        '{"rating": "Mat',
        '{"rating": "Match',
        '{"rating": null}',
        '{"rating": true}',
        '{"rating": "Maybe"}',
        '{"rating": 7}',
        "Rating: perhaps",
        "It is a Match because of fever",
        "Rating: 1\nRating: 0",
        '{"rating": "Match"} {"rating": "Unknown"}',
        "<think>Match",
        '{"rating": ["Match"]}',
        "never a Match",
        "[" * 9999,
    ],
)
def test_what_cannot_be_read_is_a_state_of_its_own(text: str) -> None:
    assert parse_answer(text, SCALE) == ("unparsable", None, "")


@given(st.text(alphabet='{}[]":,\\ \nratingMch01-'))
def test_any_text_gets_an_answer(text: str) -> None:
    answer = parse_answer(text, SCALE)
    assert (answer.state == "rated") == (answer.value in SCALE.values)
