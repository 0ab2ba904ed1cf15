"""What can go wrong on the way: each fault as it was recorded from a real server."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from .generate import CANNOT_LOAD
from .store import go_json

if TYPE_CHECKING:
    from .handler import Handler

Fault = Literal["busy", "runner-killed", "closed", "cut", "slow", "cannot-load", "no-space"]
REFUSALS: dict[str, tuple[str, int]] = {
    "busy": ("server busy, please try again.  maximum pending requests exceeded", 503),
    "cannot-load": (CANNOT_LOAD, 500),
    "runner-killed": ("an error was encountered while running the model: unexpected EOF", 500),
}
POLL = 0.02  # seconds
LONGEST = 30.0  # seconds


def act(handler: Handler, fault: Fault, path: str, body: Mapping[str, Any]) -> None:
    """Answer (or not) as `fault` says."""
    if fault in REFUSALS:
        error, status = REFUSALS[fault]
        handler.send_json({"error": error}, status)
    elif fault == "no-space":
        handler.body()
        blob = handler.contract.store.shown_blob(path.rpartition("/")[2])
        handler.send_json({"error": f"write {blob}-partial: no space left on device"}, 500)
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


def _cut(handler: Handler, path: str, body: Mapping[str, Any]) -> None:
    """The lines of create lose their end; one answer loses the second half of its bytes."""
    if path == "/api/create":
        handler.send_lines([{"status": "parsing GGUF"}], ended=False)
    else:
        content = go_json({"model": body.get("model"), "response": " a", "done": True})
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[: len(content) // 2])
    hang_up(handler)


def _outwait(handler: Handler) -> None:
    """No answer until the client has gone, or for LONGEST at most; then the connection closes."""
    until = time.monotonic() + LONGEST
    while time.monotonic() < until and not handler.contract.closing.is_set():
        readable, _, _ = select.select([handler.connection], [], [], POLL)
        if readable and not handler.connection.recv(1, socket.MSG_PEEK):
            break
        if readable:  # an upload that nobody reads
            time.sleep(POLL)
    handler.close_connection = True
