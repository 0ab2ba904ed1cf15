"""A full disk at each write of each command: one line, the old files as they were, and nothing half or hidden left."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from easy_records import easy_records
from expertune import outputs
from expertune.cli.main import main
from expertune.errors import OutputError
from expertune.progress.event_log import EventLog
from expertune.train.events import StepEvent
from full_disk import OWN, PAGE, Disk, hashes, one_line, small_disk, sweep, temporary
from rate.stub import MAPPING, read_csv, visits, write_csv
from rate.test_votes import model_set
from review_page.pages import page_of, rate_source, rated_file, raw_file, tab

Run = Callable[[Path], tuple[int, str]]
ROOT = Path(__file__).resolve().parents[2]
ROWS, BASE = ROOT / "examples" / "formatted_dataset.csv", ROOT / "examples" / "base.gguf"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    with small_disk(folder, 64) as made:
        yield made


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    folder = tmp_path / "inputs"
    folder.mkdir()
    return folder


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    """A command line in which {} is the folder that it works in."""

    def made(*arguments: object) -> Run:
        def run(folder: Path) -> tuple[int, str]:
            with pytest.raises(SystemExit) as ended:
                main([str(each).replace("{}", str(folder)) for each in arguments])
            return int(ended.value.code or 0), capsys.readouterr().err

        return run

    return made


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "xlsx", "parquet"])
def test_rate(disk: Disk, inputs: Path, command: Callable[..., Run], suffix: str) -> None:
    model_set(inputs / "set", inputs / "absent.gguf", "TF-IDF")
    write_csv(inputs / "new.csv", visits(300))
    made = (f"rated.{suffix}", "rated_codebook.csv")
    for name in made:
        (inputs / name).write_bytes(b"old")
    run = command("rate", "{}/new.csv", "--with", "{}/set", "--output", f"{{}}/rated.{suffix}")
    assert sweep(disk, inputs, made, run) > 2


@pytest.mark.slow
def test_what_was_rated_on_a_full_disk_is_not_rated_again(
    disk: Disk, inputs: Path, command: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    """The journal of the run that failed goes on where there is room again."""
    model_set(disk.folder / "set", inputs / "absent.gguf", "TF-IDF")
    write_csv(disk.folder / "new.csv", visits(900))
    run = command("rate", "{}/new.csv", "--with", "{}/set", "--output", "{}/rated.csv")
    with disk.room(160_000):
        assert run(disk.folder)[0] == 1
    with pytest.raises(SystemExit):
        main(["rate", f"{disk.folder}/new.csv", "--with", f"{disk.folder}/set", "--output", f"{disk.folder}/rated.csv"])
    said = capsys.readouterr().out
    assert "900 records" in said and "900 rated now" not in said
    assert [row["Row_ID"] for row in read_csv(disk.folder / "rated.csv")] == [f"r{at}" for at in range(900)]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["csv", "xlsx"])
def test_format(disk: Disk, inputs: Path, command: Callable[..., Run], suffix: str) -> None:
    write_csv(inputs / "raw.csv", [{"id": at, "complaint": "cough " * 9, "rating": at % 2} for at in range(300)])
    (inputs / f"out.{suffix}").write_bytes(b"old")
    flags = ("--topics", "visits", "--column", "text=complaint", "--column", "rating=rating",
             "--rating-mapping", '{"Yes": 1, "No": 0}')  # fmt: skip
    run = command("format", "{}/raw.csv", "--output", f"{{}}/out.{suffix}", *flags)
    assert sweep(disk, inputs, (f"out.{suffix}",), run) > 1


@pytest.mark.slow
def test_review_and_merge(disk: Disk, inputs: Path, command: Callable[..., Run]) -> None:
    rated = rated_file(inputs, 120)
    (inputs / "review.csv").write_bytes(b"old")
    queue = command("review", "{}/rated.csv", "--output", "{}/review.csv", "--sample", 1.0)
    assert sweep(disk, inputs, ("review.csv",), queue) > 1

    shutil.copy(disk.folder / "work" / "review.csv", inputs / "review.csv")
    rows: list[dict[str, Any]] = [{**row, "Reviewed_Rating": 1} for row in read_csv(inputs / "review.csv")]
    write_csv(inputs / "review.csv", rows)
    first = [{"Row_ID": "x1", "Prompt": "a visit", "Standardized_Rating": 1, "Rationale of Rating": "so"}]
    write_csv(inputs / "there.csv", first)
    rated.unlink()
    where = ("--into", "{}/there.csv", "--output", "{}/merged.csv", "--rating-mapping", str(MAPPING).replace("'", '"'))
    assert sweep(disk, inputs, ("merged.csv",), command("merge-review", "{}/review.csv", *where)) > 1


@pytest.mark.slow
def test_the_page_keeps_what_it_has_saved_and_says_what_it_has_not(disk: Disk) -> None:
    pytest.importorskip("starlette", reason="the page's packages are not installed (expertune[page])")
    source = rate_source(raw_file(disk.folder, 200))
    with page_of(source, disk.folder) as (session, client):
        shown = tab(session, client, "Ana")
        saved = 0
        with disk.room(40_000):
            while (answer := press(client, shown)).status_code == 200:
                saved, shown.page = saved + 1, answer.text
            assert answer.status_code == 507 and "free space" in answer.text and "cough" not in answer.text
            assert "cannot be written" in client.post("/t0ken/rater/1/rate/write").text
        assert 0 < saved < 200 and len(session.entries) == len(session.journal.ratings()) == saved
        while shown.hidden("record"):
            shown.press(1)
        assert len(session.journal.ratings()) == len({entry.record for entry in session.entries}) == 200
        assert "200 records with a rating" in client.post("/t0ken/rater/1/rate/write").text
    assert not temporary(disk.folder)


def press(client: Any, shown: Any) -> Any:
    fields = {"record": shown.hidden("record"), "step": shown.hidden("step"), "value": "1", "comment": ""}
    return client.post("/t0ken/rater/1/rate/rate", data=fields)


def test_the_log_of_a_training_holds_whole_lines(disk: Disk) -> None:
    path, event = disk.folder / "events.jsonl", StepEvent(1, 9, 0.1, 1.0, 1e-3, 1.0, 100, 0.1)
    log, written = EventLog(path), 0
    with disk.room(2 * PAGE), pytest.raises(OutputError, match="--resume"):
        while written < 1000:
            log.write(event)
            written += 1
    log.write(event)
    log.close()
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == written + 1 > 2


# --- a run ---

FLAGS = ("--topics", "respiratory infections", "--bootstrap-resamples", 100, "--model-set-budget-seconds", 2,
         "--threads", 1)  # fmt: skip
TUNING = ("--approach", "tune", "--epochs", 2, "--learning-rate", 3e-3, "--rank", 8, "--batch-size", 4,
          "--class-weight", "none", "--compute-dtype", "fp32", "--checkpoint-seconds", 0, "--no-readout")  # fmt: skip


def continued(disk: Disk, run: Run, rooms: Sequence[int]) -> int:
    """Go on with --resume, with ever more room; how often it failed."""
    for failed, pages in enumerate(rooms):
        with disk.room(pages * PAGE):
            code, errors = run(disk.folder)
        assert not temporary(disk.folder), (pages, temporary(disk.folder))
        if code in (0, 3):  # 3: a model set, as was wanted here
            return failed
        assert code == 1 and one_line(errors), (pages, code, errors)
    raise AssertionError(f"still fails with {rooms[-1]} free pages: {errors}")


ROOMS = (0, 1, 2, 3, 5, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096)
# Of a training: its data, its events, its checkpoint (4 MB) and its file are what fails; each try takes seconds
ROOMS_OF_A_TRAINING = (0, 8, 12, 16, 128, 1024, 1536, 2048, 4096)


@pytest.mark.slow
@pytest.mark.parametrize("product", ["model set", "tuned model"])
def test_tune_goes_on_where_there_is_room_again(disk: Disk, command: Callable[..., Run], product: str) -> None:
    easy_records().to_csv(disk.folder / "rows.csv", index=False)
    model, flags, rooms = (BASE, TUNING, ROOMS_OF_A_TRAINING) if product == "tuned model" else ("llama2", (), ROOMS)
    where = ("--input", "{}/rows.csv", "--output-dir", "{}/out", "--model", model)
    assert continued(disk, command("tune", *where, *FLAGS, *flags, "--resume"), rooms) > 3
    made = hashes(disk.folder / "out")
    assert outputs.METADATA in made and "checkpoints" not in str(sorted(made))
    if product == "tuned model":
        whole = command("tune", *where[:3], "{}/whole", *where[4:], *FLAGS, *TUNING)
        assert whole(disk.folder)[0] == 0
        other = hashes(disk.folder / "whole")
        for name in (outputs.ADAPTER, outputs.MODEL, outputs.TEST_PREDICTIONS):
            assert made[name] == other[name], name


@pytest.mark.slow
def test_a_run_that_cannot_be_replaced_stays_whole(disk: Disk, inputs: Path, command: Callable[..., Run]) -> None:
    """--overwrite on a full disk: the earlier results are all there, in the folder or in previous/run."""
    rows = disk.folder / "rows.csv"
    pd.read_csv(ROWS).head(90).to_csv(rows, index=False)
    where = ("--input", "{}/rows.csv", "--output-dir", "{}/out", "--model", "llama2")
    run = command("tune", *where, *FLAGS)
    assert run(disk.folder)[0] in (0, 3)
    before = {name: digest for name, digest in hashes(disk.folder / "out").items() if name not in OWN}
    again = command("tune", *where, *FLAGS, "--overwrite", "--seed", 7)
    failed = list[int]()
    for pages in ROOMS:
        with disk.room(pages * PAGE):
            code, errors = again(disk.folder)
        if code in (0, 3):
            break
        assert code == 1 and one_line(errors), (pages, code, errors)
        failed.append(pages)
        after = hashes(disk.folder / "out")
        places = ({name: after.get(f"{place}{name}") for name in before} for place in ("", f"{outputs.EARLIER}/"))
        assert before in places, pages
    assert len(failed) > 1 and (disk.folder / "out" / outputs.METADATA).exists()


@pytest.mark.slow
def test_report(disk: Disk, inputs: Path, command: Callable[..., Run]) -> None:
    rows = inputs / "rows.csv"
    pd.read_csv(ROWS).head(90).to_csv(rows, index=False)
    where = ("--input", rows, "--output-dir", inputs / "run", "--model", "llama2")
    assert command("tune", *where, *FLAGS)(inputs)[0] in (0, 3)
    made = ("run/report.json", "run/report.html", "run/plots/learning_curve.png")
    for name in made:  # so that the new ones differ
        with open(inputs / name, "a") as file:
            file.write("\n")
    assert sweep(disk, inputs, made, command("report", "{}/run")) > 1
