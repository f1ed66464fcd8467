"""`dask://HOST:PORT` and `dask+tls://HOST:PORT`: steps on the workers of a dask scheduler (extra `dask`).

A worker's resources are `MEM` (MB), `CPU` and one for each label (`dask worker --resources "MEM=8000 CPU=4 gpu=1"`); where MEM or CPU is not declared the worker's memory limit and
number of threads count. A worker takes as many steps at once as it has threads.

A task of dask keeps a place on the worker that was chosen (`daskhand.sit`): so dask's own resources hold for everybody who uses the cluster. The job itself is spoken to by `client.run`,
through the scheduler: dask, which runs tasks of a dead worker again without a word, can only ever keep a place again. Certificates come from dask's configuration.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
import warnings
from collections.abc import Callable, Coroutine
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

from lamina.pipelines.remote import daskhand
from lamina.pipelines.remote.cluster import Cluster, ClusterError, Job, WorkerLost
from lamina.pipelines.remote.dispatch import Dispatched
from lamina.pipelines.remote.pulling import Unreachable
from lamina.pipelines.remote.queueing import Machine

CONNECT = 10.0  # seconds
WATCH = 1.0  # seconds between two looks for workers that are gone
_PRESENT = 0.001  # of a label's resource: it says that the worker has it, not how many may use it
_MB = 1_000_000
_UNLIMITED = 1 << 40  # MB
_SAME = "lamina must be installed on the scheduler and on every worker"
PORT = 8786
T = TypeVar("T")


class _Task(Protocol):
    """The part of distributed.Future that is used."""

    status: str

    def exception(self, timeout: float) -> BaseException: ...

    def release(self) -> None: ...


class _Rpc(Protocol):
    def identity(self) -> Coroutine[object, object, dict[str, dict[str, dict[str, object]]]]: ...


class _Loop(Protocol):
    asyncio_loop: asyncio.AbstractEventLoop


class _Client(Protocol):
    """The part of distributed.Client that is used."""

    scheduler: _Rpc
    loop: _Loop

    def submit(
        self,
        function: Callable[[str, float], None],
        ticket: str,
        lease: float,
        *,
        key: str,
        workers: list[str],
        allow_other_workers: bool,
        resources: dict[str, float],
        priority: int,
        retries: int,
        pure: bool,
    ) -> _Task: ...

    def _run(
        self, function: Callable[[bytes], Coroutine[object, object, bytes]], request: bytes, *, workers: list[str]
    ) -> Coroutine[object, object, dict[str, bytes]]: ...

    def close(self, timeout: float) -> None: ...


def open_dask(address: str) -> Cluster:
    """The URL to a cluster. ClusterError."""
    return Dispatched(DaskWorkers(address))


class DaskWorkers:
    """As dispatch.Workers."""

    def __init__(self, address: str) -> None:
        """`address`: the URL. ClusterError."""
        try:
            import distributed
        except ImportError:
            raise ClusterError("dask is not installed here", hint="pip install 'lamina[dask]'") from None
        self._shown = address
        self._lock = threading.Lock()
        self._lost: dict[str, concurrent.futures.Future[dict[str, bytes]]] = {}
        self._closed = threading.Event()
        self._look = threading.Event()
        where, secure = _scheduler(address)
        for name in ("distributed.client", "distributed.core", "distributed.comm", "distributed.utils", "tornado.application"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what they report reaches the user once, as an error of ours
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about versions that differ: nothing of ours depends on them
                security = distributed.Security() if secure else None
                if security is not None and not (security.tls_ca_file and security.tls_client_cert):
                    raise OSError("no certificates are configured")
                self._client: _Client = distributed.Client(where, timeout=CONNECT, set_as_default=False, name="lamina", security=security)
        except Exception as error:  # dask raises what its layers raise: OSError, ValueError, TypeError, ImportError, ssl.SSLError
            raise ClusterError(f"no dask scheduler can be used at {address}: {_cause(error)}", hint=_way_out(error, secure)) from None
        self._watcher = threading.Thread(target=self._watch, name="workers", daemon=True)
        self._watcher.start()

    def machines(self) -> list[Machine]:
        found = [_machine(name, info) for name, info in self._workers().items()]
        return [machine for machine in found if machine is not None]

    def seat(self, machine: str, ticket: str, job: Job, lease: float) -> DaskSeat:
        info = self._workers().get(machine)
        declared = info.get("resources") if info else None
        asked = {"MEM": float(job.needs.memory), "CPU": job.needs.cpus, **({job.needs.label: _PRESENT} if job.needs.label else {})}
        resources = {name: amount for name, amount in asked.items() if isinstance(declared, dict) and name in declared and amount}
        try:
            future = self._client.submit(
                daskhand.sit,
                ticket,
                lease,
                key=ticket,
                workers=[machine],
                allow_other_workers=False,
                resources=resources,
                priority=job.priority,
                retries=0,
                pure=False,
            )
        except Exception as error:
            raise ClusterError(f"the dask scheduler at {self._shown} takes no task: {_cause(error)}") from None
        return DaskSeat(self, machine, future)

    def close(self) -> None:
        self._closed.set()
        self._look.set()
        self._watcher.join()
        try:
            self._client.close(timeout=CONNECT)
        except Exception:  # the scheduler may be gone; there is nothing left to keep
            pass

    def lost(self, machine: str) -> concurrent.futures.Future[dict[str, bytes]]:
        """Done when the scheduler has lost that worker."""
        with self._lock:
            there = self._lost.get(machine)
            if there is None or there.done():
                there = self._lost[machine] = concurrent.futures.Future()
            return there

    def run(self, machine: str, request: bytes) -> concurrent.futures.Future[dict[str, bytes]]:
        """`daskhand.talk` there."""
        return self._soon(self._client._run(daskhand.talk, request, workers=[machine]))

    def look(self) -> None:
        """Something failed: look soon whether a worker is gone."""
        self._look.set()

    def _workers(self) -> dict[str, dict[str, object]]:
        asked = self._soon(self._client.scheduler.identity())
        try:
            return dict(asked.result(CONNECT)["workers"])
        except Exception as error:
            asked.cancel()
            raise ClusterError(f"the dask scheduler at {self._shown} does not answer: {_cause(error)}", transient=True) from None

    def _soon(self, doing: Coroutine[object, object, T]) -> concurrent.futures.Future[T]:
        return asyncio.run_coroutine_threadsafe(doing, self._client.loop.asyncio_loop)

    def _watch(self) -> None:
        while not self._closed.is_set():
            self._look.wait(WATCH)
            self._look.clear()
            with self._lock:
                watched = {name: future for name, future in self._lost.items() if not future.done()}
            if not watched or self._closed.is_set():
                continue
            try:
                there = self._workers()
            except ClusterError:  # jobs that nobody can reach find out by themselves
                continue
            for name, future in watched.items():
                if name not in there:
                    future.set_result({})
            self._closed.wait(0.05)  # a worker that is dying is looked for often, not without pause


class DaskSeat:
    """As pulling.Seat."""

    def __init__(self, workers: DaskWorkers, machine: str, future: _Task) -> None:
        self.worker = machine
        self._workers = workers
        self._future = future
        self._lost = workers.lost(machine)

    def call(self, request: bytes, timeout: float) -> bytes:
        self._check()
        asked = self._workers.run(self.worker, request)
        concurrent.futures.wait((asked, self._lost), timeout, concurrent.futures.FIRST_COMPLETED)
        if self._lost.done():
            asked.cancel()
            raise self._gone("the scheduler has no connection to it any more")
        if not asked.done():
            asked.cancel()
            self._workers.look()
            raise Unreachable
        try:
            return asked.result()[self.worker]
        except (OSError, KeyError, concurrent.futures.CancelledError):
            self._workers.look()
            raise Unreachable from None
        except Exception as error:
            raise ClusterError(f"the worker {self.worker} cannot run lamina's function: {_cause(error)}", hint=_SAME) from None

    def leave(self) -> None:
        self._future.release()

    def _check(self) -> None:
        status = self._future.status
        if status == "error":
            error = self._future.exception(timeout=CONNECT)
            if type(error).__name__ == "KilledWorker":
                raise self._gone("dask gave it up")
            raise ClusterError(f"dask cannot run lamina's function on {self.worker}: {_cause(error)}", hint=_SAME)
        if status in ("cancelled", "lost"):
            raise self._gone("the scheduler has forgotten the task")

    def _gone(self, why: str) -> WorkerLost:
        return WorkerLost(f"{self.worker}: {why}", transient=True)


def _scheduler(address: str) -> tuple[str, bool]:
    """(dask's address, whether with TLS)."""
    parts = urlsplit(address)
    try:
        port = parts.port or PORT
    except ValueError:
        port = 0
    if parts.scheme not in ("dask", "dask+tls") or not parts.hostname or not port or parts.path.strip("/") or parts.username:
        raise ClusterError(f"{address} is no address of a dask scheduler", hint="dask://HOST:PORT or dask+tls://HOST:PORT")
    secure = parts.scheme == "dask+tls"
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{'tls' if secure else 'tcp'}://{host}:{port}", secure


def _machine(name: str, info: dict[str, object]) -> Machine | None:
    """None for a worker that takes no tasks, or says nothing that can be understood."""
    declared, threads, limit = info.get("resources"), info.get("nthreads"), info.get("memory_limit")
    if info.get("status") not in ("running", "paused") or not isinstance(threads, int):
        return None
    amounts = {str(key): float(value) for key, value in declared.items()} if isinstance(declared, dict) else {}
    memory = int(amounts["MEM"]) if "MEM" in amounts else int(limit) // _MB if isinstance(limit, int) and limit else _UNLIMITED
    labels = frozenset(key for key, value in amounts.items() if key not in ("MEM", "CPU") and value > 0)
    return Machine(name, memory, amounts.get("CPU", float(threads)), threads, labels)


def _cause(error: BaseException) -> str:
    """What it was, in one line: the error of the system at the bottom where there is one."""
    chain = [error]
    while (below := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(below)
    found = next((each for each in reversed(chain) if isinstance(each, OSError) and str(each)), chain[-1])
    words = str(found).strip().splitlines()
    if isinstance(found, OSError):
        return found.strerror or words[0]
    return f"{type(found).__name__}: {words[0]}" if words else type(found).__name__


def _way_out(error: BaseException, secure: bool) -> str:
    if secure:
        return "certificates are read from dask's configuration: DASK_DISTRIBUTED__COMM__TLS__CA_FILE, …__CLIENT__CERT, …__CLIENT__KEY"
    return "start one with `dask scheduler`; one that speaks TLS is dask+tls://HOST:PORT"
