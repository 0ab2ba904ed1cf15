"""Command line: flags derived from `config.Config`, one-line errors, exit codes as in docs/usage.md."""

from __future__ import annotations

import inspect
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..config import Config, Setting, settings
from ..errors import DatasetTooSmallWarning, ExpertuneError, RenamedSettingWarning, UsageError
from ..renamed_settings import REMOVED, RENAMED, RENAMED_VALUES, current_settings
from .options import AllowRemote, Debug, Force, Input, Mapping_, Replace, Topics, replace_letters_that_cannot_be_shown
from .predict import merge_review, rate, review, serve

if TYPE_CHECKING:
    from ..record import RunRecord

app = typer.Typer(
    name="expertune",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Tune a local GGUF model on an expert's ratings and evaluate it on records kept back for testing.",
)

EXIT_FAILED = 1
EXIT_FELL_BACK = 3
EXIT_INTERRUPTED = 130


def _setting_parameters() -> list[inspect.Parameter]:
    """One option for each field of Config, and hidden ones for old names. None means "not given", so that a --config
    file is not overridden."""
    known = {setting.name: setting for setting in settings()}
    current = [_parameter(name, setting, hidden=False) for name, setting in known.items()]
    removed = [_parameter(old, Setting(old, str, None, ""), hidden=True) for old in REMOVED]
    return current + [_parameter(old, known[new], hidden=True) for old, new in RENAMED.items()] + removed


def _parameter(name: str, setting: Setting, *, hidden: bool) -> inspect.Parameter:
    kind: Any = str if setting.words or setting.kind is tuple else setting.kind
    if setting.choices:
        choices = (*setting.choices, *RENAMED_VALUES.get(setting.name, ())) if hidden else setting.choices
        kind = Literal[choices]
    flag = f"--{name.replace('_', '-')}"
    option = typer.Option(
        f"{flag}/--no-{flag[2:]}" if setting.default is True else flag,
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
    """Add an option for each setting to a command that takes **settings."""
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
    model: Annotated[str | None, typer.Option("--model", help="A GGUF file or the name of an Ollama model.")] = None,
    topics: Annotated[str | None, typer.Option("--topics", help="Topics that the records are rated for.")] = None,
    output_dir: Annotated[Path, typer.Option("--output-dir", help="Output folder.")] = Path("outputs"),
    rating_mapping: Mapping_ = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="training_config.yaml of an earlier run; flags override it.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    no_fallback: Annotated[
        bool, typer.Option("--no-fallback", help="Fail instead of falling back to a model set.")
    ] = False,
    register: Annotated[
        str | None,
        typer.Option(
            "--register",
            help="Register the tuned model with Ollama under this name if it passes the quality gate.",
        ),
    ] = None,
    replace: Replace = False,
    force: Force = False,
    allow_remote: AllowRemote = False,
    debug: Debug = False,
    **settings: Any,
) -> None:
    """Tune a model on expert ratings and evaluate it on records kept back for testing."""
    from ..fine_tuner import FineTuner
    from .output import print_summary

    def show(record: RunRecord) -> None:
        print_summary(record, output_dir)
        sys.stdout.flush()  # the result is shown even if the registration fails

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


def _show_registration(outcome: Mapping[str, Any]) -> None:
    from ..record import Registration
    from .output import print_registration, refusal

    registration = Registration.model_validate(outcome)
    if registration.registered:
        print_registration(registration)
    else:
        print(f"error: {refusal(registration)}", file=sys.stderr)


def _merged(
    path: Path | None, run: dict[str, Any], settings: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Merge flags over the --config file. Raises UsageError for missing inputs."""
    from ..outputs import read_config

    saved: dict[str, Any] = {"run": {}, "settings": {}}
    if path is not None:
        saved |= read_config(path)
    run = {name: value if value is not None else saved["run"].get(name) for name, value in run.items()}
    missing = [f"--{name}" for name, value in run.items() if value is None]
    if missing:
        raise UsageError(f"{', '.join(missing)}: missing; see expertune tune --help")
    flags = {name: value for name, value in settings.items() if value is not None}
    return run, {**current_settings(saved["settings"]), **current_settings(flags)}


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
    from ..record import Registration
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
    debug: Debug = False,
) -> None:
    """Rewrite report.html and the plots of a finished run, for example for another prevalence."""
    from ..report import rewrite_report

    rewrite_report(folder, prevalence)
    typer.echo(f"{folder / 'report.html'}: written, with the plots in the same folder")


@app.command()
def check(*, input: Input, topics: Topics = "", rating_mapping: Mapping_ = None) -> None:
    """Audit a dataset before training: duplicates, conflicts, rare labels, text that gives the rating away."""
    from ..ratings.audit import audit
    from ..ratings.near_duplicates import find_duplicates
    from ..ratings.read import read_ratings
    from ..ratings.scale import load_scale

    notes: list[str] = []
    scale = load_scale(rating_mapping, input)
    ratings = read_ratings(input, scale, notes=notes)
    result = audit(ratings, scale, find_duplicates(ratings, Config().near_duplicate_threshold))
    for line in [*notes, *result.lines()]:
        typer.echo(line)
    if any(finding.severity == "error" for finding in result.findings):
        raise typer.Exit(UsageError.exit_code)


@app.command("format")
def format_(
    *,
    raw: Annotated[Path, typer.Argument(help="Raw records with the columns of EpiTuner.")],
    output: Annotated[Path, typer.Option("--output", help="Output file.")] = Path("formatted_dataset.csv"),
    topics: Topics = "",
    rating_mapping: Mapping_ = None,
) -> None:
    """Convert raw rated records to formatted_dataset.csv."""
    from ..files import write_text
    from ..ratings.format import format_raw
    from ..ratings.scale import load_scale

    frame = format_raw(raw, load_scale(rating_mapping, raw), topics)
    write_text(output, frame.to_csv(index=False))
    typer.echo(f"{output}: {len(frame)} records")


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
    quick: Annotated[
        bool, typer.Option("--quick", help="Measure nothing; show only throughput measured earlier.")
    ] = False,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Allow OLLAMA_HOST to be another machine.")
    ] = False,
) -> None:
    """List models, whether each can be tuned, and the memory and time that tuning takes on this machine."""
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
    *, model: Annotated[str | None, typer.Option("--model", help="Also check whether this model can be tuned.")] = None
) -> None:
    """Show library versions, processor, memory and Ollama, and whether a model can be tuned."""
    from .models import print_doctor

    print_doctor(model)


app.command()(rate)
app.command()(serve)
app.command()(review)
app.command("merge-review")(merge_review)


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
