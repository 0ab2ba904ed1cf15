"""An HTTP server that answers as Ollama 0.33 was recorded to (../data/ollama_exchanges).

    with ContractServer(tmp_path / "models") as server:
        server.add("tiny", tiny.make(tmp_path / "tiny.gguf"), system="You rate.")
        … ask server.url …

The models folder is real and the answers are real: the embedded engine computes them. `server.requests` lists what was
asked, `server.fail` brings faults.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .create import Layers, create
from .faults import Fault
from .generate import Generator
from .handler import Handler, Http, Request
from .store import Store


class ContractServer:
    """A context manager; also `close()`. `path_prefix` is the folder's name as the server shows it.

    `change` makes the layers that /api/create keeps of those that were sent, as the import of another version may.
    """

    def __init__(self, folder: Path, *, version: str = "0.33.0", path_prefix: str | None = None) -> None:
        self.version, self.folder = version, Path(folder)
        self.store = Store(self.folder, path_prefix)
        self.generator = Generator(self.store)
        self.change: Callable[[Layers], Layers] = lambda layers: layers
        self.requests: list[Request] = []
        self.closing = threading.Event()
        self.lock = threading.RLock()  # one thing at a time, as with OLLAMA_NUM_PARALLEL=1
        self._faults: dict[str, list[Fault]] = {}
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

    def add(self, name: str, gguf_path: Path, **fields: Any) -> None:
        """Make a model as a user's `ollama create` did earlier; not among `requests`.

        `fields` are those of /api/create: template, system, parameters, license.
        """
        digest, _ = self.store.put(gguf_path.read_bytes())
        body = {"model": name, "files": {gguf_path.name: digest}, **fields}
        with self.lock:
            *_, last = create(self.store, body, lambda layers: layers)
        assert last == {"status": "success"}

    def fail(self, path: str, fault: Fault, times: int = 1) -> None:
        """The next `times` requests of `path` (or below it; HEAD does not count) meet `fault`."""
        self._faults.setdefault(path, []).extend(itertools.repeat(fault, times))

    def heal(self) -> None:
        """Forget the faults that are still to come."""
        self._faults.clear()

    def fault_for(self, method: str, path: str) -> Fault | None:
        for begin, faults in self._faults.items():
            if method != "HEAD" and faults and (path == begin or path.startswith(f"{begin}/")):
                return faults.pop(0)
        return None

    def close(self) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        with self.lock:
            self.generator.close()

    def __enter__(self) -> ContractServer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
