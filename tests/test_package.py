"""sdist and wheel: every file of the package is in them, they work outside the tree, and torch comes by an extra."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from expertune import __version__

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "expertune"
SOURCE = ("src", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "constraints.txt")
NEEDS_TORCH = """
import sys
sys.modules["torch"] = None  # as where it is not installed
from pathlib import Path
import expertune
assert Path(expertune.__file__).is_relative_to(sys.argv[1]), expertune.__file__
import expertune.report, expertune.rate, expertune.fine_tuner, expertune.cli.main
expertune.cli.main.main(["tune", "--input", "a", "--model", "b", "--topics", "c"])
"""


def package_files() -> set[str]:
    """Every file of the package in the source tree, as it is named in a wheel."""
    found = (path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(PACKAGE.parent).as_posix() for path in found}


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sdist, and the wheel built from it, as `python -m build` makes them; from a copy of the tree."""
    source = tmp_path_factory.mktemp("source")
    for name in SOURCE:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, source / name)
    for left in source.rglob("*.egg-info"):  # its list of files would hide what the build itself does not find
        shutil.rmtree(left)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(source / "dist"), str(source)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return source / "dist"


@pytest.mark.slow
def test_every_file_of_the_package_is_in_wheel_and_sdist(dist: Path) -> None:
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as opened:
        names = {name for name in opened.namelist() if ".dist-info/" not in name}
    assert names == package_files()
    assert any(name.endswith(".j2") for name in names) and any(name.endswith(".schema.json") for name in names)
    with tarfile.open(sdist) as opened:
        held = {name.partition("/src/")[2] for name in opened.getnames()}
    assert package_files() <= held


@pytest.mark.slow
def test_the_wheel_works_outside_the_tree_and_says_what_tuning_needs(dist: Path, tmp_path: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(tmp_path / "site")
    path = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    words = [sys.executable, "-c", NEEDS_TORCH, str(tmp_path / "site")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path, env=path)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert 'pip install "expertune[train]"' in line
    words = [sys.executable, "-m", "expertune", "check", "--input", str(ROOT / "examples/formatted_dataset.csv")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path, env=path)
    assert done.returncode == 0 and "500" in done.stdout, done.stderr


@pytest.mark.slow
def test_its_metadata_have_version_and_extras_and_torch_is_in_one(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        (name,) = (name for name in opened.namelist() if name.endswith("/METADATA"))
        text = opened.read(name).decode()
    assert f"\nVersion: {__version__}\n" in text
    assert {"train", "page", "all", "docs", "test"} <= set(re.findall(r"^Provides-Extra: (\S+)$", text, flags=re.M))
    torch = re.findall(r"^Requires-Dist: torch\b.*$", text, flags=re.M)
    assert torch and all("extra == 'train'" in line.replace('"', "'") for line in torch)
