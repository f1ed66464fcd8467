from __future__ import annotations

import io
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from lamina.engine.images.errors import BadArchive
from lamina.engine.images.tar import TarIndex, TarOut


def archive(**files: bytes) -> bytes:
    out = io.BytesIO()
    tar = TarOut(out)
    tar.folder("d")
    for name, data in files.items():
        tar.data(name, data)
    tar.close()
    return out.getvalue()


def test_others_read_what_we_write() -> None:
    with tarfile.open(fileobj=io.BytesIO(archive(a=b"x" * 513, b=b""))) as tar:
        assert tar.getnames() == ["d", "a", "b"]
        member = tar.extractfile("a")
        assert member is not None
        assert member.read() == b"x" * 513
        assert {(m.mtime, m.uid, m.gid) for m in tar} == {(0, 0, 0)}


def test_members_are_read_side_by_side() -> None:
    """A copy out of an oci-archive sends its blobs on several threads; one moved the file's position between another's seek and read, and
    what was to be sent was not what its digest said."""

    class Slow(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            time.sleep(0.001)  # another thread's turn
            return super().read(size)

    bodies = {name: name.encode() * (1 << 20) for name in "abcd"}
    index = TarIndex(Slow(archive(**bodies)))

    def whole(name: str) -> bytes:
        member = index.find(name)
        assert member is not None
        with index.open(member) as file:
            return b"".join(iter(lambda: file.read(1 << 16), b""))

    with ThreadPoolExecutor(4) as pool:
        assert dict(zip(bodies, pool.map(whole, bodies))) == bodies


def test_same_members_same_bytes() -> None:
    assert archive(a=b"1") == archive(a=b"1")


def test_long_names_and_links_of_others() -> None:
    out = io.BytesIO()
    long = "n" * 200
    for style in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=style) as tar:
            info = tarfile.TarInfo(f"./{long}")
            info.size = 3
            tar.addfile(info, io.BytesIO(b"abc"))
            link = tarfile.TarInfo("x/y")
            link.type, link.linkname = tarfile.SYMTYPE, f"../{long}"
            tar.addfile(link)
            hard = tarfile.TarInfo("h")
            hard.type, hard.linkname = tarfile.LNKTYPE, "x/y"
            tar.addfile(hard)
        index = TarIndex(out)
        assert index.read(long, 10) == b"abc"
        assert index.read("x/y", 10) == b"abc"
        assert index.read("h", 10) == b"abc"
        assert index.read("nothing", 10) is None


def test_links_in_circles() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, target in (("a", "b"), ("b", "a")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    with pytest.raises(BadArchive, match="circles"):
        TarIndex(out).find("a")


def test_links_to_the_outside_are_names_inside() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo("a")
        info.type, info.linkname = tarfile.SYMTYPE, "../../../etc/passwd"
        tar.addfile(info)
    assert TarIndex(out).find("a") is None


@pytest.mark.parametrize("keep", [100, 513, 1023, 1500])
def test_cut_off(keep: int) -> None:
    with pytest.raises(BadArchive):
        TarIndex(io.BytesIO(archive(a=b"x" * 5000)[:keep]))


def test_not_a_tar() -> None:
    with pytest.raises(BadArchive, match="not a tar"):
        TarIndex(io.BytesIO(b"hello" * 500))


def test_a_declared_size_beyond_the_end() -> None:
    raw = bytearray(archive(a=b"abc"))
    raw[512 + 124 : 512 + 136] = b"77777777777\0"
    raw[512 + 148 : 512 + 156] = b" " * 8
    raw[512 + 148 : 512 + 156] = b"%06o\0 " % sum(raw[512:1024])
    with pytest.raises(BadArchive, match="cut off"):
        TarIndex(io.BytesIO(raw))


def test_a_huge_extended_header_is_not_read() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo("x")
        info.type, info.size = b"x", 2 << 20
        tar.fileobj.write(info.tobuf(tarfile.USTAR_FORMAT))
        tar.fileobj.write(bytes(2 << 20))
    with pytest.raises(BadArchive, match="extended header"):
        TarIndex(out)


def test_size_limit_of_documents() -> None:
    with pytest.raises(BadArchive, match="at most 2"):
        TarIndex(io.BytesIO(archive(a=b"abc"))).read("a", 2)


def test_a_source_that_changed_its_size() -> None:
    tar = TarOut(io.BytesIO())
    with pytest.raises(BadArchive, match="shorter"), tar.member("a", 3) as out:
        out.write(b"ab")
    with pytest.raises(BadArchive, match="longer"), tar.member("a", 3) as out:
        out.write(b"abcd")
