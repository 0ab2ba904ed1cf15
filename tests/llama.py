"""llama.cpp as the reference: the log-probability of every token after a prompt, and hidden states, from its server."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import numpy as np
import xllamacpp


class Served:
    """A GGUF served by llama.cpp with exact settings: float32 cache, no flash attention, no prompt cache.

    With `states` it gives hidden states in place of log-probabilities.
    """

    def __init__(self, path: Path, *, adapter: Path | None = None, context: int = 512, states: bool = False) -> None:
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.port, params.hostnames, params.api_keys = 0, ["127.0.0.1"], ["test"]
        params.n_ctx, params.n_parallel, params.warmup, params.verbosity = context, 1, False, 0
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        if states:
            params.embedding, params.embd_normalize = True, -1
            params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_NONE
            params.n_batch = params.n_ubatch = context  # a prompt has to fit into one pass
        if adapter is not None:
            lora = xllamacpp.CommonAdapterLoraInfo()
            lora.path, lora.scale = str(adapter), 1.0
            params.lora_adapters = [lora]
        self._server = xllamacpp.Server(params)

    def post(self, path: str, body: dict) -> dict:
        request = urllib.request.Request(
            self._server.listening_address + path,
            json.dumps(body).encode(),
            {"Authorization": "Bearer test", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def log_probabilities(self, tokens: list[int], vocabulary: int) -> np.ndarray:
        """log p of every token after `tokens`, (V,)."""
        # force a plain token: the server reports no probabilities for one that ends inside a UTF-8 character
        plain = self.post("/tokenize", {"content": "a"})["tokens"][-1]
        body = {
            "prompt": tokens,
            "n_predict": 1,
            "n_probs": vocabulary,
            "temperature": 0,
            "cache_prompt": False,
            "grammar": f"root ::= <[{plain}]>",
        }
        first = self.post("/completion", body)["completion_probabilities"][0]
        log_V = np.full(vocabulary, np.nan)
        for each in first["top_logprobs"]:
            log_V[each["id"]] = each["logprob"]
        return log_V

    def states(self, tokens: list[int]) -> np.ndarray:
        """Each token's state after the last block and the output norm, (T, D)."""
        found = self.post("/embedding", {"content": tokens, "embd_normalize": -1})
        return np.array(found[0]["embedding"], dtype=np.float32)
