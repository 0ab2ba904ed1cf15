"""Verify the decision answers (`POST /v1/systemone`) of a registered file that is a decision model.

Request and answer as the documentation of Ollama's Python client has them (ollama-python 0.6.3, README and _types.py:
"requires Ollama v0.35.0 or later"). It does not name the capability in /api/show, so the endpoint itself is tried.
Not seen on a real server: tested with 0.33, which has no decisions, and with the tests' own server.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..engine.decision import ROUTE, Decision, Question, is_decision_model, read_decision
from ..engine.llama_cpp.engine import LlamaCppEngine
from ..engine.ollama.server import OllamaServer
from ..errors import ExpertuneError, RegistrationError
from ..gguf.read import read_metadata
from ..predict.score import Rated
from ..ratings.scale import RatingScale
from ..ratings.schema import Example
from .verify import Tolerance, compared

SINCE = (0, 35)


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
    if not is_decision_model(read_metadata(file)):
        return None
    if server.version < SINCE:
        return f"Ollama {server.version_text} offers no decisions ({ROUTE} needs 0.35 or later): not compared."
    system = next((message["content"] for message in rows[0].messages if message["role"] == "system"), "")
    question = Question(system, dict.fromkeys(scale.labels, ""))

    def ask(at: int) -> Rated:
        body = {"model": model, **question.request(rows[at].record)}
        return _rated(read_decision(server.ask("POST", ROUTE, body), question), rows[at], scale)

    try:
        first = ask(0)
    except (ExpertuneError, LookupError, TypeError, ValueError) as error:
        listed = ", ".join(server.show(model).get("capabilities") or ()) or "none"
        return f"Ollama {server.version_text} gave no decision (capabilities: {listed}; {error}): not compared."
    served = [first, *map(ask, range(1, len(rows)))]
    expected = [_rated(by_file.decide(row.record, question), row, scale) for row in rows]
    try:
        labels, gap = compared(expected, served, tolerance)
    except RegistrationError as error:
        raise RegistrationError(f"decisions ({ROUTE}): {error}") from None
    assert gap is not None  # a decision comes with its probabilities
    return f"{labels:.0%} get the file's label as a decision ({ROUTE}; probabilities differ by {gap:.4f} on average)."


def _rated(decision: Decision, row: Example, scale: RatingScale) -> Rated:
    return Rated.of(row.id, decision.probabilities, scale)
