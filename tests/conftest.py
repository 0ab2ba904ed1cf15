"""For every test: no host but this machine can be reached, and a server of the user's is not asked by accident.

A bare `pytest` is the fast tier, on all cores. With a path, -m or -k everything that was selected runs, so
`pytest tests` runs all.
Tests on real models run only when they are asked for: they download 331 MB and take minutes. So do those on a real
Ollama, since they make models in it.

With xdist each worker keeps to a core of its own, and so does all that it starts: left alone, each would compute in a
thread for every core, and the threads of several workers wait for each other most of the time. The files that take
longest come first, so that no worker is left with one of them at the end (`make test` keeps this order).
"""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest

LOOPBACK = ("127.0.0.1", "::1", "localhost")
ON_REQUEST = "on real models, which are fetched (331 MB): ask for it with -m realmodel or EXPERTUNE_REALMODEL=1"
IN_OLLAMA = "makes models in the Ollama server at OLLAMA_HOST and removes them: ask for it with -m ollama"
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
LONGEST = (
    "train/test_distributed.py", "proofs/test_full_disk.py", "test_registration_refused.py", "test_fine_tuner.py",
    "parity/test_families.py", "test_ollama_end_to_end.py", "test_readme.py", "workflow/test_model_set.py",
    "workflow/test_checkpoints.py", "workflow/test_plan_time.py", "workflow/test_unlabelled.py",
    "report/test_report.py", "workflow/test_families.py",
)  # fmt: skip


def _keep_to_one_core() -> None:
    """Before numpy and torch are loaded, which count the cores once."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(WORKER.removeprefix("gw")) % len(cores)]})


if WORKER and hasattr(os, "sched_setaffinity"):
    _keep_to_one_core()


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """The fast tier takes every core; `-n 0` and `--pdb` keep it to one process."""
    if not WORKER and _is_fast_tier(config) and getattr(config.option, "numprocesses", 0) is None:
        config.option.numprocesses = "auto"
        config.option.dist = "loadfile"


def pytest_report_header(config: pytest.Config) -> str | None:
    return "fast tier: tests marked slow are left out; `pytest tests` runs all" if _is_fast_tier(config) else None


def _is_fast_tier(config: pytest.Config) -> bool:
    """Return True where the command line selects nothing: no path, no -m, no -k."""
    with_path = config.args_source is pytest.Config.ArgsSource.ARGS
    return not (with_path or config.getoption("markexpr") or config.getoption("keyword"))


def _place_of_file(item: pytest.Item) -> int:
    file = item.path.as_posix()
    return next((at for at, name in enumerate(LONGEST) if file.endswith(f"tests/{name}")), len(LONGEST))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what was not asked for, whatever other -m is given. A fixture would come too late: a module's run first."""
    if _is_fast_tier(config):
        slow = [item for item in items if item.get_closest_marker("slow") is not None]
        items[:] = [item for item in items if item.get_closest_marker("slow") is None]
        config.hook.pytest_deselected(items=slow)
    if WORKER:
        items.sort(key=_place_of_file)
    asked = config.getoption("markexpr") or ""
    unasked = {} if "realmodel" in asked or os.environ.get("EXPERTUNE_REALMODEL") == "1" else {"realmodel": ON_REQUEST}
    if "ollama" not in asked:
        unasked["ollama"] = IN_OLLAMA
    for item in items:
        for marker, reason in unasked.items():
            if item.get_closest_marker(marker) is not None:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def no_host_but_this_machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection to any other address fails the test that tried it. Real servers are for `-m ollama` only."""
    connect, connect_ex, lookup = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def checked(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in LOOPBACK:
            raise AssertionError(f"{address[0]} was contacted")
        return address

    def looked_up(host: Any, *rest: Any, **more: Any) -> Any:
        if host is not None and str(host) not in LOOPBACK and not str(host).replace(".", "").isdigit():
            raise AssertionError(f"{host} was looked up")
        return lookup(host, *rest, **more)

    monkeypatch.setattr(socket.socket, "connect", lambda self, address: connect(self, checked(self, address)))
    monkeypatch.setattr(socket.socket, "connect_ex", lambda self, address: connect_ex(self, checked(self, address)))
    monkeypatch.setattr(socket, "getaddrinfo", looked_up)
    if request.node.get_closest_marker("ollama") is None:
        monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
