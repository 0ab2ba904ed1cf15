"""No command contacts anything but this machine, nor the proxy that variables name.

The commands run in a child whose audit hook (in a sitecustomize, so that its own children have it too) writes down each
address that is connected, bound or looked up in Python. llama.cpp's own sockets are not seen by it: it runs offline.
"""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tiny
from ollama_contract.server import ContractServer
from proofs.test_canaries import TOPIC, new_records, records
from rate.stub import write_csv

ROOT = Path(__file__).resolve().parents[2]
HOOK = """
import json, os, sys

def hook(event, given):
    if event in ("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg"):
        address = given[1]
        kept = address[:2] if isinstance(address, tuple) else None  # None: a socket of this machine's files
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        kept = (given[0], given[1] if len(given) > 1 else None)
    else:
        return
    if kept is not None:
        line = json.dumps([event, str(kept[0]), str(kept[1])])
        with open(os.environ["SEEN"], "a") as file:
            file.write(line + "\\n")

sys.addaudithook(hook)
"""
PROGRAM = """
import contextlib, http.client, io, json, os, signal, sys, threading, time, urllib.parse
from expertune.cli.main import main

def run(arguments):
    try:
        main(arguments)
    except SystemExit as end:
        return int(end.code or 0)

def open_page(said):
    while "open http" not in said.getvalue():
        time.sleep(0.02)
    address = urllib.parse.urlparse(said.getvalue().partition("open ")[2].split()[0])
    client = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
    client.request("GET", address.path)
    print("page", client.getresponse().status, file=sys.stderr)
    client.close()
    os.kill(os.getpid(), signal.SIGINT)

*commands, page = json.loads(sys.argv[1])
codes = {arguments[0]: run(arguments) for arguments in commands}
said = io.StringIO()
threading.Thread(target=open_page, args=(said,), daemon=True).start()
with contextlib.redirect_stdout(said):
    codes["page"] = run(page)
print(json.dumps(codes), file=sys.stderr)
"""


@pytest.fixture
def trap() -> Iterator[socket.socket]:
    """A listening socket that nobody may connect to."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        yield listening


def caught(trap: socket.socket) -> bool:
    try:
        trap.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def is_this_machine(host: str) -> bool:
    try:
        return host in ("localhost", "None", "") or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def environment(tmp_path: Path, trap: socket.socket, ollama: str) -> dict[str, str]:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(HOOK)
    proxy = f"http://127.0.0.1:{trap.getsockname()[1]}"
    names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
    kept = {name: value for name, value in os.environ.items() if name.casefold() != "no_proxy"}
    return {
        **kept,
        **dict.fromkeys(names, proxy),
        "PYTHONPATH": os.pathsep.join(map(str, (tmp_path / "site", ROOT / "src"))),
        "SEEN": str(tmp_path / "seen"),
        "OLLAMA_HOST": ollama,
        "OLLAMA_MODELS": str(tmp_path / "none"),
        "HOME": str(tmp_path),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }


def test_the_trap_and_the_hook_catch(tmp_path: Path, trap: socket.socket) -> None:
    program = "import urllib.request as u; u.urlopen('http://192.0.2.1/', timeout=5)"
    how = environment(tmp_path, trap, "127.0.0.1:9")
    with subprocess.Popen([sys.executable, "-c", program], env=how, stderr=subprocess.DEVNULL) as process:
        trap.settimeout(30)
        assert caught(trap)
        process.kill()
    assert str(trap.getsockname()[1]) in (tmp_path / "seen").read_text()
    assert not is_this_machine("192.0.2.1") and not is_this_machine("example.org") and is_this_machine("::1")


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C ends the page there otherwise")
def test_every_command_stays_on_this_machine(tmp_path: Path, trap: socket.socket) -> None:
    raw, new = write_csv(tmp_path / "raw.csv", records(120)), write_csv(tmp_path / "new.csv", new_records(20))
    model = tiny.make(tmp_path / "base.gguf", layers=1, context=1024)
    names = ("formatted.csv", "set", "tuned", "rated.csv", "review.csv")
    formatted, model_set, tuned, rated, queue = (str(tmp_path / name) for name in names)
    common = ["--input", formatted, "--model", str(model), "--topics", TOPIC, "--bootstrap-resamples", "100"]
    quick = ["--model-set-budget-seconds", "2", "--approach"]
    small = [*quick, "tune", "--epochs", "1", "--rank", "4", "--batch-size", "8", "--class-weight", "none"]
    commands = [
        ["format", str(raw), "--output", formatted, "--topics", TOPIC],
        ["check", "--input", formatted],
        ["tune", "--output-dir", model_set, *common, *quick, "model-set"],
        ["tune", "--output-dir", tuned, *common, *small],
        ["rate", str(new), "--with", model_set, "--output", rated],
        ["report", model_set],
        ["review", rated, "--output", queue],
        ["models", str(model)],
        ["doctor", "--model", str(model)],
        ["review", rated, "--page", "--output", str(tmp_path / "page.csv")],
    ]
    with ContractServer(tmp_path / "models") as server:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, json.dumps(commands)],
            env=environment(tmp_path, trap, server.url), capture_output=True, text=True, check=False, cwd=tmp_path,
            timeout=500,
        )  # fmt: skip
        port = server.url.rpartition(":")[2]
    assert done.returncode == 0, done.stderr[-3000:]
    codes = json.loads(done.stderr.splitlines()[-1])
    assert codes.pop("tune") in (0, 3) and set(codes.values()) == {0} and "page 200" in done.stderr, done.stderr
    seen = [json.loads(line) for line in (tmp_path / "seen").read_text().splitlines()]
    assert [each for each in seen if not is_this_machine(each[1])] == []
    assert ["socket.connect", "127.0.0.1", port] in seen  # Ollama was asked, so the hook sees what the commands do
    assert not caught(trap)
