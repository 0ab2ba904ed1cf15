"""llama.cpp's server in this process: started, asked and stopped. Loopback only, with a random key, silent."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
import urllib.parse
import weakref
from dataclasses import asdict, dataclass
from typing import Any

from ...errors import EngineError
from ..base import without_record
from .http import JsonClient

SILENT, ERRORS = -1, 1  # llama.cpp's verbosity
LOAD_ERROR = "error loading model: "
FAILED = 3  # exit code of a child whose model llama.cpp could not load
KILLED, TIMED_OUT = -9, -27  # SIGKILL, SIGPROF
TEMPLATE_SECONDS = 3  # of processor time that a chat template may take while a model is tried; a usual one takes 0.01
TALK = [{"role": role, "content": "one"} for role in ("system", "user", "assistant", "user")]
BATCH = 512  # tokens in one step of the engine: an interrupt waits for at most one
PAUSE_SECONDS = 30  # that another program may make within a request; its connection holds a thread meanwhile


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
    repack: bool = True  # copy the weights into a form that computes faster; without, they stay in the mapped file
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
            reason = attempt(launch) or "cannot load it: not enough memory"
            raise EngineError(f"{launch.model}: llama.cpp {reason}") from None
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
            reason = without_record(str(reason), body)
            reason = template_error(reason) or reason.splitlines()[0][:200]
            raise EngineError(f"llama.cpp refused {path}: {reason}")
        return value

    def close(self) -> None:
        self._stop()


def _shut(client: JsonClient, servers: list[Any]) -> None:
    # The connections go first: the server's destructor waits for ever for a request that is still being answered.
    client.close()
    servers.clear()


def _start(launch: Launch, key: str, verbosity: int, *, template: str = "") -> Any:
    """xllamacpp.Server, listening on a free port of the loopback interface; `template` replaces the file's own."""
    xllamacpp: Any = importlib.import_module("xllamacpp")  # a bare extension module: no source, no stubs

    params = xllamacpp.CommonParams()
    params.verbosity = verbosity
    params.model.path = launch.model
    if template:
        params.chat_template = template
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
    params.no_extra_bufts = not launch.repack
    if launch.public:
        params.ui, params.public_path, params.timeout_read = True, launch.public, PAUSE_SECONDS
    # Each kept connection holds one of the server's threads.
    params.n_threads_http = launch.slots + (32 if launch.public else 4)
    for cpu in (params.cpuparams, params.cpuparams_batch):
        cpu.n_threads = launch.threads
    return xllamacpp.Server(params)


def attempt(launch: Launch) -> str:
    """Load the model, render a talk and decode two tokens in a child process; "", or what llama.cpp cannot do, and why.

    What llama.cpp asserts (GGML_ASSERT) ends its process, and it prints its reasons on stderr only.
    """
    code = f"import json, sys; from {__name__} import _attempt; _attempt(**json.loads(sys.argv[1]))"
    path = os.pathsep.join(entry for entry in sys.path if entry)
    child = subprocess.run(
        [sys.executable, "-c", code, json.dumps(asdict(launch))],
        capture_output=True,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONPATH": path, "GGML_NO_BACKTRACE": "1"},
        check=False,
    )
    if child.returncode == KILLED:
        return "cannot load it: the system ended it, most likely for want of memory"
    if child.returncode == TIMED_OUT:
        return (
            f"cannot load it: its chat template takes more than {TEMPLATE_SECONDS} s; choose another file of the model"
        )
    return "" if child.returncode == 0 else _reason(child.stderr, aborted=child.returncode != FAILED)


def _attempt(**values: Any) -> None:
    """In the child."""
    with contextlib.suppress(ImportError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no core dump, which would be as large as the model
    launch = Launch(**values)
    try:
        if not launch.repack:  # which takes longer than any template
            _plain = _start(launch, "none", ERRORS, template="chatml")  # kept: freeing it may wait for ever
            _limit(TEMPLATE_SECONDS + time.process_time())  # loading again takes what it has taken
        server = _start(launch, "none", ERRORS)
    except RuntimeError:
        sys.exit(FAILED)
    address = urllib.parse.urlparse(server.listening_address)
    client = JsonClient(
        address.hostname or "", address.port or 0, headers={"Authorization": "Bearer none"}, connections=1
    )
    client.request("POST", "/apply-template", {"messages": TALK})
    _limit(0)
    client.request("POST", "/completion", {"prompt": [0, 0], "n_predict": 1})
    sys.stdout.flush()
    os._exit(0)  # without the destructors, which may wait


def _limit(seconds: float) -> None:
    """End this process after so much processor time from now on; 0: never. Not on Windows, which has no such timer."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _reason(stderr: str, *, aborted: bool) -> str:
    lines = stderr.splitlines()
    if aborted:
        failed = [line for line in lines if "GGML_ASSERT" in line or " failed" in line]
        return f"would abort on it: {failed[0].rpartition('/')[2].strip()[:200] if failed else 'no reason given'}"
    if refused := template_error(stderr):
        return f"cannot load it: {refused}"
    errors = [line for line in lines if re.match(r"[\d.]+ E ", line)]
    best = next((line for line in errors if LOAD_ERROR in line), errors[0] if errors else "")
    reason = best.split(LOAD_ERROR)[-1] if LOAD_ERROR in best else re.sub(r"^[\d.]+ E (\w+: )?(error: )?", "", best)
    return f"cannot load it: {reason.strip()[:200] or 'not enough memory, or a damaged file'}"


def template_error(text: str) -> str:
    """The chat template's own words in llama.cpp's account of an error; "" if there are none."""
    found = re.findall(r"^Error: (?:Jinja Exception: )?(.+)", text, re.MULTILINE)
    return f"the chat template refuses it: {found[-1].strip()[:200]}" if found else ""
