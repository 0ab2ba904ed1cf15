"""readout.json, version 3: its record, and how it is read and written.

Without `--redact` it holds words of the training records in its TF-IDF tables, as model_set_config.json does, so it
contains patient text (mode 0600). It holds numbers and words, never a pickle: nothing in the file is run.

Axes: N record · F feature · K label.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from ..errors import UsageError
from ..faults import faults
from ..files import write_json
from ..modelset.records import LabelWeight, Number, PoolWeight, Share, StrictRecord, Text, TfidfTables
from ..modelset.tfidf_classifier import unpacked

VERSION = 3
FEATURES = ("mean", "mean and deviation")

Floats = NDArray[np.float64]


class StatesClassifier(StrictRecord):
    """Logistic regression on pooled hidden states after `depth` blocks.

    `features`: the mean of the states of the prompt's own tokens, or mean and standard deviation. `weights` are
    (labels, features), base64 of little-endian 32-bit floats; `labels` are those of the training records. The features
    are standardised: that is part of weights and intercepts.
    """

    depth: Annotated[int, Field(ge=1)]
    features: Literal["mean", "mean and deviation"]
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

    `states` are raters by hidden states, by name, from the lowest depth up; a prompt's own tokens are those between the
    first `shared_beginning` and the last `shared_end`, which all training prompts had in common. `words` are raters by
    word counts, by name. `weights` has the weight of each rater's log-probabilities, `label_bias` what is added for
    each label, in the order of `rating_mapping`; the label that is written has the largest product of probability and
    `label_weights`. `out_of_fold` has the figures of each rater and of "fused". `base` is the base's sha256.
    """

    version: Literal[3]
    base_model: Text
    base: Text
    created_at: Text
    rating_mapping: dict[str, int]
    target_topics: str
    shared_beginning: Annotated[int, Field(ge=0)]
    shared_end: Annotated[int, Field(ge=0)]
    states: Annotated[dict[str, StatesClassifier], Field(min_length=1)]
    words: dict[str, TfidfTables]
    weights: dict[str, PoolWeight]
    label_bias: tuple[Number, ...]
    label_weights: tuple[LabelWeight, ...]
    out_of_fold: dict[str, OutOfFold]

    @model_validator(mode="after")
    def _parts_agree(self) -> ReadoutRecord:
        labels = {label for rater in (*self.states.values(), *self.words.values()) for label in rater.labels}
        if not labels <= set(self.rating_mapping):
            raise ValueError("a label is not in rating_mapping")
        if list(self.depths) != sorted(set(self.depths)):
            raise ValueError("the depths are not in order")
        if self.weights.keys() != {*self.states, *self.words}:
            raise ValueError("there is not one weight for each rater")
        if not len(self.label_bias) == len(self.label_weights) == len(self.rating_mapping):
            raise ValueError("there is not one bias and one weight for each label")
        return self

    @property
    def depths(self) -> tuple[int, ...]:
        """Numbers of blocks after which the states are needed, ascending."""
        return tuple(each.depth for each in self.states.values())


def rater_at(depth: int) -> str:
    """Name of the rater by hidden states after `depth` blocks."""
    return f"states after block {depth}"


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
    if version not in (2, VERSION):
        raise UsageError(f"{path}: version {VERSION} is needed; run expertune tune again")
    try:
        return ReadoutRecord.model_validate_json(json.dumps(_of_version_2(content) if version == 2 else content))
    except ValidationError as error:
        place = faults(error)[0].where or "its beginning"
        raise UsageError(f"{path}: damaged (at {place}); copy it again, or run expertune tune again") from None


def _of_version_2(content: Mapping[str, Any]) -> Mapping[str, object]:
    """The content of a file of version 2, which had states of one depth, as that of version 3."""
    states = content.get("states")
    if not isinstance(states, Mapping):
        return {**content, "version": VERSION}
    shared = {name: states.get(name) for name in ("shared_beginning", "shared_end")}
    own = {name: each for name, each in states.items() if name not in shared}
    return {**content, "version": VERSION, **shared, "states": {"states": own}}
