from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tiny
from expertune.cli.main import main
from expertune.engine.llama_cpp.engine import LlamaCppEngine
from expertune.errors import EngineError, Interrupted, UsageError
from expertune.predict.score import LanguageModelScorer, Prediction, rate_examples, softmax
from expertune.predict.uncertainty import Uncertainty
from expertune.rate.columns import share_columns
from expertune.rate.journal import Journal
from expertune.rate.runner import Counts, RateRequest, Tally, rate_records
from expertune.ratings.examples import chat_messages
from expertune.ratings.records import open_records
from expertune.ratings.schema import Example
from expertune.stats.calibration import Calibration
from expertune.stats.conformal import fit_conformal
from expertune.stats.ood import fit_novelty_detector
from rate.stub import SCALE, TOPIC, Counted, RuleEngine, asked, read_csv, scores, visits, write_csv, write_run

ROOT = Path(__file__).resolve().parents[2]


def run(source: Path, output: Path, given: RateRequest, counted: Counted | None = None) -> Tally:
    with Journal(output.with_name("journal.sqlite")) as journal:
        return rate_records(open_records(source), output, given, journal, (counted or Counted()).stage)


def test_every_row_is_written_in_its_place_with_the_engines_probabilities(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "new.csv", visits(600))
    engine, counted = RuleEngine(slots=3), Counted()
    tally = run(source, tmp_path / "rated.csv", asked(engine), counted)
    rows = read_csv(tmp_path / "rated.csv")
    examples = [Example(row["Row_ID"], "new", chat_messages(row["Prompt"], SCALE, TOPIC), "", "", 0) for row in rows]
    expected = rate_examples(RuleEngine(), examples, SCALE)
    assert [row["Row_ID"] for row in rows] == [f"r{i}" for i in range(600)]
    for row, rated in zip(rows, expected, strict=True):
        assert [float(row[column]) for column in share_columns(SCALE).values()] == pytest.approx(
            rated.probabilities, abs=1e-6
        )
        assert (row["Predicted_Label"], int(row["Predicted_Rating"])) == (rated.label, rated.value)
        assert float(row["Confidence"]) == pytest.approx(max(rated.probabilities), abs=1e-6)
        assert row["Rating_Error"] == row["Conformal_Set"] == ""
        assert (row["Review_Reasons"] == "low confidence") == (max(rated.probabilities) < 0.6)
    assert tally.counts == Counts(rows=600, computed=600, failed=0, review=tally.counts.review, inexact=0)
    assert counted.done == 600 and counted.stages[-1] == ("Rating", 600)


def test_a_text_that_is_there_several_times_is_rated_once(tmp_path: Path) -> None:
    rows = visits(300)
    source = write_csv(tmp_path / "new.csv", [*rows, *rows[:280], *rows[:10]])  # in one batch and in several
    engine, counted = RuleEngine(), Counted()
    tally = run(source, tmp_path / "rated.csv", asked(engine), counted)
    assert len(engine.scored) == len(set(engine.scored)) == tally.counts.computed == 300
    found = read_csv(tmp_path / "rated.csv")
    assert len(found) == counted.done == 590
    assert [row["Confidence"] for row in found[300:]] == [row["Confidence"] for row in (*found[:280], *found[:10])]


def test_a_second_run_asks_nothing_and_writes_the_same(tmp_path: Path) -> None:
    source, output = write_csv(tmp_path / "new.csv", visits(40)), tmp_path / "rated.csv"
    run(source, output, asked(RuleEngine()))
    first, again = output.read_bytes(), RuleEngine()
    assert run(source, output, asked(again)).counts.computed == 0
    assert again.scored == [] and output.read_bytes() == first


@pytest.mark.parametrize("change", [{"config": "other"}, {"digest": "other"}, {"engine": "ollama"}])
def test_another_configuration_model_or_engine_is_rated_anew(tmp_path: Path, change: dict[str, str]) -> None:
    source, output = write_csv(tmp_path / "new.csv", visits(5)), tmp_path / "rated.csv"
    run(source, output, asked(RuleEngine()))
    other = RuleEngine()
    other.name = change.pop("engine", other.name)
    run(source, output, asked(other, **change))
    assert len(other.scored) == 5


def test_failures_are_recorded_with_their_reason_and_tried_again(tmp_path: Path) -> None:
    rows = visits(30)
    for i in (3, 7):
        rows[i]["Prompt"] = f"bad {i}"
    rows[9]["Prompt"], rows[12]["Prompt"] = " ", rows[3]["Prompt"]
    source, output, engine = write_csv(tmp_path / "new.csv", rows), tmp_path / "rated.csv", RuleEngine()
    tally = run(source, output, asked(engine))
    assert tally.counts.failed == 4
    found = read_csv(output)
    for i, reason in {
        3: "rule: no answer",
        7: "rule: no answer",
        9: "the prompt is blank",
        12: "rule: no answer",
    }.items():
        assert found[i]["Rating_Error"] == reason and found[i]["Review_Reasons"] == "not rated"
        assert {found[i][name] for name in ("Predicted_Rating", "Predicted_Label", "Confidence", "p_match")} == {""}
    assert sum(row["Predicted_Rating"] == "" for row in found) == 4
    engine.broken = False
    engine.scored.clear()
    again = run(source, output, asked(engine))
    assert (again.counts.failed, again.counts.computed, len(engine.scored)) == (1, 2, 2)
    assert read_csv(output)[12]["Predicted_Rating"] in {"1", "0", "-1"}


def test_an_engine_that_is_gone_does_not_fail_a_million_rows(tmp_path: Path) -> None:
    engine = RuleEngine()
    engine.gone = True
    with pytest.raises(EngineError, match=r"rows failed one after the other .* run the same command again"):
        run(write_csv(tmp_path / "new.csv", visits(500)), tmp_path / "rated.csv", asked(engine))
    assert len(engine.scored) < 100
    assert not (tmp_path / "rated.csv").exists() and not list(tmp_path.glob(".*.part"))


def test_many_bad_rows_in_a_row_do_not_stop_a_living_engine(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "new.csv", [*visits(50, "bad"), *visits(50)])
    assert run(source, tmp_path / "rated.csv", asked(RuleEngine())).counts.failed == 50


def test_ctrl_c_keeps_what_was_rated(tmp_path: Path) -> None:
    class Stopping(Counted):
        def advance(self, n: int = 1) -> None:
            super().advance(n)
            if self.done == 70:
                raise KeyboardInterrupt

    source, output, engine = write_csv(tmp_path / "new.csv", visits(400)), tmp_path / "rated.csv", RuleEngine()
    with pytest.raises(Interrupted, match="the same command goes on"):
        run(source, output, asked(engine), Stopping())
    assert not output.exists() and not list(tmp_path.glob(".*.part"))
    run(source, output, asked(engine))
    assert len(engine.scored) == len(set(engine.scored)) == 400
    assert len(read_csv(output)) == 400


KILLED = """
import sys
sys.path[:0] = [{src!r}, {tests!r}]
from pathlib import Path
from rate.stub import Counted, RuleEngine, asked
from expertune.rate.journal import Journal
from expertune.rate.runner import rate_records
from expertune.ratings.records import open_records
folder = Path({folder!r})
with Journal(folder / "journal.sqlite") as journal:
    engine = RuleEngine(slots=2, seconds=0.002, told=folder / "told")
    rate_records(open_records(folder / "new.csv"), folder / "rated.csv", asked(engine), journal, Counted().stage)
"""


@pytest.mark.slow
def test_kill_9_loses_nothing_and_nothing_is_rated_twice(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "new.csv", visits(900))
    code = KILLED.format(src=str(ROOT / "src"), tests=str(ROOT / "tests"), folder=str(tmp_path))
    told = tmp_path / "told"
    kept: list[int] = []
    for wanted in (150, 500):
        process = subprocess.Popen([sys.executable, "-c", code])
        while not told.exists() or len(told.read_text().splitlines()) < wanted:
            assert process.poll() is None
            time.sleep(0.005)
        process.kill()
        process.wait()
        assert not (tmp_path / "rated.csv").exists()
        kept.append(len(told.read_text().splitlines()))
    subprocess.run([sys.executable, "-c", code], check=True)
    times = Counter(told.read_text().splitlines())
    assert len(times) == 900
    twice = sum(count - 1 for count in times.values())
    assert twice <= 2 * 2  # two kills, each with at most two rows under way, which no journal can know
    assert kept[0] < kept[1] < 900
    run(source, tmp_path / "whole" / "rated.csv", asked(RuleEngine()))
    assert (tmp_path / "rated.csv").read_bytes() == (tmp_path / "whole" / "rated.csv").read_bytes()
    assert not list(tmp_path.glob(".*.part"))


def test_rationales_are_asked_for_the_label_that_is_written_and_only_where_they_lack(tmp_path: Path) -> None:
    source, output, engine = write_csv(tmp_path / "new.csv", visits(12)), tmp_path / "rated.csv", RuleEngine()
    run(source, output, asked(engine))
    assert engine.generated == [] and "Rationale" not in read_csv(output)[0]
    tally = run(source, output, asked(engine, rationale=True))
    assert (len(engine.scored), len(engine.generated), tally.counts.computed) == (12, 12, 12)  # no row was scored again
    prompts = {int(prompt.partition("visit ")[2].partition(":")[0]): prompt for prompt in engine.generated}
    for i, row in enumerate(read_csv(output)):
        prompt = prompts[i]
        assert prompt.endswith(f'{{"rating": "{row["Predicted_Label"]}", "rationale": "')
        assert row["Rationale"] == f'since "{len(prompt)}" letters'
    run(source, output, asked(engine, rationale=True))
    assert len(engine.generated) == 12


def test_reasons_for_a_review(tmp_path: Path) -> None:
    output, engine = tmp_path / "rated.csv", RuleEngine()
    prompts = [engine.render(chat_messages(row["Prompt"], SCALE, TOPIC)) for row in visits(60)]
    shares = [softmax(scores(prompt, 3)) for prompt in prompts]
    conformal = fit_conformal(shares, [share.index(max(share)) for share in shares], SCALE.labels, coverage=0.8)
    texts = [row["Prompt"] for row in visits(60)]
    novelty = fit_novelty_detector(texts[:50], texts)
    unlike = write_csv(tmp_path / "more.csv", [*visits(60), {"Row_ID": "x", "Prompt": "zzyzx qwrtpl vbnmkj hgfdsq"}])
    run(unlike, output, asked(RuleEngine(), trust=Uncertainty(conformal=conformal, novelty=novelty)))
    for row, share in zip(read_csv(output), shares, strict=False):
        fitting = conformal.labels_for(share)
        assert row["Conformal_Set"] == " | ".join(fitting)
        assert ("several labels fit" in row["Review_Reasons"]) == (len(fitting) > 1)
        assert ("no label fits" in row["Review_Reasons"]) == (not fitting)
        assert "unlike" not in row["Review_Reasons"]
    assert "unlike the training rows" in read_csv(output)[-1]["Review_Reasons"]


def test_the_rating_is_the_judged_one_and_its_probability_the_calibrated_one(tmp_path: Path) -> None:
    """A rater's own rule chose a label that is neither the likeliest nor in the set: it is written, for review."""

    class ByRule(LanguageModelScorer):
        def score(self, record: str) -> Prediction:
            return Prediction((0.6, 0.3, 0.1), chosen=1)

    scorer = ByRule(RuleEngine(), lambda prompt: chat_messages(prompt, SCALE, TOPIC), SCALE)
    known = ((0.6, 0.3, 0.1), (0.1, 0.8, 0.1), (0.1, 0.1, 0.8))
    trust = Uncertainty(
        calibration=Calibration(1.0, (0.0, 0.0, 9.0), "", 50, 1.0, 1.0, ""),
        conformal=fit_conformal([*known] * 50, [0, 1, 2] * 50, SCALE.labels, coverage=0.9),
    )
    for calibrated, shares in ((True, (0.0007, 0.0004, 0.9989)), (False, (0.6, 0.3, 0.1))):
        source, output = write_csv(tmp_path / "new.csv", visits(3)), tmp_path / f"{calibrated}.csv"
        run(source, output, replace(asked(RuleEngine(), trust=trust, calibrated=calibrated), scorer=scorer))
        for row in read_csv(output):
            assert (row["Predicted_Label"], row["Predicted_Rating"]) == (SCALE.labels[1], str(SCALE.values[1]))
            found = [float(row[name]) for name in share_columns(SCALE).values()]
            assert found == pytest.approx(shares, abs=1e-4) and float(row["Confidence"]) == found[1]
            assert row["Conformal_Set"] == SCALE.labels[0]
            assert row["Review_Reasons"] == "several labels fit | low confidence"


def test_rows_whose_labels_could_not_be_scored_exactly_are_counted_when_they_are_rated(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "new.csv", [*visits(7, "odd"), *visits(2, "odd"), *visits(5)])
    first = run(source, tmp_path / "rated.csv", asked(RuleEngine()))
    assert (first.counts.inexact, first.counts.computed) == (7, 12)
    assert run(source, tmp_path / "rated.csv", asked(RuleEngine())).counts.inexact == 0  # all from the journal


def test_a_column_of_ours_in_the_input_is_refused(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "new.csv", [{"Prompt": "a", "Confidence": "1"}])
    with pytest.raises(UsageError, match='column "Confidence" is there already'):
        run(source, tmp_path / "rated.csv", asked(RuleEngine()))


def test_everything_is_private_and_no_text_of_a_row_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    rows = [*visits(20, "secret"), *visits(3, "bad secret")]
    output = tmp_path / "rated.csv"
    with Journal(tmp_path / "journal.sqlite") as journal:
        records = open_records(write_csv(tmp_path / "new.csv", rows))
        rate_records(records, output, asked(RuleEngine()), journal, Counted().stage)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir() if path.name != "new.csv"}
    assert modes.pop("rated.csv") == 0o600 and modes and set(modes.values()) == {0o600}
    told = capfd.readouterr()
    assert "secret" not in caplog.text + told.out + told.err
    assert "secret" not in "".join(row["Rating_Error"] for row in read_csv(output))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """With a stub engine: what is measured is the reader, the journal and the writer."""
    peaks = {}
    for count in (1_000, 8_000):
        source = tmp_path / f"{count}.csv"
        with open(source, "w") as file:
            file.write("Row_ID,Prompt\n")
            file.writelines(f"{i},visit {i}: cough and fever for {i % 9} days\n" for i in range(count))
        given = asked(RuleEngine(keep=False))
        with Journal(tmp_path / f"{count}.sqlite") as journal:
            tracemalloc.start()
            rate_records(open_records(source), tmp_path / f"{count}_rated.csv", given, journal, Counted().stage)
            peaks[count] = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    assert peaks[8_000] < 1.25 * peaks[1_000]


# --- the command, with the real embedded engine ---


def rate_command(*arguments: Any) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["rate", *map(str, arguments)])
    return int(ended.value.code or 0)


@pytest.mark.slow
def test_the_command_rates_as_rate_examples_does(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "run", tiny.make(tmp_path / "model.gguf"))
    rows = visits(25)
    rows[5]["Prompt"] = "cough " * 600  # longer than the context
    source, output = write_csv(tmp_path / "new.csv", rows), tmp_path / "rated.csv"
    assert rate_command(source, "--with", folder, "--output", output, "--rationale", "--threads", 1) == 0
    told = capfd.readouterr()
    assert "25 records, 25 rated now" in told.out and "1 not rated" in told.out and "not calibrated" in told.out
    found = read_csv(output)
    assert "context holds" in found.pop(5)["Rating_Error"]
    examples = [Example(row["Row_ID"], "new", chat_messages(row["Prompt"], SCALE, TOPIC), "", "", 0) for row in found]
    with LlamaCppEngine(folder / "fine_tuned_model.gguf", context=512, threads=1) as engine:
        expected = rate_examples(engine, examples, SCALE)
    for row, rated in zip(found, expected, strict=True):
        assert [float(row[column]) for column in share_columns(SCALE).values()] == pytest.approx(
            rated.probabilities, abs=1e-3
        )
        assert row["Predicted_Label"] == rated.label
    assert (tmp_path / "rated.csv.journal.sqlite").exists()


@pytest.mark.slow
def test_the_command_goes_on_after_kill_9(tmp_path: Path) -> None:
    import sqlite3

    folder = write_run(tmp_path / "run", tiny.make(tmp_path / "model.gguf"))
    source, output = write_csv(tmp_path / "new.csv", visits(300)), tmp_path / "rated.csv"
    command = [
        sys.executable,
        "-m",
        "expertune",
        "rate",
        source,
        "--with",
        folder,
        "--output",
        output,
        "--threads",
        "1",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    journal = tmp_path / "rated.csv.journal.sqlite-wal"
    while not journal.exists() or journal.stat().st_size < 400_000:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    with sqlite3.connect(tmp_path / "rated.csv.journal.sqlite") as db:
        (kept,) = db.execute("SELECT count(*) FROM ratings").fetchone()
    db.close()
    assert 0 < kept < 300
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert f"300 records, {300 - kept} rated now" in done.stdout
    assert len(read_csv(output)) == 300
