"""What a build gives to the client: a tree of files as fsutil takes it (`--output type=local`), or one stream of bytes (tar, oci, docker)."""

from __future__ import annotations

import io
import queue
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from lamina.layer.entry import Entry, Kind
from lamina.layer.paths import join
from lamina.server.buildkit import gofiles
from lamina.server.buildkit.grpc import INVALID, PRECONDITION, UNKNOWN, ClientCall, RpcError
from lamina.server.buildkit.messages import Bytes, Packet, Stat
from lamina.server.buildkit.receiving import DATA, ERR, FIN, REQ, STAT
from lamina.server.buildkit.sessions import FILE_SEND, Session

if TYPE_CHECKING:
    from lamina.layer.tree import FileTree

_PIECE = 128 << 10
_FORMATS = {
    Kind.FILE: stat.S_IFREG,
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.FIFO: stat.S_IFIFO,
    Kind.CHARACTER: stat.S_IFCHR,
    Kind.BLOCK: stat.S_IFBLK,
}


def _open(session: Session, exporter: str, metadata: Sequence[tuple[str, str]] = ()) -> ClientCall:
    if not session.has(FILE_SEND):
        raise RpcError(PRECONDITION, "the client takes no files: it named no place for the output")
    return session.stream(FILE_SEND, [*([("buildkit-attachable-exporter-id", exporter)] if exporter else ()), *metadata])


class ClientFile(io.RawIOBase):
    """A file at the client's: what is written goes there; `finish` waits until the client has all of it."""

    def __init__(self, session: Session, exporter: str) -> None:
        self._call = _open(session, exporter)

    def writable(self) -> bool:
        return True

    def write(self, data: object, /) -> int:
        view = memoryview(data).cast("B")  # type: ignore[arg-type]  # RawIOBase's buffer protocol type is only in typeshed's private module
        for at in range(0, len(view), _PIECE):
            self._call.send(Bytes(bytes(view[at : at + _PIECE])))
        return len(view)

    def finish(self) -> None:
        """RpcError when the client could not keep it."""
        self._call.end()
        while self._call.receive(Bytes) is not None:
            pass

    def close(self) -> None:
        if not self.closed:
            self._call.close()
        super().close()


def send_tree(session: Session, exporter: str, tree: FileTree, on_bytes: Callable[[int], None] = lambda count: None) -> None:
    """All of `tree` into the folder that the client named; owners are the client's business. RpcError."""
    call = _open(session, exporter)
    try:
        _serve(call, tree, on_bytes)
    finally:
        call.close()


def _serve(call: ClientCall, tree: FileTree, on_bytes: Callable[[int], None]) -> None:
    asked: queue.SimpleQueue[int | Exception | None] = queue.SimpleQueue()

    def listen() -> None:
        try:
            while (packet := call.receive(Packet)) is not None and packet.type != FIN:
                if packet.type == ERR:
                    raise RpcError(UNKNOWN, packet.data[:2000].decode("utf-8", "replace"))
                if packet.type == REQ:
                    asked.put(packet.id)
            asked.put(None)
        except Exception as error:
            asked.put(error)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    files: dict[int, bytes] = {}
    try:
        for number, (path, entry) in enumerate(_walk(tree)):
            if entry.kind is Kind.FILE:
                files[number] = path
            call.send(Packet(STAT, stat=_stat(path, entry)))
        call.send(Packet(STAT))
        while (item := asked.get()) is not None:
            if isinstance(item, Exception):
                raise item
            path = files.pop(item, b"")
            if not path:
                raise RpcError(INVALID, "the client asked for a file that is none")
            with tree.open(path) as file:
                while piece := file.read(_PIECE):
                    call.send(Packet(DATA, id=item, data=piece))
                    on_bytes(len(piece))
            call.send(Packet(DATA, id=item))
        call.send(Packet(FIN))
        call.end()
        while call.receive(Packet) is not None:
            pass
    finally:
        call.close()
        listener.join()


def _walk(tree: FileTree) -> Iterator[tuple[bytes, Entry]]:
    """Folders before what they hold, names in byte order, as the other side compares them."""
    stack = [join(b"", name) for name in sorted(tree.children(b""), reverse=True)]
    while stack:
        path = stack.pop()
        entry = tree.entry(path)
        if entry is None or entry.kind not in _FORMATS:
            continue
        yield path, entry
        if entry.kind is Kind.DIRECTORY:
            stack.extend(join(path, name) for name in sorted(tree.children(path), reverse=True))


def _stat(path: bytes, entry: Entry) -> Stat:
    return Stat(
        path=path,
        mode=gofiles.file_mode(_FORMATS[entry.kind], entry.mode),
        uid=entry.uid,
        gid=entry.gid,
        size=entry.size if entry.kind is Kind.FILE else 0,
        mod_time=int(entry.mtime * 10**9),
        linkname=entry.link if entry.kind is Kind.SYMLINK else b"",
        devmajor=entry.major,
        devminor=entry.minor,
    )
