"""What the terminal's encoding cannot show is replaced, and never ends a run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from commands import ROOT

CHINESE = ROOT / "tests/data/label_scripts/chinese"


def shown(encoding: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "expertune", *map(str, arguments)],
        env=os.environ | {"OLLAMA_HOST": "127.0.0.1:9", "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.decode(encoding)


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
def test_labels_of_another_script(encoding: str) -> None:
    said = shown(encoding, "check", "--input", f"{CHINESE}.csv", "--rating-mapping", f"{CHINESE}.json")
    assert "\n60 rows: ?? " in said


@pytest.mark.slow
def test_a_dash_and_a_file_name(tmp_path: Path) -> None:
    """The names of files may hold bytes that are not UTF-8; "models" writes a dash where nothing is known."""
    model = tmp_path / "modèle-模型.gguf"
    model.write_bytes((ROOT / "examples/base.gguf").read_bytes())
    for encoding, name in (("latin-1", "modèle-??.gguf"), ("ascii", "mod?le-??.gguf"), ("utf-8", "modèle-模型.gguf")):
        row = shown(encoding, "models", "--quick", model).splitlines()[1]
        assert name in row and "yes" in row


@pytest.mark.slow
def test_a_finished_run_shows_its_verdict(tmp_path: Path) -> None:
    out = tmp_path / "out"
    flags = {
        "input": f"{CHINESE}.csv",
        "rating-mapping": f"{CHINESE}.json",
        "model": "examples/base.gguf",
        "topics": "t",
    }
    quick = {
        "output-dir": out,
        "approach": "model-set",
        "model-set-budget-seconds": 10,
        "threads": 1,
        "max-tokens": 200,
    }
    said = shown("latin-1", "tune", *(part for flag, value in (flags | quick).items() for part in (f"--{flag}", value)))
    assert "On 12 records kept back for testing" in said and "?" in said
