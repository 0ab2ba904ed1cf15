"""Tests on real models run when they are asked for, and then skip with the reason where there is no index."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow  # each starts a pytest of its own
REAL = "tests/realmodel/test_whole_job.py"


def run_pytest(*options: str, cache: Path, **variables: str) -> str:
    """What pytest says of the tests on real models, with an empty cache and no package index."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "EXPERTUNE_", "PYTEST"))}
    no_index = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "EXPERTUNE_CACHE": str(cache)}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", REAL, *options],
        env=kept | no_index | variables,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize("options", [(), ("-m", "not slow")], ids=["no -m", "another -m"])
def test_they_are_skipped_unless_asked_for(options: tuple[str, ...], tmp_path: Path) -> None:
    said = run_pytest(*options, cache=tmp_path / "cache")
    assert "-m realmodel" in said and "passed" not in said
    assert not (tmp_path / "cache").exists()  # nothing was tried


@pytest.mark.parametrize(
    ("options", "variables"), [(("-m", "realmodel"), {}), ((), {"EXPERTUNE_REALMODEL": "1"})], ids=["-m", "variable"]
)
def test_asked_for_they_skip_with_the_reason_where_the_index_is_missing(
    options: tuple[str, ...], variables: dict[str, str], tmp_path: Path
) -> None:
    said = run_pytest(*options, cache=tmp_path / "cache", **variables)
    assert "could not be fetched from the package index" in said and "passed" not in said
