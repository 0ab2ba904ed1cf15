"""The command that makes a formatted dataset of raw records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Adjudicate, AdjudicateWithText, Column, Debug, Mapping_, Topics


def format_(
    *,
    raw: Annotated[Path, typer.Argument(help="Raw records, rated or not (.csv, .tsv, .jsonl, .parquet).")],
    output: Annotated[Path, typer.Option("--output", help="Output file.")] = Path("formatted_dataset.csv"),
    topics: Topics = "",
    rating_mapping: Mapping_ = None,
    column: Column = None,
    adjudicate: Adjudicate = None,
    adjudicate_with_text: AdjudicateWithText = False,
    debug: Debug = False,
) -> None:
    """Convert raw records, rated or not, to formatted_dataset.csv."""
    from ..files import write_text
    from ..ratings.format import format_raw
    from ..ratings.scale import load_scale
    from .experts import compare_experts

    scale = load_scale(rating_mapping, raw)
    formatted = format_raw(raw, scale, topics, column or ())
    _, experts = compare_experts(formatted.experts, scale, adjudicate, with_text=adjudicate_with_text)
    write_text(output, formatted.frame.to_csv(index=False))
    for line in (*formatted.notes, *experts, f"{output}: {len(formatted.frame)} records"):
        typer.echo(line)
