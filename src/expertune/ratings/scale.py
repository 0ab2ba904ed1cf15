"""Define the rating scale (labels, values, synonyms) and the text of an answer."""

from __future__ import annotations

import json
import numbers
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import DatasetError
from .normalize import ABSTENTIONS, FAMILIES, as_whole_number, fold

DEFAULT_MAPPING: Mapping[str, int] = {"Match": 1, "Does Not Match": 0, "Unknown": -1}
METADATA_FILES = ("rating_mapping_metadata.json", "formatting_metadata.json")


@dataclass(frozen=True)
class RatingScale:
    """The labels with their values, in the mapping's order.

    `synonyms` maps folded text to value; `raw` maps the codes of a raw file ("2") to values. Only `standardize`
    uses `raw`, because a raw 0 may mean something else than a standardized 0.
    """

    labels: tuple[str, ...]
    values: tuple[int, ...]
    synonyms: Mapping[str, int]
    ordinal: bool
    ordinal_reason: str
    raw: Mapping[str, int] = field(default_factory=dict)

    def label_of(self, value: int) -> str:
        """Return the label of a value. Raises DatasetError for a value outside the mapping."""
        if value not in self.values:
            raise DatasetError(f"rating {value!r} is not one of {self.describe()}; add it to the mapping")
        return self.labels[self.values.index(value)]

    def value_of(self, raw: Any) -> int | None:
        """Return the value of a number of the mapping, or of a whole label or synonym; else None."""
        number = as_whole_number(raw)
        if number is not None:
            return number if number in self.values else None
        return self.synonyms.get(fold(_typed_label(raw) or ""))

    def standardize(self, raw: Any) -> int | None:
        """Return the value of a cell in a raw file: like value_of, but the codes of the mapping come first."""
        number = as_whole_number(raw)
        if number is not None and self.raw:
            return self.raw.get(str(number))
        return self.value_of(raw)

    def describe(self) -> str:
        return ", ".join(f"{value} ({label})" for label, value in zip(self.labels, self.values, strict=True))


def make_scale(mapping: Mapping[Any, Any], *, ordinal: bool | None = None) -> RatingScale:
    """Make a scale from label → value or raw code → value; codes may be strings, as JSON requires.

    Ordinal means: three or more values, consecutive, none negative, and no label that abstains ("Unknown").
    `ordinal` overrides the rule; the reason is kept either way.
    Raises DatasetError for a mapping that is empty, ambiguous or has values that are not whole numbers.
    """
    if not isinstance(mapping, Mapping) or not mapping:
        raise DatasetError('rating mapping: it is empty or not a mapping; give label and value, e.g. {"Match": 1, …}')
    names: dict[str, int] = {}
    raw: dict[str, int] = {}
    for key, value in mapping.items():
        number, code = as_whole_number(value), as_whole_number(key)
        if number is None:
            raise DatasetError(f"rating mapping: the value of {key!r} is {value!r}; it must be a whole number")
        if code is not None:
            if raw.setdefault(str(code), number) != number:
                raise DatasetError(f"rating mapping: duplicate code {code} with different values; keep one")
        else:
            names[_label_text(key)] = number
    labels = _first_labels(names) or _default_labels(raw)
    stray = sorted(set(raw.values()) - set(labels))
    if stray:
        raise DatasetError(f"rating mapping: value {stray[0]} has no label; add one for it")
    if len(labels) < 2:
        raise DatasetError("rating mapping: it has only one rating; at least two are needed")
    decided, reason = _ordinal(labels) if ordinal is None else (ordinal, f"set to {str(ordinal).lower()} by the user")
    return RatingScale(tuple(labels.values()), tuple(labels), _synonyms(names, labels), decided, reason, raw)


def _label_text(key: Any) -> str:
    label = _typed_label(key) or ""
    if not fold(label).strip("? "):
        raise DatasetError(f"rating mapping: {key!r} is not a label; use words (or whole numbers for raw codes)")
    return label.strip()


def _typed_label(cell: Any) -> str | None:
    """Return a label as text: True, NumPy's too, as "True", Decimal("0.50") as "0.5"; None for lists and the like."""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, Decimal) and cell.is_finite():
        return f"{cell.normalize():f}"
    return str(cell) if isinstance(cell, numbers.Real) or type(cell).__name__ in ("bool", "bool_") else None


def _first_labels(names: Mapping[str, int]) -> dict[int, str]:
    """Map value to label; where several names share a value, the first is the label and the others are synonyms."""
    labels: dict[int, str] = {}
    for name, value in names.items():
        labels.setdefault(value, name)
    return labels


def _default_labels(raw: Mapping[str, int]) -> dict[int, str]:
    """Use Match, Does Not Match and Unknown if the values are among 1, 0 and -1; else the numbers as text."""
    known = {value: label for label, value in DEFAULT_MAPPING.items()}
    values = dict.fromkeys(raw.values())
    return {value: known[value] if set(values) <= set(known) else str(value) for value in values}


def _synonyms(names: Mapping[str, int], labels: Mapping[int, str]) -> dict[str, int]:
    """Map folded name to value, with the synonyms of each family that has labels of exactly one value."""
    own: dict[str, int] = {}
    for name, value in (*names.items(), *((label, value) for value, label in labels.items())):
        if own.setdefault(fold(name), value) != value:
            raise DatasetError(
                f"rating mapping: {name!r} is also a label of another value (ignoring case and punctuation); rename one"
            )
    synonyms: dict[str, int] = {}
    for family in FAMILIES:
        claims = {own[name] for name in family if name in own}
        if len(claims) == 1:
            synonyms.update(dict.fromkeys(family, claims.pop()))
    return {**synonyms, **own}


def _ordinal(labels: Mapping[int, str]) -> tuple[bool, str]:
    values = sorted(labels)
    abstaining = [label for label in labels.values() if _abstains(label)]
    if len(values) < 3:
        return False, "not ordinal: fewer than three ratings"
    if values[0] < 0:
        return False, f"not ordinal: {values[0]} is negative"
    if values != list(range(values[0], values[0] + len(values))):
        return False, "not ordinal: the values are not consecutive"
    if abstaining:
        return False, f"not ordinal: {abstaining[0]!r} abstains"
    return True, f"ordinal: {len(values)} consecutive values from {values[0]} to {values[-1]}, none of them abstains"


def _abstains(label: str) -> bool:
    return any(f" {word} " in f" {fold(label)} " for word in ABSTENTIONS)


def load_scale(argument: Mapping[Any, Any] | Path | str | None, input_path: Path | None) -> RatingScale:
    """Load the scale from the argument (mapping, file or JSON text), else a file next to the input, else the default.

    A file contains the mapping itself or has it under "rating_mapping"; "ordinal": true or false overrides the rule.
    Raises DatasetError for a source that cannot be used.
    """
    if isinstance(argument, Mapping):
        return _scale_from(argument, "rating mapping")
    if isinstance(argument, str) and argument.lstrip().startswith("{"):
        return _scale_from(_parse_json(argument, "rating mapping"), "rating mapping")
    if argument is not None:
        return _scale_from(_read_json(Path(argument)), str(argument))
    for name in METADATA_FILES if input_path is not None else ():
        path = Path(input_path or "").parent / name
        # formatting_metadata.json is written by other tools too and may have no mapping
        if path.is_file() and (name == METADATA_FILES[0] or _holds_mapping(_read_json(path))):
            return _scale_from(_read_json(path), str(path))
    return make_scale(DEFAULT_MAPPING)


def _read_json(path: Path) -> Any:
    try:
        return _parse_json(path.read_text(encoding="utf-8-sig"), str(path))
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file; give the rating mapping as a file or as JSON") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read as UTF-8 text ({type(error).__name__}); check the file") from None


def _parse_json(text: str, source: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of over 4,300 digits
        known = isinstance(error, json.JSONDecodeError)
        where = f"line {error.lineno}, column {error.colno}" if known else "nesting, or a number of many digits"
        raise DatasetError(f"{source}: invalid JSON ({where}); correct it") from None


def _holds_mapping(content: Any) -> bool:
    if not isinstance(content, Mapping):
        return False
    plain = {key: value for key, value in content.items() if key != "ordinal"}
    return "rating_mapping" in content or (bool(plain) and all(as_whole_number(v) is not None for v in plain.values()))


def _scale_from(content: Any, source: str) -> RatingScale:
    if not isinstance(content, Mapping):
        raise DatasetError(f'{source}: it is not a mapping; give label and value, e.g. {{"Match": 1, …}}')
    ordinal = content.get("ordinal")
    if ordinal is not None and not isinstance(ordinal, bool):
        raise DatasetError(f'{source}: "ordinal" must be true or false')
    mapping = content.get("rating_mapping", {key: value for key, value in content.items() if key != "ordinal"})
    try:
        return make_scale(mapping, ordinal=ordinal)
    except DatasetError as error:
        raise DatasetError(f"{source}: {str(error).removeprefix('rating mapping: ')}") from None


class Answer(NamedTuple):
    """A parsed answer. `state` is "rated" or "unparsable"; `value` is None unless it is "rated"."""

    state: str
    value: int | None
    rationale: str


def answer_text(label: str, rationale: str) -> str:
    """Return the target text: one JSON object, the rating first."""
    return json.dumps({"rating": label, "rationale": rationale}, ensure_ascii=False)


def answer_opening(label: str) -> str:
    """Return answer_text up to the start of the rationale: the text scored for the probability of the label."""
    return f'{{"rating": {json.dumps(label, ensure_ascii=False)}, "rationale": "'


_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL | re.IGNORECASE)
_CUT_JSON = re.compile(
    r'\{\s*"rating"\s*:\s*(?P<rating>"(?:[^"\\]|\\.)*"|[+-]?\d+(?:\.0*)?)\s*'
    r'(?:,\s*"rationale"\s*:\s*"(?P<rationale>(?:[^"\\]|\\.)*))?',
    re.DOTALL,
)
_OLD_FORM = re.compile(
    r"(?<![\w\"'])rating\W*?[:=][ \t*]*(?P<rating>[^\n]*?)[ \t*]*"
    r"(?:[,;.\n]\s*\W*rationale\W*?[:=]\s*(?P<rationale>.*?))?(?=\n\W*rating\W*?[:=]|\n|\Z)",
    re.IGNORECASE,
)


def parse_answer(text: str, scale: RatingScale) -> Answer:
    """Parse an answer: JSON anywhere in the text, `Rating: 1, Rationale: …`, or a bare label.

    A label must match as a whole. An answer without a rating, or with two that differ, is "unparsable": never a value.
    An answer that was truncated inside its rationale still counts, since its rating was complete.
    """
    text = _THOUGHT.sub("", text)
    for reader in (_json_answers, _cut_answers, _old_answers, lambda whole: [(whole, "")]):
        found = [(scale.value_of(rating), rationale) for rating, rationale in reader(text)]
        if found:
            value, rationale = found[0]
            if value is None or any(other != value for other, _ in found):
                return Answer("unparsable", None, "")
            return Answer("rated", value, rationale.strip())
    return Answer("unparsable", None, "")


def _json_answers(text: str) -> list[tuple[Any, str]]:
    found, start, decoder = [], text.find("{"), json.JSONDecoder(strict=False)
    while start >= 0:
        try:
            content, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            content, end = None, start + 1
        if isinstance(content, dict):
            keys = {str(key).casefold(): value for key, value in content.items()}
            if "rating" in keys:
                rationale = keys.get("rationale")
                found.append((keys["rating"], rationale if isinstance(rationale, str) else ""))
        start = text.find("{", end)
    return found


def _cut_answers(text: str) -> list[tuple[Any, str]]:
    return [
        (_unescape(rating.strip('"')), _unescape(rationale or ""))
        for rating, rationale in (match.group("rating", "rationale") for match in _CUT_JSON.finditer(text))
    ]


def _unescape(text: str) -> str:
    try:
        return json.loads(f'"{text}"', strict=False)
    except json.JSONDecodeError:  # cut inside an escape
        return text


def _old_answers(text: str) -> list[tuple[Any, str]]:
    found = (match.group("rating", "rationale") for match in _OLD_FORM.finditer(text))
    return [(rating, (rationale or "").lstrip("* ")) for rating, rationale in found]
