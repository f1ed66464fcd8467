"""The files of a client's folder, as fsutil sends them: STAT of everything in order, REQ by number for what we do not have, DATA.

The sender is a stranger: names that lead anywhere but down are refused, folders are opened one name at a time and never through a link, and
a file appears under its name only when it is whole. What is in the folder from an earlier transfer and still the same is not asked for again.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote_plus

from lamina.layer.paths import FOLDER, MAX_PATH, NEW, Folders, join, show, split
from lamina.server.buildkit import gofiles
from lamina.server.buildkit.grpc import INVALID, UNKNOWN, ClientCall, RpcError
from lamina.server.buildkit.messages import Packet, Stat
from lamina.server.buildkit.sessions import FILE_SYNC, Session

STAT, REQ, DATA, FIN, ERR = range(5)
_ASKED = 96  # files that are under way at a time: few enough that requests never fill the client's window while it fills ours
_ENTRIES = 10_000_000


def fetch(
    session: Session,
    name: str,
    place: Path,
    *,
    follow: Sequence[str] = (),
    exclude: Sequence[str] = (),
    on_bytes: Callable[[int], None] = lambda count: None,
    on_call: Callable[[ClientCall], None] = lambda call: None,
) -> Path:
    """The client's folder `name` ("context", "dockerfile") into `place`, which may have an earlier state; the folder with the files.

    RpcError: the client refuses, sends nonsense or leaves; OSError: the disk. `on_call` learns of the call, to cancel it.
    """
    metadata = [("dir-name", name)]
    for key, values in (("followpaths", follow), ("exclude-patterns", exclude)):
        if not all(value.isascii() and value.isprintable() for value in values):
            metadata.append((f"{key}-encoded", "1"))
            values = [quote_plus(value, errors="surrogateescape") for value in values]
        metadata += [(key, value) for value in values]
    call = session.stream(FILE_SYNC, metadata)
    try:
        on_call(call)
        receive(call, place, on_bytes)
    finally:
        call.close()
    return place / "files"


def receive(call: ClientCall, place: Path, on_bytes: Callable[[int], None] = lambda count: None) -> None:
    """Everything that the other side sends, into `place`/files. Afterwards nothing else is there."""
    with _Target(place) as target:
        wanted: deque[int] = deque()  # to be asked for
        asked = 0
        listed = finished = False
        while (packet := call.receive(Packet)) is not None:
            if packet.type == STAT and not listed:
                if packet.stat is None:
                    listed = True
                elif target.stat(packet.stat):
                    wanted.append(target.count - 1)
            elif packet.type == DATA:
                on_bytes(len(packet.data))
                if target.data(packet.id, packet.data):
                    asked -= 1
            elif packet.type == FIN:
                break
            elif packet.type == ERR:
                raise RpcError(UNKNOWN, _line(packet.data))
            else:
                raise RpcError(INVALID, "the client sent something out of order")
            while wanted and asked < _ASKED:
                number = wanted.popleft()
                target.ask(number)
                call.send(Packet(REQ, id=number))
                asked += 1
            if listed and not asked and not wanted and not finished:
                finished = True
                call.send(Packet(FIN))
        if not finished:
            raise RpcError(UNKNOWN, "the client ended the transfer of files early")
        call.end()
        target.finish()


def _line(data: bytes) -> str:
    """What the other side says, as one line."""
    return " ".join(data[:2000].decode("utf-8", "replace").split()) or "the client gave up without a reason"


class _Target:
    def __init__(self, place: Path) -> None:
        self.count = 0
        self._place = place
        self._root = place / "files"
        self._root.mkdir(mode=0o700, exist_ok=True)
        incoming = place / "incoming"
        if incoming.exists():
            from lamina.store.removal import remove

            remove(incoming)
        incoming.mkdir(mode=0o700)
        self._incoming = os.open(incoming, FOLDER)
        self._folders = Folders([self._root])
        self._children: dict[bytes, set[bytes]] = {b"": set()}
        self._stats: dict[int, Stat] = {}  # files that differ, until they are whole
        self._files: dict[int, int] = {}  # number -> descriptor, of those that are asked for
        self._regular: set[bytes] = set()
        self._links: list[tuple[bytes, bytes]] = []
        self._made: list[Stat] = []  # folders, whose times are set at the end

    def __enter__(self) -> _Target:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._files.values():
            if descriptor >= 0:
                os.close(descriptor)
        os.close(self._incoming)
        self._folders.close()

    def stat(self, found: Stat) -> bool:
        """Note an entry, make it unless it is a file; whether its bytes are needed."""
        self.count += 1
        if self.count > _ENTRIES:
            raise RpcError(INVALID, f"the client's folder has more than {_ENTRIES} entries")
        path = _checked(found.path)
        folder, name = split(path)
        children = self._children.get(folder)
        if children is None or name in children:
            raise RpcError(INVALID, f"the client sent {show(path)} out of order")
        children.add(name)
        kind = gofiles.kind(found.mode)
        if kind == stat.S_IFDIR:
            self._children[path] = set()
        parent = self._folders.fd(folder)
        try:
            old: os.stat_result | None = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            old = None
        if old is not None and (stat.S_IFMT(old.st_mode) != kind or kind in (stat.S_IFLNK, stat.S_IFIFO)):
            self._remove(path, parent, name, old)
            old = None
            parent = self._folders.fd(folder)  # a removed folder has closed all of them
        if kind == stat.S_IFDIR:
            if old is None:
                os.mkdir(name, 0o700, dir_fd=parent)
            self._made.append(found)
        elif kind == stat.S_IFREG:
            self._regular.add(path)
            if found.linkname:
                self._links.append((path, _checked(found.linkname)))
            elif old is None or found.xattrs or not _same(old, found):
                self._stats[self.count - 1] = found
                return True
        elif kind == stat.S_IFLNK:
            if not 0 < len(found.linkname) <= MAX_PATH or b"\0" in found.linkname:
                raise RpcError(INVALID, f"the client sent the link {show(path)} without a target that can be")
            os.symlink(found.linkname, name, dir_fd=parent)
            os.utime(name, ns=(found.mod_time, found.mod_time), dir_fd=parent, follow_symlinks=False)
        elif kind == stat.S_IFIFO:
            os.mkfifo(name, 0o600, dir_fd=parent)
        return False  # devices stay behind: a build takes none from a context

    def ask(self, number: int) -> None:
        self._files[number] = -1

    def data(self, number: int, data: bytes) -> bool:
        """A piece of a file; whether it was the last."""
        descriptor = self._files.get(number)
        if descriptor is None:
            raise RpcError(INVALID, "the client sent data that nobody asked for")
        if descriptor < 0:
            descriptor = self._files[number] = os.open(str(number), NEW, 0o600, dir_fd=self._incoming)
        if data:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            return False
        found = self._stats.pop(number)
        os.fchmod(descriptor, gofiles.permissions(found.mode))
        gofiles.set_xattrs(descriptor, found.xattrs)
        os.utime(descriptor, ns=(found.mod_time, found.mod_time))
        os.close(descriptor)
        del self._files[number]
        folder, name = split(found.path)
        os.rename(str(number), name, src_dir_fd=self._incoming, dst_dir_fd=self._folders.fd(folder))
        return True

    def finish(self) -> None:
        """What was not named goes; links and the times of folders, which the work on what is in them has changed."""
        for path, target in self._links:
            self._link(path, target)
        for folder, names in self._children.items():
            parent = self._folders.fd(folder)
            for name in set(os.listdir(parent)).difference(map(os.fsdecode, names)):
                raw = os.fsencode(name)
                self._remove(join(folder, raw), parent, raw, os.stat(raw, dir_fd=parent, follow_symlinks=False))
                parent = self._folders.fd(folder)
        for found in reversed(self._made):
            descriptor = self._folders.fd(found.path)
            now, mode = os.fstat(descriptor), gofiles.permissions(found.mode) | 0o700
            if stat.S_IMODE(now.st_mode) != mode:
                os.fchmod(descriptor, mode)
            if now.st_mtime_ns != found.mod_time:
                os.utime(descriptor, ns=(found.mod_time, found.mod_time))

    def _link(self, path: bytes, target: bytes) -> None:
        if target not in self._regular or target == path:
            raise RpcError(INVALID, f"the client sent {show(path)} as a link to {show(target)}, which it did not send")
        folder, name = split(path)
        parent = os.dup(self._folders.fd(folder))
        try:
            try:
                os.unlink(name, dir_fd=parent)
            except FileNotFoundError:
                pass
            above, base = split(target)
            os.link(base, name, src_dir_fd=self._folders.fd(above), dst_dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            raise RpcError(INVALID, f"the client sent {show(path)} as a link to {show(target)}, which is one itself") from None
        finally:
            os.close(parent)

    def _remove(self, path: bytes, parent: int, name: bytes, old: os.stat_result) -> None:
        if not stat.S_ISDIR(old.st_mode):
            os.unlink(name, dir_fd=parent)
            return
        from lamina.store.removal import remove

        os.rename(name, "old", src_dir_fd=parent, dst_dir_fd=self._incoming)
        self._folders.forget()
        remove(self._place / "incoming" / "old")


def _same(old: os.stat_result, found: Stat) -> bool:
    return old.st_size == found.size and old.st_mtime_ns == found.mod_time and old.st_mode & 0o7777 == gofiles.permissions(found.mode)


def _checked(path: bytes) -> bytes:
    parts = path.split(b"/")
    if not path or len(path) > MAX_PATH or b"\0" in path or any(part in (b"", b".", b"..") or len(part) > 255 for part in parts):
        raise RpcError(INVALID, f"the client sent a file with the name {show(path[:200])}")
    return path
