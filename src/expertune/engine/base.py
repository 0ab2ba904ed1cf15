"""The interface of an engine: it serves one model file and is used by several threads at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import EngineError

Message = Mapping[str, str]  # {"role": "system" | "user" | "assistant", "content": text}


@dataclass(frozen=True)
class Generation:
    """An answer. `finished` is False where it was cut at `max_tokens` or at the end of the context."""

    text: str
    prompt_tokens: int
    answer_tokens: int
    finished: bool


@dataclass(frozen=True)
class Scores:
    """Natural-log probabilities of some answers, up to what all share; `exact` if of the model's own tokens."""

    log_probs: tuple[float, ...]
    exact: bool


SHARED = 24  # characters in a row that a reason and a record do not have in common by chance
FEWEST = 8  # characters of a text that are looked for as a whole
REPEATED = "its reason is left out, since it repeats text of the request"


def without_record(reason: str, body: Any) -> str:
    """The reason of a refused request, but for one that repeats its texts: no message holds the text of a record."""
    fields = body if isinstance(body, Mapping) else {}
    texts = [fields.get("prompt"), fields.get("content"), *(each.get("content") for each in fields.get("messages", ()))]
    bare = " ".join(reason.split())
    for text in (" ".join(str(text or "").split()) for text in texts):
        length = min(SHARED, len(text))
        pieces = (bare[at : at + length] for at in range(len(bare) - length + 1))
        if length >= FEWEST and any(piece in text for piece in pieces):
            return REPEATED
    return reason


def check_room(tokens: int, context: int) -> None:
    """Raise EngineError for a prompt and answer of more tokens than the context."""
    if tokens > context:
        raise EngineError(
            f"a prompt and its answer need {tokens} tokens but the context holds {context}; "
            "shorten the row or raise the context"
        )


class Engine(Protocol):
    """The methods of a served model. All raise EngineError; `context` is the tokens of one request at most."""

    name: str
    context: int
    slots: int  # requests that are worth sending at once
    file_bytes: int  # size of the model file
    folds_system: bool  # the template has no system role: its text is put at the head of the first user message
    notes: tuple[str, ...]  # notes for the user on how this model is served, one line each

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt text, ending where the assistant's answer begins."""
        ...

    def tokenize(self, prompt: str) -> list[int]:
        """Token ids of a rendered prompt, as the server makes them (BOS once, special tokens recognised)."""
        ...

    def count_tokens(self, prompt: str) -> int:
        """Number of tokens of a rendered prompt, as the server counts them."""
        ...

    def continuation(self, prompt: str, answer: str) -> list[int]:
        """Token ids of `answer` as generated after `prompt`, without the end of the turn."""
        ...

    def turn_end(self) -> list[int]:
        """The token ids with which the assistant's turn ends."""
        ...

    def score(self, prompt: str, answers: Sequence[str]) -> Scores:
        """Natural-log probability of each answer after `prompt`, up to what all share.

        Counted from the first token in which the answers differ to the first token after which all are alike:
        what they share carries no information about which one is meant.
        """
        ...

    def generate(self, prompt: str, *, max_tokens: int = 256) -> Generation:
        """The greedy answer (temperature 0)."""
        ...

    def describe(self) -> Mapping[str, object]:
        """Engine, versions and settings, for the run's metadata."""
        ...

    def close(self) -> None: ...
