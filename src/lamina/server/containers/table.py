"""The containers of one engine: found by id, name or the beginning of an id; kept on disk, so that a restart knows what was."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from lamina.oci import typed
from lamina.sandbox import groups, kept
from lamina.server.containers import creating, keeping, running
from lamina.server.containers.container import Container, MountPoint, Record
from lamina.server.errors import BadRequest, Conflict, NotFound

if TYPE_CHECKING:
    from lamina.server.daemon import Daemon
    from lamina.store.refs import Image

_LEFT = (
    "admiring",
    "brave",
    "calm",
    "clever",
    "eager",
    "fair",
    "gentle",
    "happy",
    "keen",
    "lucid",
    "merry",
    "patient",
    "quiet",
    "sharp",
    "swift",
    "wise",
)
_RIGHT = (
    "curie",
    "darwin",
    "euler",
    "fermat",
    "gauss",
    "hopper",
    "kepler",
    "lovelace",
    "mendel",
    "newton",
    "noether",
    "pascal",
    "ritchie",
    "shannon",
    "turing",
    "wiles",
)


class Table:
    """Thread-safe."""

    def __init__(self, daemon: Daemon, folder: Path) -> None:
        self._daemon = daemon
        self._folder = folder
        self._lock = threading.Lock()
        self._containers: dict[str, Container] = {}
        self._names: dict[str, str] = {}
        self.taken_over = 0  # of an earlier engine, that ran on without one
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def load(self) -> None:
        """What an earlier engine left. What it kept is taken over; what ran otherwise was ended with it: exit code 137."""
        from lamina.store.removal import remove

        ended = []
        for folder in sorted(self._folder.iterdir()):
            keeper = kept.find(folder)
            try:
                record = typed.json((folder / "container.json").read_bytes(), type=Record)
            except (OSError, msgspec.MsgspecError):
                if keeper is not None:
                    kept.end(folder, keeper)
                remove(folder)  # of an engine that was killed while it made or removed it
                continue
            container = Container(folder, record)
            self._containers[record.id] = container
            self._names[record.name] = record.id
            self._daemon.pin(record.layers)
            if keeper is not None and keeping.take_over(self._daemon, container, keeper):
                self.taken_over += 1
                continue
            if record.state.status == "restarting":
                record.state.status = "exited"
                container.save()
            if keeping.ended_meanwhile(self._daemon, container):
                ended.append(container)
        self._daemon.wiring.taken_over()
        for container in ended:
            attributes = {**container.attributes(), "exitCode": str(container.state.exit_code)}
            self._daemon.events.emit("container", "die", container.id, attributes)
            if container.record.host.get("AutoRemove"):
                self.remove(container, volumes=True)
        for container in self.all():
            running.go_on(self._daemon, container)

    def create(
        self, image: Image, image_name: str, image_config: Mapping[str, Any], body: Mapping[str, Any], name: str
    ) -> tuple[Container, list[str]]:
        """(the container, warnings). BadRequest, Conflict."""
        identifier = os.urandom(32).hex()
        config = creating.merged_config(body, image_config, image_name, identifier)
        host, warnings = creating.host_config(body.get("HostConfig") or {}, self._daemon.rules, groups.possible)
        networks = self._daemon.networks.asked(host["NetworkMode"], (body.get("NetworkingConfig") or {}).get("EndpointsConfig") or {})
        inherited = self._volumes_from(host.get("VolumesFrom") or ())
        with self._lock:
            name = creating.check_name(name) if name else self._free_name()
            if name in self._names:
                raise creating.taken(name, self._names[name])
            self._names[name] = identifier
        folder = self._folder / identifier
        stack = contextlib.ExitStack()
        try:
            stack.enter_context(self._daemon.store())  # until the container is known, nothing else holds its layers
            layers = self._daemon.unpacked(image)
            volumes = self._daemon.volumes
            labels: dict[str, str] = {}
            mounts = creating.mounts(config, host, self._daemon.rules, lambda wanted: volumes.ensure(wanted, labels), inherited)
            folder.mkdir(0o700)
            (folder / "diff").mkdir(0o755)
            (folder / "diff").chmod(0o755)
            self._daemon.fill_volumes(image, mounts)
            words = [*(config["Entrypoint"] or ()), *(config["Cmd"] or ())]
            record = Record(
                id=identifier, name=name, created=self._daemon.now(), image=image.id, image_name=image_name, platform=image.platform,
                layers=layers, path=words[0], args=words[1:], config=config, host=host, networks=networks, mounts=mounts,
            )  # fmt: skip
            container = Container(folder, record)
            container.save()
            with self._lock:
                self._containers[identifier] = container
        except BaseException:
            with self._lock:
                self._names.pop(name, None)
            raise
        finally:
            stack.close()
        self._daemon.events.emit("container", "create", identifier, container.attributes())
        return container, warnings

    def _volumes_from(self, names: Sequence[str]) -> list[MountPoint]:
        found: list[MountPoint] = []
        for text in names:
            name, _, mode = text.partition(":")
            found += [msgspec.structs.replace(mount, readonly=mount.readonly or mode == "ro") for mount in self.find(name).record.mounts]
        return found

    def _free_name(self) -> str:
        while True:
            left, right, more = os.urandom(3)
            name = f"{_LEFT[left % len(_LEFT)]}_{_RIGHT[right % len(_RIGHT)]}_{more:02x}"
            if name not in self._names:
                return name

    def all(self) -> list[Container]:
        """Newest first."""
        with self._lock:
            return sorted(self._containers.values(), key=lambda container: container.record.created, reverse=True)

    def find(self, text: str) -> Container:
        """By id, name, or a beginning of an id that only one has. NotFound, BadRequest."""
        name = text.removeprefix("/")
        with self._lock:
            found = self._containers.get(name) or self._containers.get(self._names.get(name, ""))
            if found is not None:
                return found
            begins = [container for identifier, container in self._containers.items() if name and identifier.startswith(name)]
        if len(begins) > 1:
            raise BadRequest(f"Multiple IDs found with provided prefix: {text}")
        if not begins:
            raise NotFound(f"No such container: {text}")
        return begins[0]

    def of_image(self, image: str) -> list[Container]:
        return [container for container in self.all() if container.record.image == image]

    def rename(self, container: Container, name: str) -> None:
        name = creating.check_name(name)
        with self._lock:
            if name == container.name:
                raise BadRequest("Renaming a container with the same name as its current name")
            if name in self._names:
                raise creating.taken(name, self._names[name])
            old = container.name
            self._names[name] = self._names.pop(old)
            container.record.name = name
        container.save()
        self._daemon.events.emit("container", "rename", container.id, {**container.attributes(), "oldName": f"/{old}"})

    def remove(self, container: Container, *, force: bool = False, volumes: bool = False) -> None:
        """Its files, its name, and with `volumes` its anonymous volumes. Conflict when it runs and is not forced, or is being removed."""
        from lamina.store.removal import remove

        with container.changed:
            if container.removed:
                raise Conflict(f"removal of container {container.id} is already in progress")
            if container.running and not force:
                state = "paused" if container.state.status == "paused" else "running"
                raise Conflict(
                    f"You cannot remove a {state} container {container.id}. Stop the container before attempting removal or force remove"
                )
            container.removed = True
            run = container.run
        container.log.hurry()
        container.stop_requested.set()
        if container.running:
            try:
                running.kill(self._daemon, container, 9)
            except Conflict:
                pass
            with container.changed:
                container.changed.wait_for(lambda: container.ended >= run, 10.0)
        if container.stdin is not None:
            container.stdin.close()
            container.stdin.close_reader()
        with self._lock:
            self._containers.pop(container.id, None)
            self._names.pop(container.name, None)
        container.log.close()
        remove(container.folder)
        if volumes:
            for mount in container.record.mounts:
                if mount.anonymous:
                    self._daemon.volumes.discard(mount.name)
        self._daemon.events.emit("container", "destroy", container.id, container.attributes())
        container.notify()
