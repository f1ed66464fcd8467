"""Pull and push as docker's rows."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from lamina.diagnostics.errors import LaminaError
from lamina.oci.platform import Platform
from lamina.oci.reference import Reference
from lamina.server.daemon import Daemon
from lamina.server.errors import ApiError
from lamina.server.rows import RowWriter

if TYPE_CHECKING:
    from lamina.oci.manifest import Descriptor
    from lamina.registry.client import RegistryClient
    from lamina.registry.push import Outcome

_EVERY = 0.1  # seconds between two rows about one layer


class _Progress:
    """Rows of layers that arrive; called from several threads."""

    def __init__(self, rows: RowWriter) -> None:
        self._rows = rows
        self._lock = threading.Lock()
        self._got: dict[str, int] = {}
        self._told: dict[str, float] = {}

    def __call__(self, descriptor: Descriptor, count: int) -> None:
        short = descriptor.digest.partition(":")[2][:12]
        with self._lock:
            first = short not in self._got
            got = self._got[short] = self._got.get(short, 0) + count
            now = time.monotonic()
            whole = got >= descriptor.size
            if not whole and now - self._told.get(short, 0.0) < _EVERY:
                return
            self._told[short] = now
        if first:
            self._rows.row(status="Pulling fs layer", progressDetail={}, id=short)
        self._rows.row(status="Downloading", progressDetail={"current": got, "total": descriptor.size}, id=short)
        if whole:
            self._rows.row(status="Download complete", progressDetail={}, id=short)

    def finish(self) -> None:
        for short in self._got:
            self._rows.row(status="Pull complete", progressDetail={}, id=short)


def pull_rows(daemon: Daemon, client: RegistryClient, reference: Reference, platform: Platform, rows: RowWriter) -> None:
    from lamina.engine.images.importing import pull
    from lamina.server.handlers.images import familiar

    shown = reference.tag or str(reference.digest)
    repository = Reference(reference.registry, reference.repository).familiar
    rows.row(status=f"Pulling from {reference.repository}", id=shown)
    progress = _Progress(rows)
    with daemon.store() as store:
        before = store.images.by_name(str(reference), str(platform)) if reference.tag else None
        image = pull(store, client, reference, platform, on_bytes=progress)
        remote = store.facts.remote(str(reference), str(platform))
    progress.finish()
    digest = remote.manifest if remote is not None else image.manifest
    rows.row(status=f"Digest: {digest}")
    same = before is not None and before.id == image.id
    name = familiar(str(reference)) if reference.tag else f"{repository}@{digest}"
    rows.row(status=f"Status: {'Image is up to date' if same else 'Downloaded newer image'} for {name}")
    daemon.events.emit("image", "pull", name, {"name": repository})


def push_rows(daemon: Daemon, client: RegistryClient, reference: Reference, rows: RowWriter) -> None:
    """Without a tag every tag of the repository is pushed."""
    from lamina.engine.registries.pushing import push

    rows.row(status=f"The push refers to repository [{reference.name}]")
    with daemon.store() as store:
        names = sorted(
            name
            for image in store.images.all()
            for name in image.names
            if Reference.parse(name).name == reference.name and reference.tag in (None, Reference.parse(name).tag)
        )
        if not names:
            missing = (
                f"An image does not exist locally with the tag: {reference.name}"
                if not reference.tag
                else f"tag does not exist: {reference.familiar}"
            )
            if reference.tag and not any(Reference.parse(n).name == reference.name for image in store.images.all() for n in image.names):
                missing = f"An image does not exist locally with the tag: {reference.name}"
            raise ApiError(missing, 404)
        for name in names:
            target = Reference.parse(name)
            images = [image for image in store.images.all() if name in image.names]

            def on_blob(descriptor: Descriptor, outcome: Outcome) -> None:
                word = {"sent": "Pushed", "mounted": "Mounted from another repository", "there": "Layer already exists"}[outcome]
                rows.row(status=word, progressDetail={}, id=descriptor.digest.partition(":")[2][:12])

            try:
                done = push(store, client, images, target, on_blob=on_blob)
            except LaminaError as error:
                rows.error(error)
                return
            size = _manifest_size(client, target)
            for image in images:
                store.facts.set_remote(name, image.platform, done.digest)
            rows.row(status=f"{target.tag}: digest: {done.digest} size: {size}")
            rows.row(progressDetail={}, aux={"Tag": target.tag, "Digest": done.digest, "Size": size})
            daemon.events.emit("image", "push", target.familiar, {"name": target.familiar})


def _manifest_size(client: RegistryClient, reference: Reference) -> int:
    try:
        return len(client.document(reference).raw)
    except LaminaError:
        return 0
