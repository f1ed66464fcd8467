from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.cache.remote.errors import BadCacheSpec, CacheError
from lamina.cache.remote.names import (
    RecordName,
    blob_name,
    check_scope,
    checked,
    checked_prefix,
    decode_scope,
    digest_of_blob,
    encode_scope,
    known,
    place_names,
    place_prefixes,
    placed_key,
    record_name,
    used_at,
    uses_name,
)
from lamina.oci.digest import Digest, sha256
from lamina.testing.conformance.recordcache import key, record


@given(st.text(min_size=1, max_size=60))
def test_scopes_come_back(scope: str) -> None:
    encoded = encode_scope(scope.encode("utf-8", "replace").decode())
    assert encoded.isascii()
    assert "/" not in encoded
    assert encoded not in (".", "..")
    assert encode_scope(decode_scope(encoded)) == encoded


@pytest.mark.parametrize(
    ("scope", "encoded"),
    [("main", "main"), ("pr/17", "pr+17"), ("..", "=2E."), ("a+b", "a=2Bb"), ("v1.2", "v1.2"), ("ü", "=C3=BC"), ("*", "=2A"), ("=", "=3D")],
)
def test_scopes(scope: str, encoded: str) -> None:
    assert encode_scope(scope) == encoded
    assert decode_scope(encoded) == scope


@pytest.mark.parametrize("text", ["=2e", "=41", "=", "=4", ".x", "=G0"])
def test_one_scope_has_one_name(text: str) -> None:
    with pytest.raises(CacheError):
        decode_scope(text)


@pytest.mark.parametrize("scope", ["", "x" * 101, "a\nb", "ü" * 90])
def test_scopes_that_are_none(scope: str) -> None:
    with pytest.raises(BadCacheSpec):
        check_scope(scope)


def test_names() -> None:
    name = record_name(key(1), "pr/17", b"data")
    parts = RecordName(name)
    assert (parts.key, parts.scope, "sha256:" + parts.digest) == (key(1), "pr/17", sha256(b"data"))
    assert digest_of_blob(blob_name(sha256(b"x"))) == sha256(b"x")
    assert used_at(uses_name(1234.9, "0" * 16)) == 1234.0
    one = record(3, created=77.0)
    for made, prefix in zip(place_names(one), place_prefixes(one.place)):
        assert made.startswith(prefix)
        assert placed_key(made) == one.key


@pytest.mark.parametrize(
    "name",
    [
        "",
        "records",
        "blobs/sha256/abc",
        f"blobs/sha512/{1:064x}",
        f"blobs/md5/{1:064x}",
        f"records/{1:064x}/../{1:064x}",
        f"records/{1:064x}/=zz/{1:064x}",
        "uses/1-1",
    ],
)
def test_names_that_are_none(name: str) -> None:
    assert not known(name)
    with pytest.raises(CacheError):
        checked(name)


@pytest.mark.parametrize("prefix", ["record", "records", f"records/{1:064x}", "blobs/sha256", "../", "uses", "/", "places/x/"])
def test_prefixes_that_are_none(prefix: str) -> None:
    with pytest.raises(CacheError):
        checked_prefix(prefix)


def test_a_digest_that_would_leave() -> None:
    with pytest.raises(CacheError):
        blob_name(Digest("sha256:../../etc/passwd"))
