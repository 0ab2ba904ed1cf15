"""The display of long work, with a clock of our own: what is shown, how speed is reckoned, what is kept in the file."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from rich.console import Console

from expertune.errors import OutputError
from expertune.progress import Progress, RunThroughput, Throughput, duration_text, speed_text
from expertune.progress.whole_job import WholeJob, left_text
from expertune.train.events import DevEvent, StepEvent


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def pipe(clock):
    """A Progress whose stderr is no terminal, and what it wrote."""
    output = io.StringIO()
    console = Console(file=output, force_terminal=False)
    return Progress(console=console, clock=clock), output


@pytest.fixture
def terminal(clock, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=120, legacy_windows=False)
    return Progress(console=console, clock=clock), output


def step(number: int, *, steps: int = 100, tokens: int = 600, seconds: float = 2.0, loss: float = 0.4123) -> StepEvent:
    return StepEvent(number, steps, number / 10, loss, 1e-4, 0.5, tokens, seconds)


def dev(number: int, *, steps: int = 100, seconds: float = 5.0, best: bool = True) -> DevEvent:
    return DevEvent(number, steps, 0.612, 0.9, None, 0.71, 0.8, best, seconds)


def test_lines_at_every_tenth_with_rate_and_time_left(pipe, clock):
    progress, output = pipe
    with progress, progress.stage("Rating", total=100, unit="rows") as stage:
        for _ in range(100):
            clock.now += 0.25
            stage.advance()
    lines = output.getvalue().splitlines()
    assert lines[0] == "Rating: 0/100"
    assert lines[1] == "Rating: 10/100 (10%), 4.0 rows/s, 22 s left"
    assert lines[-1] == "Rating: done, 100/100 in 25 s"
    assert len(lines) == 12


def test_slow_work_speaks_every_few_seconds_and_less_often_later(pipe, clock):
    progress, output = pipe
    with progress, progress.stage("Training", total=100_000) as stage:
        for _ in range(3600):
            clock.now += 1
            stage.advance()
    spoken = output.getvalue().splitlines()[1:-1]
    assert spoken[0].startswith("Training: 5/100,000 (0%), 1.0/s, 27 h 46 min left")
    assert 60 < len(spoken) < 120  # an hour: not 720 lines, and never a minute of silence


def test_work_of_unknown_length_has_a_count_and_a_rate(pipe, clock):
    progress, output = pipe
    with progress, progress.stage("Reading", unit="rows") as stage:
        clock.now += 10
        stage.advance(5000)
    assert output.getvalue().splitlines() == [
        "Reading ...",
        "Reading: 5,000, 500 rows/s",
        "Reading: done, 5,000 in 10 s",
    ]


def test_rows_finished_by_an_earlier_run_do_not_raise_the_rate(pipe, clock):
    progress, output = pipe
    with progress, progress.stage("Rating", total=1000, done=900, unit="rows") as stage:
        clock.now += 10
        stage.advance(50)
    assert "950/1,000 (95%), 5.0 rows/s, 10 s left" in output.getvalue()


def test_the_pace_forgets_what_is_old_and_joins_bursts():
    pace = Throughput()
    assert pace.rate is None
    for _ in range(50):
        pace.add(1, 100.0)
    for _ in range(20):
        pace.add(1, 0.5)
    assert pace.rate == pytest.approx(2.0)
    burst = Throughput()
    for _ in range(100):  # sixteen answers at a time, each batch a second after the last one
        for answer in range(16):
            burst.add(1, 0.0 if answer else 1.0)
    assert burst.rate == pytest.approx(16.0, rel=0.1)


def test_training_counts_real_tokens_and_the_looks_at_dev():
    pace = RunThroughput()
    for number in range(1, 11):
        pace.add(step(number, tokens=600, seconds=2.0))
    assert pace.tokens.rate == pytest.approx(300)
    assert pace.seconds_left(90) == pytest.approx(180)
    pace.add(dev(10, seconds=5.0))  # half a second for each step up to now
    assert pace.tokens.rate == pytest.approx(300)
    assert pace.seconds_left(90) == pytest.approx(90 * 2.5)


def test_a_resumed_training_reckons_from_its_own_steps():
    pace = RunThroughput()
    pace.add(dev(900, seconds=4.0))
    assert pace.seconds_left(100) is None
    pace.add(step(901, seconds=2.0))
    pace.add(step(902, seconds=2.0))
    assert pace.seconds_left(98) == pytest.approx(98 * 4)


def test_training_events_as_lines(pipe, clock):
    progress, output = pipe
    with progress, progress.stage("Training", total=100):
        clock.now += 10
        progress.show(step(1))
        progress.show(dev(1))
        progress.show(dev(1, best=False))
    lines = output.getvalue().splitlines()
    assert lines[1] == "Training: 1/100 (1%), 300 tokens/s, 3 min 18 s left, loss 0.412"
    assert lines[2] == "Training: step 1, validation loss 0.612, macro-F1 0.710, accuracy 0.800 (best so far)"
    assert lines[3] == "Training: step 1, validation loss 0.612, macro-F1 0.710, accuracy 0.800"


def test_an_interrupted_stage_says_where_it_stopped(pipe, clock):
    progress, output = pipe
    with pytest.raises(KeyboardInterrupt), progress, progress.stage("Training", total=100) as stage:
        clock.now += 3
        stage.advance(12)
        raise KeyboardInterrupt
    assert output.getvalue().splitlines()[-1] == "Training: stopped at 12/100 after 3.0 s"


def test_bars_on_a_terminal(terminal, clock):
    progress, output = terminal
    with progress, progress.stage("Training", total=100):
        clock.now += 2
        progress.show(step(50))
        progress.show(dev(50))
    text = output.getvalue()
    assert "\x1b[?25l" in text and text.rstrip("\n").endswith("\x1b[?25h")  # the cursor is given back
    assert "validation loss 0.612" in text
    assert "done, 50/100 in 2.0 s" in text
    assert "Training" in text and "━" in text


def test_the_bar_shows_rate_and_time_left(terminal, clock):
    progress, output = terminal
    with progress, progress.stage("[bold]Rating[/bold]", total=100, unit="rows") as stage:
        clock.now += 2
        stage.advance(50)
        progress.display._live.refresh()  # now, not at the next tick of rich's own thread
    assert "[bold]Rating[/bold]" in output.getvalue()
    assert "50/100 (50%), 25.0 rows/s, 2.0 s left" in output.getvalue()


def test_an_interruption_closes_the_bars_and_frees_the_terminal(terminal):
    progress, output = terminal
    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt), progress, progress.stage("Training", total=100) as outer:
        outer.advance(5)
        with progress.stage("Validation", total=10):
            raise KeyboardInterrupt
    for drawing in set(threading.enumerate()) - before:
        drawing.join(timeout=30)
        assert not drawing.is_alive()
    assert "stopped at 5/100" in output.getvalue() and "stopped at 0/10" in output.getvalue()
    assert output.getvalue().rstrip("\n").endswith("\x1b[?25h")
    with progress.stage("Once more", total=1):  # and a new stage can be shown
        pass
    assert "Once more" in output.getvalue()


def test_bars_leave_stdout_alone(terminal, capsys):
    progress, output = terminal
    with progress, progress.stage("Rating", total=2):
        print("a result")
    assert capsys.readouterr().out == "a result\n"
    assert "a result" not in output.getvalue()


def test_quiet_shows_nothing_but_keeps_the_file(tmp_path, capsys, clock):
    path = tmp_path / "train_events.jsonl"
    with Progress(quiet=True, events=path, clock=clock) as progress, progress.stage("Training", total=2) as stage:
        progress.show(step(1))
        stage.advance()
    assert capsys.readouterr() == ("", "")
    assert len(path.read_text().splitlines()) == 1


def test_lines_go_to_stderr(capsys, clock):
    with Progress(clock=clock) as progress, progress.stage("Rating", total=2):
        pass
    out, err = capsys.readouterr()
    assert out == "" and err.splitlines() == ["Rating: 0/2", "Rating: done, 0/2 in 0.0 s"]


def test_a_reader_that_went_away_ends_nothing(clock):
    output = io.StringIO()
    progress = Progress(console=Console(file=output, force_terminal=False), clock=clock)
    with progress, progress.stage("Training", total=10) as stage:
        output.close()
        stage.advance(10)
    assert stage.done == 10


def test_the_file_holds_every_event_and_goes_on_after_a_resume(tmp_path):
    path = tmp_path / "new folder" / "train_events.jsonl"
    with Progress(quiet=True, events=path) as progress:
        progress.show(step(1))
        progress.show(dev(1))
    with Progress(quiet=True, events=path) as progress:
        progress.show(step(2, loss=float("nan")))
    first, look, second = [json.loads(line) for line in path.read_text().splitlines()]
    assert first == {
        "event": "step",
        "step": 1,
        "steps": 100,
        "epoch": 0.1,
        "loss": 0.4123,
        "learning_rate": 1e-4,
        "gradient_norm": 0.5,
        "tokens": 600,
        "seconds": 2.0,
    }
    assert look["event"] == "dev" and look["macro_f1"] == 0.71 and look["best"] is True
    assert second["step"] == 2 and second["loss"] is None  # JSON has no NaN
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "taken").write_text("")
    progress = Progress(quiet=True, events=tmp_path / "taken" / "train_events.jsonl")
    with pytest.raises(OutputError, match=r"train_events\.jsonl: cannot be written"), progress:
        progress.show(step(1))


def test_several_threads_advance_one_stage(pipe):
    progress, _ = pipe
    with progress, progress.stage("Rating", total=4000) as stage:
        workers = [threading.Thread(target=lambda: [stage.advance() for _ in range(1000)]) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert stage.done == 4000


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.2, "4.2 s"), (9.96, "10 s"), (59.6, "1 min 0 s"), (725, "12 min 5 s"), (11229, "3 h 7 min")],
)
def test_times_are_written_as_a_person_reads_them(seconds, text):
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("rate", "text"), [(None, ""), (0.0, ""), (0.25, "4.0 s each"), (3.44, "3.4 rows/s"), (1234.5, "1,234 rows/s")]
)
def test_speeds_are_written_as_a_person_reads_them(rate, text):
    assert speed_text(rate, "rows") == text


def test_plain_lines_need_no_rich():
    code = (
        "import sys\nfrom expertune.progress import Progress\n"
        "with Progress() as progress, progress.stage('Rating', total=1) as stage: stage.advance()\n"
        "assert not any(name in sys.modules for name in ('rich', 'torch'))"
    )
    source = Path(__file__).resolve().parents[1] / "src"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(source)},
    )
    assert done.returncode == 0, done.stderr
    assert "Rating: done, 1/1" in done.stderr and done.stdout == ""


# --- the whole job ---

PLAN = {"read": 10.0, "base": 20.0, "load": 10.0, "train": 100.0, "write": 10.0, "check": 30.0, "judge": 20.0}


def openings(output: io.StringIO) -> list[str]:
    """The share done and the time left that the opening lines end with."""
    return [line.partition(" (whole job: ")[2].rstrip(")") for line in output.getvalue().splitlines() if "job" in line]


def test_each_stage_opens_with_what_is_left_of_the_whole_job(pipe, clock):
    """200 s planned: the base takes twice its time, the training ends at half of its steps, in half of its time."""
    progress, output = pipe
    progress.whole.plan(PLAN)
    with progress.whole.part("base"), progress.stage("Base", total=20) as stage:
        clock.now += 40
        stage.advance(20)
    with progress.whole.part("train"), progress.stage("Training", total=100):
        clock.now += 50
        progress.show(step(50))
    with progress.whole.part("check"), progress.stage("Checking") as stage:
        clock.now += 1000
        stage.advance()
        with progress.stage("Checking again", total=5):
            pass
    with progress.whole.part("write"), progress.stage("Writing again", total=5):
        pass
    with progress.stage("Registering", total=5):
        pass
    assert openings(output) == [
        "5 %, about 3 min left",  # 190 s
        "20 %, about 4 min left",  # 160 s; the first tenth of the plan counts as planned: 20 + 40 s instead of 20 + 20
        "75 %, about 1 min left",  # 50 s; 20 + 40 + 50 s instead of 20 + 20 + 50
        "89 %, less than a minute left",  # a part that takes longer than planned is never said to be done
        "89 %, about 9 min left",  # once more before the check, which has proved long; the share does not fall
    ]
    assert "Training: 0/100 (whole job: 20 %, about 4 min left)" in output.getvalue()
    assert "Registering: 0/5\n" in output.getvalue()


def test_work_of_an_earlier_run_is_not_the_speed_of_this_one(pipe, clock):
    progress, output = pipe
    progress.whole.plan(PLAN)
    with progress.whole.part("base"):
        pass  # kept by the earlier run
    with progress.whole.part("train"), progress.stage("Training", total=100, done=50):
        clock.now += 50
        progress.show(step(100))
    with progress.whole.part("check"), progress.stage("Checking"):
        pass
    assert openings(output) == ["45 %, about 2 min left", "75 %, about 1 min left"]


def test_the_share_of_the_whole_job_never_falls_and_its_time_is_never_negative(clock):
    whole = WholeJob(clock)
    whole.plan(PLAN)
    shares = []
    for name, seconds in (("base", 0.0), ("load", 90.0), ("train", 3.0), ("write", 400.0), ("check", 1.0),
                          ("write", 5.0), ("check", 500.0), ("judge", 50.0)):  # fmt: skip
        with whole.part(name):
            for done in range(11):
                assert re.fullmatch(r"\d+ %, (about (\d h )?\d+ min|less than a minute) left", whole.follow(done, 10))
                shares.append(whole.share)
                clock.now += seconds / 10
    assert shares == sorted(shares) and 0 < shares[0] < shares[-1] < 1


def test_without_a_plan_or_outside_of_it_there_is_no_whole_job(clock):
    whole = WholeJob(clock)
    with whole.part("train"):
        assert whole.follow(1, 10) == ""
        whole.plan({"train": 0.0})
        assert whole.follow(1, 10) == "0 %, less than a minute left"
        with whole.part("model set"):
            assert whole.follow(1, 10) == ""
        assert whole.follow(1, 10) != ""
    assert whole.follow(1, 10) == ""


def test_the_bar_of_the_whole_job_is_below_the_stages_and_goes_with_them(terminal, clock):
    progress, output = terminal
    progress.whole.plan(PLAN)
    with progress.whole.part("train"), progress.stage("Training", total=100):
        clock.now += 50
        progress.show(step(50))
        assert [task.description for task in progress.display._live.tasks] == ["Training", "Whole job"]
        assert progress.display._live.tasks[1].completed == pytest.approx(0.45)
        with progress.stage("Validation", total=10):
            names = [task.description for task in progress.display._live.tasks]
            assert names == ["Training", "Validation", "Whole job"]
        progress.display._live.refresh()
    shown, _, last = output.getvalue().rpartition("Training")
    assert "Whole job" in shown and "45 %, about 2 min left" in shown
    assert "done, 50/100" in last and "Whole job" not in last


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "less than a minute left"), (29, "less than a minute left"), (31, "about 1 min left"),
     (565, "about 9 min left"), (3599, "about 1 h 0 min left"), (7500, "about 2 h 5 min left")],
)  # fmt: skip
def test_time_left_is_rounded_to_minutes(seconds, text):
    assert left_text(seconds) == text


# --- stages that need no explaining ---


def test_work_that_was_done_before_opens_no_stage(pipe):
    progress, output = pipe
    with progress.stage_if_needed("Preparing", 10, unit="records"):
        pass
    assert output.getvalue() == ""
    with pytest.raises(KeyboardInterrupt), progress.stage_if_needed("Preparing", 10, unit="records") as advance:
        advance(0)
        assert output.getvalue() == "Preparing: 0/10\n"
        advance(4)
        raise KeyboardInterrupt
    assert output.getvalue().splitlines()[-1] == "Preparing: stopped at 4/10 after 0.0 s"


def test_the_end_of_brief_work_without_a_count_is_not_said(pipe, clock):
    progress, output = pipe
    for seconds in (0.4, 0.6):
        with progress.stage("Fitting"):
            clock.now += seconds
    assert output.getvalue().splitlines() == ["Fitting ...", "Fitting ...", "Fitting: done in 0.6 s"]
