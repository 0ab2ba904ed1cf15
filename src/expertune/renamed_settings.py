"""The settings of version 0.1.0 under their present names, with a note.

The records of earlier runs (training_config.yaml, "settings" in the metadata) keep their old names and stay readable.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from .errors import RenamedSettingWarning, UsageError

# Setting names of version 0.1.0. They are accepted for one version; the records of earlier runs keep them for ever.
RENAMED = {
    "near_duplicate": "near_duplicate_threshold",
    "long_rows": "long_records",
    "targets": "target_modules",
    "accumulate": "gradient_accumulation_steps",
    "warmup": "warmup_ratio",
    "clip": "max_grad_norm",
    "dev_looks": "evals_per_epoch",
    "patience": "early_stopping_patience",
    "base_memory": "weight_cache",
    "precision": "compute_dtype",
    "keep_delta": "min_update_retained",
    "agreement": "min_label_agreement",
    "set_seconds": "model_set_budget_seconds",
    "bootstrap": "bootstrap_resamples",
    "confidence": "confidence_level",
    "strata": "subgroups",
}
# Settings without a successor, and why; they are accepted and left out for one version.
_MEASURED = "the run measures how far two readers of one file differ"
REMOVED = {"max_probability_gap": _MEASURED, "probability_gap": _MEASURED}
# Values of version 0.1.0: current setting → old value → current value
RENAMED_VALUES: dict[str, dict[Any, Any]] = {
    "weight_cache": {"packed": "quantized", "cached": "dequantized"},
    "threads": {0: None},
    "prevalence": {0: None},
}


def current_settings(values: Mapping[str, Any], *, warn: bool = True) -> dict[str, Any]:
    """The values under the present names of their settings.

    Without `warn` nothing is said: for the records of an earlier run. Raises UsageError for a setting given twice.
    """
    current: dict[str, Any] = {}
    for given, value in values.items():
        if given in REMOVED:
            if warn:
                _warn(f"{given} is no longer a setting ({REMOVED[given]}); the next version will not know it")
            continue
        name = RENAMED.get(given, given)
        if name in current or (name != given and name in values):
            old = next(old for old, new in RENAMED.items() if new == name)
            raise UsageError(f"{name}: given twice, also by its old name {old}; leave that out")
        if name != given and warn:
            _warn(f"{given} is now called {name}; the next version will not know the old name")
        current[name] = _current_value(name, value, warn=warn)
    return current


def _current_value(name: str, value: Any, *, warn: bool) -> Any:
    known = RENAMED_VALUES.get(name, {})
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or value not in known:
        return value
    if warn:
        written = known[value] or "left out (null)"
        _warn(f"{name}: {value} is now {written}; the next version will not know the old value")
    return known[value]


def _warn(line: str) -> None:
    warnings.warn(line, RenamedSettingWarning, stacklevel=2)
