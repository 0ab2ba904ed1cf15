"""Options shared by several commands."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..config import SETTINGS

EXIT_FAILED, EXIT_FELL_BACK, EXIT_INTERRUPTED = 1, 3, 130

Input = Annotated[Path, typer.Option("--input", help="Rated records: CSV, TSV, Excel, JSONL or Parquet.")]
Column = Annotated[list[str] | None, typer.Option("--column", metavar="ROLE=NAME", help=SETTINGS["column"].help)]
Sheet = Annotated[str, typer.Option("--sheet", help="Sheet of an Excel file. [the first]", show_default=False)]
Excel = Annotated[bool, typer.Option("--excel", help="Begin a .csv output with the mark by which Excel knows UTF-8.")]
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
Adjudicate = Annotated[
    Path | None,
    typer.Option(
        "--adjudicate", help="Also write a list (.csv) of the records on which several experts differ, to be settled."
    ),
]
AdjudicateWithText = Annotated[
    bool, typer.Option("--adjudicate-with-text", help="Add the prompts and rationales to that list.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


def print_json(document: Any) -> None:
    """Print one JSON document, in ASCII, which every terminal and pipe takes."""
    print(json.dumps(document, indent=2, default=str))


def replace_letters_that_cannot_be_shown() -> None:
    """Make the terminal show "?" for a letter that its encoding lacks, so that no result and no run ends by it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
