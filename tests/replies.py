"""A server on the loopback that answers what a test says, for faults that no sound server makes.

with replies.serving(lambda request: replies.json_reply({"version": "0.33.0"})) as server:
    … ask server.url; server.asked lists the requests …
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

EXCHANGES = Path(__file__).parent / "data/ollama_exchanges"


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """`body` None: the connection is closed without a word."""

    status: int = 200
    body: bytes | None = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Server:
    url: str
    port: int
    asked: list[Request] = field(default_factory=list)


def json_reply(value: Any, status: int = 200) -> Reply:
    return Reply(status, json.dumps(value).encode())


def recorded(name: str) -> Any:
    """The JSON answer of a recorded exchange, by the name in its file's name."""
    return exchange(name)["response"]["json"]


def exchange(name: str) -> dict[str, Any]:
    (path,) = (path for path in EXCHANGES.glob("*.json") if path.stem.split("-", 1)[1] == name)
    return json.loads(path.read_bytes())


@contextmanager
def serving(answer: Callable[[Request], Reply], address: str = "127.0.0.1") -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _reply(self) -> None:
            request = Request(self.command, self.path, self.rfile.read(int(self.headers.get("Content-Length") or 0)))
            server.asked.append(request)
            reply = answer(request)
            if reply.body is None:
                self.close_connection = True
                return
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(reply.body)

        do_GET = do_POST = do_HEAD = do_DELETE = _reply

        def log_message(self, *args: Any) -> None:
            pass

    class Http(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in address else socket.AF_INET

    http = Http((address, 0), Handler)
    port = int(http.server_address[1])
    server = Server(f"http://{f'[{address}]' if ':' in address else address}:{port}", port)
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
