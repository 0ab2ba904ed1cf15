"""The command that queues rated records for review, or serves the page on which experts rate, review and adjudicate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..errors import UsageError
from .options import Column, Debug, Mapping_, Sheet, Topics

if TYPE_CHECKING:
    from ..review_page.source import Source, Work

Rated = Annotated[
    Path, typer.Argument(help="Output file of expertune rate; with --page also unrated or several experts' records.")
]
Output = Annotated[
    Path | None, typer.Option("--output", help="Results, a .csv file. [review.csv, or formatted_dataset.csv]")
]
Sample = Annotated[float, typer.Option("--sample", min=0, max=1, help="Share of confident records to add at random.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Random seed of that sample.")]
Page = Annotated[bool, typer.Option("--page", help="Serve a local web page on which experts work.")]
WorkOf = Annotated[
    Literal["rate", "review", "adjudicate"] | None,
    typer.Option("--work", help="Work of the page. [by the file's columns]"),
]
Expert = Annotated[
    list[str] | None,
    typer.Option("--expert", metavar="COLUMN", help="Column of an expert's ratings, to adjudicate; repeat it."),
]
Overlap = Annotated[float, typer.Option("--overlap", min=0, max=1, help="Share of the records that two experts rate.")]
JournalFile = Annotated[
    Path | None, typer.Option("--journal", help="Where each key is saved at once. [FILE.WORK.sqlite]")
]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="TCP port of the page; 0: a free one.")]
Host = Annotated[str, typer.Option("--host", help="Name or address of this machine at which the page is served.")]
AllowRemote = Annotated[
    bool, typer.Option("--allow-remote", help="Allow --host to be reached from other machines, with password and TLS.")
]
PasswordFile = Annotated[Path | None, typer.Option("--password-file", help="File with the page's password.")]
Certificate = Annotated[Path | None, typer.Option("--tls-certificate", help="Certificate of --host (PEM).")]
Key = Annotated[Path | None, typer.Option("--tls-key", help="Private key of that certificate (PEM).")]


def review(
    *,
    rated: Rated,
    output: Output = None,
    sample: Sample = 0.02,
    seed: Seed = 42,
    page: Page = False,
    work: WorkOf = None,
    expert: Expert = None,
    topics: Topics = "",
    rating_mapping: Mapping_ = None,
    column: Column = None,
    sheet: Sheet = "",
    overlap: Overlap = 0.2,
    journal: JournalFile = None,
    port: Port = 0,
    host: Host = "127.0.0.1",
    allow_remote: AllowRemote = False,
    password_file: PasswordFile = None,
    tls_certificate: Certificate = None,
    tls_key: Key = None,
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
        _queue(rated, output or Path("review.csv"), sample, seed, sheet)
        return
    from ..review_page.results import Results
    from ..review_page.server import Listen, check_installed, open_session, serve

    check_installed()
    listen = Listen(host, port, allow_remote, password_file, tls_certificate, tls_key)
    listen.password()
    source = _source(rated, work, expert or (), sample, seed, topics, rating_mapping, column or (), sheet)
    results = Results(output or Path("review.csv" if source.work == "review" else "formatted_dataset.csv"))
    session = open_session(
        source, journal or rated.with_name(f"{rated.name}.{source.work}.sqlite"), overlap=overlap, seed=seed
    )
    with session.journal:
        results.check(rated, session.journal)
        for note in source.notes:
            typer.echo(f"note: {note}")
        typer.echo(f"{rated}: {len(source.items):,} records to {source.work}; Ctrl-C ends, and writes {results.output}")
        typer.echo(serve(session, results, listen, _print_address, debug=debug))


def _source(
    path: Path,
    work: Work | None,
    experts: Sequence[str],
    sample: float,
    seed: int,
    topics: str,
    mapping: str | None,
    choices: Sequence[str],
    sheet: str,
) -> Source:
    from ..ratings.scale import load_scale
    from ..review_page.source import find_work, read_records, read_review

    scale, kind = load_scale(mapping, path), work or find_work(path, experts, sheet)
    if kind == "review":
        return read_review(path, scale, sample=sample, seed=seed, topics=topics, sheet=sheet)
    if kind == "adjudicate" and not experts:
        raise UsageError("--work adjudicate: name the columns of the experts' ratings with --expert")
    return read_records(path, scale, topics=topics, choices=choices, experts=experts, sheet=sheet)


def _queue(rated: Path, output: Path, sample: float, seed: int, sheet: str) -> None:
    from ..rate.review import make_queue
    from .output import print_queue

    print_queue(make_queue(rated, output, sample=sample, seed=seed, sheet=sheet), output)


def _print_address(address: str) -> None:
    print(f"open {address}", flush=True)
