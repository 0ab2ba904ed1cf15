"""The command: what it refuses before it listens, and a page over TLS."""

from __future__ import annotations

import base64
import json
import re
import shutil
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import httpx
import pytest

from expertune.cli.main import main
from expertune.errors import UsageError
from expertune.review_page.server import Listen, check_installed
from review_page.pages import ROOT, rated_file, raw_file, read, serving

needs_page = pytest.importorskip("uvicorn", reason="the page's packages are not installed (expertune[page])")
PASSWORD = "correct horse battery staple"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl command to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "page.crt", folder / "page.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=page",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


def test_only_this_machine_without_allow_remote() -> None:
    for host in ("127.0.0.1", "localhost", "::1", "127.0.0.2"):
        assert Listen(host).password() == ""
    for host in ("0.0.0.0", "192.168.1.5", "page.example", "::", ""):
        with pytest.raises(UsageError, match="--allow-remote"):
            Listen(host).password()
    with pytest.raises(UsageError, match="--host"):
        Listen(allow_remote=True).password()


def test_allow_remote_needs_a_password_and_tls(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    certificate, key = pair
    password = tmp_path / "password"
    password.write_text(PASSWORD + "\n")
    short = tmp_path / "short"
    short.write_text("geheim")
    whole = {"allow_remote": True, "password_file": password, "certificate": certificate, "key": key}
    assert Listen("page.example", **whole).password() == PASSWORD
    for missing, flag in (("password_file", "--password-file"), ("certificate", "--tls-cert"), ("key", "--tls-key")):
        with pytest.raises(UsageError, match=flag):
            Listen("page.example", **{**whole, missing: None}).password()
        with pytest.raises(UsageError, match="no such file"):
            Listen("page.example", **{**whole, missing: tmp_path / "gone"}).password()
    with pytest.raises(UsageError, match="fewer than 12"):
        Listen("page.example", **{**whole, "password_file": short}).password()
    with pytest.raises(UsageError, match="PEM"):
        Listen("page.example", **{**whole, "key": certificate}).password()
    with pytest.raises(UsageError, match=r"0\.0\.0\.0"):
        Listen("0.0.0.0", **whole).password()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--page", "--allow-remote", "--host", "page.example"), "--password-file"),
        (("--page", "--host", "page.example"), "--allow-remote"),
        (("--work", "rate"), "add --page"),
        (("--page", "--work", "adjudicate"), "--expert"),
        (("--page", "--expert", "Ward"), "two experts"),
        (("--page", "--expert", "Ward", "--expert", "None"), 'no column "None"'),
        (("--page", "--expert", "Ward", "--expert", "Row_ID"), 'row 2, column "Ward"'),
        (("--page", "--output", "raw.csv"), "is the input itself"),
        (("--page", "--output", "there.csv"), "exists already"),
        (("--page", "--output", "results.jsonl"), "choose another --output"),
        (("--page", "--work", "review"), "expertune rate has written"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    raw_file(tmp_path)
    (tmp_path / "there.csv").write_text("mine")
    with pytest.raises(SystemExit) as end:
        main(["review", "raw.csv", *arguments])
    error = capsys.readouterr().err
    assert end.value.code == 2 and says in error and len(error.splitlines()) == 1
    assert (tmp_path / "there.csv").read_text() == "mine"


def test_a_rated_file_of_other_labels_names_the_mapping(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["review", str(rated_file(tmp_path)), "--page", "--rating-mapping", '{"A": 1, "B": 0}'])
    assert "--rating-mapping" in capsys.readouterr().err


@pytest.mark.slow
def test_without_the_extra_one_line_says_what_to_install(tmp_path: Path) -> None:
    raw_file(tmp_path)
    code = (
        "import importlib.util, sys\nfind = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'uvicorn' else find(name, *rest)\n"
        "from expertune.cli.main import main\nmain(['review', 'raw.csv', '--page'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(ROOT / "src"), "PATH": "/usr/bin"},
    )  # fmt: skip
    assert done.returncode == 2 and "pip install 'expertune[page]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    check_installed()


def test_a_page_over_tls_with_a_password(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    """127.0.0.1 stands for a remote host here: the checks are those of the guard, the transport is real."""
    import socket
    import threading

    import uvicorn

    from expertune.review_page.app import make_app
    from expertune.review_page.results import Results
    from expertune.review_page.security import Access
    from expertune.review_page.server import open_session
    from review_page.pages import rate_source

    certificate, key = pair
    session = open_session(rate_source(raw_file(tmp_path)), tmp_path / "page.sqlite", overlap=0.0, seed=1)
    with socket.socket() as listening, session.journal:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        host = f"127.0.0.1:{listening.getsockname()[1]}"
        app = make_app(session, Results(tmp_path / "out.csv"), Access("https", (host,), "tok", PASSWORD))
        config = uvicorn.Config(app, lifespan="off", log_level="critical", ssl_certfile=certificate, ssl_keyfile=key)
        server = uvicorn.Server(config)
        running = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        running.start()
        try:
            trusted = ssl.create_default_context(cafile=str(certificate))
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(f"https://{host}/tok/", context=trusted, timeout=30)
            assert refused.value.code == 401
            refused.value.close()
            sent = base64.b64encode(f"ana:{PASSWORD}".encode()).decode()
            request = urllib.request.Request(f"https://{host}/tok/", headers={"Authorization": f"Basic {sent}"})
            with urllib.request.urlopen(request, context=trusted, timeout=30) as answer:
                assert b"Your name" in answer.read()
        finally:
            server.should_exit = True
            running.join(30)


@pytest.mark.slow
def test_nothing_but_its_own_lines_is_printed(tmp_path: Path) -> None:
    raw_file(tmp_path)
    with serving("raw.csv", cwd=tmp_path) as (process, address):
        with urllib.request.urlopen(address, timeout=30) as answer:
            assert answer.status == 200
        process.send_signal(2)
        output = process.communicate(timeout=60)[0]
    assert output.splitlines() == ["nothing was rated, nothing is written"]
    assert not (tmp_path / "formatted_dataset.csv").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_the_page_and_writes_the_results(tmp_path: Path, name: str) -> None:
    """Ctrl-C, and what systemd and `docker stop` send; a browser that keeps its connection open delays neither."""
    raw_file(tmp_path, 12)
    with serving("raw.csv", cwd=tmp_path) as (process, address):
        origin = {"Origin": address.rsplit("/", 2)[0]}
        with httpx.Client(base_url=address, headers=origin, timeout=30) as browser:
            assert browser.post("join", data={"name": "Ana"}).status_code == 303
            page = browser.get("rater/1/rate").text
            fields = {name: re.search(rf'name="{name}" value="([^"]*)"', page)[1] for name in ("record", "step")}
            assert browser.post("rater/1/rate/rate", data={**fields, "value": "1"}).status_code == 303
            process.send_signal(signal.Signals[name])
            output = process.communicate(timeout=60)[0]
    assert (process.returncode, output.splitlines()) == (0, ["formatted_dataset.csv: 1 records with a rating"])
    assert [row["Standardized_Rating"] for row in read(tmp_path / "formatted_dataset.csv")] == ["1"]
    assert json.loads((tmp_path / "formatted_dataset.summary.json").read_text())["raters"] == {"Ana": 1}
