"""Start the page: read the file, open the journal, listen, and write the results at the end."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import secrets
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ..errors import UsageError
from .journal import PageJournal
from .results import Results
from .session import Session
from .source import Source

SWITCH_SECONDS = 0.0005  # the thread that learns TF-IDF lets that of the server in ten times as soon as by default
FEWEST_LETTERS = 12  # of a password that protects patient text on a network


@dataclass(frozen=True)
class Listen:
    """Where the page is served. Another host than this one needs `allow_remote`, a password and TLS."""

    host: str = "127.0.0.1"
    port: int = 0
    allow_remote: bool = False
    password_file: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def password(self) -> str:
        """The password, "" on loopback. Raises UsageError for an address that is not protected well enough."""
        if _is_loopback(self.host):
            if self.allow_remote:
                raise UsageError("--allow-remote: also give --host, the name or address of this machine for others")
            return ""
        if not self.allow_remote:
            raise UsageError(f"--host {self.host}: is not this machine alone; add --allow-remote to show records there")
        files = {"--password-file": self.password_file, "--tls-certificate": self.certificate, "--tls-key": self.key}
        for flag, path in files.items():
            if path is None:
                raise UsageError(f"--allow-remote: needs {flag}; without it patient text would be open to the network")
            if not path.is_file():
                raise UsageError(f"{path}: no such file; correct {flag}")
        if self.host in ("0.0.0.0", "::"):
            raise UsageError(f"--host {self.host}: give the name or address that the experts' browsers open")
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(self.certificate or "", self.key)
        except (ssl.SSLError, OSError) as error:
            problem = f"cannot be used ({type(error).__name__}); give a certificate and its key as PEM"
            raise UsageError(f"--tls-certificate, --tls-key: {problem}") from None
        password = (self.password_file or Path()).read_text(encoding="utf-8").strip()
        if len(password) < FEWEST_LETTERS:
            raise UsageError(f"{self.password_file}: the password has fewer than {FEWEST_LETTERS} characters")
        return password


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_installed() -> None:
    """Raises UsageError where the page's packages are missing."""
    if missing := [name for name in ("starlette", "uvicorn") if find_spec(name) is None]:
        raise UsageError(f"--page: {missing[0]} is not installed; install it with: pip install 'expertune[page]'")


def open_session(source: Source, journal: Path, *, overlap: float, seed: int) -> Session:
    """The session of a source with its journal. Raises UsageError and OutputError."""
    scale = source.scale
    mapping = json.dumps(dict(zip(scale.labels, scale.values, strict=True)), ensure_ascii=False)
    return Session(source, PageJournal(journal, work=source.work, mapping=mapping), overlap, seed)


def serve(
    session: Session, results: Results, listen: Listen, said: Callable[[str], None], *, debug: bool = False
) -> str:
    """Serve until Ctrl-C or SIGTERM (systemd, docker stop), then write the results; the line about them.

    `said` gets the address. Errors of the program are logged only with `debug`: a message of a library may hold the
    text of a record.
    """
    import uvicorn

    from .app import make_app
    from .deadline import RequestDeadline
    from .security import Access

    password = listen.password()
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    # with the protocol named asyncio sets TCP_NODELAY; without it the body of an answer waits 40 ms for an ACK
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((listen.host, listen.port))
        except OSError as error:
            raise UsageError(f"{listen.host} port {listen.port}: {error.strerror}; choose another --port") from None
        listening.listen()  # who opens the address at once waits, and is not refused
        access = Access("https" if password else "http", _hosts(listen.host, listening), _token(), password)
        threading.Thread(target=session.learn_forever, daemon=True).start()
        config = uvicorn.Config(
            make_app(session, results, access),
            http=RequestDeadline,
            access_log=False,  # addresses hold the token
            log_level="error" if debug else "critical",
            lifespan="off",
            server_header=False,
            proxy_headers=False,
            ws="none",
            timeout_graceful_shutdown=2,
            ssl_certfile=listen.certificate if password else None,
            ssl_keyfile=listen.key if password else None,
        )
        sys.setswitchinterval(SWITCH_SECONDS)
        # uvicorn ends by either signal, and then raises it again: SIGTERM takes the way of Ctrl-C
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
        with contextlib.suppress(KeyboardInterrupt):
            said(access.address)
            uvicorn.Server(config).run(sockets=[listening])
    return results.write(session) if session.entries else "nothing was rated, nothing is written"


def _hosts(host: str, listening: socket.socket) -> tuple[str, ...]:
    """The Host headers that are answered; a browser leaves out the scheme's own port, which we do not use."""
    port = listening.getsockname()[1]
    names = [f"[{host}]" if ":" in host else host]
    if _is_loopback(host) and host != "localhost":
        names.append("localhost")
    return tuple(f"{name}:{port}" for name in names)


def _token() -> str:
    return secrets.token_urlsafe(24)
