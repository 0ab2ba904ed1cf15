"""Decision models: a record and a question with its options in, a probability for each option out.

A GGUF is one by its metadata; `POST /v1/systemone` renders its own template and reads the logits of the options' codes
(llama.cpp as of xllamacpp 2026.10: tools/server/server-decision.cpp).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import EngineError

ROUTE, TEMPLATE = "/v1/systemone", "tokenizer.chat_template.systemone"
QUESTION_ID = "rating"


@dataclass(frozen=True)
class Question:
    """The question about every record. `options` maps each label to its meaning ("": none), in the order of the codes:
    the first label is A."""

    instructions: str
    options: Mapping[str, str]

    def request(self, record: str) -> dict[str, object]:
        """The JSON body that asks it about a record."""
        criteria = {label: meaning or None for label, meaning in self.options.items()}
        question = {"type": "choice", "instructions": self.instructions, "criteria": criteria}
        return {"state": record, "questions": {QUESTION_ID: question}}


@dataclass(frozen=True)
class Decision:
    """Probabilities in the order of the question's options, after the file's temperature; the whole prompt's tokens."""

    probabilities: tuple[float, ...]
    prompt_tokens: int


def make_question(meanings: Mapping[str, str], topics: str) -> Question:
    """Ask for one of the labels of `meanings` (label → meaning)."""
    topic = f" against this topic: {topics.strip()}" if topics.strip() else ""
    return Question(f"Rate this record{topic}.", meanings)


def is_decision_model(metadata: Mapping[str, Any]) -> bool:
    return f"{metadata.get('general.architecture')}.decision.type" in metadata and TEMPLATE in metadata


def read_decision(answer: Any, question: Question) -> Decision:
    """The answer to `question.request`. Raises EngineError where it lacks a label's probability."""
    try:
        found = answer["answers"][QUESTION_ID]["probabilities"]
        probabilities = tuple(float(found[label]) for label in question.options)
        tokens = int(answer.get("usage", {}).get("input_tokens", 0))
    except (AttributeError, KeyError, TypeError, ValueError):
        raise EngineError(f"the server answered {ROUTE} in an unknown form; update Expertune") from None
    if not math.isclose(math.fsum(probabilities), 1, abs_tol=1e-3):
        raise EngineError("the decision model's probabilities do not sum to 1; check the model file")
    return Decision(probabilities, tokens)
