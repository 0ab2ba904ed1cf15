"""The output folder: file names, provenance, training_config.yaml, Modelfile."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from . import __version__
from .config import Config, as_dict
from .engine.locate import Located
from .errors import OutputError, UsageError
from .files import sha256, write_text
from .optional import installed_version

TRAINING_DATA = "training_data.jsonl"
TRAINING_CONFIG = "training_config.yaml"
ADAPTER = "fine_tuned_adapter.gguf"
MODEL = "fine_tuned_model.gguf"
MODELFILE = "Modelfile"
MODEL_SET = "model_set_config.json"
READOUT = "readout.json"
METADATA = "fine_tuning_metadata.json"
REGISTRATION_SAMPLE = "registration_sample.json"
LOG = "fine_tuner.log"
EVENTS = "training_events.jsonl"
CHECKPOINTS = "checkpoints"
TRACKING = "tracking"
PREVIOUS = "previous"
EARLIER = f"{PREVIOUS}/run"  # the run that was there before
TUNED_FILES = (TRAINING_DATA, TRAINING_CONFIG, ADAPTER, MODEL, MODELFILE)
PRODUCTS = (*TUNED_FILES, MODEL_SET, READOUT)
RESULTS = (*PRODUCTS, REGISTRATION_SAMPLE, "report.json", "report.html", "plots", METADATA)  # the metadata last


def open_folder(folder: Path) -> Path:
    """Create the folder and check that it is writable, before any work. Raises OutputError."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: is a file; choose a folder with --output-dir")
    probe = folder / ".writable"
    write_text(probe, "")
    probe.unlink()
    return folder


def check_finished(folder: Path, models: Iterable[str], *, overwrite: bool) -> None:
    """Raise UsageError if the folder holds a finished run without `overwrite`, or with one of the models in it."""
    if not (folder / METADATA).exists():
        return
    for model in map(Path, models):
        if model.is_file() and model.resolve().parent == folder.resolve():
            raise UsageError(f"{model}: is in the folder of a finished run; choose another --output-dir")
    if not overwrite:
        raise UsageError(
            f"{folder}: holds a finished run; choose another --output-dir, or give --overwrite (the results that are "
            f"there now are then kept in {folder / EARLIER})"
        )


def retire_run(folder: Path) -> bool:
    """Move the results of a finished run to previous/run, where it is again a whole run; True if there was one.

    It replaces the run that was kept there. The metadata move last, so that a move that was stopped goes on here.
    """
    if not (folder / METADATA).exists():
        return False
    earlier = folder / EARLIER
    if (earlier / METADATA).exists():
        shutil.rmtree(earlier)
    for each in (earlier.parent, earlier):
        each.mkdir(mode=0o700, exist_ok=True)
    for name in RESULTS:
        if (folder / name).exists():
            (folder / name).replace(earlier / name)
    return True


def retire(folder: Path, names: tuple[str, ...]) -> None:
    """Move files that the run did not choose to previous/, so that the folder holds the results of one run."""
    for name in names:
        if (folder / name).exists():
            (folder / PREVIOUS).mkdir(mode=0o700, exist_ok=True)
            (folder / name).replace(folder / PREVIOUS / name)


def now() -> str:
    """The time in UTC, ISO 8601 to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Versions of Expertune, Python, the platform and the libraries that affect results."""
    names = ("torch", "xllamacpp", "gguf", "numpy", "pandas", "scikit-learn", "scipy", "statsmodels", "matplotlib")
    own = {"expertune": __version__, "python": platform.python_version(), "platform": platform.platform()}
    return own | {name: installed_version(name) for name in names}


def hashes(folder: Path, names: tuple[str, ...]) -> dict[str, str]:
    """sha256 of those of the files that exist."""
    return {name: sha256(folder / name) for name in names if (folder / name).is_file()}


def write_config(path: Path, config: Config, run: Mapping[str, Any]) -> None:
    """Write the resolved settings and the run's inputs; `--config` reads the file."""
    import yaml

    sections = {"run": dict(run), "settings": as_dict(config)}
    text = yaml.safe_dump(sections, sort_keys=False, allow_unicode=True)
    write_text(path, "# expertune tune --config FILE repeats this run\n" + text)


def read_config(path: Path) -> dict[str, dict[str, Any]]:
    """Read the sections "run" and "settings" of a training_config.yaml. Raises UsageError."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        kind = type(error).__name__
        raise UsageError(f"{path}: cannot be read as YAML ({kind}); give the training_config.yaml of a run") from None
    if not isinstance(content, dict) or not all(isinstance(content.get(key, {}), dict) for key in ("run", "settings")):
        raise UsageError(f"{path}: not a training_config.yaml (expected the sections run and settings)")
    return {key: content.get(key, {}) for key in ("run", "settings")}


def write_modelfile(folder: Path, base: Located, *, system: str | None) -> None:
    """Write the file for `ollama create NAME -f Modelfile`: the tuned file with its base's serving configuration.

    TEMPLATE is written only if Ollama has a template of its own for the base; otherwise the file's Jinja template
    applies, which Ollama cannot read from a Modelfile. `system` is the system prompt of the training, None if the
    template has no system role.
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
    """Quote as Ollama's own Modelfiles do (0.33, parser/parser.go), which has no escapes."""
    if "\n" not in text and '"' not in text and text == text.strip():
        return text
    return f'"""{text}"""' if '"' in text else f'"{text}"'


def remove_checkpoints(folder: Path) -> None:
    """Delete checkpoints/ if it exists."""
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
