"""Render messages to prompts by the Ollama server that serves the model: no template is ever guessed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from pydantic import ValidationError

from ...errors import EngineError, FineTuningNotSupportedError
from ..answers import RenderAnswer
from ..base import Engine, Message
from ..chat_template import LEAST_EFFORT, answer_lead, fold_system, say, shows_system
from .server import OllamaServer

RENDERS_SINCE = (0, 11, 5)
HARMONY_FAMILIES = ("gptoss", "gpt-oss")  # Ollama 0.33.0-rc2, server/routes.go, shouldUseHarmony
REMEMBERED = 8192  # prompts: a training set's, so that a later stage need not load the model again


class OllamaRenderer:
    """`renderer(messages)` → the prompt for `model`, as `server` would send it to the model but for BOS.

    `folds_system` says that the template drops system messages; their text is then put into the first user message.
    `lead` follows the server's own prompt, so that the answer comes at once (chat_template.answer_lead).
    `context` is the num_ctx of the real requests: the same value, so that the model is not loaded anew for them.
    Raises EngineError for a server that cannot show its prompts, or a model that runs elsewhere.
    """

    def __init__(
        self, server: OllamaServer, model: str, *, context: int, shown: Mapping[str, Any] | None = None
    ) -> None:
        shown = server.show(model) if shown is None else shown
        refuse_cloud(model, shown)
        if server.version < RENDERS_SINCE:
            raise EngineError(
                f"Ollama {server.version_text} does not show the prompts it makes; update it to 0.12.11 or later"
            )
        self.server, self.model, self.context = server, model, context
        self.think = least_thought(shown)
        self._remembered = lru_cache(REMEMBERED)(self._ask)
        self.folds_system = not shows_system(self._bare)
        self.lead = answer_lead(self._bare)

    def __call__(self, messages: Sequence[Message]) -> str:
        return self.plain(fold_system(messages) if self.folds_system else messages)

    def plain(self, messages: Sequence[Message]) -> str:
        """The render of exactly these messages, and the lead."""
        return self._bare(messages) + self.lead

    def _bare(self, messages: Sequence[Message]) -> str:
        return self._remembered(*((message["role"], message["content"]) for message in messages))

    def _ask(self, *turns: tuple[str, str]) -> str:
        body = self.request([say(*turn) for turn in turns]) | {"_debug_render_only": True}
        try:
            answer = RenderAnswer.model_validate(self.server.ask("POST", "/api/chat", body))
            return answer.debug_info.rendered_template
        except ValidationError:
            raise EngineError(f"{self.model}: Ollama {self.server.version_text} did not show its prompt") from None

    def count_tokens(self, prompt: str) -> int:
        """Number of tokens of a rendered prompt as the server counts them, BOS included."""
        body = self.raw_request(prompt, num_predict=1, temperature=0)
        return int(self.server.ask("POST", "/api/generate", body)["prompt_eval_count"])

    def raw_request(self, prompt: str, **options: Any) -> dict[str, object]:
        """The body of a request to continue a rendered prompt; nothing is cut silently."""
        return {
            "model": self.model,
            "prompt": prompt,
            "raw": True,
            "stream": False,
            "truncate": False,
            "options": {"num_ctx": self.context, **options},
        }

    def request(self, messages: Sequence[Message], **options: Any) -> dict[str, object]:
        """The body of a chat request, with the fields that decide the rendering; nothing is cut silently."""
        return {
            "model": self.model,
            "messages": [dict(message) for message in messages],
            "stream": False,
            "truncate": False,
            "options": {"num_ctx": self.context, **options},
            "think": self.think,
        }


def least_thought(shown: Mapping[str, Any]) -> bool | str:
    """`think` of a request: off, which models that cannot think take too; the lowest level where there is no off.

    Harmony (gpt-oss) has levels only. Servers since 0.40 name them in /api/show; one that a model does not know would
    silently be its default.
    """
    harmony = (shown.get("details") or {}).get("family") in HARMONY_FAMILIES
    values = (shown.get("thinking") or {}).get("values") or ([LEAST_EFFORT] if harmony else [False])
    levels = [value for value in values if isinstance(value, str)]
    return levels[0] if levels and False not in values else False


def refuse_cloud(model: str, shown: Mapping[str, Any]) -> None:
    """Raise EngineError for a model whose requests Ollama would pass on to another machine."""
    if shown.get("remote_host") or shown.get("remote_model"):
        raise EngineError(
            f"{model}: runs in Ollama's cloud and patient text would leave this machine; "
            "choose a model that `ollama pull` brings here"
        )


def check_tokens(renderer: OllamaRenderer, engine: Engine, messages: Sequence[Message]) -> None:
    """Compare Ollama's token count with the file's, then unload the model there to free memory for the training.

    Raises FineTuningNotSupportedError if they differ.
    """
    prompt = engine.render(messages)
    in_ollama, in_file = renderer.count_tokens(prompt), engine.count_tokens(prompt)
    if in_ollama != in_file:
        raise FineTuningNotSupportedError(
            f"{renderer.model}: Ollama splits a prompt into {in_ollama} tokens, the file's own tokenizer into "
            f"{in_file}; a tuned model would get other tokens in Ollama than in training"
        )
    renderer.server.unload(renderer.model)
