"""The suites of a backend on a real S3 server. The fake in test_remote_s3.py answers what no server does at will."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import pytest

from lamina.cache.remote import s3
from lamina.cache.remote.protocols import Body, ObjectStore, whole
from lamina.testing import seaweed
from lamina.testing.conformance.blobstore import BlobStoreSuite
from lamina.testing.conformance.objectstore import ObjectStoreSuite, blob, doc
from lamina.testing.conformance.recordcache import RecordCacheSuite
from lamina.testing.seaweed import BUCKET, CREDENTIALS, Seaweed

pytest.importorskip("obstore", reason="the extra `s3` is not installed")

from lamina.cache.remote.adapters import RemoteBlobs, RemoteRecords
from lamina.cache.remote.s3 import S3Objects
from lamina.cache.remote.shared import SharedCache

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("seaweed"),  # one server for the file
    pytest.mark.skipif(seaweed.why_not() is not None, reason=str(seaweed.why_not())),
]
_NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    with seaweed.seaweed(tmp_path_factory.mktemp("seaweed")) as started:
        yield started


@pytest.fixture
def prefix() -> str:
    """One that no other test uses."""
    return f"some/prefix{next(_NUMBERS)}"


def objects_at(server: Seaweed, prefix: str) -> S3Objects:
    return S3Objects.open(BUCKET, prefix, {"endpoint": server.endpoint}, CREDENTIALS)


class TestSeaweedObjects(ObjectStoreSuite):
    @pytest.fixture
    def objects(self, server: Seaweed, prefix: str) -> ObjectStore:
        return objects_at(server, prefix)

    @pytest.fixture
    def other(self, server: Seaweed, prefix: str) -> ObjectStore:
        return objects_at(server, prefix)


class TestSeaweedBlobs(BlobStoreSuite):
    @pytest.fixture
    def blobs(self, server: Seaweed, prefix: str) -> RemoteBlobs:
        return RemoteBlobs(objects_at(server, prefix))


class TestSeaweedRecords(RecordCacheSuite):
    @pytest.fixture
    def records(self, server: Seaweed, prefix: str) -> RemoteRecords:
        return RemoteRecords(SharedCache(objects_at(server, prefix), now=lambda: 5000.0))


def test_of_many_that_create_an_object_one_has_created_it(server: Seaweed, prefix: str) -> None:
    """What If-None-Match promises, with nothing in between that looks first."""
    store = objects_at(server, prefix)
    created: list[bool] = []
    start = threading.Barrier(8)

    def create() -> None:
        start.wait()
        created.append(store.put(doc(1, b"x"), whole(b"x")))

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(created) == [False] * 7 + [True]


def test_a_big_blob_in_parts(server: Seaweed, prefix: str) -> None:
    data = bytes(range(256)) * (33 << 12)
    body = Body(len(data), lambda: (data[start : start + (1 << 20)] for start in range(0, len(data), 1 << 20)))
    assert objects_at(server, prefix).put(blob(data), body)
    assert b"".join(objects_at(server, prefix).stream(blob(data))) == data
    assert not objects_at(server, prefix).put(blob(data), body)


def test_lists_of_several_pages(server: Seaweed, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "_PAGE", 2)
    names = sorted(doc(number, b"%d" % number) for number in range(5))
    for name in names:
        objects_at(server, prefix).put(name, whole(name.encode()))
    assert [entry.name for entry in objects_at(server, prefix).list("records/")] == names
