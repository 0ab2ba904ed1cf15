"""Properties of a chat template, found from what it renders: the same for every engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date
from typing import Protocol

from ..errors import EngineError
from .base import Message

Render = Callable[[Sequence[Message]], str]
SENTINEL = "zebra"  # a plain word: templates strip blanks and rewrite markup
SYSTEM_PROBE = "walrus"
# how templates mark a thought, as their models' cards have them: opening → closing
THOUGHTS = {
    "<think>": "</think>",
    "<thinking>": "</thinking>",
    "<thought>": "</thought>",
    "<seed:think>": "</seed:think>",
    "[THINK]": "[/THINK]",
    "<|START_THINKING|>": "<|END_THINKING|>",
}
HARMONY = "<|channel|>final<|message|>"  # gpt-oss: comes before an answer; a thought is in another channel
LEAST_EFFORT = "low"  # the shortest thought that harmony knows: there is no "off"
ELSEWHERE = "other programs that ask the model must do so too"
DATES = ("%Y-%m-%d", "%d %B %Y", "%d %b %Y", "%B %d, %Y")  # as chat templates write them


class Renderer(Protocol):
    """Renders messages to the prompt text of a served model, `lead` included; `folds_system` as in Engine."""

    folds_system: bool
    lead: str

    def __call__(self, messages: Sequence[Message]) -> str: ...


def say(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def shows_system(render: Render) -> bool:
    """Check whether a system message's text reaches the prompt."""
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


def checked(prompt: str, messages: Sequence[Message]) -> str:
    """The prompt. Raises EngineError where it does not hold the last user's message, blanks aside."""
    record = messages[-1]["content"] if messages and messages[-1]["role"] == "user" else ""
    if record.strip() not in prompt and "".join(record.split()) not in "".join(prompt.split()):
        raise EngineError("the chat template leaves the record out of the prompt; choose a chat model")
    return prompt


def switches(template: str) -> dict[str, bool | str]:
    """Template variables that switch thinking off. A level is for harmony only: other templates refuse it."""
    return {"enable_thinking": False, **({"reasoning_effort": LEAST_EFFORT} if HARMONY in template else {})}


def answer_lead(render: Render) -> str:
    """The text between the template's prompt and the answer that makes the answer come at once; mostly "".

    A template may leave a mark before each answer to the model (harmony's final channel), or open a thought that no
    switch turns off (DeepSeek-R1's): the mark is written, the thought is closed.
    """
    try:
        prompt, conversation = render([say("user", "one")]), render(_conversation())
    except EngineError:
        return ""
    before, found, _ = conversation.partition(SENTINEL)
    if found and before.startswith(prompt) and (mark := before[len(prompt) :]).strip():
        return mark
    return _closed_thought(prompt)


def _closed_thought(prompt: str) -> str:
    """The end of the thought that the prompt opens, in the lines of the empty thoughts that such models write."""
    bare = prompt.rstrip("\n")
    closing = next((closing for opening, closing in THOUGHTS.items() if bare.endswith(opening)), "")
    return f"\n{closing}\n\n" if closing and bare != prompt else closing


def remarks(render: Render, lead: str, *, folds_system: bool) -> tuple[str, ...]:
    """Notes for the user on these prompts, one line each."""
    found = []
    if folds_system:
        found.append("the chat template has no system role: its text is put at the head of the first user message")
    if any(closing in lead for closing in THOUGHTS.values()):
        found.append(f"the chat template opens a thought: prompts close it by {lead.strip()!r}; {ELSEWHERE}")
    elif lead:
        found.append(f"prompts end with {lead.strip()!r}, which the chat template writes before an answer; {ELSEWHERE}")
    if _shows_today(render):
        found.append("the chat template writes today's date into the prompt: prompts of another day differ in it")
    return tuple(found)


def _shows_today(render: Render) -> bool:
    try:
        text = render([say("system", SYSTEM_PROBE), say("user", "one")])
    except EngineError:
        return False
    return any(f"{date.today():{form}}" in text for form in DATES)


def after_turn(render: Render, model: str) -> str:
    """The prompt text from the end of an assistant's words on, without blanks: its first token ends the turn.

    A prompt that asks for an answer does not have it, so a finished turn inside a conversation is rendered and cut.
    """
    text = render(_conversation())
    if text.count(SENTINEL) != 1:
        raise EngineError(f"{model}: its chat template does not show the assistant's turns; choose a chat model")
    return text.split(SENTINEL)[1].lstrip()


def _conversation() -> list[Message]:
    return [say("user", "one"), say("assistant", SENTINEL), say("user", "two")]
