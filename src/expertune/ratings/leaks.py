"""Find prompts that give away their own rating or its rationale.

A label is also a word, so a prompt that contains one is no fault by itself. Each mention of a label or value has a
frame, the words next to it; a frame gives the rating away where its mentions agree with the ratings more often than
chance allows.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache

from .findings import Finding, Severity, finding_of
from .normalize import fold, specific_lines, words
from .scale import RatingScale
from .schema import Rating

NEARLY_ALL = 0.9  # share of the prompts with their own rating from which nothing can be learned but to copy it
_MOST = 0.5  # share from which the verdict says it
_RECENT_LINES = 4096
_NEAR = 40  # characters on either side of a label in which its neighbours are sought
_QUOTED_WORDS = 5  # a shorter rationale ("cough and fever") is likely to occur in any record
_CHANCE_STATED, _CHANCE_NAMED = 1e-3, 1e-6  # a frame of statements is sought, that of a label found among thousands
_NAMED_ROWS, _NAMED_AGREEMENT = 10, 0.95
_WHO = r"(?:expert|reviewer|rater|annotator|adjudicator|consensus|gold)"
_STATED = re.compile(
    rf"""(?:
      (?:^|[.;|{{,(\[<>])[\W_]{{0,20}}
      (?:(?:standardi[sz]ed|{_WHO}|human|true|final|correct|assigned|overall|adjudicated)(?:['’]?s)?[\s_]*)*
      (?:rating|label|rated|classification|ground[\s_]truth|answer)
    | (?<![^\W_]){_WHO}(?:['’]?s)?(?:[\s_]*\#?(?:\d+|[a-z]))?
      (?:[\s_]*(?:decision|verdict|judge?ment|opinion|assessment|call|vote|class|code|category|conclusion|standard))?
      (?:[\s_]*(?:says?|said|thinks?|finds?|found|chose|gave|marked|coded|rated|decided|voted)(?:\s+(?:that\s+)?(?:it|this))?)?
    )["'*\])]*\s*(?::|=|>|\bis\b|\bas\b|\s)\s*["'*]*
    (?=(?P<rating>[^\n]{{0,200}}))""",
    re.IGNORECASE | re.VERBOSE,
)
_STATING = (  # without one of these a line states nothing
    *("rating", "label", "rated", "classification", "truth", "answer"),
    *("expert", "reviewer", "rater", "annotator", "adjudicator", "consensus", "gold"),
)
_PIECE_END = re.compile(r"""[,;.("'}*<|]|\s[-–]\s|\s(?:because|since|as|due|per|by|for|with|on|at|and)\b""")
_WORD = re.compile(r"[^\W_]+")
_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_REASON = re.compile(r"\W*(?:\w+[ _])?(?:rationale|reason(?:ing)?|explanation|justification)[^\n:=]{0,20}[:=]", re.I)
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")  # scripts without blanks

Frames = Mapping[str, frozenset[int]]  # frame → values mentioned in it
STATED = "stated "  # begins the frames of statements


def prompt_leaks(ratings: Sequence[Rating], scale: RatingScale) -> Iterator[Finding]:
    """Yield findings about ratings and rationales in the prompts; lines that most rows contain (task, schema) are none.

    Time is linear in the text.
    """
    own = _frames_of(ratings, scale)
    telling = _telling(ratings, own)

    def shows(rating: Rating, frames: Frames, stated: bool) -> bool:
        return any(
            rating.value in values and frame in telling and frame.startswith(STATED) is stated
            for frame, values in frames.items()
        )

    stating = [rating for rating, frames in zip(ratings, own, strict=True) if shows(rating, frames, True)]
    known = {rating.id for rating in stating}
    naming = [
        rating
        for rating, frames in zip(ratings, own, strict=True)
        if rating.id not in known and shows(rating, frames, False)
    ]
    yield from finding_of(
        "rating_in_prompt",
        "error",
        stating,
        f"{{n}} prompts{_of_all(stating, ratings)} state their own rating; remove it, or the model learns to copy it",
    )
    severity: Severity = "error" if len(stating) + len(naming) >= NEARLY_ALL * len(ratings) else "warning"
    yield from finding_of(
        "label_in_prompt",
        severity,
        naming,
        f"{{n}} prompts{_of_all(naming, ratings)} name their own rating, where chance would let most name another; if "
        "it was written after the rating was known, remove it, or the model learns to copy it",
    )
    yield from _rationales(ratings)


def spoiled(findings: Sequence[Finding], rows: int) -> str:
    """Return the warning of the verdict where most prompts give their own rating away, else ""."""
    count = sum(each.count for each in findings if each.kind in ("rating_in_prompt", "label_in_prompt"))
    if not rows or count < _MOST * rows:
        return ""
    return (
        f"Warning: {count} of {rows} prompts ({count / rows:.0%}) contain their own rating, so these figures say "
        "nothing about new records; remove it and run again. "
    )


def _of_all(some: Sequence[Rating], ratings: Sequence[Rating]) -> str:
    share = len(some) / max(1, len(ratings))
    return f" ({share:.0%} of all)" if share >= _MOST else ""


# --- frames ---


def _frames_of(ratings: Sequence[Rating], scale: RatingScale) -> list[Frames]:
    """Find the values that each prompt mentions, by frame."""
    mentions = _mentions(scale)
    found = [
        [(line, of_line) for line in map(str.strip, rating.prompt.splitlines()) if (of_line := mentions(line))]
        for rating in ratings
    ]
    shared = _lines_of_other_classes(ratings, found)
    frames: list[Frames] = []
    for lines in found:
        values: dict[str, set[int]] = defaultdict(set)
        for line, of_line in lines:
            for frame, value in of_line:
                if (line, value) not in shared:
                    values[frame].add(value)
        frames.append({frame: frozenset(each) for frame, each in values.items()})
    return frames


Mentions = Sequence[tuple[str, int]]  # frame, value


def _lines_of_other_classes(
    ratings: Sequence[Rating], found: Sequence[Sequence[tuple[str, Mentions]]]
) -> set[tuple[str, int]]:
    """Find the (line, value) whose line is also in most rows of other values: task and schema, not a leak.

    A leaked "Rating: 1" may be in most rows, but hardly in those with another rating.
    """
    rows = Counter(rating.value for rating in ratings)
    counts_of: dict[str, Counter[int]] = defaultdict(Counter)
    for rating, lines in zip(ratings, found, strict=True):
        for line in {line for line, _ in lines}:
            counts_of[line][rating.value] += 1
    return {
        (line, value)
        for line, counts in counts_of.items()
        for value in rows
        if counts.total() - counts[value] > (rows.total() - rows[value]) / 2
    }


def _telling(ratings: Sequence[Rating], own: Sequence[Frames]) -> set[str]:
    """Find the frames whose mentions agree with the ratings: all of them, or more often than chance allows."""
    share = {value: count / len(ratings) for value, count in Counter(rating.value for rating in ratings).items()}
    mentions, agreeing, expected = Counter[str](), Counter[str](), defaultdict[str, float](float)
    for rating, frames in zip(ratings, own, strict=True):
        for frame, values in frames.items():
            mentions[frame] += 1
            agreeing[frame] += rating.value in values
            expected[frame] += sum(share.get(value, 0.0) for value in values)

    def agrees(frame: str) -> bool:
        count, hits = mentions[frame], agreeing[frame]
        chance = _chance(count, hits, expected[frame])
        if frame.startswith(STATED):
            return hits == count or chance < _CHANCE_STATED
        return count >= _NAMED_ROWS and hits >= _NAMED_AGREEMENT * count and chance < _CHANCE_NAMED

    return {frame for frame in mentions if agrees(frame)}


def _chance(count: int, hits: int, expected: float) -> float:
    """Upper bound of the probability of so many hits where `expected` are (Hoeffding 1963, theorem 1)."""
    share, by_chance = hits / count, min(1.0, expected / count)
    if share <= by_chance or by_chance == 1:
        return 1.0
    if by_chance == 0:
        return 0.0
    gain = share * math.log(share / by_chance)
    if share < 1:
        gain += (1 - share) * math.log((1 - share) / (1 - by_chance))
    return math.exp(-count * gain)


def _mentions(scale: RatingScale) -> Callable[[str], Mentions]:
    """Return the function that finds the mentions of values in a line."""
    phrases = sorted(scale.synonyms, key=len, reverse=True)  # "does not match" before "match"
    label = re.compile("|".join(map(_phrase, phrases)))
    longest = {max(phrase.split(), key=len) for phrase in phrases}
    needed = [word for word in longest if not any(other in word for other in longest - {word})]
    numbers = "|".join(str(value) for value in sorted(scale.values))
    after_key = re.compile(rf"[:=]\s?[\"'*(\[]{{0,3}}({numbers})(?![\d/%]|[.,:]\d)")

    @lru_cache(_RECENT_LINES)  # the task and the rating schema are in every prompt
    def find(line: str) -> Mentions:
        lower = line.casefold()
        found: list[tuple[str, int]] = []
        if any(word in lower for word in _STATING):
            found += _stated(line, scale)
        if any(word in lower for word in needed):
            found += _named(lower, label, scale)
        if ":" in line or "=" in line:
            for match in after_key.finditer(lower):
                found.append((f"key {(_WORD.findall(_before(lower, match)) or [''])[-1]}", int(match[1])))
        return tuple(found)

    return find


def _phrase(folded: str) -> str:
    """Return the pattern of a label in a line in lower case: its words with anything but letters between, whole."""
    parts = [re.escape(word).replace("doesnt", "doesn['’]?t") for word in folded.split()]
    signs = _UNSPACED.search(folded) or not all(word.isalnum() for word in folded.split())
    text = (r"[\W_]{0,9}" if signs else r"[\W_]{1,9}").join(parts)
    before = r"(?<![^\W_])" if folded[0].isalnum() and not _UNSPACED.match(folded[0]) else ""
    after = r"(?![^\W_])" if folded[-1].isalnum() and not _UNSPACED.match(folded[-1]) else ""
    return f"{before}{text}{after}"


def _named(line: str, label: re.Pattern[str], scale: RatingScale) -> Iterator[tuple[str, int]]:
    """Yield the labels in a line, each in the frames of its neighbours, of the line and of the prompt."""
    for match in label.finditer(line):
        value = scale.value_of(match[0])
        if value is None:
            continue
        before, after = _before(line, match), line[match.end() : match.end() + _NEAR]
        yield "prompt", value
        yield f"before {(_WORD.findall(before) or ['^'])[-1]}", value
        yield f"after {(_WORD.findall(after) or ['$'])[0]}", value
        if not _WORD.search(before + after):
            yield "line", value


def _before(line: str, match: re.Match[str]) -> str:
    return line[max(0, match.start() - _NEAR) : match.start()]


def _stated(line: str, scale: RatingScale) -> Iterator[tuple[str, int]]:
    """Yield the ratings that a line states, as "Rating: 1", "Expert: Match" or "label = Match, because …"."""
    for match in _STATED.finditer(line):
        rest = match["rating"]
        bare = re.sub(r"^(?:[-=]?>|[=→\s])+", "", rest)
        pieces = (rest, bare, *(_PIECE_END.split(each, maxsplit=1)[0] for each in (rest, bare)))
        frame = STATED + re.sub(r"\d+", "#", fold(match[0]))
        for value in {_value(piece, scale) for piece in pieces} - {None}:
            yield frame, value or 0


def _value(piece: str, scale: RatingScale) -> int | None:
    value = scale.value_of(piece)
    word = fold(piece)
    if value is None and word.removeprefix("minus ") in _NUMBER_WORDS:
        number = _NUMBER_WORDS.index(word.removeprefix("minus ")) * (-1 if word.startswith("minus ") else 1)
        return number if number in scale.values else None
    return value


# --- rationales ---


def _rationales(ratings: Sequence[Rating]) -> Iterator[Finding]:
    if not any(_may_quote(rating) for rating in ratings):
        return
    specific = specific_lines([rating.prompt for rating in ratings])
    quoted = [rating for rating, own in zip(ratings, specific, strict=True) if _quotes(own, rating.rationale)]
    yield from finding_of(
        "rationale_in_prompt",
        "warning",
        quoted,
        "{n} prompts contain their own rationale; remove it unless it is known when a new row is rated",
    )


def _may_quote(rating: Rating) -> bool:
    """Compare with all lines, of which those specific to the prompt are a part; most prompts lack a word at once."""
    prompt = rating.prompt.casefold()
    if prompt.isascii() and not all(word in prompt for word in _WORD.findall(rating.rationale.casefold())):
        return False
    return _quotes(rating.prompt.splitlines(), rating.rationale)


def _quotes(own_lines: Sequence[str], rationale: str) -> bool:
    """Find the rationale among the lines: any long one, and a short one in a line that is called a rationale."""
    sought = words(rationale)
    if not sought:
        return False
    if len(sought) < _QUOTED_WORDS:
        own_lines = [line for line in own_lines if _REASON.match(line)]
    text = " ".join(word for line in own_lines for word in words(line))
    return f" {' '.join(sought)} " in f" {text} "
