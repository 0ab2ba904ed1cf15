"""`expertune tune`: a flag for each setting of `config.Config`, the run, and its exit code."""

from __future__ import annotations

import atexit
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..config import Setting, settings
from ..errors import UsageError
from ..machine import launched
from ..renamed_settings import REMOVED, RENAMED, RENAMED_VALUES, current_settings
from .options import EXIT_FAILED, EXIT_FELL_BACK, AllowRemote, Debug, Force, Mapping_, Replace

if TYPE_CHECKING:
    from ..record import RunRecord

NoFallback = Annotated[bool, typer.Option("--no-fallback", help="Fail instead of falling back to a model set.")]
LogTo = Annotated[
    list[str] | None,
    typer.Option(
        "--log-to",
        metavar="mlflow|tensorboard|trackio",
        help="Send the run's numbers to this experiment tracker, repeatable; by default into the output folder.",
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Allow an output folder with a finished run, which is kept in previous/run."),
]
Nproc = Annotated[
    int,
    typer.Option(
        "--nproc",
        min=1,
        help="Processes that share the training, each with its part of the threads or a GPU of its own (default 1). "
        "Leave it out under torchrun, which starts them itself.",
        show_default=False,
    ),
]


def _setting_parameters() -> list[inspect.Parameter]:
    """One option for each field of Config, and hidden ones for old names. None means "not given", so that a --config
    file is not overridden."""
    known = {setting.name: setting for setting in settings()}
    current = [_parameter(name, setting, hidden=False) for name, setting in known.items()]
    removed = [_parameter(old, Setting(old, str, None, ""), hidden=True) for old in REMOVED]
    return current + [_parameter(old, known[new], hidden=True) for old, new in RENAMED.items()] + removed


def _parameter(name: str, setting: Setting, *, hidden: bool) -> inspect.Parameter:
    kind: Any = str if setting.words or setting.kind is tuple else setting.kind
    if setting.repeatable:
        kind = list[str]
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


@with_settings
def tune(
    *,
    input: Annotated[
        Path | None, typer.Option("--input", help="Rated records: CSV, TSV, Excel, JSONL or Parquet.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="A GGUF file or the name of an Ollama model.")] = None,
    topics: Annotated[str | None, typer.Option("--topics", help="Topics that the records are rated for.")] = None,
    output_dir: Annotated[Path, typer.Option("--output-dir", help="Output folder.")] = Path("outputs"),
    rating_mapping: Mapping_ = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="training_config.yaml of an earlier run; flags override it.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    no_fallback: NoFallback = False,
    register: Annotated[
        str | None,
        typer.Option(
            "--register",
            help="Register the tuned model with Ollama under this name if it passes the quality gate.",
        ),
    ] = None,
    replace: Replace = False,
    force: Force = False,
    overwrite: Overwrite = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and its times, and stop; writes nothing.")
    ] = False,
    log_to: LogTo = None,
    nproc: Nproc = 1,
    allow_remote: AllowRemote = False,
    debug: Debug = False,
    **settings: Any,
) -> None:
    """Tune a model on expert ratings and evaluate it on records kept back for testing."""
    _join_launched()
    from ..fine_tuner import FineTuner
    from .output import print_summary

    def show(record: RunRecord) -> None:
        print_summary(record, output_dir)
        sys.stdout.flush()  # the result is shown even if the registration fails

    run, values = _merged(config, {"input": input, "model": model, "topics": topics}, settings)
    tuner = FineTuner(debug_mode=debug, fallback_mode=not no_fallback, allow_remote=allow_remote)
    job = (run["input"], run["model"], rating_mapping, run["topics"], output_dir)
    values |= {"resume": resume, "overwrite": overwrite}
    if dry_run:
        print("\n".join(tuner.plan_run(*job, **values)))
        return
    success, metadata = tuner.process_dataset(
        *job,
        register=register,
        replace=replace,
        force=force,
        log_to=log_to or (),
        nproc=nproc,
        on_result=show,
        **values,
    )
    _end(success, metadata, force=force)


def _join_launched() -> None:
    """Of the processes that torchrun or a cluster started, let rank 0 go on; the others train with it, and end here."""
    rank, count = launched()
    if count == 1:
        return
    from ..train.distributed import dismiss, serve

    if rank:
        raise typer.Exit(serve())
    atexit.register(dismiss)


def _end(success: bool, metadata: Mapping[str, Any], *, force: bool) -> None:
    """Show the registration, and end with the exit code of docs/usage.md."""
    registration = metadata.get("registration")
    if registration is not None:
        _show_registration(registration)
    if metadata["fallback_reason"] is not None:
        raise typer.Exit(EXIT_FELL_BACK)
    forced = force and registration is not None and registration["registered"]  # the failed checks were overridden
    if not success and not forced:
        raise typer.Exit(EXIT_FAILED)


def _show_registration(outcome: Mapping[str, Any]) -> None:
    from ..registration_record import Registration
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
    flags = {name: value for name, value in settings.items() if value not in (None, [])}
    return run, {**current_settings(saved["settings"]), **current_settings(flags)}
