"""May this file be registered? The run's own metadata answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import RegistrationError


def objections(metadata: Mapping[str, Any]) -> list[str]:
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
        found.append(
            f"the file agrees with what was trained on only {export['agreement']:.1%} of {export['agreement_rows']} "
            "dev rows, which is below the gate"
        )
    if verdict["base"] == "not better":
        found.append("the tuned model is not better than its base on the held-out rows")
    if verdict["majority"] == "not better":
        found.append("the tuned model is not better than always guessing the commonest class")
    return found
