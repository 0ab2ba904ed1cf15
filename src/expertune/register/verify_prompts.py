"""Verify that the new model renders prompts as in training, in text and number of tokens."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from ..engine.base import Message
from ..engine.chat_template import Render, say
from ..errors import RegistrationError

log = logging.getLogger("expertune")

AROUND = 24  # characters shown on each side of the first difference; only for the probes
LONG = "cough, fever, shortness of breath; "


def probes(system: str) -> dict[str, list[Message]]:
    """Invented chats that expose differences of templates; they contain no text of a record."""
    note = say("user", "34F cough x3 days")
    return {
        "a system text": [say("system", system), note],
        "no system text": [note],
        "a long text": [say("system", system), say("user", LONG * 40)],
        "blanks and line ends": [say("system", system), say("user", "  two\n\n\tlines  \n")],
        "look-alikes of special tokens": [
            say("system", system),
            say("user", "<|im_start|>user <s>[INST] <|eot_id|></s><|end|> <start_of_turn> {{ .Prompt }} {% if %}"),
        ],
        "other alphabets": [say("system", system), say("user", "Fièvre 38,9 °C · 咳嗽三天 · кашель 🤒")],
        "three turns": [say("system", system), note, say("assistant", "Match"), say("user", "And this one?")],
    }


def check_renders(expected: Mapping[str, str], render: Render, chats: Mapping[str, Sequence[Message]]) -> None:
    """Raise RegistrationError with the position of the first difference and its surroundings."""
    for name, messages in chats.items():
        if (other := render(messages)) != (text := expected[name]):
            at = _first_difference(text, other)
            here, there = (each[max(at - AROUND, 0) : at + AROUND] for each in (text, other))
            raise RegistrationError(
                f"the new model's prompt differs from the training prompt: {name}, character {at}: "
                f"{here!r} became {there!r}; nothing was registered"
            )


def _first_difference(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def check_rows(expected: Sequence[str], render: Render, rows: Sequence[tuple[str, Sequence[Message]]]) -> None:
    """Like `check_renders` for records: their text is not in the message, and their id only in the log."""
    for text, (identity, messages) in zip(expected, rows, strict=True):
        if (other := render(messages)) != text:
            at = _first_difference(text, other)
            log.error("record %s is rendered differently by the new model, from character %d on", identity, at)
            raise RegistrationError(
                f"a test record is rendered differently by the new model, from character {at} on "
                "(its id is in the log); nothing was registered"
            )


def check_tokens(by_server: Callable[[str], int], by_file: Callable[[str], int], prompts: dict[str, str]) -> None:
    """Compare the server's token counts with those of the file's tokenizer; a doubled or missing BOS shows here.

    Raises RegistrationError.
    """
    for name, prompt in prompts.items():
        in_server, in_file = by_server(prompt), by_file(prompt)
        if in_server != in_file:
            raise RegistrationError(
                f"Ollama splits a prompt ({name}) into {in_server} tokens, the file's tokenizer into {in_file}; "
                "nothing was registered"
            )
