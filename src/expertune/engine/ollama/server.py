"""A running Ollama server over HTTP: retries while it is busy, and never contacts another host.

Not over the `ollama` package: importing it makes a client from the environment, which fails for a SOCKS proxy, an
unusual NO_PROXY or a missing SSL_CERT_FILE, although no proxy and no certificate are needed here.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ...errors import EngineError, ExpertuneError, UsageError
from ..answers import ListedModel, ModelList
from .disk import ManifestEntry
from .errors import Unavailable, explained
from .host import checked_url
from .model import BLOB, shown

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 600.0  # loading a large model comes before its first answer
PATIENCE_SECONDS = 60.0  # how long a busy or vanished server is asked again
FIRST_WAIT, LONGEST_WAIT = 0.1, 8.0  # seconds between two attempts, doubled each time
UPLOAD_BLOCK = 1 << 20  # bytes
UNLOAD_SECONDS = 5.0
MALFORMED = (LookupError, TypeError, ValueError, AttributeError)  # what reading an answer of another form raises
# Sent with each request that loads a model: under OLLAMA_KEEP_ALIVE=0 the server would load it anew for every record.
# Ollama's own default, so that the memory is freed in time even after kill -9.
KEEP_ALIVE = "5m"
LOADING = ("/api/chat", "/api/generate", "/v1/systemone")


class OllamaServer:
    """Safe for many threads; a context manager. Nothing but `url` is ever contacted: no proxy, no redirect.

    The models that were asked stay loaded between the requests, and are unloaded when the server is closed.
    `patience` is the seconds for which a busy, killed or vanished server is asked again before EngineError.
    Raises UsageError for a server on another machine without `allow_remote`, EngineError where none answers.
    """

    def __init__(
        self,
        host: str | None = None,
        *,
        allow_remote: bool = False,
        patience: float = PATIENCE_SECONDS,
        timeout: float = ANSWER_SECONDS,
    ) -> None:
        import httpx

        self.url = checked_url(host, allow_remote=allow_remote)
        self._patience = patience
        key = os.environ.get("OLLAMA_API_KEY", "").strip()  # of a proxy in front of a server on another machine
        try:
            self._client = httpx.Client(
                base_url=self.url,
                timeout=httpx.Timeout(timeout, connect=CONNECT_SECONDS),
                headers={"Authorization": f"Bearer {key}"} if key.isascii() and key else {},
                trust_env=False,  # else patient text would go through a proxy that some variable names
                verify=self.url.startswith("https:"),  # else no certificate is read
            )
        except httpx.InvalidURL as error:
            raise UsageError(f"{self.url}: not an address ({error}); OLLAMA_HOST looks like 127.0.0.1:11434") from None
        self._asked: set[str] = set()  # models that may be loaded
        self._closed = threading.Event()
        self._failures = (httpx.TransportError, httpx.StreamError, ConnectionError, json.JSONDecodeError)
        try:
            self.version_text = str(self.ask("GET", "/api/version", patience=0.0)["version"])
        except (EngineError, UsageError, KeyError, TypeError):  # nothing, or something else that listens there
            self.close()
            raise EngineError(
                f"no Ollama server answers at {self.url}; start it (`ollama serve`) or set OLLAMA_HOST"
            ) from None
        self.version = _numbers(self.version_text)

    # --- asking ---

    def ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, patience: float | None = None
    ) -> Any:
        """The JSON answer, None where there is none. Asked again while the server is busy or gone.

        Raises EngineError, UsageError or OutputError in one line. An answer that is cut short counts as none, so
        nothing is lost, and what is asked here changes nothing, so nothing is done twice.
        """
        what = str((body or {}).get("model") or "Ollama")
        if path in LOADING and body is not None and "keep_alive" not in body:
            body = {**body, "keep_alive": KEEP_ALIVE}
            self._asked.add(what)

        def once() -> Any:
            answer = self._client.request(method, path, json=body)
            if answer.status_code >= 300:  # a redirect is not followed
                raise explained(answer.text, what, answer.status_code, body)
            value = json.loads(answer.content) if answer.content.strip() else None
            if isinstance(value, dict) and "error" in value:
                raise explained(json.dumps(value), what, body=body)
            return value

        return self._patiently(once, what, self._patience if patience is None else patience)

    def _patiently(self, once: Callable[[], Any], what: str, patience: float) -> Any:
        deadline, wait = time.monotonic() + patience, FIRST_WAIT
        while True:
            try:
                return once()
            except self._failures as error:
                failure: EngineError = Unavailable(
                    f"{what}: Ollama at {self.url} does not answer ({type(error).__name__}); is it still running?"
                )
            except Unavailable as error:
                failure = error
            if self._closed.is_set():
                raise EngineError("the connection to Ollama is closed")
            if time.monotonic() + wait > deadline:
                raise failure
            self._closed.wait(wait * random.uniform(0.5, 1.0))  # not all threads at once
            wait = min(2 * wait, LONGEST_WAIT)

    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """The lines of an NDJSON answer. Raises for an error line and for an end without its last line."""
        what = str(body.get("model") or "Ollama")
        last: Mapping[str, Any] = {}
        try:
            with self._client.stream("POST", path, json=dict(body)) as answer:
                if answer.status_code >= 400:
                    answer.read()
                    raise explained(answer.text, what, answer.status_code, body)
                for line in answer.iter_lines():
                    if not line.strip():
                        continue
                    last = json.loads(line)
                    if "error" in last:
                        raise explained(line, what)
                    yield last
        except self._failures as error:
            raise Unavailable(f"{what}: Ollama's answer was cut short ({type(error).__name__}); run again") from None
        if last.get("status") != "success" and not last.get("done"):
            raise Unavailable(f"{what}: Ollama's answer ended too early; run again")

    # --- its models ---

    def models(self) -> list[ManifestEntry]:
        """The models, as `ollama list` shows them."""
        return [_entry(model) for model in ModelList.model_validate(self.ask("GET", "/api/tags")).models]

    def show(self, model: str) -> Mapping[str, Any]:
        """Template, system, parameters, details … of a model. Raises UsageError where it is not there."""
        return dict(self.ask("POST", "/api/show", {"model": model}))

    def models_folder(self) -> str | None:
        """The folder that the server keeps its models in, by the path of one; None where it names no path."""
        for each in self.models():
            with contextlib.suppress(ExpertuneError, *MALFORMED):
                for path in shown(each.name, self.show(each.name)).weights:
                    folder, _, blob = path.replace("\\", "/").rpartition("/blobs/")
                    if BLOB.search(blob):
                        return path[: len(folder)]
        return None

    def holds(self, model: str) -> bool:
        """Check whether a model of that name is there."""
        return full_name(model) in {full_name(each.name) for each in self.models()}

    def unload(self, model: str) -> None:
        """Free the memory that the model takes in the server; a model that is not loaded is not an error."""
        self._asked.discard(model)
        loaded = {full_name(each.name) for each in ModelList.model_validate(self.ask("GET", "/api/ps")).models}
        if full_name(model) in loaded:
            self.ask("POST", "/api/generate", {"model": model, "keep_alive": 0})

    # --- changes ---

    def has_blob(self, digest: str) -> bool:
        """Check whether the server has a file of this sha256 ("sha256:…") already."""

        def once() -> bool:
            status = self._client.head(f"/api/blobs/{digest}").status_code
            if status not in (200, 404):
                raise explained("", digest, status)
            return status == 200

        return self._patiently(once, "Ollama", self._patience)

    def upload(self, path: Path, digest: str, on_bytes: Callable[[int], None]) -> None:
        """Send a file that the server has not got; `on_bytes(count)` after each block. Nothing of a part is kept."""

        def blocks() -> Iterator[bytes]:
            with open(path, "rb") as file:
                while block := file.read(UPLOAD_BLOCK):
                    yield block
                    on_bytes(len(block))

        if self.has_blob(digest):
            return
        headers = {"Content-Length": str(path.stat().st_size), "Content-Type": "application/octet-stream"}
        try:
            answer = self._client.post(f"/api/blobs/{digest}", content=blocks(), headers=headers)
        except self._failures as error:
            if self.has_blob(digest):  # another upload was faster: the server closes on what it knows
                return
            raise Unavailable(f"{path}: the upload to Ollama broke off ({type(error).__name__}); run again") from None
        if answer.status_code >= 400:
            raise explained(answer.text, str(path), answer.status_code)

    def copy(self, source: str, target: str) -> None:
        """Give a model a second name; overwrites a name that is taken."""
        self.ask("POST", "/api/copy", {"source": source, "destination": target})

    def delete(self, model: str) -> None:
        """Unload a model and remove its name and what no other name needs; one that is not there is not an error."""
        if model in self._asked:
            self._release(model)  # Ollama keeps a deleted model in memory
        with contextlib.suppress(UsageError):
            self.ask("DELETE", "/api/delete", {"model": model})

    # --- closing ---

    def close(self) -> None:
        """Stop retrying, unload what was asked here and close the connections; safe to call twice."""
        self._closed.set()
        self._client.timeout = UNLOAD_SECONDS
        for model in tuple(self._asked):
            self._release(model)
        self._client.close()

    def _release(self, model: str) -> None:
        """Unload a model at the end of its use, which no failure of the server may hide."""
        with contextlib.suppress(ExpertuneError, *MALFORMED):
            self.unload(model)

    def __enter__(self) -> OllamaServer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def full_name(model: str) -> str:
    """A name with its tag and without the default host and namespace, as /api/tags writes it."""
    name = model.removeprefix("registry.ollama.ai/").removeprefix("library/")
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _entry(model: ListedModel) -> ManifestEntry:
    facts = ((model.details or {}).get(key) or "" for key in ("family", "parameter_size", "quantization_level"))
    return ManifestEntry(model.name, model.size or 0, *map(str, facts))


def _numbers(version: str) -> tuple[int, ...]:
    """(0, 33, 0) of "0.33.0" or "0.33.0-rc2"; one without numbers, or 0.0.0 (built from source), is the newest."""
    head = version.partition("-")[0].split(".")
    numbers = tuple(int(part) for part in head) if all(part.isdigit() for part in head) else ()
    return numbers if any(numbers) else (9999,)


def running_server(*, allow_remote: bool = False) -> OllamaServer | None:
    """The server that OLLAMA_HOST names, None where none answers or where it may not be asked."""
    try:
        return OllamaServer(allow_remote=allow_remote)
    except (EngineError, UsageError):
        return None
