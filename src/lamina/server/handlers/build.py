"""POST /build, classic protocol: a tar with the context comes in, or the name of a repository or URL; rows go out. And /build/prune, /commit."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any, BinaryIO

from lamina.diagnostics.errors import LaminaError
from lamina.engine.contextfiles import is_remote
from lamina.oci.reference import Reference
from lamina.server import filters, logins
from lamina.server.daemon import Daemon
from lamina.server.dockerfiles import checked, read_below, shown_command
from lamina.server.errors import ApiError, BadRequest, ClientGone
from lamina.server.handlers.images import full_name, target_name
from lamina.server.http.messages import Outlet, Query, Reply, Request, Stream, answer
from lamina.server.rows import RowWriter

_PREDEFINED = {n for name in ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy") for n in (name, name.upper())}


class BuildError(ApiError):
    """Ends the stream with this exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.row_code = exit_code


def build(daemon: Daemon, request: Request) -> Reply:
    query = request.query
    if query.get("version") == "2":
        from lamina.server.handlers import buildkit

        return buildkit.build(daemon, request)
    tags = tuple(dict.fromkeys(full_name(text) for text in query.all("t") if text))
    _refuse(query)
    given = logins.several(request.headers.get("x-registry-config", ""))
    from lamina.store.removal import remove

    with daemon.store() as store:
        place = store.scratch() / f"context-{os.urandom(8).hex()}"
    place.mkdir(0o700)
    try:
        if not _remote(query):
            _unpack(daemon, request.body, place)
        run = _prepare(daemon, query, place / "diff", tags, given, request.traced)
    except BaseException:
        remove(place)
        raise

    def body(out: Outlet) -> None:
        try:
            run(out)
        finally:
            remove(place)

    return Stream(body)


def _refuse(query: Query) -> None:
    if query.get("version", "1") not in ("", "1"):
        raise BadRequest(f"there is no builder of version {query.get('version')!r}: 1 and 2 are known")
    remote = _remote(query)
    if remote and (not is_remote(remote) or remote.startswith("file://")):
        raise BadRequest(f"the context {remote!r} is neither a repository nor a URL")
    if query.flag("squash"):
        raise BadRequest("--squash is not supported")


def _remote(query: Query) -> str:
    """What the engine fetches itself; "" for a context in the body."""
    return query.get("remote").removeprefix("-")


def _unpack(daemon: Daemon, body: BinaryIO, place: Path) -> None:
    from lamina.engine.images.unpacked import plain_stream
    from lamina.layer.apply import apply_tar

    (place / "diff").mkdir()
    try:
        with plain_stream(body, "the build context") as plain:
            padded = _Padded(plain)
            apply_tar(padded, place, daemon.engine.store.flavour)
            while padded.read(1 << 18):
                pass
    except ClientGone:
        raise
    except LaminaError as error:
        raise BadRequest(f"Error processing tar file: {error.message}") from error


class _Padded:
    """The docker CLI of 20.10 leaves the last member of a context without its padding when the Dockerfile comes from standard input."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._count = 0

    def read(self, size: int = -1, /) -> bytes:
        data = self._source.read(size)
        if not data:
            data = bytes(-self._count % 512)
        self._count += len(data)
        return data


def _prepare(daemon: Daemon, query: Query, context: Path, tags: tuple[str, ...], given: logins.Given, traced: tuple[str, str]) -> Any:
    """Everything that can be refused before the first row is refused here; of a context that is fetched, nothing is known before."""
    from lamina.engine.request import BuildRequest, Incoming
    from lamina.oci.platform import Platform

    target = query.get("target") or None
    name = query.get("dockerfile") or "Dockerfile"
    text, ignore, document, incoming = "", None, None, None
    if place := _remote(query):
        incoming = Incoming(place=place, dockerfile=name)
    else:
        name, text, ignore = _dockerfile(context, name)
        document = checked(text, name, target)
    args: dict[str, str | None] = {str(n): None if v is None else str(v) for n, v in query.json("buildargs", {}).items()}
    labels = {str(n): str(v) for n, v in query.json("labels", {}).items()}
    network = query.get("networkmode") or "default"
    platform = query.get("platform")
    build = BuildRequest(
        context=context,
        dockerfile_name=name,
        dockerfile_text=text,
        ignore_text=ignore,
        target=target,
        args={n: v for n, v in args.items() if v is not None},
        platforms=(Platform.parse(platform),) if platform else (),
        tags=tags,
        labels=labels,
        no_cache=query.flag("nocache"),
        pull=query.flag("pull"),
        network=network if network in ("none", "host") else "default",  # type: ignore[arg-type]  # one of the three words
        extra_hosts=_hosts(query),
        shm_size=query.integer("shmsize"),
        ulimits=_ulimits(query),
        incoming=incoming,
    )
    declared = {pair[0] for pairs in _arg_pairs(document) for pair in pairs} if document is not None else set(args)
    unused = sorted(n for n in args if n not in declared and n not in _PREDEFINED)
    return lambda out: _run(daemon, build, out, given, unused, traced, quiet=query.flag("q"))


def _arg_pairs(document: Any) -> list[tuple[tuple[str, str | None], ...]]:
    from lamina.dockerfile.instructions import Arg

    found = [arg.pairs for arg in document.meta_args]
    return found + [i.pairs for stage in document.stages for i in stage.instructions if isinstance(i, Arg)]


def _dockerfile(context: Path, name: str) -> tuple[str, str, str | None]:
    """(name, text, ignore text). Links lead where they lead inside the context."""
    text = read_below(context, name)
    if text is None and name == "Dockerfile":
        text = read_below(context, "dockerfile")
    if text is None:
        raise BadRequest(f"Cannot locate specified Dockerfile: {name}", 500)
    shown = "<stdin>" if name.startswith(".dockerfile.") else name
    ignore = read_below(context, ".dockerignore")
    if shown == "<stdin>":  # the client put it there: it is no file of the context
        ignore = (ignore or "") + f"\n{name}\n"
    return shown, text, ignore


def _hosts(query: Query) -> tuple[tuple[str, str], ...]:
    texts = [line for value in query.all("extrahosts") for line in (json.loads(value) if value.startswith("[") else [value]) if line]
    found = []
    for text in texts:
        name, _, address = str(text).partition(":")
        if not name or not address:
            raise BadRequest(f"bad format for add-host: {text!r}")
        found.append((name, "127.0.0.1" if address == "host-gateway" else address))
    return tuple(found)


def _ulimits(query: Query) -> tuple[tuple[str, int, int], ...]:
    return tuple((str(item["Name"]), int(item["Soft"]), int(item["Hard"])) for item in query.json("ulimits", None) or ())


def _run(daemon: Daemon, build: Any, out: Outlet, given: logins.Given, unused: list[str], traced: tuple[str, str], *, quiet: bool) -> None:
    from lamina.server.classic import Transcript
    from lamina.solver.cancel import CancelToken

    rows = RowWriter(out)
    cancel = CancelToken()
    out.on_gone(cancel.cancel)
    transcript = Transcript(
        rows, lambda name: _image_id(daemon, name), daemon.seen_steps.__contains__, build.args, fresh=build.no_cache, quiet=quiet
    )
    try:
        with daemon.builder(given) as engine:
            engine.on_steps = transcript.listed
            try:
                result = daemon.journal.build(engine, build, transcript.report, cancel, "docker build, classic", traced)
            finally:
                transcript.close()
                daemon.seen_steps.add(transcript.made)
    except KeyboardInterrupt:
        raise ClientGone from None
    except ClientGone:
        raise
    except Exception as error:
        _failed(rows, transcript, error)
        return
    for image in result.images:
        # A build that found everything may have been asked for by others meanwhile; the last name wins, as with docker.
        if unused and not quiet:
            rows.row(stream=f"[Warning] One or more build-args {_list(unused)} were not consumed\n")
        transcript.finish(image.id, [Reference.parse(tag).familiar for tag in build.tags])
        for tag in build.tags:
            daemon.events.emit("image", "tag", image.id, {"name": Reference.parse(tag).familiar})


def _list(names: list[str]) -> str:
    return "[" + " ".join(names) + "]"


def _image_id(daemon: Daemon, name: str) -> str:
    from lamina.engine.images.finding import find_image

    with contextlib.suppress(LaminaError), daemon.store() as store:
        return str(find_image(store, name).id)
    return ""


def _failed(rows: RowWriter, transcript: Any, error: Exception) -> None:
    step = transcript.failed_step()
    if isinstance(error, LaminaError) and error.code == "engine/run-failed" and step is not None:
        rows.error(ApiError(f"The command '{shown_command(step.text)}' returned a non-zero code: {error.exit_code}"), error.exit_code)
        return
    if step is not None and step.kind in ("COPY", "ADD") and isinstance(error, LaminaError):
        rows.error(ApiError(f"{step.kind} failed: {error.message}" + (f" ({error.hint})" if error.hint else "")))
        return
    if not isinstance(error, (LaminaError, OSError)):
        import sys
        import traceback

        traceback.print_exception(error, file=sys.stderr)
    rows.error(error)


def prune(daemon: Daemon, request: Request) -> Reply:
    """The cache beside images and containers; `until` = not used for so long, `all` = everything."""
    from lamina.server import clock
    from lamina.store.gc import prune as collect
    from lamina.store.policy import PrunePolicy

    wanted = filters.parse(
        request.query, ("until", "id", "parent", "type", "description", "inuse", "shared", "private", "unused-for", "label", "label!")
    )
    now = daemon.now()
    age: float | None = None
    for text in [*wanted.get("until", ()), *wanted.get("unused-for", ())]:
        border = clock.parse(text, now)
        age = now - (border if border is not None else now)
    keep = request.query.integer("keep-storage") or None
    freed = daemon.buildkit.folders.clear() if age is None and keep is None else 0
    with daemon.store() as store:
        policy = PrunePolicy(now, max_age=age, max_bytes=keep, everything=age is None and keep is None and request.query.flag("all"))
        found = collect(store, policy)
    deleted = [decision.row.name for decision in found.decisions if decision.remove]
    freed += found.swept.freed
    daemon.events.emit("builder", "prune", "", {"reclaimed": str(freed)})
    return answer({"CachesDeleted": deleted or None, "SpaceReclaimed": freed})


def commit(daemon: Daemon, request: Request) -> Reply:
    from lamina.server.containers.copies import commit as make
    from lamina.server.containers.running import pause, unpause

    query = request.query
    container = daemon.containers.find(query.get("container"))
    names = [target_name(request)] if query.get("repo") else []
    changes = [line for value in query.all("changes") for line in value.split("\n") if line.strip()]
    pausing = query.flag("pause", True) and container.state.status == "running"
    if pausing:
        pause(daemon, container)
    try:
        image = make(
            daemon, container, names, author=query.get("author"), comment=query.get("comment"), changes=changes, config=request.json()
        )
    finally:
        if pausing:
            unpause(daemon, container)
    daemon.events.emit("container", "commit", container.id, {**container.attributes(), "imageID": image.id})
    return answer({"Id": image.id}, 201)
