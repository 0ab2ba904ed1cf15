"""Commands that use a finished run: rate new records, serve the tuned model, merge a review."""

from __future__ import annotations

import os
import time
from glob import has_magic
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..errors import UsageError
from .options import AllowRemote, AsJson, Column, Debug, Excel, Mapping_, Sheet

New = Annotated[
    Path,
    typer.Argument(
        help="New records, raw or with a Prompt column (.csv, .tsv, .xlsx, .jsonl, .parquet); or a folder of such "
        'files, or a quoted pattern such as "visits/*.parquet".'
    ),
]
RatedOutput = Annotated[
    Path | None,
    typer.Option(
        "--output",
        help="Output file; its suffix sets the format. Without suffix: a folder of Parquet parts. [NEW_rated.csv; "
        "for a folder and with --ray NEW_rated]",
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray", metavar="ADDRESS", help="Rate on the hosts of a Ray cluster (host:port); local: on this one only."
    ),
]
RayWorkers = Annotated[
    int, typer.Option("--workers", min=0, help="Ray workers; 0: one a host, or as many as --threads allows.")
]
Threads = Annotated[int | None, typer.Option("--threads", min=0, help="CPU threads; every physical core if not set.")]
RatingProduct = Annotated[
    Literal["tuned", "readout", "model-set"] | None,
    typer.Option("--product", help="Which product of the run rates. [the recommended one]"),
]
Calibration = Annotated[
    bool,
    typer.Option("--calibration/--no-calibration", help="Calibrate probabilities as learnt on the validation records."),
]
Votes = Annotated[
    bool,
    typer.Option("--votes", help="Also rate with a model set's other members and record disagreement; slower."),
]


def rate(
    *,
    new: New,
    with_: Annotated[Path, typer.Option("--with", help="The output folder of a finished run.")],
    output: RatedOutput = None,
    engine: Annotated[
        Literal["llama.cpp", "torch", "ollama"], typer.Option("--engine", help="Engine that serves the model.")
    ] = "llama.cpp",
    model: Annotated[str | None, typer.Option("--model", help="The model's name in Ollama.")] = None,
    rationale: Annotated[bool, typer.Option("--rationale", help="Also write the model's rationale; slower.")] = False,
    calibration: Calibration = True,
    journal: Annotated[
        Path | None,
        typer.Option("--journal", help="Journal from which a stopped run continues. [OUTPUT.journal.sqlite]"),
    ] = None,
    slots: Annotated[int, typer.Option("--slots", min=0, help="Parallel requests; 0: chosen by the engine.")] = 0,
    context: Annotated[int, typer.Option("--context", min=0, help="Token limit of one record; 0: as in the run.")] = 0,
    threads: Threads = None,
    product: RatingProduct = None,
    votes: Votes = False,
    ray: Ray = None,
    workers: RayWorkers = 0,
    excel: Excel = False,
    sheet: Sheet = "",
    allow_remote: AllowRemote = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Rate new records with the recommended product of a finished run: tuned model, readout or model set."""
    from ..progress import Progress
    from ..rate.artifact import load_product
    from ..rate.ray_cluster import serve_on_ray
    from ..rate.registered_sample import change_since_registration
    from ..rate.runner import rate_file
    from ..rate.serve import serve
    from .output import print_tally

    target = output or _output(new, parts=ray is not None)
    loaded = load_product(with_, product)
    given: dict[str, Any] = {"model": model, "threads": threads or None, "slots": slots, "context": context}
    with Progress() as progress:
        if ray is None:
            serving = serve(loaded, engine, allow_remote=allow_remote, votes=votes, **given)
        else:
            serving = serve_on_ray(loaded, engine, ray, progress.stage, workers=workers, votes=votes, **given)
        with serving as served:
            if changed := change_since_registration(loaded, served):
                progress.say(f"warning: {changed}")
            how = {
                "rationale": rationale,
                "calibrated": calibration,
                "journal": journal,
                "excel": excel,
                "sheet": sheet,
            }
            tally = rate_file(new, target, loaded, served, progress.stage, **how)
    print_tally(tally, target, as_json=as_json)


def _output(new: Path, *, parts: bool) -> Path:
    """The output next to the input. Raises UsageError for a pattern, which has no name."""
    if new.is_dir():
        return new.resolve().with_name(f"{new.resolve().name}_rated")
    if not new.exists() and has_magic(str(new)):
        raise UsageError(f"{new}: name the output with --output, such as --output rated")
    return new.with_name(f"{new.stem}_rated{'' if parts else new.suffix}")


def serve(
    *,
    source: Annotated[
        Path,
        typer.Argument(metavar="FOLDER|FILE", help="The output folder of a run that tuned a model, or a GGUF file."),
    ],
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="TCP port; 0: a free one.")] = 0,
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """Serve a tuned model over HTTP to other programs on this machine, with a key, until Ctrl-C.

    A file tuned with --code-branch answers /v1/systemone: the labels, in the order of the mapping, are the options.
    """
    from ..rate.http_server import Address, served_file, start
    from .output import print_address

    served = served_file(source)
    server = start(served, port=port, threads=threads or None)
    try:
        print_address(served, Address(server.address.geturl(), server.key))
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        print("stopped", flush=True)
        os._exit(0)  # closing waits, with the GIL held, for every answer under way (xllamacpp 2026.10): for minutes


def merge_review(
    *,
    reviewed: Annotated[Path, typer.Argument(help="Review queue with Reviewed_Rating filled in.")],
    into: Annotated[Path, typer.Option("--into", help="formatted_dataset.csv to which the records are added.")],
    output: Annotated[Path, typer.Option("--output", help="Output file; --into is not changed.")],
    rating_mapping: Mapping_ = None,
    column: Column = None,
    sheet: Annotated[
        str, typer.Option("--sheet", help="Sheet of an Excel review. [the first]", show_default=False)
    ] = "",
    journal: Annotated[
        Path | None, typer.Option("--journal", help="Also record the corrections in this `expertune rate` journal.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Add reviewed records to a dataset for the next tuning; conflicts are listed and left out."""
    from ..rate.merge import merge_review as merge
    from ..ratings.scale import load_scale
    from .output import print_merged

    scale = load_scale(rating_mapping, into)
    print_merged(merge(reviewed, into, output, scale, journal=journal, choices=column or (), sheet=sheet), output)
