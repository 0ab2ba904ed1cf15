"""The user's environment: OLLAMA_HOST as Ollama reads it, and variables that must not matter to a local server.

Every case is a process of its own, since a library may read the environment when it is imported.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import replies
from commands import ROOT, expertune
from expertune.engine.ollama.host import host_url
from replies import Reply, Request, json_reply

CLOSED_PORT = "127.0.0.1:9"
SEEN_TO_FAIL = [
    ("ALL_PROXY", "socks5://127.0.0.1:1080"),
    ("all_proxy", "socks://127.0.0.1:1080"),
    ("NO_PROXY", "[::1],fe80::/10"),
    ("SSL_CERT_FILE", "/nowhere.pem"),
]
ALL = {
    **dict(SEEN_TO_FAIL),
    "HTTP_PROXY": f"http://{CLOSED_PORT}",
    "http_proxy": "not a url",
    "https_proxy": f"http://{CLOSED_PORT}",
    "no_proxy": "10.0.0.0/8,:::",
    "SSL_CERT_DIR": "/nowhere",
    "REQUESTS_CA_BUNDLE": "/nowhere.pem",
    "CURL_CA_BUNDLE": "/nowhere.pem",
    "SSLKEYLOGFILE": "/nowhere/keys",
    "OLLAMA_API_KEY": "schlüssel",
}


def answer(request: Request) -> Reply:
    if request.path == "/api/show":
        return json_reply(replies.recorded("show-missing"), 404)
    return json_reply({"models": []} if request.path == "/api/tags" else {"version": "0.33.0"})


@pytest.mark.slow
@pytest.mark.parametrize(("variable", "value"), SEEN_TO_FAIL)
def test_a_local_server_is_asked_whatever_the_variables_of_proxies_and_certificates(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with replies.serving(answer) as server:
        ended = expertune("models", host=server.url)
    assert ended.returncode == 0, ended.stderr
    assert f"Ollama 0.33.0 at {server.url}" in ended.stdout and not ended.stderr
    assert {each.path for each in server.asked} == {"/api/version", "/api/tags"}


@pytest.mark.slow
def test_every_command_starts_with_all_of_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And those that ask no server on the way to their first refusal."""
    for variable, value in ALL.items():
        monkeypatch.setenv(variable, value)
    absent = tmp_path / "absent"
    with replies.serving(answer) as server:
        ended = expertune("doctor", host=server.url)
        assert ended.returncode == 0 and f"{server.url}, version 0.33.0" in ended.stdout, ended.stderr
        for command in (["register", absent, "--name", "x"], ["rate", absent, "--with", absent, "--engine", "ollama"]):
            ended = expertune(*command, host=server.url)
            assert ended.returncode == 2 and str(absent) in ended.stderr and "unexpected" not in ended.stderr
        code = "from expertune.fine_tuner import FineTuner; print(FineTuner(quiet=True).capability('absent').reason)"
        environment = os.environ | {"OLLAMA_HOST": server.url}
        child = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, cwd=ROOT
        )
    assert "neither a file nor an Ollama model (there are none in Ollama at" in child.stdout, child.stderr


@pytest.mark.parametrize(
    ("host", "url"),
    [  # ollama, envconfig/config_test.go (TestHost), except that where it listens everywhere, loopback is asked
        ("", "http://127.0.0.1:11434"),
        ("1.2.3.4", "http://1.2.3.4:11434"),
        (":1234", "http://127.0.0.1:1234"),
        ("1.2.3.4:1337", "http://1.2.3.4:1337"),
        ("example.com", "http://example.com:11434"),
        ("example.com:1337", "http://example.com:1337"),
        (":0", "http://127.0.0.1:0"),
        (":66000", "http://127.0.0.1:11434"),
        (":-1", "http://127.0.0.1:11434"),
        ("localhost:", "http://localhost:11434"),
        ("localhost:http", "http://localhost:11434"),
        ("http://localhost:66000", "http://localhost:80"),
        ("[::1]", "http://[::1]:11434"),
        ("[::]", "http://[::1]:11434"),
        ("::1", "http://[::1]:11434"),
        ("::", "http://[::1]:11434"),
        ("0:0:0:0:0:0:0:1", "http://[::1]:11434"),
        ("::ffff:127.0.0.1", "http://127.0.0.1:11434"),
        ("[::1]:1337", "http://[::1]:1337"),
        ("[::1", "http://[::1]:11434"),
        (" 1.2.3.4 ", "http://1.2.3.4:11434"),
        ('"1.2.3.4"', "http://1.2.3.4:11434"),
        (' " 1.2.3.4 " ', "http://1.2.3.4:11434"),
        ("'1.2.3.4'", "http://1.2.3.4:11434"),
        ("http://1.2.3.4", "http://1.2.3.4:80"),
        ("http://1.2.3.4:1337", "http://1.2.3.4:1337"),
        ("https://1.2.3.4", "https://1.2.3.4:443"),
        ("https://1.2.3.4:1337", "https://1.2.3.4:1337"),
        ("https://example.com/ollama", "https://example.com:443/ollama"),
        ("http://::1/", "http://[::1]:80"),
    ],
)
def test_the_host_as_ollama_reads_it(host: str, url: str) -> None:
    assert host_url(host) == url


@pytest.mark.slow
@pytest.mark.parametrize("host", ["::1", "::", "[::]", ":66000", ":-1"])
def test_a_command_with_the_forms_that_once_failed(host: str) -> None:
    """No server is expected there, and one that a developer runs may answer."""
    ended = expertune("models", "--quick", host=host)
    assert ended.returncode == 0 and "unexpected" not in ended.stderr, ended.stderr
    assert host_url(host) in ended.stdout.splitlines()[0]
    ignored = [line for line in ended.stderr.splitlines() if "is not a port; Ollama and Expertune use 11434" in line]
    assert len(ignored) == (host in (":66000", ":-1"))


@pytest.mark.slow
@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_a_server_on_the_ipv6_loopback_is_asked() -> None:
    try:
        with replies.serving(answer, address="::1") as server:
            for host in (f"[::1]:{server.port}", f"[::]:{server.port}"):
                ended = expertune("models", host=host)
                assert f"Ollama 0.33.0 at http://[::1]:{server.port}" in ended.stdout, ended.stdout
    except OSError as error:
        pytest.skip(f"no IPv6 loopback here ({error})")
