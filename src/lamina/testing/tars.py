"""Hostile and damaged tars, made with the standard library and by hand: a reader is not tested by its own writer."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

BLOCK = 512


@dataclass(frozen=True, slots=True)
class HostileTar:
    """`refused`: nobody may unpack it. Else it is unpacked and everything stays inside."""

    name: str
    data: bytes
    refused: bool


def member(
    name: str,
    body: bytes | None = None,
    *,
    kind: bytes = tarfile.REGTYPE,
    link: str = "",
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    mtime: float = 0,
    device: tuple[int, int] = (0, 0),
    pax: Mapping[str, str] | None = None,
) -> bytes:
    """One member with its padding, no end mark. Names may hold surrogates (bytes that are no UTF-8)."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.uid, info.gid, info.mtime = kind, link, mode, uid, gid, mtime
    info.devmajor, info.devminor = device
    info.size = len(body or b"")
    info.pax_headers = dict(pax or {})
    head = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    return head + (body or b"") + bytes(-info.size % BLOCK)


def folder(name: str, mode: int = 0o755) -> bytes:
    return member(name, kind=tarfile.DIRTYPE, mode=mode)


def symlink(name: str, to: str) -> bytes:
    return member(name, kind=tarfile.SYMTYPE, link=to, mode=0o777)


def hard_link(name: str, to: str) -> bytes:
    return member(name, kind=tarfile.LNKTYPE, link=to)


def archive(members: Iterable[bytes]) -> bytes:
    """With the two blocks of zeros that end a tar."""
    return b"".join(members) + bytes(2 * BLOCK)


def patched(raw: bytes, offset: int, field: bytes) -> bytes:
    """The first header's bytes at `offset` changed, its checksum made right again."""
    head = bytearray(raw[:BLOCK])
    head[offset : offset + len(field)] = field
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + raw[BLOCK:]


def hostile_tars(outside: str) -> tuple[HostileTar, ...]:
    """`outside`: absolute path of an existing folder with a file `victim`; whoever unpacks must leave it as it is."""
    file = member("evil", b"evil")
    contained = {
        "absolute name": [member("/abs/evil", b"evil")],
        "absolute name of the outside": [member(f"{outside}/evil", b"evil")],
        "file through a link": [symlink("ln", outside), member("ln/victim", b"evil")],
        "file through a relative link": [symlink("ln", "../" * 40 + outside[1:]), member("ln/victim", b"evil")],
        "file through two links": [symlink("a", outside), symlink("b", "a"), member("b/victim", b"evil")],
        "file over a link": [symlink("ln", f"{outside}/victim"), member("ln", b"evil")],
        "folder over a link": [symlink("ln", outside), folder("ln", 0o777), member("ln/victim", b"evil")],
        "link in place of a folder": [folder("d"), symlink("d", outside), member("d/victim", b"evil")],
        "link in place of a folder's folder": [folder("d/e"), symlink("d", outside), folder("d/e"), member("d/e/evil", b"evil")],
        "hard link to a link, then a file": [symlink("ln", f"{outside}/victim"), hard_link("h", "ln"), member("h", b"evil")],
        "file through a hard-linked link": [symlink("ln", outside), hard_link("h", "ln"), member("h/victim", b"evil")],
        "hard link to itself": [member("a", b"a"), hard_link("a", "a")],
        "link to the root": [symlink("ln", "/"), member("ln/evil", b"evil")],
        "file over a fifo": [member("p", kind=tarfile.FIFOTYPE), member("p", b"evil")],
        "overlay's marks as attributes": [
            member("d", kind=tarfile.DIRTYPE, mode=0o755, pax=_xattrs("trusted.overlay.opaque", "user.overlay.opaque")),
            member("f", b"f", pax=_xattrs("trusted.overlay.redirect", "user.overlay.metacopy", "user.lamina.owner")),
        ],
        "aufs' own names": [member(".wh..wh.plnk/1.2", b"x"), member(".wh..wh.aufs", b"")],
        "size on a link": [patched(symlink("ln", "x"), 124, b"00000001000\0")],
        "global header": [member("a", b"a"), _extended(b"g", b"22 path=../../escaped\n"), file],
    }
    refused = {
        "'..' in front": [member("../evil", b"evil")],
        "'..' inside": [member("a/../../evil", b"evil")],
        "'..' in a folder": [folder("..")],
        "'..' in a pax path": [_extended(b"x", b"16 path=../evil\n"), file],
        "hard link to the outside": [hard_link("h", f"{outside}/victim")],
        "hard link upwards": [hard_link("h", "../" * 40 + f"{outside[1:]}/victim")],
        "hard link through a link": [symlink("ln", outside), hard_link("h", "ln/victim")],
        "hard link in place of its target's folder": [member("d/f", b"f"), hard_link("d", "d/f")],
        "hard link to a folder": [folder("d"), hard_link("h", "d")],
        "hard link to a removed name": [member(".wh.x", b""), hard_link("h", "x")],
        "hard link to nothing": [hard_link("h", "nothing")],
        "whiteout of nothing": [member("d/.wh.", b"")],
        "whiteout of '.'": [member("d/.wh..", b"")],
        "whiteout of '..'": [member("d/.wh...", b"")],
        "whiteout through a link": [symlink("ln", outside), member("ln/.wh.victim", b"")],
        "opaque mark through a link": [symlink("ln", outside), member("ln/.wh..wh..opq", b"")],
        "file in a whiteout": [member(".wh.d/evil", b"evil")],
        "file through a link to a whiteout": [symlink("ln", ".wh.d"), member("ln/evil", b"evil")],
        "whiteout device": [member("w", kind=tarfile.CHRTYPE)],
        "links in a circle": [symlink("a", "b"), symlink("b", "a"), member("a/evil", b"evil")],
        "link to itself": [symlink("a", "a/a"), member("a/evil", b"evil")],
        "name too long": [member("x" * 256, b"evil")],
        "path too long": [member("/".join(["x" * 200] * 30), b"evil")],
        "owner that means none": [patched(file, 108, b"\x80\0\0\0\xff\xff\xff\xff")],
        "negative owner": [patched(file, 108, b"\xff" * 8)],
        "negative size": [patched(file, 124, b"\xff" * 12)],
        "huge size": [patched(file, 124, b"\x80" + b"\xff" * 11)],
        "size that is no number": [patched(file, 124, b"12x45678901\0")],
        "unknown type": [patched(file, 156, b"Q")],
        "endless extended header": [patched(_extended(b"x", b""), 124, b"77777777777\0")],
        "huge long name": [patched(_extended(b"L", b""), 124, b"00010000001\0")],
        "broken extended header": [_extended(b"x", b"99999 path=a\n"), file],
        "extended header of length 0": [_extended(b"x", b"0 path=a\n"), file],
        "extended header without key": [_extended(b"x", b"6 =ab\n"), file],
        "zero byte in a pax path": [_extended(b"x", b"12 path=a\0b\n"), file],
        "zero byte in an attribute's name": [_extended(b"x", b"28 SCHILY.xattr.user.a\0b=cd\n"), file],
        "time that is no number": [_extended(b"x", b"13 mtime=nan\n"), file],
        "time out of reach": [_extended(b"x", b"30 mtime=99999999999999999999\n"), file],
        "extended header at the end": [_extended(b"x", b"10 path=a\n")],
        "sparse map backwards": [_extended(b"x", _pax(b"GNU.sparse.map", b"4,2,0,2") + _pax(b"GNU.sparse.size", b"9")), file],
        "sparse map too large": [_extended(b"x", _pax(b"GNU.sparse.map", b"0,4") + _pax(b"GNU.sparse.size", b"2")), file],
        "sparse of an unknown form": [_extended(b"x", _pax(b"GNU.sparse.major", b"7")), file],
    }
    whole = archive([folder("d"), member("d/f", b"x" * 3000), file])
    cut = {f"cut off at {at}": whole[:at] for at in (100, 700, 1024 + 100, 1536 + 3000, len(whole) - 2 * BLOCK - 300)}
    damaged = {
        **cut,
        "wrong checksum": whole[:20] + b"\1" + whole[21:],
        "text": b"this is not a tar at all\n" * 100,
        "zeros between": folder("d") + bytes(BLOCK) + file + bytes(2 * BLOCK),
    }
    return (
        *(HostileTar(name, archive(members), False) for name, members in contained.items()),
        *(HostileTar(name, archive(members), True) for name, members in refused.items()),
        *(HostileTar(name, data, True) for name, data in damaged.items()),
    )


def _xattrs(*names: str) -> dict[str, str]:
    return {f"SCHILY.xattr.{name}": "1:1" if name.endswith("owner") else "y" for name in names}


def _extended(flag: bytes, body: bytes) -> bytes:
    raw = member("././@PaxHeader", body)
    return patched(raw, 156, flag)


def _pax(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    return b"%d %s=%s\n" % (length + (2 if length < 98 else 3), key, value)
