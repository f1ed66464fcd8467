"""What all requests share: the store, the containers, volumes, networks and events of one engine."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lamina.diagnostics.errors import LaminaError
from lamina.engine.engine import Engine
from lamina.oci.digest import Digest, LayerId
from lamina.sandbox import rungs
from lamina.sandbox.containers import Containers
from lamina.sandbox.protocols import Sandbox
from lamina.server.buildkit.state import BuildKit
from lamina.server.clock import rfc3339
from lamina.server.containers.container import Container, MountPoint
from lamina.server.containers.creating import Rules
from lamina.server.containers.execs import Execs
from lamina.server.containers.ports import Ports
from lamina.server.containers.table import Table
from lamina.server.errors import ApiError, NotFound
from lamina.server.events import Events
from lamina.server.metrics import Requests
from lamina.server.networks import Networks
from lamina.server.places import folder_of
from lamina.server.running import Journal
from lamina.server.seen import SeenSteps
from lamina.server.volumes import Volumes
from lamina.server.wiring import Wiring

if TYPE_CHECKING:
    from lamina.engine.tracing.tracer import Tracer
    from lamina.registry.client import RegistryClient
    from lamina.server.logins import Given
    from lamina.server.ui.runs import Runs
    from lamina.store.local import LocalStore
    from lamina.store.refs import Image

RegistryFor = Callable[["Given"], "RegistryClient"]
"""A client with the logins that a request brought along; without any, the engine's own."""
AfterBuilds = Callable[["LocalStore", bool], None]
"""Told of the store, and whether it has grown, when builds have ended."""


class Daemon:
    """`place` names the engine: its folder below `<root>/engines` has containers and volumes, and one live engine at a time.

    `keep`: containers outlive it. Those that an engine before it kept are taken over in any case.
    """

    def __init__(
        self,
        engine: Engine,
        rung: str,
        *,
        place: str,
        now_nano: Callable[[], int],
        rules: Rules,
        registry_for: RegistryFor,
        runs: Runs | None = None,
        tracer: Tracer | None = None,
        keep: bool = False,
        after_builds: AfterBuilds | None = None,
    ) -> None:
        self.engine = engine
        self.rung = rung
        self.place = place
        self.requests = Requests()
        self.rules = rules
        self.registry_for = registry_for
        self.runs = runs
        self.now_nano = now_nano
        self.keep = keep
        self.closing = False
        self._after_builds = after_builds
        self._grown = False
        self._tidying: threading.Timer | None = None
        self._using = threading.RLock()
        self._users = 0
        flavour = engine.store.flavour
        self.folder, self._lock = _own_folder(engine.store.layout.root, place, only=keep)
        if keep:
            (self.folder / "place").write_text(place)  # whoever finds what was kept can say which engine it waits for
            (self.folder / "rung").write_text(rung)
        self.id = hashlib.sha256(str(self.folder).encode()).hexdigest()[:32]
        self.seen_steps = SeenSteps(self.folder / "steps")
        self.events = Events(now_nano)
        self.journal = Journal(self.now, tracer)
        self.buildkit = BuildKit(self.folder, now_nano)
        self.keeper = Containers(userxattr=flavour.whiteouts == "user")
        self.execs = Execs(self)
        self.wiring = Wiring(lambda: self.containers.all(), lambda: self.networks)
        self.ports = Ports(self.wiring)
        self.containers = Table(self, self.folder / "containers")
        self.volumes = Volumes(self.folder / "volumes", self.now, self.events, self._volume_users)
        self.networks = Networks(self.folder, self.now, self.events, self.containers.all, self.wiring)
        self.containers.load()

    def now(self) -> float:
        return self.now_nano() / 10**9

    def rfc3339(self) -> str:
        return rfc3339(self.now())

    @contextlib.contextmanager
    def store(self) -> Iterator[LocalStore]:
        """The store, for the time of a request: what is looked at stays at least until the block ends."""
        with self._using:
            self._users += 1
        try:
            yield self.engine.store
        finally:
            with self._using:
                self._users -= 1

    def collect(self) -> int:
        """Remove from the disk what nobody needs any more: bytes freed. Does nothing while another request uses the store: what that has
        looked at could not be told from what is not needed."""
        from lamina.store.gc import collect_garbage

        with self._using:
            if self._users:
                return 0
            self._release()
            return collect_garbage(self.engine.store).freed

    @contextlib.contextmanager
    def builder(self, logins: Given | None = None) -> Iterator[Engine]:
        """An engine for one build: its sandbox ends with it, as it must: a helper process dies with the thread that began it."""
        made: list[Sandbox] = []

        def sandbox() -> Sandbox:
            if not made:
                made.append(rungs.make(self.rung))
            return made[0]

        before = self._newest()
        try:
            with self.store() as store:
                made_here = Engine(
                    store, sandbox, now=self.engine.now, host=self.engine.host, registry=lambda: self.registry_for(logins or {})
                )
                made_here.open_cache, made_here.shared = self.engine.open_cache, self.engine.shared
                yield made_here
        finally:
            for each in made:
                each.close()
            self._built(self._newest() != before)

    def _newest(self) -> object:
        """Another one when the store has got a layer."""
        if self._after_builds is None:
            return None
        return self.engine.store.database.first(tuple[int, float | None], "SELECT count(*), max(created) FROM layers")

    def _built(self, grown: bool) -> None:
        """The cache is looked after when nobody has used the store for a moment: a client may still fetch what it has built."""
        if self._after_builds is None:
            return
        with self._using:
            self._grown = self._grown or grown
            if self._tidying is None and not self.closing:
                self._tidying = threading.Timer(_MOMENT, self._tidy)
                self._tidying.daemon = True
                self._tidying.start()

    def _tidy(self) -> None:
        with self._using:
            self._tidying = None
            if self.closing or self._after_builds is None:
                return
            if self._users:
                self._built(False)
                return
            grown, self._grown = self._grown, False
            with contextlib.suppress(LaminaError):
                self._release()
                self._after_builds(self.engine.store, grown)

    def _release(self) -> None:
        """All pins but those of containers. Under the lock, without users."""
        self.engine.store.lease.release({layer for container in self.containers.all() for layer in container.record.layers})

    def close(self) -> None:
        """Containers are stopped, or left behind where they are kept; what they wrote stays."""
        from lamina.server.containers import keeping
        from lamina.server.containers.running import end_all

        with self._using:  # what is being tidied up ends first
            self.closing = True
            if self._tidying is not None:
                self._tidying.cancel()
        if self.keep:
            for container in self.containers.all():
                keeping.let_go(container)
        else:
            end_all(self, 2.0)
        self.keeper.close()
        self.wiring.close()
        os.close(self._lock)

    def busy(self) -> bool:
        """Whether something runs that would end with us."""
        return any(container.running for container in self.containers.all())

    # Layers of containers

    def pin(self, layers: Sequence[str]) -> None:
        """Keep layers from the collector while this engine lives."""
        self.engine.store.layers.present({LayerId(name) for name in layers})

    def lowers(self, layers: Sequence[str]) -> tuple[Path, ...]:
        """For an overlay, top first, each once. ApiError when one is gone."""
        found = self.engine.store.layers.present({LayerId(name) for name in layers})
        missing = [name for name in layers if LayerId(name) not in found]
        if missing:
            raise ApiError(
                f"the layer {missing[0]} of the container's image is not in the store any more", hint="pull or build the image again"
            )
        folders = [found[LayerId(name)] for name in reversed(layers)]
        return tuple(dict.fromkeys(folders))

    def unpacked(self, image: Image) -> list[str]:
        """Make an image's layers into directories; their names, bottom first."""
        from lamina.engine.images.layers import ensure_layers
        from lamina.oci.manifest import Descriptor
        from lamina.oci.reference import Reference

        store = self.engine.store

        def fetch(descriptor: Descriptor) -> None:
            for place in store.facts.places(descriptor.digest):
                self.registry_for({}).fetch_blob(Reference.parse(place), descriptor, store.blobs)
                return
            raise NotFound(f"the layer {descriptor.digest} is not here and nobody knows where it came from")

        ensure_layers(store, image, fetch)
        return [str(layer) for layer in image.layers]

    def fill_volumes(self, image: Image, mounts: Sequence[MountPoint]) -> None:
        from lamina.server.containers.copies import fill_volumes

        targets = [(mount.target, self.volumes.path(mount.name)) for mount in mounts if mount.type == "volume"]
        if targets:
            found = self.engine.store.layers.present(image.layers)
            fill_volumes([found[layer].parent for layer in image.layers], self, targets)

    def image_of(self, container: Container) -> Image:
        found = self.engine.store.images.by_id(Digest(container.record.image))
        if found is None:
            raise NotFound(f"the image {container.record.image} of the container is not here any more")
        return found

    def _volume_users(self, name: str) -> list[str]:
        return [c.id for c in self.containers.all() if any(mount.name == name for mount in c.record.mounts)]


_PATIENCE = 1.0  # seconds for an engine that is ending, or somebody who only looks whether there is one


_MOMENT = 2.0  # seconds after a build


class Taken(LaminaError):
    code = "server/taken"
    default_exit = 2


def _own_folder(root: Path, place: str, *, only: bool) -> tuple[Path, int]:
    """The folder of the engine at this place; when another engine has it, one with a random name. `only`: Taken instead, as nobody would
    find that again."""
    folder = folder_of(root, place)
    deadline = time.monotonic() + _PATIENCE
    while True:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return folder, lock
        except BlockingIOError:
            os.close(lock)
            if only and time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            if only:
                raise Taken(
                    f"another engine serves {place} on this store, and its containers are there",
                    hint="stop it, or give --host another address; only one engine can keep containers at each",
                ) from None
            folder = folder.with_name(os.urandom(8).hex())


def machine() -> str:
    """The architecture as docker's clients call it."""
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
