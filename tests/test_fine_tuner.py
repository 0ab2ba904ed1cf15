"""The whole pipeline, as a user meets it: API, command line, outputs, faults."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scripts.fine_tuner import (
    DatasetError,
    DatasetTooSmallWarning,
    FineTuner,
    FineTuningNotSupportedError,
    ModelFileError,
)

import tiny
from commands import expertune_here
from evaluate.recomputed import assert_figures_are_those_of
from expertune.errors import EngineError
from expertune.files import sha256

ROOT = Path(__file__).resolve().parent.parent
ROWS = ROOT / "examples" / "formatted_dataset.csv"
BASE = ROOT / "examples" / "base.gguf"
TOPIC = "respiratory infections"
MAPPING = {"Match": 1, "Does Not Match": 0, "Unknown": -1}
COUNT = 110
# float32: which is faster depends on what else the machine does, and some tests compare two runs bit for bit
QUICK: dict[str, Any] = {
    "epochs": 2,
    "learning_rate": 3e-3,
    "rank": 8,
    "batch_size": 4,
    "class_weight": "none",
    "bootstrap_resamples": 200,
    "compute_dtype": "fp32",
    "approach": "tune",  # tests/workflow/test_model_set.py has the other two
    "readout": False,  # tests/readout has it
    "checkpoint_seconds": 0,
}
TUNED_FILES = {
    "fine_tuned_adapter.gguf",
    "fine_tuned_model.gguf",
    "Modelfile",
    "training_data.jsonl",
    "training_config.yaml",
}
ALWAYS = {"fine_tuning_metadata.json", "report.html", "report.json", "fine_tuner.log"}


def frame(rows: int = COUNT) -> pd.DataFrame:
    return pd.read_csv(ROWS).head(rows)


def command(arguments: list[str]) -> int:
    return expertune_here("tune", *arguments)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """One run over part of the example set: its folder, its metadata, and the base's hash before it."""
    folder, before = tmp_path_factory.mktemp("tuned"), sha256(BASE)
    success, metadata = FineTuner(quiet=True).process_dataset(
        frame(), model_name=str(BASE), rating_mapping=MAPPING, target_topics=TOPIC, output_dir=folder, **QUICK
    )
    assert success
    return folder, metadata, before


@pytest.mark.slow
def test_a_tuned_file_is_made_and_beats_its_base_on_untouched_rows(tuned: tuple[Path, dict[str, Any], str]) -> None:
    folder, metadata, before = tuned
    assert metadata["fine_tuning_info"]["success"] is True
    assert {path.name for path in folder.iterdir()} >= TUNED_FILES | ALWAYS
    assert not (folder / "checkpoints").exists()
    by_name = {each["name"]: each for each in metadata["evaluation"]["evaluations"]}
    assert set(by_name) == {"tuned", "base", "TF-IDF", "majority"}
    assert by_name["tuned"]["macro_f1"]["value"] > by_name["base"]["macro_f1"]["value"]
    assert by_name["tuned"]["rows"] == metadata["split"]["test"]
    assert metadata["verdict"].startswith("The tuned model ")
    assert sha256(BASE) == before == metadata["provenance"]["hashes"]["base"]


@pytest.mark.slow
def test_the_metadata_tells_what_lies_there(tuned: tuple[Path, dict[str, Any], str]) -> None:
    folder, metadata, _ = tuned
    assert json.loads((folder / "fine_tuning_metadata.json").read_text()) == metadata
    assert {name: sha256(folder / name) for name in TUNED_FILES} == {
        name: digest for name, digest in metadata["provenance"]["hashes"].items() if name in TUNED_FILES
    }
    assert metadata["processing_info"]["dataset_size"] == COUNT
    assert metadata["processing_info"]["model_name"] == str(BASE)
    assert metadata["export"]["agreement"] in [each["labels"] for each in metadata["export"]["rounds"]]
    assert len(metadata["export"]["rounds"]) <= 2 and metadata["export"]["agreement_passed"]
    assert 0 < metadata["export"]["noise"]["mean"] < 0.1
    assert metadata["export"]["agreement_rows"] == metadata["split"]["dev"]
    assert metadata["export"]["bytes"] == (folder / "fine_tuned_model.gguf").stat().st_size
    assert metadata["fallback_reason"] is None
    assert sum(metadata["split"][part] for part in ("train", "dev", "test")) == COUNT
    assert_figures_are_those_of(folder / "test_predictions.csv", metadata["evaluation"])


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no file modes")
def test_outputs_are_private_and_no_log_holds_a_rows_text(tuned: tuple[Path, dict[str, Any], str]) -> None:
    folder, _, _ = tuned
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path.name
    logged = "".join(
        (folder / name).read_text()
        for name in (
            "fine_tuner.log",
            "training_events.jsonl",
            "report.html",
            "fine_tuning_metadata.json",
            "test_predictions.csv",
            "likely_label_errors.csv",
        )
    )
    for row in frame().itertuples():
        assert str(row.Prompt)[:60] not in logged


@pytest.mark.slow
def test_no_test_row_is_in_the_training_data(tuned: tuple[Path, dict[str, Any], str]) -> None:
    folder, _, _ = tuned
    lines = [json.loads(line) for line in (folder / "training_data.jsonl").read_text().splitlines()]
    rows = FineTuner().prepare_training_data(frame(), MAPPING, TOPIC)
    test_ids = {row["id"] for row in rows if row["split"] == "test"}
    assert len(rows) == COUNT
    assert test_ids
    assert not test_ids & {line["id"] for line in lines}
    assert {line["messages"][-1]["role"] for line in lines} == {"assistant"}


@pytest.mark.slow
def test_the_finished_file_rates_as_reported(tuned: tuple[Path, dict[str, Any], str]) -> None:
    """Served anew, the file gives the accuracy that the metadata claim."""
    from expertune.config import make_config
    from expertune.engine.llama_cpp.engine import LlamaCppEngine
    from expertune.predict.score import rate_examples
    from expertune.ratings.dataset import load_dataset

    folder, metadata, _ = tuned
    prepared = load_dataset(frame(), MAPPING, TOPIC, make_config(QUICK))
    with LlamaCppEngine(folder / "fine_tuned_model.gguf", context=1024) as engine:
        rated = rate_examples(engine, prepared.examples.test, prepared.scale)
    right = sum(each.value == example.value for each, example in zip(rated, prepared.examples.test, strict=True))
    claimed = metadata["evaluation"]["evaluations"][0]["accuracy"]["value"]
    assert right / len(rated) == pytest.approx(claimed, abs=1.5 / len(rated))


def test_capability_gives_the_reason(tmp_path: Path) -> None:
    tiny.make(tmp_path / "xverse.gguf", architecture="xverse")
    tuner = FineTuner()
    assert tuner.check_fine_tuning_capability(str(BASE)) is True
    assert tuner.check_fine_tuning_capability(str(tmp_path / "xverse.gguf")) is False
    assert "'xverse' cannot be tuned yet" in tuner.capability(str(tmp_path / "xverse.gguf")).reason
    assert tuner.check_fine_tuning_capability("no-such-model-anywhere") is False
    tiny.make(tmp_path / "part.gguf", extra={"split.count": 2})
    assert "llama-gguf-split --merge" in tuner.capability(str(tmp_path / "part.gguf")).reason


@pytest.mark.slow
def test_an_untrainable_architecture_falls_back_or_is_raised(tmp_path: Path) -> None:
    model = str(tiny.make(tmp_path / "xverse.gguf", architecture="xverse", context=4096))
    success, metadata = FineTuner(quiet=True).process_dataset(
        frame(90), model, MAPPING, TOPIC, tmp_path / "out", bootstrap_resamples=100
    )
    assert success
    assert metadata["model_set_info"] == {**metadata["model_set_info"], "success": True, "judged": True}
    assert "xverse" in metadata["fallback_reason"]
    assert metadata["verdict"].startswith("No tuned model:")
    assert_figures_are_those_of(tmp_path / "out/test_predictions.csv", metadata["evaluation"])
    examined = {each["part"]: each["raters"] for each in metadata["evaluation"]["label_errors"]["parts"]}
    assert examined["train"] == ["TF-IDF"] and "base" not in examined.get("test", ())  # random weights
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"model_set_config.json"} | ALWAYS
    content = json.loads((tmp_path / "out" / "model_set_config.json").read_text())
    assert content["few_shot_examples"]
    with pytest.raises(FineTuningNotSupportedError, match="xverse"):
        FineTuner(fallback_mode=False, quiet=True).process_dataset(frame(90), model, MAPPING, TOPIC, tmp_path / "out2")


@pytest.mark.slow
def test_our_own_decoder_rates_a_whole_run(tuned: tuple[Path, dict[str, Any], str], tmp_path: Path) -> None:
    """The same training; base, tuned file and few-shot prompt have the figures that llama.cpp gives them, nearly."""
    success, metadata = FineTuner(quiet=True).process_dataset(
        frame(), str(BASE), MAPPING, TOPIC, tmp_path, engine="torch", **QUICK
    )
    assert success and metadata["settings"]["engine"] == "torch"
    expected, found = (
        {each["name"]: each["log_loss"]["value"] for each in run["evaluation"]["evaluations"]}
        for run in (tuned[1], metadata)
    )
    assert found.keys() == expected.keys() >= {"tuned", "base"}
    for name in ("tuned", "base"):
        assert found[name] == pytest.approx(expected[name], rel=0.05)
    assert metadata["export"]["agreement"] == tuned[1]["export"]["agreement"]  # the file is checked in llama.cpp


def test_our_own_decoder_refuses_what_it_does_not_read_before_any_work(tmp_path: Path) -> None:
    model = tiny.make(tmp_path / "xverse.gguf", architecture="xverse")
    with pytest.raises(EngineError, match=r"^--engine torch: .*'xverse' is not one that it reads; leave out --engine"):
        FineTuner(quiet=True).process_dataset(frame(90), str(model), MAPPING, TOPIC, tmp_path / "out", engine="torch")


@pytest.mark.slow
def test_a_model_that_is_not_here_falls_back_unjudged(tmp_path: Path) -> None:
    success, metadata = FineTuner(quiet=True).process_dataset(frame(90), "llama2", MAPPING, TOPIC, tmp_path)
    assert not success
    assert metadata["failed_checks"] == ["the product has not been evaluated on the test records"]
    assert metadata["model_set_info"]["judged"] is False and metadata["model_set_info"]["success"] is False
    assert ". The model set has not been evaluated: " in metadata["verdict"]
    assert metadata["evaluation"]["evaluations"] == [] and metadata["evaluation"]["label_errors"] is None
    assert not {"test_predictions.csv", "likely_label_errors.csv"} & {path.name for path in tmp_path.iterdir()}
    assert metadata.to_frame().empty and json.loads((tmp_path / "fine_tuning_metadata.json").read_text()) == metadata


@pytest.mark.slow
def test_few_rows_warn_and_fall_back(tmp_path: Path) -> None:
    with pytest.warns(DatasetTooSmallWarning, match="49 usable rows"):
        success, metadata = FineTuner(quiet=True).process_dataset(frame(49), str(BASE), MAPPING, TOPIC, tmp_path)
    assert success
    assert "too few" in metadata["fallback_reason"]


@pytest.mark.slow
def test_a_model_set_can_be_made_alone(tmp_path: Path) -> None:
    content = FineTuner().create_model_set_config("llama2", frame(60), MAPPING, TOPIC, output_dir=tmp_path)
    assert json.loads((tmp_path / "model_set_config.json").read_text()) == content
    assert {
        "base_model",
        "system_prompt",
        "few_shot_examples",
        "target_topics",
        "rating_mapping",
        "created_at",
        "dataset_size",
    } <= set(content)


def one_class(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["Standardized_Rating"] == 1]


def with_cell(column: str, value: Any) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(rows: pd.DataFrame) -> pd.DataFrame:
        rows = rows.copy()
        rows[column] = rows[column].astype(object)
        rows.loc[7, column] = value
        return rows

    return change


BAD_ROWS = {
    "no rows": (lambda rows: rows.head(0), "no rows"),
    "no rating column": (lambda rows: rows.drop(columns="Standardized_Rating"), "Standardized_Rating"),
    "no prompt column": (lambda rows: rows.drop(columns="Prompt"), "Prompt"),
    "rating outside the mapping": (with_cell("Standardized_Rating", 7), "7"),
    "no prompt in a row": (with_cell("Prompt", None), "row 9"),
    "one class only": (one_class, "Match"),
    "a prompt of 200 kB": (with_cell("Prompt", "cough and fever " * 12_500), "--max-tokens"),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", BAD_ROWS)
def test_bad_rows_are_one_line_and_leave_nothing_behind(
    fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, told = BAD_ROWS[fault]
    change(frame(120)).to_csv(tmp_path / "rows.csv", index=False)
    code = command(
        [
            "--input",
            str(tmp_path / "rows.csv"),
            "--model",
            str(BASE),
            "--topics",
            TOPIC,
            "--output-dir",
            str(tmp_path / "out"),
        ]
    )
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert code == 2
    assert len(errors) == 1
    assert told in errors[0]
    assert not {path.name for path in (tmp_path / "out").glob("*")} & {
        "fine_tuning_metadata.json",
        "fine_tuned_model.gguf",
        "model_set_config.json",
    }


def write_bytes(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


@pytest.mark.parametrize("fault", ["empty", "missing", "binary"])
def test_a_file_that_holds_no_rows_is_one_line(fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.csv"
    if fault != "missing":
        path.write_bytes(b"" if fault == "empty" else bytes(range(256)) * 40)
    assert (
        command(["--input", str(path), "--model", str(BASE), "--topics", TOPIC, "--output-dir", str(tmp_path / "out")])
        == 2
    )
    error = capsys.readouterr().err.strip()
    assert error.startswith(f"error: {path}")
    assert "\n" not in error


@pytest.mark.parametrize("form", ["bom", "latin-1", "crlf"])
def test_files_of_other_editors_are_read(form: str, tmp_path: Path) -> None:
    rows = with_cell("Prompt", "Chief complaint: Übelkeit, déjà vu\nTask: rate the visit")(frame(60))
    text = rows.to_csv(index=False)
    content = {
        "bom": text.encode("utf-8-sig"),
        "latin-1": text.encode("latin-1"),
        "crlf": text.replace("\n", "\r\n").encode(),
    }[form]
    (tmp_path / "rows.csv").write_bytes(content)
    found = FineTuner().prepare_training_data(tmp_path / "rows.csv", MAPPING, TOPIC)
    assert len(found) == 60
    assert any("Übelkeit" in row["messages"][1]["content"] for row in found)


def test_a_truncated_model_is_bad_input_in_both_modes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(BASE.read_bytes()[:1_000_000])
    with pytest.raises(ModelFileError, match="truncated"):
        FineTuner(fallback_mode=False, quiet=True).process_dataset(
            frame(90), str(cut), MAPPING, TOPIC, tmp_path / "out"
        )
    frame(90).to_csv(tmp_path / "rows.csv", index=False)
    assert (
        command(
            [
                "--input",
                str(tmp_path / "rows.csv"),
                "--model",
                str(cut),
                "--topics",
                TOPIC,
                "--output-dir",
                str(tmp_path / "out"),
            ]
        )
        == 2
    )
    assert "truncated" in capsys.readouterr().err


def test_an_output_folder_that_cannot_be_written_is_told_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").write_text("a file")
    arguments = ["--input", str(ROWS), "--model", str(BASE), "--topics", TOPIC, "--output-dir"]
    assert command([*arguments, str(tmp_path / "taken")]) == 1
    assert "choose a folder" in capsys.readouterr().err
    if hasattr(os, "geteuid") and os.geteuid() != 0:  # root may write anywhere; Windows has no such modes
        (tmp_path / "locked").mkdir(mode=0o500)
        assert command([*arguments, str(tmp_path / "locked")]) == 1
        assert "may write to" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--epochs", "0"], "epochs"),
        (["--rank", "1000"], "rank"),
        (["--dev-share", "0.4", "--test-share", "0.4"], "dev_share"),
        (["--config", "no-such.yaml"], "no-such.yaml"),
        (["--rating-mapping", "{broken"], "rating"),
    ],
)
def test_wrong_settings_are_one_line(
    arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = command(
        [
            "--input",
            str(ROWS),
            "--model",
            str(BASE),
            "--topics",
            TOPIC,
            "--output-dir",
            str(tmp_path / "out"),
            *arguments,
        ]
    )
    error = capsys.readouterr().err
    assert code == 2
    assert told in error
    assert "Traceback" not in error


def test_the_python_api_takes_every_setting_and_no_other(tmp_path: Path) -> None:
    from expertune.errors import UsageError

    with pytest.raises(UsageError, match="did you mean learning_rate"):
        FineTuner().process_dataset(frame(60), str(BASE), MAPPING, TOPIC, tmp_path, learning_rates=1)
    with pytest.raises(DatasetError):
        FineTuner().process_dataset(pd.DataFrame(), str(BASE), MAPPING, TOPIC, tmp_path)


# --- faults in the middle: in a process of its own, so that it can die ---------------------------------------------

RUN = """
import os, signal, sys
sys.path.insert(0, {root!r})
{before}
from scripts.fine_tuner import main
if __name__ == "__main__":
    main(["tune", *sys.argv[1:]])
"""
INTERRUPT = """
import threading
from expertune.train import loop
real = loop.Trainer.one_step
def one_step(self):
    event = real(self)
    if event.step == 3 and self._checkpoints is not None:  # not while the speed is measured
        os.kill(os.getpid(), signal.SIGINT)
    return event
loop.Trainer.one_step = one_step
"""
DIE_IN_EXPORT = """
from expertune.gguf import write
real = write._write_tensors
def die(file, tensors, *rest):
    if tensors and not tensors[0].name.endswith("lora_a"):
        file.write(b"half")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    return real(file, tensors, *rest)
write._write_tensors = die
"""


def run_apart(
    arguments: list[str], before: str = "", limit: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", RUN.format(root=str(ROOT), before=before), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        preexec_fn=limit,
    )


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no kill -9, and sends Ctrl-C to a group of processes")
def test_stopped_three_times_it_ends_as_an_unbroken_run(
    tuned: tuple[Path, dict[str, Any], str], tmp_path: Path
) -> None:
    """A full disk, Ctrl-C in the training, kill -9 in the export; each time --resume goes on, with the configuration
    that the unbroken run has written."""
    whole, metadata, _ = tuned
    frame().to_csv(tmp_path / "rows.csv", index=False)
    folder, written = tmp_path / "out", str(whole / "training_config.yaml")
    arguments = ["--config", written, "--input", str(tmp_path / "rows.csv"), "--output-dir", str(folder)]
    check_a_full_disk(folder, arguments)

    stopped = run_apart([*arguments, "--resume"], INTERRUPT)
    assert stopped.returncode == 130, stopped.stderr
    assert stopped.stderr.strip().splitlines()[-1].startswith("error: stopped after step 3 of")
    assert "--resume" in stopped.stderr
    assert "Traceback" not in stopped.stderr

    killed = run_apart([*arguments, "--resume"], DIE_IN_EXPORT)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (folder / "fine_tuned_model.gguf").exists()
    assert not (folder / "fine_tuning_metadata.json").exists()
    steps = (folder / "training_events.jsonl").read_text().count('"step"')

    resumed = run_apart([*arguments, "--resume"])
    assert resumed.returncode == 0, resumed.stderr
    assert (folder / "training_events.jsonl").read_text().count('"step"') == steps
    found = json.loads((folder / "fine_tuning_metadata.json").read_text())
    assert found["settings"] == metadata["settings"]
    for name in ("fine_tuned_adapter.gguf", "fine_tuned_model.gguf"):
        assert sha256(folder / name) == sha256(whole / name) == metadata["provenance"]["hashes"][name], name


def check_a_full_disk(folder: Path, arguments: list[str]) -> None:
    """A limit on the size of any file: the first large output fails as on a full disk, and leaves no half file."""
    resource = pytest.importorskip("resource", reason="this system has no limit on the size of a file")
    found = run_apart(arguments, limit=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)))
    assert found.returncode == 1, found.stderr
    assert found.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in found.stderr
    assert not list(folder.rglob("*.tmp"))
    assert not (folder / "fine_tuned_model.gguf").exists()
