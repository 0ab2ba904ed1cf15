"""The Dockerfile without Docker: its sources, extras and entry point are real, and no data gets into its context."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet

from expertune.cli.main import app

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
# Instructions with their arguments, continued lines joined, comments left out
LINES = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", TEXT, flags=re.M)).splitlines()
STEPS = [tuple(line.split(maxsplit=1)) for line in LINES if line.strip()]
IGNORED = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
DATA = (
    *("formatted_dataset.csv", "raw.xlsx", "rated.csv.journal.sqlite", "examples/formatted_dataset.csv"),
    *("outputs/fine_tuned_model.gguf", "outputs/demo/report.html", "tests/data/faults/x.csv", "build/x", "dist/x.whl"),
    *(".venv/bin/python", ".git/config", "src/expertune.egg-info/PKG-INFO", "src/expertune/__pycache__/a.pyc"),
)


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    tomllib = pytest.importorskip("tomllib", reason="this Python (3.10) cannot read TOML")
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def arguments(instruction: str) -> list[str]:
    return [rest for name, rest in STEPS if name == instruction]


def copied() -> list[str]:
    """The paths of the context that are copied into the image."""
    own = [rest.split() for rest in arguments("COPY") if not rest.startswith("--from=")]
    return [source for words in own for source in words[:-1]]


def in_context(path: str) -> bool:
    """As Docker reads .dockerignore: the last pattern that fits the path or a folder above it decides."""
    inside = True
    for pattern in IGNORED:
        wanted = pattern.removeprefix("!")
        parts = re.escape(wanted).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        above = [path, *(str(each) for each in PurePosixPath(path).parents)][:-1]
        if any(re.fullmatch(parts, each) for each in above):
            inside = pattern.startswith("!")
    return inside


def test_what_is_copied_is_there_and_in_the_context() -> None:
    assert copied() == ["constraints.txt", "pyproject.toml", "README.md", "LICENSE", "src"]
    for source in copied():
        assert (ROOT / source).exists() and in_context(source), source
    for path in (ROOT / "src/expertune").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert in_context(path.relative_to(ROOT).as_posix()), path
    for stage in re.findall(r"--from=(\S+)", TEXT):
        assert re.search(rf"^FROM \S+ AS {stage}$", TEXT, re.M)


@pytest.mark.parametrize("path", DATA)
def test_no_data_and_no_environment_is_in_the_context(path: str) -> None:
    assert not in_context(path)


def test_the_context_has_nothing_that_is_not_copied() -> None:
    wanted = {pattern[1:] for pattern in IGNORED if pattern.startswith("!")}
    assert IGNORED[0] == "*" and wanted == set(copied())


def test_extras_python_and_entry_point_are_real(project: dict[str, Any]) -> None:
    (extras,) = re.findall(r"^ARG EXTRAS=(.*)$", TEXT, re.M)
    assert '".[$EXTRAS]"' in TEXT and set(extras.split(",")) <= set(project["optional-dependencies"])
    versions = re.findall(r"^FROM python:([\d.]+)-slim", TEXT, re.M)
    assert len(set(versions)) == 1 and SpecifierSet(project["requires-python"]).contains(f"{versions[0]}.1")
    assert f"Programming Language :: Python :: {versions[0]}" in project["classifiers"]
    (entry,) = arguments("ENTRYPOINT")
    assert entry == '["expertune"]' and "expertune" in project["scripts"]
    assert {project["readme"], *project["license-files"]} <= set(copied())


def test_it_runs_as_a_user_and_stops_by_ctrl_c() -> None:
    assert [name for name, _ in STEPS].index("USER") < [name for name, _ in STEPS].index("ENTRYPOINT")
    assert arguments("USER") == ["expertune"] and "useradd --create-home --uid 1000 expertune" in TEXT
    assert arguments("STOPSIGNAL") == ["SIGINT"]
    names = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    for command in re.findall(r"^#.* expertune (?!\.)([a-z-]+) ", TEXT, re.M):
        assert command in names


@pytest.mark.slow
def test_pip_builds_the_whole_package_from_what_is_copied(tmp_path: Path) -> None:
    for source in copied():
        copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy2
        copy(ROOT / source, tmp_path / source)
    for left in tmp_path.rglob("*.egg-info"):
        shutil.rmtree(left)
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path / "dist"),
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        names = {name for name in opened.namelist() if ".dist-info/" not in name}
    files = (path for path in (ROOT / "src/expertune").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert names == {path.relative_to(ROOT / "src").as_posix() for path in files}
