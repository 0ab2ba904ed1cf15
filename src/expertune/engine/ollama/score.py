"""A label's log-probability from a server that shows, for each token it says, the likeliest ones in its place.

Ollama (since 0.12.11) gives at most 20 of them, the model's own figures from before any grammar, and always that of the
token it took. Two ways, the better one first:

1. *Alternatives*: ask for the next tokens after the answers' common beginning. Where every token that tells the answers
   apart is among the alternatives, the score is what the embedded engine computes.
2. *Forced*: where one is not, a grammar that allows one answer only makes the model say it. If the model takes the
   tokens that it was trained on, this is exact too; a grammar may also take another split of the same letters, and then
   all answers are compared on such splits, and the score is marked.

A token that is a part of a character has no figure there: Ollama lists the whole character with the log-probability of
its last token, and every part among the alternatives as U+FFFD. Labels of such tokens are refused.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import EngineError
from ..base import Scores
from ..label_scoring import Known, distinguishing, sum_log_probs

OTHER = -1  # a token that is in no answer
FORCED_ROOM = 64  # tokens; a grammar ends the answer long before

Token = tuple[int, bytes]


@dataclass(frozen=True)
class Said:
    """A token that the server said: its bytes, its natural-log probability, those of the likeliest in its place."""

    piece: bytes
    log_prob: float
    others: Mapping[bytes, float]


Ask = Callable[[str, int, Mapping[str, Any] | None], list[Said]]  # prompt, most tokens, JSON schema or none


@dataclass(frozen=True)
class Spelling:
    """The tokens of a prompt and of each answer after it, by the model's own tokenizer."""

    prompt: list[int]
    answers: list[list[Token]]
    tokenize: Callable[[str], list[int]]


class PartOfCharacterError(EngineError):
    """A label has tokens that are a part of a character, and Ollama lists no log-probability for them."""

    def __init__(self) -> None:
        super().__init__(
            "Ollama lists no probability for a part of a character, and this model cuts characters of the labels into "
            "parts; use --engine llama.cpp, or labels in plain letters"
        )


class _Hidden(Exception):
    """A token that is not among the alternatives, or a place in the answer that no text leads to."""


def score(ask: Ask, prompt: str, answers: Sequence[str], spelling: Spelling | None) -> Scores:
    """Log-probability of each answer, in nats, up to what all share. Raises EngineError and PartOfCharacterError.

    Without a `spelling` (the model's file is not at hand) the likeliest split of each answer stands for it.
    """
    try:
        if spelling is not None:
            return Scores(tuple(_on_own_tokens(ask, prompt, answers, spelling)), exact=True)
        return Scores(tuple(_on_likeliest_split(ask, prompt, answers)), exact=True)
    except _Hidden:
        return Scores(tuple(_forced_alike(ask, prompt, answers)), exact=False)


def _on_own_tokens(ask: Ask, prompt: str, answers: Sequence[str], spelling: Spelling) -> list[float]:
    """Along the model's own tokens: by alternatives, and a tail that these do not show by force."""
    pieces = {token: piece for answer in spelling.answers for token, piece in answer}
    begin, tails = distinguishing([[token for token, _ in answer] for answer in spelling.answers])
    by_piece = {pieces[token]: token for tail in tails for token in tail}
    if not all(map(_is_whole, by_piece)):
        raise PartOfCharacterError
    known: Known = {}

    def look(path: Sequence[int], room: int) -> Iterator[tuple[int, Mapping[int, float]]]:
        text = prompt + _text(pieces[token] for token in (*begin, *path))
        if spelling.tokenize(text) != [*spelling.prompt, *begin, *path]:
            raise _Hidden  # the text so far is cut into other tokens than the whole answer is
        for said in ask(text, room, None) or _held_open(ask, text):
            yield by_piece.get(said.piece, OTHER), {by_piece[p]: x for p, x in said.others.items() if p in by_piece}

    def hidden(path: Sequence[int], wanted: int) -> Mapping[int, float]:
        raise _Hidden

    def one(answer: str, tail: list[int]) -> float:
        try:
            return sum_log_probs([tail], look, hidden, known)[0]
        except _Hidden:
            return _forced_whole(ask, prompt, answer, [pieces[t] for t in begin], [pieces[t] for t in tail])

    return [one(answer, tail) for answer, tail in zip(answers, tails, strict=True)]


def _held_open(ask: Ask, text: str) -> list[Said]:
    """The next place's alternatives where the model would rather end its turn: an end is no token that Ollama lists.

    Any grammar forbids the end, and the alternatives are from before it.
    """
    said = ask(text, 1, {"type": "string"})[:1]
    if not said:
        raise _Hidden
    return said


def _forced_whole(ask: Ask, prompt: str, answer: str, begin: list[bytes], tail: list[bytes]) -> float:
    """The answer as the one object that a grammar allows; counts only if it comes in the model's own tokens."""
    properties = {
        name: {"type": "string", "enum": [value]} if value else {"type": "string"}
        for name, value in _members(answer).items()
    }
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    said = ask(prompt, len(begin) + len(tail), schema)
    if [each.piece for each in said] != [*begin, *tail]:
        raise _Hidden
    return sum(each.log_prob for each in said[len(begin) :])


def _on_likeliest_split(ask: Ask, prompt: str, answers: Sequence[str]) -> list[float]:
    """Token by token the likeliest alternative that goes on with the answer, up to the quote that ends the label."""
    lead, labels = _labels(answers)
    seen: dict[str, Mapping[bytes, float]] = {}

    def one(label: str, rest: bytes) -> float:
        total, path, needed = 0.0, "", len(json.dumps(label, ensure_ascii=False).encode()) - 1
        while needed > 0:
            if path not in seen:
                text = prompt + lead + '"' + path
                seen[path] = (ask(text, 1, None) or _held_open(ask, text))[0].others
            fitting = {piece: value for piece, value in seen[path].items() if piece and rest.startswith(piece)}
            if not fitting:
                raise _Hidden
            piece = max(fitting, key=lambda each: fitting[each])
            total, path = total + fitting[piece], path + _text([piece])
            rest, needed = rest[len(piece) :], needed - len(piece)
        return total

    return [one(label, answer[len(lead) + 1 :].encode()) for label, answer in zip(labels, answers, strict=True)]


def _forced_alike(ask: Ask, prompt: str, answers: Sequence[str]) -> list[float]:
    """Every label as the one string that a grammar allows after the answers' common beginning, its quotes included."""
    lead, labels = _labels(answers)
    scores = []
    for label in labels:
        wanted, total, came = json.dumps(label, ensure_ascii=False).encode(), 0.0, b""
        for said in ask(prompt + lead, FORCED_ROOM, {"type": "string", "enum": [label]}):
            if len(came) >= len(wanted):
                break
            total, came = total + said.log_prob, came + said.piece
        if not came.startswith(wanted):
            if not wanted.isascii():  # what came ends where parts of a character begin
                raise PartOfCharacterError
            raise EngineError("the server did not keep to the one answer that it was allowed; update Ollama")
        scores.append(total)
    return scores


def _labels(answers: Sequence[str]) -> tuple[str, list[str]]:
    """What all answers say before the member in which they differ, and each one's text there, without quotes."""
    members = [_members(answer) for answer in answers]
    name = next((key for key in members[0] if len({each.get(key) for each in members}) > 1), next(iter(members[0])))
    before = dict(itertools.takewhile(lambda member: member[0] != name, members[0].items()))
    head = json.dumps({**before, name: ""}, ensure_ascii=False)[: -len('""}')]
    if not all(answer.startswith(head) and name in each for answer, each in zip(answers, members, strict=True)):
        raise EngineError("only answers that are JSON objects of one form can be scored by Ollama")
    return head, [each[name] for each in members]


def _members(answer: str) -> dict[str, str]:
    """The members of an answer's beginning, such as {"rating": "Match", "rationale": "; all must be texts."""
    for end in ("}", '"}'):
        with contextlib.suppress(ValueError):
            value = json.loads(answer + end)
            if isinstance(value, dict) and value and all(isinstance(each, str) for each in value.values()):
                return value
    raise EngineError("only answers that begin as a JSON object of texts can be scored by Ollama")


def _is_whole(piece: bytes) -> bool:
    try:
        piece.decode()
    except UnicodeDecodeError:
        return False
    return True


def _text(pieces: Any) -> str:
    try:
        return b"".join(pieces).decode()
    except UnicodeDecodeError:
        raise _Hidden from None  # inside a character: no prompt text ends there
