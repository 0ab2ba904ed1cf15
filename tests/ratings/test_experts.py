"""Several experts: their agreement, the label that is kept, and the list on which they settle what they differ on."""

from __future__ import annotations

import csv
import json
import math
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from commands import expertune_here
from expertune.config import Config, as_dict, make_config
from expertune.errors import DatasetError, ExpertuneError, UsageError
from expertune.ratings.columns import find_columns
from expertune.ratings.dataset import Dataset, load_dataset, read_rated
from expertune.ratings.experts import ExpertRatings, expert_agreement, majority
from expertune.ratings.format import format_raw
from expertune.ratings.read import read_table
from expertune.ratings.scale import RatingScale, make_scale
from hospital import MAPPING, TEXT, TOPIC, visits, write

SCALE = make_scale(MAPPING)
LABELS = tuple(MAPPING)
TEXTS = tuple(f"text={name}" for name in TEXT)
NAMED = ("rating=Reviewer1,R2,R3", "rationale=Why,Why2,Why3", *TEXTS)
CONFIG = Config(bootstrap_resamples=200)
TIED = ("V-00000", "V-00012", "V-00024", "V-00036", "V-00048")  # of three_experts(60)


def three_experts(count: int = 60) -> list[dict[str, Any]]:
    """Visits of which R2 rates every fourth otherwise than the first expert, and R3 every sixth; R3 leaves some out."""
    rows = visits(count)
    for at, row in enumerate(rows):
        first = LABELS.index(row["Reviewer1"])
        row["R2"] = LABELS[(first + (at % 4 == 0)) % 3]
        row["R3"] = "" if at % 10 == 7 else LABELS[(first + 2 * (at % 6 == 0)) % 3]
        row |= {"Why2": "two's reason", "Why3": "three's reason"}
    return rows


def load(data: Any, *choices: str) -> Dataset:
    return load_dataset(data, MAPPING, TOPIC, Config(column=choices))


def flags(*choices: str) -> list[str]:
    return [flag for choice in choices for flag in ("--column", choice)]


def panel(*by_expert: Sequence[int | None], groups: Sequence[str] | None = None) -> ExpertRatings:
    count = len(by_expert[0])
    ids = tuple(map(str, range(count)))
    return ExpertRatings(
        experts=tuple(f"E{at}" for at in range(len(by_expert))),
        ids=ids,
        own_ids=True,
        prompts=ids,
        values=tuple(zip(*by_expert, strict=True)),
        rationales=((),) * count,
        adjudicated=(None,) * count,
        groups=tuple(groups or ids),
    )


def codes(text: str) -> list[int | None]:
    return [None if letter == "." else int(letter) for letter in text]


# --- agreement ---

FIVE = make_scale({letter: at for at, letter in enumerate("abcde", start=1)})
BINARY = make_scale({"no": 0, "yes": 1})


@pytest.mark.parametrize(
    ("scale", "ratings", "alpha"),
    [
        (BINARY, ("0100000010", "1110010000"), 0.095),
        (FIVE, ("112243335441", "212223335444"), 0.692),
        (FIVE, ("123321412...", "1233224125.3", ".3332342251.", "12332441251."), 0.743),
    ],
)
def test_alpha_of_krippendorffs_own_examples(scale: RatingScale, ratings: tuple[str, ...], alpha: float) -> None:
    """Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), examples A, B and C."""
    import krippendorff

    found = expert_agreement(panel(*map(codes, ratings)), scale, CONFIG).alpha
    assert found.value == pytest.approx(alpha, abs=0.0005)
    values = [[math.nan if value is None else value for value in codes(each)] for each in ratings]
    assert found.value == pytest.approx(krippendorff.alpha(values, level_of_measurement="nominal"))
    assert found.interval is not None and found.interval.low < alpha < found.interval.high


def test_alpha_of_many_random_panels_is_that_of_the_package() -> None:
    import krippendorff

    random = np.random.default_rng(1)
    for experts in (2, 3, 5):
        values = random.integers(1, 6, (experts, 40)).astype(float)
        values[random.random(values.shape) < 0.3] = math.nan
        values[0, np.isnan(values).all(axis=0)] = 1
        given = panel(*([None if math.isnan(value) else int(value) for value in row] for row in values))
        found = expert_agreement(given, FIVE, CONFIG).alpha
        assert found.value == pytest.approx(krippendorff.alpha(values, level_of_measurement="nominal"))
        assert found.n == int((np.isfinite(values).sum(axis=0) > 1).sum())


def test_kappa_of_cohens_own_example() -> None:
    """Cohen, Weighted kappa, Psychological Bulletin 70 (1968), table 1: 200 records, kappa 0.492."""
    scale = make_scale({"a": 0, "b": 1, "c": 2})
    counts = {(0, 0): 88, (0, 1): 10, (0, 2): 2, (1, 0): 14, (1, 1): 40, (1, 2): 6, (2, 0): 18, (2, 1): 10, (2, 2): 12}
    pairs = [pair for pair, count in counts.items() for _ in range(count)]
    (pair,) = expert_agreement(panel(*zip(*pairs, strict=True)), scale, CONFIG).pairs
    assert (pair.first, pair.second, pair.records) == ("E0", "E1", 200)
    assert pair.same.value == pytest.approx(0.7) and pair.kappa.value == pytest.approx(0.492, abs=0.0005)
    assert pair.same.interval is not None and pair.same.interval.low == pytest.approx(0.633, abs=0.001)
    assert pair.kappa.interval is not None
    assert pair.kappa.interval.low == pytest.approx(0.39, abs=0.02)  # 0.492 - 1.97 × 0.0514, Fleiss's error


def test_pairs_are_compared_on_the_records_that_both_rated() -> None:
    found = expert_agreement(panel(codes("1111..22"), codes("11221122"), codes("....1122")), FIVE, CONFIG)
    assert [(each.records, each.same.value) for each in found.pairs] == [(6, 4 / 6), (2, 1.0), (4, 1.0)]
    assert (found.rated, found.rated_by_several, found.disagreements) == ({"E0": 6, "E1": 8, "E2": 4}, 8, 2)


def test_an_interval_counts_patients_not_records() -> None:
    ratings = (codes("1212211221" * 6), codes("1212212121" * 6))
    alone = expert_agreement(panel(*ratings), FIVE, CONFIG)
    grouped = expert_agreement(panel(*ratings, groups=[str(at // 10 % 3) for at in range(60)]), FIVE, CONFIG)
    assert alone.alpha.value == grouped.alpha.value and alone.alpha.interval is not None
    assert grouped.alpha.interval is None  # each patient has the same records
    assert "(no interval: the resamples do not differ)" in grouped.lines()[-1]


def test_where_a_figure_is_undefined_the_lines_say_so() -> None:
    same = expert_agreement(panel(codes("1111"), codes("1111")), FIVE, CONFIG)
    assert (same.alpha.value, same.pairs[0].kappa.value, same.pairs[0].same.value) == (None, None, 1.0)
    assert "kappa undefined (all ratings are the same)" in same.lines()[1]
    assert "undefined (all ratings are the same)" in same.lines()[2]
    apart = expert_agreement(panel(codes("12.."), codes("..12")), FIVE, CONFIG)
    assert (apart.alpha.value, apart.pairs[0].kappa.value, apart.rated_by_several) == (None, None, 0)
    assert apart.lines()[2].count("undefined (no record has two ratings)") == 1
    perfect = expert_agreement(panel(codes("1212"), codes("1212")), FIVE, CONFIG)
    assert (perfect.alpha.value, perfect.alpha.interval) == (1.0, None)
    opposed = expert_agreement(panel(codes("12" * 20), codes("21" * 20)), FIVE, CONFIG)
    assert opposed.alpha.value == pytest.approx(-1 + 1 / 40) and opposed.pairs[0].kappa.value == -1.0


# --- the label that is kept ---


@pytest.mark.parametrize(
    ("values", "kept"),
    [((1,), 1), ((1, None), 1), ((1, 0), None), ((1, 1, 0), 1), ((1, 0, -1), None), ((0, 0, 1, 1), None),
     ((0, 0, 1, -1), 0), ((None, None), None)],
)  # fmt: skip
def test_most_votes(values: tuple[int | None, ...], kept: int | None) -> None:
    assert majority(values) == kept


def test_training_is_on_the_majority_and_ties_are_left_out_and_named(tmp_path: Path) -> None:
    rows = three_experts()
    dataset = load(write(tmp_path / "raw.csv", rows), *NAMED)
    assert dataset.experts is not None and tuple(dataset.experts.tied()) == TIED
    assert [row.id for row in dataset.ratings] == [row["Visit ID"] for row in rows if row["Visit ID"] not in TIED]
    by_id = {row.id: row for row in dataset.ratings}
    assert by_id["V-00004"].label == "Does Not Match"  # by the first and third; the second differs
    assert (by_id["V-00006"].label, by_id["V-00006"].rationale) == ("Does Not Match", "an injury")
    note = (
        "warning: 5 of 60 records are left out of training and testing: no rating has most votes and none was "
        "adjudicated (ids V-00000, V-00012, V-00024, V-00036, V-00048); expertune check --adjudicate FILE lists them"
    )
    assert note in dataset.notes
    parts = dataset.split.parts().values()
    assert sorted(row.id for part in parts for row in part) == sorted(by_id)
    assert not {"Reviewer1", "R2", "R3", "Why", "Why2"} & set(dataset.ratings[0].extra)
    assert "rating = Reviewer1, R2, R3, rationale = Why, Why2, Why3" in str(dataset.columns)
    assert [(each.row, each.id) for each in dataset.ratings[:2]] == [(3, "V-00001"), (4, "V-00002")]


def test_the_rationale_is_of_an_expert_who_gave_the_kept_label(tmp_path: Path) -> None:
    rows = [{**row, "Reviewer1": "Match", "R2": "Unknown", "R3": "Unknown"} for row in three_experts(12)]
    rows[3]["Why2"] = ""
    rated, _ = read_rated(write(tmp_path / "raw.csv", rows), MAPPING, TOPIC, NAMED)
    assert [row.rationale for row in rated.ratings[:5]] == ["two's reason"] * 3 + ["three's reason", "two's reason"]
    one, _ = read_rated(tmp_path / "raw.csv", MAPPING, TOPIC, [NAMED[0], "rationale=Why", *TEXTS])
    assert one.ratings[1].rationale == rows[1]["Why"]  # a column for all


def test_one_column_and_the_repeated_form_are_the_same_as_ever(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw.csv", three_experts())
    one = load(raw, "rating=R2", "rationale=Why2", *TEXTS)
    assert one.experts is None and len(one.ratings) == 60
    several = load(raw, *NAMED)
    repeated = load(
        raw, "rating=Reviewer1", "rating=R2,R3", "rationale=Why", "rationale=Why2", "rationale=Why3", *TEXTS
    )
    assert repeated.experts == several.experts and repeated.input_sha256 == several.input_sha256
    config = make_config({"column": list(NAMED)})  # a list, as YAML has it
    assert make_config(as_dict(config)).column == NAMED
    frame = load(pd.read_csv(raw, dtype={"MRN": str}), *NAMED)
    assert frame.input_sha256 == several.input_sha256


def test_a_column_whose_own_name_has_a_comma_is_one_column() -> None:
    found = find_columns("a.csv", ["Score, first", "Score", "Prompt"], ["rating=score, first"])
    assert (dict(found.roles), found.experts) == ({"rating": "Score, first", "prompt": "Prompt"}, ())


def test_codes_are_translated_in_every_experts_column(tmp_path: Path) -> None:
    mapping = {1: 1, 2: 0, 0: -1}
    code = {"Match": 1, "Does Not Match": 2, "Unknown": 0, "": ""}
    rows = [{**row, **{name: code[row[name]] for name in ("Reviewer1", "R2", "R3")}} for row in three_experts()]
    labels, coded = write(tmp_path / "a.csv", three_experts()), write(tmp_path / "b.csv", rows)
    found = load_dataset(coded, mapping, TOPIC, Config(column=NAMED))
    assert found.input_sha256 == load(labels, *NAMED).input_sha256
    format_raw(coded, make_scale(mapping), TOPIC, NAMED).frame.to_csv(tmp_path / "c.csv", index=False)
    again = load_dataset(tmp_path / "c.csv", mapping, TOPIC, Config(column=("rating=Reviewer1,R2,R3",)))
    assert again.input_sha256 == found.input_sha256


# --- faults ---


@pytest.mark.parametrize(
    ("choices", "kind", "says"),
    [
        (["rating=Reviewer1,R9"], DatasetError, 'no column "R9"; it has: MRN, Visit ID'),
        (["rating=Reviewer1,R2,R2"], UsageError, "'R2' is given twice, as rating; name a column once"),
        (["rating=Reviewer1,R2", "rating=Reviewer1"], UsageError, "'Reviewer1' is given twice, as rating"),
        (["rating=,"], DatasetError, 'no column ","'),
        (
            ["rating=Reviewer1,R2,R3", "rationale=Why,Why2"],
            UsageError,
            "2 rationale columns for 3 rating columns; name",
        ),
        (["rating=R2", "adjudicated=R3"], UsageError, "adjudicated needs the ratings of several experts"),
        (["rating=Reviewer1,R2", "adjudicated=R9"], DatasetError, "correct --column adjudicated=R9 (a column, or the"),
        (["rating=Reviewer1,R2", "adjudicated=R2"], UsageError, "'R2' is given twice, as rating and adjudicated"),
        (["rating=Reviewer1,Empty"], DatasetError, 'column "Empty": no rating in any row; leave the column out of'),
    ],
)
def test_columns_that_cannot_be(tmp_path: Path, choices: list[str], kind: type[ExpertuneError], says: str) -> None:
    raw = write(tmp_path / "raw.csv", [{"Empty": "", **row} for row in three_experts(10)])
    with pytest.raises(kind) as caught:
        load(raw, *choices, *TEXTS)
    assert says.replace("MRN", "Empty, MRN") in str(caught.value) and "\n" not in str(caught.value)


def test_values_outside_the_mapping_in_one_column_only(tmp_path: Path) -> None:
    rows = three_experts()
    rows[5]["R3"], rows[8]["R3"] = "perhaps", "maybe"
    for read in (load, lambda path, *choices: format_raw(path, SCALE, TOPIC, choices)):
        with pytest.raises(DatasetError) as caught:
            read(write(tmp_path / "raw.csv", rows), *NAMED)
        assert str(caught.value) == (
            f'{tmp_path / "raw.csv"} rows 7, 10, column "R3": perhaps, maybe are not one of 1 (Match), '
            "0 (Does Not Match), -1 (Unknown) (add it to the mapping or correct the row) (Visit ID V-00005, V-00008)"
        )


def test_a_record_that_nobody_rated_and_experts_who_agree_on_none(tmp_path: Path) -> None:
    rows = three_experts(30)
    rows[4] |= dict.fromkeys(("Reviewer1", "R2", "R3"), "n/a")
    with pytest.raises(DatasetError, match=r"row 6: no rating in Reviewer1, R2, R3; .* \(Visit ID V-00004\)$"):
        load(write(tmp_path / "raw.csv", rows), *NAMED)
    rows = [{**row, "Reviewer1": "Match", "R2": "Unknown"} for row in three_experts(30)]
    with pytest.raises(DatasetError, match="the experts are tied on all 30 records, so that none has a label; write"):
        load(write(tmp_path / "raw.csv", rows), "rating=Reviewer1,R2", *TEXTS)


# --- the adjudication list ---


def listed(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def fill(path: Path, label: str, **others: str) -> None:
    """Settle every record of a list, those in `others` by another label, as a spreadsheet saves it: with semicolons."""
    rows = [{**row, "adjudicated": others.get(row["id"], label), "comment": "discussed"} for row in listed(path)]
    with open(path, "w", newline="", encoding="utf-8-sig") as file:
        table = csv.DictWriter(file, list(rows[0]), delimiter=";")
        table.writeheader()
        table.writerows(rows)


def test_the_list_has_who_differs_where_and_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw, path = write(tmp_path / "raw.csv", three_experts()), tmp_path / "disagreements.csv"
    assert expertune_here("check", "--input", raw, "--adjudicate", path, *flags(*NAMED)) == 0
    rows = listed(path)
    assert list(rows[0]) == ["id", "Reviewer1", "R2", "R3", "adjudicated", "comment"]
    assert [row["id"] for row in rows[:5]] == list(TIED)
    assert rows[0] == {"id": "V-00000", "Reviewer1": "Match", "R2": "Does Not Match", "R3": "Unknown",
                       "adjudicated": "", "comment": ""}  # fmt: skip
    differ = [row for row in three_experts() if len({row["Reviewer1"], row["R2"], row["R3"]} - {""}) > 1]
    assert {row["id"] for row in rows} == {row["Visit ID"] for row in differ}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and path.read_bytes().startswith(b"\xef\xbb\xbfid,")
    assert "cough" not in path.read_text() and "reason" not in path.read_text()
    said = capsys.readouterr().out
    assert f"{path}: {len(rows)} records on which the experts differ, 5 of them tied, first" in said
    assert "60 records of 3 experts: Reviewer1 rated 60, R2 rated 60, R3 rated 54; they differ on" in said
    assert "Krippendorff's alpha (nominal): 0." in said and "Reviewer1 and R2: 75.0% [" in said
    assert expertune_here("check", "--input", raw, "--adjudicate", path, *flags(*NAMED)) == 2
    assert "exists and may be filled in" in capsys.readouterr().err


def test_the_list_with_text_for_the_adjudicator(tmp_path: Path) -> None:
    raw, path = write(tmp_path / "raw.csv", three_experts()), tmp_path / "list.csv"
    given = ("--adjudicate", path, "--adjudicate-with-text", "--output", tmp_path / "f.csv")
    assert expertune_here("format", raw, *given, *flags(*NAMED)) == 0
    first = listed(path)[0]
    assert list(first)[6:] == ["Prompt", "rationale 1", "rationale 2", "rationale 3"]
    assert "cough, fever" in first["Prompt"] and first["rationale 2"] == "two's reason"
    assert expertune_here("check", "--input", raw, *given[2:3], *flags(*NAMED)) == 2  # no list to add the text to


def test_a_filled_list_is_merged_by_id(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw, path = write(tmp_path / "raw.csv", three_experts()), tmp_path / "list.csv"
    assert expertune_here("check", "--input", raw, "--adjudicate", path, *flags(*NAMED)) == 0
    fill(path, "", **{"V-00000": "Unknown", "V-00012": "1", "V-00004": "Unknown"})
    dataset = load(raw, *NAMED, f"adjudicated={path}")
    by_id = {row.id: row for row in dataset.ratings}
    assert (by_id["V-00000"].label, by_id["V-00012"].label) == ("Unknown", "Match")
    assert by_id["V-00000"].rationale == "three's reason"  # who gave the label
    assert by_id["V-00004"].label == "Unknown"  # against the majority
    assert dataset.experts is not None and tuple(dataset.experts.tied()) == TIED[2:]
    assert f"adjudicated = the list {path}" in str(dataset.columns)
    capsys.readouterr()
    named = flags(*NAMED, f"adjudicated={path}")
    assert expertune_here("check", "--input", raw, "--json", "--adjudicate", tmp_path / "more.csv", *named) == 0
    experts = json.loads(capsys.readouterr().out)["experts"]
    assert (experts["adjudicated"], experts["tied"], experts["rated_by_several"]) == (3, 3, 60)
    assert {row["id"]: row["adjudicated"] for row in listed(tmp_path / "more.csv")}["V-00012"] == "Match"  # kept


def test_a_column_of_adjudicated_labels(tmp_path: Path) -> None:
    rows = [{**row, "Final": "Unknown" if at in (0, 12) else ""} for at, row in enumerate(three_experts())]
    dataset = load(write(tmp_path / "raw.csv", rows), *NAMED, "adjudicated=Final")
    assert {row.id: row.label for row in dataset.ratings}["V-00012"] == "Unknown"
    assert dataset.experts is not None and tuple(dataset.experts.tied()) == TIED[2:]
    assert "Final" not in dataset.ratings[0].extra
    rows[0]["Final"] = "perhaps"
    with pytest.raises(DatasetError, match=r'row 2, column "Final": perhaps is not one of .*V-00000'):
        load(write(tmp_path / "raw.csv", rows), *NAMED, "adjudicated=Final")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda row: {**row, "id": "V-99999"}, 'row 2, column "id": V-99999 is not an id of the rated file'),
        (lambda row: {**row, "id": "V-00001"}, 'row 2, column "id": V-00001 has other ratings than in the rated file'),
        (lambda row: {**row, "adjudicated": "Perhaps"}, 'row 2, column "adjudicated": Perhaps is not one of'),
        (lambda row: {key: cell for key, cell in row.items() if key != "id"}, 'no column "id"'),
    ],
)
def test_a_list_of_other_records_is_refused(tmp_path: Path, change: Any, says: str) -> None:
    raw, path = write(tmp_path / "raw.csv", three_experts()), tmp_path / "list.csv"
    expertune_here("check", "--input", raw, "--adjudicate", path, *flags(*NAMED))
    fill(path, "Match")
    row = next(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines(), delimiter=";"))
    write(path, [change(row)])
    with pytest.raises(DatasetError, match=r"list\.csv") as caught:
        load(raw, *NAMED, f"adjudicated={path}")
    assert says in str(caught.value)
    write(path, [row, {**row, "adjudicated": "Unknown"}])
    with pytest.raises(DatasetError, match='row 3, column "id": V-00000 is adjudicated twice, differently; keep one'):
        load(raw, *NAMED, f"adjudicated={path}")


def test_a_spreadsheet_converts_neither_ids_nor_labels(tmp_path: Path) -> None:
    mapping, ids = {"minus": 0, "=plus": 1}, ("0010", "1-2", "20240101123456789")
    rows = [{"id": id, "Prompt": f"p {id}", "A": "minus", "B": "=plus" if at else "minus"} for at, id in enumerate(ids)]
    raw, path = write(tmp_path / "raw.csv", rows), tmp_path / "list.csv"
    given = ("--rating-mapping", json.dumps(mapping), *flags("rating=A,B"))
    expertune_here("check", "--input", raw, "--adjudicate", path, *given)
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    assert lines[1:] == ["'1-2,minus,'=plus,,", "'20240101123456789,minus,'=plus,,"]
    fill(path, "minus")
    found, _ = read_rated(raw, mapping, TOPIC, ["rating=A,B", f"adjudicated={path}"])
    assert [(row.id, row.label) for row in found.ratings] == [(id, "minus") for id in ids]


def test_a_list_needs_several_experts_and_ids_of_the_users_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw, path = write(tmp_path / "raw.csv", three_experts()), tmp_path / "list.csv"
    assert expertune_here("check", "--input", raw, "--adjudicate", path, *flags("rating=R2", *TEXTS)) == 2
    assert "there is one rating column" in capsys.readouterr().err
    write(raw, [{key: cell for key, cell in row.items() if key != "Visit ID"} for row in three_experts()])
    assert expertune_here("check", "--input", raw, "--adjudicate", path, *flags(*NAMED)) == 2
    assert "name a column of unique ids with --column id=NAME" in capsys.readouterr().err and not path.exists()
    write(path, [{"id": "2", "adjudicated": "Match"}])
    with pytest.raises(UsageError, match="matched by id, and the records have no unique ids"):
        load(raw, *NAMED, f"adjudicated={path}")


# --- format → check → tune read the same ---


def test_format_keeps_the_experts_and_adds_the_label(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{**row, "Final": "Unknown" if at == 0 else ""} for at, row in enumerate(three_experts())]
    raw, output = write(tmp_path / "raw.csv", rows), tmp_path / "formatted.csv"
    assert (
        expertune_here("format", raw, "--output", output, "--topics", TOPIC, *flags(*NAMED, "adjudicated=Final")) == 0
    )
    said = capsys.readouterr().out
    assert "warning: 4 of 60 records are left out" in said and "Krippendorff's alpha" in said
    assert '--column "rating=Reviewer1,R2,R3" --column adjudicated=adjudicated' in said
    formatted = {row["Row_ID"]: row for _, row in pd.read_csv(output, dtype=str, keep_default_na=False).iterrows()}
    assert [formatted[id]["Standardized_Rating"] for id in ("V-00000", "V-00001", "V-00012")] == ["-1", "0", ""]
    assert formatted["V-00000"]["adjudicated"] == "-1" and formatted["V-00012"]["R2"] == "Match"
    again = ("rating=Reviewer1,R2,R3", "adjudicated=adjudicated")
    direct, via = load(raw, *NAMED, "adjudicated=Final"), load(output, *again)
    assert direct.input_sha256 == via.input_sha256 and direct.template == via.template
    assert direct.experts is not None and via.experts is not None and direct.experts.values == via.experts.values
    assert direct.split.groups == via.split.groups and direct.examples == via.examples
    assert not {"Standardized_Rating", "adjudicated"} & set(via.ratings[0].extra)
    assert expertune_here("check", "--input", output, *flags(*again)) == 0
    with pytest.raises(DatasetError, match=r'column "Standardized_Rating": no rating'):  # never left out in silence
        load(output)


def test_format_refuses_an_expert_whose_column_it_would_overwrite(tmp_path: Path) -> None:
    rows = [{**row, "Standardized_Rating": row["R2"]} for row in three_experts(10)]
    with pytest.raises(UsageError, match='"Standardized_Rating" has the name of one that format writes; rename it'):
        format_raw(write(tmp_path / "raw.csv", rows), SCALE, TOPIC, ["rating=R3,Standardized_Rating", *TEXTS])
    assert read_table(tmp_path / "raw.csv").columns[-1] == "Standardized_Rating"
