"""`ray://HOST:PORT`: steps on the nodes of a ray cluster, through the ray client's port of its head (extra `ray`).

A node's `--num-cpus` and `--memory` count, and one resource for each label (`ray start --resources '{"gpu": 1}'`). An actor (`rayhand.Place`) keeps a place on the node
that was chosen; ray never starts it again. ray knows no priorities: the queue is ours.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from importlib import import_module
from typing import Protocol
from urllib.parse import urlsplit

from lamina.pipelines.remote import rayhand
from lamina.pipelines.remote.cluster import Cluster, ClusterError, Job, WorkerLost
from lamina.pipelines.remote.dispatch import Dispatched
from lamina.pipelines.remote.pulling import NotThere, Unreachable
from lamina.pipelines.remote.queueing import Machine

PORT = 10001
CONNECT = 10.0  # seconds
_PRESENT = 0.001  # of a label's resource: it says that the node has it, not how many may use it
_MB = 1_000_000
_SLOTS = 1000  # actors of a node: as many as have room
_OWN = ("CPU", "GPU", "memory", "object_store_memory")
_SAME = "lamina must be installed on the head and on every node, with the same Python and ray"


class _Ref(Protocol):
    """What a call will give."""


class _Method(Protocol):
    def remote(self, *arguments: object) -> _Ref: ...


class _Actor(Protocol):
    talk: _Method


class _ActorClass(Protocol):
    def options(self, **options: object) -> _ActorClass: ...

    def remote(self, ticket: str, lease: float) -> _Actor: ...


class _Exceptions(Protocol):
    GetTimeoutError: type[Exception]
    RayActorError: type[Exception]
    ActorUnavailableError: type[Exception]


class _Ray(Protocol):
    """The part of ray that is used."""

    exceptions: _Exceptions
    nodes: Callable[[], list[dict[str, object]]]
    remote: Callable[[type[rayhand.Place]], _ActorClass]
    shutdown: Callable[[], None]

    def init(self, address: str, *, log_to_driver: bool, logging_level: str) -> object: ...

    def get(self, ref: _Ref, *, timeout: float) -> bytes: ...

    def wait(self, refs: list[_Ref], *, timeout: float) -> tuple[list[_Ref], list[_Ref]]: ...

    def kill(self, actor: _Actor, *, no_restart: bool) -> None: ...


def open_ray(address: str) -> Cluster:
    """The URL to a cluster. ClusterError."""
    return Dispatched(RayWorkers(address))


class RayWorkers:
    """As dispatch.Workers. One at a time in a process: ray has one connection."""

    def __init__(self, address: str) -> None:
        """`address`: the URL. ClusterError."""
        self._shown = address
        host, port = _head(address)
        try:
            self._ray: _Ray = import_module("ray")
        except ImportError:
            raise ClusterError("ray is not installed here", hint="pip install 'lamina[ray]'") from None
        try:  # ray itself would try for half a minute
            socket.create_connection((host, port), CONNECT).close()
        except OSError as error:
            raise ClusterError(
                f"no ray cluster can be used at {address}: {error}", hint="start one with `ray start --head --ray-client-server-port 10001`"
            ) from None
        try:
            self._ray.init(f"ray://{f'[{host}]' if ':' in host else host}:{port}", log_to_driver=False, logging_level="ERROR")
            self._class = self._ray.remote(rayhand.Place)
        except Exception as error:  # ConnectionError, RuntimeError for versions that differ, grpc's own
            raise ClusterError(f"no ray cluster can be used at {address}: {_line(error)}") from None
        self._lock = threading.Lock()
        self._open = True

    def machines(self) -> list[Machine]:
        try:
            nodes = self._ray.nodes()
        except Exception as error:
            raise ClusterError(f"the ray cluster at {self._shown} does not answer: {_line(error)}", transient=True) from None
        found = [_machine(node) for node in nodes if node.get("Alive")]
        return [machine for machine in found if machine.cpus]  # a head has none, mostly

    def seat(self, machine: str, ticket: str, job: Job, lease: float) -> RaySeat:
        strategies = import_module("ray.util.scheduling_strategies")
        needs = job.needs
        try:
            actor = self._class.options(
                num_cpus=needs.cpus if needs.cpus <= 1 else int(needs.cpus),  # above one ray takes whole ones only; our books know the rest
                memory=needs.memory * _MB,
                resources={needs.label: _PRESENT} if needs.label else {},
                max_restarts=0,
                max_task_retries=0,
                max_concurrency=8,
                scheduling_strategy=strategies.NodeAffinitySchedulingStrategy(node_id=machine, soft=False),
            ).remote(ticket, lease)
        except Exception as error:
            raise ClusterError(f"the ray cluster at {self._shown} takes no actor: {_line(error)}") from None
        return RaySeat(self._ray, actor, f"node {machine[:12]}")

    def close(self) -> None:
        with self._lock:
            if not self._open:
                return
            self._open = False
        try:
            self._ray.shutdown()
        except Exception:  # the head may be gone; there is nothing left to keep
            pass


class RaySeat:
    """As pulling.Seat."""

    def __init__(self, ray: _Ray, actor: _Actor, worker: str) -> None:
        self.worker = worker
        self._ray = ray
        self._actor = actor
        self._first: _Ref | None = None
        self._there = False

    def call(self, request: bytes, timeout: float) -> bytes:
        errors = self._ray.exceptions
        try:
            if not self._there:
                # The node may be full with what others run. Only the first request waits for it: nothing else is sent before.
                if self._first is None:
                    self._first = self._actor.talk.remote(request)
                if not self._ray.wait([self._first], timeout=timeout)[0]:
                    raise NotThere
                answer = self._ray.get(self._first, timeout=timeout)
                self._there = True
                self._first = None
                return answer
            return self._ray.get(self._actor.talk.remote(request), timeout=timeout)
        except NotThere:
            raise
        except (errors.GetTimeoutError, errors.ActorUnavailableError, ConnectionError):
            raise Unreachable from None
        except errors.RayActorError as error:
            if "creation task" in str(error):
                raise ClusterError(f"ray cannot run lamina's actor on {self.worker}: {_line(error, last=True)}", hint=_SAME) from None
            raise WorkerLost(f"{self.worker}: {_line(error)}", transient=True) from None
        except Exception as error:
            raise ClusterError(f"ray cannot run lamina's actor on {self.worker}: {_line(error, last=True)}", hint=_SAME) from None

    def leave(self) -> None:
        try:
            self._ray.kill(self._actor, no_restart=True)
        except Exception:  # it may be gone, or the cluster
            pass


def _head(address: str) -> tuple[str, int]:
    parts = urlsplit(address)
    try:
        port = parts.port or PORT
    except ValueError:
        port = 0
    if parts.scheme != "ray" or not parts.hostname or not port or parts.path.strip("/") or parts.username:
        raise ClusterError(f"{address} is no address of a ray cluster", hint="ray://HOST:PORT")
    return parts.hostname, port


def _machine(node: dict[str, object]) -> Machine:
    found = node.get("Resources")
    amounts = {str(key): float(value) for key, value in found.items()} if isinstance(found, dict) else {}
    labels = frozenset(key for key, value in amounts.items() if value > 0 and key not in _OWN and ":" not in key)
    return Machine(str(node["NodeID"]), int(amounts.get("memory", 0)) // _MB, amounts.get("CPU", 0.0), _SLOTS, labels)


def _line(error: Exception, *, last: bool = False) -> str:
    """ray's messages are pages: one line of it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1 if last else 0]}" if lines else type(error).__name__
