"""An HTTP server that answers as Ollama 0.33 was recorded to (../data/ollama_exchanges).

    with ContractServer(tmp_path / "models") as server:
        server.add("tiny", tiny.make(tmp_path / "tiny.gguf"), system="You rate.")
        … ask server.url …

The models folder is real and the answers are real: the embedded engine computes them. `server.requests` lists what was
asked, `server.pulls` what Ollama would have fetched from the network, `server.fail` brings faults.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

from .create import Importer, LineError, check, create
from .faults import Fault, act
from .generate import Abilities, Generator, Runners
from .show import show, tags
from .store import Failure, Name, Store, go_json

JSON, PLAIN_JSON, NDJSON = "application/json; charset=utf-8", "application/json", "application/x-ndjson"
CHUNKED_FROM = 2048  # bytes: Go's server gives no length for more
NEEDS_JSON = ("/api/show", "/api/create", "/api/copy", "/api/delete", "/api/generate", "/api/chat", "/api/embed")


@dataclass(frozen=True)
class Request:
    """One request as it came; `json` is None where it has no JSON body."""

    method: str
    path: str
    json: Any


class ContractServer:
    """A context manager; also `close()`. Every switch is said at the constructor, every fault by `fail`.

    `version` decides what is ignored: logprobs below 0.12.11, `_debug_render_only` below 0.11.5, adapters are refused
    from 0.34.1 (`accepts_adapters` overrides it). `broken_chat_format`: chat with `format` is refused as it is for
    models without a template layer. `reorder`: create lays tensors out otherwise. `other_template`: create puts this in
    the place of the template that was sent. `path_prefix`: the folder's name as the server shows it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        version: str = "0.33.0",
        accepts_adapters: bool | None = None,
        broken_chat_format: bool = False,
        reorder: bool = False,
        other_template: str | None = None,
        path_prefix: str | None = None,
    ) -> None:
        number = tuple(int(part) for part in version.split("-")[0].split("."))
        accepts = number < (0, 34, 1) if accepts_adapters is None else accepts_adapters
        self.version, self.folder = version, Path(folder)
        self.store = Store(self.folder, path_prefix)
        self.importer = Importer(accepts, reorder, other_template)
        self.runners = Runners()
        self.generator = Generator(
            self.store, self.runners, Abilities(number >= (0, 12, 11), number >= (0, 11, 5), broken_chat_format)
        )
        self.requests: list[Request] = []
        self.pulls: list[str] = []
        self.delay = 30.0  # seconds: how long "slow" waits at most for its client to go
        self.closing = threading.Event()
        self._faults: dict[str, list[Fault]] = {}
        self.lock = threading.RLock()  # one thing at a time, as with OLLAMA_NUM_PARALLEL=1
        self._http = _Http(("127.0.0.1", 0), _Handler)
        self._http.contract = self
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._http.server_address[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def add(
        self,
        name: str,
        gguf_path: Path,
        *,
        template: str | None = None,
        system: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        license: str | None = None,
    ) -> None:
        """What a user's `ollama create` did earlier; not among `requests`. Raises ValueError with Ollama's words."""
        digest, _ = self.store.put(Path(gguf_path).read_bytes())
        given = {"template": template, "system": system, "parameters": parameters, "license": license}
        body = {"model": name, "files": {Path(gguf_path).name: digest}, **{k: v for k, v in given.items() if v}}
        try:
            with self.lock:
                list(create(self.store, body, check(self.store, body, self.importer), self.importer))
        except (Failure, LineError) as error:
            raise ValueError(str(error)) from None

    def fail(self, path: str, fault: Fault, times: int = 1) -> None:
        """The next `times` requests of `path` (or below it; HEAD does not count) meet `fault`."""
        self._faults.setdefault(path, []).extend(itertools.repeat(fault, times))

    def fault_for(self, method: str, path: str) -> Fault | None:
        for begin, faults in self._faults.items():
            if method != "HEAD" and faults and (path == begin or path.startswith(begin.rstrip("/") + "/")):
                return faults.pop(0)
        return None

    def close(self) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        with self.lock:
            self.runners.close()

    def __enter__(self) -> ContractServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    contract: ContractServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what some tests are about; our own errors are printed."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Http  # pyright: ignore[reportIncompatibleVariableOverride]
    disable_nagle_algorithm = True

    # --- in and out ---

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def version_string(self) -> str:
        return ""

    def send_response(self, code: int, message: str | None = None) -> None:
        self.send_response_only(code, message)  # no Server line, as Go
        self.send_header("Date", self.date_time_string())

    def body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def send(self, status: int, content: bytes, kind: str | None = None, *, length: bool = True) -> None:
        self.send_response(status)
        if kind:
            self.send_header("Content-Type", kind)
        chunked = len(content) > CHUNKED_FROM
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif length:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(_chunk(content) + _chunk(b"") if chunked else content)

    def send_json(self, value: Any, status: int = 200, kind: str = JSON) -> None:
        self.send(status, go_json(value, newline=False).encode(), kind)

    def send_lines(self, lines: Iterator[Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", NDJSON)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for line in lines:
            self.wfile.write(_chunk(go_json(line).encode()))
        self.wfile.write(_chunk(b""))

    # --- routes ---

    def do_GET(self) -> None:
        self.route()

    do_POST = do_DELETE = do_HEAD = do_GET

    def route(self) -> None:
        contract, path = self.server.contract, self.path.split("?")[0]
        is_blob = path.startswith("/api/blobs/")
        content = b"" if is_blob else self.body()
        contract.requests.append(Request(self.command, path, _json(content)))
        if fault := contract.fault_for(self.command, path):
            act(self, fault, path, _json(content) or {})
            return
        try:
            if is_blob:
                self.blob(path.removeprefix("/api/blobs/"))
            else:
                self.api(self.command, path, content)
        except Failure as error:
            self.send_json({"error": str(error)}, error.status, JSON if error.charset else PLAIN_JSON)

    def api(self, method: str, path: str, content: bytes) -> None:
        contract = self.server.contract
        body = _checked(content) if path in NEEDS_JSON and method in ("POST", "DELETE") else {}
        with contract.lock:
            if (method, path) == ("GET", "/"):
                self.send(200, b"Ollama is running", "text/plain; charset=utf-8")
            elif (method, path) == ("GET", "/api/version"):
                self.send_json({"version": contract.version})
            elif (method, path) == ("GET", "/api/tags"):
                self.send_json(tags(contract.store))
            elif (method, path) == ("GET", "/api/ps"):
                self.send_json(contract.runners.ps())
            elif (method, path) == ("POST", "/api/show"):
                self.show(body)
            elif (method, path) == ("POST", "/api/create"):
                self.create(body)
            elif (method, path) == ("POST", "/api/copy"):
                contract.store.copy(body["source"], body["destination"])
                self.send(200, b"")
            elif (method, path) == ("DELETE", "/api/delete"):
                gone = contract.store.delete(body.get("model") or body["name"])
                contract.runners.unload(gone.name.short)
                self.send(200, b"")
            elif (method, path) in (("POST", "/api/chat"), ("POST", "/api/generate")):
                self.speak(contract.generator.chat(body) if path == "/api/chat" else contract.generator.generate(body))
            elif (method, path) == ("POST", "/api/embed"):
                raise Failure(501, "This server does not support embeddings. Start it with `--embeddings`")
            else:
                self.send(404, b"404 page not found", "text/plain")

    def show(self, body: Mapping[str, Any]) -> None:
        contract, text = self.server.contract, body.get("model") or body.get("name") or ""
        name = Name.parse(text)
        if name is None:
            raise Failure(400, "invalid model name")
        self.send_json(show(contract.store, body, contract.store.find(text, shown=name.short)))

    def speak(self, answer: Any) -> None:
        if isinstance(answer, dict):
            self.send_json(answer)
        else:
            self.send_lines(answer)

    def create(self, body: Mapping[str, Any]) -> None:
        contract = self.server.contract
        try:
            name = check(contract.store, body, contract.importer)
        except Failure as error:
            if "pull model manifest" in str(error):
                contract.pulls.append(body["from"])
            raise
        lines = _told(create(contract.store, body, name, contract.importer))
        if body.get("stream", True):
            self.send_lines(lines)
            return
        *_, last = lines
        self.send_json(last, 500 if "error" in last else 200, PLAIN_JSON)

    def blob(self, digest: str) -> None:
        contract = self.server.contract
        path = contract.store.blob(digest)
        if self.command == "HEAD":
            if not path.exists():
                self.send_json({"error": f'blob "{digest}" not found'}, 404)
            else:
                self.send(200, b"", length=False)
            return
        if path.exists():
            self.refuse_body()
            return
        content = self.body()
        found = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if found != digest.replace("-", ":"):
            raise Failure(400, f'digest mismatch, expected "{digest}", got "{found}"')
        contract.store.put(content)
        self.send(201, b"")

    def refuse_body(self) -> None:
        """200, and the connection closes before the body is read; Go waits so that the answer arrives first."""
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.flush()
        with suppress(OSError):
            self.connection.shutdown(1)
        time.sleep(0.05)
        self.close_connection = True


def _chunk(content: bytes) -> bytes:
    return f"{len(content):x}\r\n".encode() + content + b"\r\n"


def _told(statuses: Iterator[str]) -> Iterator[dict[str, str]]:
    try:
        for status in statuses:
            yield {"status": status}
    except LineError as error:
        yield {"error": str(error)}
    except Failure as error:
        yield {"error": str(error)}


def _json(content: bytes) -> Any:
    try:
        return json.loads(content) if content else None
    except ValueError:
        return None


def _checked(content: bytes) -> Any:
    """Raises Failure with Go's words for what is no JSON object."""
    if not content.strip():
        raise Failure(400, "missing request body")
    try:
        value = json.loads(content)
    except json.JSONDecodeError as error:
        rest = error.doc[error.pos :].strip()
        message = f"invalid character '{rest[0]}' looking for beginning of value" if rest else "unexpected EOF"
        raise Failure(400, message) from None
    if not isinstance(value, dict):
        raise Failure(400, "json: cannot unmarshal into Go value")
    return value
