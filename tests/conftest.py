"""For every test: no host but this machine can be reached, and a server of the user's is not asked by accident.

Tests on real models run only when they are asked for: they download 331 MB and take minutes.
"""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest

LOOPBACK = ("127.0.0.1", "::1", "localhost")
ON_REQUEST = "on real models, which are fetched (331 MB): ask for it with -m realmodel or EXPERTUNE_REALMODEL=1"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip `realmodel` tests whatever other -m is given. A fixture would come too late: those of a module run first."""
    if "realmodel" in (config.getoption("markexpr") or "") or os.environ.get("EXPERTUNE_REALMODEL") == "1":
        return
    for item in items:
        if item.get_closest_marker("realmodel") is not None:
            item.add_marker(pytest.mark.skip(reason=ON_REQUEST))


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
