"""Path caches of steps that run on many machines: the worker's versions and those of the shared place are brought together before a step and after it.

A cache with its key is one cache mount of the shared place (cache/remote/mounts.py) whose files are those of `VersionedCaches`: documents and contents by
digest, so that putting two such folders together is right whatever the order. Beside it travel notes of one name: for each key what it was made of, for
the reason of a miss.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from lamina.cache.remote.errors import CacheError
from lamina.cache.remote.mountcache import versions as versions_there
from lamina.cache.remote.mounts import ListingTooLong
from lamina.cache.remote.shared import SharedCache
from lamina.engine.mountfiles import FilesChanged
from lamina.engine.mountsharing import MountRule, pull, push
from lamina.oci import typed
from lamina.oci.unreadable import UNREADABLE
from lamina.pipelines.caches.keeping import WEEK, Held, Identity, Say, megabytes
from lamina.pipelines.caches.versions import Version, VersionedCaches
from lamina.store.removal import remove

_RULE = MountRule()


class TravellingCaches:
    """As CacheKeeper. `root` is of the worker's store; `project` says whose caches these are, on every machine the same."""

    def __init__(self, cache: SharedCache, root: Path, project: str, now: Callable[[], float]) -> None:
        self._cache = cache
        self._root = root
        self._project = project
        self._now = now

    def restore(self, identity: Identity, folder: Path, step: str, say: Say) -> Held:
        """As CacheKeeper. A shared place that does not answer is said; what the worker has is taken then."""
        place = self._place(identity)
        with place.turn():
            known = True
            try:
                pull(self._cache, place.identifier, place.data, _RULE, say)
                known = bool(versions_there(self._cache, place.identifier).offers)
                if identity.key and not place.versions.has(identity):
                    self._bring_notes(identity, place, say)
            except CacheError as error:
                say(f'Cache "{identity.name}": {self._cache.where} was not asked: {error.message}')
            held = place.versions.restore(identity, folder, step, say)
        return _Travelling(self, identity, place, held, known)

    def hand_over(self, identity: Identity, place: _Place, say: Say) -> None:
        """The place's turn is held."""
        label = f'Cache "{identity.name}: {identity.path}"'
        try:
            place.versions.tidy(identity)
            moved = push(self._cache, place.identifier, place.data)
            if moved is not None:
                say(f"{label}: handed over to {self._cache.where}, {megabytes(moved.bytes)} were new there")
            if identity.key:
                self._leave_note(identity)
        except (FilesChanged, ListingTooLong) as error:
            say(f"{label}: kept by this worker only: {getattr(error, 'message', 'it changed meanwhile')}")
        except CacheError as error:
            say(f"{label}: kept by this worker only: {error.message}")

    def collect(self) -> None:
        """Take away what this worker has not used for a week."""
        for folder in self._root.glob("*"):
            with contextlib.suppress(OSError), open(folder / "turn", "a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._now() - os.fstat(lock.fileno()).st_mtime > WEEK:
                    remove(folder)

    def _bring_notes(self, identity: Identity, place: _Place, say: Say) -> None:
        notes = self._notes(identity)
        with notes.turn():
            pull(self._cache, notes.identifier, notes.data, _RULE, say)
            for path in notes.data.glob("*.json"):
                try:
                    version = typed.json(path.read_bytes(), type=Version)
                except UNREADABLE:
                    continue
                if version.name == identity.name and version.key != identity.key:
                    place.versions.publish(Identity(version.name, version.path, version.key), version)

    def _leave_note(self, identity: Identity) -> None:
        notes = self._notes(identity)
        with notes.turn():
            note = Version(identity.name, identity.path, identity.key, dict(identity.key_files), self._now(), "", (), 0, ())
            temporary = notes.data.parent / "note.new"
            temporary.write_bytes(msgspec.json.encode(note))
            os.replace(temporary, notes.data / f"{identity.key}.json")
            with contextlib.suppress(FilesChanged, ListingTooLong):
                pull(self._cache, notes.identifier, notes.data, _RULE, lambda text: None)
                push(self._cache, notes.identifier, notes.data)

    def _place(self, identity: Identity) -> _Place:
        return _Place(self._root, ["pipeline cache", self._project, identity.name, identity.path, identity.key], self._now)

    def _notes(self, identity: Identity) -> _Place:
        return _Place(self._root, ["pipeline cache keys", self._project, identity.name, identity.path], self._now)


class _Place:
    """One cache mount on this worker: `data` and what lamina notes beside it."""

    def __init__(self, root: Path, words: list[str], now: Callable[[], float]) -> None:
        self.identifier = json.dumps(words)
        folder = root / hashlib.sha256(self.identifier.encode()).hexdigest()[:32]
        self.data = folder / "data"
        self.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        # How long it is believed is the shared place's affair.
        self.versions = VersionedCaches(self.data, now, math.inf)

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Nobody else on this worker touches it meanwhile."""
        lock = self._lock()
        try:
            yield
        finally:
            os.close(lock)

    def _lock(self) -> int:
        while True:
            self.data.mkdir(parents=True, exist_ok=True, mode=0o700)
            with contextlib.suppress(FileNotFoundError):
                path = self.data.parent / "turn"
                lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                fcntl.flock(lock, fcntl.LOCK_EX)
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(lock), os.stat(path)):  # else `collect` took it away while we waited
                        os.utime(lock)
                        return lock
                os.close(lock)


class _Travelling:
    """As Held. `known`: the shared place has a version."""

    def __init__(self, caches: TravellingCaches, identity: Identity, place: _Place, held: Held, known: bool) -> None:
        self._caches = caches
        self._identity = identity
        self._place = place
        self._held = held
        self._known = known

    def save(self, folder: Path, say: Say) -> None:
        with self._place.turn():
            before = self._place.versions.names(self._identity)
            self._held.save(folder, say)
            after = self._place.versions.names(self._identity)
            if after != before or (after and not self._known):
                self._caches.hand_over(self._identity, self._place, say)
