"""/containers: what streams out of one, and into it: attach, logs, stats."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from typing import Any

from lamina.sandbox import groups
from lamina.server import clock
from lamina.server.containers import attaching, processes
from lamina.server.containers.attaching import AttachOptions, Wanted
from lamina.server.containers.container import Container
from lamina.server.daemon import Daemon
from lamina.server.errors import BadRequest, ClientGone, Conflict, NotImplementedHere
from lamina.server.http.messages import Duplex, Hijack, Outlet, Reply, Request, Stream


def attach(daemon: Daemon, request: Request, name: str) -> Reply:
    container, talk = _attached(daemon, request, name)
    return Hijack(talk, attaching.content_type(request.version, container.tty))


def attach_websocket(daemon: Daemon, request: Request, name: str) -> Reply:
    """The same over a websocket: messages carry the bytes, both outputs in one stream."""
    from lamina.server.http.websocket import WebSocket, accepted

    headers = accepted(request)
    _, talk = _attached(daemon, request, name, raw=True)

    def in_messages(duplex: Duplex) -> None:
        socket = WebSocket(duplex)
        if not request.query.flag("stdin"):
            threading.Thread(target=_drain, args=(socket,), daemon=True).start()
        try:
            talk(socket)
        finally:
            socket.close()

    return Hijack(in_messages, "", headers)


def _drain(duplex: Duplex) -> None:
    with contextlib.suppress(ClientGone):
        while duplex.read():
            pass


def _attached(daemon: Daemon, request: Request, name: str, *, raw: bool = False) -> tuple[Container, Callable[[Duplex], None]]:
    container = daemon.containers.find(name)
    query = request.query
    options = AttachOptions(
        stream=query.flag("stream"),
        logs=query.flag("logs"),
        stdin=query.flag("stdin"),
        stdout=query.flag("stdout"),
        stderr=query.flag("stderr"),
        detach_keys=attaching.detach_keys(query.get("detachKeys")),
        raw=raw,
    )
    with container.changed:
        if container.state.status == "paused":
            raise Conflict(f"Container {container.id} is paused, unpause the container before attach.")
        begin = 0 if options.logs else container.log.size
        reader = container.log.reader(waited_for=options.stream)
        run = container.run if container.running else container.run + 1
        if options.stdin and container.record.config["OpenStdin"] and container.stdin is None and not container.removed:
            from lamina.server.containers.stdin import Stdin

            container.stdin = Stdin()
    daemon.events.emit("container", "attach", container.id, container.attributes())

    def talk(duplex: Duplex) -> None:
        with contextlib.closing(reader):
            attaching.attach(container, reader, options, begin, run, duplex)

    return container, talk


def logs(daemon: Daemon, request: Request, name: str) -> Reply:
    container = daemon.containers.find(name)
    query = request.query
    if not (query.flag("stdout") or query.flag("stderr")):
        raise BadRequest("Bad parameters: you must choose at least one stream")
    if (container.record.host.get("LogConfig") or {}).get("Type") == "none":
        raise NotImplementedHere("configured logging driver does not support reading")
    tail = query.get("tail", "all")
    now = daemon.now()
    details = ""
    if query.flag("details"):
        details = (
            ",".join(f"{key}={value}" for key, value in sorted((container.record.host.get("LogConfig") or {}).get("Config", {}).items()))
            or " "
        )
    wanted = Wanted(
        stdout=query.flag("stdout"),
        stderr=query.flag("stderr") or container.tty,
        follow=query.flag("follow"),
        timestamps=query.flag("timestamps"),
        tail=int(tail) if tail.isdecimal() else -1,
        since=clock.parse(query.get("since"), now),
        until=clock.parse(query.get("until"), now),
        details=details.strip(),
    )
    reader = container.log.reader()

    def write(out: Outlet) -> None:
        with contextlib.closing(reader):
            attaching.write_logs(container, reader, wanted, out)

    return Stream(write, attaching.content_type(request.version, container.tty))


def stats(daemon: Daemon, request: Request, name: str) -> Reply:
    container = daemon.containers.find(name)
    once = not request.query.flag("stream", True)

    def write(out: Outlet) -> None:
        gone: list[bool] = []
        out.on_gone(lambda: gone.append(True))
        before: dict[str, Any] = {}
        if once and container.running and not request.query.flag("one-shot"):  # clients make a share of the processor of two samples
            before = _stats(daemon, container, before)
            with container.changed:
                container.changed.wait_for(lambda: bool(gone) or not container.running, 1.0)
        while not gone:
            document = _stats(daemon, container, before)
            out.write(json.dumps(document).encode() + b"\n")
            if once or container.removed:
                return
            before = document
            with container.changed:
                container.changed.wait_for(lambda: bool(gone) or container.removed, 1.0)

    return Stream(write)


def _stats(daemon: Daemon, container: Container, before: dict[str, Any]) -> dict[str, Any]:
    process = container.process
    spent, resident, count = processes.usage(process.pid) if process is not None and container.running else (0, 0, 0)
    import os

    cpu = {
        "cpu_usage": {"total_usage": spent, "usage_in_kernelmode": 0, "usage_in_usermode": spent, "percpu_usage": None},
        "system_cpu_usage": time.monotonic_ns() * (os.cpu_count() or 1),
        "online_cpus": os.cpu_count() or 1,
        "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
    }
    limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    counted = groups.usage((*process.groups, *container.made_groups)) if process is not None else groups.Usage()
    if 0 < counted.limit < limit:
        limit, resident = counted.limit, counted.memory
    pids = {"current": count} | ({"limit": counted.pids_limit} if counted.pids_limit > 0 else {})
    return {
        "read": daemon.rfc3339(), "preread": before.get("read", clock.NEVER), "pids_stats": pids, "num_procs": 0, "storage_stats": {},
        "blkio_stats": {"io_service_bytes_recursive": None}, "cpu_stats": cpu, "precpu_stats": before.get("cpu_stats", {"cpu_usage": {"total_usage": 0}}),
        "memory_stats": {"usage": resident, "limit": limit, "stats": {}} if count else {}, "name": "/" + container.name, "id": container.id,
    }  # fmt: skip
