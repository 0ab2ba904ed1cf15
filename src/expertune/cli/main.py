"""The command line: flags derived from `config.Config`, one line for an error, exit codes as in docs/usage.md."""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..config import Config, Setting, settings
from ..errors import DatasetTooSmallWarning, ExpertuneError, RenamedSettingWarning, UsageError
from ..renamed_settings import RENAMED, RENAMED_VALUES, current_settings
from .options import AllowRemote, Debug, Force, Input, Mapping_, Replace, Topics
from .predict import merge_review, rate, review

if TYPE_CHECKING:
    from ..record import RunRecord

app = typer.Typer(
    name="expertune",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Tune the GGUF that Ollama already holds on an expert's ratings, and prove the finished file.",
)

EXIT_FAILED = 1
EXIT_FELL_BACK = 3
EXIT_INTERRUPTED = 130


def _setting_parameters() -> list[inspect.Parameter]:
    """One option for each field of Config, and hidden ones for the old names. None means "not given", so that a
    --config file is not overruled."""
    known = {setting.name: setting for setting in settings()}
    current = [_parameter(name, setting, hidden=False) for name, setting in known.items()]
    return current + [_parameter(old, known[new], hidden=True) for old, new in RENAMED.items()]


def _parameter(name: str, setting: Setting, *, hidden: bool) -> inspect.Parameter:
    kind: Any = str if setting.auto or setting.kind is tuple else setting.kind
    if setting.choices:
        choices = (*setting.choices, *RENAMED_VALUES.get(setting.name, ())) if hidden else setting.choices
        kind = Literal[choices]
    option = typer.Option(
        f"--{name.replace('_', '-')}",
        help=_help(setting),
        show_default=False,
        rich_help_panel="Settings",
        hidden=hidden,
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _help(setting: Setting) -> str:
    reach = f" {setting.reach().capitalize()}." if setting.reach() else ""
    default = f" Default {setting.default}." if setting.default not in (None, ()) else ""
    return f"{setting.help}{reach}{default}"


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command that takes **settings an option for each setting."""
    signature = inspect.signature(command, eval_str=True)
    own = [
        parameter for parameter in signature.parameters.values() if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]

    def run(**given: Any) -> None:
        command(**given)

    run.__signature__ = signature.replace(parameters=[*own, *_setting_parameters()])  # pyright: ignore[reportFunctionMemberAccess]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in run.__signature__.parameters.values()}  # pyright: ignore
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run


@app.command()
@with_settings
def tune(
    *,
    input: Annotated[Path | None, typer.Option("--input", help="formatted_dataset.csv (or .jsonl, .parquet).")] = None,
    model: Annotated[str | None, typer.Option("--model", help="A GGUF file, or the name of a model in Ollama.")] = None,
    topics: Annotated[str | None, typer.Option("--topics", help="What the records are rated against.")] = None,
    output_dir: Annotated[Path, typer.Option("--output-dir", help="Where the results go.")] = Path("outputs"),
    rating_mapping: Mapping_ = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="A training_config.yaml of an earlier run; flags overrule it.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")] = False,
    no_fallback: Annotated[bool, typer.Option("--no-fallback", help="Fail instead of making a model set.")] = False,
    register: Annotated[
        str | None, typer.Option("--register", help="The name that a file which passed gets in the running Ollama.")
    ] = None,
    replace: Replace = False,
    force: Force = False,
    allow_remote: AllowRemote = False,
    debug: Debug = False,
    **settings: Any,
) -> None:
    """Tune a model on expert ratings and judge the finished file on rows it never saw."""
    from ..fine_tuner import FineTuner
    from .output import print_summary

    def show(record: RunRecord) -> None:
        print_summary(record, output_dir)
        sys.stdout.flush()  # whatever becomes of the registration, the result has been shown

    run, values = _merged(config, {"input": input, "model": model, "topics": topics}, settings)
    tuner = FineTuner(debug_mode=debug, fallback_mode=not no_fallback, allow_remote=allow_remote)
    success, metadata = tuner.process_dataset(
        run["input"],
        run["model"],
        rating_mapping,
        run["topics"],
        output_dir,
        resume=resume,
        register=register,
        replace=replace,
        force=force,
        on_result=show,
        **values,
    )
    if (registration := metadata.get("registration")) is not None:
        _show_registration(registration)
    if metadata["fallback_reason"] is not None:
        raise typer.Exit(EXIT_FELL_BACK)
    if not success:
        raise typer.Exit(EXIT_FAILED)


def _show_registration(found: Mapping[str, Any]) -> None:
    from ..record import Registration
    from .output import print_registration, refusal

    registration = Registration.model_validate(found)
    if registration.registered:
        print_registration(registration)
    else:
        print(f"error: {refusal(registration)}", file=sys.stderr)


def _merged(
    path: Path | None, run: dict[str, Any], settings: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is given, over what the file says, over the defaults. Raises UsageError for what is missing."""
    from ..outputs import read_config

    kept: dict[str, Any] = {"run": {}, "settings": {}}
    if path is not None:
        kept |= read_config(path)
    run = {name: value if value is not None else kept["run"].get(name) for name, value in run.items()}
    missing = [f"--{name}" for name, value in run.items() if value is None]
    if missing:
        raise UsageError(f"{', '.join(missing)}: not given; see expertune tune --help")
    flags = {name: value for name, value in settings.items() if value is not None}
    return run, {**current_settings(kept["settings"]), **current_settings(flags)}


@app.command()
def register(
    *,
    folder: Annotated[Path, typer.Argument(help="The output folder of a finished run.")],
    name: Annotated[str, typer.Option("--name", help="The model's name in Ollama.")],
    input: Annotated[
        Path | None, typer.Option("--input", help="The run's rating file, where it is not where it was.")
    ] = None,
    replace: Replace = False,
    force: Force = False,
    allow_remote: AllowRemote = False,
    debug: Debug = False,
) -> None:
    """Register a finished run's tuned file with Ollama, and prove it there."""
    from ..fine_tuner import FineTuner
    from ..record import Registration
    from .output import print_registration

    tuner = FineTuner(debug_mode=debug, allow_remote=allow_remote)
    made = tuner.register_model(folder, name, input, replace=replace, force=force)
    print_registration(Registration.model_validate(made))


@app.command()
def report(
    *,
    folder: Annotated[Path, typer.Argument(help="The output folder of a finished run.")],
    prevalence: Annotated[
        float | None,
        typer.Option("--prevalence", help="A label's share of the records for PPV and NPV; 0: that of the test rows."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Write a finished run's report.html and plots again, also for another prevalence."""
    from ..report import rewrite_report

    rewrite_report(folder, prevalence)
    typer.echo(f"{folder / 'report.html'}: written, and the plots beside it")


@app.command()
def check(*, input: Input, topics: Topics = "", rating_mapping: Mapping_ = None) -> None:
    """Audit a rating file: what is wrong with it, before a minute of training is spent on it."""
    from ..ratings.audit import audit
    from ..ratings.near_duplicates import find_duplicates
    from ..ratings.read import read_ratings
    from ..ratings.scale import load_scale

    notes: list[str] = []
    scale = load_scale(rating_mapping, input)
    ratings = read_ratings(input, scale, notes=notes)
    found = audit(ratings, scale, find_duplicates(ratings, Config().near_duplicate_threshold))
    for line in [*notes, *found.lines()]:
        typer.echo(line)
    if any(finding.severity == "error" for finding in found.findings):
        raise typer.Exit(UsageError.exit_code)


@app.command("format")
def format_(
    *,
    raw: Annotated[Path, typer.Argument(help="A file in EpiTuner's raw columns.")],
    output: Annotated[Path, typer.Option("--output", help="Where to write.")] = Path("formatted_dataset.csv"),
    topics: Topics = "",
    rating_mapping: Mapping_ = None,
) -> None:
    """Turn raw records with ratings into formatted_dataset.csv."""
    from ..files import write_text
    from ..ratings.format import format_raw
    from ..ratings.scale import load_scale

    frame = format_raw(raw, load_scale(rating_mapping, raw), topics)
    write_text(output, frame.to_csv(index=False))
    typer.echo(f"{output}: {len(frame)} rows")


@app.command()
def models(
    *,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Models in Ollama, or GGUF files; none: all of Ollama."),
    ] = None,
    input: Annotated[
        Path | None, typer.Option("--input", help="Say how long it takes to train on this rating file.")
    ] = None,
    topics: Topics = "",
    rating_mapping: Mapping_ = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Measure nothing: speeds only where they are known already.")
    ] = False,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Ask a server that OLLAMA_HOST names on another machine.")
    ] = False,
) -> None:
    """Show models, whether each can be tuned and what it takes: memory, and time at the speed measured here."""
    from .models import print_models

    print_models(
        names or (),
        input=input,
        topics=topics,
        rating_mapping=rating_mapping,
        quick=quick,
        allow_remote=allow_remote,
    )


@app.command()
def doctor(
    *, model: Annotated[str | None, typer.Option("--model", help="Also look whether this model can be tuned.")] = None
) -> None:
    """Show what this machine offers: libraries, processor, memory, Ollama, and whether a model can be tuned."""
    from .models import print_doctor

    print_doctor(model)


app.command()(rate)
app.command()(review)
app.command("merge-review")(merge_review)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; never returns. One line for an error, a traceback only with --debug."""
    arguments = sys.argv[1:] if arguments is None else arguments
    warnings.showwarning = _one_line_warning
    warnings.simplefilter("always", DatasetTooSmallWarning)
    warnings.simplefilter("always", RenamedSettingWarning)
    try:
        app(arguments, standalone_mode=True)
    except ExpertuneError as error:
        _fail(error, arguments, error.exit_code, f"error: {error}")
    except KeyboardInterrupt:
        _fail(None, arguments, EXIT_INTERRUPTED, "error: stopped")
    except Exception as error:
        _fail(
            error,
            arguments,
            1,
            f"error: unexpected {type(error).__name__}; run again with --debug and report what it shows",
        )


def _fail(error: Exception | None, arguments: list[str], code: int, line: str) -> None:
    if error is not None and "--debug" in arguments:
        import traceback

        traceback.print_exception(error)
    print(" ".join(line.split()), file=sys.stderr)
    raise SystemExit(code)


def _one_line_warning(message: Warning | str, *rest: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)
