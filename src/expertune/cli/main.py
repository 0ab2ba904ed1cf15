"""Command line: flags derived from `config.Config`, one-line errors, exit codes as in docs/usage.md."""

from __future__ import annotations

import sys
import traceback
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import __version__
from ..config import Config
from ..errors import DatasetTooSmallWarning, ExpertuneError, RenamedSettingWarning, UsageError
from .demo import demo
from .format import format_
from .options import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    Adjudicate,
    AdjudicateWithText,
    AllowRemote,
    AsJson,
    Column,
    Debug,
    Force,
    Input,
    Mapping_,
    Replace,
    Sheet,
    Topics,
    print_json,
    replace_letters_that_cannot_be_shown,
)
from .predict import merge_review, rate, serve
from .review import review
from .tune import tune

app = typer.Typer(
    name="expertune",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Tune a local GGUF model on an expert's ratings and evaluate it on records kept back for testing.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"expertune {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


app.command()(tune)


@app.command()
def register(
    *,
    folder: Annotated[Path, typer.Argument(help="The output folder of a finished run.")],
    name: Annotated[str, typer.Option("--name", help="Name of the new model in Ollama.")],
    input: Annotated[Path | None, typer.Option("--input", help="The run's dataset, if it has moved.")] = None,
    replace: Replace = False,
    force: Force = False,
    allow_remote: AllowRemote = False,
    debug: Debug = False,
) -> None:
    """Register the tuned model of a finished run with Ollama and verify it there."""
    from ..fine_tuner import FineTuner
    from ..record.registration import Registration
    from .output import print_registration

    tuner = FineTuner(debug_mode=debug, allow_remote=allow_remote)
    registration = tuner.register_model(folder, name, input, replace=replace, force=force)
    print_registration(Registration.model_validate(registration))


@app.command()
def report(
    *,
    folder: Annotated[Path, typer.Argument(help="The output folder of a finished run.")],
    prevalence: Annotated[
        float | None,
        typer.Option("--prevalence", help="Prevalence of a label for PPV and NPV; 0: its share of the test records."),
    ] = None,
    review: Annotated[
        Path | None,
        typer.Option("--review", help="Summary of a review (RESULTS.summary.json): how good confident ratings are."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Rewrite report.html and the plots of a finished run: for another prevalence, or with the result of a review."""
    from ..report import rewrite_report

    rewrite_report(folder, prevalence, review)
    typer.echo(f"{folder / 'report.html'}: written, with the plots in the same folder")


@app.command()
def check(
    *,
    input: Input,
    topics: Topics = "",
    rating_mapping: Mapping_ = None,
    column: Column = None,
    sheet: Sheet = "",
    adjudicate: Adjudicate = None,
    adjudicate_with_text: AdjudicateWithText = False,
    learning_curve: Annotated[
        bool,
        typer.Option(
            "--learning-curve/--no-learning-curve",
            help="Also fit TF-IDF on shares of the records and say what more ratings would bring (seconds).",
        ),
    ] = True,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Audit a dataset before training: duplicates, conflicts, rare labels, text that gives the rating away."""
    from ..evaluate.tfidf_curve import NO_CURVE, tfidf_curve
    from ..ratings.audit import audit
    from ..ratings.dataset import read_rated
    from ..ratings.near_duplicates import find_duplicates
    from ..ratings.split import group_ratings
    from .experts import compare_experts

    rated, scale = read_rated(input, rating_mapping, topics, column or (), sheet)
    config = Config()
    duplicates = find_duplicates(rated.ratings, config.near_duplicate_threshold)
    result = audit(rated.ratings, scale, duplicates)
    agreement, lines = compare_experts(rated.experts, scale, adjudicate, with_text=adjudicate_with_text)
    notes = [str(rated.columns), *rated.notes, *lines]
    groups = group_ratings(rated.ratings, duplicates)
    curve = tfidf_curve(rated.ratings, scale, groups, config) if learning_curve else None
    if as_json:
        experts = {"experts": asdict(agreement)} if agreement else {}
        print_json({**asdict(result), "notes": notes, "learning_curve": curve and asdict(curve), **experts})
    last = [curve.line() if curve else NO_CURVE] if learning_curve else []
    for line in () if as_json else (*notes, *result.lines(), *last):
        typer.echo(line)
    if any(finding.severity == "error" for finding in result.findings):
        raise typer.Exit(UsageError.exit_code)


app.command("format")(format_)


@app.command()
def models(
    *,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Ollama models or GGUF files; without names all Ollama models."),
    ] = None,
    input: Annotated[Path | None, typer.Option("--input", help="Estimate the training time for this dataset.")] = None,
    topics: Topics = "",
    rating_mapping: Mapping_ = None,
    column: Column = None,
    sheet: Sheet = "",
    quick: Annotated[
        bool, typer.Option("--quick", help="Measure nothing; show only throughput measured earlier.")
    ] = False,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Allow OLLAMA_HOST to be another machine.")
    ] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """List models, whether each can be tuned, and the memory and time that tuning takes on this machine."""
    from .models import print_models

    print_models(
        names or (),
        input=input,
        topics=topics,
        rating_mapping=rating_mapping,
        column=column or (),
        sheet=sheet,
        quick=quick,
        allow_remote=allow_remote,
        as_json=as_json,
    )


@app.command()
def doctor(
    *,
    model: Annotated[str | None, typer.Option("--model", help="Also check whether this model can be tuned.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show library versions, processor, memory and Ollama, and whether a model can be tuned."""
    from .doctor import print_doctor

    print_doctor(model, as_json=as_json)


app.command()(rate)
app.command()(serve)
app.command()(review)
app.command("merge-review")(merge_review)
app.command()(demo)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit. Errors are one line; --debug adds the traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    replace_letters_that_cannot_be_shown()
    warnings.showwarning = _one_line_warning
    for kind in (DatasetTooSmallWarning, RenamedSettingWarning):
        warnings.simplefilter("always", kind)
    try:
        app(arguments, standalone_mode=True)
    except ExpertuneError as error:
        _fail(error, arguments, error.exit_code, f"error: {error}")
    except KeyboardInterrupt:
        _fail(None, arguments, EXIT_INTERRUPTED, "error: stopped")
    except Exception as error:
        name = type(error).__name__
        _fail(error, arguments, EXIT_FAILED, f"error: unexpected {name}; run again with --debug and report the output")


def _fail(error: Exception | None, arguments: list[str], code: int, line: str) -> None:
    if error is not None and "--debug" in arguments:
        traceback.print_exception(error)
    print(" ".join(line.split()), file=sys.stderr)
    raise SystemExit(code)


def _one_line_warning(message: Warning | str, *rest: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)
