"""What pydantic found wrong with settings or a record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pydantic import ValidationError


class Fault(NamedTuple):
    """A field by its path, the kind of the fault as pydantic names it, the value, and pydantic's words."""

    place: tuple[int | str, ...]
    kind: str
    value: Any
    message: str

    @property
    def where(self) -> str:
        """The path as evaluation.rows.0; "" for the whole."""
        return ".".join(map(str, self.place))


def faults(error: ValidationError) -> list[Fault]:
    return [Fault(each["loc"], each["type"], each["input"], each["msg"]) for each in error.errors(include_url=False)]
