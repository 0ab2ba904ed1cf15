"""The engine of `--engine torch`: our decoder scores the labels, many records in one pack, on a GPU where there is one.

llama.cpp renders and tokenises the prompts, on the file's mapped pages and with a small context; free answers, which
our decoder does not write, come from a second one with the whole context, opened for the first of them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from .config import Config, with_changes
from .engine.base import Engine, Generation, Scores, check_room
from .engine.base_model import Base
from .engine.chat_template import Renderer
from .engine.label_scoring import distinguishing
from .engine.llama_cpp.context import largest_context
from .engine.llama_cpp.engine import LlamaCppEngine
from .errors import EngineError, FineTuningNotSupportedError
from .gguf.read import GGUFFile, read_metadata
from .optional import require_torch
from .predict.score import Pass, Rated
from .predict.together import Together
from .ratings.scale import RatingScale
from .train.encode import Candidates, Row, Tokenized

NAME, AUTO, LLAMA_CPP = "torch", "auto", "llama.cpp"
TOKENIZER_CONTEXT = 256  # tokens: it evaluates none but the end of the turn
RECORDS, RECORDS_ON_CUDA = 16, 64  # computed at once


def open_engine(
    file: Path, config: Config, *, context: int, slots: int = 0, renderer: Renderer | None = None
) -> Engine:
    """Serve a file for rating with the engine of the settings; the arguments are those of LlamaCppEngine.

    Raises EngineError.
    """
    if config.engine == NAME:
        return TorchEngine(file, config, context=context, slots=slots, renderer=renderer)
    return LlamaCppEngine(file, context=context, slots=slots, threads=config.threads, renderer=renderer)


def rating_in_a_run(config: Config) -> Config:
    """The settings with which a run rates: "auto" is our decoder, the faster one, which reads all that can be tuned."""
    return with_changes(config, engine=NAME) if config.engine == AUTO else config


def open_base(base: Base, config: Config, *, context: int, file: Path | None = None) -> Engine:
    """Serve the base, or another `file` of its run, for rating; prompts are rendered as for the base."""
    return open_engine(file or base.path, config, context=context, renderer=base.renderer)


def check_readable(file: Path) -> None:
    """Raise EngineError, in one line, for a file that our decoder does not read."""
    from .model.arch import read_config

    try:
        with GGUFFile(file) as opened:
            read_config(opened)
    except FineTuningNotSupportedError as error:
        reason = str(error).partition(" (supported")[0].replace("cannot be tuned yet", "is not one that it reads")
        raise EngineError(f"--engine torch: {reason}; leave out --engine torch") from None


def rate_validation(file: Path, tokens: Tokenized) -> tuple[Pass, tuple[Rated, ...]]:
    """The validation records as a file rates them by words, timed, and by codes (empty without a code branch)."""
    from .model.load import load, place
    from .train.batches import rows_of_evaluation
    from .train.evaluate import evaluate

    config, rows, scale = tokens.plan.config, tokens.rows.dev, tokens.dataset.scale
    with GGUFFile(file) as opened:
        tunable = load(opened, config, place(opened, config))  # its adapter is fresh: it changes nothing
        start = time.perf_counter()
        found = evaluate(tunable, rows, tokens.candidates, batch_size=rows_of_evaluation(config))
        seconds = time.perf_counter() - start
    rated = rated_rows(found.log_probabilities_RK, rows, scale)
    prompt_tokens = sum(len(row.prompt) for row in rows)
    return Pass.of(rated, seconds, prompt_tokens), rated_rows(found.code_log_RK, rows, scale)


def rated_rows(log_RK: Any, rows: Sequence[Row], scale: RatingScale) -> tuple[Rated, ...]:
    """The rows with the labels' log-probabilities, a tensor; none for None."""
    if log_RK is None:
        return ()
    return tuple(Rated.of(row.id, shares, scale) for row, shares in zip(rows, log_RK.exp().tolist(), strict=True))


class _Asked(NamedTuple):
    prompt: Sequence[int]
    candidates: Candidates


class TorchEngine(LlamaCppEngine):
    """Scores labels with our decoder on the device and in the dtype of the settings; see LlamaCppEngine for the rest.

    Half of the `slots` are computed at once, while the others' prompts are written and tokenised.
    Raises EngineError for a file that our decoder does not read, or that cannot be served.
    """

    name = NAME

    def __init__(
        self, model: Path, config: Config, *, context: int = 0, slots: int = 0, renderer: Renderer | None = None
    ) -> None:
        require_torch("--engine torch")
        from .model.load import load, place

        check_readable(model)
        largest = largest_context(model, read_metadata(model))
        small = with_changes(config, rank=1, layers=1)  # a fresh adapter changes nothing
        with GGUFFile(model) as file:
            self._tunable = load(file, small, place(file, small))
        threads = self._tunable.placement.threads
        super().__init__(model, context=TOKENIZER_CONTEXT, threads=threads, renderer=renderer)
        self.context = min(context or largest, largest)
        self.slots = slots or 2 * (RECORDS_ON_CUDA if self._tunable.decoder.fills_rows else RECORDS)
        self.notes = (*self.notes, self._note())
        self._score = Together(self._score_records, -(-self.slots // 2))
        self._writer: LlamaCppEngine | None = None
        self._opening = Lock()

    def _note(self) -> str:
        placement = self._tunable.placement
        return f"rated by Expertune's own decoder on {placement.device} in {placement.precision}"

    def generate(self, prompt: str, *, max_tokens: int = 256) -> Generation:
        with self._opening:
            if self._writer is None:
                self._writer = LlamaCppEngine(self.model, context=self.context, threads=self.threads)
        return self._writer.generate(prompt, max_tokens=max_tokens)

    def score(self, prompt: str, answers: Sequence[str]) -> Scores:
        tokens, spelled = self.spelled(prompt, answers)
        begin, tails = distinguishing([[token for token, _ in answer] for answer in spelled])
        check_room(len(tokens) + len(begin) + max(map(len, tails), default=0), self.context)
        if not all(tails):
            return Scores((0.0,) * len(answers), exact=True)  # one answer, or the same one several times
        asked = _Asked(tokens, Candidates(tuple(begin), tuple(map(tuple, tails))))
        return Scores(self._score(asked), exact=True)

    def _score_records(self, some: Sequence[_Asked]) -> list[tuple[float, ...]]:
        from .train.evaluate import label_log_probs

        found: dict[int, tuple[float, ...]] = {}
        for candidates in {each.candidates for each in some}:  # mostly one: they depend on the prompt's last letters
            own = [at for at, each in enumerate(some) if each.candidates == candidates]
            try:
                scores_RK = label_log_probs(self._tunable.decoder, [some[at].prompt for at in own], candidates)
            except (RuntimeError, MemoryError) as error:
                line = str(error).partition("\n")[0][:200]
                raise EngineError(f"{self.model.name}: its scores could not be computed ({line})") from error
            found |= {at: tuple(scores) for at, scores in zip(own, scores_RK.tolist(), strict=True)}
        return [found[at] for at in range(len(some))]

    def describe(self) -> Mapping[str, object]:
        return {**super().describe(), **self._tunable.placement.describe()}

    def close(self) -> None:
        """Free the model; safe to call twice."""
        self._score.close()
        vars(self).pop("_tunable", None)  # the weights go now, not when the collector finds the cycle with `_score`
        super().close()
        if self._writer is not None:
            self._writer.close()
