"""Turn Ollama's error messages into one line that says what to do. The texts are those that 0.33.0-rc2 sends."""

from __future__ import annotations

import json
import re
from typing import Any

from ...errors import EngineError, ExpertuneError, OutputError, UsageError
from ...text import one_line
from ..base import without_record

READ = 2000  # characters of an error text that are read
LENGTH = 140  # characters of a server's own words


class Unavailable(EngineError):
    """The server is busy, gone, or lost its runner: the same request may succeed later."""


# (part of the server's text, error, what to do); the first that fits counts
KNOWN: tuple[tuple[str, type[ExpertuneError], str], ...] = (
    ("server busy", Unavailable, "the Ollama server has too many requests waiting; try again when it is less busy"),
    (
        "running the model: unexpected eof",
        Unavailable,
        "the model's process ended in the middle of an answer; see Ollama's log",
    ),
    ("runner process", Unavailable, "the model's process ended; see Ollama's log"),
    (
        "llama-server process has terminated",
        Unavailable,
        "Ollama cannot load the model ({text}); see its log, free memory or lower --max-tokens",
    ),
    ("requires more system memory", EngineError, "{text}; close other programs or choose a smaller model"),
    ("no space left on device", OutputError, "the disk of the Ollama server is full; free space and run again"),
    ("permission denied", OutputError, "the Ollama server may not write its models folder ({text}); correct its owner"),
    ("digest mismatch", EngineError, "the upload arrived damaged; run again"),
    ("invalid digest format", EngineError, "{text}; this is an error of Expertune, please report it"),
    ("invalid model name", UsageError, "not a name that Ollama takes; names look like my-rater or team/my-rater:v2"),
    ("template error", EngineError, "Ollama cannot read the template that was sent ({text})"),
    ("not in gguf format", EngineError, "Ollama says that the file is not a GGUF; make it again"),
    ("exceeds file size", EngineError, "Ollama says that the file is truncated ({text}); make it again"),
    ("lora adapters are no longer", EngineError, "this Ollama takes no adapters; register the merged file"),
    (
        "quantization is only supported",
        EngineError,
        "Ollama quantises float files only, by their general.file_type; register the finished file as it is",
    ),
    ("does not support thinking", EngineError, "{text}; it is asked without"),
    ("top_logprobs must be", EngineError, "{text}"),
    ("no such file or directory", EngineError, "Ollama has not got the file that was named; upload it again"),
    ("neither 'from' or 'files'", EngineError, "{text}"),
    ("failed to initialize samplers", EngineError, "this server cannot hold the model's chat answers to a schema"),
    ("json schema conversion failed", EngineError, "the server does not take this answer schema ({text})"),
    ("pull model manifest", UsageError, "no such model in Ollama; `ollama list` shows what is there"),
)
TOO_LONG = re.compile(r"request \((\d+) tokens\) exceeds the available context size \((\d+) tokens\)")
MISSING = re.compile(r"model ['\"](.+?)['\"] not found")


def explained(text: str, what: str, status: int = 0, body: Any = None) -> ExpertuneError:
    """The exception for a server's error text. `what` names the model or request, `body` is what was asked.

    llama-server's errors are inside `error`.
    """
    said = _inner(text)
    if found := TOO_LONG.search(said):
        return EngineError(
            f"{what}: a prompt needs {found[1]} tokens but the context holds {found[2]}; "
            "shorten the row or raise the context"
        )
    if found := MISSING.search(said):
        return UsageError(f"{found[1]}: not in Ollama; `ollama list` shows what is, `ollama pull` brings it")
    reason = without_record(said, body)
    short = reason if len(reason) <= LENGTH else f"{reason[: LENGTH - 1]}…"
    for part, error, line in KNOWN:
        if part in said.lower():
            return error(f"{what}: {line.format(text=short)}")
    if status == 503:
        return Unavailable(f"{what}: Ollama is not ready ({short}); try again")
    kind = Unavailable if "error was encountered while running the model" in said else EngineError
    return kind(f"{what}: Ollama refused ({short or f'status {status}'}); see its log")


def _inner(text: str) -> str:
    """The reason itself: out of {"error": …}, out of llama-server's {"error": {"message": …}} inside it; one line."""
    for _ in range(3):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            break
        error = value.get("error", value) if isinstance(value, dict) else value
        text = str(error.get("message", error)) if isinstance(error, dict) else str(error)
    return one_line(text[:READ])
