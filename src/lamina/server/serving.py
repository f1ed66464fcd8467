"""An engine that serves: sockets, daemon and loop put together. Everything that the environment says is passed in."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lamina.server.containers.creating import Rules
from lamina.server.daemon import AfterBuilds, Daemon
from lamina.server.http.messages import Answer, Hijack, Reply, Request, Stream
from lamina.server.listening import Server, Tls, open_sockets
from lamina.server.logins import Given, GivenLogins
from lamina.server.places import place_of
from lamina.server.ui.runs import Runs

if TYPE_CHECKING:
    from lamina.engine.engine import Engine
    from lamina.engine.tracing.tracer import Tracer
    from lamina.registry.client import RegistryClient


_ARENA_MAX = -8  # M_ARENA_MAX of malloc.h


class ServeOptions(msgspec.Struct, frozen=True):
    hosts: tuple[str, ...]
    tls: Tls | None = None
    insecure_tcp: bool = False
    idle_exit: float | None = None
    rules: Rules = Rules()
    registry_ca: Path | None = None
    insecure_registries: tuple[str, ...] = ()
    runs: Runs | None = None  # of pipelines, for the pages
    keep: bool = False  # containers outlive the engine
    after_builds: AfterBuilds | None = None


def serve(
    engine: Engine,
    rung: str,
    options: ServeOptions,
    *,
    environment: Mapping[str, str],
    proxies: Mapping[str, str],
    ready: Callable[[Sequence[str]], None],
    say: Callable[[str], None],
) -> None:
    """Blocks until the engine is told to stop. `ready` is called with where it listens, `say` with what else is to be known. CannotListen, Taken. Must be called where no thread exists yet if a user namespace was entered."""
    sockets, files = open_sockets(
        options.hosts, tls=options.tls, insecure_tcp=options.insecure_tcp, environment=environment, pid=os.getpid()
    )
    clients: list[RegistryClient] = []
    lock = threading.Lock()

    def registry_for(given: Given) -> RegistryClient:
        from lamina.engine.registries.access import client_for
        from lamina.registry.client import RegistryClient

        with lock:
            if not clients:
                clients.append(client_for(environment, proxies, options.registry_ca, options.insecure_registries))
        own = clients[0]
        return RegistryClient(own.session.transport, GivenLogins(given)) if given else own

    daemon = Daemon(
        engine,
        rung,
        place=place_of(options.hosts),
        now_nano=time.time_ns,
        rules=options.rules,
        registry_for=registry_for,
        runs=options.runs,
        tracer=_tracer(environment),
        keep=options.keep,
        after_builds=options.after_builds,
    )
    from lamina.server.routes import ROUTER

    def answer(request: Request) -> Reply:
        reply = ROUTER(daemon, request)
        daemon.requests.count(
            request.method, reply.status if isinstance(reply, (Answer, Stream)) else 101 if isinstance(reply, Hijack) else 200
        )
        return reply

    headers = (("Api-Version", "1.41"), ("Docker-Experimental", "false"), ("Ostype", "linux"), ("Server", "lamina (linux)"))
    server = Server(answer, sockets, tls=options.tls, idle_exit=options.idle_exit, busy=daemon.busy, headers=headers)

    def begun() -> None:
        from lamina.server.containers.running import resume

        ready([_shown(host) for host in options.hosts])
        if daemon.containers.taken_over:
            say(_taken_over(daemon.containers.taken_over, options.keep))
        resume(daemon)

    # A process that stays: what start-up made is never garbage, what requests leave in circles is collected as usual.
    _few_arenas()
    gc.collect()
    gc.freeze()
    gc.set_threshold(700, 10, 10)
    try:
        server.run(begun, daemon.close)
    finally:
        for file in files:
            file.unlink(missing_ok=True)
        for client in clients:
            client.session.transport.close()


def _taken_over(count: int, keep: bool) -> str:
    found = f"{count} {'container was' if count == 1 else 'containers were'} kept by an engine before this one and {'is' if count == 1 else 'are'} taken over"
    return found if keep else found + f"; without --keep {'it ends' if count == 1 else 'they end'} with this engine"


def _tracer(environment: Mapping[str, str]) -> Tracer | None:
    """Each build is a trace of its own, or its client's: that of who started the engine is not the parent of them all. An engine that was started
    for one step of a pipeline is told by LAMINA_TRACEPARENT what its builds belong below; it may end at once after one, so that builds wait for it."""
    if not any(name.startswith("OTEL_") for name in environment):
        return None
    import sys

    from lamina.engine.tracing.tracer import tracer

    def warn(text: str) -> None:
        print(f"lamina serve: {text}", file=sys.stderr, flush=True)

    asked = {name: value for name, value in environment.items() if name not in ("TRACEPARENT", "TRACESTATE")}
    step = environment.get("LAMINA_TRACEPARENT", "")
    return tracer(asked | {"TRACEPARENT": step} if step else asked, warn, wait=bool(step))


def _few_arenas() -> None:
    """glibc gives every few threads a heap of their own, and what is freed in one is of no use to the others: with many short threads the process
    would grow for hours."""
    import ctypes

    with contextlib.suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).mallopt(_ARENA_MAX, 2)


def _shown(host: str) -> str:
    return host
