"""The embedded engine: llama.cpp in this process, from the xllamacpp wheel. Nothing leaves the machine."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from ...errors import EngineError, ModelFileError
from ...gguf.read import read_metadata, why_not_generative
from ...machine import usable_cores
from ..answers import Answer, Completion, Properties
from ..base import Generation, Message, Scores, check_room
from ..chat_template import Renderer, after_turn, answer_lead, checked, fold_system, remarks, shows_system, switches
from ..decision import ROUTE, Decision, Question, read_decision
from ..label_scoring import Walking, distinguishing, sum_log_probs
from ..next_tokens import FORCE, NextTokens
from .context import largest_context
from .server import EmbeddedServer, Launch
from .tokens import Tokenizer
from .trial import check_runs

Kind = TypeVar("Kind", bound=Answer)


class LlamaCppEngine:
    """Serves one GGUF, optionally with a LoRA adapter; a context manager.

    `context` is the tokens that one request may hold (0, and at most: largest_context; mind the memory);
    `threads` None is every core. `slots` 0 is one: measured on two cores, more slots rated no more rows a second, and
    with one the figures do not depend on which requests happened to be computed together. `renderer` writes the
    prompts in place of the file's own template: what the server that serves the model makes of messages.
    Raises EngineError in one line where the files cannot be served.
    """

    name = "llama.cpp"

    def __init__(
        self,
        model: Path,
        *,
        adapter: Path | None = None,
        context: int = 0,
        slots: int = 0,
        threads: int | None = None,
        renderer: Renderer | None = None,
    ) -> None:
        try:
            metadata = read_metadata(model)
            if kind := why_not_generative(metadata):
                raise EngineError(f"{model}: is {kind}, which cannot rate; choose a chat model")
            largest = largest_context(model, metadata)
            check_runs(model, min(context or largest, largest))
            if adapter is not None:
                read_metadata(adapter)
        except ModelFileError as error:
            raise EngineError(str(error)) from error
        self.model, self.adapter = model, adapter
        self.file_bytes = model.stat().st_size
        self.context = min(context or largest, largest)
        self.slots = slots or 1
        self.threads = threads or usable_cores()
        launch = Launch(str(model), str(adapter or ""), self.context, self.slots, self.threads)
        self._server = EmbeddedServer(launch)
        self._free: queue.LifoQueue[int] = queue.LifoQueue()  # last in, first out: its prefix is the likeliest to fit
        for slot in range(self.slots):
            self._free.put(slot)
        self._tokens = Tokenizer(self._server.ask)
        template = str(metadata.get("tokenizer.chat_template", ""))
        self._switches = switches(template)
        self._renderer = renderer
        self.folds_system = renderer.folds_system if renderer is not None else not self._renders_system()
        self._lead = renderer.lead if renderer is not None else answer_lead(self._render)
        self.notes = self._notes(bool(template))
        self._walking = Walking()  # replaced after each row
        self._unlisted: set[int] = set()

    # --- rendering and tokens ---

    def render(self, messages: Sequence[Message]) -> str:
        if self._renderer is not None:
            return checked(self._renderer(messages), messages)
        prompt = self._render(fold_system(messages) if self.folds_system else messages)
        return checked(prompt, messages) + self._lead

    def tokenize(self, prompt: str) -> list[int]:
        return [token for token, _ in self._tokens(prompt, begin=True, special=True)]

    def count_tokens(self, prompt: str) -> int:
        return len(self.tokenize(prompt))

    def with_begin(self, prompt: str) -> str | None:
        """The prompt with BOS written out, for a server that adds none; None where no such text has its tokens."""
        wanted = self.tokenize(prompt)
        for text in (prompt, self._properties.bos_token + prompt):
            if [token for token, _ in self._tokens(text, begin=False, special=True)] == wanted:
                return text
        return None

    def continuation(self, prompt: str, answer: str) -> list[int]:
        return [token for token, _ in self.spelled(prompt, [answer])[1][0]]

    def spelled(self, prompt: str, answers: Sequence[str]) -> tuple[list[int], list[list[tuple[int, bytes]]]]:
        """Token ids of the prompt, and each answer's `continuation` with the bytes that each token stands for."""
        return self._tokens.spelled(prompt, answers)

    def turn_end(self) -> list[int]:
        return [self._turn_end]

    @cached_property
    def _turn_end(self) -> int:
        after = self._tokens(after_turn(self.render, self.model.name), begin=False, special=True)
        return after[0][0] if after and self._ends_generation(after[0][0]) else self._eos()

    @cached_property
    def _properties(self) -> Properties:
        return Properties.model_validate(self._server.ask("/props"))

    def _render(self, messages: Sequence[Message]) -> str:
        body = {"messages": [dict(message) for message in messages], "chat_template_kwargs": self._switches}
        return self._server.ask("/apply-template", body)["prompt"]

    def _renders_system(self) -> bool:
        return self._properties.chat_template_caps.supports_system_role and shows_system(self._render)

    def _notes(self, has_template: bool) -> tuple[str, ...]:
        bare = f"{self.model.name} has no chat template: messages are written as ChatML"
        missing = () if has_template or self._renderer is not None else (bare,)
        return (*missing, *remarks(self.render, self._lead, folds_system=self.folds_system))

    def _ends_generation(self, token: int) -> bool:
        body = {"prompt": [token], "n_predict": 1, "temperature": 0, "logit_bias": [[token, FORCE]]}
        return self._complete(body, Completion).stop_type == "eos"

    def _eos(self) -> int:
        tokens = self._tokens(self._properties.eos_token, begin=False, special=True)
        if len(tokens) != 1:
            raise EngineError(f"{self.model.name}: the file names no end-of-sequence token; choose a chat model")
        return tokens[0][0]

    # --- scores and answers ---

    def score(self, prompt: str, answers: Sequence[str]) -> Scores:
        prompt_ids, spelled = self.spelled(prompt, answers)
        begin, tails = distinguishing([[token for token, _ in answer] for answer in spelled])
        start = prompt_ids + begin
        codes = [tail[0] for tail in tails] if all(len(tail) == 1 for tail in tails) else []
        check_room(len(start) + max((len(tail) for tail in tails), default=0), self.context)
        with self._slot() as slot:  # all on one slot: the prompt is computed once and then comes from its cache
            following = NextTokens(self._complete, start, slot, stand_in=self._newline, unlisted=self._unlisted)
            if codes and (found := following.alike(codes)):
                return Scores(tuple(found[code] for code in codes), exact=True)
            walk = following.walk if self._walking.allowed else None
            summed = sum_log_probs(tails, walk, following.forced)
        self._walking = self._walking.after_row(tails, summed.questions)
        return Scores(summed.log_probs, exact=True)

    @cached_property
    def _newline(self) -> int:
        return self._tokens("\n", begin=False, special=False)[-1][0]

    def generate(self, prompt: str, *, max_tokens: int = 256) -> Generation:
        tokens = self.tokenize(prompt)
        check_room(len(tokens) + 1, self.context)
        body = {"prompt": tokens, "n_predict": max_tokens, "temperature": 0, "cache_prompt": True}
        with self._slot() as slot:
            answer = self._complete({**body, "id_slot": slot}, Completion)
        return Generation(answer.content, len(tokens), answer.tokens_predicted, answer.stop_type != "limit")

    def decide(self, record: str, question: Question) -> Decision:
        """A decision model's probabilities of the question's options for a record, by its own template."""
        with self._slot():
            try:
                answer = self._server.ask(ROUTE, question.request(record))
            except EngineError as error:
                if "too many options" not in str(error):
                    raise
                most = str(error).rpartition(" ")[2]
                raise EngineError(
                    f"{self.model.name}: this decision model takes at most {most} options, the rating scale has "
                    f"{len(question.options)} labels; choose another model"
                ) from None
        return read_decision(answer, question)

    def _complete(self, body: Mapping[str, Any], kind: type[Kind]) -> Kind:
        """Ask for the fields of an Answer."""
        return kind.model_validate(self._server.ask("/completion", {**body, "response_fields": [*kind.model_fields]}))

    @contextmanager
    def _slot(self) -> Iterator[int]:
        slot = self._free.get()
        try:
            yield slot
        finally:
            self._free.put(slot)

    # --- closing ---

    def describe(self) -> Mapping[str, object]:
        return {
            "engine": self.name,
            "xllamacpp": version("xllamacpp"),
            "context": self.context,
            "slots": self.slots,
            "threads": self.threads,
            "adapter": self.adapter is not None,
            "folds_system": self.folds_system,
            "notes": list(self.notes),
        }

    def close(self) -> None:
        """Free the model; safe to call twice, and from another thread while requests are under way."""
        self._server.close()

    def __enter__(self) -> LlamaCppEngine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
