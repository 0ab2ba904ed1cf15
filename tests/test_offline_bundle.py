"""scripts/offline_bundle.py: a bundle that installs without a network, and refuses a damaged file before it does."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from scripts.offline_bundle import FOLDER, SUMS, add_demo, finish, pack

from wheels import write_wheel

pytestmark = pytest.mark.skipif(os.name == "nt", reason="install.sh is a POSIX shell script")


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    """A bundle of a small wheel in place of the real ones, packed and unpacked again."""
    folder = tmp_path / "made" / FOLDER
    add_demo(folder, model=False)
    (folder / "wheels").mkdir()
    write_wheel(folder / "wheels", "expertune", "nothing.txt", b"nothing")
    with zipfile.ZipFile(next((folder / "wheels").glob("*.whl")), "a") as wheel:
        command = zipfile.ZipInfo("expertune-1.0.0.data/scripts/expertune")
        command.external_attr = 0o100755 << 16  # a regular file that can be executed
        wheel.writestr(command, "#!python\nprint('the command of the wheel')\n")
    finish(folder, "")
    pack(folder, tmp_path / "bundle.tar")
    with tarfile.open(tmp_path / "bundle.tar") as tar:
        tar.extractall(tmp_path / "there", filter="data")
    return tmp_path / "there" / FOLDER


def install(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run install.sh in a network namespace of its own, which has no network, where the system allows one."""
    alone = ["unshare", "-rn"]
    try:
        allowed = subprocess.run([*alone, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        allowed = False
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    more = {"PIP_CONFIG_FILE": os.devnull, "PYTHON": sys.executable}
    words = [*(alone if allowed else []), "sh", str(folder / "install.sh")]
    return subprocess.run(words, capture_output=True, text=True, check=False, env={**clean, **more})


def test_the_list_has_every_file(unpacked: Path) -> None:
    listed = {line.split("  ", 1)[1] for line in (unpacked / SUMS).read_text(encoding="utf-8").splitlines()}
    there = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    assert listed == there - {SUMS}
    assert {"install.sh", "demo_fine_tuner.py", "examples/base.gguf", "examples/formatted_dataset.csv"} <= listed


@pytest.mark.slow
def test_it_installs_without_a_network(unpacked: Path) -> None:
    done = install(unpacked)
    assert done.returncode == 0, done.stderr
    assert "the command of the wheel" in done.stdout and (unpacked / ".venv/bin/expertune").is_file()


@pytest.mark.parametrize("name", ["examples/base.gguf", "wheels/expertune-1.0.0-py3-none-any.whl"])
def test_a_damaged_file_is_refused_before_anything_is_installed(unpacked: Path, name: str) -> None:
    with open(unpacked / name, "ab") as file:
        file.write(b"?")
    done = install(unpacked)
    assert done.returncode == 1 and not (unpacked / ".venv").exists()
    assert done.stderr.splitlines()[-1] == "error: a file of this bundle is damaged; copy it again"
