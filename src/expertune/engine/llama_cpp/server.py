"""llama.cpp's server in this process: started, asked and stopped. Loopback only, with a random key, silent."""

from __future__ import annotations

import importlib
import json
import os
import re
import secrets
import subprocess
import sys
import urllib.parse
import weakref
from dataclasses import asdict, dataclass
from typing import Any

from ...errors import EngineError
from .http import JsonClient

SILENT, ERRORS = -1, 1  # llama.cpp's verbosity
LOAD_ERROR = "error loading model: "
BATCH = 512  # tokens in one step of the engine: an interrupt waits for at most one


@dataclass(frozen=True)
class Launch:
    """The settings that a server is started with; `context` is the tokens of one slot.

    `port` 0 is a free one. `public` is a folder whose files other programs may read with the key; "": there are none.
    """

    model: str
    adapter: str
    context: int
    slots: int
    threads: int
    port: int = 0
    public: str = ""


class EmbeddedServer:
    """A running server; `close` (idempotent, also at exit) cuts what is under way and frees the model.

    Raises EngineError with llama.cpp's own reason where the model cannot be loaded.
    """

    def __init__(self, launch: Launch) -> None:
        self.key = secrets.token_hex(32)
        try:
            server = _start(launch, self.key, SILENT)
        except RuntimeError:
            raise EngineError(f"{launch.model}: llama.cpp cannot load it: {_reason(launch)}") from None
        self.address = urllib.parse.urlparse(server.listening_address)
        client = JsonClient(
            self.address.hostname or "",
            self.address.port or 0,
            connections=launch.slots + 2,
            headers={"Authorization": f"Bearer {self.key}"},
        )
        self._client = client
        # a finalizer runs once: on close, when the engine is forgotten, or at exit, whichever is first
        self._stop = weakref.finalize(self, _shut, client, [server])
        # The constructor may return before the server's loop runs, and a stop before that is lost: the destructor then
        # waits for ever (xllamacpp 2026.10, seen in one of ten quick closes). This question is answered by the loop.
        self.ask("/lora-adapters")

    def ask(self, path: str, body: Any = None) -> Any:
        """The JSON answer; GET without a body. Raises EngineError with the server's reason in one line."""
        status, value = self._client.request("GET" if body is None else "POST", path, body)
        if status != 200:
            reason = str(value.get("error", {}).get("message", status)).strip() if isinstance(value, dict) else status
            raise EngineError(f"llama.cpp refused {path}: {str(reason).splitlines()[0][:200]}")
        return value

    def close(self) -> None:
        self._stop()


def _shut(client: JsonClient, servers: list[Any]) -> None:
    # The connections go first: the server's destructor waits for ever for a request that is still being answered.
    client.close()
    servers.clear()


def _start(launch: Launch, key: str, verbosity: int) -> Any:
    """xllamacpp.Server, listening on a free port of the loopback interface."""
    xllamacpp: Any = importlib.import_module("xllamacpp")  # a bare extension module: no source, no stubs

    params = xllamacpp.CommonParams()
    params.verbosity = verbosity
    params.model.path = launch.model
    if launch.adapter:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(launch.adapter, 1.0)]
    params.hostnames, params.port, params.api_keys = ["127.0.0.1"], launch.port, [key]
    params.offline, params.ui, params.endpoint_slots, params.no_mmproj = True, False, False, True
    params.n_ctx, params.n_parallel, params.kv_unified = launch.context * launch.slots, launch.slots, False
    params.n_batch, params.n_ubatch, params.warmup = BATCH, BATCH, False
    # On a CPU the flash kernel computes one token otherwise than many: the same prompt, cold and from the cache,
    # differed by up to 0.19 nats in a token's log-probability (random Q4_K weights), and by 1e-5 without it; the price
    # is 0 to 15 % of the prompt speed.
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    # No copies of old prompts in memory: they hold patient text, up to 8 GB of it.
    params.cache_ram_mib = 0
    if launch.public:
        params.ui, params.public_path = True, launch.public
    # Each kept connection holds one of the server's threads.
    params.n_threads_http = launch.slots + (32 if launch.public else 4)
    for cpu in (params.cpuparams, params.cpuparams_batch):
        cpu.n_threads = launch.threads
    return xllamacpp.Server(params)


def _reason(launch: Launch) -> str:
    """The reason of a failed load: llama.cpp prints it on stderr only, so a child process tries again and is read."""
    code = (
        "import json, sys; from expertune.engine.llama_cpp.server import ERRORS, Launch, _start; "
        "_start(Launch(**json.loads(sys.argv[1])), 'none', ERRORS)"
    )
    path = os.pathsep.join(entry for entry in sys.path if entry)
    child = subprocess.run(
        [sys.executable, "-c", code, json.dumps(asdict(launch))],
        capture_output=True,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    errors = [line for line in child.stderr.splitlines() if re.match(r"[\d.]+ E ", line)]
    best = next((line for line in errors if LOAD_ERROR in line), errors[0] if errors else "")
    reason = best.split(LOAD_ERROR)[-1] if LOAD_ERROR in best else re.sub(r"^[\d.]+ E (\w+: )?(error: )?", "", best)
    return reason.strip()[:200] or "not enough memory, or a damaged file"
