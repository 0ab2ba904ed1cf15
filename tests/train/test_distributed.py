"""Training in several processes: the adapter of one process, resuming with another number, a process that is killed.

Real processes and gloo over loopback. Tolerance: float32 sums in another order differ in their last bits, and AdamW
divides by the root of a second moment, so that a parameter with a tiny gradient may differ by a part of one update
(learning rate 3e-3). Two processes and one differed by 4e-7 at most; a 150th of an update is allowed. On the example
base, with more steps, a thirtieth.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import psutil
import pytest
import torch

import tiny
from easy_records import easy_records
from expertune.config import Config
from expertune.errors import Interrupted, RankLostError, UsageError
from expertune.fine_tuner import FineTuner
from expertune.gguf.read import GGUFFile
from expertune.model.load import load, place
from expertune.train import checkpoint
from expertune.train.checkpoint import CheckpointPlace
from expertune.train.class_balance import Teacher
from expertune.train.code_branch import CodeTokens
from expertune.train.data import TrainingData, TrainingResult
from expertune.train.distributed import Job, begin, training_ranks
from expertune.train.encode import Candidates, Row, unrated_row
from expertune.train.events import Event
from expertune.train.loop import Trainer
from expertune.train.ranks import Ranks
from expertune.train.trunk import NAME as TRUNK

ROOT = Path(__file__).resolve().parents[2]
ROWS, BASE = ROOT / "examples/formatted_dataset.csv", ROOT / "examples/base.gguf"
CANDIDATES = Candidates((30, 31), ((41, 42, 7), (43, 7), (44, 45, 7)), CodeTokens((60, 61), (71, 72, 73)))
CONFIG = Config(
    rank=4,
    alpha=8.0,
    epochs=3,
    batch_size=5,
    learning_rate=3e-3,
    checkpoint_seconds=0.0,
    compute_dtype="fp32",
    device="cpu",
    threads=2,
    layers=2,
)
CLOSE, CLOSE_ON_THE_EXAMPLE = 2e-5, 1e-4
Pairs = dict[str, tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make(tmp_path_factory.mktemp("base") / "tiny.gguf", qtype="Q8_0", layers=3)


def rows(count: int, seed: int) -> list[Row]:
    """Rows of different lengths with one beginning; the token after it decides the label."""
    draw, made = np.random.default_rng(seed), []
    for index in range(count):
        label = int(draw.integers(0, 3))
        prompt = (*range(50, 58), 100 + label, *draw.integers(200, 400, 5 + index % 9).tolist())
        answer = (*CANDIDATES.shared, *CANDIDATES.own[label], 9)
        made.append(Row(f"{seed}-{index}", label, prompt, answer, (1.0,) * len(answer)))
    return made


def data() -> TrainingData:
    """22 rated rows and 4 others in steps of 5: the last step of an epoch has one row, so that a process has none."""
    unrated = [unrated_row(f"u{at}", (*range(50, 58), 100 + at % 3, 300 + at), CANDIDATES, at % 3) for at in range(4)]
    soft = {row.id: (0.2, 0.3, 0.5) for row in unrated}
    return TrainingData([*rows(22, 0), *unrated], rows(19, 1), CANDIDATES, Teacher(soft, (1.0, 1.2, 1.5)))


def train(
    base: Path,
    folder: Path,
    nproc: int,
    *,
    resume: bool = False,
    stop_at: int = 1000,
    seconds: float | None = None,
    on_event: Callable[[Event], object] = lambda event: None,
) -> tuple[TrainingResult, Pairs]:
    """Train as a run does, in so many processes."""
    where = CheckpointPlace(folder, "run", resume)
    with training_ranks(nproc) as ranks, GGUFFile(base) as file:
        placement = place(file, CONFIG)
        ranks = begin(ranks, Job(base, "", CONFIG, data(), 40, where))
        tunable = load(file, CONFIG, placement)
        trainer = Trainer(
            tunable, data(), CONFIG, checkpoints=where, should_stop=lambda: trainer.step >= stop_at, ranks=ranks
        )
        if trainer.trunk_rows:
            trainer.read_trunk()
        for event in trainer.run(seconds):
            on_event(event)
    return trainer.result, tunable.lora.pairs()


def assert_close(found: Pairs, expected: Pairs) -> None:
    assert found.keys() == expected.keys()
    for name, pair in found.items():
        for own, other in zip(pair, expected[name], strict=True):
            np.testing.assert_allclose(own, other, rtol=0, atol=CLOSE, err_msg=name)


def decisions(result: TrainingResult) -> list[tuple[object, ...]]:
    """All that is decided on the way."""
    events = [(each.kind, each.step, each.steps, getattr(each, "best", None)) for each in result.history]
    return [*events, (result.steps, result.best_step)]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT / "src"), "COLUMNS": "200"}


def children() -> list[psutil.Process]:
    running = psutil.Process().children()
    return [each for each in running if "expertune.train.distributed" in each.cmdline()]


@pytest.fixture(scope="module")
def alone(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingResult, Pairs]:
    return train(base, tmp_path_factory.mktemp("alone"), 1)


def test_every_item_is_one_process_s() -> None:
    shares = [Ranks(rank, 3).share(range(8)) for rank in range(3)]
    assert sorted(each for share in shares for each in share) == list(range(8))
    assert [len(share) for share in shares] == [3, 3, 2]


def test_one_process_starts_no_other() -> None:
    with training_ranks(1) as ranks:
        assert ranks.count == 1 and children() == []


@pytest.mark.parametrize(
    ("nproc", "rank", "reason"),
    [(0, None, "nproc: 0"), (2, 0, "2 processes have been started already"), (1, 1, "only the first process")],
)
def test_numbers_that_are_not_possible_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nproc: int, rank: int | None, reason: str
) -> None:
    if rank is not None:
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", str(rank))
    with pytest.raises(UsageError, match=reason):
        FineTuner(quiet=True).process_dataset(ROWS, str(BASE), output_dir=tmp_path / "out", nproc=nproc)
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_does_not_start_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho 'no module' >&2\nexit 3\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    before = dict(os.environ)
    with (
        pytest.raises(RankLostError, match=r"^training process 2 of 2 failed \(no module\); .*--resume"),
        training_ranks(2),
    ):
        pass
    assert os.environ == before


@pytest.mark.slow
def test_two_processes_make_the_adapter_of_one(base: Path, tmp_path: Path, alone: tuple[TrainingResult, Pairs]) -> None:
    threads, seen = torch.get_num_threads(), list[str]()
    found, pairs = train(base, tmp_path, 2, on_event=lambda event: seen.extend(p.name for p in tmp_path.iterdir()))
    expected, adapter = alone
    assert_close(pairs, adapter)
    assert max(float(np.abs(b).max()) for _, b in adapter.values()) > 100 * CLOSE  # it has learned much more than that
    assert decisions(found) == decisions(expected)
    for own, other in zip(found.history, expected.history, strict=True):
        assert own.loss == pytest.approx(other.loss, abs=1e-4)
    assert [e.tokens for e in found.history if e.kind == "step"] == [
        e.tokens for e in expected.history if e.kind == "step"
    ]
    torch.testing.assert_close(found.best_log_RK, expected.best_log_RK, rtol=0, atol=1e-3)
    assert TRUNK in seen and [path.name for path in tmp_path.iterdir()] == [checkpoint.NAME]
    assert children() == [] and torch.get_num_threads() == threads


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), [(1, 3), (2, 1)])
def test_a_run_is_resumed_with_another_number_of_processes(
    base: Path, tmp_path: Path, alone: tuple[TrainingResult, Pairs], first: int, second: int
) -> None:
    with pytest.raises(Interrupted, match="stopped after step 7 of 18"):
        train(base, tmp_path, first, stop_at=7)
    found, pairs = train(base, tmp_path, second, resume=True)
    assert_close(pairs, alone[1])
    assert decisions(found) == decisions(alone[0])


@pytest.mark.slow
def test_a_limit_on_the_time_is_rank_0_s(base: Path, tmp_path: Path) -> None:
    found, _ = train(base, tmp_path, 2, seconds=0.0)
    assert found.steps == 3  # one after the first tenth of 18


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="this system has no kill -9")
def test_a_killed_process_ends_the_training_with_a_checkpoint(
    base: Path, tmp_path: Path, alone: tuple[TrainingResult, Pairs]
) -> None:
    def kill(event: Event) -> None:
        if event.kind == "step" and event.step == 5:
            children()[-1].kill()

    with pytest.raises(RankLostError) as ended:
        train(base, tmp_path, 3, on_event=kill)
    assert str(ended.value) == (
        "training process 3 of 3 was killed (signal 9); run the same command with --resume to continue"
    )
    assert children() == []
    kept = checkpoint.load(tmp_path, "run")
    assert kept is not None and kept.step in (5, 6)  # the others may have all that the next step needs
    found, pairs = train(base, tmp_path, 1, resume=True)
    assert_close(pairs, alone[1])
    assert decisions(found) == decisions(alone[0])


WAITING = """
import time
from expertune.train.distributed import training_ranks
with training_ranks(3):
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="this system has no kill -9")
def test_the_others_end_with_a_first_process_that_is_killed() -> None:
    first = subprocess.Popen([sys.executable, "-c", WAITING], stdout=subprocess.PIPE, env=environment())
    with first:
        assert first.stdout is not None and first.stdout.readline() == b"ready\n"
        others = psutil.Process(first.pid).children()
        first.kill()
        gone, left = psutil.wait_procs(others, timeout=30)
    assert len(gone) == 2 and left == []


# --- the command ---------------------------------------------------------------------------------------------------

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "expertune")
QUICK = (
    *("--topics", "respiratory infections", "--epochs", "2", "--learning-rate", "3e-3", "--rank", "8"),
    *("--batch-size", "4", "--compute-dtype", "fp32", "--device", "cpu", "--threads", "1", "--checkpoint-seconds", "0"),
    *("--class-weight", "none", "--approach", "tune", "--no-readout", "--no-fallback", "--bootstrap-resamples", "200"),
)


def start(folder: Path, *more: str, launcher: tuple[str, ...] = ("-m", "expertune")) -> subprocess.Popen[str]:
    """Start `expertune tune` on easy records."""
    records = folder.parent / "rows.csv"
    if not records.exists():
        easy_records().to_csv(records, index=False)
    given = ("--input", str(records), "--model", str(BASE), "--output-dir", str(folder))
    return subprocess.Popen(
        [sys.executable, *launcher, "tune", *given, *QUICK, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment(),
    )


def adapter(folder: Path) -> dict[str, np.ndarray]:
    return {each.name: each.data for each in gguf.GGUFReader(folder / "fine_tuned_adapter.gguf").tensors}


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="this system has no kill -9")
def test_the_command_names_the_killed_process_and_resumes(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    events = folder / "training_events.jsonl"
    run = start(folder, "--nproc", "2")
    while not events.exists() or events.read_text().count('"event": "step"') < 3:
        assert run.poll() is None, run.communicate()
        time.sleep(0.05)
    (child,) = [p for p in psutil.Process(run.pid).children() if "expertune.train.distributed" in p.cmdline()]
    child.kill()
    _, said = run.communicate(timeout=60)
    line = "error: training process 2 of 2 was killed (signal 9); run the same command with --resume to continue"
    assert run.returncode == 1 and said.splitlines()[-1] == line
    assert said.count("error:") == 1 and "Traceback" not in said
    assert line.removeprefix("error: ") in (folder / "fine_tuner.log").read_text()
    resumed = start(folder, "--resume")
    assert resumed.communicate(timeout=600) and resumed.returncode == 0
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    steps = [each["step"] for each in lines if each["event"] == "step"]
    assert steps == list(range(1, lines[-1]["steps"] + 1))  # none is lost, none is done twice
    assert (folder / "fine_tuned_model.gguf").exists()


@pytest.mark.slow
def test_torchrun_makes_the_adapter_of_one_process(tmp_path: Path) -> None:
    both = tmp_path / "both", tmp_path / "one"
    runs = [start(both[0], launcher=TORCHRUN), start(both[1])]
    said = [run.communicate(timeout=900) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    found, expected = map(adapter, both)
    assert found.keys() == expected.keys()
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name], rtol=0, atol=CLOSE_ON_THE_EXAMPLE, err_msg=name)
    assert "training in 2 processes" in (both[0] / "fine_tuner.log").read_text()
    assert said[0][0].count("fine_tuned_model.gguf") == said[1][0].count("fine_tuned_model.gguf")  # said once


@pytest.mark.slow
def test_torchrun_ends_where_nothing_is_trained(tmp_path: Path) -> None:
    run = start(tmp_path / "out", "--dry-run", launcher=TORCHRUN)
    out, err = run.communicate(timeout=300)
    assert run.returncode == 0, err
    assert out and not (tmp_path / "out").exists()
