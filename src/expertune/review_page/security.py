"""Who may read the page: one host name, one origin, a token in the address; over a network also a password and TLS.

Pages hold patient text, so no answer may be kept by a cache, shown inside another page or run any other script.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True)
class Access:
    """`hosts` are the Host headers that are answered ("127.0.0.1:8080"), `password` is empty on loopback."""

    scheme: str
    hosts: tuple[str, ...]
    token: str
    password: str = ""

    @property
    def address(self) -> str:
        return f"{self.scheme}://{self.hosts[0]}/{self.token}/"


class Guard:
    """ASGI middleware: refuses what is not of this page, and sets the headers of every answer."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # the page has neither a lifespan nor web sockets
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refusal = self.refusal(Request(scope))
        await (refusal or self.app)(scope, receive, guarded)

    def refusal(self, request: Request) -> PlainTextResponse | None:
        headers, access = request.headers, self.access
        if headers.get("host", "") not in access.hosts:
            return PlainTextResponse("This page has another address.", 421)
        own = [f"{access.scheme}://{host}" for host in access.hosts]
        origin = headers.get("origin")
        if origin not in own and (origin is not None or request.method not in ("GET", "HEAD")):
            return PlainTextResponse("The request comes from another page.", 403)
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return PlainTextResponse("The request comes from another page.", 403)
        token = request.scope["path"].split("/")[1]
        if not hmac.compare_digest(token.encode(), access.token.encode()):
            return PlainTextResponse("Open the address that expertune review has printed.", 404)
        if access.password and not hmac.compare_digest(_password(headers), access.password.encode()):
            return PlainTextResponse("Password needed.", 401, {"WWW-Authenticate": 'Basic realm="expertune"'})
        return None


def _password(headers: Headers) -> bytes:
    """The password of HTTP Basic authentication, whatever the user name."""
    scheme, _, sent = headers.get("authorization", "").partition(" ")
    try:
        return base64.b64decode(sent, validate=True).partition(b":")[2] if scheme.lower() == "basic" else b""
    except (binascii.Error, ValueError):
        return b""
