"""Size and time of an installation with each extra, in a new virtual environment of its own.

    python bench/install.py [--extra NAME …]       measures; each extra is one line of bench/results/install.jsonl
    python bench/install.py --table                writes the table into bench/README.md

pip resolves, downloads and installs with the user's own index settings and constraints.txt. What its cache already
holds is not downloaded again: `--no-cache` gives the seconds of a first installation.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from runs import (
    PAGE,
    RESULTS,
    ROOT,
    ChildFailed,
    Entry,
    append_result,
    latest,
    put_between,
    read_results,
    run_child,
    stamp,
    table,
)

FILE = RESULTS / "install.jsonl"
EXTRAS = ("", "train", "page", "all", "docs", "test")
SOURCE = ("src", "pyproject.toml", "README.md", "LICENSE")  # what the wheel is built from
HEAD = ("installed", "gives", "packages", "MB", "s of processor time", "s", "load")
GIVES = {
    "": "check, format, rate, report, models, doctor, serve",
    "train": "tune, --engine torch, rating by the readout",
    "page": "the review page",
    "all": "train and page",
    "docs": "the documentation's site",
    "test": "everything that `make test` needs",
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure size and time of an installation with each extra.")
    parser.add_argument("--extra", action="append", choices=EXTRAS, help="only this one (default: all); '' for none")
    parser.add_argument("--no-cache", action="store_true", help="do not use pip's cache")
    parser.add_argument("--table", action="store_true", help="only write the table into bench/README.md")
    chosen = parser.parse_args()
    if not chosen.table:
        with tempfile.TemporaryDirectory(prefix="expertune-install-") as folder:
            wheel = build_wheel(Path(folder))
            for extra in chosen.extra or EXTRAS:
                entry = {**measure(wheel, extra, Path(folder) / "venv", cache=not chosen.no_cache), **stamp()}
                append_result(FILE, entry)
                print(entry, flush=True)
    put_between(PAGE, "install", [*table(HEAD, rows(read_results(FILE)))])


def build_wheel(folder: Path) -> Path:
    """The project's wheel, built from a copy, so that the source tree gets no build folder."""
    source = folder / "source"
    for name in SOURCE:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        source.mkdir(exist_ok=True)
        copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, source]
    subprocess.run([str(part) for part in pip], check=True)
    return next(folder.glob("expertune-*.whl"))


def measure(wheel: Path, extra: str, venv: Path, *, cache: bool) -> Entry:
    """Install the wheel with an extra into a new environment; the size is what that adds to an empty one.

    Raises ChildFailed if pip fails, or if what was installed does not start.
    """
    shutil.rmtree(venv, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    empty, packages = size_of(venv), packages_in(venv)
    wanted = f"{wheel}[{extra}]" if extra else str(wheel)
    pip = [venv / "bin" / "python", "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wanted]
    child = run_child([*pip, *([] if cache else ["--no-cache-dir"])], venv.parent / "pip.log")
    if child.code:
        raise ChildFailed(child.last_error)
    added = {"megabytes": round((size_of(venv) - empty) / 1e6), "packages": packages_in(venv) - packages}
    started = run_child([venv / "bin" / "expertune", "--version"], venv.parent / "start.log")
    if started.code:
        raise ChildFailed(started.last_error)
    shutil.rmtree(venv)
    return {"extra": extra, "cache": cache, "seconds": child.seconds, "cpu_seconds": child.cpu_seconds, **added}


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def packages_in(venv: Path) -> int:
    return len(list(venv.rglob("*.dist-info")))


def rows(entries: list[Entry]) -> list[tuple[str, ...]]:
    found = latest(entries, "extra")
    return [_row(found[(extra,)]) for extra in EXTRAS if (extra,) in found]


def _row(entry: Entry) -> tuple[str, ...]:
    extra = entry["extra"]
    name = f"`expertune[{extra}]`" if extra else "`expertune`"
    figures = (
        f"{entry['megabytes']:,}",
        f"{entry['cpu_seconds']:.0f}",
        f"{entry['seconds']:.0f}",
        f"{entry['load']:g}",
    )
    return (name, GIVES[extra], str(entry["packages"]), *figures)


if __name__ == "__main__":
    main()
