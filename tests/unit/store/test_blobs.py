from __future__ import annotations

import os
from pathlib import Path

import pytest

from lamina.oci.digest import Digest, sha256
from lamina.store.errors import BadName
from lamina.store.local import LocalStore
from lamina.store.protocols import BlobStore, DigestMismatch
from lamina.testing.conformance.blobstore import BlobStoreSuite


class TestLocalBlobs(BlobStoreSuite):
    @pytest.fixture
    def blobs(self, store: LocalStore) -> BlobStore:
        return store.blobs


def test_blobs_stand_where_the_image_layout_wants_them(store: LocalStore, root: Path) -> None:
    digest = store.blobs.put(b"hello")
    path = root / "blobs" / "sha256" / digest[7:]
    assert path.read_bytes() == b"hello"
    assert path.stat().st_mode & 0o777 == 0o444
    assert store.blobs.path(digest) == path


def test_nothing_is_left_in_tmp(store: LocalStore, root: Path) -> None:
    store.blobs.put(b"one")
    with store.blobs.ingest() as writer:
        writer.write(b"never")
        assert os.listdir(root / "tmp")
    with store.blobs.ingest(sha256(b"x")) as writer:
        writer.write(b"y")
        with pytest.raises(DigestMismatch):
            writer.commit()
    assert os.listdir(root / "tmp") == []


def test_damage_is_seen_at_the_end_of_reading(store: LocalStore, root: Path) -> None:
    digest = store.blobs.put(b"good bytes")
    path = root / "blobs" / "sha256" / digest[7:]
    path.chmod(0o644)
    path.write_bytes(b"evil bytes")
    with store.blobs.open(digest) as file, pytest.raises(DigestMismatch, match="damaged"):
        file.read()
    with store.blobs.open(digest, verify=False) as file:
        assert file.read() == b"evil bytes"


def test_a_blob_can_be_read_in_pieces_and_sought(store: LocalStore) -> None:
    data = bytes(range(256)) * 20000
    digest = store.blobs.put(data)
    with store.blobs.open(digest) as file:
        file.seek(1000)
        assert file.read(10) == data[1000:1010]
        file.seek(0)
        assert file.read() == data


@pytest.mark.parametrize("name", ["sha256:../../etc/passwd", "sha256:" + "A" * 64, "md5:" + "a" * 32, "sha256:" + "a" * 64 + "\n", ""])
def test_names_that_are_no_digest_reach_no_path(store: LocalStore, name: str) -> None:
    digest = Digest(name)
    for ask in (store.blobs.open, store.blobs.size, store.blobs.path, store.blobs.delete):
        with pytest.raises(BadName):
            ask(digest)
    with pytest.raises(BadName):
        store.blobs.missing([digest])
    with pytest.raises(BadName), store.blobs.ingest(digest):
        pass


def test_all_lists_digests_with_sizes(store: LocalStore, root: Path) -> None:
    one, two = store.blobs.put(b"1"), store.blobs.put(b"22")
    (root / "blobs" / "sha256" / "README").write_text("not ours")
    assert sorted(store.blobs.all()) == sorted([(one, 1), (two, 2)])
