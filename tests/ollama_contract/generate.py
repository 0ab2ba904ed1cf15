"""/api/chat and /api/generate: the prompt as Ollama renders it, the answer from the embedded engine."""

from __future__ import annotations

import codecs
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from expertune.errors import EngineError

from .go_template import Template
from .grammar import SchemaError, grammar
from .runners import Runners
from .show import moment
from .store import Failure, Model, Store

DEFAULT_CONTEXT, KEPT = 4096, 5
PASSED_ON = ("temperature", "seed", "top_k", "top_p", "min_p", "repeat_penalty", "stop")
Answer = dict[str, Any] | Iterator[dict[str, Any]]


def llama_error(message: str, kind: str = "invalid_request_error", **more: Any) -> Failure:
    """llama-server's own error, which Ollama passes on as JSON inside its error text."""
    error = {"error": {"code": 400, "message": message, "type": kind, **more}}
    return Failure(400, json.dumps(error, ensure_ascii=False, separators=(",", ":")))


@dataclass(frozen=True)
class Abilities:
    """What this version does with a request."""

    logprobs: bool = True
    debug_render: bool = True
    broken_chat_format: bool = False


@dataclass
class Generator:
    """Answers the two endpoints; one request at a time (its caller holds the lock)."""

    store: Store
    runners: Runners
    can: Abilities

    def chat(self, body: Mapping[str, Any]) -> Answer:
        model = self._model(body)
        messages = list(body.get("messages") or [])
        if not messages:
            return self._load_or_unload(model, body, _chat_part)
        self._check(model, body)
        run = _Run(self, model, body, _chat_part)
        messages = [*model.messages, *messages]
        if (system := model.text("system")) and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": system})
        prompt = run.fitting(messages)
        if self.can.debug_render and body.get("_debug_render_only"):
            return run.debug({"message": {"role": "", "content": ""}}, prompt)
        if body.get("format") and (self.can.broken_chat_format or model.text("template") is None):
            run.grammar()  # a schema that cannot be converted is told of first
            raise llama_error("Failed to initialize samplers: std::exception")
        return run.answer(prompt, with_context=False)

    def generate(self, body: Mapping[str, Any]) -> Answer:
        model = self._model(body)
        text = body.get("prompt") or ""
        if not text:
            return self._load_or_unload(model, body, _generate_part)
        self._check(model, body)
        run = _Run(self, model, body, _generate_part)
        raw = bool(body.get("raw"))
        if not raw:
            system = body.get("system") or model.text("system")
            head = [{"role": "system", "content": system}] if system else []
            text = run.render([*head, *model.messages, {"role": "user", "content": text}])
        if self.can.debug_render and body.get("_debug_render_only"):
            return run.debug({"response": ""}, text)
        return run.answer(text, with_context=not raw)

    def _model(self, body: Mapping[str, Any]) -> Model:
        if not body.get("model"):
            raise Failure(400, "model is required")
        return self.store.find(body["model"])

    def _check(self, model: Model, body: Mapping[str, Any]) -> None:
        if self.can.logprobs and not 0 <= body.get("top_logprobs", 0) <= 20:
            raise Failure(400, "top_logprobs must be between 0 and 20")
        if body.get("think") and not model.thinks:
            raise Failure(400, f'"{body["model"]}" does not support thinking')

    def _load_or_unload(self, model: Model, body: Mapping[str, Any], part: Callable[[str], dict[str, Any]]) -> Answer:
        unload = _is_zero(body.get("keep_alive"))
        if unload:
            self.runners.unload(model.name.short)
        else:
            _Run(self, model, body, part)
        answer = {"model": body["model"], "created_at": now(), **part(""), "done": True}
        return {**answer, "done_reason": "unload" if unload else "load"}


def now() -> str:
    return moment(time.time_ns())


def _is_zero(keep_alive: Any) -> bool:
    return keep_alive is not None and str(keep_alive).rstrip("smh") == "0"


def _chat_part(text: str) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": text}}


def _generate_part(text: str) -> dict[str, Any]:
    return {"response": text}


class _Run:
    """One request on a loaded model."""

    def __init__(
        self, server: Generator, model: Model, body: Mapping[str, Any], part: Callable[[str], dict[str, Any]]
    ) -> None:
        self.started = time.perf_counter_ns()
        self.runners, self.can, self.model, self.body, self.part = server.runners, server.can, model, body, part
        self.options = {**model.parameters, **(body.get("options") or {})}
        self.engine = server.runners.get(model, int(self.options.get("num_ctx") or DEFAULT_CONTEXT))
        self.loaded = time.perf_counter_ns()

    def ask(self, path: str, body: Any = None) -> Any:
        try:
            return self.engine._server.ask(path, body)
        except EngineError as error:
            raise llama_error(str(error)) from None

    def tokens(self, text: str) -> list[int]:
        """With BOS."""
        return self.ask("/tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"]

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """By the template layer; without one by the GGUF's own Jinja, without the BOS that it writes."""
        template = self.model.text("template")
        if template is not None:
            return Template(template).render(messages, self.body.get("think"))
        body = {"messages": list(messages), "chat_template_kwargs": {"enable_thinking": bool(self.body.get("think"))}}
        text = self.ask("/apply-template", body)["prompt"]
        return text.removeprefix(self.ask("/props")["bos_token"])

    def fitting(self, messages: list[dict[str, str]]) -> str:
        """The prompt; the oldest messages but the system's are left out where it would not fit."""
        system = [message for message in messages if message["role"] == "system"]
        rest = [message for message in messages if message["role"] != "system"]
        text = self.render(messages)
        while self.body.get("truncate") is not False and len(rest) > 1 and len(self.tokens(text)) > self.engine.context:
            rest.pop(0)
            text = self.render([*system, *rest])
        return text

    def debug(self, empty: dict[str, Any], prompt: str) -> dict[str, Any]:
        answer = {"model": self.body["model"], "created_at": now(), **empty, "done": False}
        return {**answer, "_debug_info": {"rendered_template": prompt}}

    def grammar(self) -> str | None:
        wanted = self.body.get("format")
        if not wanted:
            return None
        if isinstance(wanted, str) and wanted != "json":
            raise Failure(400, f'invalid format: "{wanted}"; expected "json" or a valid JSON Schema object')
        try:
            return grammar(wanted)
        except SchemaError as error:
            raise llama_error(f"Field 'json_schema': \"json_schema\": {error}") from None

    def cut(self, prompt: list[int]) -> list[int]:
        """Refused or, silently, without its middle where it does not fit."""
        context = self.engine.context
        if len(prompt) < context:
            return prompt
        if self.body.get("truncate") is False:
            message = (
                f"request ({len(prompt)} tokens) exceeds the available context size ({context} tokens), "
                "try increasing it"
            )
            raise llama_error(message, "exceed_context_size_error", n_prompt_tokens=len(prompt), n_ctx=context)
        return prompt[:KEPT] + prompt[-((context - KEPT + 1) // 2) :]

    def answer(self, prompt: str, *, with_context: bool) -> Answer:
        rules = self.grammar()
        tokens = self.cut(self.tokens(prompt))
        wanted = bool(self.can.logprobs and self.body.get("logprobs"))
        top = self.body.get("top_logprobs", 0) if wanted else 0
        room = self.engine.context - len(tokens)
        limit = self.options.get("num_predict", -1)
        request = {key: self.options[key] for key in PASSED_ON if key in self.options}
        request |= {"prompt": tokens, "n_predict": min(limit, room) if limit > 0 else room, "cache_prompt": True}
        request |= {"n_probs": max(top, 1), "return_tokens": True, **({"grammar": rules} if rules else {})}
        found = self.ask("/completion", request)
        probabilities = _spoken(found)
        spoken = [_logprob(each, top) for each in probabilities]
        end = {"done": True, "done_reason": "length" if found["stop_type"] == "limit" else "stop"}
        if with_context:
            end["context"] = [*tokens[1:], *found["tokens"][: len(found["tokens"]) - (found["stop_type"] == "eos")]]
        metrics = self._metrics(found, len(tokens))
        if _is_zero(self.body.get("keep_alive")):
            self.runners.unload(self.model.name.short)
        if self.body.get("stream", True):
            return self._lines(_content(found), probabilities, spoken if wanted else None, {**end, **metrics})
        logprobs = {"logprobs": spoken} if wanted and spoken else {}
        chat = "message" in self.part("")
        after = {**end, **logprobs, **metrics} if chat else {**end, **metrics, **logprobs}
        return {"model": self.body["model"], "created_at": now(), **self.part(_content(found)), **after}

    def _metrics(self, found: Mapping[str, Any], prompt: int) -> dict[str, int]:
        done = time.perf_counter_ns()
        return {
            "total_duration": done - self.started,
            "load_duration": self.loaded - self.started,
            "prompt_eval_count": prompt,
            "prompt_eval_duration": int(found["timings"]["prompt_ms"] * 1e6),
            "eval_count": found["tokens_predicted"],
            "eval_duration": max(int(found["timings"]["predicted_ms"] * 1e6), 1),
        }

    def _lines(
        self,
        content: str,
        probabilities: list[dict[str, Any]],
        logprobs: list[dict[str, Any]] | None,
        end: dict[str, Any],
    ) -> Iterator[dict[str, Any]]:
        decode, told = codecs.getincrementaldecoder("utf-8")("replace").decode, 0
        for number, each in enumerate(probabilities):
            text = decode(bytes(each["bytes"]))[: max(len(content) - told, 0)]
            told += len(text)
            more = {} if logprobs is None else {"logprobs": [logprobs[number]]}
            if text or more:
                yield {"model": self.body["model"], "created_at": now(), **self.part(text), "done": False, **more}
        rest = self.part(content[told:])
        if content[told:]:
            yield {"model": self.body["model"], "created_at": now(), **rest, "done": False}
        yield {"model": self.body["model"], "created_at": now(), **self.part(""), **end}


def _content(found: Mapping[str, Any]) -> str:
    """The text without a part of a character at its end: llama-server holds that back, and then it never comes."""
    listed = [each["id"] for each in found.get("completion_probabilities", ())]
    held_back = found["tokens"] and found["tokens"][-1:] != listed[-1:]
    return found["content"].rstrip("\ufffd") if held_back else found["content"]


def _spoken(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The tokens of the answer, without the one that ended it."""
    all_tokens = list(found.get("completion_probabilities", ()))
    if found["stop_type"] == "eos" and all_tokens and not all_tokens[-1]["bytes"]:
        all_tokens.pop()
    return all_tokens


def _logprob(each: Mapping[str, Any], top: int) -> dict[str, Any]:
    entry = {"token": each["token"], "logprob": each["logprob"]}
    if each["token"]:  # Ollama makes the bytes from the text: those of half a character are lost
        entry["bytes"] = list(each["token"].encode())
    if top:
        entry["top_logprobs"] = [_logprob(other, 0) for other in each["top_logprobs"][:top]]
    return entry
