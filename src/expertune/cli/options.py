"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Input = Annotated[Path, typer.Option("--input", help="formatted_dataset.csv (or .jsonl, .parquet).")]
Topics = Annotated[str, typer.Option("--topics", help="What the records are rated against.")]
Mapping_ = Annotated[str | None, typer.Option("--rating-mapping", help="JSON, or a file with it: label to integer.")]
Replace = Annotated[bool, typer.Option("--replace", help="Take a name that is in use in Ollama.")]
Force = Annotated[bool, typer.Option("--force", help="Register also what the gate holds back; it is told.")]
AllowRemote = Annotated[
    bool, typer.Option("--allow-remote", help="OLLAMA_HOST may be another machine; patient text is sent there.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
