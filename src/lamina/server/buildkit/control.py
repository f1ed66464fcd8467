"""BuildKit's control API over gRPC: what buildx asks of /grpc, or of the socket itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lamina.server.buildkit import asked as asking
from lamina.server.buildkit import gateway
from lamina.server.buildkit import messages as m
from lamina.server.buildkit.building import Work
from lamina.server.buildkit.grpc import UNIMPLEMENTED, Method, RpcError, ServerCall, acceptor
from lamina.server.buildkit.http2 import Carrier, Http2
from lamina.server.buildkit.upkeep import disk_usage, prune
from lamina.server.errors import ClientGone
from lamina.version import __version__

if TYPE_CHECKING:
    from lamina.server.daemon import Daemon

_SERVICE = "/moby.buildkit.v1.Control/"


def serve(daemon: Daemon, carrier: Carrier) -> None:
    """Answer one connection until it ends."""
    Http2(carrier, acceptor(methods(daemon))).run()


def methods(daemon: Daemon) -> dict[str, Method]:
    def worker() -> m.WorkerRecord:
        return _worker(daemon)

    def list_workers(call: ServerCall) -> None:
        call.request(m.Nothing)
        call.send(m.ListWorkersResponse([worker()]))

    def info(call: ServerCall) -> None:
        call.request(m.Nothing)
        call.send(m.InfoResponse(_version()))

    def healthy(call: ServerCall) -> None:
        call.request(m.Nothing)
        call.send(m.HealthResponse(1))

    def traces(call: ServerCall) -> None:
        daemon.journal.pass_on(call.raw())
        call.send(m.Nothing())

    def nothing(call: ServerCall) -> None:
        call.request(m.Nothing)

    def forgotten(call: ServerCall) -> None:
        call.request(m.Nothing)  # there is no history that could be changed
        call.send(m.Nothing())

    return {
        _SERVICE + "UpdateBuildHistory": forgotten,
        _SERVICE + "ListWorkers": list_workers,
        _SERVICE + "Info": info,
        _SERVICE + "ListenBuildHistory": nothing,
        _SERVICE + "Solve": lambda call: _solve(daemon, call),
        _SERVICE + "Status": lambda call: _status(daemon, call),
        _SERVICE + "Session": lambda call: _session(daemon, call),
        _SERVICE + "DiskUsage": lambda call: call.send(m.DiskUsageResponse(disk_usage(daemon, call.request(m.DiskUsageRequest).filter))),
        _SERVICE + "Prune": lambda call: _each(call, prune(daemon, call.request(m.PruneRequest))),
        "/grpc.health.v1.Health/Check": healthy,
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export": traces,
        **gateway.methods(daemon, worker),
    }


def _each(call: ServerCall, rows: Sequence[m.UsageRecord]) -> None:
    for row in rows:
        call.send(row)


def _version() -> m.BuildkitVersion:
    return m.BuildkitVersion("lamina", f"v{__version__}", __version__)


def _worker(daemon: Daemon) -> m.WorkerRecord:
    from lamina.engine.engine import own_platform

    own = own_platform()
    labels = {"org.mobyproject.buildkit.worker.executor": "lamina", "org.mobyproject.buildkit.worker.hostname": daemon.engine.host}
    return m.WorkerRecord(daemon.id, labels, [m.Platform(own.architecture, own.os, own.variant or "")], _version())


def _solve(daemon: Daemon, call: ServerCall) -> None:
    request = call.request(m.SolveRequest)
    if (request.definition is not None and request.definition.operations) or request.frontend_inputs:
        raise RpcError(UNIMPLEMENTED, asking.LLB_REFUSED)
    asked = _asked(request, (call.value("traceparent"), call.value("tracestate")))
    if request.frontend:
        asking.check(asked, request.frontend, privileged=daemon.rules.privileged)
    build = daemon.buildkit.builds.begin(request.ref)
    try:
        call.on_gone(build.cancel.cancel)
        session = daemon.buildkit.sessions.wait(request.session)
        if request.frontend:
            build.set_bridge(None)
            work = Work(daemon, session, asked, build.progress, build.cancel)
            answer = work.deliver(work.perform())
        else:
            session.on_close(build.cancel.cancel)
            bridge = gateway.Bridge(daemon, session, asked, build)
            build.set_bridge(bridge)
            answer = bridge.wait()
    finally:
        daemon.buildkit.builds.end(request.ref)
    call.send(m.SolveResponse(answer))


def _asked(request: m.SolveRequest, traced: tuple[str, str]) -> asking.Asked:
    exports = [asking.Export(found.type, found.attrs, found.id or str(number)) for number, found in enumerate(request.exporters)]
    if not exports and request.exporter:
        exports = [asking.Export(request.exporter, request.exporter_attrs)]
    cache = request.cache or m.CacheOptions()
    imports: list[Mapping[str, str]] = [{"type": entry.type, **entry.attrs} for entry in cache.imports]
    imports += [{"type": "registry", "ref": ref} for ref in cache.import_refs]
    imports += asking.cache_entries(request.frontend_attrs.get("cache-imports", ""))
    return asking.Asked(
        request.frontend_attrs,
        tuple(exports),
        tuple(imports),
        tuple({"type": entry.type, **entry.attrs} for entry in cache.exports),
        tuple(request.entitlements),
        traced,
    )


def _status(daemon: Daemon, call: ServerCall) -> None:
    build = daemon.buildkit.builds.wait(call.request(m.StatusRequest).ref)
    for row in build.progress.read():
        call.send(row)


def _session(daemon: Daemon, call: ServerCall) -> None:
    def value(name: str) -> str:
        return call.value(f"x-docker-expose-session-{name}")

    offered = call.metadata.get("x-docker-expose-session-grpc-method", [])
    daemon.buildkit.sessions.serve(_Inner(call), value("uuid"), value("sharedkey"), offered)


class _Inner:
    """A connection inside a call: the messages of both directions as bytes."""

    def __init__(self, call: ServerCall) -> None:
        self._call = call
        self._rest = b""

    def read(self, limit: int = 65536, /) -> bytes:
        while not self._rest:
            found = self._call.receive(m.Bytes)
            if found is None:
                return b""
            self._rest = found.data
        data, self._rest = self._rest[:limit], self._rest[limit:]
        return data

    def write(self, data: bytes | memoryview, /) -> int:
        from lamina.server.buildkit.http2 import Reset

        try:
            for at in range(0, len(data), 1 << 20):
                self._call.send(m.Bytes(bytes(data[at : at + (1 << 20)])))
        except Reset:
            raise ClientGone from None
        return len(data)
