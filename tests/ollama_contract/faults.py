"""What can go wrong on the way: each fault as it was recorded from a real server."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from .generate import now
from .runners import CANNOT_LOAD
from .store import go_json

if TYPE_CHECKING:
    from .handler import Handler

Fault = Literal["busy", "runner-killed", "closed", "cut", "slow", "cannot-load", "no-space"]
BUSY = "server busy, please try again.  maximum pending requests exceeded"
KILLED = "an error was encountered while running the model: unexpected EOF"
FULL = "write {path}: no space left on device"
POLL = 0.02  # seconds


def act(handler: Handler, fault: Fault, path: str, body: Mapping[str, Any]) -> None:
    """Answer (or not) as `fault` says."""
    if fault == "busy":
        handler.send_json({"error": BUSY}, 503)
    elif fault == "cannot-load":
        handler.send_json({"error": CANNOT_LOAD}, 500)
    elif fault == "runner-killed":
        if path in ("/api/chat", "/api/generate") and body.get("stream", True):
            handler.send_lines(iter([*_beginning(path, body), {"error": KILLED}]))
        else:
            handler.send_json({"error": KILLED}, 500)
    elif fault == "no-space":
        blob = handler.contract.store.shown_blob(path.rpartition("/")[2])
        handler.send_json({"error": FULL.format(path=f"{blob}-partial")}, 500)
    elif fault == "cut":
        _cut(handler, path, body)
    elif fault == "slow":
        _outwait(handler)
    else:
        hang_up(handler)


def hang_up(handler: Handler) -> None:
    handler.close_connection = True
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)


def _beginning(path: str, body: Mapping[str, Any]) -> list[dict[str, Any]]:
    part = {"message": {"role": "assistant", "content": " a"}} if path == "/api/chat" else {"response": " a"}
    return [{"model": body.get("model"), "created_at": now(), **part, "done": False}] * 2


def _cut(handler: Handler, path: str, body: Mapping[str, Any]) -> None:
    """A stream loses its end; one answer loses the second half of its bytes."""
    streams = path in ("/api/chat", "/api/generate", "/api/create") and body.get("stream", True)
    lines = [{"status": "parsing GGUF"}] if path == "/api/create" else _beginning(path, body)
    content = go_json(lines[0]).encode()
    handler.send_response(200)
    handler.send_header("Content-Type", "application/x-ndjson" if streams else "application/json; charset=utf-8")
    if streams:
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for line in lines:
            content = go_json(line).encode()
            handler.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")
    else:
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[: len(content) // 2])
    hang_up(handler)


def _outwait(handler: Handler) -> None:
    """No answer until the client has gone, or for `server.delay` seconds at most; then the connection closes."""
    contract = handler.contract
    until = time.monotonic() + contract.delay
    while time.monotonic() < until and not contract.closing.is_set():
        readable, _, _ = select.select([handler.connection], [], [], POLL)
        if readable and not handler.connection.recv(1, socket.MSG_PEEK):
            break
    handler.close_connection = True
