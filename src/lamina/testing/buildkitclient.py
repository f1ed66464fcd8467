"""A BuildKit client for tests: two ends of a connection, and a session that offers folders, secrets, logins and a place for outputs."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lamina.server.buildkit import gofiles
from lamina.server.buildkit import messages as m
from lamina.server.buildkit.grpc import NOT_FOUND, Method, RpcError, ServerCall, acceptor
from lamina.server.buildkit.http2 import Http2
from lamina.server.errors import ClientGone

_STAT, _REQ, _DATA, _FIN = range(4)


class End:
    """One end of a socket as the server sees a taken-over connection."""

    def __init__(self, socket: socket.socket) -> None:
        self.socket = socket
        self._acts: list[Callable[[], None]] = []

    def read(self, limit: int = 65536, /) -> bytes:
        try:
            return self.socket.recv(limit)
        except OSError:
            raise ClientGone from None

    def write(self, data: bytes | memoryview, /) -> int:
        try:
            self.socket.sendall(data)
        except OSError:
            raise ClientGone from None
        return len(data)

    def on_gone(self, act: Callable[[], None]) -> None:
        self._acts.append(act)

    def close(self) -> None:
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


@contextmanager
def ends() -> Iterator[tuple[End, End]]:
    one, other = socket.socketpair()
    try:
        yield End(one), End(other)
    finally:
        one.close()
        other.close()


@contextmanager
def connected(methods: Mapping[str, Method]) -> Iterator[Http2]:
    """Our client's side of a connection whose other side answers with `methods`."""
    with ends() as (here, there):
        server = threading.Thread(target=lambda: Http2(there, acceptor(methods)).run())
        server.start()
        client = Http2(here, None)
        reader = threading.Thread(target=client.run)
        reader.start()
        try:
            yield client
        finally:
            client.close()
            here.close()
            there.close()
            reader.join(60)
            server.join(60)
            assert not reader.is_alive()
            assert not server.is_alive()


class Offer:
    """What a client's session has. `got`: bytes that came through FileSend; `logins` by host."""

    def __init__(
        self,
        folders: Mapping[str, Path],
        *,
        secrets: Mapping[str, bytes] | None = None,
        logins: Mapping[str, tuple[str, str]] | None = None,
        target: Path | None = None,
    ) -> None:
        self._folders = folders
        self._secrets = secrets or {}
        self._logins = logins or {}
        self._target = target
        self.got = bytearray()
        self.asked: list[str] = []  # methods, and files by name

    def methods(self) -> dict[str, Method]:
        return {
            "/moby.filesync.v1.FileSync/DiffCopy": self._send_folder,
            "/moby.filesync.v1.FileSend/DiffCopy": self._take,
            "/moby.buildkit.secrets.v1.Secrets/GetSecret": self._secret,
            "/moby.filesync.v1.Auth/Credentials": self._login,
        }

    def _send_folder(self, call: ServerCall) -> None:
        root = self._folders.get(call.value("dir-name"))
        if root is None:
            raise RpcError(NOT_FOUND, f"no access allowed to dir {call.value('dir-name')!r}")
        self.asked.append(call.value("dir-name"))
        send_entries(call, list(entries(root, set(call.metadata.get("followpaths", [])))), self.asked)

    def _secret(self, call: ServerCall) -> None:
        name = call.request(m.GetSecretRequest).id
        self.asked.append(f"secret {name}")
        if name not in self._secrets:
            raise RpcError(NOT_FOUND, f"secret {name} not found")
        call.send(m.GetSecretResponse(self._secrets[name]))

    def _login(self, call: ServerCall) -> None:
        found = self._logins.get(call.request(m.CredentialsRequest).host, ("", ""))
        call.send(m.CredentialsResponse(*found))

    def _take(self, call: ServerCall) -> None:
        if self._target is not None:
            receive_into(call, self._target)
            return
        while (found := call.receive(m.Bytes)) is not None:
            self.got += found.data


def entries(root: Path, only: set[str]) -> Iterator[tuple[m.Stat, bytes]]:
    """(STAT, bytes) of everything below `root` in fsutil's order."""
    for path in sorted(root.rglob("*"), key=lambda path: path.relative_to(root).parts):
        name = str(path.relative_to(root))
        if only and name not in only:
            continue
        found = path.lstat()
        entry = m.Stat(
            os.fsencode(name), gofiles.file_mode(stat.S_IFMT(found.st_mode), stat.S_IMODE(found.st_mode)), mod_time=found.st_mtime_ns
        )
        if stat.S_ISLNK(found.st_mode):
            entry.linkname = os.fsencode(os.readlink(path))
        data = path.read_bytes() if stat.S_ISREG(found.st_mode) else b""
        entry.size = len(data)
        yield entry, data


def send_entries(call: ServerCall, listed: list[tuple[m.Stat, bytes]], asked: list[str]) -> None:
    for entry, _ in listed:
        call.send(m.Packet(_STAT, stat=entry))
    call.send(m.Packet(_STAT))
    while (packet := call.receive(m.Packet)) is not None:
        if packet.type == _FIN:
            call.send(m.Packet(_FIN))
            return
        entry, data = listed[packet.id]
        asked.append(os.fsdecode(entry.path))
        if data:
            call.send(m.Packet(_DATA, id=packet.id, data=data))
        call.send(m.Packet(_DATA, id=packet.id))


def receive_into(call: ServerCall, target: Path) -> None:
    """fsutil's receiver, of files and folders only."""
    files: dict[int, Path] = {}
    number = 0
    while (packet := call.receive(m.Packet)) is not None and packet.stat is not None:
        path = target / os.fsdecode(packet.stat.path)
        kind = gofiles.kind(packet.stat.mode)
        if kind == stat.S_IFDIR:
            path.mkdir()
        elif kind == stat.S_IFLNK:
            path.symlink_to(os.fsdecode(packet.stat.linkname))
        elif kind == stat.S_IFREG:
            files[number] = path
            path.write_bytes(b"")
        number += 1
    for wanted, path in files.items():
        call.send(m.Packet(_REQ, id=wanted))
        while (packet := call.receive(m.Packet)) is not None and packet.data:
            with path.open("ab") as file:
                file.write(packet.data)
    call.send(m.Packet(_FIN))
    while call.receive(m.Packet) is not None:
        pass
