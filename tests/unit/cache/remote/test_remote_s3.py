from __future__ import annotations

from collections.abc import Iterator

import pytest

from lamina.cache.remote import s3
from lamina.cache.remote.errors import CacheDenied, CacheError, CacheUnavailable
from lamina.cache.remote.protocols import Body, ObjectStore, whole
from lamina.testing.breaking import BreakingWay, Wrong, recorder
from lamina.testing.conformance.blobstore import BlobStoreSuite
from lamina.testing.conformance.objectstore import ObjectStoreSuite, blob, doc
from lamina.testing.conformance.recordcache import RecordCacheSuite
from lamina.testing.fakes3 import FakeS3

pytest.importorskip("obstore", reason="the extra `s3` is not installed")

from lamina.cache.remote.adapters import RemoteBlobs, RemoteRecords
from lamina.cache.remote.s3 import S3Objects
from lamina.cache.remote.shared import SharedCache

_KEYS = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "s3cr3t-value", "AWS_REGION": "test"}


def objects_at(server: FakeS3, prefix: str = "some/prefix") -> S3Objects:
    return S3Objects.open("bucket", prefix, {"endpoint": server.endpoint}, _KEYS)


@pytest.fixture
def server() -> Iterator[FakeS3]:
    with FakeS3(page=3) as started:
        yield started


class TestS3Objects(ObjectStoreSuite):
    @pytest.fixture
    def objects(self, server: FakeS3) -> ObjectStore:
        return objects_at(server)

    @pytest.fixture
    def other(self, server: FakeS3) -> ObjectStore:
        return objects_at(server)


class TestS3WithoutConditions(ObjectStoreSuite):
    @pytest.fixture
    def objects(self, server: FakeS3) -> ObjectStore:
        server.conditions = False
        return objects_at(server, "")

    @pytest.fixture
    def other(self, server: FakeS3, objects: ObjectStore) -> ObjectStore:
        return objects_at(server, "")


class TestS3Blobs(BlobStoreSuite):
    @pytest.fixture
    def blobs(self, server: FakeS3) -> RemoteBlobs:
        return RemoteBlobs(objects_at(server))


class TestS3Records(RecordCacheSuite):
    @pytest.fixture
    def records(self, server: FakeS3) -> RemoteRecords:
        return RemoteRecords(SharedCache(objects_at(server), now=lambda: 5000.0))


def test_objects_are_created_on_condition(server: FakeS3) -> None:
    objects_at(server).put(doc(1, b"x"), whole(b"x"))
    (headers,) = [headers for method, _, headers in server.asked if method == "PUT"]
    assert headers["if-none-match"] == "*"
    assert set(server.objects) == {f"bucket/some/prefix/{doc(1, b'x')}"}


def test_big_blobs_go_in_parts(server: FakeS3) -> None:
    data = bytes(33 << 20)
    assert objects_at(server).put(
        blob(data), Body(len(data), lambda: (data[start : start + (1 << 20)] for start in range(0, len(data), 1 << 20)))
    )
    assert b"".join(objects_at(server).stream(blob(data))) == data
    assert not server.uploads


def test_refused_without_showing_the_key(server: FakeS3) -> None:
    server.refuse = 403
    with pytest.raises(CacheDenied) as caught:
        objects_at(server).put(doc(1, b"x"), whole(b"x"))
    assert "s3cr3t" not in caught.value.message
    with pytest.raises(CacheDenied):
        objects_at(server).get(doc(1, b"x"))


def test_a_server_that_is_not_there() -> None:
    objects = S3Objects.open("bucket", "", {"endpoint": "http://127.0.0.1:1"}, _KEYS)
    with pytest.raises(CacheUnavailable):
        objects.get(doc(1, b"x"))


def test_a_server_that_starts_again_is_waited_for(server: FakeS3) -> None:
    """Four tries of obstore's own for each of ours."""
    waited: list[float] = []
    objects = objects_at(server)
    objects._sleep = waited.append
    objects.put(doc(1, b"x"), whole(b"x"))
    server.refuse_next = 6
    assert objects.put(doc(2, b"y"), whole(b"y"))
    server.refuse_next = 5
    assert [entry.name for entry in objects.list("records/")] == sorted([doc(1, b"x"), doc(2, b"y")])
    assert len(waited) == 2


def test_a_server_that_never_answered_is_not_waited_for(server: FakeS3) -> None:
    objects = objects_at(server)
    objects._sleep = pytest.fail  # type: ignore[assignment]  # called with a number of seconds, which it would show
    server.refuse = 503
    with pytest.raises(CacheUnavailable):
        objects.get(doc(1, b"x"))


def test_a_bucket_that_is_not_there(server: FakeS3) -> None:
    server.refuse = 404
    with pytest.raises(CacheError, match="no such bucket") as caught:
        list(objects_at(server).list("records/"))
    assert not caught.value.transient


def test_lists_of_several_pages(server: FakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "_PAGE", 2)
    names = sorted(doc(number, b"%d" % number) for number in range(5))
    for name in names:
        objects_at(server).put(name, whole(name.encode()))
    assert [entry.name for entry in objects_at(server).list("records/")] == names
    assert [entry.name for entry in objects_at(server).list("")] == names


def test_nothing_is_put_where_there_is_no_bucket(server: FakeS3) -> None:
    """To put something into it was a FileNotFoundError of the library, which ended the build."""
    server.refuse = 404
    for act in (lambda: objects_at(server).put(doc(1, b"x"), whole(b"x")), lambda: list(objects_at(server).list("uses/"))):
        with pytest.raises(CacheError, match="there is no such bucket"):
            act()


@pytest.mark.parametrize("offset", [0, 1, 65_535, 65_536, 299_999])
def test_downloads_that_break_off_go_on_where_they_broke(server: FakeS3, offset: int) -> None:
    data = bytes(range(256)) * 1200
    objects_at(server).put(blob(data), whole(data))
    objects_at(server).put(doc(1, data[:999]), whole(data[:999]))
    with BreakingWay(server.endpoint.removeprefix("http://"), Wrong(0, "cut", offset)) as way:
        objects = S3Objects.open("bucket", "some/prefix", {"endpoint": way.url}, _KEYS)
        assert b"".join(objects.stream(blob(data))) == data
        assert way.seen[-1].headers.get("range", "") or offset < 65_536
    with BreakingWay(server.endpoint.removeprefix("http://"), Wrong(0, "cut", offset % 999)) as way:
        objects = S3Objects.open("bucket", "some/prefix", {"endpoint": way.url}, _KEYS)
        assert objects.get(doc(1, data[:999])) == data[:999]
        assert way.count == 2


def test_no_signature_follows_a_redirect(server: FakeS3) -> None:
    """The secret key is never sent; what was signed with it stays with the server that it was meant for. (The library lets a session token
    go along: worth nothing without the key. docs/dev/attack-model.md says so.)"""
    with recorder() as other, BreakingWay(server.endpoint.removeprefix("http://"), Wrong(0, "redirect", on=True, place=other.url)) as way:
        objects = S3Objects.open("bucket", "some/prefix", {"endpoint": way.url}, _KEYS)
        with pytest.raises(CacheError):
            list(objects.list("uses/"))
        assert "Credential=id" in way.text()
        assert other.seen
        assert "s3cr3t" not in way.text() + other.text()
        assert "Credential=id" not in other.text()
