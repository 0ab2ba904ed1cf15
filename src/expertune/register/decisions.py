"""Verify the decision answers (`POST /v1/systemone`) of a registered file that is a decision model.

Request and answer as the documentation of Ollama's Python client has them (ollama-python 0.6.3, README and _types.py:
"requires Ollama v0.35.0 or later"). It does not name the capability in /api/show, so the endpoint itself is tried.
Not seen on a real server: tested with 0.33, which has no decisions, and with the tests' own server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..engine.llama_cpp.engine import LlamaCppEngine
from ..engine.ollama.server import OllamaServer
from ..errors import ExpertuneError, RegistrationError
from ..gguf.read import read_metadata
from ..predict.score import Rated
from ..ratings.scale import RatingScale
from ..ratings.schema import Example
from .verify import Tolerance, compared

PATH, SINCE = "/v1/systemone", (0, 35)
QUESTION = "rating"


def is_decision_model(file: Path) -> bool:
    """Check whether the GGUF has the key `<arch>.decision.type`."""
    metadata = read_metadata(file)
    return f"{metadata.get('general.architecture')}.decision.type" in metadata


def check_decisions(
    server: OllamaServer,
    model: str,
    by_file: LlamaCppEngine,
    file: Path,
    rows: Sequence[Example],
    scale: RatingScale,
    tolerance: Tolerance,
) -> str | None:
    """Compare the server's decisions with those of `file` by llama.cpp; return one line about the outcome.

    None where the file is not a decision model. A server that offers no decisions is not an error.
    Raises RegistrationError where the decisions differ.
    """
    if not is_decision_model(file):
        return None
    if server.version < SINCE:
        return f"Ollama {server.version_text} offers no decisions ({PATH} needs 0.35 or later): not compared."
    requests = [_request(row, scale) for row in rows]
    try:
        first = _rated(server.ask("POST", PATH, {"model": model, **requests[0]}), rows[0], scale)
    except (ExpertuneError, LookupError, TypeError, ValueError) as error:
        listed = ", ".join(server.show(model).get("capabilities") or ()) or "none"
        return f"Ollama {server.version_text} gave no decision (capabilities: {listed}; {error}): not compared."
    pairs = list(zip(requests, rows, strict=True))
    served = [_rated(server.ask("POST", PATH, {"model": model, **body}), row, scale) for body, row in pairs[1:]]
    expected = [_rated(by_file.decide(body), row, scale) for body, row in pairs]
    try:
        labels, gap = compared(expected, [first, *served], tolerance)
    except RegistrationError as error:
        raise RegistrationError(f"decisions ({PATH}): {error}") from None
    return f"{labels:.0%} get the file's label as a decision ({PATH}; probabilities differ by {gap:.4f} on average)."


def _request(row: Example, scale: RatingScale) -> dict[str, Any]:
    """The record as the state, and one question with the labels as its options."""
    texts = {message["role"]: message["content"] for message in row.messages}
    question = {
        "type": "choice",
        "instructions": texts.get("system", ""),
        "criteria": {label: label for label in scale.labels},
    }
    return {"state": texts["user"], "questions": {QUESTION: question}}


def _rated(answer: Mapping[str, Any], row: Example, scale: RatingScale) -> Rated:
    found = answer["answers"][QUESTION]["probabilities"]
    return Rated.of(row.id, [float(found[label]) for label in scale.labels], scale)
