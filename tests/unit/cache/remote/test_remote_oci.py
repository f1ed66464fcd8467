from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.cache.remote.adapters import RemoteBlobs, RemoteRecords
from lamina.cache.remote.envelope import BlobRef
from lamina.cache.remote.errors import CacheDenied, CacheUnavailable
from lamina.cache.remote.names import key_prefix
from lamina.cache.remote.oci import RegistryObjects
from lamina.cache.remote.ociform import tag_of
from lamina.cache.remote.protocols import ObjectStore, whole
from lamina.cache.remote.shared import Publication, SharedCache
from lamina.oci.digest import sha256
from lamina.oci.reference import Reference
from lamina.registry.client import RegistryClient
from lamina.registry.transport import Transport, TransportSettings
from lamina.store.memory import MemoryBlobs
from lamina.testing.conformance.blobstore import BlobStoreSuite
from lamina.testing.conformance.objectstore import ObjectStoreSuite, blob, doc
from lamina.testing.conformance.recordcache import RecordCacheSuite, key, record
from lamina.testing.fakeregistry import FakeRegistry
from lamina.testing.registry import docker_registry

needs_docker_registry = pytest.mark.skipif(shutil.which("docker-registry") is None, reason="docker-registry is not installed")


def objects_at(host: str) -> RegistryObjects:
    client = RegistryClient(Transport(TransportSettings(attempts=1), sleep=lambda _: None))
    return RegistryObjects(client, Reference(host, "team/cache"))


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as started:
        yield started


class TestRegistryObjects(ObjectStoreSuite):
    @pytest.fixture
    def objects(self, registry: FakeRegistry) -> ObjectStore:
        return objects_at(registry.host)

    @pytest.fixture
    def other(self, registry: FakeRegistry) -> ObjectStore:
        return objects_at(registry.host)


class TestRegistryBlobs(BlobStoreSuite):
    @pytest.fixture
    def blobs(self, registry: FakeRegistry) -> RemoteBlobs:
        return RemoteBlobs(objects_at(registry.host))


class TestRegistryRecords(RecordCacheSuite):
    @pytest.fixture
    def records(self, registry: FakeRegistry) -> RemoteRecords:
        return RemoteRecords(SharedCache(objects_at(registry.host), now=lambda: 5000.0))


@needs_docker_registry
class TestDebiansRegistry(ObjectStoreSuite):
    @pytest.fixture
    def host(self, tmp_path: Path) -> Iterator[str]:
        with docker_registry(tmp_path) as host:
            yield host

    @pytest.fixture
    def objects(self, host: str) -> ObjectStore:
        return objects_at(host)

    @pytest.fixture
    def other(self, host: str) -> ObjectStore:
        return objects_at(host)


def test_tags_fit() -> None:
    for name in (doc(1, b"x", "pr+17"), blob(b"x"), f"blobs/sha512/{'a' * 128}", f"places/{1:032x}/0000001000-{2:064x}"):
        assert len(tag_of(name)) <= 128


def test_a_lookup_asks_for_its_own_keys_only(registry: FakeRegistry) -> None:
    objects = objects_at(registry.host)
    for number in range(30):
        objects.put(doc(number, b"%d" % number), whole(b"%d" % number))
    registry.asked.clear()
    assert objects.gather([key_prefix(key(7))])
    assert len(registry.asked) == 2, "a page of tags and the manifest, which has the record inside"


def test_nothing_is_ever_rewritten(registry: FakeRegistry) -> None:
    one, two = objects_at(registry.host), objects_at(registry.host)
    one.put(doc(1, b"a"), whole(b"a"))
    before = {tag: digest for tag, digest in registry.tags["team/cache"].items() if tag[0] not in "kl"}
    two.put(doc(1, b"b"), whole(b"b"))
    two.put(doc(1, b"a"), whole(b"a"))
    assert {tag: registry.tags["team/cache"][tag] for tag in before} == before


def test_foreign_tags_are_left_alone(registry: FakeRegistry) -> None:
    objects = objects_at(registry.host)
    name = doc(1, b"a")
    objects.put(name, whole(b"a"))
    tags = registry.tags["team/cache"]
    tags["latest"] = tags[tag_of(name)]
    tags[tag_of(doc(1, b"planted"))] = tags[tag_of(name)]
    assert [entry.name for entry in objects_at(registry.host).list("")] == [name]
    assert objects_at(registry.host).gather([key_prefix(key(1))]) == {key_prefix(key(1)): {name: b"a"}}


def test_a_registry_that_is_not_there() -> None:
    with pytest.raises(CacheUnavailable):
        objects_at("127.0.0.1:1").gather([key_prefix(key(1))])


def test_a_registry_that_refuses() -> None:
    with FakeRegistry(users={"me": "secret"}, auth="basic") as registry, pytest.raises(CacheDenied):
        objects_at(registry.host).put(blob(b"x"), whole(b"x"))


@pytest.mark.parametrize("lie", [("size", 7), ("size", 10**15), ("size", -1), ("digest", "sha256:" + "0" * 64), ("digest", "x")])
def test_manifests_that_lie(registry: FakeRegistry, lie: tuple[str, object]) -> None:
    cache = SharedCache(objects_at(registry.host), now=lambda: 1.0)
    local = MemoryBlobs()
    local.keep(sha256(b"layer"), b"layer")
    blobs = (BlobRef(sha256(b"layer"), 5),)
    cache.publish([Publication(record(1), blobs), Publication(record(2), blobs)], local)
    broken = [tag for tag in registry.tags["team/cache"] if tag.startswith((f"r.{2:040x}.", "b."))]
    assert len(broken) == 2
    for tag in broken:
        digest = registry.tags["team/cache"][tag]
        media_type, raw = registry.manifests["team/cache", digest]
        document = json.loads(raw)
        document["layers"][0].update([lie])
        registry.manifests["team/cache", digest] = (media_type, json.dumps(document).encode())
    answers = SharedCache(objects_at(registry.host), now=lambda: 1.0).lookup([key(1), key(2)])
    assert [offer.record for offer in answers[key(1)].offers] == [record(1)]
    assert all(offer.record == record(2) for offer in answers[key(2)].offers), "what stands in the manifest is verified"
    sink = MemoryBlobs()
    assert cache.fetch_blobs(blobs, sink).gone == {sha256(b"layer")}
    assert sink.missing([sha256(b"layer")])
