"""The Engine API without a socket: a daemon over a store in a folder, requests as function calls, a client at a taken-over connection."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lamina.engine.engine import Engine
from lamina.layer.flavour import Flavour
from lamina.registry.client import RegistryClient
from lamina.sandbox import rungs
from lamina.sandbox.protocols import Sandbox
from lamina.server.containers.creating import Rules
from lamina.server.daemon import AfterBuilds, Daemon
from lamina.server.errors import ClientGone
from lamina.server.http.messages import Answer, Hijack, Reply, Rows, Stream, request
from lamina.server.logins import Given
from lamina.server.routes import ROUTER
from lamina.store.local import LocalStore


@contextmanager
def daemon_at(
    root: Path,
    *,
    rung: str = "root",
    place: str = "test",
    rules: Rules | None = None,
    keep: bool = False,
    after_builds: AfterBuilds | None = None,
) -> Iterator[Daemon]:
    """A daemon over the store `root`; containers that run at the end are stopped. Registries cannot be asked."""

    def no_registry(given: Given) -> RegistryClient:
        raise AssertionError("no registry here")

    made: list[Sandbox] = []

    def sandbox() -> Sandbox:
        made.append(rungs.make(rung))
        return made[-1]

    with LocalStore.open(root, Flavour("trusted"), now=time.time) as store:
        engine = Engine(store, sandbox, now=time.time, host="test", registry=lambda: no_registry({}))
        daemon = Daemon(
            engine,
            rung,
            place=place,
            now_nano=time.time_ns,
            rules=rules or Rules(),
            registry_for=no_registry,
            keep=keep,
            after_builds=after_builds,
        )
        try:
            yield daemon
        finally:
            daemon.close()
            for each in made:
                each.close()


class Client:
    """A client at a stream: what it sends is given before, `leave` is its going away."""

    def __init__(self, typed: bytes = b"", *, stays: bool = False) -> None:
        self._typed = deque([typed] if typed else [])
        self._stays = stays
        self._left = threading.Event()
        self._acts: list[Callable[[], None]] = []
        self.got = bytearray()

    def read(self, limit: int = 65536, /) -> bytes:
        if self._typed:
            return self._typed.popleft()
        if self._stays:
            self._left.wait()
        return b""

    def write(self, data: bytes | memoryview, /) -> int:
        if self._left.is_set():
            raise ClientGone
        self.got += data
        return len(data)

    def on_gone(self, act: Callable[[], None]) -> None:
        self._acts.append(act)
        if self._left.is_set():
            act()

    def leave(self) -> None:
        self._left.set()
        for act in self._acts:
            act()


def call(daemon: Daemon, method: str, target: str, body: object = None, headers: dict[str, str] | None = None) -> Reply:
    """One request. `body`: bytes as they are, anything else as JSON."""
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    return ROUTER(daemon, request(method, target, data, headers))


def document(daemon: Daemon, method: str, target: str, body: object = None, status: int | None = None) -> Any:
    """The JSON of a whole answer; AssertionError for another status than `status` (None: below 400)."""
    reply = call(daemon, method, target, body)
    assert isinstance(reply, Answer), reply
    assert reply.status == status if status is not None else reply.status < 400, (reply.status, reply.body)
    return json.loads(reply.body) if reply.body else None


def stream(daemon: Daemon, method: str, target: str, body: object = None, client: Client | None = None) -> bytes:
    """All that a stream or a taken-over connection sends."""
    reply = call(daemon, method, target, body)
    client = client or Client()
    if isinstance(reply, Stream):
        reply.run(client)
    elif isinstance(reply, Hijack):
        reply.talk(client)
    elif isinstance(reply, Rows):
        ended = threading.Event()
        withdraw = reply.subscribe(lambda row: client.got.extend(row), ended.set)
        assert ended.wait(60), "the rows have no end"
        withdraw()
    else:
        raise AssertionError(reply)
    return bytes(client.got)


def rows(daemon: Daemon, method: str, target: str, body: object = None) -> list[dict[str, Any]]:
    """The objects of a stream of JSON rows."""
    return [json.loads(row) for row in stream(daemon, method, target, body).split(b"\r\n") if row]
