"""Rate on the hosts of a Ray cluster: this process reads, journals and writes, the workers rate (ray_blocks.py)."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..optional import require
from .artifact import Artifact
from .ray_blocks import RayWorkers, Share
from .ray_worker import open_product
from .runner import Stage
from .serve import Kind, ServedModel

LOCAL = "local"  # the address of a cluster that is started for this command, on this machine only
CONNECT_SECONDS = 10.0


@contextmanager
def serve_on_ray(
    product: Artifact,
    kind: Kind,
    address: str,
    stage: Stage,
    *,
    workers: int = 0,
    threads: int | None = None,
    model: str | None = None,
    slots: int = 0,
    context: int = 0,
    votes: bool = False,
) -> Iterator[ServedModel]:
    """Open the product on the workers of the cluster at `address`; "local" starts one on this machine only.

    Every host has the product's folder at the same path, and the same version of Expertune and Ray. 0 `workers` are as
    many as fit, each with `threads` CPUs: one a host if that is not given, with torch one a GPU. The rest is as in
    `serve`.

    Raises UsageError, also where a host has another file than the judged one; EngineError where no worker starts.
    """
    require("ray", "--ray", '"expertune[ray]"')
    if kind == "ollama":
        raise UsageError("--ray: the workers rate by llama.cpp or torch; leave out --engine ollama")
    with ExitStack() as stack:
        with stage("Starting the Ray workers"):
            ray = stack.enter_context(connected(address))
            hosts = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            share = find_share(hosts, workers, threads, by_torch=kind == "torch" or product.readout is not None)
            options = {"model": model, "slots": slots, "context": context, "votes": votes}
            where = (product.folder.resolve(), product.kind, product.config_id)
            cluster = RayWorkers(partial(open_product, *where, kind, share.cpus, options), share)
        yield ServedModel(cluster, cluster.facts.digest, share.workers, cluster.rate_batches)


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Connect to a cluster; a local one listens on the loopback only and leaves no file. Raises UsageError."""
    _check_reachable(address)
    os.environ.update(RAY_USAGE_STATS_ENABLED="0")
    how: Mapping[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "ERROR"}
    with ExitStack() as stack:
        if address == LOCAL:
            # read when ray is imported: 127.0.0.1 is then the address of this host for Ray
            os.environ.update(RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0")
            # in /tmp: the path of a socket may have 103 letters on macOS, whose usual folder is too deep
            short = "/tmp" if Path("/tmp").is_dir() else None
            folder = tempfile.TemporaryDirectory(prefix="ray-", dir=short, ignore_cleanup_errors=True)
            how = {**how, "include_dashboard": False, "_temp_dir": stack.enter_context(folder)}
        import ray  # pyright: ignore[reportMissingImports] - installed by those who use it

        stack.callback(ray.shutdown)
        try:
            ray.init(**how)
        except Exception as error:
            raise _unreachable(address, error) from None
        yield ray


def _check_reachable(address: str) -> None:
    """Ray tries for minutes to reach a host that does not answer."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon:  # local, auto
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _unreachable(address, error) from None


def _unreachable(address: str, error: Exception) -> UsageError:
    reason = f"{type(error).__name__}: {error}".partition("\n")[0]
    return UsageError(f"--ray {address}: no cluster could be reached ({reason}); give host:port of its head, or local")


def find_share(hosts: Sequence[Mapping[str, float]], workers: int, threads: int | None, *, by_torch: bool) -> Share:
    """Divide what the hosts have, as Ray counts it, among workers. Raises UsageError where none fits."""
    gpu_hosts = [host for host in hosts if by_torch and host.get("GPU", 0) >= 1]
    used = gpu_hosts or [host for host in hosts if host.get("CPU", 0) >= 1]
    each = [int(host.get("CPU", 0) // (host.get("GPU", 1) if gpu_hosts else 1)) for host in used]
    most = sum(int(host.get("CPU", 0)) for host in used) // (workers or 1)
    cpus = threads or max(1, min([most, *each]))
    fitting = sum(int(host.get("GPU", 0) if gpu_hosts else host.get("CPU", 0) // cpus) for host in used)
    if not (workers or fitting):
        raise UsageError(f"--ray: no host of the cluster has {cpus} CPUs; give other --threads, or --workers")
    return Share(workers or fitting, cpus, 1 if gpu_hosts else 0)
