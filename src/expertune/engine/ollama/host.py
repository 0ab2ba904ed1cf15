"""The URL of the Ollama server: OLLAMA_HOST, parsed as Ollama does (0.33.0-rc2, envconfig/config.go, Host)."""

from __future__ import annotations

import ipaddress
import os
from urllib.parse import urlsplit

from ...errors import UsageError

DEFAULT_PORTS = {"http": 80, "https": 443}  # where a scheme is given; else 11434
PORT = 11434


def host_url(host: str | None = None) -> str:
    """`host` or OLLAMA_HOST as a URL with scheme and port; http://127.0.0.1:11434 where neither says anything.

    An address to listen on (0.0.0.0, ::) becomes the loopback address: nobody can connect to it everywhere.
    """
    text = (host if host is not None else os.environ.get("OLLAMA_HOST", "")).strip().strip("\"'")
    scheme, found, rest = text.partition("://")
    if not found:
        scheme, rest = "http", text
    try:
        parts = urlsplit(f"//{rest}")
        name, port = parts.hostname or "127.0.0.1", parts.port
    except ValueError:
        raise UsageError(f"{text}: no host and port; OLLAMA_HOST looks like 127.0.0.1:11434") from None
    if scheme not in DEFAULT_PORTS:
        raise UsageError(f"{text}: OLLAMA_HOST begins with http://, https:// or nothing")
    if name in ("0.0.0.0", "::"):
        name = "127.0.0.1" if name == "0.0.0.0" else "::1"
    port = port or (DEFAULT_PORTS[scheme] if found else PORT)
    return f"{scheme}://{f'[{name}]' if ':' in name else name}:{port}{parts.path.rstrip('/')}"


def is_this_machine(url: str) -> bool:
    """Check whether the host is a loopback address; a name other than localhost is not resolved, so it is not one."""
    name = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def checked_url(host: str | None = None, *, allow_remote: bool = False) -> str:
    """`host_url`, limited to this machine. Raises UsageError for another machine unless `allow_remote`."""
    url = host_url(host)
    if not allow_remote and not is_this_machine(url):
        raise UsageError(
            f"{url}: the Ollama server is on another machine and patient text would be sent there; "
            "use --allow-remote if that is meant, or set OLLAMA_HOST to a server on this machine"
        )
    return url
