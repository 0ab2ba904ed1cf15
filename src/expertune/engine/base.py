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
    """Natural-log probabilities of some answers; `exact` if they are those of the model's own tokens."""

    log_probs: tuple[float, ...]
    exact: bool


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
        """Natural-log probability of each answer after `prompt`.

        Counted from the first token in which the answers differ to the first token after which all are alike:
        what they share carries no information about which one is meant.
        """
        ...

    def generate(self, prompt: str, *, max_tokens: int = 256) -> Generation:
        """The greedy answer (temperature 0)."""
        ...

    def describe(self) -> dict[str, Any]:
        """Engine, versions and settings, for the run's metadata."""
        ...

    def close(self) -> None: ...
