"""Sections of the records that are written as JSON, and how the content of a file becomes one.

Values that are not finite are null in the files.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import UsageError
from ..faults import faults

Sound = TypeVar("Sound", bound="Section")


class Section(BaseModel):
    """Section of a record. Unknown keys are dropped."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="null")

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values, as in the JSON file."""
        return json.loads(self.model_dump_json())


def read(kind: type[Sound], path: Path) -> Sound:
    """Read and parse a JSON file. Raises UsageError if it is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise UsageError(f"{path}: cannot be read ({reason}); give the output folder of a finished run") from None
    return parse(kind, content, path)


def parse(kind: type[Sound], content: Any, path: Path) -> Sound:
    """Parse the `content` of a JSON file. Raises UsageError that names the first invalid field.

    A figure that is null in the file is NaN in the record.
    """
    try:
        return _validate(kind, content)
    except ValidationError as error:
        place = faults(error)[0].where or "its beginning"
        raise UsageError(
            f"{path}: damaged, or of another version (at {place}); give the output folder of a finished run, "
            "or run expertune tune again"
        ) from None


def _validate(kind: type[Sound], content: Any) -> Sound:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        found = faults(error)
        if any(each.kind != "float_type" or each.value is not None for each in found):
            raise
        return kind.model_validate(_with_nan(content, [each.place for each in found]))


def _with_nan(content: Any, places: Sequence[tuple[int | str, ...]]) -> Any:
    """A copy of `content` with nan in these places; those that name no place in it are passed over."""
    changed = copy.deepcopy(content)
    for *above, last in places:
        part = changed
        with contextlib.suppress(LookupError, TypeError):
            for key in above:
                part = part[key]
            part[last] = math.nan
    return changed
