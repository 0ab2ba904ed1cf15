"""Pack Expertune for a machine without a package index: wheels, the demo and its model, in one tar.

    python scripts/offline_bundle.py [--extras train] [--output FILE.tar]

The wheels are those of this machine: make the bundle with the operating system, processor and Python version of the
other one. There: `tar xf FILE.tar && cd expertune-offline && sh install.sh`, which checks every file's sha256 first.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from expertune import __version__
from expertune.errors import ExpertuneError, OutputError
from expertune.files import atomic, sha256, size_text

ROOT = Path(__file__).resolve().parents[1]
FOLDER = "expertune-offline"
SUMS = "SHA256SUMS"
SOURCE = ("src", "pyproject.toml", "README.md", "LICENSE")  # the wheel is built from these
DEMO = ("demo_fine_tuner.py", "examples", "LICENSE")
INSTALL = """#!/bin/sh
# Installs Expertune from this folder into .venv; contacts no other machine. PYTHON names the Python, VENV the folder.
set -eu
cd "$(dirname "$0")"
sha256sum --check --quiet SHA256SUMS || { echo "error: a file of this bundle is damaged; copy it again" >&2; exit 1; }
venv=${VENV:-.venv}
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --no-index --find-links wheels "expertune@EXTRAS@"
"$venv/bin/expertune" --version
echo "The demo: EXPERTUNE_CACHE=models $venv/bin/python demo_fine_tuner.py"
"""


def main() -> int:
    parser = argparse.ArgumentParser(description="Pack Expertune for a machine without a package index.")
    parser.add_argument("--extras", default="train", help="extras to include, with commas; '' for none")
    parser.add_argument("--output", type=Path, default=Path(f"expertune-offline-{__version__}.tar"))
    parser.add_argument("--no-model", action="store_true", help="leave out the demo's model, SmolLM2 (98 MB)")
    chosen = parser.parse_args()
    extras = f"[{chosen.extras}]" if chosen.extras else ""
    try:
        # in the same place as the result, since the system's temporary folder may be a small one in memory
        with tempfile.TemporaryDirectory(prefix=".bundle-", dir=chosen.output.resolve().parent) as temporary:
            folder = Path(temporary) / FOLDER
            download(folder / "wheels", extras)
            add_demo(folder, model=not chosen.no_model)
            finish(folder, extras)
            pack(folder, chosen.output)
    except ExpertuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{chosen.output}: {size_text(chosen.output.stat().st_size)}, sha256 {sha256(chosen.output)}")
    return 0


def download(wheels: Path, extras: str) -> None:
    """Build the project's wheel, and fetch those that it needs in the versions of constraints.txt."""
    with tempfile.TemporaryDirectory(dir=wheels.parent.parent) as source:  # setuptools leaves its build folder there
        copy_into(Path(source), SOURCE)
        _pip("wheel", "--no-deps", "--wheel-dir", wheels, source)
    (own,) = wheels.glob("expertune-*.whl")
    _pip("download", "--only-binary", ":all:", "-c", ROOT / "constraints.txt", "-d", wheels, f"{own}{extras}")


def _pip(command: str, *arguments: object) -> None:
    words = [sys.executable, "-m", "pip", command, "--quiet", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
        raise OutputError(f"the wheels could not be fetched (pip: {lines[-1].removeprefix('ERROR: ')})")


def add_demo(folder: Path, *, model: bool) -> None:
    """Copy the demo and its records, and its model where `model` asks for it. Raises Unavailable, WrongFile."""
    copy_into(folder, DEMO)
    if model:
        sys.path.insert(0, str(ROOT))
        from examples.real_models import fetch

        kept = fetch("smollm2")
        (folder / "models").mkdir()
        shutil.copyfile(kept, folder / "models" / kept.name)


def copy_into(folder: Path, names: tuple[str, ...]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copyfile(ROOT / name, folder / name)


def finish(folder: Path, extras: str) -> None:
    """Write install.sh, and the sha256 of every file in the folder."""
    (folder / "install.sh").write_text(INSTALL.replace("@EXTRAS@", extras), encoding="utf-8")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def pack(folder: Path, target: Path) -> None:
    """Write the folder as a tar, which is there only as a whole. Raises OutputError."""
    with atomic(target) as file, tarfile.open(fileobj=file, mode="w") as tar:
        tar.add(folder, arcname=folder.name)


if __name__ == "__main__":
    raise SystemExit(main())
