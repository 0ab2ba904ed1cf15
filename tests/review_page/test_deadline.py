"""A request must arrive in time: slow and broken clients neither stay nor keep others waiting."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="the page's packages are not installed (expertune[page])")
import uvicorn

from expertune.review_page import deadline
from expertune.review_page.app import make_app
from expertune.review_page.results import Results
from expertune.review_page.security import Access
from expertune.review_page.server import open_session
from review_page.pages import rate_source, raw_file

HEAD = "POST /tok/join HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\nContent-Length: {length}\r\n\r\n"


@pytest.fixture
def port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A page on which a request has a tenth of a second to arrive."""
    monkeypatch.setattr(deadline, "SECONDS", 0.1)
    session = open_session(rate_source(raw_file(tmp_path)), tmp_path / "page.sqlite", overlap=0.0, seed=1)
    with socket.socket() as listening, session.journal:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        found = listening.getsockname()[1]
        app = make_app(session, Results(tmp_path / "out.csv"), Access("http", (f"127.0.0.1:{found}",), "tok"))
        config = uvicorn.Config(app, http=deadline.RequestDeadline, lifespan="off", log_level="critical", ws="none")
        server = uvicorn.Server(config)
        running = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        running.start()
        try:
            yield found
        finally:
            server.should_exit = True
            running.join()


def join(connection: http.client.HTTPConnection, port: int) -> int:
    connection.request("POST", "/tok/join", "name=Ana", {"Origin": f"http://127.0.0.1:{port}"})
    answer = connection.getresponse()
    answer.read()
    return answer.status


@pytest.mark.parametrize("sent", ["", "POST /tok/jo", "body"])
def test_an_unended_request_is_cut_off_and_others_are_answered(port: int, sent: str) -> None:
    request = HEAD.format(host=f"127.0.0.1:{port}", length=9) + "name=" if sent == "body" else sent
    with socket.create_connection(("127.0.0.1", port), timeout=30) as slow:
        slow.sendall(request.encode())
        other = http.client.HTTPConnection("127.0.0.1", port)
        assert join(other, port) == 303
        other.close()
        assert slow.recv(1) == b""


def test_a_later_request_of_a_connection_has_the_same_time(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    assert [join(connection, port) for _ in range(3)] == [303] * 3
    assert connection.sock is not None
    connection.sock.sendall(b"POST /tok/jo")
    assert connection.sock.recv(1) == b""
    connection.close()
