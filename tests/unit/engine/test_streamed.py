"""Archives that come as a stream: nothing is copied twice, and what is no archive is refused as one in a file is."""

from __future__ import annotations

import hashlib
import io
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.engine.images.errors import BadArchive
from lamina.engine.images.streamed import StreamedFiles
from lamina.layer.flavour import Flavour
from lamina.oci.digest import Digest
from lamina.store.local import LocalStore

BIG = bytes(range(256)) * 1024


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    with LocalStore.open(tmp_path / "root", Flavour("user"), now=time.time) as store:
        yield store


class Pipe(io.RawIOBase):
    """Comes once, in pieces."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]  # as in the standard library's own stubs
        piece = self._data.read(min(len(view), 1000))
        view[: len(piece)] = piece
        return len(piece)


def archive(kind: int = tarfile.PAX_FORMAT, **files: bytes | str) -> bytes:
    """`files`: bytes, or the target of a link."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=kind) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            if isinstance(data, str):
                info.type, info.linkname = tarfile.SYMTYPE, data
                tar.addfile(info)
            else:
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return made.getvalue()


def files(store: LocalStore, data: bytes, limit: int = 1 << 40) -> StreamedFiles:
    return StreamedFiles(io.BufferedReader(Pipe(data)), "it", store.blobs, limit)


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_large_members_are_blobs_and_small_ones_are_read(store: LocalStore, kind: int) -> None:
    name = "d/" + "n" * 90
    members: dict[str, bytes | str] = {"small": b"text", name: BIG, "link": name}
    found = files(store, archive(kind, **members))
    digest = Digest("sha256:" + hashlib.sha256(BIG).hexdigest())
    assert found.read("small", 10) == b"text"
    assert found.blob(name) == found.blob("link") == (digest, len(BIG))
    assert not store.blobs.missing([digest])
    opened = found.open("link")
    assert opened is not None
    with opened[0] as file:
        assert (file.read(), opened[1]) == (BIG, len(BIG))
    assert found.read(name, len(BIG)) == BIG
    assert found.open("nosuch") is None
    assert found.blob("nosuch") is None
    with pytest.raises(BadArchive, match="at most 3"):
        found.read("small", 3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"x" * 600, "no"), (archive(a=BIG)[:-20000], "cut off"), (archive(a=b"1")[:700], "cut off"), (archive(a="b", b="a"), "circles"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_leaves_one_line(store: LocalStore, data: bytes, message: str) -> None:
    with pytest.raises(BadArchive, match=message):
        files(store, data).open("a")


def test_there_is_a_limit(store: LocalStore) -> None:
    with pytest.raises(BadArchive, match="more than 100000 bytes"):
        files(store, archive(a=BIG), 100_000)
