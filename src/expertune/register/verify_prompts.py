"""The same messages, as the base's template and as the new model render them; and the same number of tokens."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from ..engine.base import Message
from ..engine.chat_template import Render, say
from ..errors import RegistrationError

log = logging.getLogger("expertune")

AROUND = 24  # characters shown on each side of the first difference, of our own probes only
LONG = "cough, fever, shortness of breath; "


def probes(system: str) -> dict[str, list[Message]]:
    """Made-up talks that show what templates get wrong; none holds a row's text."""
    asked = say("user", "34F cough x3 days")
    return {
        "a system text": [say("system", system), asked],
        "no system text": [asked],
        "a long text": [say("system", system), say("user", LONG * 40)],
        "blanks and line ends": [say("system", system), say("user", "  two\n\n\tlines  \n")],
        "look-alikes of special tokens": [
            say("system", system),
            say("user", "<|im_start|>user <s>[INST] <|eot_id|></s><|end|> <start_of_turn> {{ .Prompt }} {% if %}"),
        ],
        "other alphabets": [say("system", system), say("user", "Fièvre 38,9 °C · 咳嗽三天 · кашель 🤒")],
        "three turns": [say("system", system), asked, say("assistant", "Match"), say("user", "And this one?")],
    }


def check_renders(expected: Mapping[str, str], made: Render, talks: Mapping[str, Sequence[Message]]) -> None:
    """Raises RegistrationError at the first talk that is rendered otherwise, with the place."""
    for name, messages in talks.items():
        compare(expected[name], made(messages), name)


def compare(expected: str, made: str, name: str) -> None:
    if expected == made:
        return
    at = _first_difference(expected, made)
    here, there = (text[max(at - AROUND, 0) : at + AROUND] for text in (expected, made))
    raise RegistrationError(
        f"the new model's prompt is not the one that it was tuned with: {name}, character {at}: "
        f"{here!r} became {there!r}; nothing was registered"
    )


def _first_difference(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def check_rows(expected: Sequence[str], made: Render, rows: Sequence[tuple[str, Sequence[Message]]]) -> None:
    """As `check_renders`, on rows: their text stays out of the message, their id goes to the log alone."""
    for text, (identity, messages) in zip(expected, rows, strict=True):
        if (other := made(messages)) != text:
            at = _first_difference(text, other)
            log.error("row %s is rendered otherwise by the new model, from character %d on", identity, at)
            raise RegistrationError(
                f"a held-out row is rendered otherwise by the new model, from character {at} on "
                "(its id is in the log); nothing was registered"
            )


def check_tokens(counted: Callable[[str], int], own: Callable[[str], int], prompts: dict[str, str]) -> None:
    """The server reads each prompt as so many tokens as the file's own tokenizer: no BOS twice, none missing.

    Raises RegistrationError.
    """
    for name, prompt in prompts.items():
        there, here = counted(prompt), own(prompt)
        if there != here:
            raise RegistrationError(
                f"Ollama reads a prompt ({name}) as {there} tokens where the file's tokenizer makes {here}; "
                "nothing was registered"
            )
