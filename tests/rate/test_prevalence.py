"""The prevalence of a rated file: of the run's evaluation, in the summary and in the JSON document."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest

from evaluate.samples import rated, truth
from expertune.cli.output import print_tally
from expertune.config import Config
from expertune.evaluate.compare import evaluate
from expertune.predict.score import likeliest
from expertune.rate.artifact import load_product
from expertune.rate.runner import Tally, rate_file
from expertune.rate.serve import ServedModel
from rate.stub import SCALE, Counted, RuleEngine, asked, scores, visits, write_csv, write_run


def evaluated(folder: Path, labels: int = 3) -> Path:
    """A tuned run whose rater was right in 8 of 10 test records of each of the first `labels` labels."""
    folder.mkdir()
    (folder / "some.gguf").write_bytes(b"GGUF model")
    expert = [at % labels for at in range(30 * labels)]
    predicted = [(at + (at // labels % 10 < 2)) % labels for at in range(30 * labels)]
    found = evaluate("tuned", truth(expert), rated(predicted), SCALE, {}, Config(bootstrap_resamples=100))
    return write_run(folder / "run", folder / "some.gguf", evaluation={"evaluations": [asdict(found)]})


def rate(folder: Path, engine: RuleEngine, count: int = 400) -> Tally:
    source = write_csv(folder / "new.csv", visits(count))
    served = ServedModel(asked(engine).scorer, "d", 1)
    return rate_file(source, folder / "rated.csv", load_product(folder), served, Counted().stage)


def test_the_prevalence_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = evaluated(tmp_path / "a")
    tally = rate(folder, RuleEngine())
    scorer = asked(RuleEngine()).scorer
    own = Counter(SCALE.labels[likeliest(scorer.score(row["Prompt"]).probabilities)] for row in visits(400))
    assert tally.predicted == own and sum(own.values()) == 400 and len(scores("x", 3)) == 3
    assert tally.prevalence is not None
    for at, each in enumerate(tally.prevalence.labels):
        # of each label 8 in 10 are right and 2 get the next label
        assert each.predicted == pytest.approx(own[each.label] / 400)
        corrected = [share.corrected.value for share in tally.prevalence.labels]
        assert 0.8 * corrected[at] + 0.2 * corrected[at - 1] == pytest.approx(each.predicted, abs=1e-6)
    print_tally(tally, Path("rated.csv"))
    said = capsys.readouterr().out.splitlines()
    assert said[1] == f"Prevalence, corrected for the rater's errors: {tally.prevalence.line()}"
    assert any("like the 90 test records" in line for line in said if line.startswith("note: "))
    print_tally(tally, Path("rated.csv"), as_json=True)
    labels = json.loads(capsys.readouterr().out)["prevalence"]
    assert [each["label"] for each in labels] == list(SCALE.labels)
    assert labels[0]["corrected"]["value"] == tally.prevalence.labels[0].corrected.value
    again = rate(folder, RuleEngine())  # from the journal
    assert (again.counts.computed, again.prevalence) == (0, tally.prevalence)


def test_records_that_failed_do_not_count(tmp_path: Path) -> None:
    folder = evaluated(tmp_path / "a")
    source = write_csv(folder / "new.csv", [*visits(50), {"Row_ID": "x", "Prompt": "bad"}])
    served = ServedModel(asked(RuleEngine()).scorer, "d", 1)
    tally = rate_file(source, folder / "rated.csv", load_product(folder), served, Counted().stage)
    assert (tally.counts.failed, sum(tally.predicted.values())) == (1, 50)
    assert tally.prevalence is not None and tally.prevalence.labels[0].corrected.n == 50


def test_without_an_evaluation_or_with_too_few_test_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "some.gguf").write_bytes(b"GGUF model")
    plain = rate(write_run(tmp_path / "run", tmp_path / "some.gguf"), RuleEngine(), 20)
    assert plain.prevalence is None and not any("prevalence" in note for note in plain.notes)
    few = rate(evaluated(tmp_path / "b", labels=2), RuleEngine(), 50)
    assert any("too few test records (Unknown 0), 5 of each" in note for note in few.notes)
    for tally in (plain, few):
        print_tally(tally, Path("rated.csv"), as_json=True)
        assert json.loads(capsys.readouterr().out)["prevalence"] == []
