"""The output folder: names, provenance, metadata, Modelfile."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib import metadata as packages
from pathlib import Path
from typing import Any

from . import __version__
from .config import Config, as_dict
from .engine.locate import Located
from .errors import OutputError, UsageError
from .files import sha256, write_text

TRAINING_DATA = "training_data.jsonl"
TRAINING_CONFIG = "training_config.yaml"
ADAPTER = "fine_tuned_adapter.gguf"
MODEL = "fine_tuned_model.gguf"
MODELFILE = "Modelfile"
MODEL_SET = "model_set_config.json"
METADATA = "fine_tuning_metadata.json"
LOG = "fine_tuner.log"
EVENTS = "training_events.jsonl"
CHECKPOINTS = "checkpoints"
PREVIOUS = "previous"
TUNED_FILES = (TRAINING_DATA, TRAINING_CONFIG, ADAPTER, MODEL, MODELFILE)


def open_folder(folder: Path) -> Path:
    """Make the folder and prove that it can be written, before any work is done.

    Raises OutputError.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: is a file; choose a folder with --output-dir")
    probe = folder / ".writable"
    write_text(probe, "")
    probe.unlink()
    return folder


def retire(folder: Path, names: tuple[str, ...]) -> None:
    """Move what an earlier run left under these names aside, so that the folder holds one run's results only."""
    for name in names:
        if (folder / name).exists():
            (folder / PREVIOUS).mkdir(mode=0o700, exist_ok=True)
            (folder / name).replace(folder / PREVIOUS / name)


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """What the result depends on: our version, Python, the libraries that compute."""
    names = ("torch", "xllamacpp", "gguf", "numpy", "pandas", "scikit-learn", "scipy", "statsmodels", "matplotlib")
    found = {"expertune": __version__, "python": platform.python_version(), "platform": platform.platform()}
    return found | {name: _version(name) for name in names}


def _version(name: str) -> str:
    try:
        return packages.version(name)
    except packages.PackageNotFoundError:
        return "absent"


def hashes(folder: Path, names: tuple[str, ...]) -> dict[str, str]:
    """sha256 of those of the files that are there."""
    return {name: sha256(folder / name) for name in names if (folder / name).is_file()}


def write_config(path: Path, config: Config, run: Mapping[str, Any]) -> None:
    """The resolved settings and what they were applied to; `--config` takes the file back."""
    import yaml

    write_text(
        path,
        "# expertune tune --config takes this file back and repeats the run\n"
        + yaml.safe_dump({"run": dict(run), "settings": as_dict(config)}, sort_keys=False, allow_unicode=True),
    )


def read_config(path: Path) -> dict[str, dict[str, Any]]:
    """The parts "run" and "settings" of such a file. Raises UsageError."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        kind = type(error).__name__
        raise UsageError(f"{path}: cannot be read as YAML ({kind}); give the training_config.yaml of a run") from None
    if not isinstance(content, dict) or not all(isinstance(content.get(key, {}), dict) for key in ("run", "settings")):
        raise UsageError(f"{path}: is no training_config.yaml (it has the parts run and settings)")
    return {key: content.get(key, {}) for key in ("run", "settings")}


def write_modelfile(folder: Path, base: Located, *, system: str | None) -> None:
    """For `ollama create NAME -f Modelfile`: the tuned file, dressed as its base, with the system text of its training.

    A TEMPLATE stands there only where the base has one of its own in Ollama; else the file's own is used, and Ollama
    could not read that one here. `system` is None where the template has no place for it.
    """
    lines = [f"FROM ./{MODEL}"]
    for key, value in (
        ("TEMPLATE", base.template),
        ("SYSTEM", system),
        ("RENDERER", base.renderer),
        ("PARSER", base.parser),
        ("LICENSE", base.license),
    ):
        if value:
            lines.append(f"{key} {_quoted(value)}")
    for key, value in base.parameters.items():
        lines += [f"PARAMETER {key} {_quoted(str(each))}" for each in (value if isinstance(value, list) else [value])]
    write_text(folder / MODELFILE, "\n".join(lines) + "\n")


def _quoted(text: str) -> str:
    """As Ollama's own Modelfiles quote (0.33, parser/parser.go): it knows no escapes."""
    if "\n" not in text and '"' not in text and text == text.strip():
        return text
    return f'"""{text}"""' if '"' in text else f'"{text}"'


def remove_checkpoints(folder: Path) -> None:
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
