"""Ollama as an engine: the same methods as the embedded one, over a running server."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from threading import Lock
from typing import Any

from ...errors import EngineError
from ..answers import ChatAnswer, Finished, GenerateAnswer
from ..base import Generation, Message, Scores
from ..chat_template import checked, remarks
from ..llama_cpp.engine import LlamaCppEngine
from .render import OllamaRenderer, refuse_cloud
from .score import GeneratedToken, PartOfCharacterError, Spelling, score
from .server import OllamaServer, full_name

SCORES_SINCE = (0, 12, 11)
ALTERNATIVES = 20  # Ollama refuses to show more
SEED = 1
USUAL_CONTEXT = 8192  # tokens; the whole of what a large model was trained for takes gigabytes
TOKENIZER_CONTEXT = 256  # tokens; it never answers
# greedy decoding, whatever the model's own parameters say
GREEDY = {"temperature": 0, "seed": SEED, "repeat_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}


class OllamaEngine:
    """Serves a model that `ollama list` shows; a context manager. Its owner closes the server.

    `context` is the tokens that one request may hold (0: 8192, and at most what the model was trained for): always sent
    as num_ctx, and a longer prompt is refused, never cut. `file` is the model's GGUF where it is on this machine: its
    tokenizer then makes the scores those of the embedded engine; without it, `tokenize` and what needs it raise.
    Labels that Ollama cannot score (score.PartOfCharacterError) are then scored by llama.cpp on that file, unless
    `fallback` is False.
    Raises EngineError for a server without log-probabilities and a model in the cloud, UsageError for a missing model.
    """

    name = "ollama"

    def __init__(
        self,
        server: OllamaServer,
        model: str,
        *,
        context: int = 0,
        file: Path | None = None,
        threads: int | None = None,
        fallback: bool = True,
    ) -> None:
        shown = server.show(model)
        refuse_cloud(model, shown)
        if server.version < SCORES_SINCE:
            raise EngineError(
                f"Ollama {server.version_text} gives no log-probabilities, so labels cannot be scored; "
                "update it to 0.12.11 or later, or use --engine llama.cpp"
            )
        self.server, self.model = server, model
        trained = _trained_context(shown) or USUAL_CONTEXT
        self.context = min(context or USUAL_CONTEXT, trained)
        self.slots = 1  # OLLAMA_NUM_PARALLEL's default: a second request would only wait
        sizes = {full_name(each.name): each.size for each in server.models()}
        self.file_bytes = sizes.get(full_name(model), 0)
        self._renderer = OllamaRenderer(server, model, context=self.context, shown=shown)
        self.folds_system = self._renderer.folds_system
        self._tokenizer = (
            LlamaCppEngine(file, context=TOKENIZER_CONTEXT, threads=threads, renderer=self._renderer) if file else None
        )
        self.notes = self._notes()
        self._file, self._threads, self._lock = file if fallback else None, threads, Lock()
        self._by_file: LlamaCppEngine | None = None

    def _notes(self) -> tuple[str, ...]:
        notes = [f"prompts are made by Ollama {self.server.version_text} for {self.model}"]
        notes += remarks(self._renderer, self._renderer.lead, folds_system=self.folds_system)
        if self._tokenizer is None:
            notes.append("the model's file is not on this machine: labels are scored on their likeliest tokens")
        return tuple(notes)

    # --- rendering and tokens ---

    def render(self, messages: Sequence[Message]) -> str:
        return checked(self._renderer(messages), messages)

    def tokenize(self, prompt: str) -> list[int]:
        return self._own_tokenizer().tokenize(prompt)

    def count_tokens(self, prompt: str) -> int:
        return self._renderer.count_tokens(prompt)

    def continuation(self, prompt: str, answer: str) -> list[int]:
        return self._own_tokenizer().continuation(prompt, answer)

    def turn_end(self) -> list[int]:
        return self._own_tokenizer().turn_end()

    def _own_tokenizer(self) -> LlamaCppEngine:
        if self._tokenizer is None:
            raise EngineError(f"{self.model}: its file is not on this machine, so its tokens are not known here")
        return self._tokenizer

    # --- scores and answers ---

    def score(self, prompt: str, answers: Sequence[str]) -> Scores:
        """As Engine.score; not exact where the model's own tokens cannot be reached."""
        tokenizer, spelling = self._tokenizer, None
        if tokenizer is not None:
            spelling = Spelling(*tokenizer.spelled(prompt, answers), tokenizer.tokenize)
        try:
            return score(self._generated_tokens, prompt, answers, spelling)
        except PartOfCharacterError as error:
            return self._file_engine(error).score(prompt, answers)

    def _file_engine(self, reason: EngineError) -> LlamaCppEngine:
        """llama.cpp on the model's own file; raises `reason` where there is none to fall back to."""
        if self._file is None:
            raise reason
        with self._lock:
            if self._by_file is None:
                settings = {"context": self.context, "threads": self._threads, "renderer": self._renderer}
                self._by_file = LlamaCppEngine(self._file, **settings)
                self.notes += (f"{self.model}: Ollama cannot score these labels; llama.cpp does, on the model's file",)
        return self._by_file

    def _generated_tokens(self, prompt: str, room: int, schema: Mapping[str, Any] | None) -> list[GeneratedToken]:
        """The tokens of the answer, up to one that may stand for several: a whole character that came in parts.

        llama.cpp holds a token back that ends inside a character, and Ollama then lists the whole character with the
        log-probability of its last token alone. An end of the turn is counted but not listed.
        """
        answer = self._generate(prompt, room, schema, logprobs=True, top_logprobs=ALTERNATIVES)
        tokens = answer.logprobs or ()
        if answer.response and not tokens:
            raise EngineError(f"{self.model}: Ollama {self.server.version_text} gave no log-probabilities; update it")
        if answer.eval_count != len(tokens) + (answer.done_reason == "stop"):
            tokens = takewhile(lambda each: each.token.isascii(), tokens)
        return [
            # the likeliest comes first and counts, where two tokens have the same bytes
            GeneratedToken(
                each.piece, each.logprob, {other.piece: other.logprob for other in (each, *reversed(each.top_logprobs))}
            )
            for each in tokens
        ]

    def generate(self, prompt: str, *, schema: Mapping[str, Any] | None = None, max_tokens: int = 256) -> Generation:
        answer = self._generate(prompt, max_tokens, schema)
        return self._checked(answer, answer.response, schema)

    def chat(
        self, messages: Sequence[Message], *, schema: Mapping[str, Any] | None = None, max_tokens: int = 256
    ) -> Generation:
        """The answer that any client of Ollama gets for these messages; by `generate` where chat fails its schema."""
        asked = self._renderer.request(messages, **GREEDY, num_predict=max_tokens)
        body = {**asked, **({"format": schema} if schema else {})}
        try:
            answer = ChatAnswer.model_validate(self.server.ask("POST", "/api/chat", body))
            return self._checked(answer, answer.message.content, schema)
        except EngineError:
            if schema is None:
                raise
            return self.generate(self._renderer.plain(messages), schema=schema, max_tokens=max_tokens)

    def _generate(self, prompt: str, max_tokens: int, schema: Mapping[str, Any] | None, **more: Any) -> GenerateAnswer:
        asked = self._renderer.raw_request(prompt, **GREEDY, num_predict=max_tokens)
        body = {**asked, **({"format": schema} if schema else {}), **more}
        return GenerateAnswer.model_validate(self.server.ask("POST", "/api/generate", body))

    def _checked(self, answer: Finished, text: str, schema: Mapping[str, Any] | None) -> Generation:
        if not answer.done:  # seen where the answer held a broken character
            raise EngineError(
                f"{self.model}: Ollama {self.server.version_text} broke the answer off; try --engine llama.cpp"
            )
        finished = answer.done_reason != "length"
        if schema is not None and finished and not _fits(text, schema):
            raise EngineError(
                f"{self.model}: Ollama {self.server.version_text} did not keep the answer to its schema; update it"
            )
        return Generation(text, answer.prompt_eval_count, answer.eval_count, finished)

    # --- closing ---

    def describe(self) -> Mapping[str, object]:
        return {
            "engine": self.name,
            "ollama": self.server.version_text,
            "model": self.model,
            "context": self.context,
            "slots": self.slots,
            "folds_system": self.folds_system,
            "notes": list(self.notes),
        }

    def close(self) -> None:
        """Free the tokenizer and what was loaded from the file; the server, when closed, unloads its model."""
        for engine in (self._tokenizer, self._by_file):
            if engine is not None:
                engine.close()

    def __enter__(self) -> OllamaEngine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _fits(text: str, schema: Mapping[str, Any]) -> bool:
    """True for a JSON object of exactly the schema's texts, each one of its enum where there is one."""
    try:
        value = json.loads(text)
    except ValueError:
        return False
    rules = schema["properties"]
    return (
        isinstance(value, dict)
        and value.keys() == rules.keys()
        and all(isinstance(each, str) and each in rules[name].get("enum", [each]) for name, each in value.items())
    )


def _trained_context(shown: Mapping[str, Any]) -> int:
    """0 where the server does not name one; a model with long RoPE factors (largest_context) keeps to the short ones.

    The server does not list its tensors unasked: an original context that YaRN does not stretch stands for the factors.
    """
    info = shown.get("model_info") or {}
    name = info.get("general.architecture")
    trained = int(info.get(f"{name}.context_length") or 0)
    original = int(info.get(f"{name}.rope.scaling.original_context_length") or 0)
    stretched = info.get(f"{name}.rope.scaling.type") in ("yarn", "linear")
    return min(trained, original) if original and not stretched else trained
