"""Rate new records with a readout: the engine writes and tokenises the prompts, our decoder gives the states."""

from __future__ import annotations

from concurrent.futures import Future
from threading import Lock
from typing import Any

from ..engine.base import Engine
from ..errors import EngineError
from ..predict.score import LanguageModelScorer, Messages, Prediction
from ..ratings.scale import RatingScale
from .record import ReadoutRecord
from .states import BaseStates

NAME = "readout"
AT_ONCE = 16  # records that wait for each other and are computed in one pack


class ReadoutScorer(LanguageModelScorer):
    """A Scorer whose threads share packs: who comes first computes all records that wait. Reasons are the base's."""

    def __init__(
        self, engine: Engine, messages: Messages, scale: RatingScale, readout: ReadoutRecord, base: BaseStates
    ) -> None:
        super().__init__(engine, messages, scale)
        self.name, self.slots = NAME, AT_ONCE
        self._readout, self._base = readout, base
        self._waiting: list[tuple[str, list[int], Future[tuple[float, ...]]]] = []
        self._adding, self._computing = Lock(), Lock()

    def score(self, record: str) -> Prediction:
        tokens = self._engine.tokenize(self.render(record))
        if len(tokens) > self._engine.context:
            raise EngineError(
                f"a prompt needs {len(tokens)} tokens but the context holds {self._engine.context}; "
                "shorten the row or raise the context"
            )
        found: Future[tuple[float, ...]] = Future()
        with self._adding:
            self._waiting.append((record, tokens, found))
        with self._computing:
            if not found.done():
                self._rate_waiting()
        return Prediction(found.result())

    def _rate_waiting(self) -> None:
        with self._adding:
            waiting, self._waiting = self._waiting, []
        try:
            states_NLPD = self._base.of([tokens for _, tokens, _ in waiting], self._readout.states.shared_tokens)
            rated = self._readout.predict(states_NLPD[:, 0], [record for record, _, _ in waiting])
        except Exception as error:
            for _, _, found in waiting:
                found.set_exception(EngineError(f"the hidden states could not be computed ({type(error).__name__})"))
            return
        for (_, _, found), shares in zip(waiting, rated, strict=True):
            found.set_result(shares)

    def describe(self) -> dict[str, Any]:
        return {"engine": self.name, "tokens_by": self._engine.describe(), **self._base.placement}
