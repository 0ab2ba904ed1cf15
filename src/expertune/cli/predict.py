"""The commands that use what a run has made: rate new records, choose what to review, take the review back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .options import AllowRemote, Debug, Mapping_


def rate(
    *,
    new: Annotated[Path, typer.Argument(help="New records with a Prompt (.csv, .tsv, .jsonl, .parquet).")],
    with_: Annotated[Path, typer.Option("--with", help="The output folder of a finished run.")],
    output: Annotated[
        Path | None, typer.Option("--output", help="Where to write; the suffix decides the form. [NEW_rated.csv]")
    ] = None,
    engine: Annotated[
        Literal["llama.cpp", "ollama"], typer.Option("--engine", help="Who serves the model.")
    ] = "llama.cpp",
    model: Annotated[str | None, typer.Option("--model", help="The model's name in Ollama.")] = None,
    rationale: Annotated[bool, typer.Option("--rationale", help="Also write the model's reason; slower.")] = False,
    calibration: Annotated[
        bool, typer.Option("--calibration/--no-calibration", help="Probabilities as corrected on the dev rows.")
    ] = True,
    journal: Annotated[
        Path | None, typer.Option("--journal", help="What a stopped run goes on from. [OUTPUT.journal.sqlite]")
    ] = None,
    slots: Annotated[int, typer.Option("--slots", min=0, help="Requests at once; 0 is the engine's choice.")] = 0,
    context: Annotated[
        int, typer.Option("--context", min=0, help="Tokens that one record may take; 0 is as in the run.")
    ] = 0,
    threads: Annotated[
        int | None, typer.Option("--threads", min=0, help="CPU threads; every physical core if not set.")
    ] = None,
    votes: Annotated[
        bool, typer.Option("--votes", help="Ask a model set's other members too, so that they can disagree; slower.")
    ] = False,
    allow_remote: AllowRemote = False,
    debug: Debug = False,
) -> None:
    """Rate new records with what a run has made: a tuned model or a model set."""
    from ..progress import Progress
    from ..rate.artifact import load_product
    from ..rate.runner import rate_file
    from ..rate.serve import serve
    from .output import print_tally

    to = output or new.with_name(f"{new.stem}_rated{new.suffix}")
    product = load_product(with_)
    options = {
        "slots": slots,
        "threads": threads or None,
        "context": context,
        "allow_remote": allow_remote,
        "votes": votes,
    }
    with Progress() as progress, serve(product, engine, model=model, threads=threads or None, **options) as served:
        tally = rate_file(
            new,
            to,
            product,
            served,
            progress.stage,
            rationale=rationale,
            calibrated=calibration,
            journal=journal,
        )
    print_tally(tally, to)


def review(
    *,
    rated: Annotated[Path, typer.Argument(help="A file that expertune rate has written.")],
    output: Annotated[Path, typer.Option("--output", help="The queue, a .csv for the reviewer.")] = Path("review.csv"),
    sample: Annotated[
        float, typer.Option("--sample", min=0, max=1, help="Share of the confident rows that is drawn too.")
    ] = 0.02,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of that sample.")] = 42,
) -> None:
    """Choose the rated rows that a person should look at, the most useful first, each with its reason."""
    from ..rate.review import make_queue
    from .output import print_queue

    print_queue(make_queue(rated, output, sample=sample, seed=seed), output)


def merge_review(
    *,
    reviewed: Annotated[Path, typer.Argument(help="The review queue with Reviewed_Rating filled in.")],
    into: Annotated[Path, typer.Option("--into", help="The formatted_dataset.csv that the rows join.")],
    output: Annotated[Path, typer.Option("--output", help="The new file; --into stays as it is.")],
    rating_mapping: Mapping_ = None,
    journal: Annotated[
        Path | None, typer.Option("--journal", help="A journal of expertune rate that shall know the review.")
    ] = None,
) -> None:
    """Add reviewed rows to a rating file, for the next tuning; conflicts are listed and left out."""
    from ..rate.merge import merge_review as merge
    from ..ratings.scale import load_scale
    from .output import print_merged

    print_merged(merge(reviewed, into, output, load_scale(rating_mapping, into), journal=journal), output)
