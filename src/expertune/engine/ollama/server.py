"""A running Ollama server over the `ollama` client: retries while it is busy, and never contacts another host."""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from ...errors import EngineError, UsageError
from .errors import Unavailable, explained
from .host import checked_url

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 600.0  # loading a large model comes before its first answer
PATIENCE_SECONDS = 60.0  # how long a busy or vanished server is asked again
FIRST_WAIT, LONGEST_WAIT = 0.1, 8.0  # seconds between two attempts, doubled each time
UPLOAD_BLOCK = 1 << 20  # bytes


class OllamaServer:
    """Safe for many threads; a context manager. Nothing but `url` is ever contacted: no proxy, no redirect.

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
        from ollama import Client

        self.url = checked_url(host, allow_remote=allow_remote)
        self._patience = patience
        limits = httpx.Timeout(timeout, connect=CONNECT_SECONDS)
        # trust_env would send patient text through a proxy that some variable names
        client = Client(self.url, timeout=limits, follow_redirects=False, trust_env=False)
        self._client = cast("httpx.Client", client._client)  # for the fields that the client's own verbs do not know
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

        def once() -> Any:
            answer = self._client.request(method, path, json=body)
            if answer.status_code >= 300:  # a redirect is not followed
                raise explained(answer.text, what, answer.status_code)
            value = json.loads(answer.content) if answer.content.strip() else None
            if isinstance(value, dict) and "error" in value:
                raise explained(json.dumps(value), what)
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

    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The lines of an NDJSON answer. Raises for an error line and for an end without its last line."""
        what = str(body.get("model") or "Ollama")
        last: dict[str, Any] = {}
        try:
            with self._client.stream("POST", path, json=dict(body)) as answer:
                if answer.status_code >= 400:
                    answer.read()
                    raise explained(answer.text, what, answer.status_code)
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

    def tags(self) -> list[dict[str, Any]]:
        """The models, as `ollama list` shows them."""
        return list(self.ask("GET", "/api/tags")["models"])

    def show(self, model: str) -> dict[str, Any]:
        """Template, system, parameters, details … of a model. Raises UsageError where it is not there."""
        return dict(self.ask("POST", "/api/show", {"model": model}))

    def holds(self, model: str) -> bool:
        """Check whether a model of that name is there."""
        return full_name(model) in {full_name(each["name"]) for each in self.tags()}

    def unload(self, model: str) -> None:
        """Free the memory that the model takes in the server; a model that is not loaded is not an error."""
        loaded = {full_name(each["name"]) for each in self.ask("GET", "/api/ps")["models"]}
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
        """Remove a name and what no other name needs; a name that is not there is not an error."""
        with contextlib.suppress(UsageError):
            self.ask("DELETE", "/api/delete", {"model": model})

    # --- closing ---

    def close(self) -> None:
        """Stop retrying and close the connections; safe to call twice."""
        self._closed.set()
        self._client.close()

    def __enter__(self) -> OllamaServer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def full_name(model: str) -> str:
    """A name with its tag and without the default host and namespace, as /api/tags writes it."""
    name = model.removeprefix("registry.ollama.ai/").removeprefix("library/")
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


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
