"""Libraries that `pip install expertune` leaves out: without one, a command ends with a line that says how to get it.

Nothing is imported here: `find_spec` only looks for the library.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from .errors import UsageError


def require(library: str, purpose: str, install: str) -> None:
    """Raise UsageError where `library` is not installed; `install` is what pip is to be given."""
    if find_spec(library) is None:
        raise UsageError(f"{purpose} needs {library}, which is not installed; run: pip install {install}")


def require_torch(purpose: str) -> None:
    """Raise UsageError where torch is not installed."""
    require("torch", purpose, '"expertune[train]"')


def installed_version(package: str) -> str:
    """The version of a package, "absent" where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
