"""What a chat template does with messages, seen from what it renders: the same for every engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from ..errors import EngineError
from .base import Message

Render = Callable[[Sequence[Message]], str]
SENTINEL = "zebra"  # a plain word: templates strip blanks and rewrite markup
SYSTEM_PROBE = "walrus"


class Renderer(Protocol):
    """Messages → the prompt text that a served model gets; `folds_system` as an engine has it."""

    folds_system: bool

    def __call__(self, messages: Sequence[Message]) -> str: ...


def say(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def shows_system(render: Render) -> bool:
    """Whether a system message's text reaches the prompt."""
    try:
        return SYSTEM_PROBE in render([say("system", SYSTEM_PROBE), say("user", "one")])
    except EngineError:
        return False


def fold_system(messages: Sequence[Message]) -> list[Message]:
    """The system text at the head of the first user message, as llama.cpp itself joins them."""
    head = [message["content"] for message in messages if message["role"] == "system"]
    rest = [message for message in messages if message["role"] != "system"]
    first = next((i for i, message in enumerate(rest) if message["role"] == "user"), None)
    if not head or first is None:
        return rest if not head else [say("user", "\n".join(head)), *rest]
    rest[first] = say("user", "\n".join([*head, rest[first]["content"]]))
    return rest


def after_turn(render: Render, model: str) -> str:
    """The prompt text from the end of an assistant's words on: its first token ends the turn.

    A prompt to answer to does not hold it, so a finished turn in the middle of a talk is rendered and cut.
    """
    text = render([say("user", "one"), say("assistant", SENTINEL), say("user", "two")])
    if text.count(SENTINEL) != 1:
        raise EngineError(f"{model}: its chat template does not show the assistant's turns; choose a chat model")
    return text.split(SENTINEL)[1]
