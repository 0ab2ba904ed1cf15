"""The routes of the server, one request at a time, and how Go's server writes its answers."""

from __future__ import annotations

import hashlib
import json
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from .create import LineError, check, create
from .faults import act
from .show import show, tags
from .store import Failure, Name, go_json

if TYPE_CHECKING:
    from .server import ContractServer

JSON, PLAIN_JSON, NDJSON = "application/json; charset=utf-8", "application/json", "application/x-ndjson"
CHUNKED_FROM = 2048  # bytes: Go's server gives no length for more
NEEDS_JSON = ("/api/show", "/api/create", "/api/copy", "/api/delete", "/api/generate", "/api/chat", "/api/embed")


@dataclass(frozen=True)
class Request:
    """One request as it came; `json` is None where it has no JSON body."""

    method: str
    path: str
    json: Any


class Http(ThreadingHTTPServer):
    """Ends the connections that clients keep open when it is closed, as a stopped process would."""

    daemon_threads = True
    block_on_close = False
    owner: Any  # whom the handler asks

    def __init__(self, *args: Any) -> None:
        self.connections: set[socket.socket] = set()
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        super().server_close()
        for connection in list(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what some tests are about; our own errors are printed."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Http  # pyright: ignore[reportIncompatibleVariableOverride]
    disable_nagle_algorithm = True

    @property
    def contract(self) -> ContractServer:
        return self.server.owner

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
            self.wfile.write(chunk(content) + chunk(b"") if chunked else content)

    def send_json(self, value: Any, status: int = 200, kind: str = JSON) -> None:
        self.send(status, go_json(value, newline=False).encode(), kind)

    def send_lines(self, lines: Iterator[Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", NDJSON)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for line in lines:
            self.wfile.write(chunk(go_json(line).encode()))
        self.wfile.write(chunk(b""))

    # --- routes ---

    def do_GET(self) -> None:
        self.route()

    do_POST = do_DELETE = do_HEAD = do_GET

    def route(self) -> None:
        contract, path = self.contract, self.path.split("?")[0]
        is_blob = path.startswith("/api/blobs/")
        content = b"" if is_blob else self.body()
        contract.requests.append(Request(self.command, path, _json(content)))
        if fault := contract.fault_for(self.command, path):
            if is_blob and fault not in ("closed", "cut"):
                self.body()
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
        contract = self.contract
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
        contract, text = self.contract, body.get("model") or body.get("name") or ""
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
        contract = self.contract
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
        contract = self.contract
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
            self.connection.shutdown(socket.SHUT_WR)
        time.sleep(0.05)
        self.close_connection = True


def chunk(content: bytes) -> bytes:
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
