"""The form of model_set_config.json, version 1, and the check that a file has it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from .. import outputs
from ..errors import ModelSetConfigError
from .records import (
    TFIDF,
    ContextSummary,
    Decoding,
    FewShotExample,
    Member,
    RatingLabel,
    Rule,
    Screening,
    StrictRecord,
    Text,
    Words,
)

VERSION = 1


class ModelSetConfig(StrictRecord):
    """Everything that is needed to rate new records with untuned models.

    The top level says how the base model is asked. `models` holds it first, then the further ones.
    """

    version: Literal[1]
    base_model: Text
    system_prompt: Text
    few_shot_examples: tuple[FewShotExample, ...]
    target_topics: str
    rating_mapping: dict[str, int]
    created_at: Text
    dataset_size: Annotated[int, Field(ge=0)]
    rating_schema: Annotated[tuple[RatingLabel, ...], Field(min_length=2)]
    output_schema: dict[str, Any]
    decoding: Decoding
    contains_patient_text: bool
    redacted: bool
    example_ids: tuple[Text, ...]
    missing: tuple[Text, ...]
    rule: Rule
    models: Annotated[tuple[Member, ...], Field(min_length=1)]
    context_summary: ContextSummary | None
    screening: Screening | None
    tfidf: Words | None

    @field_validator("created_at")
    @classmethod
    def _is_a_moment(cls, value: str) -> str:
        try:
            datetime.fromisoformat(value.replace("Z", "+00:00"))  # Python 3.10 does not read the Z
        except ValueError:
            raise ValueError("it is no date and time in ISO 8601") from None
        return value

    @model_validator(mode="after")
    def _parts_agree(self) -> ModelSetConfig:
        labels = list(self.rating_mapping)
        if {each.label: each.value for each in self.rating_schema} != self.rating_mapping:
            raise ValueError("rating_schema and rating_mapping differ")
        if len(set(self.rating_mapping.values())) < len(labels):
            raise ValueError("rating_mapping: two labels have one value")
        if self.output_schema != output_schema(labels):
            raise ValueError("output_schema does not fit the labels of rating_mapping")
        if any(self.rating_mapping.get(each.label) != each.rating for each in self.few_shot_examples):
            raise ValueError("few_shot_examples: a label or rating is not in rating_mapping")
        if self.example_ids != tuple(each.id for each in self.few_shot_examples):
            raise ValueError("example_ids are not the ids of few_shot_examples")
        if len(set(self.example_ids)) < len(self.example_ids):
            raise ValueError("few_shot_examples: one row is used twice")
        return self

    @model_validator(mode="after")
    def _members_fit_the_rule(self) -> ModelSetConfig:
        weights = {each.name: each.weight for each in self.models}
        if len(weights) < len(self.models) or TFIDF in weights:
            raise ValueError("models: a name is used twice")
        if self.models[0].name != self.base_model or any(
            (each.asking is None) != (at == 0) for at, each in enumerate(self.models)
        ):
            raise ValueError("models: the base model comes first, and each further one says how it is asked")
        if self.tfidf is not None:
            weights[TFIDF] = self.tfidf.weight
            if not set(self.tfidf.labels) <= set(self.rating_mapping):
                raise ValueError("tfidf: a label is not in rating_mapping")
        chosen = set(self.rule.members)
        if not chosen <= set(weights) or (len(self.rule.members) > 1) != (self.rule.kind == "ensemble"):
            raise ValueError("rule: its members are not one or several of the set's")
        if any((weight > 0) and name not in chosen for name, weight in weights.items()):
            raise ValueError("rule: a weight belongs to a member that does not rate")
        if not math.isclose(sum(weights.values()), 1, abs_tol=1e-6):
            raise ValueError("rule: the members' weights do not sum to 1")
        parts = (*self.models, *([self.tfidf] if self.tfidf else []))
        if any(each.calibration and len(each.calibration.bias) != len(self.rating_mapping) for each in parts):
            raise ValueError("models: a calibration does not have a bias for each label")
        return self

    @model_validator(mode="after")
    def _redaction_is_whole(self) -> ModelSetConfig:
        texts = (self.few_shot_examples, self.example_ids, self.tfidf, self.context_summary)
        asked = any(each.asking is not None and each.asking.few_shot_examples for each in self.models)
        if self.contains_patient_text == self.redacted:
            raise ValueError("contains_patient_text and redacted cannot both be so")
        if self.redacted and (any(texts) or asked):
            raise ValueError("redacted, yet it holds examples, a context summary or TF-IDF's words")
        return self


def output_schema(labels: list[str]) -> dict[str, Any]:
    """JSON Schema of an answer; the rating is generated first, so its probability hangs on no rationale."""
    return {
        "type": "object",
        "properties": {"rating": {"type": "string", "enum": list(labels)}, "rationale": {"type": "string"}},
        "required": ["rating", "rationale"],
        "additionalProperties": False,
    }


def schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the whole file; `model_set.schema.json` in this package holds the same."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "model_set_config.json",
        **{key: value for key, value in ModelSetConfig.model_json_schema().items() if key != "title"},
    }


def validate(config: Any, *, source: str = outputs.MODEL_SET) -> ModelSetConfig:
    """The frozen records of a configuration. Raises ModelSetConfigError: one line, with no text of a row in it."""
    version = config.get("version") if isinstance(config, Mapping) else VERSION
    if version != VERSION or isinstance(version, bool):
        found = f"version {version}" if isinstance(version, int) else "no version"
        raise ModelSetConfigError(f"{source}: {found}, but version {VERSION} is needed; make the model set anew")
    try:
        # by way of JSON: what is valid here is valid in the file, and lists become tuples though the types are strict
        return ModelSetConfig.model_validate_json(json.dumps(config))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))
        what = first["msg"].removeprefix("Value error, ")
    except (TypeError, ValueError, RecursionError):
        where, what = "", "it holds something that JSON has no form for"
    raise ModelSetConfigError(f"{source}: {f'{where}: ' if where else ''}{what}; make the model set anew")


if __name__ == "__main__":
    from pathlib import Path

    Path(__file__).with_name("model_set.schema.json").write_text(
        json.dumps(schema(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
