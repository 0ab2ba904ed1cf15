"""Options shared by several commands."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated

import typer

Input = Annotated[Path, typer.Option("--input", help="formatted_dataset.csv (or .jsonl, .parquet).")]
Topics = Annotated[str, typer.Option("--topics", help="Topics that the records are rated for.")]
Mapping_ = Annotated[
    str | None, typer.Option("--rating-mapping", help="Labels and their integers, as JSON or the path of a JSON file.")
]
Replace = Annotated[bool, typer.Option("--replace", help="Overwrite an existing Ollama model of this name.")]
Force = Annotated[
    bool,
    typer.Option("--force", help="Register even if the quality gate failed; the override is recorded in the metadata."),
]
AllowRemote = Annotated[
    bool, typer.Option("--allow-remote", help="Allow OLLAMA_HOST to be another machine; patient text is sent to it.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


def replace_letters_that_cannot_be_shown() -> None:
    """Make the terminal show "?" for a letter that its encoding lacks, so that no result and no run ends by it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
