"""Every setting, once. Flags, YAML keys, help texts and `process_dataset` keywords all come from these fields."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from .errors import UsageError

AUTO: Literal["auto"] = "auto"


def _setting(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] | None = None,
) -> Any:
    """A field with its help text and range; `low` and `high` are inclusive. A range and the default "auto" together
    mean a number or "auto"."""
    return field(default=default, metadata={"help": help, "low": low, "high": high, "choices": choices})


@dataclass(frozen=True)
class Config:
    """The resolved configuration of one run; names are unique, so it stays flat."""

    # data
    seed: int = _setting(42, "Seed of the split, the adapter's start and the order of rows.", low=0, high=2**31 - 1)
    dev_share: float = _setting(0.1, "Share of the rows kept for choices (early stopping, types).", low=0.05, high=0.4)
    test_share: float = _setting(0.2, "Share of the rows kept for the one final judgement.", low=0.05, high=0.4)
    near_duplicate: float = _setting(
        0.9, "Texts at least this alike (0 to 1) are one group in the split.", low=0.5, high=1.0
    )
    max_tokens: int = _setting(
        2048, "Longest row in tokens, prompt and answer; never more than the model's context.", low=64
    )
    long_rows: str = _setting("error", "What to do with a longer row.", choices=("error", "drop"))

    # adapter
    rank: int = _setting(16, "Rank of the adapter.", low=1, high=256)
    alpha: float = _setting(32.0, "Scale of the adapter is alpha / rank.", low=0.1, high=1024)
    targets: str = _setting("all", "Linear layers that get an adapter.", choices=("all", "attention", "feed-forward"))

    # training
    epochs: float | Literal["auto"] = _setting(
        AUTO, "Passes over the training rows; auto goes by the model's size.", low=0.01, high=1000
    )
    learning_rate: float | Literal["auto"] = _setting(
        AUTO, "Peak learning rate (AdamW, cosine with warm-up); auto goes by the model's size.", low=1e-7, high=1.0
    )
    batch_size: int = _setting(4, "Rows in one forward pass.", low=1, high=1024)
    accumulate: int = _setting(1, "Forward passes in one optimiser step, weighted by target tokens.", low=1, high=1024)
    warmup: float = _setting(0.05, "Share of the steps in which the learning rate rises.", low=0.0, high=1.0)
    weight_decay: float = _setting(0.0, "AdamW's weight decay.", low=0.0, high=1.0)
    clip: float = _setting(1.0, "Largest norm of the gradient.", low=1e-3, high=1e3)
    class_weight: str = _setting(
        "auto",
        "Uneven classes: auto shifts the labels' logits by their frequency in training, balanced weights their rows.",
        choices=("auto", "none", "balanced"),
    )
    logit_adjustment: float = _setting(
        0.5, "Strength of that shift; at 1 all labels count as equally frequent.", low=0.0, high=2.0
    )
    decision_weight: float = _setting(
        20.0, "Weight of the token that tells the labels apart; the others' is 1.", low=1.0, high=1e4
    )
    rationale_weight: float = _setting(1.0, "Weight of a rationale's token in the loss.", low=0.0, high=1.0)
    dev_looks: int = _setting(2, "Looks at the dev rows in each epoch.", low=1, high=20)
    patience: int = _setting(4, "Looks without a gain after which training stops early.", low=1, high=1000)
    checkpoint_seconds: float = _setting(120.0, "Seconds between two checkpoints.", low=0.0)
    base_memory: str = _setting(
        "auto",
        "Keep the base's weights packed as in the file, or as float copies.",
        choices=("auto", "packed", "cached"),
    )
    precision: str = _setting(
        "auto", "Number format of the products; auto takes bf16 where it is faster.", choices=("auto", "bf16", "fp32")
    )
    device: str = _setting("auto", "Where to train.", choices=("auto", "cpu", "cuda", "mps"))
    threads: int = _setting(0, "Processor threads; 0 takes every core.", low=0, high=1024)

    # export
    export_type: str = _setting(
        "auto",
        "GGUF type of the touched tensors; auto takes the smallest that keeps what was learnt.",
        choices=("auto", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "F16", "F32"),
    )
    keep_delta: float = _setting(0.9, "Share of each tensor's change that must survive its type.", low=0.0, high=1.0)
    agreement: float = _setting(
        0.99, "Share of the dev labels on which file and adapter must agree.", low=0.0, high=1.0
    )
    probability_gap: float = _setting(
        0.02, "Largest mean difference of the label probabilities between file and adapter.", low=0.0, high=1.0
    )

    # model set
    approach: str = _setting(
        "auto",
        "Tune, make a model set, or make both and keep what is better on the dev rows.",
        choices=("auto", "tune", "model-set"),
    )
    models: str = _setting("", "Further models for the model set, names or files separated by commas.")
    set_seconds: float = _setting(
        120.0, "Seconds in which the model set is built; it is judged after that.", low=0.0, high=86_400.0
    )
    redact: bool = _setting(False, "Write the model set without a word of any row.")

    # judgement
    bootstrap: int = _setting(2000, "Resamples for the intervals of F1 and kappa.", low=100, high=100_000)
    confidence: float = _setting(0.95, "Confidence of the intervals.", low=0.5, high=0.999)
    strata: str = _setting("", "Columns to report by, separated by commas; none takes Age and Sex where they are.")
    prevalence: float = _setting(
        0.0, "A label's share of the records for PPV and NPV; 0 takes its share of the test rows.", low=0.0, high=0.999
    )

    def __post_init__(self) -> None:
        for setting in fields(self):
            _check(setting, getattr(self, setting.name))
        if self.dev_share + self.test_share > 0.6:
            raise UsageError("dev_share + test_share: more than 0.6 leaves too little to train on; lower one of them")


def _check(setting: dataclasses.Field[Any], value: Any) -> None:
    low, high, choices = (setting.metadata[key] for key in ("low", "high", "choices"))
    if choices is not None:
        if value not in choices:
            raise UsageError(f"{setting.name}: {value!r} is not one of {', '.join(choices)}")
        return
    if _is_auto_number(setting) and value == AUTO:
        return
    if isinstance(setting.default, bool):
        if not isinstance(value, bool):
            raise UsageError(f"{setting.name}: {value!r} is neither true nor false")
        return
    if isinstance(setting.default, str) and not _is_auto_number(setting):
        if not isinstance(value, str):
            raise UsageError(f"{setting.name}: {value!r} is not a text")
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UsageError(f"{setting.name}: {value!r} is not a number")
    if (low is not None and value < low) or (high is not None and value > high):
        reach = f"from {low:g} on" if high is None else f"from {low:g} to {high:g}"
        raise UsageError(f"{setting.name}: {value!r} is out of range ({reach})")


def make_config(values: Mapping[str, Any]) -> Config:
    """A Config from keywords or a YAML mapping; whole numbers given as floats and texts of numbers are accepted.

    Raises UsageError for a name that is no setting, with the nearest name, or a value out of range.
    """
    known = {setting.name: setting for setting in fields(Config)}
    resolved: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            import difflib

            near = difflib.get_close_matches(name, known, n=1)
            raise UsageError(f"{name}: no such setting{f'; did you mean {near[0]}?' if near else ''}")
        auto = _is_auto_number(known[name])
        kind = float if auto else type(known[name].default)
        resolved[name] = value if auto and value == AUTO else _as_type(name, value, kind)
    return Config(**resolved)


def _is_auto_number(setting: dataclasses.Field[Any]) -> bool:
    return setting.default == AUTO and setting.metadata["choices"] is None


def _as_type(name: str, value: Any, kind: type) -> Any:
    if kind is str or isinstance(value, bool):
        return value
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise UsageError(f"{name}: {value!r} is not a number") from None
    if kind is int:
        if not number.is_integer():
            raise UsageError(f"{name}: {value!r} is not a whole number")
        return int(number)
    return number


def as_dict(config: Config) -> dict[str, Any]:
    return dataclasses.asdict(config)
