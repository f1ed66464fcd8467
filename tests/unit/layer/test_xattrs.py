"""Which attributes belong to an image."""

from __future__ import annotations

import struct

import pytest

from lamina.layer.xattrs import kept, parse_owner, portable


@pytest.mark.parametrize("name", [b"user.a", b"user.overlayed", b"security.capability", b"user.lamina"])
def test_kept(name: bytes) -> None:
    assert kept(name)


@pytest.mark.parametrize(
    "name",
    [
        b"user.overlay.opaque",
        b"trusted.overlay.redirect",
        b"user.lamina.owner",
        b"user.fuseoverlayfs.opaque",
        b"trusted.a",
        b"security.selinux",
        b"security.ima",
        b"system.posix_acl_access",
        b"",
    ],
)
def test_left_out(name: bytes) -> None:
    assert not kept(name)


def test_a_capability_of_a_namespace_loses_the_namespace_and_keeps_its_flag() -> None:
    for flag in (0, 1):
        v3 = struct.pack("<6I", 0x03000000 | flag, 1, 2, 3, 4, 100000)
        assert portable(b"security.capability", v3) == struct.pack("<5I", 0x02000000 | flag, 1, 2, 3, 4)
    v2 = struct.pack("<5I", 0x02000001, 1, 2, 3, 4)
    assert portable(b"security.capability", v2) == v2
    assert portable(b"user.a", b"x" * 24) == b"x" * 24


def test_owners_that_are_none() -> None:
    assert parse_owner(b"1:2") == (1, 2)
    for text in (b"", b"1", b":", b"a:b", b"-1:2", b"1:2:3"):
        assert parse_owner(text) is None
