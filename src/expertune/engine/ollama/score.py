"""Score labels through a server that lists, for each token it generates, the likeliest tokens in its place.

Ollama (since 0.12.11) lists at most 20 of them, with the model's own log-probabilities from before any grammar, and
always that of the token it took. Four ways, the better one first:
1. *Alternatives*: ask for the next tokens after the answers' common beginning. Where every token that tells the answers
   apart is among the alternatives, the score is what the embedded engine computes.
2. *Bound*: a token that is not listed is no likelier than those that are. Where that makes an answer a thousand times
   less likely than another, as with a model that is sure, the bound is its score.
3. *Forced*: else a grammar that allows one answer only makes the model generate it: exact where the model takes the
   tokens that it was trained on. Where it splits the letters otherwise, the bound stands, and the scores are not exact.
4. *Grammar*: where no answer is known to be the likeliest, all are compared on the splits that a grammar takes.

A token that is a part of a character has no log-probability there: Ollama 0.33.0-rc2 lists the whole character with the
log-probability of its last token, and every part among the alternatives as U+FFFD. Labels of such tokens are refused.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import EngineError
from ..base import Scores
from ..label_scoring import LogProbs, distinguishing
from ..label_scoring import Path as TokenPath

FORCED_ROOM = 64  # tokens; a grammar ends the answer long before

NEGLIGIBLE = math.log(1e-3)  # of a score less the best one: the answer's share, then, is less than this

Token = tuple[int, bytes]


@dataclass(frozen=True)
class GeneratedToken:
    """A token of the server's answer: its bytes, its natural-log probability, those of the likeliest in its place."""

    piece: bytes
    log_prob: float
    others: Mapping[bytes, float]

    @property
    def unlisted(self) -> float:
        """The most that the log-probability of a token can be that is not listed. What a grammar took may be any."""
        return min((value for piece, value in self.others.items() if piece != self.piece), default=0.0)


@dataclass(frozen=True)
class Place:
    """After some tokens of the answers: log-probabilities of the next token, and the most that one not listed has."""

    log_probs: LogProbs
    unlisted: float


@dataclass(frozen=True)
class Summed:
    """The log-probability of an answer in nats, or the most that it can be where the alternatives do not show it."""

    log_prob: float
    shown: bool


Places = Mapping[TokenPath, Place]  # by the tokens after the shared beginning
PiecePlaces = Mapping[str, GeneratedToken | None]  # by the text after the shared beginning; None: nothing came
UNKNOWN = Summed(0.0, shown=False)
Ask = Callable[[str, int, Mapping[str, Any] | None], list[GeneratedToken]]  # prompt, most tokens, JSON schema or none


@dataclass(frozen=True)
class Spelling:
    """The tokens of a prompt and of each answer after it, by the model's own tokenizer."""

    prompt: list[int]
    answers: list[list[Token]]
    tokenize: Callable[[str], list[int]]


@dataclass(frozen=True)
class SpelledAnswers:
    """A prompt and its answers as tokens: the `begin` that all share, and the `tails` that tell them apart."""

    prompt: str
    spelling: Spelling
    begin: TokenPath
    tails: tuple[TokenPath, ...]
    pieces: Mapping[int, bytes]  # of every token of the answers

    @classmethod
    def of(cls, prompt: str, spelling: Spelling) -> SpelledAnswers:
        """Raises PartOfCharacterError where a tail has a token that is a part of a character."""
        pieces = {token: piece for answer in spelling.answers for token, piece in answer}
        begin, tails = distinguishing([[token for token, _ in answer] for answer in spelling.answers])
        if not all(_decoded([pieces[token]]) is not None for tail in tails for token in tail):
            raise PartOfCharacterError
        return cls(prompt, spelling, tuple(begin), tuple(map(tuple, tails)), pieces)

    def text(self, path: TokenPath) -> str | None:
        """The prompt up to the end of `path`; None where its tokens are not those of that text."""
        answer = _decoded(self.bytes_of((*self.begin, *path)))
        if answer is None:  # it ends inside a character
            return None
        text = self.prompt + answer
        return text if self.spelling.tokenize(text) == [*self.spelling.prompt, *self.begin, *path] else None

    def bytes_of(self, tokens: TokenPath) -> list[bytes]:
        return [self.pieces[token] for token in tokens]


class PartOfCharacterError(EngineError):
    """A label has tokens that are a part of a character, and Ollama lists no log-probability for them."""

    def __init__(self) -> None:
        super().__init__(
            "Ollama lists no probability for a part of a character, and this model cuts characters of the labels into "
            "parts; use --engine llama.cpp, or labels in plain letters"
        )


def score(ask: Ask, prompt: str, answers: Sequence[str], spelling: Spelling | None) -> Scores:
    """Log-probability of each answer, in nats, up to what all share. Raises EngineError and PartOfCharacterError.

    Without a `spelling` (the model's file is not on this machine) the likeliest split of each answer is scored.
    """
    if spelling is not None:
        found = _by_own_tokens(ask, answers, SpelledAnswers.of(prompt, spelling))
    else:
        found = _by_likeliest_split(ask, prompt, answers)
    return found or Scores(tuple(_by_grammar(ask, prompt, answers)), exact=False)


def _compared(summed: Sequence[Summed], exact: Callable[[int], float | None]) -> Scores | None:
    """The scores; None where the likeliest is not known. `exact(i)` tries to find the i-th score otherwise."""
    best = max((each.log_prob for each in summed if each.shown), default=-math.inf)
    settled = list(summed)
    for i, each in enumerate(summed):
        if not each.shown and each.log_prob > best + NEGLIGIBLE and (found := exact(i)) is not None:
            settled[i] = Summed(found, shown=True)
    best = max((each.log_prob for each in settled if each.shown), default=-math.inf)
    bound = max((each.log_prob for each in settled if not each.shown), default=-math.inf)
    if bound >= best:
        return None
    return Scores(tuple(each.log_prob for each in settled), exact=bound <= best + NEGLIGIBLE)


# --- the model's own tokens ---


def _by_own_tokens(ask: Ask, answers: Sequence[str], spelled: SpelledAnswers) -> Scores | None:
    """By alternatives, and a tail that these do not show by its bound or a grammar; None where that does not do."""
    places: Places = {}
    for tail in spelled.tails:
        places = _with_places_along(ask, spelled, tail, places)
    summed = [_summed(places, tail) for tail in spelled.tails]
    return _compared(summed, lambda i: _forced_whole(ask, spelled, answers[i], spelled.tails[i]))


def _summed(places: Places, tail: TokenPath) -> Summed:
    total = 0.0
    for at, token in enumerate(tail):
        place = places.get(tail[:at])
        if place is None:  # tokens that follow can only make it less likely
            return Summed(total, shown=False)
        if token not in place.log_probs:
            return Summed(total + place.unlisted, shown=False)
        total += place.log_probs[token]
    return Summed(total, shown=True)


def _with_places_along(ask: Ask, spelled: SpelledAnswers, tail: TokenPath, places: Places) -> Places:
    """`places`, and those along `tail` as far as the alternatives show its tokens."""
    for at, token in enumerate(tail):
        path = tail[:at]
        if path not in places:
            places = {**_alternatives(ask, spelled, path, len(tail) - at), **places}
        if path not in places or token not in places[path].log_probs:
            break
    return places


def _alternatives(ask: Ask, spelled: SpelledAnswers, path: TokenPath, room: int) -> Places:
    """The places along the model's own continuation of `path`, up to its first token that is in no tail.

    Empty where Ollama cannot be asked from `path` on.
    """
    text = spelled.text(path)
    if text is None:
        return {}
    tokens = {spelled.pieces[token]: token for tail in spelled.tails for token in tail}
    places: dict[TokenPath, Place] = {}
    for each in ask(text, room, None) or _before_end_of_turn(ask, text):
        log_probs = {tokens[piece]: value for piece, value in each.others.items() if piece in tokens}
        places[path] = Place(log_probs, each.unlisted)
        if each.piece not in tokens:
            break
        path = (*path, tokens[each.piece])
    return places


def _before_end_of_turn(ask: Ask, text: str) -> list[GeneratedToken]:
    """The next place's alternatives where the model would rather end its turn: Ollama lists no token for an end.

    Any grammar forbids the end, and the alternatives are from before it.
    """
    return ask(text, 1, {"type": "string"})[:1]


def _forced_whole(ask: Ask, spelled: SpelledAnswers, answer: str, tail: TokenPath) -> float | None:
    """The answer as the one object that a grammar allows; None unless it comes in the model's own tokens."""
    properties = {
        name: {"type": "string", "enum": [value]} if value else {"type": "string"}
        for name, value in _members(answer).items()
    }
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    wanted = spelled.bytes_of((*spelled.begin, *tail))
    generated = ask(spelled.prompt, len(wanted), schema)
    if [each.piece for each in generated] != wanted:
        return None
    return sum(each.log_prob for each in generated[len(spelled.begin) :])


# --- without the model's own tokens ---


def _by_likeliest_split(ask: Ask, prompt: str, answers: Sequence[str]) -> Scores | None:
    """Each label along its likeliest split, up to its closing quote; None where the alternatives do not tell."""
    lead, labels = _labels(answers)
    places: PiecePlaces = {}
    summed = []
    for label, answer in zip(labels, answers, strict=True):
        text, size = answer[len(lead) + 1 :].encode(), len(_quoted(label)) - 1
        found, places = _likeliest_split(ask, prompt + lead + '"', text, size, places)
        summed.append(found)
    return _compared(summed, lambda i: None)


def _likeliest_split(ask: Ask, start: str, text: bytes, size: int, places: PiecePlaces) -> tuple[Summed, PiecePlaces]:
    """Token by token the likeliest alternative that continues `text`, for its first `size` bytes at least.

    The sum of their log-probabilities, or the most that it can be, and all places seen so far.
    """
    total, path, done = 0.0, "", 0
    while done < size:
        if path not in places:
            shown = ask(start + path, 1, None) or _before_end_of_turn(ask, start + path)
            places = {**places, path: shown[0] if shown else None}
        place = places[path]
        if place is None:
            return UNKNOWN, places
        fitting = {piece: value for piece, value in place.others.items() if piece and text.startswith(piece, done)}
        if not fitting:
            return Summed(total + place.unlisted, shown=False), places
        piece = max(fitting, key=lambda each: fitting[each])
        characters = _decoded([piece])
        if characters is None:
            return UNKNOWN, places
        total, path, done = total + fitting[piece], path + characters, done + len(piece)
    return Summed(total, shown=True), places


def _by_grammar(ask: Ask, prompt: str, answers: Sequence[str]) -> list[float]:
    """Each label as the one string that a grammar allows after the answers' common beginning, its quotes included."""
    lead, labels = _labels(answers)
    return [_forced_label(ask, prompt + lead, label) for label in labels]


def _forced_label(ask: Ask, start: str, label: str) -> float:
    wanted, total, came = _quoted(label), 0.0, b""
    for each in ask(start, FORCED_ROOM, {"type": "string", "enum": [label]}):
        if len(came) >= len(wanted):
            break
        total, came = total + each.log_prob, came + each.piece
    if came.startswith(wanted):
        return total
    if not wanted.isascii():  # what came ends where parts of a character begin
        raise PartOfCharacterError
    raise EngineError("the server did not keep to the one answer that its grammar allows; update Ollama")


# --- answers as JSON ---


def _labels(answers: Sequence[str]) -> tuple[str, list[str]]:
    """The text that all answers share before the member in which they differ, and each one's value of it, unquoted."""
    members = [_members(answer) for answer in answers]
    name = next((key for key in members[0] if len({each.get(key) for each in members}) > 1), next(iter(members[0])))
    before = dict(itertools.takewhile(lambda member: member[0] != name, members[0].items()))
    head = json.dumps({**before, name: ""}, ensure_ascii=False)[: -len('""}')]
    if not all(answer.startswith(head) and name in each for answer, each in zip(answers, members, strict=True)):
        raise EngineError("only answers that are JSON objects of one form can be scored by Ollama")
    return head, [each[name] for each in members]


def _members(answer: str) -> dict[str, str]:
    """The members of an answer's beginning, such as {"rating": "Match", "rationale": "; all must be strings."""
    for end in ("}", '"}'):
        with contextlib.suppress(ValueError):
            value = json.loads(answer + end)
            if isinstance(value, dict) and value and all(isinstance(each, str) for each in value.values()):
                return value
    raise EngineError("only answers that begin as a JSON object of texts can be scored by Ollama")


def _quoted(label: str) -> bytes:
    return json.dumps(label, ensure_ascii=False).encode()


def _decoded(pieces: Iterable[bytes]) -> str | None:
    """The text of some tokens; None where it begins or ends inside a character."""
    try:
        return b"".join(pieces).decode()
    except UnicodeDecodeError:
        return None
