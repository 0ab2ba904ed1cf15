"""The routes of the server. Every answer ends its connection, so that a closed server is gone for its clients."""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from .create import create
from .faults import act
from .show import show, tags
from .store import Failure, go_json, name_of, parts_of

if TYPE_CHECKING:
    from .server import ContractServer

JSON, NDJSON = "application/json; charset=utf-8", "application/x-ndjson"
BLOBS = "/api/blobs/"


@dataclass(frozen=True)
class Request:
    """One request as it came; `json` is None where it has no JSON body."""

    method: str
    path: str
    json: Any


class Http(ThreadingHTTPServer):
    owner: ContractServer

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

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def begin(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Connection": "close"}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def send(self, status: int, content: bytes = b"", kind: str | None = None) -> None:
        self.begin(status, Content_Length=str(len(content)), **({"Content_Type": kind} if kind else {}))
        if self.command != "HEAD":
            self.wfile.write(content)

    def send_json(self, value: Any, status: int = 200) -> None:
        self.send(status, go_json(value).rstrip(), JSON)

    def send_lines(self, lines: list[Any], *, ended: bool = True) -> None:
        self.begin(200, Content_Type=NDJSON, Transfer_Encoding="chunked")
        for content in itertools.chain(map(go_json, lines), [b""] if ended else []):
            self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")

    def do_GET(self) -> None:
        contract, is_blob = self.contract, self.path.startswith(BLOBS)
        content = b"" if is_blob else self.body()
        body = json.loads(content) if content else None
        contract.requests.append(Request(self.command, self.path, body))
        if fault := contract.fault_for(self.command, self.path):
            act(self, fault, self.path, body or {})
            return
        try:
            if is_blob:
                self.blob(self.path.removeprefix(BLOBS))
            else:
                with contract.lock:
                    self.api(f"{self.command} {self.path}", body or {})
        except Failure as error:
            self.send_json({"error": str(error)}, error.status)

    do_POST = do_DELETE = do_HEAD = do_GET

    def api(self, route: str, body: dict[str, Any]) -> None:
        contract, store, generator = self.contract, self.contract.store, self.contract.generator
        answers: dict[str, Callable[[], Any]] = {
            "GET /api/version": lambda: {"version": contract.version},
            "GET /api/tags": lambda: tags(store),
            "GET /api/ps": generator.ps,
            "POST /api/show": lambda: show(store, store.find(name_of(parts_of(body["model"])))),
            "POST /api/create": lambda: list(create(store, body, contract.change)),
            "POST /api/copy": lambda: store.copy(body["source"], body["destination"]),
            "DELETE /api/delete": lambda: generator.unload(store.delete(body["model"]).name),
            "POST /api/chat": lambda: generator.chat(body),
            "POST /api/generate": lambda: generator.generate(body),
        }
        if contract.version >= "0.35":
            answers["POST /v1/systemone"] = lambda: generator.decide(body)
        if route not in answers:
            self.send(404, b"404 page not found", "text/plain")
            return
        value = answers[route]()
        if isinstance(value, list):
            self.send_lines(value)
        elif value is None:
            self.send(200)
        else:
            self.send_json(value)

    def blob(self, digest: str) -> None:
        store = self.contract.store
        path = store.blob(digest)
        if self.command == "HEAD":
            self.send(200 if path.exists() else 404)
            return
        content = self.body()
        found = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if found != digest:
            raise Failure(400, f'digest mismatch, expected "{digest}", got "{found}"')
        store.put(content)
        self.send(201)
