"""Many clients at once on what Expertune serves: errors, latency, memory; also slow and broken clients.

    python bench/load.py page  [--clients 200] [--minutes 10] [--slow 20] [--broken 5]
    python bench/load.py serve [--model OUTDIR] …
    python bench/load.py --table

Each client keeps its connection and sends its next request a second (--pause) after the answer; on the page it is a
rater, and of the served model it asks a decision (without --model that of a tiny random one). A slow client sends a
byte a second, of a request or of its body, a broken one half a request and closes. A result is a line of
bench/results/load.jsonl.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import os
import random
import re
import shlex
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil
from runs import PAGE, RESULTS, ROOT, Entry, append_result, latest, put_between, read_results, stamp, table

FILE = RESULTS / "load.jsonl"
VISITS = ROOT / "examples" / "formatted_dataset.csv"
RECORDS = 60_000  # of the page: more than are rated
PATIENCE = 120.0  # seconds for an answer
UNENDED = 50_000  # bytes of a body that a slow or broken client announces


@dataclass(frozen=True)
class Served:
    """A running server; `key` is its token or key, `body` an example of a request, `path` and `headers` those of a
    request with a body."""

    process: subprocess.Popen[str]
    port: int
    key: str
    path: str
    headers: str
    body: bytes = b""

    @property
    def unended(self) -> bytes:
        """The head of a request whose body does not come."""
        head = f"POST {self.path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nContent-Length: {UNENDED}\r\n"
        return f"{head}{self.headers}\r\n".encode()

    @property
    def memory(self) -> int:
        return psutil.Process(self.process.pid).memory_info().rss

    @property
    def cpu(self) -> float:
        """Seconds of processor time so far."""
        used = psutil.Process(self.process.pid).cpu_times()
        return used.user + used.system


@dataclass
class Seen:
    """Seconds of each answer, what went wrong by kind, and what the slow and broken clients did."""

    pause: float
    seconds: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    since: float = field(default_factory=time.monotonic)


class Client:
    """HTTP/1.1 on one connection, opened again where the server has closed it between two requests."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, body: bytes = b"", headers: str = "") -> tuple[int, str, bytes]:
        """Status, head and body of the answer."""
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
        )
        for again in (True, False):
            fresh = self.streams is None
            if self.streams is None:
                self.streams = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                return await self._once(head.encode() + body)
            except (ConnectionError, asyncio.IncompleteReadError):
                self.close()
                if fresh or not again:
                    raise
        raise AssertionError

    async def _once(self, request: bytes) -> tuple[int, str, bytes]:
        assert self.streams is not None
        reader, writer = self.streams
        writer.write(request)
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        length = re.search(r"(?i)content-length: (\d+)", head)
        body = await reader.readexactly(int(length[1])) if length else b""
        if re.search(r"(?i)connection: close", head):
            self.close()
        return int(head.split(" ", 2)[1]), head, body

    def close(self) -> None:
        if self.streams is not None:
            self.streams[1].close()
        self.streams = None


# --- what is served ---


@contextmanager
def serve_page(folder: Path, source: Path | None) -> Iterator[Served]:
    with open(VISITS, encoding="utf-8", newline="") as file:
        visits = list(csv.DictReader(file))
    records = source or folder / "records.csv"
    if source is None:
        with open(records, "w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("Row_ID", "Prompt"))
            rows.writerows((at + 1, f"{visits[at % len(visits)]['Prompt']}\nVisit: {at}") for at in range(RECORDS))
    with _started(folder, "review", records.name, "--page", until="open ") as (process, said):
        address = urllib.parse.urlparse(said.split("open ")[1].split()[0])
        headers = f"Origin: http://127.0.0.1:{address.port}\r\nHX-Request: true\r\n"
        headers += "Content-Type: application/x-www-form-urlencoded\r\n"
        key = address.path.strip("/")
        yield Served(process, address.port or 0, key, f"/{key}/join", headers)


@contextmanager
def serve_model(folder: Path, source: Path | None) -> Iterator[Served]:
    if source is None:
        sys.path.insert(0, str(ROOT / "tests"))
        import decision_models

        source = decision_models.make(folder / "model.gguf")
    with _started(folder, "serve", str(source.resolve()), "--threads", "1", until="/health") as (process, said):
        (curl,) = [line for line in said.splitlines() if line.startswith("curl ")]
        parts = shlex.split(curl)
        port = urllib.parse.urlparse(next(part for part in parts if part.startswith("http"))).port or 0
        (key,) = re.findall(r"Bearer (\w+)", curl)
        headers = f"Authorization: Bearer {key}\r\nContent-Type: application/json\r\n"
        yield Served(process, port, key, "/v1/systemone", headers, parts[-1].encode())


@contextmanager
def _started(folder: Path, *arguments: str, until: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-m", "expertune", *arguments]
    env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "COLUMNS": "400"}
    with subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = ""
            while until not in said and (line := process.stdout.readline()):
                said += line
            yield process, said
        finally:
            process.kill()


# --- who asks ---


async def rater(served: Served, seen: Seen, number: int) -> None:
    form = served.headers
    with closing(Client(served.port)) as client:
        _, head, _ = await client.ask("POST", served.path, f"name=Rater+{number}".encode(), form)
        work = re.findall(r"(?i)location: (\S+)", head)[0]

        async def once(page: str) -> str:
            fields = dict(re.findall(r'name="(record|step)" value="([^"]*)"', page))
            body = urllib.parse.urlencode({**fields, "value": number % 2, "comment": ""}).encode()
            status, _, answer = await client.ask("POST", f"{work}/rate", body, form)
            if status != 200 or not fields or b"Not saved" in answer:
                raise ValueError(f"status {status}" if fields else "no record")
            return answer.decode()

        page = (await client.ask("GET", work))[2].decode()
        while True:
            answer = await timed(seen, partial(once, page))
            if answer is None:
                client.close()
                answer = (await client.ask("GET", work))[2].decode()
            page = answer


async def asker(served: Served, seen: Seen, number: int) -> None:
    with closing(Client(served.port)) as client:
        body = json.loads(served.body) | {"state": f"cough for {number} days, and a fever"}

        async def once() -> str:
            status, _, answer = await client.ask("POST", served.path, json.dumps(body).encode(), served.headers)
            if status != 200 or "answers" not in json.loads(answer):
                raise ValueError(f"status {status}")
            return "answered"

        while True:
            if await timed(seen, once) is None:
                client.close()


async def timed(seen: Seen, ask: Callable[[], Awaitable[str]]) -> str | None:
    """The answer after a pause, its time kept; None after an error, which is counted."""
    await asyncio.sleep(random.uniform(0.5, 1.5) * seen.pause)
    start = time.monotonic()
    try:
        found = await asyncio.wait_for(ask(), PATIENCE)
    except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.TimeoutError) as error:
        seen.errors[str(error) if isinstance(error, ValueError) else type(error).__name__] += 1
        await asyncio.sleep(0.1)
        return None
    seen.seconds.append(time.monotonic() - start)
    return found


@asynccontextmanager
async def connection(served: Served) -> AsyncIterator[asyncio.StreamWriter]:
    _, writer = await asyncio.open_connection("127.0.0.1", served.port)
    try:
        yield writer
    finally:
        writer.close()


async def slow(served: Served, seen: Seen, number: int) -> None:
    """A byte a second, of the head or (every other client) of the body; again when the server has closed."""
    request = served.unended
    while True:
        with suppress(OSError):
            async with connection(served) as writer:
                start = number % 2 * len(request)
                writer.write(request[:start])
                for at in range(start, len(request) + UNENDED):
                    writer.write(request[at : at + 1] or b" ")
                    await writer.drain()
                    await asyncio.sleep(1)
        seen.others["slow ones cut off"] += 1


async def broken(served: Served, seen: Seen) -> None:
    """Half a request, then the end: of its head, or of its body."""
    request = served.unended
    while True:
        with suppress(OSError):
            async with connection(served) as writer:
                writer.write(request if seen.others["broken"] % 2 else request[:40])
                await writer.drain()
                if seen.others["broken"] % 4 < 2:
                    writer.transport.abort()
        seen.others["broken"] += 1
        await asyncio.sleep(0.05)


async def load(served: Served, ask: Callable[[Served, Seen, int], Awaitable[None]], given: argparse.Namespace) -> Entry:
    seen = Seen(pause=given.pause)
    tasks = [asyncio.ensure_future(ask(served, seen, number)) for number in range(given.clients)]
    tasks += [asyncio.ensure_future(slow(served, seen, number)) for number in range(given.slow)]
    tasks += [asyncio.ensure_future(broken(served, seen)) for _ in range(given.broken)]
    memory, end, cpu = list[int](), time.monotonic() + 60 * given.minutes, served.cpu
    while time.monotonic() < end:
        await asyncio.sleep(min(1.0, max(0.0, end - time.monotonic())))
        if seen.seconds:  # all have begun
            memory.append(served.memory)
    seconds = time.monotonic() - seen.since
    ended = [str(task.exception() or "ended") for task in tasks if task.done()]
    running = set(tasks)
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=1.0)  # wait_for of Python 3.11 may lose a cancellation
    await asyncio.gather(*tasks, return_exceptions=True)
    memory = memory or [served.memory]  # no answer at all
    tenth = max(1, len(memory) // 10)
    return {
        "answers": len(seen.seconds),
        "per_second": round(len(seen.seconds) / seconds, 1),
        "cpu_s": round(served.cpu - cpu, 1),
        "errors": dict(seen.errors) | ({"clients that ended": len(ended)} if ended else {}),
        "others": dict(seen.others),
        **{f"p{share}_ms": percentile(seen.seconds, share) for share in (50, 95, 99)},
        "memory_mb": [round(each / 1e6) for each in (memory[0], memory[-tenth], memory[-1], max(memory))],
        "running": served.process.poll() is None,
    }


def percentile(seconds: Sequence[float], share: int) -> float | None:
    """Milliseconds that `share` % of the answers do not exceed."""
    ordered = sorted(seconds)
    return round(1000 * ordered[-(-len(ordered) * share // 100) - 1], 1) if ordered else None


KINDS = {"page": (serve_page, rater), "serve": (serve_model, asker)}


def lines(entries: Sequence[Entry]) -> list[str]:
    if not entries:
        return ["Not measured yet."]
    head = ("what", "clients (slow, broken)", "minutes", "answers (per second)", "errors", "p50, p95, p99, ms",
            "memory at the start, at the end, most, MB", "server's processor time, s", "machine's load")  # fmt: skip
    found = latest(entries, "what", "clients", "slow", "broken").values()
    rows = [
        (
            each["what"],
            f"{each['clients']} ({each['slow']}, {each['broken']})",
            f"{each['minutes']:g}",
            f"{each['answers']:,} ({each['per_second']:,})",
            f"{sum(each['errors'].values()):,}",
            ", ".join(f"{each[f'p{share}_ms']:,.0f}" for share in (50, 95, 99)),
            "{0}, {2}, {3}".format(*each["memory_mb"]),
            f"{each['cpu_s']:g}",
            f"{each['load']:g}",
        )
        for each in found
    ]
    last = entries[-1]
    return [*table(head, rows), "", f"{last['machine']}; {last['date'][:10]}, commit {last['commit']}."]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("what", nargs="?", choices=[*KINDS])
    options.add_argument("--model", type=Path, help="output folder of a run, or a GGUF; of the page: the records")
    options.add_argument("--clients", type=int, default=200)
    options.add_argument("--slow", type=int, default=0, help="clients that send a byte a second")
    options.add_argument("--broken", type=int, default=0, help="clients that send half a request")
    options.add_argument("--pause", type=float, default=1.0, help="seconds from an answer to the next request")
    options.add_argument("--minutes", type=float, default=10.0)
    options.add_argument("--table", action="store_true", help="put the table into bench/README.md")
    given = options.parse_args()
    if given.what:
        serve, ask = KINDS[given.what]
        with tempfile.TemporaryDirectory() as folder, serve(Path(folder), given.model) as served:
            found = asyncio.run(load(served, ask, given))
        counts = {name: getattr(given, name) for name in ("what", "clients", "slow", "broken", "pause", "minutes")}
        append_result(FILE, {**stamp(), **counts, **found})
        print(json.dumps(found))
    if given.table:
        put_between(PAGE, "bench/load.py", lines(read_results(FILE)))


if __name__ == "__main__":
    main()
