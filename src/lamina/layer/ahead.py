"""The diffID of a layer that is being written, hashed by a second process while the writing goes on.

The process (`python -m lamina.layer.ahead`) is told each entry once it stands on disk, makes the tar's bytes of it and hashes them. What it
was told is compared with what is read from the finished layer (normal.py): only where that is the same, name by name, the answer counts.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from lamina.layer.entry import Entry, Kind

if TYPE_CHECKING:
    import subprocess

    from lamina.layer.copying import LayerWriter
    from lamina.layer.scan import Found
    from lamina.oci.digest import DiffId

MANY = 2000  # entries from which a second process is worth its start
_BATCH = 500
_FILE = Kind.FILE
_KINDS = frozenset({Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK, Kind.HARDLINK})
_PIPE = 1 << 20  # F_SETPIPE_SZ: the writer should not wait for the hasher
_SETPIPE_SZ = 1031


class Ahead:
    """A copying.LayerWriter that passes on to `writer`, whose layer directory is `layer_dir`. Close it, or take its `result`.

    It gives up, silently, on what it cannot follow: entries that are not in the order of scan, that are taken away again, or that have
    attributes. Then `result` is None.
    """

    def __init__(self, writer: LayerWriter, layer_dir: Path) -> None:
        self._writer = writer
        self._folder = layer_dir / "diff"
        self._told: list[Entry] = []
        self._sent = 0
        self._last = b""
        self._process: subprocess.Popen[bytes] | None = None
        self._lost = len(os.sched_getaffinity(0)) < 2

    def put(self, entry: Entry, data: BinaryIO | None = None) -> None:
        self._writer.put(entry, data)
        self._tell(entry)

    def share(self, entry: Entry, path: bytes) -> bool:
        if not self._writer.share(entry, path):
            return False
        self._tell(entry)
        return True

    def remove(self, path: bytes) -> None:
        self._give_up()
        self._writer.remove(path)

    def finish(self) -> None:
        """All entries are there."""
        if self._process is not None:
            self._send(self._told[self._sent :])
            self._send(None)

    @property
    def told(self) -> Sequence[Entry] | None:
        """What was told, in the order of scan; None where there is no process whose answer could count."""
        return self._told if self._process is not None else None

    def result(self) -> tuple[DiffId, int] | None:
        """The diffID and the tar's size; waits. None: hash it the ordinary way."""
        from lamina.oci.digest import DiffId

        process, self._process = self._process, None
        if process is None:
            return None
        with process:
            assert process.stdout is not None
            found = process.stdout.read(200).split()
        if process.returncode != 0 or len(found) != 2:
            return None
        return DiffId("sha256:" + found[0].decode()), int(found[1])

    def close(self) -> None:
        """Idempotent."""
        self._give_up()

    def _tell(self, entry: Entry) -> None:
        if self._lost or not entry.path:
            return
        order = entry.path.replace(b"/", b"\0")
        kind = entry.kind
        if (kind is not _FILE and kind not in _KINDS) or entry.xattrs or order <= self._last:
            self._give_up()
            return
        self._last = order
        self._told.append(entry)
        if len(self._told) - self._sent >= (_BATCH if self._sent else MANY):
            self._send(self._told[self._sent :])
            self._sent = len(self._told)

    def _send(self, batch: Sequence[Entry] | None) -> None:
        try:
            if self._process is None:
                self._start()
            assert self._process is not None
            assert self._process.stdin is not None
            body = msgspec.msgpack.encode(batch)
            self._process.stdin.write(len(body).to_bytes(4, "big") + body)
            self._process.stdin.flush()
        except OSError:
            self._give_up()

    def _start(self) -> None:
        import fcntl
        import subprocess

        root = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-m", "lamina.layer.ahead", str(root)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=(root,),
                env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
                cwd="/",
            )
        finally:
            os.close(root)
        assert self._process.stdin is not None
        try:
            fcntl.fcntl(self._process.stdin, _SETPIPE_SZ, _PIPE)
        except OSError:
            pass  # an ordinary user has a limit for all pipes

    def _give_up(self) -> None:
        self._lost = True
        self._told = []
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with process:
                pass


def main() -> None:
    """The second process: batches of entries on standard input, an empty batch at the end; prints digest and size."""
    from hashlib import sha256

    from lamina.layer.pack import write_tar

    class Sha:
        def __init__(self) -> None:
            self.hash = sha256()

        def write(self, data: bytes, /) -> None:
            self.hash.update(data)

    out = Sha()
    size = write_tar(_found(sys.stdin.buffer, int(sys.argv[1])), out)
    print(out.hash.hexdigest(), size)


def _found(source: BinaryIO, root: int) -> Iterator[Found]:
    """As scan, from what is told. EOFError where the batches break off."""
    from lamina.layer.paths import FILE, Folders, split
    from lamina.layer.scan import Found

    decoder = msgspec.msgpack.Decoder(list[Entry] | None)
    with Folders([Path(f"/proc/self/fd/{root}")]) as folders:
        while True:
            head = source.read(4)
            if len(head) < 4:
                raise EOFError
            batch = decoder.decode(source.read(int.from_bytes(head, "big")))
            if batch is None:
                return
            for entry in batch:
                if entry.kind is not _FILE:
                    yield Found(entry, -1)
                    continue
                folder, name = split(entry.path)
                fd = os.open(name, FILE, dir_fd=folders.fd(folder))
                try:
                    yield Found(entry, fd)
                finally:
                    os.close(fd)


if __name__ == "__main__":
    main()
