"""What a container's files are: copies in and out, what it changed, all of them as a tar, and an image of them."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import msgspec

from lamina.layer.entry import Entry, Kind
from lamina.layer.view import LayerView
from lamina.oci import typed
from lamina.oci.digest import LayerId
from lamina.sandbox.containers import CopyRefused
from lamina.sandbox.protocols import Overlay, SandboxSpec
from lamina.server.containers.container import Container
from lamina.server.containers.spec import bind
from lamina.server.errors import ApiError
from lamina.server.http.messages import Outlet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lamina.server.daemon import Daemon
    from lamina.store.refs import Image

_PIECE = 1 << 17
ADDED, MODIFIED, DELETED = 1, 0, 2


def _refused(error: CopyRefused, container: Container) -> ApiError:
    text = error.message
    if error.status == 404:
        text += f" in container {container.name}"
    return ApiError(text, error.status)


@contextlib.contextmanager
def _place(daemon: Daemon, container: Container) -> Iterator[tuple[SandboxSpec, int]]:
    """Where the copy's helper works: in the mounts of the running container, else in some of its own."""
    with container.changed:
        if container.running and container.process is not None:
            pid: int = container.process.pid
            lowers: tuple[Path, ...] = ()
        else:
            pid, lowers = 0, daemon.lowers(container.record.layers)
        scratch = container.folder / f"copy-{os.urandom(6).hex()}"
        scratch.mkdir(0o700)
        (scratch / "work").mkdir(0o700)
    from lamina.store.removal import remove

    mounts = () if pid else tuple(bind(mount, daemon.volumes.path) for mount in container.record.mounts if mount.type != "tmpfs")
    try:
        yield SandboxSpec(Overlay(lowers, container.upper, scratch / "work"), ("",), (), binds=mounts), pid
    finally:
        remove(scratch)


def stat(daemon: Daemon, container: Container, path: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    try:
        with _place(daemon, container) as (spec, pid):
            daemon.keeper.copy(spec, pid, "stat", path, on_stat=found.update)
    except CopyRefused as error:
        raise _refused(error, container) from error
    return found


def get(daemon: Daemon, container: Container, path: str, out: Outlet) -> None:
    """A tar of a file or folder."""
    read, write = os.pipe2(os.O_CLOEXEC)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with _place(daemon, container) as (spec, pid):
                daemon.keeper.copy(spec, pid, "get", path, sink=write)
        except BaseException as error:
            failures.append(error)
        finally:
            os.close(write)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    try:
        while data := os.read(read, _PIECE):
            out.write(data)
    finally:
        os.close(read)
        worker.join()
    if failures:
        raise failures[0]


def put(daemon: Daemon, container: Container, path: str, source: BinaryIO, *, keep_kind: bool) -> None:
    """Unpack a tar (also a compressed one) into a folder of the container."""
    read, write = os.pipe2(os.O_CLOEXEC)

    def feed() -> None:
        try:
            with os.fdopen(write, "wb", buffering=0) as pipe:
                while data := source.read(_PIECE):
                    view = memoryview(data)
                    while view:
                        view = view[pipe.write(view) :]
        except Exception:  # the helper stopped reading, or the client left: the copy itself tells
            pass

    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    try:
        with _place(daemon, container) as (spec, pid):
            daemon.keeper.copy(spec, pid, "put", path, source=read, keep_kind=keep_kind)
    except CopyRefused as error:
        raise _refused(error, container) from error
    finally:
        os.close(read)
    feeder.join()


def _view(daemon: Daemon, container: Container, *, own: bool = True) -> LayerView:
    with daemon.store() as store:
        paths = store.layers.present({LayerId(name) for name in container.record.layers})
        folders = [paths[LayerId(name)].parent for name in container.record.layers]
        return LayerView([*folders, container.folder] if own else folders, store.flavour)


def export(daemon: Daemon, container: Container, out: Outlet) -> None:
    """All files as a tar."""
    from lamina.engine.exporters.rootfs import write_rootfs_tar

    with _view(daemon, container) as view:
        write_rootfs_tar(view, cast(BinaryIO, out))


def changes(daemon: Daemon, container: Container) -> list[dict[str, Any]]:
    """`docker diff`: what stands in the container's own layer, against what the image has."""
    from lamina.layer.scan import scan

    found: dict[bytes, int] = {}
    with daemon.store() as store:
        flavour = store.flavour
    with _view(daemon, container, own=False) as below:
        for entry, _ in scan(container.folder, flavour):
            if not entry.path or entry.kind is Kind.OPAQUE:
                continue
            if entry.kind is Kind.WHITEOUT:
                found[entry.path] = DELETED
            else:
                found[entry.path] = MODIFIED if _same_kind(below.lookup(entry.path), entry) else ADDED
            parent = os.path.dirname(entry.path)
            while parent and parent not in found:
                found[parent] = MODIFIED
                parent = os.path.dirname(parent)
    return [{"Path": "/" + path.decode("utf-8", "replace"), "Kind": kind} for path, kind in sorted(found.items())]


def _same_kind(before: Entry | None, now: Entry) -> bool:
    return before is not None and (before.kind is Kind.DIRECTORY) == (now.kind is Kind.DIRECTORY)


def commit(
    daemon: Daemon,
    container: Container,
    names: Sequence[str],
    *,
    author: str,
    comment: str,
    changes: Sequence[str],
    config: Mapping[str, Any],
) -> Image:
    """The container's own layer upon its image's, as a new image."""
    from lamina.engine.images.recording import record_built
    from lamina.layer.pack import pack
    from lamina.oci.config import ContainerConfig, History, RootFs, encode_config, parse_config
    from lamina.oci.digest import DiffId
    from lamina.server.handlers.changes import apply_changes

    with daemon.store() as store:
        base = parse_config(store.blobs.read(daemon.image_of(container).id))
        with store.blobs.ingest() as writer:
            pack(container.folder, store.flavour, writer)
            layer = writer.commit()
        own = container.record.config
        document = {**own, **{name: value for name, value in config.items() if value}}
        known = {name: document[name] for name in _CONFIG if document.get(name) not in (None, "", [], {})}
        made = typed.convert(known, ContainerConfig, strict=False)
        made = apply_changes(made, changes)
        created = daemon.rfc3339()
        entry = History(
            created=created, created_by=" ".join([container.record.path, *container.record.args]), author=author, comment=comment
        )
        diff_ids = (*base.diff_ids, DiffId(layer))
        image = msgspec.structs.replace(
            base,
            created=created,
            author=author or base.author,
            config=made,
            rootfs=RootFs(diff_ids=diff_ids),
            history=(*base.history, entry),
        )
        layers = [(LayerId(name), diff_id) for name, diff_id in zip([*container.record.layers, layer], diff_ids)]
        from lamina.engine.images.recording import stored_layers

        return record_built(store, encode_config(image), layers, names, stored=stored_layers(store, daemon.image_of(container)))


_CONFIG = (
    "User",
    "ExposedPorts",
    "Env",
    "Entrypoint",
    "Cmd",
    "Volumes",
    "WorkingDir",
    "Labels",
    "StopSignal",
    "Healthcheck",
    "OnBuild",
    "Shell",
)


def size_of(container: Container) -> int:
    """Bytes in the container's own layer."""
    from lamina.store.layers import measure

    return measure(container.upper)[1]


def fill_volumes(folders: Sequence[Path], daemon: Daemon, targets: Sequence[tuple[str, Path]]) -> None:
    """Empty volumes get what the image has at their place."""
    from lamina.engine.exporters.rootfs import write_local

    with daemon.store() as store:
        flavour = store.flavour
    empty = [(target, path) for target, path in targets if path.is_dir() and not any(path.iterdir())]
    if not empty:
        return
    with LayerView(folders, flavour) as view:
        for target, path in empty:
            place = view.resolve(target.strip("/").encode())
            entry = view.lookup(place) if place is not None else None
            if place is None or entry is None or entry.kind is not Kind.DIRECTORY:
                continue
            write_local(_Below(view, place), path)
            os.chmod(path, entry.mode)
            with contextlib.suppress(OSError):
                os.chown(path, entry.uid, entry.gid)


class _Below:
    """A folder of a tree as a tree."""

    def __init__(self, tree: LayerView, folder: bytes) -> None:
        self._tree = tree
        self._folder = folder

    def _at(self, path: bytes) -> bytes:
        return self._folder + b"/" + path if path else self._folder

    def entry(self, path: bytes) -> Entry | None:
        found = self._tree.lookup(self._at(path))
        return None if found is None else msgspec.structs.replace(found, path=path)

    def resolve(self, path: bytes) -> bytes | None:
        return path if self.entry(path) is not None else None

    def children(self, path: bytes) -> Sequence[bytes]:
        return self._tree.children(self._at(path))

    def open(self, path: bytes) -> BinaryIO:
        return self._tree.open(self._at(path))

    def content(self, path: bytes) -> str:
        return self._tree.content(self._at(path))
