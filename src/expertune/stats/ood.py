"""Out-of-distribution score of a record: the share of its character groups that no training row has.

Groups of five bytes of the folded text, hashed into a bit field (a Bloom filter with one hash; Bloom 1970). What more
than half of the training rows hold is the template and counts for nothing. Only bits are kept, never a text.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

GROUP = 5  # bytes
LEAST_BITS, MOST_BITS = 12, 18  # powers of two: 512 bytes to 32 KiB
BITS_PER_GROUP = 8  # of the field for each distinct group: one unseen group in eight seems seen
FLAGGED = 0.02  # share of rows like the validation rows that may be called novel
FACTOR = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio (Knuth, multiplicative hashing)


@dataclass(frozen=True)
class NoveltyDetector:
    """`seen` and `common` are bit fields of 2^`bits` bits in base64; a share above `threshold` is novel."""

    bits: int
    seen: str
    common: str
    threshold: float
    train_rows: int
    dev_rows: int

    @cached_property
    def _fields(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        seen, common = (
            np.unpackbits(np.frombuffer(base64.b64decode(each, validate=True), dtype=np.uint8)).astype(bool)
            for each in (self.seen, self.common)
        )
        if len(seen) != 1 << self.bits or len(common) != 1 << self.bits:
            raise ValueError("the bit fields have another size")
        return seen, common

    def share(self, text: str) -> float:
        """From 0 (nothing new) to 1."""
        seen, common = self._fields
        return _share(_places(text, self.bits), seen, common)

    def is_novel(self, text: str) -> bool:
        return self.share(text) > self.threshold


def fit_novelty_detector(train: Sequence[str], dev: Sequence[str]) -> NoveltyDetector | None:
    """None without training or validation rows."""
    if not train or not dev:
        return None
    bits = _size(train)
    held = np.zeros(1 << bits, dtype=np.int64)
    for text in train:
        held[_places(text, bits)] += 1
    seen, common = held > 0, held > len(train) / 2
    shares = sorted(_share(_places(text, bits), seen, common) for text in dev)
    rank = math.ceil((1 - FLAGGED) * (len(shares) + 1))
    threshold = shares[min(rank, len(shares)) - 1]
    return NoveltyDetector(bits, _packed(seen), _packed(common), float(threshold), len(train), len(dev))


def _size(train: Iterable[str]) -> int:
    seen = np.zeros(1 << 22, dtype=bool)
    for text in train:
        seen[_places(text, 22)] = True
    wanted = math.ceil(math.log2(max(1, int(seen.sum()) * BITS_PER_GROUP)))
    return min(max(wanted, LEAST_BITS), MOST_BITS)


def _places(text: str, bits: int) -> NDArray[np.uint64]:
    """The distinct places of a text's groups in a field of 2^bits."""
    folded = " ".join(text.casefold().split()).encode("utf-8", "surrogatepass")
    byte_T = np.frombuffer(folded.ljust(GROUP), dtype=np.uint8).astype(np.uint64)
    group_T = sum(byte_T[i : len(byte_T) - GROUP + 1 + i] << np.uint64(8 * i) for i in range(GROUP))
    return np.unique((np.asarray(group_T, dtype=np.uint64) * FACTOR) >> np.uint64(64 - bits))


def _share(places: NDArray[np.uint64], seen: NDArray[np.bool_], common: NDArray[np.bool_]) -> float:
    own = places[~common[places]]
    return float((~seen[own]).mean()) if len(own) else 0.0


def _packed(field: NDArray[np.bool_]) -> str:
    return base64.b64encode(np.packbits(field).tobytes()).decode("ascii")
