"""Rating on many hosts: a cluster of several nodes on this machine; and folders and patterns of files."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tiny
from expertune.cli.main import main
from expertune.errors import DatasetError, EngineError, UsageError
from expertune.predict.uncertainty import Uncertainty
from expertune.rate import parts
from expertune.rate.artifact import load_product
from expertune.rate.columns import Wanted, share_columns
from expertune.rate.journal import Journal, record_hash
from expertune.rate.ray_blocks import RayWorkers, Share
from expertune.rate.ray_cluster import connected, find_share, serve_on_ray
from expertune.rate.runner import RateRequest, Tally, rate_records
from expertune.ratings.examples import chat_messages
from expertune.ratings.records import open_records
from expertune.ratings.tables import record_files
from rate.stub import SCALE, TOPIC, Counted, RuleEngine, asked, open_rule, visits, write_csv, write_run

ROOT = Path(__file__).resolve().parents[2]
with_ray = pytest.mark.skipif(find_spec("ray") is None, reason='needs pip install "expertune[ray]"')


def on_cluster(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that starts or uses a cluster; the warnings of Ray's own code are no errors."""
    return with_ray(pytest.mark.slow(pytest.mark.filterwarnings("default")(test)))


def table(rows: list[dict[str, Any]], path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def read_parts(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(folder.glob("part-*.parquet")) for row in pq.read_table(path).to_pylist()]


def rate_here(source: Path, output: Path, **more: Any) -> Tally:
    first, *further = record_files(source)
    with Journal(output.with_suffix(".journal")) as journal:
        return rate_records(
            open_records(first, further=further), output, asked(RuleEngine(**more)), journal, Counted().stage
        )


# --- without Ray ---


def test_the_files_of_a_folder_or_pattern_are_one_input_in_the_order_of_their_names(tmp_path: Path) -> None:
    rows = visits(700)
    for name, some in (("b.parquet", rows[300:]), ("a.parquet", rows[:300])):
        table(some, tmp_path / "in" / name)
    (tmp_path / "in" / "_SUCCESS").touch()
    (tmp_path / "in" / "notes.txt").write_text("not a table")
    for source in (tmp_path / "in", tmp_path / "in" / "*.parquet"):
        tally = rate_here(source, tmp_path / "rated.parquet")
        found = pq.read_table(tmp_path / "rated.parquet").to_pylist()
        assert [(row["Row_ID"], row["Prompt"]) for row in found] == [tuple(row.values()) for row in rows]
        assert tally.counts.rows == 700
    whole = rate_here(table(rows, tmp_path / "whole.parquet"), tmp_path / "one.parquet")
    assert whole.predicted == tally.predicted and pq.read_table(tmp_path / "one.parquet").to_pylist() == found


def test_json_lines_of_a_folder_may_have_different_keys(tmp_path: Path) -> None:
    for name, line in (("a", '{"Prompt": "x", "Age": 3}'), ("b", '{"Prompt": "y", "Sex": "f"}')):
        (tmp_path / f"{name}.jsonl").write_text(line + "\n")
    records = open_records(tmp_path / "a.jsonl", further=[tmp_path / "b.jsonl"])
    assert records.columns == ("Prompt", "Age", "Sex") and records.rows == 2


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("b.csv", [{"Row_ID": "1", "Prompt": "x"}]),
        ("b.parquet", [{"Row_ID": "1", "Text": "x"}]),
        ("b.parquet", [{"Row_ID": 1, "Prompt": "x"}]),
    ],
    ids=["format", "columns", "types"],
)
def test_files_that_are_not_alike_are_refused_with_the_name(
    tmp_path: Path, name: str, rows: list[dict[str, Any]]
) -> None:
    table(visits(3), tmp_path / "in" / "a.parquet")
    write_csv(tmp_path / "in" / name, rows) if name.endswith("csv") else table(rows, tmp_path / "in" / name)
    with pytest.raises(DatasetError, match=rf"{name}: its format or columns differ from those of .*a\.parquet"):
        rate_here(tmp_path / "in", tmp_path / "rated.csv")
    with pytest.raises(DatasetError, match=r"absent/\*: no \.csv"):
        record_files(tmp_path / "absent" / "*")


def test_parts_hold_the_rows_in_order_and_replace_those_of_an_earlier_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PART_ROWS", 512)
    output = tmp_path / "rated"
    rate_here(write_csv(tmp_path / "many.csv", visits(1500)), output)
    assert [len(pq.read_table(path)) for path in sorted(output.glob("*.parquet"))] == [512, 512, 476]
    assert [row["Row_ID"] for row in read_parts(output)] == [f"r{i}" for i in range(1500)]
    assert {stat.S_IMODE(path.stat().st_mode) for path in output.iterdir()} == {0o600}
    rate_here(write_csv(tmp_path / "few.csv", visits(600)), output)
    assert sorted(path.name for path in output.iterdir()) == ["_SUCCESS", "part-00000.parquet", "part-00001.parquet"]
    assert len(read_parts(output)) == 600


def test_parts_of_a_run_that_fails_are_not_marked_as_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_ROWS", 256)
    source, output, engine = write_csv(tmp_path / "new.csv", visits(600)), tmp_path / "rated", RuleEngine()
    rate_here(source, output)
    with Journal(tmp_path / "other.sqlite") as journal, pytest.raises(RuntimeError):

        class Stopping(Counted):
            def advance(self, n: int = 1) -> None:
                super().advance(n)
                if self.done == 300:
                    raise RuntimeError

        rate_records(open_records(source), output, asked(engine), journal, Stopping().stage)
    assert not (output / "_SUCCESS").exists() and not list(output.glob(".*"))


def test_folders_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "new.csv", visits(1))
    (tmp_path / "file").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.docx").touch()
    inside = table(visits(1), tmp_path / "in" / "part-00000.parquet")
    for folder, given, said in (
        ("file", source, "is a file"),
        ("other", source, r"other files \(thesis\.docx\)"),
        ("in", inside, "folder of the input"),
    ):
        with pytest.raises(UsageError, match=said):
            parts.checked_parts(tmp_path / folder, given)


@pytest.mark.parametrize(
    ("hosts", "asked_for", "expected"),
    [
        ([{"CPU": 8}, {"CPU": 8}, {}], {}, Share(2, 8, 0)),
        ([{"CPU": 8}, {"CPU": 17}], {}, Share(3, 8, 0)),
        ([{"CPU": 8}, {"CPU": 8}], {"threads": 2}, Share(8, 2, 0)),
        ([{"CPU": 2}], {"workers": 2}, Share(2, 1, 0)),
        ([{"CPU": 8, "GPU": 4}, {"CPU": 16, "GPU": 4}, {"CPU": 64}], {"by_torch": True}, Share(8, 2, 1)),
        ([{"CPU": 8, "GPU": 4}], {}, Share(1, 8, 0)),
        ([{}], {"workers": 3, "threads": 4}, Share(3, 4, 0)),  # hosts that a cloud starts on demand
    ],
)
def test_the_cluster_is_divided_among_workers(hosts: Any, asked_for: dict[str, Any], expected: Share) -> None:
    given = {"workers": 0, "threads": None, "by_torch": False} | asked_for
    assert find_share(hosts, given.pop("workers"), given.pop("threads"), **given) == expected


def test_a_cluster_on_which_no_worker_fits_is_refused() -> None:
    with pytest.raises(UsageError, match="no host of the cluster has 9 CPUs"):
        find_share([{"CPU": 8}], 0, 9, by_torch=False)


def rate_command(*arguments: Any) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["rate", *map(str, arguments)])
    return int(ended.value.code or 0)


def test_without_ray_one_line_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    (tmp_path / "model.gguf").write_bytes(b"GGUF model")
    folder = write_run(tmp_path / "run", tmp_path / "model.gguf")
    source = write_csv(tmp_path / "new.csv", visits(1))
    assert rate_command(source, "--with", folder, "--ray", "local") == 2
    assert capfd.readouterr().err.strip().endswith('run: pip install "expertune[ray]"')


def test_a_pattern_needs_the_name_of_an_output(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert rate_command(tmp_path / "*.csv", "--with", tmp_path) == 2
    assert "--output" in capfd.readouterr().err


@pytest.mark.slow
def test_the_command_takes_a_folder_and_writes_parts_next_to_it(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", tiny.make(tmp_path / "model.gguf"))
    for name, some in (("a.csv", visits(10)), ("b.csv", visits(20)[10:])):
        (tmp_path / "new").mkdir(exist_ok=True)
        write_csv(tmp_path / "new" / name, some)
    assert rate_command(tmp_path / "new", "--with", folder, "--threads", 1) == 0
    assert [row["Row_ID"] for row in read_parts(tmp_path / "new_rated")] == [f"r{i}" for i in range(20)]
    names = {path.name for path in tmp_path.iterdir() if path.name.startswith("new_rated")}
    assert {"new_rated", "new_rated.journal.sqlite", "new_rated_codebook.csv"} <= names


# --- on a cluster ---


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without workers and two nodes of one CPU each, all on the loopback of this machine."""
    import tempfile

    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        patch.setenv("PYTHONPATH", f"{ROOT / 'src'}{os.pathsep}{ROOT / 'tests'}")
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_TMPDIR", folder)
        from ray.cluster_utils import Cluster

        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        made.folder = folder
        for _ in range(2):
            made.add_node(num_cpus=1)
        yield made
        made.shutdown()


def rate_on(
    address: str, source: Path, output: Path, told: Path, *, workers: int = 2, **more: Any
) -> tuple[Tally, tuple[str, ...]]:
    with connected(address):
        scorer = RayWorkers(partial(open_rule, told, **more), Share(workers, 1, 0))
        wanted = Wanted(SCALE, Uncertainty())
        request = RateRequest(scorer, "c", 1, "m", wanted, rate_batches=scorer.rate_batches)
        with Journal(output.with_suffix(".journal")) as journal:
            tally = rate_records(open_records(source), output, request, journal, Counted().stage)
        return tally, scorer.notes()


def times(told: Path) -> Counter[str]:
    """How often each text was rated."""
    return Counter(told.read_text().splitlines()) if told.exists() else Counter()


def after(told: Path, wanted: int, act: Callable[[], object]) -> threading.Thread:
    """Do something when so many records have been rated."""

    def wait() -> None:
        while sum(times(told).values()) < wanted:
            time.sleep(0.01)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


@on_cluster
def test_order_ids_and_every_text_once(tmp_path: Path, cluster: Any) -> None:
    rows = visits(1500)
    rows = [*rows, *rows[:400], {"Row_ID": "blank", "Prompt": " "}, *visits(5, "bad")]
    source, told = table(rows, tmp_path / "new.parquet"), tmp_path / "told"
    tally, notes = rate_on(cluster.address, source, tmp_path / "rated", told)
    here = rate_here(source, tmp_path / "here")
    assert read_parts(tmp_path / "rated") == read_parts(tmp_path / "here")
    assert [row["Row_ID"] for row in read_parts(tmp_path / "rated")] == [row["Row_ID"] for row in rows]
    assert tally.counts == here.counts and set(times(told).values()) == {1} and len(times(told)) == 1505
    assert "rated by 2 Ray workers" in notes[-1]
    again = rate_here(source, tmp_path / "rated")  # the journal of a cluster is that of one machine
    assert again.counts.computed == 5


@on_cluster
def test_no_text_comes_into_a_log_of_ray(tmp_path: Path, cluster: Any) -> None:
    rows = [*visits(600, "canary7411"), *visits(20, "bad canary7411")]
    rate_on(cluster.address, table(rows, tmp_path / "new.parquet"), tmp_path / "rated", tmp_path / "told")
    logs = [path for path in Path(cluster.folder).rglob("*") if path.is_file()]
    assert any("worker" in path.name for path in logs)
    assert [path for path in logs if b"canary7411" in path.read_bytes()] == []


DRIVER = """
import sys
from pathlib import Path
from rate.test_ray import rate_on
folder = Path({folder!r})
rate_on({address!r}, folder / "new.parquet", folder / "rated", folder / "told", seconds=0.004)
"""


@on_cluster
def test_after_a_killed_driver_no_block_that_was_done_is_rated_again(tmp_path: Path, cluster: Any) -> None:
    rows = visits(2000)
    source, told = table(rows, tmp_path / "new.parquet"), tmp_path / "told"
    code = DRIVER.format(folder=str(tmp_path), address=cluster.address)
    process = subprocess.Popen([sys.executable, "-c", code])
    while sum(times(told).values()) < 1200:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    with sqlite3.connect(tmp_path / "rated.journal") as db:
        done = {record for (record,) in db.execute("SELECT record FROM ratings")}
    db.close()
    assert 0 < len(done) < 2000 and len(done) % 256 == 0  # whole blocks
    assert not (tmp_path / "rated" / "_SUCCESS").exists()
    again = tmp_path / "again"
    tally, _ = rate_on(cluster.address, source, tmp_path / "rated", again)
    of_text = {as_told(row["Prompt"]): record_hash(row["Prompt"]) for row in rows}
    assert {of_text[text] for text in times(again)} == {record_hash(row["Prompt"]) for row in rows} - done
    assert tally.counts.computed == 2000 - len(done) and set(times(again).values()) == {1}
    rate_here(source, tmp_path / "here")
    assert read_parts(tmp_path / "rated") == read_parts(tmp_path / "here")


def as_told(prompt: str) -> str:
    """The line that RuleEngine writes for a text."""
    import hashlib

    return hashlib.sha256(RuleEngine().render(chat_messages(prompt, SCALE, TOPIC)).encode()).hexdigest()


@on_cluster
def test_a_killed_worker_costs_its_block_only(tmp_path: Path, cluster: Any) -> None:
    source, told = table(visits(2000), tmp_path / "new.parquet"), tmp_path / "told"

    def kill() -> None:
        os.kill(int(told.with_suffix(".pids").read_text().split()[0]), signal.SIGKILL)

    after(told, 700, kill)
    _, notes = rate_on(cluster.address, source, tmp_path / "rated", told, seconds=0.004)
    rate_here(source, tmp_path / "here")
    assert read_parts(tmp_path / "rated") == read_parts(tmp_path / "here")
    assert "; 1 ended before" in notes[-1] and len(told.with_suffix(".pids").read_text().split()) == 3
    assert len(times(told)) == 2000 and sum(times(told).values()) <= 2000 + 256


@on_cluster
def test_a_host_that_is_gone_costs_its_blocks_only(tmp_path: Path, cluster: Any) -> None:
    source, told = table(visits(2000), tmp_path / "new.parquet"), tmp_path / "told"
    node = cluster.add_node(num_cpus=1)
    after(told, 700, lambda: cluster.remove_node(node, allow_graceful=False))
    _, notes = rate_on(cluster.address, source, tmp_path / "rated", told, workers=3, seconds=0.004)
    rate_here(source, tmp_path / "here")
    assert read_parts(tmp_path / "rated") == read_parts(tmp_path / "here")
    assert "; 1 ended before" in notes[-1]
    assert len(times(told)) == 2000 and sum(times(told).values()) <= 2000 + 256


@on_cluster
def test_a_block_that_ends_every_worker_ends_the_run_with_its_rows(tmp_path: Path, cluster: Any) -> None:
    rows = [*visits(300), {"Row_ID": "x", "Prompt": "fatal"}]
    with pytest.raises(EngineError, match=r"3 Ray workers ended while they rated rows 258 to 302"):
        rate_on(cluster.address, table(rows, tmp_path / "new.parquet"), tmp_path / "rated", tmp_path / "told")


@on_cluster
def test_an_engine_that_is_gone_ends_the_run_with_the_name_of_its_host(tmp_path: Path, cluster: Any) -> None:
    source = table(visits(900), tmp_path / "new.parquet")
    with pytest.raises(EngineError, match=r"^host \S+: 10 rows failed one after the other") as told:
        rate_on(cluster.address, source, tmp_path / "rated", tmp_path / "told", gone=True)
    assert "\n" not in str(told.value)
    assert sum(times(tmp_path / "told").values()) < 600


@on_cluster
def test_a_host_with_another_file_than_the_judged_one_is_refused(tmp_path: Path, cluster: Any) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF model")
    folder = write_run(tmp_path / "run", tmp_path / "model.gguf")
    product = load_product(folder)
    (folder / "fine_tuned_model.gguf").write_bytes(b"GGUF other")
    with (
        pytest.raises(UsageError, match=r"^host \S+: .*not the file that was judged \(its sha256 differs"),
        serve_on_ray(product, "llama.cpp", cluster.address, Counted().stage),
    ):
        pass


@on_cluster
def test_an_address_without_a_cluster_is_one_line(cluster: Any) -> None:
    with (
        pytest.raises(UsageError, match=r"--ray 127\.0\.0\.1:1: no cluster could be reached") as told,
        connected("127.0.0.1:1"),
    ):
        pass
    assert "\n" not in str(told.value)


@on_cluster
def test_a_local_cluster_rates_as_one_process_does_and_listens_on_the_loopback_only(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", tiny.make(tmp_path / "model.gguf"))
    source = write_csv(tmp_path / "new.csv", visits(40))
    command = [sys.executable, "-m", "expertune", "rate", source, "--with", folder, "--threads", "1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "HOME": str(tmp_path)}
    process = subprocess.Popen([*command, "--ray", "local", "--workers", "2"], env=environment, stdout=subprocess.PIPE)
    hosts: set[str] = set()
    while process.poll() is None:
        hosts |= used_hosts(process.pid)
        time.sleep(0.1)
    assert process.wait() == 0 and process.stdout is not None
    assert "40 records, 40 rated now" in process.stdout.read().decode()
    process.stdout.close()
    assert hosts and {host.removeprefix("::ffff:") for host in hosts} <= {"127.0.0.1", "::1"}
    subprocess.run([*command, "--output", tmp_path / "here"], env=environment, check=True, capture_output=True)
    for there, here in zip(read_parts(tmp_path / "new_rated"), read_parts(tmp_path / "here"), strict=True):
        shares = set(share_columns(SCALE).values()) | {"Confidence"}
        assert {name: there[name] for name in there.keys() - shares} == {
            name: here[name] for name in here.keys() - shares
        }
        # a record's prompt may stay in another slot of the engine
        assert [there[name] for name in shares] == pytest.approx([here[name] for name in shares], abs=1e-3)
    assert not [child for child in psutil.process_iter(["environ"]) if str(tmp_path) in str(child.info["environ"])]


def used_hosts(pid: int) -> set[str]:
    """The addresses at which the process and its children listen, or to which they are connected."""
    found: set[str] = set()
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return found
    for process in family:
        try:
            connections = process.net_connections(kind="inet")
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        found |= {each.ip for one in connections for each in (one.laddr, one.raddr) if each}
    return found
