"""One setting as its flag, YAML key and keyword need it, read from a field of Config."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo


@dataclass(frozen=True)
class Setting:
    """One field of Config. `kind` is that of its value; `low` and `high` are inclusive; `words` replace a number.

    A `repeatable` flag is given once for each value, which may contain commas.
    """

    name: str
    kind: type
    default: Any
    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] | None = None
    words: tuple[str, ...] = ()
    repeatable: bool = False

    def reach(self) -> str:
        """The range in words, "" where there is none."""
        if self.low is None:
            return ""
        return f"from {self.low:.10g} on" if self.high is None else f"from {self.low:.10g} to {self.high:.10g}"


def setting_of(name: str, field: FieldInfo) -> Setting:
    """Read a field's kind and range from its annotation: `T`, `T | None`, `Literal[…]` or `T in a range | words`."""
    low, high = _range(field.metadata)
    parts = [part for part in _alternatives(field.annotation) if part is not type(None)]
    choices = tuple(get_args(parts[0])) if get_origin(parts[0]) is Literal else None
    words = get_args(parts[1]) if len(parts) == 2 else ()
    kind: Any = parts[0]
    if get_origin(kind) is Annotated:
        kind, inner = get_args(kind)
        low, high = _range(inner.metadata)
    kind = str if choices else get_origin(kind) or kind
    repeatable = isinstance(field.json_schema_extra, dict) and bool(field.json_schema_extra.get("repeatable"))
    return Setting(name, kind, field.default, field.description or "", low, high, choices, words, repeatable)


def _alternatives(annotation: Any) -> Iterator[Any]:
    """The members of a union; anything else is its own only one."""
    if get_origin(annotation) in (Literal, Annotated, tuple) or not get_args(annotation):
        yield annotation
    else:
        yield from get_args(annotation)


def _range(constraints: list[Any]) -> tuple[float | None, float | None]:
    found = {end: getattr(each, end) for each in constraints for end in ("ge", "le") if hasattr(each, end)}
    return found.get("ge"), found.get("le")
