"""model_set_config.json, version 2: its record, how a file is read and written, and the chat messages of its models."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from .. import outputs
from ..engine.decision import Question, make_question
from ..errors import ModelSetConfigError
from ..faults import faults
from ..files import write_json
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
    TfidfMember,
)
from .terms import summary_text

VERSION = 2


class ModelSetConfig(StrictRecord):
    """Everything that is needed to rate new records with untuned models.

    The top level holds the prompt of the base model. `models` has it first, then the further ones.
    """

    version: Literal[2]
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
    tfidf: TfidfMember | None

    @field_validator("created_at")
    @classmethod
    def _is_a_moment(cls, value: str) -> str:
        try:
            datetime.fromisoformat(value.replace("Z", "+00:00"))  # Python 3.10 does not read the Z
        except ValueError:
            raise ValueError("it is not a date and time in ISO 8601") from None
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
            raise ValueError("models: the base model comes first, and each further one has its own prompt")
        if self.tfidf is not None:
            weights[TFIDF] = self.tfidf.weight
            if not {label for each in self.tfidf.raters.values() for label in each.labels} <= set(self.rating_mapping):
                raise ValueError("tfidf: a label is not in rating_mapping")
            if not len(self.tfidf.label_bias) == len(self.tfidf.label_weights) == len(self.rating_mapping):
                raise ValueError("tfidf: there is not one bias and one weight for each label")
        if self.rater not in weights:
            raise ValueError("rule: its member is not one of the set's")
        if any(not math.isclose(weight, name == self.rater, abs_tol=1e-6) for name, weight in weights.items()):
            raise ValueError("rule: the weight is not 1 for the member that rates and 0 for the others")
        if any(each.calibration and len(each.calibration.bias) != len(self.rating_mapping) for each in self.models):
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

    @property
    def rater(self) -> str:
        """The name of the member that rates: a language model or TF-IDF."""
        return self.rule.members[0]

    @property
    def has_votes(self) -> bool:
        """True if more than the base model can give an opinion."""
        return self.rater != self.base_model or self.tfidf is not None

    def messages(self, prompt: str, model: str | None = None) -> list[dict[str, str]]:
        """Chat messages that ask a model of the set (None: the base) for a new record, ending with the user's turn.

        What never changes comes first, so that a server's prompt cache holds it for every record.
        Raises ModelSetConfigError where no model is named and another member than the base model rates.
        """
        if model is None and self.rater != self.base_model:
            raise ModelSetConfigError(f"this model set rates by {self.rater}, not by {self.base_model}")
        own = next((each.asking for each in self.models if each.name == model), None) or self
        turns = [("system", own.system_prompt)]
        for example in own.few_shot_examples:
            turns += [("user", example.prompt), ("assistant", example.answer)]
        return [{"role": role, "content": content} for role, content in (*turns, ("user", prompt))]

    def question(self) -> Question:
        """The question to a decision model of the set: the labels in the scale's order, with their definitions."""
        return make_question({each.label: each.definition for each in self.rating_schema}, self.target_topics)

    def changed(self, **parts: Any) -> ModelSetConfig:
        """The same set with other parts, validated anew. Raises ModelSetConfigError."""
        with invalid_as_config_error():
            return ModelSetConfig.model_validate({**dict(self), **parts})

    def redact(self) -> ModelSetConfig:
        """The same set without a word of a row: the base model alone, zero-shot, and not judged as such."""
        summary, base = self.context_summary, self.models[0]
        prompt = self.system_prompt
        if summary is not None and summary.shown:
            prompt = prompt.removesuffix(summary_text(summary))
        return self.changed(
            system_prompt=prompt,
            few_shot_examples=(),
            example_ids=(),
            contains_patient_text=False,
            redacted=True,
            rule=Rule(kind="single", members=(base.name,), reason="redacted; not judged without its examples"),
            models=(unjudged(base.name, base.digest, decision=base.decision),),
            context_summary=None,
            screening=None,
            tfidf=None,
        )


def unjudged(name: str, digest: str | None, *, decision: bool = False) -> Member:
    """The base model as the only member, of which no figures are known."""
    return Member(
        name=name,
        digest=digest,
        weight=1.0,
        calibration=None,
        dev_agreement=None,
        seconds_per_record=None,
        prompt_tokens=None,
        asking=None,
        decision=decision,
    )


def output_schema(labels: list[str]) -> dict[str, object]:
    """JSON Schema of an answer; the rating is generated first, so that it does not depend on the rationale."""
    return {
        "type": "object",
        "properties": {"rating": {"type": "string", "enum": list(labels)}, "rationale": {"type": "string"}},
        "required": ["rating", "rationale"],
        "additionalProperties": False,
    }


# --- files ---


def write(path: Path, config: ModelSetConfig) -> None:
    """Write the file, whole or not at all, mode 0600. Raises OutputError."""
    write_json(path, config.model_dump(mode="json"))


def read(path: Path) -> ModelSetConfig:
    """Read and validate a file. Raises ModelSetConfigError, one line with the file's name."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelSetConfigError(f"{path}: cannot be read as JSON ({type(error).__name__}); check the file") from None
    return parse(content, source=str(path))


def parse(content: Any, *, source: str = outputs.MODEL_SET) -> ModelSetConfig:
    """The record of a file's JSON content. Raises ModelSetConfigError: one line, with no text of a row in it."""
    known = content if isinstance(content, Mapping) else {}
    version, rule = known.get("version"), known.get("rule")
    if version not in (1, VERSION) or isinstance(version, bool):
        found = f"version {version}" if isinstance(version, int) else "no version"
        raise ModelSetConfigError(f"{source}: {found}, but version {VERSION} is needed; make the model set anew")
    if isinstance(rule, Mapping) and rule.get("kind") == "ensemble":
        raise ModelSetConfigError(
            f"{source}: rates by an ensemble of several models, which is no longer supported; run expertune tune again"
        )
    with invalid_as_config_error(source):
        # by way of JSON: lists become tuples though the types are strict
        return ModelSetConfig.model_validate_json(json.dumps(_of_version_1(known) if version == 1 else content))


def _of_version_1(content: Mapping[str, Any]) -> Mapping[str, object]:
    """The content of a file of version 1, whose TF-IDF was a single classifier, as that of version 2."""
    known, labels = content.get("tfidf"), len(content.get("rating_mapping") or ())
    if not isinstance(known, Mapping):
        return {**content, "version": VERSION}
    own = {"weight", "calibration", "dev_agreement"}
    member = {
        "raters": {TFIDF: {name: each for name, each in known.items() if name not in own}},
        "weights": {TFIDF: 1.0},
        "label_bias": [0.0] * labels,
        "label_weights": [1.0] * labels,
        "weight": known.get("weight"),
        "dev_agreement": known.get("dev_agreement"),
    }
    return {**content, "version": VERSION, "tfidf": member}


@contextmanager
def invalid_as_config_error(source: str = outputs.MODEL_SET) -> Iterator[None]:
    """Turn what is not valid into a ModelSetConfigError: one line, with no text of a row in it. Also a decorator."""
    try:
        yield
    except ValidationError as error:
        first = faults(error)[0]
        what = f"{f'{first.where}: ' if first.where else ''}{first.message.removeprefix('Value error, ')}"
        raise ModelSetConfigError(f"{source}: {what}; make the model set anew") from None
    except (TypeError, ValueError, RecursionError):
        raise ModelSetConfigError(
            f"{source}: it holds something that JSON has no form for; make the model set anew"
        ) from None
