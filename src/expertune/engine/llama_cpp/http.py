"""JSON over a few kept connections to a server on this machine, safe for many threads."""

from __future__ import annotations

import contextlib
import http.client
import json
import queue
import socket
import threading
from collections.abc import Mapping
from typing import Any

from ...errors import EngineError

GONE = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError, ConnectionAbortedError)


class JsonClient:
    """At most `connections` requests at once; more callers wait. An interrupted caller leaves no half-read answer.

    Connections are kept: a new one for each request costs more than tokenising does.
    """

    def __init__(self, host: str, port: int, *, headers: Mapping[str, str], connections: int) -> None:
        self._headers = {"Content-Type": "application/json", **headers}
        self._all = [http.client.HTTPConnection(host, port) for _ in range(connections)]
        self._idle: queue.LifoQueue[http.client.HTTPConnection] = queue.LifoQueue()
        self._closed = False
        self._lock = threading.Lock()
        for connection in self._all:
            connection.auto_open = 0  # only _send opens, so that nothing can open after close()
            self._idle.put(connection)

    def request(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and JSON value of the answer. Raises EngineError where there is none."""
        data = None if body is None else json.dumps(body).encode()
        connection = self._idle.get()
        try:
            return self._exchange(connection, method, path, data)
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.close()
            if self._closed:
                raise EngineError("the engine is closed") from None
            raise EngineError(f"the engine did not answer ({type(error).__name__}); start it again") from error
        except BaseException:
            connection.close()  # a half-read answer must not meet the next question
            raise
        finally:
            if self._closed:
                connection.close()
            self._idle.put(connection)

    def _exchange(
        self, connection: http.client.HTTPConnection, method: str, path: str, data: bytes | None
    ) -> tuple[int, Any]:
        kept = connection.sock is not None
        try:
            return self._send(connection, method, path, data)
        except GONE:
            # the server drops idle connections; what we send can be sent twice, since it changes nothing
            connection.close()
            if not kept:
                raise
            return self._send(connection, method, path, data)

    def _send(
        self, connection: http.client.HTTPConnection, method: str, path: str, data: bytes | None
    ) -> tuple[int, Any]:
        with self._lock:
            if self._closed:
                raise ConnectionAbortedError
            if connection.sock is None:
                connection.connect()
        connection.request(method, path, data, self._headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())

    def close(self) -> None:
        """Cut every connection, so that requests under way in other threads end at once."""
        with self._lock:
            self._closed = True
            for connection in self._all:
                if (sock := connection.sock) is not None:
                    with contextlib.suppress(OSError):
                        sock.shutdown(socket.SHUT_RDWR)
        idle = []
        with contextlib.suppress(queue.Empty):
            while True:
                idle.append(self._idle.get_nowait())
        for connection in idle:  # those in use are closed by who uses them
            connection.close()
            self._idle.put(connection)
