from __future__ import annotations

import hashlib

import pytest

from lamina.oci.digest import ChainId, DiffId, InvalidDigest, chain, parse_digest, sha256

ONE, TWO, THREE = (DiffId("sha256:" + digit * 64) for digit in "123")


@pytest.mark.parametrize(
    "text", ["", "sha256:", "sha256:" + "1" * 63, "sha256:" + "A" * 64, "sha1:" + "1" * 40, "1" * 64, "sha256:" + "1" * 64 + "\n"]
)
def test_refused(text: str) -> None:
    with pytest.raises(InvalidDigest):
        parse_digest(text)


def test_read() -> None:
    assert parse_digest(sha256(b"x")) == "sha256:" + hashlib.sha256(b"x").hexdigest()
    assert parse_digest("sha512:" + "0" * 128)


def test_chain_is_that_of_the_image_spec() -> None:
    assert chain(()) is None
    assert chain((ONE,)) == ChainId(ONE)
    two = sha256(f"{ONE} {TWO}".encode())
    assert chain((ONE, TWO)) == ChainId(two)
    assert chain((ONE, TWO, THREE)) == ChainId(sha256(f"{two} {THREE}".encode()))
