"""The form of model_set_config.json, version 1, and the check that a file has it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ..errors import ModelSetConfigError

VERSION = 1
FILE_NAME = "model_set_config.json"

Text = Annotated[str, Field(min_length=1)]


class Record(BaseModel):
    # hide_input_in_errors: pydantic would else repeat a row's text in its message
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


class FewShotExample(Record):
    """One rated train row: what the model is asked, and the answer it should give."""

    id: Text
    prompt: Text
    answer: Text
    label: Text
    rating: int

    @model_validator(mode="after")
    def _answer_gives_the_label(self) -> FewShotExample:
        try:
            answer = json.loads(self.answer)
        except ValueError:
            raise ValueError("the answer is not JSON") from None
        if not isinstance(answer, dict) or answer.get("rating") != self.label:
            raise ValueError("the answer's rating is not the label")
        return self


class RatingLabel(Record):
    """A label with its value, what it means (empty where only the expert knows) and other ways to write it."""

    label: Text
    value: int
    definition: str
    synonyms: tuple[Text, ...]


class Decoding(Record):
    """How to ask: greedily, no prompt cut in silence. In a request `truncate` stands beside Ollama's options."""

    temperature: Annotated[float, Field(ge=0, le=0)]
    seed: Annotated[int, Field(ge=0)]
    num_ctx: Annotated[int, Field(gt=0)]
    num_predict: Annotated[int, Field(gt=0)]
    truncate: Literal[False]


class ModelSetConfig(Record):
    """Everything that is needed to rate new records with an untuned model."""

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
    contains_patient_text: Literal[True]
    example_ids: tuple[Text, ...]
    missing: tuple[Text, ...]

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


def output_schema(labels: list[str]) -> dict[str, Any]:
    """JSON Schema of an answer; the rating is generated first, so its probability hangs on no rationale."""
    return {
        "type": "object",
        "properties": {"rating": {"type": "string", "enum": list(labels)}, "rationale": {"type": "string"}},
        "required": ["rating", "rationale"],
        "additionalProperties": False,
    }


def schema() -> dict[str, Any]:
    """JSON Schema of the whole file."""
    return ModelSetConfig.model_json_schema()


def validate(config: Any, *, source: str = FILE_NAME) -> ModelSetConfig:
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
