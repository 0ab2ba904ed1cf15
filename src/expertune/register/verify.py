"""Verify that Ollama serves the evaluated file: same bytes, same ratings."""

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
from ..export.agreement import Noise
from ..gguf.read import GGUFFile
from ..predict.score import Rated
from ..ratings.scale import RatingScale, parse_answer
from ..ratings.schema import Example
from ..record.registration import ServedAgreement

TIE = 0.1  # labels whose probabilities are closer than this may change places, since servers round differently
LARGEST_GAP = 0.02  # mean difference of the probabilities between file and server
FACTOR = 2  # both servers round (√2 of the noise), and the sample is small


@dataclass(frozen=True)
class Tolerance:
    """Differences between file and server that rounding explains: of a clear margin, and of the mean probability."""

    tie: float = TIE
    gap: float = LARGEST_GAP

    @classmethod
    def of(cls, noise: Noise | None) -> Tolerance:
        """From the noise that the run measured, if it did."""
        return cls() if noise is None else cls(max(TIE, noise.margin), max(LARGEST_GAP, FACTOR * noise.mean))


def check_bytes(served: str, blob: Path | None, file: Path, digest: str) -> str:
    """Return "same file", or "same tensors" if Ollama rewrote the file with equal tensors.

    `served` is the digest of the server's blob; `blob` is its path, None if it cannot be read here.
    Raises RegistrationError if the weights differ or cannot be compared.
    """
    if served == digest:
        return "same file"
    if blob is None:
        raise RegistrationError(
            f"Ollama rewrote the file ({served[:12]}… instead of {digest[:12]}…), and its copy cannot be read here "
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
    """Choose at most `count` rows, the labels in turn, in the order of the rows."""
    by_label: dict[str, list[Example]] = {}
    for row in rows:
        by_label.setdefault(row.label, []).append(row)
    in_turn = (row for row in chain.from_iterable(zip_longest(*by_label.values())) if row is not None)
    return [row for _, row in zip(range(count), in_turn, strict=False)]


def check_ratings(
    engine: OllamaEngine,
    rows: Sequence[Example],
    by_file: Sequence[Rated],
    by_server: Sequence[Rated] | None,
    scale: RatingScale,
    schema: Mapping[str, Any],
    tolerance: Tolerance,
) -> ServedAgreement:
    """Compare labels and probabilities of file and server, and the labels of a plain /api/chat.

    `by_server` is None if Ollama cannot score the labels. Raises RegistrationError if the ratings differ.
    """
    labels, gap = (None, None) if by_server is None else compared(by_file, by_server, tolerance)
    rated = by_file if by_server is None else by_server
    chat_labels = [_chat_label(engine, row.messages, scale, schema) for row in rows]
    return ServedAgreement(
        rows=len(rows),
        exact=0 if by_server is None else sum(each.exact for each in by_server),
        labels=labels,
        probability_gap=gap,
        chat_labels=float(np.mean([label == each.label for label, each in zip(chat_labels, rated, strict=True)])),
        ties=sum(_tied(each, tolerance) for each in by_file),
    )


def compared(by_file: Sequence[Rated], by_server: Sequence[Rated], tolerance: Tolerance) -> tuple[float, float | None]:
    """Share of equal labels, and mean difference of the probabilities. Raises RegistrationError.

    Approximate probabilities (`exact` is False) count by their label alone: they differ by how they were found. None
    where all are.
    """
    pairs = list(zip(by_file, by_server, strict=True))
    exact = [(one, other) for one, other in pairs if other.exact]
    wrong = [one.id for one, other in pairs if one.label != other.label and not _tied(one, tolerance)]
    gaps = [np.abs(np.subtract(one.probabilities, other.probabilities)).mean() for one, other in exact]
    gap = float(np.mean(gaps)) if gaps else None
    if wrong or (gap is not None and gap > tolerance.gap):
        shown = f" (probabilities differ by {gap:.3f} on average)" if gap is not None else ""
        raise RegistrationError(
            f"in Ollama the model gives another label than the file for {len(wrong)} of {len(pairs)} test records"
            f"{shown}; nothing was registered"
        )
    return float(np.mean([one.label == other.label for one, other in pairs])), gap


def _tied(rated: Rated, tolerance: Tolerance) -> bool:
    best, second = sorted(rated.probabilities, reverse=True)[:2]
    return best - second < tolerance.tie


def _chat_label(
    engine: OllamaEngine, messages: Sequence[Message], scale: RatingScale, schema: Mapping[str, Any]
) -> str | None:
    """Label of the answer to a plain /api/chat with the answer's schema."""
    try:
        state, value, _ = parse_answer(engine.chat(messages, schema=schema).text, scale)
    except EngineError:
        return None
    return scale.labels[scale.values.index(value)] if state == "rated" and value is not None else None
