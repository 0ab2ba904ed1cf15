"""The URL of the Ollama server: OLLAMA_HOST, parsed as Ollama does (0.33.0-rc2, envconfig/config.go, Host)."""

from __future__ import annotations

import functools
import ipaddress
import logging
import os
import re
from urllib.parse import urlsplit

from ...errors import UsageError

log = logging.getLogger("expertune")

DEFAULT_PORTS = {"http": 80, "https": 443}  # where a scheme is given; else 11434
PORT, LARGEST_PORT = 11434, 65535
# Go's net.SplitHostPort: an IPv6 address needs brackets before a port, and then only
HOST_AND_PORT = re.compile(r"(?:\[([^][]*)\]|([^][:]*)):([^][:]*)")
NAME = re.compile(r"[\w.-]+")


def host_url(host: str | None = None) -> str:
    """`host` or OLLAMA_HOST as a URL with scheme and port; http://127.0.0.1:11434 where neither says anything.

    An address to listen on (0.0.0.0, ::) becomes the loopback address: nobody can connect to it everywhere. As in
    Ollama, a port that is not a number from 0 to 65535 is ignored with a warning.
    """
    text = (host if host is not None else os.environ.get("OLLAMA_HOST", "")).strip().strip("\"'").strip()
    scheme, found, rest = text.partition("://")
    if not found:
        scheme, rest = "http", text
    if scheme not in DEFAULT_PORTS:
        raise UsageError(f"{text}: OLLAMA_HOST begins with http://, https:// or nothing")
    authority, _, path = rest.partition("/")
    default = DEFAULT_PORTS[scheme] if found else PORT
    split = HOST_AND_PORT.fullmatch(authority)
    name, port = (split[1] or split[2] or "", _port(split[3], default)) if split else (authority, default)
    path = f"/{path.rstrip('/')}" if path.strip("/") else ""
    return f"{scheme}://{_host(name, text)}:{port}{path}"


@functools.cache  # one warning a process
def _port(text: str, default: int) -> int:
    if re.fullmatch(r"\+?[0-9]+", text) and int(text) <= LARGEST_PORT:
        return int(text)
    log.warning("OLLAMA_HOST: %s is not a port; Ollama and Expertune use %d", text or "nothing", default)
    return default


def _host(name: str, text: str) -> str:
    """The host as it stands in a URL. Raises UsageError for what cannot be one."""
    try:
        address = ipaddress.ip_address(name.strip("[]") or "127.0.0.1")
    except ValueError:
        if NAME.fullmatch(name):
            return name.lower()
        raise UsageError(f"{text}: no host and port; OLLAMA_HOST looks like 127.0.0.1:11434") from None
    address = getattr(address, "ipv4_mapped", None) or address  # as Go writes ::ffff:127.0.0.1
    if address.is_unspecified:
        return "127.0.0.1" if address.version == 4 else "[::1]"
    return f"[{address}]" if address.version == 6 else str(address)


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
