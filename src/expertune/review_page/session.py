"""State of a running page: the source, the journal, and in memory what the journal holds, so that a key is fast.

All methods but `learn_forever` run in one thread, that of the server.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ..ratings.cells import identifier
from ..ratings.columns import PATIENT, find_column
from ..stats.intervals import Estimate
from . import marks
from .agreement import Agreement, agreements, sample_error
from .journal import Entry, PageJournal, Step
from .queue import differing, next_to_rate, to_revise
from .source import Final, Item, Source

LEARN_EVERY = 10  # ratings after which TF-IDF is fitted anew, or later:
LEARN_SHARE = 0.02  # of all ratings, since fewer change little, and a fit takes longer with each
LEARN_REST = 4  # times the seconds of a fit, before the next one: it takes a fifth of a core at most from the page
IDLE_SHARE = 20  # times the seconds that an agreement took, before it is computed anew
SHOWN_PAIRS = 6  # of experts, on the page: those with most records in common
View = str  # "rate" (or review) and "adjudicate": the two pages of a rater


class Status(NamedTuple):
    """Progress and agreement as every page shows them."""

    done: int = 0
    total: int = 0
    raters: Mapping[str, int] = Counter()
    agreements: tuple[Agreement, ...] = ()
    sample: Estimate | None = None
    sample_total: int = 0
    open_conflicts: int = 0


@dataclass(frozen=True)
class VotesByStep:
    """The ratings of each step: record → rater → value."""

    independent: dict[str, dict[int, int]] = field(default_factory=dict)
    revised: dict[str, dict[int, int]] = field(default_factory=dict)
    adjudicated: dict[str, dict[int, int]] = field(default_factory=dict)

    def at(self, step: Step) -> dict[str, dict[int, int]]:
        return getattr(self, step)


@dataclass
class Session:
    """`held` is the record that each rater sees on each view."""

    source: Source
    journal: PageJournal
    overlap: float = 0.2
    seed: int = 42
    names: dict[int, str] = field(default_factory=dict)
    votes: VotesByStep = field(default_factory=VotesByStep)
    held: dict[tuple[int, View], str] = field(default_factory=dict)
    model: marks.TextModel | None = None

    def __post_init__(self) -> None:
        self.items = {item.key: item for item in self.source.items}
        self.order = [item.key for item in self.source.items]
        if self.source.work == "rate":
            self.order = [self.order[place] for place in marks._shuffled(len(self.order), self.seed)]
        self.names = self.journal.raters()
        self.comments = self.journal.comments()
        self.entries: list[Entry] = []
        self._said: Counter[tuple[Step, int]] = Counter()  # ratings of each step and rater
        for entry in self.journal.ratings():
            if entry.record in self.items:
                self._add(entry)
        self.changes = self._learnt = 0
        self._agreed = (0.0, 0.0, -1, Status())
        self.learn = threading.Event()
        column = find_column(self.source.columns, PATIENT)
        self._patients = {key: patient for key, row in self.source.rows if (patient := identifier(row, column))}
        self._place = {item.key: at for at, item in enumerate(self.source.items)}
        self._ask_to_learn()

    # what a rater sees

    def join(self, name: str) -> int:
        rater = self.journal.join(name)
        self.names[rater] = name
        return rater

    def shown(self, rater: int, view: View) -> Item | None:
        """The record that a rater is to decide on, which stays the same until it is decided."""
        key = self.held.get((rater, view))
        if key is None:
            others = {key for (other, at), key in self.held.items() if other != rater and at == view}
            key = self._next(rater, view, others)
        if key is None:
            self.held.pop((rater, view), None)
            return None
        self.held[rater, view] = key
        return self.items[key]

    def _next(self, rater: int, view: View, others: set[str]) -> str | None:
        if view == "adjudicate":
            return next((key for key in self.conflicts() if key not in others), None)
        independent = self.votes.independent
        if self.source.work == "review" and (key := to_revise(independent, self.votes.revised, rater)):
            return key
        return next_to_rate(self.order, independent, rater, others, self.overlap)

    def revealed(self, rater: int, key: str) -> bool:
        """True where the rater has rated a record of a review, and now sees the model's view of it."""
        return self.source.work == "review" and rater in self.votes.independent.get(key, {})

    def step(self, rater: int, view: View, key: str) -> Step:
        if view == "adjudicate":
            return "adjudicated"
        return "revised" if self.revealed(rater, key) else "independent"

    # what a rater does

    def rate(self, rater: int, view: View, key: str, step: str, value: int) -> bool:
        """Keep a rating; False for one that does not fit what the rater sees (a page that is out of date)."""
        fits = self.held.get((rater, view)) == key and self.step(rater, view, key) == step
        if not fits or value not in self.source.scale.values:
            return False
        self._add(self.journal.rate(rater, self.step(rater, view, key), key, value))
        if self.step(rater, view, key) != "revised" or step == "revised":
            del self.held[rater, view]
        self.changes += 1
        news = self.changes - self._learnt
        if self.source.work == "rate" and news >= max(LEARN_EVERY, LEARN_SHARE * len(self.entries)):
            self._ask_to_learn()
        return True

    def undo(self, rater: int, view: View) -> Entry | None:
        """Take back the rater's last rating of this view and show its record again; None if there is none."""
        mine = (entry for entry in reversed(self.entries) if entry.rater == rater)
        last = next((each for each in mine if (each.step == "adjudicated") == (view == "adjudicate")), None)
        if last is None:
            return None
        self.journal.undo(last)
        self.entries.remove(last)
        self._said[last.step, last.rater] -= 1
        del self.votes.at(last.step)[last.record][rater]
        self.held[rater, view] = last.record
        self.changes += 1
        return last

    def comment(self, rater: int, key: str, text: str) -> None:
        if key in self.items and text != self.comments.get((rater, key), ""):
            self.journal.comment(rater, key, text)
            self.comments[rater, key] = text

    def _add(self, entry: Entry) -> None:
        self.entries.append(entry)
        self._said[entry.step, entry.rater] += 1
        self.votes.at(entry.step).setdefault(entry.record, {})[entry.rater] = entry.value

    # what the experts said

    def opinions(self, key: str) -> dict[str, int]:
        """Each expert's last word on a record, by name; also those that the file has."""
        own = {**self.votes.independent.get(key, {}), **self.votes.revised.get(key, {})}
        return {**self.items[key].given, **{self.names[rater]: value for rater, value in own.items()}}

    def conflicts(self) -> list[str]:
        keys = self.items if self.source.work == "adjudicate" else self.votes.independent
        return differing(((key, list(self.opinions(key).values())) for key in keys), self.votes.adjudicated)

    def _decided(self, key: str) -> int | None:
        return next(reversed(self.votes.adjudicated.get(key, {}).values()), None)

    def finals(self) -> dict[str, Final]:
        """What was decided: as adjudicated, else what all experts of a record say; those that differ are not here."""
        comments: dict[str, dict[str, None]] = {}
        for (_, key), text in self.comments.items():
            if text:
                comments.setdefault(key, {})[text] = None
        found = {}
        keys = self.items if self.source.work == "adjudicate" else self.votes.independent
        for key in keys:
            decided, own = self._decided(key), set(self.opinions(key).values())
            if decided is None and len(own) == 1:
                (decided,) = own
            if decided is not None:
                found[key] = Final(decided, " | ".join(comments.get(key, ())))
        return found

    def renew_agreement(self) -> None:
        """Compute the agreement that is shown, if it has changed: for a page that is opened. A key must not wait."""
        if self._agreed[2] != self.changes:
            start = time.monotonic()
            agreed = self._agreement(SHOWN_PAIRS)
            self._agreed = start, time.monotonic() - start, self.changes, agreed

    def status(self, *, exact: bool = False) -> Status:
        """Progress and agreement as they are shown: of many records the agreement is some seconds old.

        `exact`: as they are now, with the agreement of every pair of experts.
        """
        since, took, *_ = self._agreed
        if not exact and time.monotonic() - since > IDLE_SHARE * took:
            self.renew_agreement()
        agreed = self._agreement() if exact else self._agreed[-1]
        given, conflicts = self.source.work == "adjudicate", agreed.open_conflicts
        step: Step = "adjudicated" if given else "independent"
        decided = sum(map(bool, self.votes.at(step).values()))
        total = decided + conflicts if given else len(self.items)
        raters = {self.names[rater]: count for (at, rater), count in self._said.items() if count and at == step}
        return agreed._replace(done=decided, total=total, raters=raters)

    def _agreement(self, pairs: int | None = None) -> Status:
        independent = self.votes.independent
        named = [(self._group(key), self._named(own)) for key, own in independent.items() if len(own) > 1]
        if self.source.work == "adjudicate":
            named = [(self._group(key), item.given) for key, item in self.items.items()]
        sampled = [item for item in self.items.values() if item.opinion and item.opinion.sampled]
        said = [
            (self._model_value(item), self._named(independent.get(item.key, {})), self._decided(item.key))
            for item in sampled
        ]
        return Status(
            agreements=tuple(agreements(named, self.source.scale.values, pairs)),
            sample=sample_error(said),
            sample_total=len(sampled),
            open_conflicts=len(self.conflicts()),
        )

    def _group(self, key: str) -> tuple[str, str]:
        """Records of one patient are alike, which the interval of an agreement takes into account."""
        return ("patient", self._patients[key]) if key in self._patients else ("record", key)

    def _named(self, own: Mapping[int, int]) -> dict[str, int]:
        return {self.names[rater]: value for rater, value in own.items()}

    def _model_value(self, item: Item) -> int:
        scale = self.source.scale
        return scale.values[scale.labels.index(item.opinion.label if item.opinion else "")]

    # what is learnt of it

    def learn_forever(self) -> None:
        """Fit TF-IDF in the background: at the start, and whenever `learn` is set. Ends with the process."""
        texts = [item.text for item in self.source.items]
        features = marks.make_features(texts, self.source.known)
        if features is None:
            return
        keys = [item.key for item in self.source.items]
        if self.source.work == "rate":
            self.order = [keys[place] for place in marks.first_order(features, self.seed)]
        rest = 0.0
        while True:
            time.sleep(rest)
            self.learn.wait()
            self.learn.clear()
            start = time.monotonic()
            model = marks.fit(features, self._rated)
            if model is not None:
                self.model = model
                if self.source.work == "rate":
                    self.order = [keys[at] for at in marks.informative_order(model, self.seed)]
            rest = LEARN_REST * (time.monotonic() - start)

    def _ask_to_learn(self) -> None:
        """Hand what was decided to the thread that learns: it must not read what this one changes."""
        self._learnt = self.changes
        self._rated = {self._place[key]: final.value for key, final in self.finals().items()}
        self.learn.set()

    def marked(self, item: Item, value: int | None) -> list[marks.Piece]:
        """The item's text in parts, with what speaks most for a label, or for the label that TF-IDF gives."""
        model = self.model
        spans = model.driving(item.text, model.likeliest(item.text) if value is None else value) if model else []
        return marks.pieces(item.text, spans)
