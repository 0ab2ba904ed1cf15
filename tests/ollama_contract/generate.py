"""/api/chat and raw /api/generate without streams: the prompt as Ollama renders it, the embedded engine's answer."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from expertune.engine.llama_cpp.engine import LlamaCppEngine
from expertune.errors import EngineError

from .grammar import grammar
from .show import moment
from .store import Failure, Model, Store
from .templates import render

DEFAULT_CONTEXT = 4096
CANNOT_LOAD = "llama-server process has terminated: exit status 1"
PASSED_ON = ("temperature", "seed", "top_k", "top_p", "min_p", "repeat_penalty", "stop")
Json = dict[str, Any]


def llama_error(message: str, kind: str = "invalid_request_error", **more: Any) -> Failure:
    """llama-server's own error, which Ollama passes on as JSON inside its error text."""
    error = {"error": {"code": 400, "message": message, "type": kind, **more}}
    return Failure(400, json.dumps(error, ensure_ascii=False, separators=(",", ":")))


class Generator:
    """Answers the two endpoints, one request at a time (its caller holds the lock).

    `loaded` are the models in memory by name, each with its manifest's digest and the context that was asked for.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.loaded: dict[str, tuple[tuple[str, int], LlamaCppEngine]] = {}

    def chat(self, body: Json) -> Json:
        model, engine = self._found(body)
        messages = list(body["messages"])
        if (system := model.text("system")) and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": system})
        prompt = _rendered(model, engine, messages)
        if body.get("_debug_render_only"):
            empty = {"message": {"role": "", "content": ""}, "done": False}
            return _head(body) | empty | {"_debug_info": {"rendered_template": prompt}}
        if body.get("format") and model.text("template") is None:
            raise llama_error("Failed to initialize samplers: std::exception")
        text, rest = _answer(model, engine, body, prompt)
        return _head(body) | {"message": {"role": "assistant", "content": text}} | rest

    def generate(self, body: Json) -> Json:
        if body.get("keep_alive") == 0:
            self.unload(self.store.find(body["model"]).name)
            return _head(body) | {"response": "", "done": True, "done_reason": "unload"}
        if not body.get("raw"):
            raise Failure(501, "the tests' own server only goes on after raw prompts")
        text, rest = _answer(*self._found(body), body, body["prompt"])
        return _head(body) | {"response": text} | rest

    def decide(self, body: Json) -> Json:
        """POST /v1/systemone of 0.35, by the documentation of its client; never recorded."""
        _, engine = self._found({**body, "stream": False})
        asked = {key: body[key] for key in ("state", "questions")}
        return engine._server.ask("/v1/systemone", asked) | {"model": body["model"]}

    def _found(self, body: Json) -> tuple[Model, LlamaCppEngine]:
        model = self.store.find(body["model"])
        if body.get("stream", True):
            raise Failure(501, "the tests' own server streams no answers")
        if not 0 <= body.get("top_logprobs", 0) <= 20:
            raise Failure(400, "top_logprobs must be between 0 and 20")
        if body.get("think"):
            raise Failure(400, f'"{body["model"]}" does not support thinking')
        return model, self._engine(model, int(_options(model, body).get("num_ctx") or DEFAULT_CONTEXT))

    def _engine(self, model: Model, context: int) -> LlamaCppEngine:
        """The one that is loaded under this context, or a new one."""
        key = (model.digest, context)
        if model.name in self.loaded and self.loaded[model.name][0] != key:
            self.unload(model.name)
        if model.name not in self.loaded:
            try:
                self.loaded[model.name] = key, LlamaCppEngine(model.layers["model"], context=context, threads=1)
            except (EngineError, OSError):
                raise Failure(500, CANNOT_LOAD) from None
        return self.loaded[model.name][1]

    def unload(self, name: str) -> None:
        if name in self.loaded:
            self.loaded.pop(name)[1].close()

    def close(self) -> None:
        for name in list(self.loaded):
            self.unload(name)

    def ps(self) -> Json:
        return {"models": [{"name": name, "model": name, "digest": key[0]} for name, (key, _) in self.loaded.items()]}


def _head(body: Json) -> Json:
    return {"model": body["model"], "created_at": moment(time.time_ns())}


def _options(model: Model, body: Json) -> Json:
    return {**model.parameters, **(body.get("options") or {})}


def _rendered(model: Model, engine: LlamaCppEngine, messages: Sequence[Mapping[str, str]]) -> str:
    """By the template layer; without one by the GGUF's own Jinja, without the BOS that it writes."""
    template = model.text("template")
    if template is not None:
        return render(template, messages)
    body = {"messages": messages, "chat_template_kwargs": {"enable_thinking": False}}
    text = engine._server.ask("/apply-template", body)["prompt"]
    return text.removeprefix(engine._server.ask("/props")["bos_token"])


def _answer(model: Model, engine: LlamaCppEngine, body: Json, prompt: str) -> tuple[str, Json]:
    """The text of the answer, and the fields after it."""
    tokens, options = engine.tokenize(prompt), _options(model, body)
    size, context = len(tokens), engine.context
    if size >= context:
        message = f"request ({size} tokens) exceeds the available context size ({context} tokens), try increasing it"
        raise llama_error(message, "exceed_context_size_error", n_prompt_tokens=size, n_ctx=context)
    limit, top = options.get("num_predict", -1), body.get("top_logprobs", 0)
    request = {key: options[key] for key in PASSED_ON if key in options}
    request |= {"prompt": tokens, "n_predict": min(limit, context - size) if limit > 0 else context - size}
    request |= {"cache_prompt": True, "n_probs": max(top, 1), "return_tokens": True}
    if body.get("format"):
        request["grammar"] = grammar(body["format"])
    found = engine._server.ask("/completion", request)
    logprobs = [_logprob(each, top) for each in _spoken(found)] if body.get("logprobs") else []
    reason = "length" if found["stop_type"] == "limit" else "stop"
    rest = {"done": True, "done_reason": reason, "prompt_eval_count": size, "eval_count": found["tokens_predicted"]}
    return _content(found), rest | ({"logprobs": logprobs} if logprobs else {})


def _content(found: Json) -> str:
    """The text without a part of a character at its end: llama-server holds that back, and then it never comes."""
    listed = [each["id"] for each in found.get("completion_probabilities", ())]
    held_back = found["tokens"] and found["tokens"][-1:] != listed[-1:]
    return found["content"].rstrip("\ufffd") if held_back else found["content"]


def _spoken(found: Json) -> list[Json]:
    """The tokens of the answer, without the one that ended it."""
    tokens = list(found.get("completion_probabilities", ()))
    if found["stop_type"] == "eos" and tokens and not tokens[-1]["bytes"]:
        tokens.pop()
    return tokens


def _logprob(each: Json, top: int) -> Json:
    entry = {"token": each["token"], "logprob": each["logprob"]}
    if each["token"]:  # Ollama makes the bytes from the text: those of half a character are lost
        entry["bytes"] = list(each["token"].encode())
    if top:
        entry["top_logprobs"] = [_logprob(other, 0) for other in each["top_logprobs"][:top]]
    return entry
