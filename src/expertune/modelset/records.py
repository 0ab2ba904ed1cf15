"""The parts of model_set_config.json, version 2."""

from __future__ import annotations

import base64
import json
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

TFIDF = "TF-IDF"  # name of the member that is not a language model

Text = Annotated[str, Field(min_length=1)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
PoolWeight = Annotated[float, Field(ge=0, le=100)]
LabelWeight = Annotated[float, Field(gt=0, le=1e6)]


class StrictRecord(BaseModel):
    # hide_input_in_errors: pydantic would else repeat a row's text in its message
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


class FewShotExample(StrictRecord):
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


class RatingLabel(StrictRecord):
    """A label with its value, what it means (empty where only the expert knows) and other ways to write it."""

    label: Text
    value: int
    definition: str
    synonyms: tuple[Text, ...]


class Decoding(StrictRecord):
    """Greedy decoding; prompts are never truncated silently. In a request `truncate` is next to Ollama's options."""

    temperature: Annotated[float, Field(ge=0, le=0)]
    seed: Annotated[int, Field(ge=0)]
    num_ctx: Annotated[int, Field(gt=0)]
    num_predict: Annotated[int, Field(gt=0)]
    truncate: Literal[False]


class Term(StrictRecord):
    """A word or two: log-odds of the label's records against the others', and in how many of its rows it stands."""

    term: Text
    log_odds: Number
    z: Number
    rows: Annotated[int, Field(ge=1)]


class LabelTerms(StrictRecord):
    label: Text
    terms: tuple[Term, ...]


class ContextSummary(StrictRecord):
    """From train rows only; `shown` says whether the system prompt ends with it."""

    shown: bool
    method: Text
    rows: Annotated[int, Field(ge=0)]
    labels: tuple[LabelTerms, ...]


class MemberCalibration(StrictRecord):
    """softmax(log(probability) / temperature + bias), a bias for each label in the order of rating_schema.

    For `dev_agreement` and for whoever reads the file; the rule takes a member's own probabilities.
    """

    temperature: Annotated[float, Field(gt=0)]
    bias: tuple[Number, ...]


class ValidationAgreement(StrictRecord):
    """Agreement with the expert on `rows` validation records, calibrated by cross-validation; null if undefined."""

    rows: Annotated[int, Field(ge=1)]
    accuracy: Share | None
    macro_f1: Share | None
    log_loss: Annotated[float, Field(ge=0)]


class Asking(StrictRecord):
    """The prompt of a further model, where it is not the base model's."""

    system_prompt: Text
    few_shot_examples: tuple[FewShotExample, ...]
    decoding: Decoding


class Member(StrictRecord):
    """A language model: `digest` is the sha256 of its file; `asking` is null for the base model.

    `weight` is 1 for the member that rates and 0 for the others. `prompt_tokens` is the mean of a whole prompt's.
    A `decision` model is asked by its own template with labels and definitions as options; its `asking` is not used.
    """

    name: Text
    digest: Text | None
    weight: Share
    calibration: MemberCalibration | None
    dev_agreement: ValidationAgreement | None
    seconds_per_record: Annotated[float, Field(ge=0)] | None
    prompt_tokens: Annotated[int, Field(ge=0)] | None
    asking: Asking | None
    decision: bool = False


class TermTable(StrictRecord):
    """Terms, one a line, and their inverse document frequencies (base64 of little-endian 32-bit floats)."""

    terms: str
    idf: str


class TfidfTables(StrictRecord):
    """TF-IDF with a logistic regression. `weights` are (labels, words then letters), packed as idf is."""

    labels: Annotated[tuple[Text, ...], Field(min_length=2)]
    intercepts: tuple[Number, ...]
    weights: str
    words: TermTable
    letters: TermTable

    @model_validator(mode="after")
    def _sizes_agree(self) -> TfidfTables:
        terms = [table.terms.count("\n") + 1 for table in (self.words, self.letters)]
        sizes = [
            (self.words.idf, terms[0]),
            (self.letters.idf, terms[1]),
            (self.weights, sum(terms) * len(self.labels)),
        ]
        try:
            agree = all(len(base64.b64decode(text, validate=True)) == 4 * numbers for text, numbers in sizes)
        except ValueError:
            agree = False
        if not agree or len(self.intercepts) != len(self.labels):
            raise ValueError("the sizes of its tables differ")
        return self


class WordPool(StrictRecord):
    """Raters by word counts, by name, as one: the log-linear pool of their probabilities (stats/pooling.py).

    `weights` are those of their log-probabilities, `label_bias` what is added for each label, in the order of
    rating_mapping; the label that is written has the largest product of probability and `label_weights`.
    """

    raters: Annotated[dict[Text, TfidfTables], Field(min_length=1)]
    weights: dict[str, PoolWeight]
    label_bias: tuple[Number, ...]
    label_weights: tuple[LabelWeight, ...]

    @model_validator(mode="after")
    def _one_weight_each(self) -> WordPool:
        if self.weights.keys() != self.raters.keys():
            raise ValueError("there is not one weight for each rater")
        return self


class TfidfMember(WordPool):
    """The raters by word counts as a member of a model set; its probabilities are calibrated as they are."""

    weight: Share
    dev_agreement: ValidationAgreement | None


class Rule(StrictRecord):
    """The one member that rates, and why.

    Where the other members rate differently, that is a reason to review a record, never to rate it otherwise.
    """

    kind: Literal["single"]
    members: Annotated[tuple[Text, ...], Field(min_length=1, max_length=1)]
    reason: str


class TrialRecord(StrictRecord):
    """Prompt recipe tried on `rows` validation records, with uncalibrated figures; `fault` says why it was given up."""

    model: Text
    candidate: Text
    examples: Annotated[int, Field(ge=0)]
    summary: bool
    rows: Annotated[int, Field(ge=0)]
    macro_f1: Share | None
    log_loss: Annotated[float, Field(ge=0)] | None
    seconds: Annotated[float, Field(ge=0)]
    chosen: bool
    fault: str | None


class Screening(StrictRecord):
    """`complete` is false where the time was over before every candidate had had its turn."""

    budget_seconds: Annotated[float, Field(ge=0)]
    seconds: Annotated[float, Field(ge=0)]
    complete: bool
    trials: tuple[TrialRecord, ...]
