"""readout.json, version 2: its record, and how it is read and written.

Without `--redact` it holds words of the training records in its TF-IDF tables, as model_set_config.json does, so it
contains patient text (mode 0600). It holds numbers and words, never a pickle: nothing in the file is run.

Axes: N record · F feature · K label.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from ..errors import UsageError
from ..faults import faults
from ..files import write_json
from ..modelset.records import LabelWeight, Number, PoolWeight, Share, StrictRecord, Text, TfidfTables
from ..modelset.tfidf_classifier import unpacked

VERSION = 2
STATES = "states"  # the name of the rater by hidden states
FEATURES = ("mean", "mean and deviation")

Floats = NDArray[np.float64]


class StatesClassifier(StrictRecord):
    """Logistic regression on pooled hidden states after `depth` blocks.

    `features`: the mean of the states of the prompt's own tokens, or mean and standard deviation. Its own are those
    between the first `shared_beginning` and the last `shared_end`, which all training prompts had in common. `weights`
    are (labels, features), base64 of little-endian 32-bit floats; `labels` are those of the training records. The
    features are standardised: that is part of weights and intercepts.
    """

    depth: Annotated[int, Field(ge=1)]
    features: Literal["mean", "mean and deviation"]
    shared_beginning: Annotated[int, Field(ge=0)]
    shared_end: Annotated[int, Field(ge=0)]
    inverse_regularisation: Annotated[float, Field(gt=0)]
    labels: Annotated[tuple[Text, ...], Field(min_length=2)]
    intercepts: tuple[Number, ...]
    weights: str

    @model_validator(mode="after")
    def _sizes_agree(self) -> StatesClassifier:
        try:
            numbers = len(unpacked(self.weights))
        except ValueError:
            numbers = 0
        if not numbers or numbers % len(self.labels) or len(self.intercepts) != len(self.labels):
            raise ValueError("the sizes of its tables differ")
        return self

    def predict(self, state_NPD: NDArray[np.float32], labels: Sequence[str]) -> Floats:
        """Probabilities of `labels`, (N, K), from [mean, standard deviation] of each record's states."""
        from scipy.special import softmax

        weights = unpacked(self.weights).reshape(len(self.labels), -1)
        share_NK = softmax(features_of(state_NPD, self.features) @ weights.T + np.asarray(self.intercepts), axis=1)
        at = {label: place for place, label in enumerate(self.labels)}
        return np.stack([share_NK[:, at[label]] if label in at else 0 * share_NK[:, 0] for label in labels], axis=1)


class OutOfFold(StrictRecord):
    """Figures on the `rows` training records, each rated by a fit that saw no record of its group."""

    rows: Annotated[int, Field(ge=1)]
    macro_f1: Share
    log_loss: Annotated[float, Field(ge=0)]


class ReadoutRecord(StrictRecord):
    """Everything but the base model that is needed to rate new records.

    `words` are raters by word counts, by name. `weights` has the weight of the log-probabilities of "states" and of
    each of them, `label_bias` what is added for each label, in the order of `rating_mapping`; the label that is written
    has the largest product of probability and `label_weights`. `out_of_fold` has the figures of each rater and of
    "fused". `base` is the sha256 of the base's file.
    """

    version: Literal[2]
    base_model: Text
    base: Text
    created_at: Text
    rating_mapping: dict[str, int]
    target_topics: str
    states: StatesClassifier
    words: dict[str, TfidfTables]
    weights: dict[str, PoolWeight]
    label_bias: tuple[Number, ...]
    label_weights: tuple[LabelWeight, ...]
    out_of_fold: dict[str, OutOfFold]

    @model_validator(mode="after")
    def _parts_agree(self) -> ReadoutRecord:
        known = {*self.states.labels, *(label for tables in self.words.values() for label in tables.labels)}
        if not known <= set(self.rating_mapping):
            raise ValueError("a label is not in rating_mapping")
        if self.weights.keys() != {STATES, *self.words}:
            raise ValueError("there is not one weight for each rater")
        if not len(self.label_bias) == len(self.label_weights) == len(self.rating_mapping):
            raise ValueError("there is not one bias and one weight for each label")
        return self


def features_of(state_NPD: NDArray[np.float32], features: str) -> Floats:
    """The chosen pooled states of each record, (N, F)."""
    count = {"mean": 1, "mean and deviation": 2}[features]
    return state_NPD[:, :count].reshape(len(state_NPD), -1).astype(np.float64)


def write(path: Path, record: ReadoutRecord) -> None:
    """Write the file, whole or not at all, mode 0600. Raises OutputError."""
    write_json(path, record.model_dump(mode="json"))


def read(path: Path) -> ReadoutRecord:
    """Read and validate a file. Raises UsageError: one line with the file's name and no text of a record."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read as JSON ({type(error).__name__}); copy the run's folder") from None
    version = content.get("version") if isinstance(content, dict) else None
    if version != VERSION:
        raise UsageError(f"{path}: version {VERSION} is needed; run expertune tune again")
    try:
        return ReadoutRecord.model_validate_json(json.dumps(content))
    except ValidationError as error:
        place = faults(error)[0].where or "its beginning"
        raise UsageError(f"{path}: damaged (at {place}); copy it again, or run expertune tune again") from None
