"""lamina's own caches: contents by digest, versions side by side, nothing ever overwritten.

A version is a list of files with the versions that it was restored from (its parents). The heads are the versions that are nobody's parent;
several exist after parallel steps saved at once. Restoring takes all heads: of one path the newest head's file, and every path that any head
has. A save after that names all of them as parents, so they become one again. Files are hashed only when inode, size, mtime or ctime
differ from what was restored.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from lamina.oci import typed
from lamina.pipelines.caches.keeping import WEEK, Identity, Say, age, changed_files, megabytes
from lamina.pipelines.run.files import Tree, copy_bytes, walk

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_SAFE = re.compile(r"[A-Za-z0-9._-]{1,100}")


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """`digest` of a file's content, or the text of a link."""

    path: str
    mode: int
    size: int
    mtime: int
    uid: int
    gid: int
    digest: str = ""
    link: str = ""


class Version(msgspec.Struct, frozen=True):
    """`created` in seconds since the epoch; `step` names who saved it."""

    name: str
    path: str
    key: str
    key_files: dict[str, str]
    created: float
    step: str
    parents: tuple[str, ...]
    size: int
    entries: tuple[Entry, ...]


class Row(msgspec.Struct, frozen=True):
    """A version without its entries, for listings."""

    id: str
    name: str
    path: str
    key: str
    created: float
    used: float
    step: str
    size: int
    files: int
    head: bool


class VersionedCaches:
    """Below `root`: objects/, versions/NAME/KEY/ID.json, lock. Processes may come and be killed at any moment."""

    def __init__(self, root: Path, now: Callable[[], float], keep: float = WEEK) -> None:
        self._root = root
        self._now = now
        self._keep = keep

    def restore(self, identity: Identity, folder: Path, step: str, say: Say) -> HeldVersion:
        label = f'Cache "{identity.name}"'
        say(f"{label}: Downloading")
        with self._shared():
            every = self._versions(identity)
            fresh = {name: one for name, one in every.items() if self._now() - self._used(identity, name) <= self._keep}
            heads = _heads(fresh)
            if not heads:
                say(f"{label}: Not found")
                say(f"{label}: {self._why_not(identity, bool(every))}")
                return HeldVersion(self, identity, step, {}, (), ())
            begun = time.monotonic()
            entries = merged([one for _, one in heads])
            seen: dict[str, tuple[Entry, tuple[int, ...]]] = {}
            lost = 0
            with Tree(folder) as tree:
                for entry in entries:
                    status = self._put(tree, entry)
                    if status is None:
                        lost += 1
                    else:
                        seen[entry.path] = (entry, _mark(status))
            for name, _ in heads:
                with contextlib.suppress(FileNotFoundError):
                    os.utime(self._file(identity, name), (self._now(), self._now()))
        newest = heads[0][1]
        size = sum(entry.size for entry in entries)
        say(f"{label}: Downloaded {megabytes(size)} in {int(time.monotonic() - begun)} seconds")
        whose = f'saved by "{newest.step}" {age(self._now() - newest.created)}'
        if len(heads) > 1:
            others = ", ".join(f'"{one.step}"' for _, one in heads[1:])
            whose += f", merged with what {others} saved beside it"
        keyed = ", its key files are unchanged" if identity.key else ""
        say(f"{label}: hit: {len(entries)} files, {whose}{keyed}" + (f"; {lost} of them are lost and left out" if lost else ""))
        return HeldVersion(self, identity, step, seen, tuple(name for name, _ in heads), tuple(entries))

    def _why_not(self, identity: Identity, expired: bool) -> str:
        if expired:
            return f"miss: it was not used for {int(self._keep // 86400)} days and has expired"
        other = [row for row in self.rows() if row.name == identity.name]
        if not other:
            return "miss: nobody has saved it yet"
        newest = max(other, key=lambda row: row.created)
        before = self._read(Identity(newest.name, newest.path, newest.key), newest.id)
        changes = changed_files(identity.key_files, before.key_files) if before is not None else []
        return (
            "miss: its key is new because " + (", ".join(changes[:5]) or "it has other key files now") + (" …" if len(changes) > 5 else "")
        )

    def _put(self, tree: Tree, entry: Entry) -> os.stat_result | None:
        """None when the object is not there any more."""
        if entry.link:
            tree.link(entry.path, entry.link)
            return tree.stat(entry.path)
        try:
            reading = os.open(self._object(entry.digest), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            as_was = os.stat_result((entry.mode, 0, 0, 1, entry.uid, entry.gid, entry.size, 0, 0, 0))
            return tree.file(entry.path, reading, as_was, mtime=entry.mtime)
        finally:
            os.close(reading)

    def explain(self, identity: Identity) -> list[str]:
        """What `restore` would find now, in words."""
        every = self._versions(identity)
        fresh = {name: one for name, one in every.items() if self._now() - self._used(identity, name) <= self._keep}
        heads = _heads(fresh)
        said = [f"{identity.name}: {identity.path}"]
        said += [f"key file {path}: {digest[:12]}" for path, digest in sorted(identity.key_files.items())]
        if not heads:
            return [*said, self._why_not(identity, bool(every))]
        entries = merged([one for _, one in heads])
        said.append(f"hit: {len(entries)} files, {megabytes(sum(entry.size for entry in entries))}")
        for name, one in heads:
            said.append(f'from {name[:12]}: {len(one.entries)} files, saved by "{one.step}" {age(self._now() - one.created)}')
        if len(heads) > 1:
            said.append("these were saved beside each other: of one path the newest file is taken, and every path that any of them has")
        return said

    def state(self, identity: Identity) -> str:
        """The same in one line: `hit: …` or `miss: …`."""
        return next(line for line in self.explain(identity)[1:] if line.startswith(("hit:", "miss:")))

    # Saving

    def store(self, source: Path) -> str:
        """The digest of a file's content, which is kept from now on."""
        reading = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            hashed = hashlib.sha256()
            while data := os.read(reading, 1 << 20):
                hashed.update(data)
            digest = hashed.hexdigest()
            place = self._object(digest)
            if place.exists():
                return digest
            place.parent.mkdir(parents=True, exist_ok=True)
            os.lseek(reading, 0, os.SEEK_SET)
            temporary = place.with_name(f"new.{os.getpid()}.{os.urandom(6).hex()}")
            writing = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                copy_bytes(reading, writing)
                os.replace(temporary, place)
            except OSError:
                temporary.unlink(missing_ok=True)
                raise
            finally:
                os.close(writing)
            return digest
        finally:
            os.close(reading)

    def publish(self, identity: Identity, version: Version) -> str:
        """Write the version, then take away those that it contains. Its name is the digest of its document."""
        data = msgspec.json.encode(version)
        name = hashlib.sha256(data).hexdigest()
        place = self._file(identity, name)
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = place.with_name(f"new.{os.getpid()}.{os.urandom(6).hex()}")
        temporary.write_bytes(data)
        os.utime(temporary, (self._now(), self._now()))
        os.replace(temporary, place)
        for parent in version.parents:
            if parent != name:
                self._file(identity, parent).unlink(missing_ok=True)
        return name

    # Listing and removing

    def rows(self) -> list[Row]:
        """All versions, newest first."""
        found: list[Row] = []
        for folder in sorted(self._root.glob("versions/*/*")):
            files = {path.stem: path for path in folder.glob("*.json")}
            every = {name: one for name, path in files.items() if (one := _load(path)) is not None}
            heads = {name for name, _ in _heads(every)}
            for name, one in every.items():
                with contextlib.suppress(FileNotFoundError):
                    used = files[name].stat().st_mtime
                    found.append(
                        Row(name, one.name, one.path, one.key, one.created, used, one.step, one.size, len(one.entries), name in heads)
                    )
        return sorted(found, key=lambda row: -row.created)

    def remove(self, names: Sequence[str] = ()) -> int:
        """Versions of these caches (none named: all), then contents that nobody needs. How many versions went."""
        count = 0
        for row in self.rows():
            if not names or row.name in names:
                self._file(Identity(row.name, row.path, row.key), row.id).unlink(missing_ok=True)
                count += 1
        self.collect()
        return count

    def names(self, identity: Identity) -> frozenset[str]:
        """Of its versions."""
        return frozenset(path.stem for path in self._folder(identity).glob("*.json"))

    def has(self, identity: Identity) -> bool:
        return bool(self._versions(identity))

    def tidy(self, identity: Identity) -> None:
        """Only its heads stay, and what they need."""
        heads = {name for name, _ in _heads(self._versions(identity))}
        for row in self.rows():
            if row.id not in heads:
                self._file(Identity(row.name, row.path, row.key), row.id).unlink(missing_ok=True)
        self.collect()

    def collect(self) -> int:
        """Remove expired versions and unneeded contents; bytes freed. Does nothing while somebody restores or saves."""
        self._root.mkdir(parents=True, exist_ok=True)
        with open(self._root / "lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return 0
            needed: set[str] = set()
            for path in self._root.glob("versions/*/*/*"):
                one = _load(path) if path.suffix == ".json" else None
                if one is None or self._now() - path.stat().st_mtime > self._keep:
                    path.unlink(missing_ok=True)
                else:
                    needed.update(entry.digest for entry in one.entries)
            freed = 0
            for path in self._root.glob("objects/*/*"):
                if path.name not in needed:
                    freed += path.stat().st_size
                    path.unlink(missing_ok=True)
            return freed

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Nothing is collected meanwhile."""
        with self._shared():
            yield

    @contextlib.contextmanager
    def _shared(self) -> Iterator[None]:
        self._root.mkdir(parents=True, exist_ok=True)
        with open(self._root / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            yield

    def _object(self, digest: str) -> Path:
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise FileNotFoundError(digest)
        return self._root / "objects" / digest[:2] / digest

    def _folder(self, identity: Identity) -> Path:
        named = identity.name if _SAFE.fullmatch(identity.name) and not identity.name.startswith(".") else ""
        folder = named or "x" + hashlib.sha256(identity.name.encode(errors="surrogateescape")).hexdigest()
        return self._root / "versions" / folder / (identity.key or "static")

    def _file(self, identity: Identity, name: str) -> Path:
        return self._folder(identity) / f"{name}.json"

    def _used(self, identity: Identity, name: str) -> float:
        try:
            return self._file(identity, name).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def _read(self, identity: Identity, name: str) -> Version | None:
        return _load(self._file(identity, name))

    def _versions(self, identity: Identity) -> dict[str, Version]:
        found = {}
        for path in self._folder(identity).glob("*.json"):
            one = _load(path)
            if one is not None:
                found[path.stem] = one
        return found

    def now(self) -> float:
        return self._now()


class HeldVersion:
    """Between setup and teardown."""

    def __init__(
        self,
        caches: VersionedCaches,
        identity: Identity,
        step: str,
        seen: dict[str, tuple[Entry, tuple[int, ...]]],
        parents: tuple[str, ...],
        before: tuple[Entry, ...],
    ) -> None:
        self._caches = caches
        self._identity = identity
        self._step = step
        self._seen = seen
        self._parents = parents
        self._before = before

    def save(self, folder: Path, say: Say) -> None:
        identity = self._identity
        label = f'Cache "{identity.name}: {identity.path}"'
        begun = time.monotonic()
        entries: list[Entry] = []
        hashed = 0
        with self._caches.shared():
            for path, status in walk(folder):
                known = self._seen.get(path)
                if known is not None and known[1] == _mark(status):
                    entries.append(known[0])
                    continue
                try:
                    entries.append(self._entry(folder, path, status))
                except OSError as error:
                    if error.errno in _NO_ROOM:
                        say(f"{label}: not saved: {error.strerror}")
                        return
                    say(f"{label}: {path} is left out: {error.strerror}")
                    continue
                except UnicodeEncodeError:
                    say(f"{label}: {path!a} is left out: its name or its link is not UTF-8")
                    continue
                hashed += 1
            entries.sort(key=lambda entry: entry.path)
            if not entries:
                say(f"{label}: Skipping upload for empty cache")
                return
            if len(self._parents) <= 1 and [_core(e) for e in entries] == [_core(e) for e in self._before]:
                say(f"{label}: not saved: nothing in it changed")
                return
            size = sum(entry.size for entry in entries)
            self._caches.publish(
                identity,
                Version(
                    identity.name, identity.path, identity.key, dict(identity.key_files), self._caches.now(), self._step, self._parents, size,
                    tuple(entries),
                ),
            )  # fmt: skip
        say(f"{label}: Uploaded {megabytes(size)} in {int(time.monotonic() - begun)} seconds")
        gone = len({entry.path for entry in self._before} - {entry.path for entry in entries})
        how = f"{hashed} of {len(entries)} files are new or changed" + (f", {gone} are gone" if gone else "")
        say(f"{label}: saved: {how}")

    def _entry(self, folder: Path, path: str, status: os.stat_result) -> Entry:
        path.encode()
        own = (path, stat.S_IMODE(status.st_mode), status.st_size, status.st_mtime_ns, status.st_uid, status.st_gid)
        if stat.S_ISLNK(status.st_mode):
            text = os.readlink(folder / path)
            text.encode()
            return Entry(*own, link=text)
        return Entry(*own, digest=self._caches.store(folder / path))


def merged(versions: Sequence[Version]) -> list[Entry]:
    """The declared rule: versions newest first; of one path the first one's entry, and every path that any of them has. Where one has a file and a newer
    one a folder at the same place, the newer one wins."""
    found: dict[str, Entry] = {}
    folders: set[str] = set()
    for version in versions:
        for entry in version.entries:
            parts = entry.path.split("/")
            above = ["/".join(parts[:count]) for count in range(1, len(parts))]
            if entry.path in found or entry.path in folders or any(place in found for place in above):
                continue
            found[entry.path] = entry
            folders.update(above)
    return sorted(found.values(), key=lambda entry: entry.path)


def _heads(every: dict[str, Version]) -> list[tuple[str, Version]]:
    """Newest first."""
    parents = {parent for one in every.values() for parent in one.parents}
    heads = [(name, one) for name, one in every.items() if name not in parents]
    return sorted(heads, key=lambda item: (-item[1].created, item[0]))


def _mark(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_mode)


def _core(entry: Entry) -> tuple[str, int, str, str]:
    return (entry.path, entry.mode, entry.digest, entry.link)


def _load(path: Path) -> Version | None:
    try:
        return typed.json(path.read_bytes(), type=Version)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
