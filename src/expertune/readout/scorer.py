"""Rate new records with a readout: the engine writes and tokenises the prompts, our decoder gives the states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..engine.base import Engine
from ..errors import EngineError
from ..predict.score import LanguageModelScorer, Messages, Prediction
from ..predict.together import Together
from ..ratings.scale import RatingScale
from .classifier import ReadoutClassifier
from .record import ReadoutRecord
from .states import BaseStates

NAME = "readout"
AT_ONCE = 16  # records that are computed in one pack


class ReadoutScorer(LanguageModelScorer):
    """A Scorer whose threads share packs. Reasons are the base's."""

    def __init__(
        self, engine: Engine, messages: Messages, scale: RatingScale, readout: ReadoutRecord, base: BaseStates
    ) -> None:
        from ..model.states import SharedTokens  # imports torch

        super().__init__(engine, messages, scale)
        self._shared = SharedTokens(readout.shared_beginning, readout.shared_end)
        self.name, self.slots = NAME, AT_ONCE
        self._readout, self._base = ReadoutClassifier(readout), base
        self._rate = Together(self._rate_records, AT_ONCE)

    def score(self, record: str) -> Prediction:
        tokens = self._engine.tokenize(self.render(record))
        if len(tokens) > self._engine.context:
            raise EngineError(
                f"a prompt needs {len(tokens)} tokens but the context holds {self._engine.context}; "
                "shorten the row or raise the context"
            )
        found = self._rate((record, tokens))
        return Prediction(found, chosen=self._readout.choose(found))

    def _rate_records(self, some: Sequence[tuple[str, list[int]]]) -> Sequence[tuple[float, ...]]:
        try:
            states_NLPD = self._base.of([tokens for _, tokens in some], self._shared)
            return self._readout.predict(states_NLPD, [record for record, _ in some])
        except Exception as error:
            raise EngineError(f"the hidden states could not be computed ({type(error).__name__})") from None

    def describe(self) -> Mapping[str, object]:
        return {"engine": self.name, "tokens_by": self._engine.describe(), **self._base.placement}
