"""The gateway: buildx has a build function of its own, which asks us for the Dockerfile front end and then tells which result it wants."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from lamina.server.buildkit import asked as asking
from lamina.server.buildkit import messages as m
from lamina.server.buildkit.building import Built, Work
from lamina.server.buildkit.grpc import CANCELED, INVALID, UNIMPLEMENTED, Method, RpcError, ServerCall

if TYPE_CHECKING:
    from lamina.server.buildkit.sessions import Session
    from lamina.server.buildkit.state import Build
    from lamina.server.daemon import Daemon

_SERVICE = "/moby.buildkit.v1.frontend.LLBBridge/"
_CAPABILITIES = ("solve.base", "solve.inlinereturn", "return", "returnmap", "proto.refarray", "importcaches")
# What buildx looks for before it passes --provenance, --sbom, a second --output and these caches on: the caches are dropped without a word otherwise.
_LLB_CAPABILITIES = ("exporter.image.attestations", "cache.gha", "cache.s3", "cache.azblob", "exporter.multiple")


class Bridge:
    """One such build. `wait` belongs to the thread of Control/Solve; the rest to the threads of the client's calls."""

    def __init__(self, daemon: Daemon, session: Session, asked: asking.Asked, build: Build) -> None:
        self._daemon = daemon
        self._session = session
        self._asked = asked
        self._build = build
        self._returned = threading.Event()
        self._results: dict[str, tuple[Work, Built]] = {}
        self._result: m.ReturnRequest | None = None
        build.cancel.on_cancel(self._returned.set)

    def wait(self) -> dict[str, str]:
        """Until the client says what the result is; what exporters answer. RpcError."""
        self._returned.wait()
        found = self._result
        if found is None:
            raise RpcError(CANCELED, "context canceled")
        if found.error is not None and found.error.code:
            raise RpcError(found.error.code, found.error.message)
        ref = found.result.ref.id if found.result is not None and found.result.ref is not None else ""
        if not ref:
            return {}
        if ref not in self._results:
            raise RpcError(INVALID, "the result that was returned is none of this build")
        work, built = self._results[ref]
        return work.deliver(built)

    def solve(self, request: m.GatewaySolveRequest) -> str:
        """The result's name."""
        if (request.definition is not None and request.definition.operations) or request.frontend_inputs:
            raise RpcError(UNIMPLEMENTED, asking.LLB_REFUSED)
        if not request.frontend:
            return ""
        asked = asking.Asked(
            request.frontend_opt,
            self._asked.exports,
            asking.once(self._asked.cache_from + tuple({"type": entry.type, **entry.attrs} for entry in request.cache_imports)),
            self._asked.cache_to,
            self._asked.entitlements,
            self._asked.traced,
        )
        asking.check(asked, request.frontend, privileged=self._daemon.rules.privileged)
        work = Work(self._daemon, self._session, asked, self._build.progress, self._build.cancel)
        built = work.perform()
        name = os.urandom(12).hex()
        self._results[name] = (work, built)
        return name

    def give_back(self, result: m.ReturnRequest) -> None:
        self._result = result
        self._returned.set()


def methods(daemon: Daemon, worker: Callable[[], m.WorkerRecord]) -> dict[str, Method]:
    def called(call: ServerCall) -> Bridge:
        found = daemon.buildkit.builds.wait(call.value("buildkit-controlapi-buildid"))
        bridge = found.bridge()
        if bridge is None:
            raise RpcError(INVALID, "this build has no build function of its client's")
        return bridge

    def ping(call: ServerCall) -> None:
        call.request(m.Nothing)
        own, llb = ([m.Capability(name, True) for name in names] for names in (_CAPABILITIES, _LLB_CAPABILITIES))
        call.send(m.PongResponse(own, llb, [worker()]))

    def solve(call: ServerCall) -> None:
        found = called(call)
        name = found.solve(call.request(m.GatewaySolveRequest))
        call.send(m.GatewaySolveResponse(result=m.Result(ref=m.Ref(name))))

    def give_back(call: ServerCall) -> None:
        found = called(call)
        found.give_back(call.request(m.ReturnRequest))
        call.send(m.Nothing())

    return {_SERVICE + "Ping": ping, _SERVICE + "Solve": solve, _SERVICE + "Return": give_back}
