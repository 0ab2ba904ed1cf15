"""README is run as it stands: every command and every block of Python, on a tiny model and example visits.

What cannot run here is named with the reason; a command that is in neither list fails, so that none is forgotten.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import hospital
import tiny
from easy_records import easy_records
from expertune.cli.main import main
from expertune.fine_tuner import FineTuner
from pages import GUIDES, README, ROOT, blocks, command_lines

RATED = 60
MAPPING = {"Match": 1, "Does Not Match": 0, "Unknown": -1}
NOT_RUN = {
    ("make", "demo"): "a download and five minutes; tests/examples/test_demo.py and .ci/run run it on the example base",
    ("make", "test"): "these tests",
    (".", ".venv/bin/activate"): "changes the shell only",
}
ENDS_WELL = {"fine_tuner.py": (0, 3), "tune": (0, 3)}  # 3: the model set was better
TUTORIAL = ROOT / "docs/tutorial.md"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files that README speaks of: rated records, new records and a model."""
    rows = easy_records(RATED + 20)
    rows.head(RATED).to_csv(tmp_path / "formatted_dataset.csv", index=False)
    rows.iloc[RATED:].drop(columns=["Standardized_Rating"]).to_csv(tmp_path / "new_records.csv", index=False)
    tiny.make(tmp_path / "my-model.gguf", context=2048)
    return tmp_path


def run(folder: Path, words: list[str], **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command of a page as its reader does, in `folder` in place of the clone."""
    program = {"expertune": [sys.executable, "-m", "expertune"], "python": [sys.executable]}[words[0]]
    arguments = [str(ROOT / word) if word.endswith(".py") else word for word in words[1:]]
    return subprocess.run(
        [*program, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT)))} | more,
        capture_output=True,
        text=True,
        check=False,
    )


def fill_in_review(path: Path) -> int:
    """Agree with each rating in the queue, as a reviewer might. Return the number of rows."""
    queue = pd.read_csv(path)
    queue["Reviewed_Rating"] = queue["Predicted_Rating"]
    queue.to_csv(path, index=False)
    return len(queue)


@pytest.mark.slow
@pytest.mark.parametrize("page", [README, TUTORIAL], ids=lambda page: page.stem)
def test_every_command_of_the_readme_and_the_tutorial_runs(folder: Path, page: Path) -> None:
    ran: list[list[str]] = []
    for words in command_lines(page, "sh", "bash", "console"):
        if tuple(words) in NOT_RUN:
            continue
        assert words[0] in ("expertune", "python"), f"{' '.join(words)}: run it here, or name it in NOT_RUN"
        done = run(folder, words)
        expected = ENDS_WELL.get(Path(words[1]).name, (0,))
        assert done.returncode in expected, f"{' '.join(words)}\n{done.stderr[-2000:]}"
        if words[1] == "review":
            assert fill_in_review(folder / words[words.index("--output") + 1]) > 0
        ran.append(words)
    assert len(ran) >= 5
    merged = next(words for words in ran if words[1] == "merge-review")
    with (folder / merged[merged.index("--output") + 1]).open(newline="") as file:
        assert sum(1 for _ in csv.DictReader(file)) > RATED


def commands_on_an_export(folder: Path, count: int) -> list[list[str]]:
    """The commands of docs/usage.md on a hospital's own file, and in `folder` the files that they speak of."""
    page = (ROOT / "docs/usage.md").read_text(encoding="utf-8").partition("## Your own file and its columns\n")[2]
    (folder / "section.md").write_text(page.partition("\n## ")[0], encoding="utf-8")
    hospital.write(folder / "raw.csv", hospital.visits(count))
    hospital.write(folder / "new_raw.csv", hospital.visits(20, rated=False, start=500))
    return list(command_lines(folder / "section.md", ""))


def test_the_first_commands_on_an_export_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = commands_on_an_export(tmp_path, 120)
    assert [words[1] for words in commands] == ["check", "format", "tune", "rate"]
    monkeypatch.chdir(tmp_path)
    for words in commands[:2]:
        with pytest.raises(SystemExit) as ended:
            main(words[1:])
        assert not ended.value.code
    said = capsys.readouterr().out
    assert said.count("recognised: id = Visit ID, patient = MRN; not used to rate: Ward, Age, Sex") == 2
    assert "120 rows: Match 48, Does Not Match 48, Unknown 24" in said and "formatted_dataset.csv: 120 records" in said


@pytest.mark.slow
def test_every_command_on_an_export_runs(folder: Path) -> None:
    for words in commands_on_an_export(folder, 75):
        done = run(folder, words)
        assert done.returncode in ((0, 3) if words[1] == "tune" else (0,)), f"{' '.join(words)}\n{done.stderr[-2000:]}"
        if words[1] == "rate":
            assert "note: new_raw.csv: prompts made as in the run, from Presenting problem, Nurse note" in done.stdout
    rated = pd.read_csv(folder / "rated.csv", dtype=str)
    assert list(rated["Visit ID"]) == [f"V-{number:05}" for number in range(500, 520)]
    assert set(rated["Predicted_Label"]) <= set(MAPPING)


@pytest.mark.slow
def test_the_python_of_the_readme_runs(folder: Path) -> None:
    found = blocks(README, "python")
    assert found
    for block in found:
        code = f"import pandas as pd\ndf = pd.read_csv('formatted_dataset.csv').head(60)\n{block}"
        done = run(folder, ["python", "-c", code])
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.strip()  # the verdict


@pytest.mark.slow
def test_the_python_of_the_guides_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder with a model set; `prompt` is a record. A block with "…" in it shows a form and is not run.

    Those of the page on decision models run against a server in rate/test_http_server.py.
    """
    FineTuner().create_model_set_config(
        "llama2", pd.read_csv(folder / "formatted_dataset.csv"), MAPPING, "asthma", output_dir=folder / "outputs"
    )
    monkeypatch.chdir(folder)
    for page in GUIDES:
        for block in [] if page in (README, ROOT / "docs/decision-model.md") else blocks(page, "python"):
            if "…" not in block:
                exec(compile(block, page.name, "exec"), {"prompt": "Chief complaint: cough"})
