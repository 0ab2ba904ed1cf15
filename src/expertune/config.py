"""Every setting, once. Flags, YAML keys, help texts and `process_dataset` keywords all come from these fields."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator

from .errors import UsageError
from .faults import faults
from .renamed_settings import RENAMED, current_settings
from .setting import Setting, setting_of

AUTO: Literal["auto"] = "auto"
NOT_OF_KIND = {
    bool: "neither true nor false",
    str: "not a string",
    tuple: "not a list of names",
    Path: "not the path of a file",
}


class Config(BaseModel):
    """The resolved configuration of one run; names are unique, so it stays flat. None means "not set".

    Raises UsageError for a name that is not a setting, and for a value of the wrong kind or out of range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    # run
    minutes: float | None = Field(
        default=None,
        ge=0.1,
        le=1e5,
        description="Minutes for the whole run; adapted layers, epochs, model-set search and free-text answers are "
        "lowered, in this order, until the plan fits.",
    )

    engine: Literal["auto", "llama.cpp", "torch"] = Field(
        default="auto",
        description="Engine that rates: llama.cpp, or torch: the decoder that trains, which is faster. auto: "
        "llama.cpp for the tuned file, as it will be served, and torch for what it is compared with.",
    )

    # data
    seed: int = Field(
        default=42, ge=0, le=2**31 - 1, description="Random seed for the split, adapter initialisation and shuffling."
    )
    column: tuple[str, ...] = Field(
        default=(),
        description="Name of a column, as ROLE=NAME, repeatable; roles: id, patient, prompt, rating, rationale, "
        "text (from which prompts are made), adjudicated. rating=A,B names the columns of several experts. Without it "
        "common names are recognised.",
        json_schema_extra={"repeatable": True},
    )
    sheet: str | None = Field(
        default=None, description="Sheet of an Excel file of rated records; the first that is not hidden if not set."
    )
    dev_share: float = Field(
        default=0.1,
        ge=0.05,
        le=0.4,
        description="Fraction of the records used for validation (early stopping, file type).",
    )
    test_share: float = Field(
        default=0.2, ge=0.05, le=0.4, description="Fraction of the records kept back for the final evaluation."
    )
    near_duplicate_threshold: float = Field(
        default=0.9,
        ge=0.5,
        le=1.0,
        description="Similarity (Jaccard, 0 to 1) from which two texts stay together in the split.",
    )
    max_tokens: int = Field(
        default=2048,
        ge=64,
        description="Longest record in tokens, prompt and answer; at most the model's context length.",
    )
    long_records: Literal["error", "drop"] = Field(default="error", description="What to do with longer records.")
    unlabelled: Path | None = Field(default=None, description="File of records without a rating, to train on as well.")

    # adapter
    rank: int = Field(default=16, ge=1, le=256, description="LoRA rank.")
    alpha: float = Field(default=32.0, ge=0.1, le=1024, description="LoRA alpha; the update is scaled by alpha / rank.")
    target_modules: Literal["all", "attention", "feed-forward"] = Field(
        default="all", description="Linear layers that get a LoRA adapter."
    )
    layers: Annotated[int, Field(ge=1)] | Literal["auto", "all"] = Field(
        default=AUTO,
        description="Top transformer blocks that get an adapter, a number or all; auto: a third, at least 10.",
    )

    # training
    epochs: Annotated[float, Field(ge=0.01, le=1000)] | Literal["auto"] = Field(
        default=AUTO, description="Passes over the training records; auto: 5, or 4 from 500 records on."
    )
    learning_rate: Annotated[float, Field(ge=1e-7, le=1.0)] | Literal["auto"] = Field(
        default=AUTO, description="Peak learning rate (AdamW, cosine schedule with warmup); auto chooses by model size."
    )
    batch_size: int = Field(default=8, ge=1, le=1024, description="Records in one forward pass.")
    gradient_accumulation_steps: int = Field(
        default=1, ge=1, le=1024, description="Forward passes in one optimiser step, weighted by target tokens."
    )
    warmup_ratio: float = Field(
        default=0.05, ge=0.0, le=1.0, description="Fraction of the steps in which the learning rate rises linearly."
    )
    weight_decay: float = Field(default=0.0, ge=0.0, le=1.0, description="AdamW weight decay.")
    max_grad_norm: float = Field(default=1.0, ge=1e-3, le=1e3, description="Gradient-clipping norm.")
    class_weight: Literal["auto", "none", "balanced"] = Field(
        default="auto",
        description="Class imbalance: auto adjusts the label logits by class frequency, balanced weights the loss.",
    )
    logit_adjustment: float = Field(
        default=0.5,
        ge=0.0,
        le=2.0,
        description="Strength of the logit adjustment; 1 removes the class prior, 0 also the readout's label weights.",
    )
    decision_weight: float = Field(
        default=20.0,
        ge=1.0,
        le=1e4,
        description="Loss weight of the choice among the labels; a token of the answer has 1.",
    )
    code_branch: bool = Field(default=False, description="Also train a one-token answer: the code of the label.")
    code_weight: float = Field(default=0.1, ge=0.0, le=1.0, description="Loss weight of the codes; the words have 1.")
    soft_label_weight: float = Field(
        default=0.5,
        ge=0.0,
        le=1.0,
        description="Weight of the cross-validated predictions of readout or word counts in the labels to learn.",
    )
    rationale_weight: float = Field(default=1.0, ge=0.0, le=1.0, description="Loss weight of the rationale's tokens.")
    evals_per_epoch: int = Field(default=1, ge=1, le=20, description="Validation-set evaluations per epoch.")
    early_stopping_patience: int = Field(
        default=4, ge=1, le=1000, description="Validation evaluations without improvement after which training stops."
    )
    checkpoint_seconds: float = Field(default=120.0, ge=0.0, description="Seconds between checkpoints.")
    weight_cache: Literal["auto", "quantized", "dequantized"] = Field(
        default="auto",
        description="Keep the base weights in memory quantized as in the file, or as floating-point copies.",
    )
    compute_dtype: Literal["auto", "bf16", "fp32"] = Field(
        default="auto", description="Data type of the matrix multiplications; auto takes bf16 where it is faster."
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(default="auto", description="Device to train on.")
    threads: int | None = Field(default=None, ge=1, le=1024, description="CPU threads; every physical core if not set.")

    # export
    export_type: Literal["auto", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "F16", "F32"] = Field(
        default="auto",
        description="GGUF type of the tuned tensors; auto takes the smallest that preserves the LoRA update.",
    )
    min_update_retained: float = Field(
        default=0.9,
        ge=0.0,
        le=1.0,
        description="Minimum fraction of each tensor's LoRA update that quantisation must preserve.",
    )
    min_label_agreement: float = Field(
        default=0.99,
        ge=0.0,
        le=1.0,
        description="Minimum fraction of validation records with a clear label (a margin above the engine's noise) to "
        "which the saved file and the adapter give one label.",
    )
    decision: bool = Field(default=True, description="With a code branch, make the file a decision model.")

    # model set
    approach: Literal["auto", "tune", "model-set"] = Field(
        default="auto",
        description="Tune, build a model set, or build both and keep the one that is better on the validation records.",
    )
    models: tuple[str, ...] = Field(
        default=(), description="More models for the model set: names in Ollama or GGUF files, separated by commas."
    )
    model_set_budget_seconds: float = Field(
        default=120.0,
        ge=0.0,
        le=86_400.0,
        description="Seconds for building the model set; its evaluation comes on top.",
    )
    redact: bool = Field(default=False, description="Write model set and readout without any text from the records.")
    readout: bool = Field(
        default=True, description="Also fit a classifier on the base model's hidden states and word counts."
    )

    # evaluation
    bootstrap_resamples: int = Field(
        default=2000, ge=100, le=100_000, description="Bootstrap resamples for the intervals of macro-F1 and kappa."
    )
    confidence_level: float = Field(default=0.95, ge=0.5, le=0.999, description="Confidence level of all intervals.")
    subgroups: tuple[str, ...] = Field(
        default=(), description="Columns to report by, separated by commas; Age and Sex, if present, when not set."
    )
    max_error_rate: float = Field(
        default=0.05,
        ge=0.001,
        le=0.5,
        description="Error rate up to which ratings may go without a person (automatable share).",
    )
    prevalence: float | None = Field(
        default=None,
        ge=1e-6,
        le=0.999,
        description="Prevalence of each label for PPV and NPV; its share of the test records if not set.",
    )

    @model_validator(mode="wrap")
    @classmethod
    def _in_our_words(cls, values: Any, handler: ModelWrapValidatorHandler[Config]) -> Config:
        try:
            config = handler({name: _plain(name, value) for name, value in current_settings(values).items()})
        except ValidationError as error:
            raise UsageError(_message(error)) from None
        if config.dev_share + config.test_share > 0.6:
            raise UsageError("dev_share + test_share: more than 0.6 leaves too little to train on; lower one of them")
        return config


def settings() -> tuple[Setting, ...]:
    """All settings in the order of Config's fields."""
    return tuple(SETTINGS.values())


def make_config(values: Mapping[str, Any]) -> Config:
    """A Config from keywords or a YAML mapping; numbers may come as text, names of columns or models as comma text.

    Raises UsageError for a name that is not a setting, with the nearest name, or a value out of range.
    """
    return Config.model_validate(dict(values))


def as_dict(config: Config) -> dict[str, Any]:
    """Every setting, as JSON and YAML hold it: tuples as lists."""
    return config.model_dump(mode="json")


def with_changes(config: Config, **changes: Any) -> Config:
    """The same configuration with other values, checked again."""
    return make_config({**as_dict(config), **changes})


def _plain(name: str, value: Any) -> Any:
    """The value without what pydantic would take too readily (true as 1) or not at all (text with commas, numpy)."""
    setting = SETTINGS.get(name)
    if setting is None:
        return value
    if setting.kind is tuple and isinstance(value, str):
        return [value] if setting.repeatable else [part.strip() for part in value.split(",") if part.strip()]
    if setting.kind in (int, float):
        if isinstance(value, bool):
            raise UsageError(f"{name}: {value!r} is not a number")
        if isinstance(value, numbers.Integral):
            return int(value)
    return value


def _message(error: ValidationError) -> str:
    """The first error, in one line of our words."""
    found = faults(error)
    name, value = str(found[0].place[0]), found[0].value
    kinds = {each.kind for each in found if each.place[0] == name}
    if "extra_forbidden" in kinds:
        return f"{name}: no such setting{_nearest(name)}"
    setting = SETTINGS[name]
    if setting.choices:
        return f"{name}: {value!r} is not one of {', '.join(setting.choices)}"
    if kinds & {"greater_than_equal", "less_than_equal"}:
        return f"{name}: {value!r} is out of range ({setting.reach()})"
    if kinds & {"int_from_float", "int_parsing"} and _is_number(value):
        return f"{name}: {value!r} is not a whole number"
    number = f"neither a number nor {' or '.join(setting.words)}" if setting.words else "not a number"
    return f"{name}: {value!r} is {NOT_OF_KIND.get(setting.kind, number)}"


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _nearest(name: str) -> str:
    import difflib

    near = difflib.get_close_matches(name, [*SETTINGS, *RENAMED], n=1)
    return f"; did you mean {RENAMED.get(near[0], near[0])}?" if near else ""


SETTINGS = {name: setting_of(name, field) for name, field in Config.model_fields.items()}
