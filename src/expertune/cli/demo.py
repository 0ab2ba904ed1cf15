"""`expertune demo`: the demo of the repository, where there is no `make`."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from .options import Debug

FOLDER = Path("outputs/demo")
REPOSITORY = Path(__file__).resolve().parents[3]


def demo(
    *,
    folder: Annotated[
        Path, typer.Argument(help="Output folder; an earlier run in it is kept in previous/run.")
    ] = FOLDER,
    base: Annotated[bool, typer.Option("--base", help="Use the example model in examples/; needs no network.")] = False,
    debug: Debug = False,
) -> None:
    """Tune a small model on 500 invented emergency visits and evaluate it; needs a copy of the repository."""
    if not (REPOSITORY / "demo_fine_tuner.py").is_file():
        raise UsageError(
            "demo: its visits and its model are in the repository, not in the package; "
            'get a copy of the repository and install it with pip install -e ".[train]"'
        )
    sys.path.insert(0, str(REPOSITORY))  # for demo_fine_tuner and examples, which are not in the package
    import_module("demo_fine_tuner").run(folder, base=base)
