"""Find prompts that are the same text, and prompts that are nearly the same.

Records of one template are similar although they are different patients, so a plain string distance is not enough: of
the 950 visits of a real triage set (Moon et al. 2019, tests/data/ratings) 720 pairs are 90 % similar in their own
lines, and four are true repeats.
What distinguishes patients is their numbers (age, vital signs). Hence three kinds of near-duplicates:

* visit: five or more numbers, the same in the same order, and words that differ at most twice as much as asked
* short: the same words in any order, except for one misspelt word
* long:  twenty words or more that are as similar as asked, with the same share of numbers in common

Only the lines specific to a prompt are compared, and words that most prompts contain do not count.
"""

from __future__ import annotations

import hashlib
import random
import zlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, pairwise, repeat
from typing import TYPE_CHECKING

from .normalize import NumberedLines, number_lines, specific_numbers, words
from .schema import Rating, UnratedRecord, id_order

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_VISIT_NUMBERS = 5
_LONG_WORDS = 20
_TYPO_LETTERS = 5  # "rt" and "lt" are one letter apart and not a misspelling
_BANDS, _ROWS = 32, 4  # MinHash: finds 87 % of the pairs that share half of their word pairs, all that share 0.7
_DEPTH = 4  # bands that divide a large bucket before only neighbours are compared
_LARGE, _NEXT = 64, 8
_PRIME = 2**31 - 1


@dataclass(frozen=True)
class Duplicates:
    """Repeated and nearly repeated prompts of a list of ratings, as positions in that list.

    `same`: groups of two or more prompts with the same words in the same order.
    `near`: pairs (i < j) of prompts that are not the same but nearly. Not every pair of a large cluster is listed, but
    the pairs connect it. Of a group in `same` only one member is compared.
    """

    same: tuple[tuple[int, ...], ...]
    near: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class _Text:
    """The specific part of a prompt: its tokens, the number of its words that are not common, and such numbers."""

    tokens: tuple[str, ...]
    word_count: int
    numbers: tuple[str, ...]

    @property
    def own(self) -> str:
        return " ".join(self.tokens)


def find_duplicates(ratings: Sequence[Rating | UnratedRecord], threshold: float) -> Duplicates:
    """Compare the prompts of all ratings; near-duplicates are at least `threshold` (0 to 1) similar.

    The result is the same for the same ids and texts in any order.
    """
    order = sorted(range(len(ratings)), key=lambda i: id_order(ratings[i].id))
    lines = number_lines(ratings[i].prompt for i in order)
    same = _grouped((_tokens(own, lines) or ratings[i].prompt for i, own in zip(order, lines.of_prompt, strict=True)))
    near = [(order[i], order[j]) for i, j in _near_pairs(lines, same, threshold)]
    return Duplicates(
        same=tuple(sorted(tuple(sorted(order[i] for i in places)) for places in same)),
        near=tuple(sorted((min(pair), max(pair)) for pair in near)),
    )


def same_texts(prompts: Sequence[str]) -> list[list[int]]:
    """Group the positions of prompts with the same words in the same order; only groups of two or more."""
    return _grouped(" ".join(words(prompt)) or prompt for prompt in prompts)


def _grouped(keys: Iterable[object]) -> list[list[int]]:
    return list(_buckets((key, i) for i, key in enumerate(keys)))


def _tokens(numbers: Iterable[int], lines: NumberedLines) -> tuple[str, ...]:
    return tuple(chain.from_iterable(lines.words[number] for number in numbers))


def _near_pairs(lines: NumberedLines, same: Sequence[Sequence[int]], threshold: float) -> list[tuple[int, int]]:
    repeats = {i for indices in same for i in indices[1:]}
    places = [i for i in range(len(lines.of_prompt)) if i not in repeats]
    specific = specific_numbers([lines.of_prompt[i] for i in places])
    texts = _own_texts([_tokens(own, lines) for own in specific])
    hashes = _bag_hashes(texts)
    found = {
        *_same_bags(texts, hashes),
        *_visits(texts, threshold),
        *_misspelt(texts, hashes),
        *_long(texts, threshold),
    }
    return sorted((places[i], places[j]) for i, j in found)


def _own_texts(tokens: Sequence[tuple[str, ...]]) -> list[_Text]:
    frequency = Counter(chain.from_iterable(map(set, tokens)))
    rare = [token for token, count in frequency.items() if count <= len(tokens) / 2]
    is_number = frozenset(filter(_is_number, rare)).__contains__
    is_word = frozenset(token for token in rare if not _is_number(token)).__contains__
    return [_Text(own, sum(map(is_word, own)), tuple(filter(is_number, own))) for own in tokens]


def _is_number(token: str) -> bool:
    return token[0].isdigit()


def _buckets(keys: Iterable[tuple[object, int]]) -> Iterator[list[int]]:
    places: dict[object, list[int]] = defaultdict(list)
    for key, i in keys:
        places[key].append(i)
    return (indices for indices in places.values() if len(indices) > 1)


def _bag_hashes(texts: Sequence[_Text]) -> list[int]:
    """Sum of the 64-bit hashes of each text's tokens: the same in any order, and easy to take a token from."""
    hash_of = {token: _hash(token) for token in _vocabulary(texts)}
    return [sum(map(hash_of.__getitem__, text.tokens)) for text in texts]


def _vocabulary(texts: Sequence[_Text]) -> set[str]:
    return set(chain.from_iterable(text.tokens for text in texts))


def _hash(token: str) -> int:
    return int.from_bytes(hashlib.blake2b(token.encode(errors="surrogatepass"), digest_size=8).digest(), "big")


def _same_bags(texts: Sequence[_Text], hashes: Sequence[int]) -> Iterator[tuple[int, int]]:
    for alike in _buckets((own, i) for i, own in enumerate(hashes)):
        for indices in _buckets((tuple(sorted(texts[i].tokens)), i) for i in alike):
            yield from ((indices[0], i) for i in indices[1:])


def _visits(texts: Sequence[_Text], threshold: float) -> Iterator[tuple[int, int]]:
    from rapidfuzz import fuzz

    least = 100 * max(0.0, 1 - 2 * (1 - threshold))
    for indices in _buckets((text.numbers, i) for i, text in enumerate(texts) if len(text.numbers) >= _VISIT_NUMBERS):
        for i, j in _pairs_with_numbers(indices, texts):
            if fuzz.ratio(texts[i].own, texts[j].own, score_cutoff=least) >= least:
                yield i, j


def _pairs_with_numbers(indices: Sequence[int], texts: Sequence[_Text]) -> Iterator[tuple[int, int]]:
    """All pairs of texts with the same numbers; of very many (one hospital's phone number) those alike in words."""
    if len(indices) <= _LARGE:
        return combinations(indices, 2)
    buckets = _minhash_buckets([texts[i].tokens for i in indices])
    return iter({(indices[a], indices[b]) for bucket in buckets for a, b in _worth_comparing(bucket)})


def _misspelt(texts: Sequence[_Text], hashes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Put short texts into buckets by their words without one; in a bucket, compare the words that were left out."""
    from rapidfuzz.distance import OSA

    for indices in _without_one(texts, hashes):
        left_out: dict[str, int] = {}
        for i, word in indices:
            left_out.setdefault(word, i)
        for word, other in _alike_words(left_out):
            if abs(len(word) - len(other)) <= 1 and OSA.distance(word, other, score_cutoff=1) <= 1:
                i, j = left_out[word], left_out[other]
                yield min(i, j), max(i, j)


def _without_one(texts: Sequence[_Text], hashes: Sequence[int]) -> Iterator[list[tuple[int, str]]]:
    """Yield buckets of (text, word) whose texts are equal without the word, by the hash of the other words."""
    import numpy as np

    candidates = sorted(word for word in _vocabulary(texts) if len(word) >= _TYPO_LETTERS and word.isalpha())
    code_of = {word: code for code, word in enumerate(candidates)}
    text_of_pair, code_of_pair = array("q"), array("q")  # P pair of a text and one of its words
    for i, text in enumerate(texts):
        if text.word_count < _LONG_WORDS and len(text.tokens) > 1:
            codes = {code_of[token] for token in text.tokens if token in code_of}
            text_of_pair.extend(repeat(i, len(codes)))
            code_of_pair.extend(codes)
    text_P, code_P = np.asarray(text_of_pair), np.asarray(code_of_pair)
    hash_W = np.array([_hash(word) for word in candidates], dtype=np.uint64)
    hash_N = np.array([own % 2**64 for own in hashes], dtype=np.uint64)
    rest_P = hash_N[text_P] - hash_W[code_P]
    for places in _equal_rows(rest_P[:, None]):
        yield [(int(text_P[at]), candidates[code_P[at]]) for at in places]


def _equal_rows(key_NK: NDArray[np.uint64]) -> Iterator[NDArray[np.intp]]:
    """Yield the positions of each key that occurs more than once, in ascending order."""
    import numpy as np

    order_N = np.lexsort(key_NK.T)
    sorted_NK = key_NK[order_N]
    is_new_N = np.ones(len(order_N), dtype=bool)
    is_new_N[1:] = (sorted_NK[1:] != sorted_NK[:-1]).any(axis=1)
    starts = np.flatnonzero(is_new_N)
    sizes = np.diff(starts, append=len(order_N))
    for start, size in zip(starts[sizes > 1], sizes[sizes > 1], strict=True):
        yield order_N[start : start + size]


def _alike_words(left_out: Iterable[str]) -> Iterator[tuple[str, str]]:
    """All pairs of words; of very many, those that are equal without one letter (symmetric deletion, Garbe 2012)."""
    words = list(left_out)
    if len(words) <= _LARGE:
        return combinations(words, 2)
    shorter = ((word[:at] + word[at + 1 :], i) for i, word in enumerate(words) for at in range(len(word)))
    buckets = _buckets((*shorter, *((word, i) for i, word in enumerate(words))))
    return ((words[i], words[j]) for bucket in buckets for i, j in combinations(dict.fromkeys(bucket), 2))


def _long(texts: Sequence[_Text], threshold: float) -> Iterator[tuple[int, int]]:
    from rapidfuzz import fuzz

    indices = [i for i, text in enumerate(texts) if text.word_count >= _LONG_WORDS]
    long = [texts[i].own for i in indices]
    numbers = [_as_set(texts[i].numbers) for i in indices]
    seen: set[tuple[int, int]] = set()
    for bucket in _minhash_buckets([texts[i].tokens for i in indices]):
        for a, b in _worth_comparing(bucket):
            # most pairs of one template differ in their numbers, which is quickly seen
            if _share(numbers[a], numbers[b]) >= threshold and (a, b) not in seen:
                seen.add((a, b))
                if fuzz.ratio(long[a], long[b], score_cutoff=100 * threshold) >= 100 * threshold:
                    yield indices[a], indices[b]


def _as_set(numbers: Sequence[str]) -> frozenset[tuple[str, int]]:
    """Number the repetitions, so that sets of numbers count them."""
    return frozenset((number, at) for number, count in Counter(numbers).items() for at in range(count))


def _share(numbers: frozenset[tuple[str, int]], others: frozenset[tuple[str, int]]) -> float:
    """Share of the numbers of both that they have in common (multiset Jaccard index); 1 if neither has any."""
    common = len(numbers & others)
    total = len(numbers) + len(others) - common
    return common / total if total else 1.0


def _minhash_buckets(token_lists: Sequence[Sequence[str]]) -> Iterator[list[int]]:
    """Yield buckets of texts that probably share word pairs (Broder 1997; bands: Leskovec et al., MMDS chapter 3)."""
    import numpy as np

    draw = random.Random(0)  # fixed: the buckets must not depend on a run
    factor_H = np.array([draw.randrange(1, _PRIME) for _ in range(_BANDS * _ROWS)], dtype=np.uint64)
    offset_H = np.array([draw.randrange(_PRIME) for _ in range(_BANDS * _ROWS)], dtype=np.uint64)
    vocabulary = {token: token.encode() for token in {*chain.from_iterable(token_lists)}}
    first = {token: zlib.crc32(text + b" ") for token, text in vocabulary.items()}
    signature_NH = np.empty((len(token_lists), _BANDS * _ROWS), dtype=np.uint32)
    for i, tokens in enumerate(token_lists):
        # of "word word", begun with the first
        hash_P = np.array([zlib.crc32(vocabulary[b], first[a]) for a, b in pairwise(tokens)], dtype=np.uint64)
        signature_NH[i] = _remainder(hash_P[:, None] * factor_H + offset_H).min(axis=0)
    for band in range(_BANDS):
        bands = [slice(part % _BANDS * _ROWS, (part % _BANDS + 1) * _ROWS) for part in range(band, band + _DEPTH)]
        yield from _refined(np.arange(len(signature_NH)), signature_NH, bands)


def _remainder(number: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the numbers modulo the Mersenne prime 2^31 - 1, without a division: 2^31 is 1 modulo it."""
    import numpy as np

    prime = np.uint64(_PRIME)
    for _ in range(2):
        number = (number & prime) + (number >> np.uint64(31))
    return number % prime if number.max() >= prime else number


def _refined(
    index_N: NDArray[np.intp], signature_NH: NDArray[np.uint32], bands: Sequence[slice]
) -> Iterator[list[int]]:
    """Yield buckets by the first band; divide those too large to compare pair by pair by the next bands too."""
    import numpy as np

    for places in _equal_rows(np.ascontiguousarray(signature_NH[index_N, bands[0]]).view(np.uint64)):
        bucket_N = index_N[places]
        if len(bucket_N) > _LARGE and len(bands) > 1:
            yield from _refined(bucket_N, signature_NH, bands[1:])
        else:
            yield bucket_N.tolist()


def _worth_comparing(bucket: Sequence[int]) -> Iterator[tuple[int, int]]:
    """All pairs of a bucket; in one that stays large (many copies of a text) each text with the next few."""
    if len(bucket) <= _LARGE:
        return combinations(bucket, 2)
    return ((i, j) for place, i in enumerate(bucket) for j in bucket[place + 1 : place + 1 + _NEXT])
