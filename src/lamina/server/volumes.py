"""Named folders that outlive containers: `<engine>/volumes/<name>/_data`."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from lamina.oci import typed
from lamina.server.clock import rfc3339
from lamina.server.errors import BadRequest, Conflict, NotFound
from lamina.server.events import Events

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")


class Volume(msgspec.Struct, frozen=True):
    name: str
    created: float
    labels: dict[str, str]
    options: dict[str, str] = {}
    anonymous: bool = False


class Volumes:
    """Thread-safe. `users(name)` says which containers have it."""

    def __init__(self, folder: Path, now: Callable[[], float], events: Events, users: Callable[[str], list[str]]) -> None:
        self._folder = folder
        self._now = now
        self._events = events
        self._users = users
        self._lock = threading.RLock()
        folder.mkdir(mode=0o701, parents=True, exist_ok=True)

    def path(self, name: str) -> Path:
        return self._folder / name / "_data"

    def ensure(self, name: str, labels: Mapping[str, str] | None = None, options: Mapping[str, str] | None = None) -> str:
        """The volume's name, made when it is not there; "" makes an anonymous one. BadRequest."""
        anonymous = not name
        name = name or os.urandom(32).hex()
        if not _NAME.fullmatch(name) or len(name) > 200:
            raise BadRequest(
                f'create {name}: "{name}" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path'
            )
        with self._lock:
            if (self._folder / name / "volume.json").exists():
                return name
            self.path(name).mkdir(parents=True, exist_ok=True)
            self.path(name).chmod(0o755)
            volume = Volume(name, self._now(), dict(labels or {}), dict(options or {}), anonymous)
            temporary = self._folder / name / "volume.json.new"
            temporary.write_bytes(msgspec.json.encode(volume))
            os.replace(temporary, self._folder / name / "volume.json")
        self._events.emit("volume", "create", name, {"driver": "local"})
        return name

    def find(self, name: str) -> Volume:
        try:
            if _NAME.fullmatch(name):
                return typed.json((self._folder / name / "volume.json").read_bytes(), type=Volume)
        except (FileNotFoundError, msgspec.MsgspecError):
            pass
        raise NotFound(f"get {name}: no such volume")

    def all(self) -> list[Volume]:
        found = []
        for folder in sorted(self._folder.iterdir()):
            try:
                found.append(self.find(folder.name))
            except NotFound:
                continue
        return found

    def remove(self, name: str) -> int:
        """Bytes that it had. NotFound; Conflict while a container has it."""
        from lamina.store.layers import measure
        from lamina.store.removal import remove

        with self._lock:
            self.find(name)
            users = self._users(name)
            if users:
                raise Conflict(f"remove {name}: volume is in use - [{', '.join(users)}]")
            size = measure(self.path(name))[1]
            trash = self._folder / f".{name}.{os.urandom(4).hex()}"
            (self._folder / name).rename(trash)
        remove(trash)
        self._events.emit("volume", "destroy", name, {"driver": "local"})
        return size

    def discard(self, name: str) -> None:
        """An anonymous volume whose container goes; another container may still have it."""
        try:
            self.remove(name)
        except (NotFound, Conflict):
            pass

    def document(self, volume: Volume) -> dict[str, Any]:
        return {
            "CreatedAt": rfc3339(volume.created),
            "Driver": "local",
            "Labels": volume.labels or None,
            "Mountpoint": str(self.path(volume.name)),
            "Name": volume.name,
            "Options": volume.options or None,
            "Scope": "local",
        }

    def usage(self, volume: Volume) -> dict[str, int]:
        from lamina.store.layers import measure

        return {"RefCount": len(self._users(volume.name)), "Size": measure(self.path(volume.name))[1]}
