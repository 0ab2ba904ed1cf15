"""The output folder: file names, provenance, tables, training_config.yaml, Modelfile."""

from __future__ import annotations

import platform
import re
import shutil
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from . import __version__
from .config import AUTO, Config, as_dict, make_config
from .engine.locate import Located
from .errors import OutputError, UsageError
from .files import csv_text, remove_leftovers, sha256, write_text
from .optional import installed_version
from .renamed_settings import current_settings

TRAINING_DATA = "training_data.jsonl"
TRAINING_CONFIG = "training_config.yaml"
ADAPTER = "fine_tuned_adapter.gguf"
MODEL = "fine_tuned_model.gguf"
MODELFILE = "Modelfile"
MODEL_SET = "model_set_config.json"
READOUT = "readout.json"
METADATA = "fine_tuning_metadata.json"
REGISTRATION_SAMPLE = "registration_sample.json"
TEST_PREDICTIONS = "test_predictions.csv"
LABEL_ERRORS = "likely_label_errors.csv"
LOG = "fine_tuner.log"
EVENTS = "training_events.jsonl"
CHECKPOINTS = "checkpoints"
TRACKING = "tracking"
PREVIOUS = "previous"
EARLIER = f"{PREVIOUS}/run"  # the run that was there before
TUNED_FILES = (TRAINING_DATA, TRAINING_CONFIG, ADAPTER, MODEL, MODELFILE)
PRODUCTS = (*TUNED_FILES, MODEL_SET, READOUT)
TABLES = (TEST_PREDICTIONS, LABEL_ERRORS)
RESULTS = (*PRODUCTS, REGISTRATION_SAMPLE, *TABLES, "report.json", "report.html", "plots", METADATA)  # metadata last
# values that mean: chosen by the run
AUTOMATIC = {**dict.fromkeys(("device", "compute_dtype", "learning_rate", "epochs", "layers"), AUTO), "threads": None}
BUDGET = Config().model_set_budget_seconds
DEEPEST = 20  # nesting of a training_config.yaml; ours has three levels
_FORMULA = re.compile(r"[=+\-@\t\r\n](?![\d.]+$)")  # how a text begins that Excel computes; a negative number is none


def open_folder(folder: Path) -> Path:
    """Create the folder and check that it is writable, before any work; remove what a killed run left half written.

    Raises OutputError.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: is a file; choose a folder with --output-dir")
    probe = folder / ".writable"
    write_text(probe, "")
    probe.unlink()
    remove_leftovers(folder, probe.name, *RESULTS)
    for inner in (CHECKPOINTS, "plots"):
        remove_leftovers(folder / inner, "*")
    return folder


def check_finished(folder: Path, models: Iterable[str], *, overwrite: bool) -> None:
    """Raise UsageError if the folder holds a finished run without `overwrite`, or with one of the models in it."""
    if not (folder / METADATA).exists():
        return
    remove_checkpoints(folder)  # of a run that was killed after it had written its last file
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
    replaced = earlier.with_name("replaced")  # a removal that was stopped must not leave half a run
    if (earlier / METADATA).exists():
        shutil.rmtree(replaced, ignore_errors=True)
        earlier.replace(replaced)
    shutil.rmtree(replaced, ignore_errors=True)
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


def write_table(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows with the same keys as CSV (RFC 4180), numbers in full, None as an empty cell. Raises OutputError.

    A text that Excel would compute as a formula gets an apostrophe before it. A file with letters beyond ASCII begins
    with a byte order mark, without which Excel misreads them.
    """
    table = csv_text([rows[0], *(map(_cell, row.values()) for row in rows)])
    write_text(path, table if table.isascii() else f"\ufeff{table}")


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    sound = value.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()
    return f"'{sound}" if _FORMULA.match(sound) else sound


def plain_name(text: str) -> str:
    """The text in ASCII letters, digits and underscores; "" if it has none of them."""
    ascii_only = unicodedata.normalize("NFKD", text.replace("ß", "ss")).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9]+", "_", ascii_only).strip("_")


def variable_names(texts: Sequence[str], longest: int, instead: Sequence[str] = ()) -> list[str]:
    """Parts of column names that R, SAS, SPSS and Stata take: ASCII letters, digits and _, unique and in lower case.

    `instead` replaces the texts of which no such sign is left.
    """
    names = list[str]()
    for at, text in enumerate(texts):
        found = plain_name(text).lower() or instead[at]
        name, count = found[:longest].strip("_"), 1
        while name in names:
            count += 1
            name = f"{found[: longest - len(str(count)) - 1].strip('_')}_{count}"
        names.append(name)
    return names


def write_config(path: Path, config: Config, run: Mapping[str, Any]) -> None:
    """Write the resolved settings and the run's inputs; `--config` reads the file."""
    import yaml

    sections = {"run": dict(run), "settings": as_dict(config)}
    text = yaml.safe_dump(sections, sort_keys=False, allow_unicode=True)
    write_text(path, "# expertune tune --config FILE repeats this run\n" + text)


@dataclass(frozen=True)
class SavedConfig:
    """The sections of a training_config.yaml: the inputs of its run and the settings, by name."""

    run: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


def read_config(path: Path) -> SavedConfig:
    """Read a training_config.yaml. Raises UsageError."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        content, depth = None, 0
        for event in yaml.parse(text, yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            # a few aliases of aliases would be gigabytes in an error message, and PyYAML's time is the depth squared
            if isinstance(event, yaml.AliasEvent) or depth > DEEPEST:
                break
        else:
            content = yaml.safe_load(text)
        repr(content)  # fails for an integer of too many digits to be shown in a message
    except Exception as error:  # PyYAML raises errors of any kind for values that do not fit their tags
        kind = type(error).__name__
        raise UsageError(f"{path}: cannot be read as YAML ({kind}); give the training_config.yaml of a run") from None
    sections: list[Any] = [content.get(key, {}) if isinstance(content, dict) else None for key in ("run", "settings")]
    if not all(isinstance(section, dict) and all(map(_is_name, section)) for section in sections):
        raise UsageError(f"{path}: not a training_config.yaml (expected the sections run and settings)")
    return SavedConfig(*sections)


def first_run(folder: Path) -> tuple[Config | None, Mapping[str, Any]]:
    """Settings and inputs of the run that wrote training_config.yaml; None if there is no such file."""
    path = folder / TRAINING_CONFIG
    if not path.exists():
        return None, {}
    kept = read_config(path)
    return make_config(current_settings(kept.settings, warn=False)), kept.run


def check_resumed(folder: Path, config: Config, topics: str) -> None:
    """Raise UsageError, which names them, if settings differ from those of the run that `folder` holds."""
    first, run = first_run(folder)
    if first is None:
        return
    # a limit on the time also chooses the model set's
    automatic = AUTOMATIC if first.minutes is None else AUTOMATIC | {"model_set_budget_seconds": BUDGET}
    given = {name: value for name, value in as_dict(config).items() if automatic.get(name) != value}
    before = {**as_dict(first), "topics": run.get("topics", topics)}
    differ = {name: value for name, value in {**given, "topics": topics}.items() if before[name] != value}
    if differ:
        named = ", ".join(f"{name} ({value!r}, there {before[name]!r})" for name, value in differ.items())
        raise UsageError(
            f"--resume: not the settings of the run in {folder}: {named}; repeat those, or start without --resume"
        )


def _is_name(key: Any) -> bool:
    return isinstance(key, str) and key.isprintable()


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
