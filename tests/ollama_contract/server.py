"""An HTTP server that answers as Ollama 0.33 was recorded to (../data/ollama_exchanges).

    with ContractServer(tmp_path / "models") as server:
        server.add("tiny", tiny.make(tmp_path / "tiny.gguf"), system="You rate.")
        … ask server.url …

The models folder is real and the answers are real: the embedded engine computes them. `server.requests` lists what was
asked, `server.pulls` what Ollama would have fetched from the network, `server.fail` brings faults.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from .create import Importer, LineError, check, create
from .faults import Fault
from .generate import Abilities, Generator
from .handler import Handler, Http, Request
from .runners import Runners
from .store import Failure, Store


class ContractServer:
    """A context manager; also `close()`. Every switch is said at the constructor, every fault by `fail`.

    `version` decides what is ignored: logprobs below 0.12.11, `_debug_render_only` below 0.11.5, adapters are refused
    from 0.34.1 (`accepts_adapters` overrides it). `broken_chat_format`: chat with `format` is refused as it is for
    models without a template layer. `reorder`: create lays tensors out otherwise. `other_template`: create puts this in
    the place of the template that was sent. `path_prefix`: the folder's name as the server shows it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        version: str = "0.33.0",
        accepts_adapters: bool | None = None,
        broken_chat_format: bool = False,
        reorder: bool = False,
        other_template: str | None = None,
        path_prefix: str | None = None,
    ) -> None:
        number = tuple(int(part) for part in version.split("-")[0].split("."))
        accepts = number < (0, 34, 1) if accepts_adapters is None else accepts_adapters
        self.version, self.folder = version, Path(folder)
        self.store = Store(self.folder, path_prefix)
        self.importer = Importer(accepts, reorder, other_template)
        self.runners = Runners()
        self.generator = Generator(
            self.store, self.runners, Abilities(number >= (0, 12, 11), number >= (0, 11, 5), broken_chat_format)
        )
        self.requests: list[Request] = []
        self.pulls: list[str] = []
        self.delay = 30.0  # seconds: how long "slow" waits at most for its client to go
        self.closing = threading.Event()
        self._faults: dict[str, list[Fault]] = {}
        self.lock = threading.RLock()  # one thing at a time, as with OLLAMA_NUM_PARALLEL=1
        self._http = Http(("127.0.0.1", 0), Handler)
        self._http.owner = self
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._http.server_address[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def add(
        self,
        name: str,
        gguf_path: Path,
        template: str | None = None,
        system: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        license: str | None = None,
    ) -> None:
        """What a user's `ollama create` did earlier; not among `requests`. Raises ValueError with Ollama's words."""
        digest, _ = self.store.put(Path(gguf_path).read_bytes())
        given = {"template": template, "system": system, "parameters": parameters, "license": license}
        body = {"model": name, "files": {Path(gguf_path).name: digest}, **{k: v for k, v in given.items() if v}}
        try:
            with self.lock:
                list(create(self.store, body, check(self.store, body, self.importer), self.importer))
        except (Failure, LineError) as error:
            raise ValueError(str(error)) from None

    def fail(self, path: str, fault: Fault, times: int = 1) -> None:
        """The next `times` requests of `path` (or below it; HEAD does not count) meet `fault`."""
        self._faults.setdefault(path, []).extend(itertools.repeat(fault, times))

    def heal(self) -> None:
        """Forget the faults that are still to come."""
        self._faults.clear()

    def fault_for(self, method: str, path: str) -> Fault | None:
        for begin, faults in self._faults.items():
            if method != "HEAD" and faults and (path == begin or path.startswith(begin.rstrip("/") + "/")):
                return faults.pop(0)
        return None

    def close(self) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        with self.lock:
            self.runners.close()

    def __enter__(self) -> ContractServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
