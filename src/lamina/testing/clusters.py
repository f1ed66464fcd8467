"""Real clusters for tests: a scheduler in the hub of a `machines.network`, a worker on each machine. What is started is ended by pid."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lamina.testing.machines import ADDRESS, Network

CLONE_NEWNET = 0x40000000


@contextmanager
def inside(name: str) -> Iterator[None]:
    """This thread, and those that it starts, in a network namespace. OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net", "rb") as before, open(f"/run/netns/{name}", "rb") as there:
        if libc.setns(there.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
        try:
            yield
        finally:
            if libc.setns(before.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns back")


@dataclass(slots=True)
class Running:
    """A cluster. `url`: what `--engine` takes; it is reached from the hub."""

    url: str
    network: Network
    folder: Path
    tls: Path | None = None
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    others: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, where: str, words: Sequence[str], name: str, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        """A process on a machine; what it says goes into a file of the folder."""
        with open(self.folder / f"{name}.log", "ab") as log:
            return subprocess.Popen(
                [*self.network.enter(where), *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **(env or {})},
                cwd=self.folder,
                start_new_session=True,
            )

    def end(self) -> None:
        for process in (*self.workers, *self.others):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def kill_worker(self, number: int) -> None:
        """As a machine that loses its power: with -9."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.workers[number].pid, signal.SIGKILL)
        self.workers[number].wait()


class Dask:
    """A dask scheduler and workers without nannies: the process of a worker is the worker."""

    module = "distributed"

    @staticmethod
    @contextmanager
    def running(network: Network, resources: Sequence[str], *, threads: int = 4, tls: Path | None = None) -> Iterator[Running]:
        """One worker for each of `resources` (`MEM=1000 CPU=2`). `tls`: a folder of `registryauth.authority` and `certificate`."""
        with _folder() as folder:
            made = Running(f"dask{'+tls' if tls else ''}://{ADDRESS}:8786", network, folder, tls=tls)
            try:
                words = [*_module("distributed.cli.dask_scheduler"), "--host", ADDRESS, "--port", "8786", "--no-dashboard"]
                made.others.append(made.start(network.hub, [*words, *_protocol(tls)], "scheduler"))
                for number in range(len(resources)):
                    made.workers.append(Dask.worker(made, number, resources[number], threads=threads))
                for number, process in enumerate(made.workers):
                    _wait_for_line(folder / f"worker-{number}.log", "Registered to", process)
                yield made
            finally:
                made.end()

    @staticmethod
    def worker(cluster: Running, number: int, resources: str, *, threads: int = 4) -> subprocess.Popen[bytes]:
        """Start one, or one more."""
        scheduler = f"{'tls' if cluster.tls else 'tcp'}://{ADDRESS}:8786"
        words = [*_module("distributed.cli.dask_worker"), scheduler, "--no-nanny", "--no-dashboard", "--nthreads", str(threads)]
        words += ["--resources", resources, "--local-directory", str(cluster.folder), "--death-timeout", "60", "--memory-limit", "0"]
        log = cluster.folder / f"worker-{number}.log"
        log.unlink(missing_ok=True)
        return cluster.start(cluster.network.machines[number], [*words, *_protocol(cluster.tls)], log.stem, _own_store(cluster, number))


def _protocol(tls: Path | None) -> list[str]:
    if tls is None:
        return []
    files = ["--tls-ca-file", str(tls / "ca.crt"), "--tls-cert", str(tls / "server.pem"), "--tls-key", str(tls / "server.key")]
    return ["--protocol", "tls", *files]


class Ray:
    """A ray head that runs nothing itself, and nodes."""

    module = "ray"

    @staticmethod
    @contextmanager
    def running(network: Network, resources: Sequence[str], *, threads: int = 4) -> Iterator[Running]:
        """One node for each of `resources` (as for dask)."""
        with _folder() as folder:
            made = Running(f"ray://{ADDRESS}:10001", network, folder)
            try:
                words = ["--head", "--port", "6379", "--ray-client-server-port", "10001", "--num-cpus", "0", "--include-dashboard", "false"]
                made.others.append(made.start(network.hub, Ray._start(made, ADDRESS, words), "head", _QUIET))
                _wait_for_line(folder / "head.log", "will now block", made.others[0])
                for number in range(len(resources)):
                    made.workers.append(Ray.worker(made, number, resources[number], threads=threads))
                network.wait_for(10001)
                yield made
            finally:
                made.end()

    @staticmethod
    def worker(cluster: Running, number: int, resources: str, *, threads: int = 4) -> subprocess.Popen[bytes]:
        amounts = dict(word.split("=") for word in resources.split())
        cpus, memory = amounts.pop("CPU"), int(amounts.pop("MEM")) * 1_000_000
        words = ["--address", f"{ADDRESS}:6379", "--num-cpus", cpus, "--memory", str(memory)]
        labels = ", ".join(f'"{key}": {value}' for key, value in amounts.items())
        words += ["--resources", "{" + labels + "}"]
        log = cluster.folder / f"node-{number}.log"
        log.unlink(missing_ok=True)
        address = f"198.18.0.{10 + number}"
        process = cluster.start(
            cluster.network.machines[number], Ray._start(cluster, address, words), log.stem, {**_QUIET, **_own_store(cluster, number)}
        )
        # One after the other: two nodes that begin at once on one host take each other's names of sockets.
        _wait_for_line(log, "will now block", process)
        return process

    @staticmethod
    def _start(cluster: Running, address: str, words: Sequence[str]) -> list[str]:
        common = ["--node-ip-address", address, "--object-store-memory", "80000000", "--disable-usage-stats", "--block"]
        if "--head" in words:
            common += ["--temp-dir", str(cluster.folder)]
        return [*_module("ray.scripts.scripts"), "start", *words, *common]


_QUIET = {"RAY_DISABLE_IMPORT_WARNING": "1", "RAY_DEDUP_LOGS": "0"}


def _own_store(cluster: Running, number: int) -> dict[str, str]:
    """Machines have nothing in common but the network."""
    return {"LAMINA_ROOT": str(cluster.folder / f"store-{number}")}


def _wait_for_line(log: Path, words: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 120
    while words not in log.read_text(errors="replace"):
        if process.poll() is not None or time.monotonic() > end:
            raise TimeoutError(f"{log.name} never says {words!r}")
        time.sleep(0.1)


def why_not(module: str) -> str | None:
    """The reason why no such cluster can be started here, or None."""
    return None if importlib.util.find_spec(module) else f"{module} is not installed"


def _module(name: str) -> list[str]:
    return [sys.executable, "-m", name]


@contextmanager
def _folder() -> Iterator[Path]:
    """A short path: ray's sockets are below it."""
    folder = Path(tempfile.mkdtemp(prefix="lam", dir="/tmp"))
    try:
        yield folder
    finally:
        end = time.monotonic() + 10
        while folder.exists() and time.monotonic() < end:  # what was killed may still write
            shutil.rmtree(folder, ignore_errors=True)
