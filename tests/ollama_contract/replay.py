"""The recorded exchanges themselves: by name, and as a server that answers their very bytes.

with Replay.of("show", "chat-format-bad") as server:
    … ask server.url …
"""

from __future__ import annotations

import functools
import json
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import TracebackType
from typing import Any

from .handler import Http, Request, chunk
from .store import go_json

FOLDER = Path(__file__).parent.parent / "data/ollama_exchanges"
NOT_RECORDED = 501


@functools.cache
def _files() -> dict[str, Path]:
    """Names to files; where a name is used twice, the one outside faults/."""
    files = [*FOLDER.glob("faults/*.json"), *FOLDER.glob("*.json")]
    return {path.stem.split("-", 1)[1]: path for path in files}


def recorded(name: str) -> dict[str, Any]:
    """One exchange: name, note, request, response, as it was recorded."""
    return json.loads(_files()[name].read_text("utf-8"))


def recorded_names() -> list[str]:
    """In the order in which they were made; what a later one sees was made by an earlier one."""
    files = sorted(FOLDER.glob("*.json"), key=lambda path: int(path.stem.split("-")[0]))
    return [path.stem.split("-", 1)[1] for path in files]


def body_of(response: dict[str, Any]) -> bytes:
    """The bytes that the server sent."""
    if "lines" in response:
        return "".join(go_json(line) for line in response["lines"]).encode()
    if response.get("json") is not None:
        return go_json(response["json"], newline=False).encode()
    return response.get("text", "").encode()


class Replay:
    """Answers what was recorded for (method, path, JSON); equal requests in turn, the last again and again.

    Anything else is answered 501 and stands in `unknown`.
    """

    def __init__(self, exchanges: list[dict[str, Any]]) -> None:
        self.exchanges = list(exchanges)
        self.requests: list[Request] = []
        self.unknown: list[Request] = []
        self._http = Http(("127.0.0.1", 0), _Handler)
        self._http.owner = self
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @classmethod
    def of(cls, *names: str) -> Replay:
        return cls([recorded(name) for name in names])

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._http.server_address[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def response(self, request: Request) -> dict[str, Any]:
        self.requests.append(request)
        wanted = {"method": request.method, "path": request.path}
        fits = [
            exchange
            for exchange in self.exchanges
            if wanted == {key: exchange["request"][key] for key in wanted}
            and ("body_is" in exchange["request"] or exchange["request"].get("json") == request.json)
        ]
        if not fits:
            self.unknown.append(request)
            return {"status": NOT_RECORDED, "headers": {}, "json": {"error": "this request was not recorded"}}
        if len(fits) > 1:
            self.exchanges = [exchange for exchange in self.exchanges if exchange is not fits[0]]
        return fits[0]["response"]

    def __enter__(self) -> Replay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Http  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            value = json.loads(content) if content else None
        except ValueError:
            value = None
        response = self.server.owner.response(Request(self.command, self.path, value))
        self.send_response_only(response["status"])
        headers = {key: text for key, text in response["headers"].items() if key != "Content-Length"}
        chunked, out = "Transfer-Encoding" in headers, body_of(response)
        if not chunked:
            headers["Content-Length"] = str(len(out))
        for key, text in headers.items():
            self.send_header(key, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(chunk(out) + chunk(b"") if chunked else out)

    do_POST = do_DELETE = do_HEAD = do_GET
