"""The command that queues rated records for review, or serves the page on which experts rate, review and adjudicate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..errors import UsageError
from .options import Column, Debug, Mapping_, Topics


def review(
    *,
    rated: Annotated[
        Path,
        typer.Argument(help="Output file of expertune rate; with --page also unrated records."),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", help="Results, a .csv file. [review.csv, or formatted_dataset.csv]"),
    ] = None,
    sample: Annotated[
        float, typer.Option("--sample", min=0, max=1, help="Share of confident records to add at random.")
    ] = 0.02,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Random seed of that sample.")] = 42,
    page: Annotated[bool, typer.Option("--page", help="Serve a local web page on which experts work.")] = False,
    work: Annotated[
        Literal["rate", "review", "adjudicate"] | None,
        typer.Option("--work", help="Work of the page. [by the file's columns]"),
    ] = None,
    expert: Annotated[
        list[str] | None,
        typer.Option("--expert", metavar="COLUMN", help="Column of an expert's ratings, to adjudicate; repeat it."),
    ] = None,
    topics: Topics = "",
    rating_mapping: Mapping_ = None,
    column: Column = None,
    overlap: Annotated[
        float, typer.Option("--overlap", min=0, max=1, help="Share of the records that two experts rate.")
    ] = 0.2,
    journal: Annotated[
        Path | None, typer.Option("--journal", help="Where each key is saved at once. [FILE.WORK.sqlite]")
    ] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="TCP port; 0: a free one.")] = 0,
    host: Annotated[str, typer.Option("--host", help="Name or address to serve at.")] = "127.0.0.1",
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Allow --host to be reached from other machines.")
    ] = False,
    password_file: Annotated[Path | None, typer.Option("--password-file", help="File of its password.")] = None,
    tls_certificate: Annotated[Path | None, typer.Option("--tls-certificate", help="Its certificate (PEM).")] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", help="Its private key (PEM).")] = None,
    debug: Debug = False,
) -> None:
    """Queue rated records for human review, the most useful first, each with its reason.

    With --page experts rate, review or adjudicate records on a local web page.
    """
    if not page:
        given = {"--work": work, "--expert": expert, "--topics": topics, "--rating-mapping": rating_mapping,
                 "--column": column, "--journal": journal, "--allow-remote": allow_remote}  # fmt: skip
        if unused := [flag for flag, value in given.items() if value]:
            raise UsageError(f"{unused[0]}: is for the page; add --page")
        _queue(rated, output or Path("review.csv"), sample, seed)
        return
    from ..ratings.scale import load_scale
    from ..review_page.results import Results
    from ..review_page.server import Listen, check_installed, open_session, serve
    from ..review_page.source import find_work, read_records, read_review

    check_installed()
    listen = Listen(host, port, allow_remote, password_file, tls_certificate, tls_key)
    listen.password()
    scale, kind = load_scale(rating_mapping, rated), work or find_work(rated, expert or ())
    if kind == "review":
        source = read_review(rated, scale, sample=sample, seed=seed, topics=topics)
    elif kind == "adjudicate" and not expert:
        raise UsageError("--work adjudicate: name the columns of the experts' ratings with --expert")
    else:
        source = read_records(rated, scale, topics=topics, choices=column or (), experts=expert or ())
    results = Results(output or Path("review.csv" if kind == "review" else "formatted_dataset.csv"))
    session = open_session(
        source, journal or rated.with_name(f"{rated.name}.{kind}.sqlite"), overlap=overlap, seed=seed
    )
    with session.journal:
        results.check(rated, session.journal)
        for note in source.notes:
            typer.echo(f"note: {note}")
        typer.echo(f"{rated}: {len(source.items):,} records to {kind}; Ctrl-C ends, and writes {results.output}")
        typer.echo(serve(session, results, listen, _print_address, debug=debug))


def _queue(rated: Path, output: Path, sample: float, seed: int) -> None:
    from ..rate.review import make_queue
    from .output import print_queue

    print_queue(make_queue(rated, output, sample=sample, seed=seed), output)


def _print_address(address: str) -> None:
    print(f"open {address}", flush=True)
