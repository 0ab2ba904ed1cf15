"""Is what Ollama serves under the new name, byte for byte and answer for answer, the file that was judged?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from ..engine.base import Message
from ..engine.ollama.engine import OllamaEngine
from ..errors import EngineError, RegistrationError
from ..gguf.read import GGUFFile
from ..predict.score import Rated
from ..ratings.scale import RatingScale, parse_answer
from ..ratings.schema import Example

TIE = 0.1  # two labels whose probabilities are closer than this may change places: servers round differently
LARGEST_GAP = 0.02  # mean difference of the probabilities between file and server


@dataclass(frozen=True)
class ServedAgreement:
    """How the registered model rated a sample of the held-out rows beside the file; shares of `rows`.

    `exact` rows were scored on the very tokens that the file was tuned on. `labels` and `probability_gap` are None
    where Ollama cannot score the labels (PartOfCharacterError): the file is not compared with itself.
    """

    rows: int
    exact: int
    labels: float | None
    probability_gap: float | None
    chat_labels: float
    ties: int


def check_bytes(served: str, blob: Path | None, file: Path, digest: str) -> str:
    """Whether it is the "same file", or only the "same tensors" in a file that Ollama wrote anew.

    `served` is the digest of what the server serves; `blob` is that file, None where it cannot be read here.
    Raises RegistrationError.
    """
    if served == digest:
        return "same file"
    if blob is None:
        raise RegistrationError(
            f"Ollama wrote the file anew ({served[:12]}… instead of {digest[:12]}…) and its own cannot be read here "
            "to compare the weights; nothing was registered"
        )
    if not _same_tensors(blob, file):
        raise RegistrationError(f"Ollama changed the weights on import ({blob}); nothing was registered")
    return "same tensors"


def _same_tensors(one: Path, other: Path) -> bool:
    with GGUFFile(one) as a, GGUFFile(other) as b:
        if a.tensors.keys() != b.tensors.keys():
            return False
        return all(
            a.tensors[name].type == b.tensors[name].type
            and a.tensors[name].shape == b.tensors[name].shape
            and np.array_equal(a.blocks(name), b.blocks(name))
            for name in a.tensors
        )


def sample(rows: Sequence[Example], count: int) -> list[Example]:
    """At most `count` rows, the labels in turn, in the order of the rows."""
    by_label: dict[str, list[Example]] = {}
    for row in rows:
        by_label.setdefault(row.label, []).append(row)
    in_turn = (row for row in chain.from_iterable(zip_longest(*by_label.values())) if row is not None)
    return [row for _, row in zip(range(count), in_turn, strict=False)]


def check_ratings(
    engine: OllamaEngine,
    rows: Sequence[Example],
    by_file: Sequence[Rated],
    by_server: Sequence[Rated],
    scale: RatingScale,
    schema: Mapping[str, Any],
) -> ServedAgreement:
    """Labels and probabilities of both, and what any client gets from /api/chat. Raises RegistrationError."""
    labels, gap = (None, None) if engine.scored_by_file else _compared(by_file, by_server)
    asked = [_chat_label(engine, row.messages, scale, schema) for row in rows]
    return ServedAgreement(
        rows=len(rows),
        exact=sum(each.exact for each in by_server) - engine.scored_by_file,
        labels=labels,
        probability_gap=gap,
        chat_labels=float(np.mean([label == each.label for label, each in zip(asked, by_server, strict=True)])),
        ties=sum(map(_tied, by_file)),
    )


def _compared(by_file: Sequence[Rated], by_server: Sequence[Rated]) -> tuple[float, float]:
    """Share of equal labels, and how far the probabilities are apart on average. Raises RegistrationError."""
    pairs = list(zip(by_file, by_server, strict=True))
    wrong = [one.id for one, other in pairs if one.label != other.label and not _tied(one)]
    gap = float(np.mean([np.abs(np.subtract(one.probabilities, other.probabilities)).mean() for one, other in pairs]))
    if wrong or gap > LARGEST_GAP:
        raise RegistrationError(
            f"in Ollama the model rates {len(wrong)} of {len(pairs)} held-out rows otherwise than the file did "
            f"(probabilities {gap:.3f} apart on average); nothing was registered"
        )
    return float(np.mean([one.label == other.label for one, other in pairs])), gap


def _tied(rated: Rated) -> bool:
    best, second = sorted(rated.probabilities, reverse=True)[:2]
    return best - second < TIE


def _chat_label(
    engine: OllamaEngine, messages: Sequence[Message], scale: RatingScale, schema: Mapping[str, Any]
) -> str | None:
    """What a plain client gets: the label of the answer to /api/chat with the answer's schema."""
    try:
        state, value, _ = parse_answer(engine.chat(messages, schema=schema).text, scale)
    except EngineError:
        return None
    return scale.labels[scale.values.index(value)] if state == "rated" and value is not None else None
