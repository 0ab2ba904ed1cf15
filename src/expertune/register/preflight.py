"""May this file be registered? The run's own metadata answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import RegistrationError


def gate_failures(metadata: Mapping[str, Any]) -> list[str]:
    """What speaks against registering a run's file, one line each; --force overrides them.

    Raises RegistrationError where there is no tuned file at all.
    """
    if "fine_tuning_info" not in metadata:
        raise RegistrationError(
            f"nothing to register: this run made no tuned model ({metadata.get('fallback_reason')}); "
            "rate with its model set instead"
        )
    found = []
    export, verdict = metadata["export"], metadata["evaluation"]["verdict"]
    if not export["agreement_passed"]:
        found.append(_disagreement(export, metadata["settings"]))
    if verdict["base"] == "not better":
        found.append("the tuned model is not better than its base on the held-out rows")
    if verdict["majority"] == "not better":
        found.append("the tuned model is not better than always guessing the commonest class")
    return found


def _disagreement(export: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """Where the file differs from what was trained: in labels, else in their probabilities."""
    if export["agreement"] < settings["min_label_agreement"]:
        return (
            f"the file agrees with what was trained on only {export['agreement']:.1%} of {export['agreement_rows']} "
            "dev rows, which is below the gate"
        )
    return (
        f"the file's probabilities are {export['probability_gap']:.3f} from those of what was trained on average over "
        f"{export['agreement_rows']} dev rows, which is above the {settings['max_probability_gap']:g} of the gate"
    )
