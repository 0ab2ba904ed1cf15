"""The tokens of prompts and of answers after them, by llama.cpp's tokenizer; asked once for what many records share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ...errors import EngineError

REMEMBERED = 256  # answers whose tokens are kept
LOOK_BACK = 16  # tokens at the end of a prompt among which the last special one is looked for

Token = tuple[int, bytes]  # its id, and the bytes that it stands for
Found = TypeVar("Found")


class Tokenizer:
    """`ask` sends a request to the server, /tokenize."""

    def __init__(self, ask: Callable[[str, Any], Any]) -> None:
        self._ask = ask
        self._alone: dict[str, tuple[list[Token], bool]] = {}
        self._joint: dict[tuple[tuple[int, ...], str], list[Token] | None] = {}
        self._special: dict[int, bool] = {}
        self._turns = True  # prompts end with a turn's mark and what follows it

    def __call__(self, text: str, *, begin: bool, special: bool) -> list[Token]:
        """`begin` adds BOS as the model wants it; with `special`, the text of a special token becomes that token."""
        body = {"content": text, "add_special": begin, "parse_special": special, "with_pieces": True}
        return [(token["id"], _bytes(token["piece"])) for token in self._ask("/tokenize", body)["tokens"]]

    def spelled(self, prompt: str, answers: Sequence[str]) -> tuple[list[int], list[list[Token]]]:
        """Token ids of the prompt, and the tokens of each answer after it. Raises EngineError."""
        tokens = self(prompt, begin=True, special=True)
        ids, turn = [token for token, _ in tokens], self._turn(tokens)
        return ids, [self._continuation(prompt, ids, turn, answer) for answer in answers]

    def _continuation(self, prompt: str, prompt_ids: list[int], turn: tuple[int, ...], answer: str) -> list[Token]:
        """Jointly with the prompt where that leaves the prompt's tokens alone; else as text after a newline."""
        alone, looks_special = _remembered(self._alone, answer, lambda: self._tokenize_alone(answer))
        if not looks_special:
            # no token reaches over a special one: an answer has the same tokens after the same beginning of a turn
            kept = self._joint if turn else {}
            joint = _remembered(kept, (turn, answer), lambda: self._rest(prompt, prompt_ids, answer))
            if joint is not None:
                return joint
        if not _text_is(alone, answer):
            raise EngineError("an answer cannot be written in this model's tokens; use plain words for the labels")
        return alone

    def _rest(self, prompt: str, prompt_ids: list[int], answer: str) -> list[Token] | None:
        """The answer's tokens jointly with the prompt; None where that changes the prompt's."""
        joint = self(prompt + answer, begin=True, special=True)
        rest = joint[len(prompt_ids) :]
        fits = [token for token, _ in joint[: len(prompt_ids)]] == prompt_ids and _text_is(rest, answer)
        return rest if fits else None

    def _tokenize_alone(self, answer: str) -> tuple[list[Token], bool]:
        """Its tokens after a newline (a SentencePiece text begins with a blank), never special ones.

        The second value is True if the answer holds the text of a special token: tokenised jointly it would become one.
        """
        newline = self("\n", begin=False, special=False)
        whole = self("\n" + answer, begin=False, special=False)
        alone = whole[len(newline) :] if whole[: len(newline)] == newline else []
        return alone, whole != self("\n" + answer, begin=False, special=True)

    def _turn(self, prompt: Sequence[Token]) -> tuple[int, ...]:
        """The tokens from the last special one on, () where it is not near the end."""
        near = range(len(prompt) - 1, max(len(prompt) - LOOK_BACK, 0) - 1, -1) if self._turns else ()
        last = next((at for at in near if self._is_special(*prompt[at])), None)
        self._turns = last is not None  # else the records themselves stand there, and each would be looked at
        return tuple(token for token, _ in prompt[last:]) if last is not None else ()

    def _is_special(self, token: int, piece: bytes) -> bool:
        """If its text becomes this token only where special ones are read."""
        if token not in self._special:
            text = piece.decode("utf-8", "replace")
            read, plain = (self(text, begin=False, special=special) for special in (True, False))
            self._special[token] = read == [(token, piece)] != plain
        return self._special[token]


def _remembered(kept: dict[Any, Found], key: object, make: Callable[[], Found]) -> Found:
    """The few label texts come with every row. Safe for several threads, of which one may clear what is kept."""
    try:
        return kept[key]
    except KeyError:
        found = make()
    if len(kept) >= REMEMBERED:
        kept.clear()
    kept[key] = found
    return found


def _bytes(piece: str | list[int]) -> bytes:
    """A token's bytes: llama.cpp gives numbers where they are not whole characters."""
    return piece.encode() if isinstance(piece, str) else bytes(piece)


def _text_is(tokens: Sequence[Token], text: str) -> bool:
    return b"".join(piece for _, piece in tokens) == text.encode()
