"""A bare pytest is the fast tier; what the command line selects runs whole. Seen in a small project of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")
TESTS = """
import pytest

def test_quick(): pass

@pytest.mark.slow
def test_long(): pass

@pytest.mark.ollama
def test_asks_ollama(): pass
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "pytest.ini").write_text(
        "[pytest]\ntestpaths = tests\nmarkers =\n  slow: -\n  ollama: -\n  realmodel: -\n"
    )
    (folder / "tests").mkdir()
    (folder / "tests" / "test_some.py").write_text(TESTS)
    shutil.copy(CONFTEST, folder / "tests")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "passed"),
    [
        ((), {"test_quick"}),
        (("tests",), {"test_quick", "test_long"}),
        (("tests/test_some.py", "-v"), {"test_quick", "test_long"}),
        (("-k", "long"), {"test_long"}),
        (("-m", "slow"), {"test_long"}),
        (("-m", "ollama"), {"test_asks_ollama"}),
    ],
    ids=["nothing", "folder", "file", "-k", "-m", "-m ollama"],
)
def test_what_runs(project: Path, arguments: tuple[str, ...], passed: set[str]) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "EXPERTUNE_"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rp", "-p", "no:cacheprovider", "-p", "xdist", *arguments],
        cwd=project,
        # a folder of its own: else pytest first clears what earlier runs left in /tmp
        env=kept | {"PYTEST_DEBUG_TEMPROOT": str(project), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("PASSED ")]
    assert {line.rpartition("::")[2] for line in lines} == passed, done.stdout + done.stderr
