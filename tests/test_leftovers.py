"""What a process that was killed left half written is removed by the next one: it may hold text of records."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from expertune import outputs
from expertune.cli.main import main
from expertune.errors import OutputError, UsageError
from expertune.log import log_file
from expertune.review_page import results
from expertune.review_page.results import Results
from rate.stub import visits, write_csv
from rate.test_votes import model_set
from review_page.pages import page_of, rate_source, raw_file, tab


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("a record")


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_of_a_run(tmp_path: Path) -> None:
    others = {"report.html", ".notes.0123abcd.tmp", ".rated.csv.part", "checkpoints/training.pt"}
    ours = {f".{name}.0123abcd.tmp" for name in (outputs.TRAINING_DATA, outputs.MODEL, ".writable")}
    ours |= {"checkpoints/.trunk.bin.0123abcd.tmp", "plots/.calibration.png.0123abcd.tmp"}
    write(tmp_path, *others, *ours)
    outputs.open_folder(tmp_path)
    assert names(tmp_path) == others


def test_of_a_run_that_was_killed_after_its_last_file(tmp_path: Path) -> None:
    write(tmp_path, outputs.METADATA, "checkpoints/training.pt")
    with pytest.raises(UsageError, match="holds a finished run"):
        outputs.check_finished(tmp_path, (), overwrite=False)
    assert names(tmp_path) == {outputs.METADATA}


def test_of_a_rating(tmp_path: Path) -> None:
    model_set(tmp_path / "set", tmp_path / "absent.gguf", "TF-IDF")
    write_csv(tmp_path / "new.csv", visits(5))
    before = names(tmp_path)
    write(tmp_path, ".rated.csv.part", ".rated_codebook.csv.0123abcd.tmp")
    with pytest.raises(SystemExit) as ended:
        main(["rate", f"{tmp_path}/new.csv", "--with", f"{tmp_path}/set", "--output", f"{tmp_path}/rated.csv"])
    assert not ended.value.code
    assert names(tmp_path) - before == {"rated.csv", "rated_codebook.csv", "rated.csv.journal.sqlite"}


def test_of_a_page(tmp_path: Path) -> None:
    pytest.importorskip("starlette", reason="the page's packages are not installed (expertune[page])")
    source = rate_source(raw_file(tmp_path))
    write(tmp_path, ".results.csv.0123abcd.tmp", ".results.summary.json.0123abcd.tmp")
    with page_of(source, tmp_path) as (session, _):
        Results(tmp_path / "results.csv").check(source.path, session.journal)
    assert names(tmp_path) == {"raw.csv", "page.sqlite"}


def test_a_page_that_was_killed_while_it_wrote_its_results_starts_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("starlette", reason="the page's packages are not installed (expertune[page])")
    source, written = rate_source(raw_file(tmp_path)), results.write_results

    def killed(*given: Any) -> int:
        written(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(results, "write_results", killed)
    with page_of(source, tmp_path) as (session, client), pytest.raises(KeyboardInterrupt):
        tab(session, client, "Ana").press(1)
        Results(tmp_path / "results.csv").write(session)
    monkeypatch.undo()
    with page_of(source, tmp_path) as (session, _):
        Results(tmp_path / "results.csv").check(source.path, session.journal)
        assert Results(tmp_path / "results.csv").write(session) == "results.csv: 1 records with a rating"


def test_a_run_is_replaced_as_a_whole_after_a_removal_that_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = f"{outputs.EARLIER}/"
    write(tmp_path, earlier + outputs.METADATA, earlier + outputs.READOUT, outputs.METADATA, outputs.MODEL)

    def stopped(path: Path, **how: Any) -> None:
        if path.exists():
            next(iter(sorted(path.iterdir()))).unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", stopped)
        outputs.retire_run(tmp_path)
    assert outputs.retire_run(tmp_path)
    assert names(tmp_path) == {earlier + outputs.METADATA, earlier + outputs.MODEL}


def test_a_log_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    write(tmp_path, "file")
    with pytest.raises(OutputError, match="cannot be written"), log_file(tmp_path / "file" / "log", debug=False):
        pass
