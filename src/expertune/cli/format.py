"""The command that makes a formatted dataset of raw records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Adjudicate, AdjudicateWithText, Column, Debug, Excel, Mapping_, Sheet, Topics


def format_(
    *,
    raw: Annotated[Path, typer.Argument(help="Raw records, rated or not (.csv, .tsv, .xlsx, .jsonl, .parquet).")],
    output: Annotated[Path, typer.Option("--output", help="Output file, .csv or .xlsx.")] = Path(
        "formatted_dataset.csv"
    ),
    topics: Topics = "",
    rating_mapping: Mapping_ = None,
    column: Column = None,
    excel: Excel = False,
    sheet: Sheet = "",
    adjudicate: Adjudicate = None,
    adjudicate_with_text: AdjudicateWithText = False,
    debug: Debug = False,
) -> None:
    """Convert raw records, rated or not, to formatted_dataset.csv."""
    from ..errors import UsageError
    from ..files import write_text
    from ..rate.excel import write_xlsx
    from ..rate.writer import BYTE_ORDER_MARK
    from ..ratings.format import format_raw
    from ..ratings.scale import load_scale
    from .experts import compare_experts

    scale = load_scale(rating_mapping, raw)
    formatted = format_raw(raw, scale, topics, column or (), sheet=sheet)
    _, experts = compare_experts(formatted.experts, scale, adjudicate, with_text=adjudicate_with_text)
    if output.suffix.lower() == ".xlsx":
        if excel:
            raise UsageError(f"--excel: it marks a .csv file as UTF-8, and {output} is none; leave it out")
        write_xlsx(output, list(formatted.frame.columns), formatted.frame.to_dict("records"))
    else:
        write_text(output, (BYTE_ORDER_MARK if excel else "") + formatted.frame.to_csv(index=False))
    for line in (*formatted.notes, *experts, f"{output}: {len(formatted.frame)} records"):
        typer.echo(line)
