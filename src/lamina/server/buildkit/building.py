"""A build that a BuildKit client asked for: what it needs is fetched from the client's session, built, and given where the client wants it."""

from __future__ import annotations

import contextlib
import io
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lamina.diagnostics.errors import LaminaError
from lamina.server import dockerfiles
from lamina.server.buildkit import asked as asking
from lamina.server.buildkit.agents import forwarded
from lamina.server.buildkit.attests import attests
from lamina.server.buildkit.grpc import CANCELED, ClientCall, RpcError
from lamina.server.buildkit.logins import SessionLogins
from lamina.server.buildkit.progress import run_failed
from lamina.server.buildkit.receiving import fetch
from lamina.server.buildkit.sessions import UPLOAD
from lamina.server.errors import ApiError, BadRequest, message_of

if TYPE_CHECKING:
    from lamina.cache.remote.shared import SharedCache
    from lamina.engine.engine import Engine
    from lamina.engine.request import BuildRequest, BuildResult, Incoming, ListedStep, Output
    from lamina.server.buildkit.progress import Progress, Task
    from lamina.server.buildkit.sessions import Session
    from lamina.server.daemon import Daemon
    from lamina.solver.cancel import CancelToken
    from lamina.store.refs import Image

_PROGRESS_EVERY = 4 << 20  # bytes between two words about a transfer


class Built(msgspec.Struct, frozen=True):
    result: BuildResult
    request: BuildRequest


class Work:
    """One build. `perform`, then `deliver`; both block. `archive`: the context came beforehand, as a file."""

    def __init__(
        self,
        daemon: Daemon,
        session: Session,
        asked: asking.Asked,
        progress: Progress,
        cancel: CancelToken,
        archive: int | None = None,
    ) -> None:
        self._daemon = daemon
        self._session = session
        self._asked = asked
        self._progress = progress
        self._cancel = cancel
        self._archive = archive
        self._keys: dict[str, str] = {}  # of S3, by their variables
        session.on_close(cancel.cancel)

    def perform(self) -> Built:
        """RpcError when cancelled; other LaminaErrors in docker's words."""
        try:
            with contextlib.ExitStack() as stack:
                request = self._request(stack)
                with self._daemon.builder(SessionLogins(self._session)) as engine:
                    engine.open_cache = self._open_cache
                    result = self._build(engine, request)
                return Built(result, request)
        except KeyboardInterrupt:
            raise RpcError(CANCELED, "context canceled") from None
        except LaminaError as error:
            if self._cancel.cancelled():
                raise RpcError(CANCELED, "context canceled") from None
            raise self._told(error) from error

    def _build(self, engine: Engine, request: BuildRequest) -> BuildResult:
        bases = asking.base_names(request.dockerfile_text, request.dockerfile_name)
        looking = self._progress.task(f"[internal] load metadata for {', '.join(bases)}") if bases else None

        def listed(steps: tuple[ListedStep, ...]) -> None:
            if looking is not None:
                looking.end()
            self._progress.listed(steps)

        engine.on_steps = listed
        try:
            return self._daemon.journal.build(engine, request, self._progress.report, self._cancel, "a BuildKit client", self._asked.traced)
        except BaseException as error:
            if looking is not None:
                looking.end(message_of(error) if isinstance(error, Exception) else "context canceled")
            raise

    def deliver(self, built: Built) -> dict[str, str]:
        """Push, write to the client; what exporters answer. The image itself is kept already."""
        names, outputs = asking.outputs(self._asked.exports)
        found = built.result.images
        pushed = ""
        images = self._images(built, names)
        with self._progress.task("exporting to image" if any(e.is_image for e in self._asked.exports) else "exporting to client") as task:
            for image in found:
                task.doing(f"writing image {image.id}", done=True)
            for name in names:
                task.doing(f"naming to {_full(name)}", done=True)
            for output in outputs:
                if output.type == "registry":
                    pushed = self._push(images, built.request, output, task) or pushed
            for export in self._asked.exports:
                if not export.is_image and export.type != "cacheonly":
                    self._give(export, images, built.request, task)
        for name in names:
            self._daemon.events.emit("image", "tag", found[0].id, {"name": _familiar(name)})
        answer = {}
        if found:
            answer = {"containerimage.config.digest": str(found[0].id), "containerimage.digest": str(found[0].manifest)}
        if pushed:
            answer["containerimage.digest"] = pushed
        if names:
            answer["image.name"] = ",".join(_full(name) for name in names)
        return answer

    # Before the build

    def _request(self, stack: contextlib.ExitStack) -> BuildRequest:
        from lamina.engine.request import BuildRequest, Incoming
        from lamina.oci.platform import Platform

        asked = self._asked
        if self._archive is not None:
            stack.callback(os.close, self._archive)
        place = self._scratch(stack)
        incoming: Incoming | None = None
        context = place / "none"
        ignore: str | None = None
        if asked.upload is not None:
            self._archive = self._uploaded(place, asked.upload)
            stack.callback(os.close, self._archive)
        if self._archive is not None:
            incoming = Incoming(archive=self._archive, dockerfile=asked.filename)
        elif asked.remote is not None:
            incoming = Incoming(place=asked.remote, dockerfile=asked.filename)
        text, document = "", None
        local, contexts = asked.named_contexts()
        if incoming is None or "dockerfilekey" in asked.attrs:
            text, ignore = self._dockerfile(place)
            document = dockerfiles.checked(text, asked.filename, asked.attrs.get("target") or None)
        if incoming is None:
            if ignore is None:
                ignore = self._ignore_file(place)
            context = self._context(stack, asked.attrs.get("contextkey") or "context", ignore)
        elif document is not None:
            incoming = msgspec.structs.replace(incoming, dockerfile=None)
        for name, folder in local.items():
            contexts[name] = str(self._context(stack, folder, self._ignore_of(place, folder)))
        agents = asking.agent_names(document) if document is not None else set()
        if incoming is not None or any("@" in value or value.startswith("ssh://") for value in contexts.values()):
            agents = agents | {"default"}
        args: dict[str, str | None] = dict(asked.prefixed("build-arg:"))
        epoch = args.get("SOURCE_DATE_EPOCH") or ""
        fresh, stages = asked.no_cache()
        network = asked.attrs.get("force-network-mode") or "default"
        names, _ = asking.outputs(asked.exports)
        attested = attests(asked.attrs, asked.exports)
        for notice in attested.notices:
            self._warn(notice)
        return BuildRequest(
            context=context,
            dockerfile_name=asked.filename,
            dockerfile_text=text,
            ignore_text=ignore,
            target=asked.attrs.get("target") or None,
            args=args,
            epoch=int(epoch) if epoch.isdecimal() and len(epoch) < 12 else None,
            platforms=tuple(Platform.parse(text) for text in asked.platforms()),
            tags=names,
            labels=asked.prefixed("label:"),
            named_contexts=contexts,
            more_secrets=self._session.secret,
            ssh=stack.enter_context(forwarded(self._session, sorted(agents))),
            no_cache=fresh,
            no_cache_filter=stages,
            pull=asked.attrs.get("image-resolve-mode") == "pull",
            network=network if network in ("none", "host") else "default",  # type: ignore[arg-type]  # one of the three words
            extra_hosts=asked.hosts(),
            shm_size=asked.shm_size(),
            ulimits=asked.ulimits(),
            allow_insecure="security.insecure" in asked.entitlements,
            cache_from=tuple(self._caches(asked.cache_from, "--cache-from")),
            cache_to=tuple(self._caches(asked.cache_to, "--cache-to")),
            incoming=incoming,
            provenance=attested.provenance,
            sbom=attested.sbom,
        )

    def _scratch(self, stack: contextlib.ExitStack) -> Path:
        from lamina.store.removal import remove

        with self._daemon.store() as store:
            place = store.scratch() / f"buildkit-{os.urandom(8).hex()}"
        place.mkdir(0o700)
        stack.callback(remove, place)
        return place

    def _uploaded(self, place: Path, path: str) -> int:
        """An archive that the client's session has at this path: a descriptor of it."""
        from lamina.server.buildkit.messages import Bytes

        with self._progress.task("[internal] load remote build context") as task, tempfile.TemporaryFile(dir=place) as file:
            counter = _Counter(task, "transferring context")
            call = self._session.stream(UPLOAD, [("urlpath", path), ("urlhost", "buildkit-session")])
            try:
                self._until_cancelled(call)
                while (found := call.receive(Bytes)) is not None:
                    file.write(found.data)
                    counter(len(found.data))
            finally:
                call.close()
            counter.end()
            file.flush()
            return os.dup(file.fileno())

    def _dockerfile(self, place: Path) -> tuple[str, str | None]:
        """(text, its own ignore file's)"""
        name = self._asked.filename
        with self._progress.task(f"[internal] load build definition from {name}") as task:
            folder = self._small(place, self._asked.attrs.get("dockerfilekey") or "dockerfile", [name, name + ".dockerignore"], task)
            text = dockerfiles.read_below(folder, name)
            if text is None and name == "Dockerfile":
                folder = self._small(place, "dockerfile", ["dockerfile"], task)
                text = dockerfiles.read_below(folder, "dockerfile")
            if text is None:
                raise ApiError(f"failed to read dockerfile: open {name}: no such file or directory")
            return text, dockerfiles.read_below(folder, name + ".dockerignore")

    def _ignore_file(self, place: Path) -> str | None:
        with self._progress.task("[internal] load .dockerignore") as task:
            folder = self._small(place, self._asked.attrs.get("contextkey") or "context", [".dockerignore"], task)
            return dockerfiles.read_below(folder, ".dockerignore")

    def _ignore_of(self, place: Path, name: str) -> str | None:
        """A named context's: the engine reads it, the client has to leave the files away."""
        with self._progress.task(f"[context {name}] load .dockerignore") as task:
            return dockerfiles.read_below(self._small(place, name, [".dockerignore"], task), ".dockerignore")

    def _small(self, place: Path, name: str, files: list[str], task: Task) -> Path:
        folder = place / os.urandom(4).hex()
        folder.mkdir()
        counter = _Counter(task, f"transferring {name}")
        fetch(self._session, name, folder, follow=files, on_bytes=counter, on_call=self._until_cancelled)
        counter.end()
        return folder / "files"

    def _context(self, stack: contextlib.ExitStack, name: str, ignore: str | None) -> Path:
        title = "[internal] load build context" if name == "context" else f"[context {name}] load from client"
        key = f"{self._session.key}\0{name}" if self._session.key else ""
        place = stack.enter_context(self._daemon.buildkit.folders.borrow(key))
        with self._progress.task(title) as task:
            counter = _Counter(task, "transferring context")
            folder = fetch(
                self._session,
                name,
                place,
                exclude=asking.exclude_patterns(ignore),
                on_bytes=counter,
                on_call=self._until_cancelled,
            )
            counter.end()
        return folder

    def _until_cancelled(self, call: ClientCall) -> None:
        self._cancel.on_cancel(call.cancel)

    def _caches(self, entries: tuple[Mapping[str, str], ...], option: str) -> Iterator[str]:
        """Shared caches that the engine can open; of the others the build says that they are left out."""
        for entry in entries:
            kind = entry.get("type", "")
            if kind == "s3":
                entry = asking.without_keys(entry, self._keys)
            if kind in ("registry", "s3"):
                yield ",".join([f"type={kind}", *(f"{name}={value}" for name, value in entry.items() if name != "type")])
            elif kind == "inline":
                self._warn(f"{option} type=inline is left out: --cache-to type=registry,ref=NAME shares the cache")
            else:
                self._warn(f"{option} type={kind} is left out: registry and s3 are known here")

    def _open_cache(self, text: str) -> SharedCache:
        """With the client's logins and keys, where it gives some; elsewhere as the engine's own commands do."""
        from lamina.engine.caches import open_cache

        own = self._daemon.engine
        if text in own.shared or (text.startswith("type=s3,") and not self._keys):
            return own.open_cache(text)
        logins = SessionLogins(self._session)
        return open_cache(text, now=self._daemon.now, environment=self._keys, registry=lambda seconds: self._daemon.registry_for(logins))

    def _warn(self, text: str) -> None:
        from lamina.engine.request import Notice

        self._progress.report(Notice("warning", text))

    # After it

    def _images(self, built: Built, names: tuple[str, ...]) -> list[Image]:
        with self._daemon.store() as store:
            found = [store.images.by_id(image.id) for image in built.result.images]
        full = tuple(_full(name) for name in names)
        return [msgspec.structs.replace(image, names=full) for image in found if image is not None]

    def _push(self, images: list[Image], request: BuildRequest, output: Output, task: Task) -> str:
        """The digest that the last name has in its registry."""
        digest = ""

        task.doing("pushing layers")
        wanted = msgspec.structs.replace(request, outputs=(output,))
        with self._daemon.builder(SessionLogins(self._session)) as engine:
            for name, digest in engine.export(
                images,
                wanted,
                lambda event: None,
                self._warn,
            ):
                task.doing(f"pushing manifest for {name}@{digest}", done=True)
        task.doing("pushing layers", done=True)
        return digest

    def _give(self, export: asking.Export, images: list[Image], request: BuildRequest, task: Task) -> None:
        from lamina.engine.attest.making import Attestor, Wanted
        from lamina.engine.exporters.export import export as write
        from lamina.engine.images.layers import ensure_layers
        from lamina.engine.request import Output
        from lamina.layer.view import LayerView
        from lamina.server.buildkit.sending import ClientFile, send_tree

        if export.type in ("local", "tar", "docker") and len(images) != 1:
            raise BadRequest(f"type={export.type} takes one platform: type=oci and type=image,push=true take several")
        with self._daemon.builder(SessionLogins(self._session)) as engine:
            store = engine.store
            if export.type == "local":
                counter = _Counter(task, "copying files")
                send_tree(self._session, export.id, LayerView(ensure_layers(store, images[0]), store.flavour), counter)
                counter.end()
                return
            title = {"tar": "sending tarball", "docker": "sending docker archive", "oci": "sending oci archive"}[export.type]
            task.doing(title)
            attrs = (("name", ",".join(export.names)),) if export.names else ()
            with ClientFile(self._session, export.id) as file:
                buffered = io.BufferedWriter(file, 1 << 17)
                attest = Attestor(engine, Wanted(request.provenance, request.sbom), self._warn)
                write(store, images, Output(export.type, None, attrs), buffered, attest)  # type: ignore[arg-type]  # one of tar, docker, oci
                buffered.flush()
                file.finish()
                buffered.detach()
            task.doing(title, done=True)

    def _told(self, error: LaminaError) -> LaminaError:
        """A failed step in BuildKit's words."""
        if isinstance(error, (ApiError, RpcError)):
            return error
        step = self._progress.failed_step
        if step is not None and error.code == "engine/run-failed":
            return ApiError(run_failed(step, error.exit_code))
        told = error
        if error.code == "copy/source-not-found" and (found := re.match(r"'([^']+)' does not exist$", error.message)):
            hint = f" ({error.hint})" if error.hint else ""
            told = ApiError(f'failed to compute cache key: "{found[1]}": not found{hint}')
        if error.spans:
            self._progress.refuse(error.spans[0].line, told.message)
        return told


class _Counter:
    """Bytes of a transfer, told now and then."""

    def __init__(self, task: Task, what: str) -> None:
        self._task = task
        self._what = what
        self._count = self._told = 0
        task.doing(what)

    def __call__(self, count: int) -> None:
        self._count += count
        if self._count - self._told >= _PROGRESS_EVERY:
            self._told = self._count
            self._task.doing(self._what, self._count)

    def end(self) -> None:
        self._task.doing(self._what, self._count, done=True)


def _full(name: str) -> str:
    from lamina.oci.reference import Reference

    return str(Reference.parse(name).with_default_tag())


def _familiar(name: str) -> str:
    from lamina.oci.reference import Reference

    return Reference.parse(name).with_default_tag().familiar
