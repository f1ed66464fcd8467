"""What BuildKit's clients ask of the Engine API: /session, /grpc, and POST /build?version=2 of the docker CLI of 20.10."""

from __future__ import annotations

import base64
import json
import os
import struct
import sys
import threading
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lamina.diagnostics.errors import LaminaError
from lamina.server.daemon import Daemon
from lamina.server.errors import ApiError, BadRequest, ClientGone
from lamina.server.http.messages import Duplex, Hijack, Outlet, Query, Reply, Request, Stream, answer
from lamina.server.rows import RowWriter

if TYPE_CHECKING:
    from lamina.server.buildkit.asked import Asked, Export
    from lamina.server.buildkit.state import Build

_NO_H2 = "BuildKit's protocol needs the package h2, which is not installed (pip install 'lamina[server]'); DOCKER_BUILDKIT=0 needs it not"
_UPLOAD = "upload-request"
_PIECE = 1 << 20


def session(daemon: Daemon, request: Request) -> Reply:
    """The connection becomes HTTP/2 with the client as the server."""
    if not _has_h2():
        return _refused(request)
    _need_upgrade(request)
    headers = request.headers
    uuid, key = (headers.get(f"x-docker-expose-session-{name}", "") for name in ("uuid", "sharedkey"))
    offered = [method.strip() for method in headers.get("x-docker-expose-session-grpc-method", "").split(",")]

    def talk(duplex: Duplex) -> None:
        daemon.buildkit.sessions.serve(duplex, uuid, key, offered)

    return Hijack(talk)


def grpc(daemon: Daemon, request: Request) -> Reply:
    """The connection becomes HTTP/2 with the control API."""
    if not _has_h2():
        return _refused(request)
    _need_upgrade(request)

    def talk(duplex: Duplex) -> None:
        from lamina.server.buildkit.control import serve

        serve(daemon, duplex)

    return Hijack(talk)


def cancel(daemon: Daemon, request: Request) -> Reply:
    found = daemon.buildkit.builds.find(request.query.get("id"))
    if found is not None:
        found.cancel.cancel()
    return answer(None)


def build(daemon: Daemon, request: Request) -> Reply:
    """The build of a session, or a context that belongs to one."""
    if not _has_h2():
        raise ApiError(_NO_H2, 501)
    query = request.query
    name = query.get("buildid")
    if name.startswith(_UPLOAD + ":"):
        return _upload(daemon, request, name.removeprefix(_UPLOAD + ":"))
    from lamina.server.buildkit.asked import check

    asked = _asked(daemon, query, request.traced)
    check(asked, "dockerfile.v0", privileged=daemon.rules.privileged)
    sessions = daemon.buildkit.sessions
    remote = query.get("remote")
    # With the context in the body, or behind a URL, only clients that have something to answer open a session.
    found = sessions.wait(query.get("session")) if query.get("session") or remote in ("client-session", _UPLOAD) else sessions.nobody()
    sent = None if remote else _spooled(daemon, request)
    name = name or os.urandom(16).hex()

    def body(out: Outlet) -> None:
        from lamina.server.buildkit.building import Work

        rows = RowWriter(out)
        try:
            under_way = daemon.buildkit.builds.begin(name)
        except BaseException:
            if sent is not None:
                os.close(sent)
            raise
        out.on_gone(under_way.cancel.cancel)
        reader = threading.Thread(target=_trace, args=(under_way, rows, query.flag("q")), daemon=True)
        reader.start()
        failed: BaseException | None = None
        images: dict[str, str] = {}
        try:
            archive = daemon.buildkit.uploads.take(name) if remote == _UPLOAD else sent
            work = Work(daemon, found, asked, under_way.progress, under_way.cancel, archive)
            images = work.deliver(work.perform())
        except Exception as error:
            failed = error
        finally:
            daemon.buildkit.builds.end(name)
            reader.join()
        if failed is not None:
            _fail(rows, failed)
            return
        identity = images.get("containerimage.config.digest", "")
        if query.flag("q"):
            rows.row(stream=f"{identity}\n")
            return
        if identity and any(export.is_image for export in asked.exports):
            rows.row(id="moby.image.id", aux={"ID": identity})
        for tag in asked.exports[0].names if asked.exports else ():
            rows.row(stream=f"Successfully tagged {tag}\n")

    return Stream(body)


def _fail(rows: RowWriter, error: BaseException) -> None:
    if isinstance(error, ClientGone):
        raise error
    if not isinstance(error, (LaminaError, OSError)):
        traceback.print_exception(error, file=sys.stderr)
    rows.error(error)


def _trace(build: Build, rows: RowWriter, quiet: bool) -> None:
    from lamina.server.buildkit.wire import encode

    try:
        for row in build.progress.read():
            if not quiet:
                rows.row(id="moby.buildkit.trace", aux=base64.b64encode(encode(row)).decode("ascii"))
    except ClientGone:
        build.cancel.cancel()


def _upload(daemon: Daemon, request: Request, name: str) -> Reply:
    daemon.buildkit.uploads.put(name, _spooled(daemon, request))
    return answer(None)


def _spooled(daemon: Daemon, request: Request) -> int:
    """The request's body as a file without a name: a descriptor that is the caller's."""
    import tempfile

    with daemon.store() as store, tempfile.TemporaryFile(dir=store.scratch()) as file:
        while piece := request.body.read(_PIECE):
            file.write(piece)
        file.flush()
        return os.dup(file.fileno())


def _asked(daemon: Daemon, query: Query, traced: tuple[str, str]) -> Asked:
    """The query of /build as the front end's options."""
    from lamina.server.buildkit.asked import Asked

    if query.flag("squash"):
        raise BadRequest("--squash is not supported")
    attrs = {"filename": query.get("dockerfile") or "Dockerfile"}
    for key, name in (("target", "target"), ("platform", "platform"), ("shmsize", "shm-size"), ("cgroupparent", "cgroup-parent")):
        if query.get(key) and query.get(key) != "0":
            attrs[name] = query.get(key)
    remote = query.get("remote")
    if remote not in ("", "client-session", _UPLOAD):
        attrs["context"] = remote
    if query.flag("nocache"):
        attrs["no-cache"] = ""
    if query.flag("pull"):
        attrs["image-resolve-mode"] = "pull"
    if query.get("networkmode") in ("none", "host"):
        attrs["force-network-mode"] = query.get("networkmode")
    attrs |= {f"build-arg:{name}": str(value) for name, value in query.json("buildargs", {}).items() if value is not None}
    attrs |= {f"label:{name}": str(value) for name, value in query.json("labels", {}).items()}
    hosts = [str(text).replace(":", "=", 1) for text in _listed(query, "extrahosts")]
    if hosts:
        attrs["add-hosts"] = ",".join(hosts)
    limits = [f"{item['Name']}={item['Soft']}:{item['Hard']}" for item in query.json("ulimits", None) or ()]
    if limits:
        attrs["ulimit"] = ",".join(limits)
    return Asked(attrs, tuple(_exports(query)), tuple(_cache_from(daemon, query)), traced=traced)


def _listed(query: Query, name: str) -> list[object]:
    found: list[object] = []
    for value in query.all(name):
        found += json.loads(value) if value.startswith("[") else [value] if value else []
    return found


def _exports(query: Query) -> Iterator[Export]:
    from lamina.server.buildkit.asked import Export

    tags = ",".join(tag for tag in query.all("t") if tag)
    found = query.json("outputs", None) or []
    if not found:
        yield Export("moby", {"name": tags} if tags else {})
    for item in found:
        attrs = {str(key): str(value) for key, value in (item.get("Attrs") or {}).items()}
        kind = str(item.get("Type") or "moby")
        if kind in ("image", "moby", "docker"):
            kind = "moby"
            attrs.setdefault("name", tags)
        yield Export(kind, attrs)


def _cache_from(daemon: Daemon, query: Query) -> Iterator[dict[str, str]]:
    """An image that is here has its cache here: only others are looked for in their registries."""
    from lamina.engine.images.finding import find_image

    for text in query.json("cachefrom", None) or ():
        try:
            with daemon.store() as store:
                find_image(store, str(text))
        except LaminaError:
            yield {"type": "registry", "ref": str(text)}


def _has_h2() -> bool:
    from importlib.util import find_spec

    return find_spec("h2") is not None


def _need_upgrade(request: Request) -> None:
    if request.upgrade != "h2c":
        raise BadRequest("this path takes the connection over: Connection: Upgrade and Upgrade: h2c are needed")


def _refused(request: Request) -> Reply:
    """Who takes the connection over for HTTP/2 is told in HTTP/2: SETTINGS, then GOAWAY with the reason (RFC 9113 6.8; error code 13,
    HTTP_1_1_REQUIRED)."""
    if request.upgrade != "h2c":
        raise ApiError(_NO_H2, 501)
    text = _NO_H2.encode()
    settings = struct.pack(">I", 0)[1:] + b"\x04\0" + struct.pack(">I", 0)
    away = struct.pack(">I", 8 + len(text))[1:] + b"\x07\0" + struct.pack(">III", 0, 0, 13) + text

    def talk(duplex: Duplex) -> None:
        duplex.write(settings + away)

    return Hijack(talk)
