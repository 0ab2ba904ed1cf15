"""For every test: no host but this machine can be reached, and a server of the user's is not asked by accident."""

from __future__ import annotations

import socket
from typing import Any

import pytest

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@pytest.fixture(autouse=True)
def no_host_but_this_machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection to any other address fails the test that tried it. Real servers are for `-m ollama` only."""
    connect, connect_ex, lookup = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def checked(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in LOOPBACK:
            raise AssertionError(f"{address[0]} was contacted")
        return address

    def looked_up(host: Any, *rest: Any, **more: Any) -> Any:
        if host is not None and str(host) not in LOOPBACK and not str(host).replace(".", "").isdigit():
            raise AssertionError(f"{host} was looked up")
        return lookup(host, *rest, **more)

    monkeypatch.setattr(socket.socket, "connect", lambda self, address: connect(self, checked(self, address)))
    monkeypatch.setattr(socket.socket, "connect_ex", lambda self, address: connect_ex(self, checked(self, address)))
    monkeypatch.setattr(socket, "getaddrinfo", looked_up)
    if request.node.get_closest_marker("ollama") is None:
        monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
