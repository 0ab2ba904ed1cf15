"""A model set's members as one engine: each is asked in its own way, and the set's rule makes one rating of theirs.

A panel reads the bare record: what the members' templates make of it is each member's own business.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from ..engine.base import Engine, Generation, Message, Scores
from ..errors import EngineError
from ..modelset import build
from ..modelset.pool import combine
from ..modelset.records import TFIDF
from ..modelset.tfidf_classifier import TfidfClassifier
from ..predict.score import label_probabilities
from ..ratings.scale import RatingScale, answer_opening

LEAST = 1e-12  # a probability of 0 has no logarithm
NO_CONTEXT = 1 << 30  # tokens: words alone have no limit


def needs_panel(content: Mapping[str, Any]) -> bool:
    """Whether more than the base model has a say in a set."""
    return content["rule"]["members"] != [content["base_model"]] or content["tfidf"] is not None


def panel_models(content: Mapping[str, Any], *, all_members: bool) -> list[str]:
    """The language models to ask: those that the rule rates by, or every one, so that they can disagree."""
    rating = content["rule"]["members"]
    return [each["name"] for each in content["models"] if all_members or each["name"] in rating]


class Panel:
    """An Engine over the members of `content`; `engines` are the language models by name, and are the panel's to close.

    `votes()` tells each member's own label for the record that this thread has scored last.
    """

    name = "model set"
    folds_system = False

    def __init__(self, content: Mapping[str, Any], scale: RatingScale, engines: Mapping[str, Engine]) -> None:
        self._content, self._scale, self._engines = content, scale, dict(engines)
        self._words = TfidfClassifier(content["tfidf"], scale.labels) if content["tfidf"] is not None else None
        self._labels = {answer_opening(label): label for label in scale.labels}
        self._last = threading.local()
        self.context = min((engine.context for engine in engines.values()), default=NO_CONTEXT)
        self.slots = min((engine.slots for engine in engines.values()), default=1)
        self.file_bytes = sum(engine.file_bytes for engine in engines.values())
        rule = content["rule"]
        told = [f"rated by {' and '.join(rule['members'])}: {rule['reason']}"]
        self.notes = (*told, *(f"{name}: {note}" for name, engine in engines.items() for note in engine.notes))

    @property
    def talks(self) -> bool:
        """Whether a member can give a reason in words."""
        return bool(self._engines)

    def votes(self) -> dict[str, str]:
        return dict(self._last.votes)

    def render(self, messages: Sequence[Message]) -> str:
        return messages[-1]["content"]

    def score(self, prompt: str, answers: Sequence[str]) -> Scores:
        shares = {name: self._ask(name, engine, prompt) for name, engine in self._engines.items()}
        if self._words is not None:
            shares[TFIDF] = self._words.rate([prompt])[0]
        labels = self._scale.labels
        self._last.votes = {name: labels[each.index(max(each))] for name, each in shares.items()}
        by_label = dict(zip(labels, combine(self._content, shares), strict=True))
        return Scores(tuple(math.log(max(by_label[self._labels[answer]], LEAST)) for answer in answers), exact=True)

    def _ask(self, name: str, engine: Engine, prompt: str) -> tuple[float, ...]:
        rendered = engine.render(build.messages(self._content, prompt, name))
        return label_probabilities(engine, rendered, self._scale, name)

    def generate(self, prompt: str, *, schema: Mapping[str, Any] | None = None, max_tokens: int = 256) -> Generation:
        """The first language model's words after a record and the beginning of an answer to it."""
        opening = next((each for each in self._labels if prompt.endswith(each)), "")
        record = prompt.removesuffix(opening)
        for name, engine in self._engines.items():
            rendered = engine.render(build.messages(self._content, record, name))
            return engine.generate(rendered + opening, schema=schema, max_tokens=max_tokens)
        raise EngineError("this model set rates by TF-IDF alone, which gives no reasons")

    def tokenize(self, prompt: str) -> list[int]:
        raise EngineError("a model set's members have a tokenizer each")

    def count_tokens(self, prompt: str) -> int:
        return sum(
            engine.count_tokens(engine.render(build.messages(self._content, prompt, name)))
            for name, engine in self._engines.items()
        )

    def continuation(self, prompt: str, answer: str) -> list[int]:
        return self.tokenize(prompt)

    def turn_end(self) -> list[int]:
        return self.tokenize("")

    def describe(self) -> dict[str, Any]:
        members = {name: engine.describe() for name, engine in self._engines.items()}
        inexact = sum(int(each.get("inexact_scores") or 0) for each in members.values())
        return {
            "engine": self.name,
            "rule": dict(self._content["rule"]),
            "members": members,
            "tfidf": self._words is not None,
            **({"inexact_scores": inexact} if inexact else {}),
        }

    def close(self) -> None:
        for engine in self._engines.values():
            engine.close()
