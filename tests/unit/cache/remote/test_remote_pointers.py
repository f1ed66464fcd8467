from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from lamina.cache.record import Place, Record
from lamina.cache.remote.envelope import BlobRef
from lamina.cache.remote.names import record_name
from lamina.cache.remote.oci import RegistryObjects
from lamina.cache.remote.ociform import tag_of
from lamina.cache.remote.pointers import record_pointers
from lamina.cache.remote.protocols import whole
from lamina.cache.remote.shared import Answer, Publication, SharedCache
from lamina.cache.remote.trust import Belief, MacKey, Trust
from lamina.cache.remote.upkeep import prune, verify
from lamina.oci.digest import sha256
from lamina.oci.reference import Reference
from lamina.registry.client import RegistryClient
from lamina.registry.transport import Transport, TransportSettings
from lamina.store.memory import MemoryBlobs
from lamina.testing.conformance.recordcache import key, record
from lamina.testing.fakeregistry import FakeRegistry
from lamina.testing.registry import docker_registry


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as started:
        yield started


def objects_at(host: str, now: float | None = None) -> RegistryObjects:
    client = RegistryClient(Transport(TransportSettings(attempts=1), sleep=lambda _: None))
    return RegistryObjects(client, Reference(host, "team/cache"), now=now)


def cache_at(host: str, trust: Trust | str = "main") -> SharedCache:
    return SharedCache(objects_at(host), now=lambda: 2000.0, trust=Trust(trust) if isinstance(trust, str) else trust)


def publish(host: str, *records: Record, trust: Trust | str = "main") -> None:
    with cache_at(host, trust) as cache:
        cache.publish([Publication(one) for one in records], MemoryBlobs())


def quick(host: str, number: int, trust: Trust | str = "main") -> Answer:
    return cache_at(host, trust).lookup([key(number)], quick=True)[key(number)]


def builds(answer: Answer) -> list[str]:
    return [offer.record.build for offer in answer.offers]


def named(number: int, build: str, created: float = 1000.0) -> Record:
    return msgspec.structs.replace(record(number, created=created), build=build)


def lists(registry: FakeRegistry) -> int:
    return registry.count("GET", "tags/list")


def test_hits_and_misses_cost_one_request_and_no_list(registry: FakeRegistry) -> None:
    publish(registry.host, *(named(number, "b") for number in range(5)))
    registry.asked.clear()
    found = cache_at(registry.host).lookup([key(number) for number in range(10)], quick=True)
    assert [bool(found[key(number)].offers) for number in range(10)] == [True] * 5 + [False] * 5
    assert lists(registry) == 0
    assert registry.count("GET", "manifests/") == 10


def test_a_full_lookup_does_not_take_a_quick_answer(registry: FakeRegistry) -> None:
    publish(registry.host, named(1, "a"))
    publish(registry.host, named(1, "b"))
    cache = cache_at(registry.host)
    assert builds(cache.lookup([key(1)], quick=True)[key(1)]) == ["b"], "the one that was published last"
    assert sorted(builds(cache.lookup([key(1)])[key(1)])) == ["a", "b"]
    assert sorted(builds(cache.lookup([key(1)], quick=True)[key(1)])) == ["a", "b"], "what is known is not asked again"


def test_scopes_find_their_own_and_main(registry: FakeRegistry) -> None:
    publish(registry.host, named(1, "of main"))
    publish(registry.host, named(1, "of a pull request"), trust="pr/1")
    publish(registry.host, named(2, "of a pull request"), trust="pr/1")
    registry.asked.clear()
    assert builds(quick(registry.host, 1)) == ["of main"]
    assert builds(quick(registry.host, 1, "pr/2")) == ["of main"]
    assert builds(quick(registry.host, 1, "pr/1")) == ["of a pull request"]
    missed = quick(registry.host, 2)
    assert (missed.offers, [one.code for one in missed.refusals]) == ((), ["not-trusted"]), "a miss still says what was not believed"
    assert lists(registry) == 0


def test_a_refused_record_does_not_hide_others(registry: FakeRegistry) -> None:
    signed = Trust(signer=MacKey("ci", b"0123456789abcdef"))
    publish(registry.host, named(1, "signed"), trust=signed)
    publish(registry.host, named(1, "not signed"))
    answer = quick(registry.host, 1, signed)
    assert builds(answer) == ["signed"]
    assert [one.code for one in answer.refusals] == ["not-trusted"]


def test_scopes_that_only_a_pattern_names(registry: FakeRegistry) -> None:
    publish(registry.host, named(1, "release"), trust="release/1.0")
    publish(registry.host, named(1, "pull request"), trust="pr/9")
    trust = Trust("main", beliefs=[Belief("*", ("main", "release/*"), keys=())])
    assert trust.scopes() == (("main",), True)
    assert builds(quick(registry.host, 1, trust)) == ["release"]
    registry.asked.clear()
    assert not quick(registry.host, 2, trust).offers
    assert lists(registry) == 0, "nobody has published anything under that key"


def test_a_pointer_to_something_else_is_not_believed(registry: FakeRegistry) -> None:
    publish(registry.host, named(1, "one"), named(2, "two"))
    tags = registry.tags["team/cache"]
    other = next(digest for tag, digest in tags.items() if tag.startswith(f"r.{2:040x}"))
    for tag in record_pointers(f"records/{1:064x}/main/{0:064x}"):
        assert tag in tags
        tags[tag] = other
    assert builds(quick(registry.host, 1)) == ["one"]


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b'{"annotations":{"org.lamina.cache.object":"x"}}', b"\xff" * 100])
def test_a_pointer_that_cannot_be_read_hides_nothing(registry: FakeRegistry, raw: bytes) -> None:
    publish(registry.host, named(1, "one"))
    tags = registry.tags["team/cache"]
    digest = sha256(raw)
    registry.manifests["team/cache", digest] = ("application/vnd.oci.image.manifest.v1+json", raw)
    for tag in record_pointers(f"records/{1:064x}/main/{0:064x}"):
        tags[tag] = digest
    assert builds(quick(registry.host, 1)) == ["one"]


def test_a_writer_that_was_killed_before_the_pointers(registry: FakeRegistry) -> None:
    publish(registry.host, named(1, "one"), named(2, "two"))
    tags = registry.tags["team/cache"]
    for number in (1, 2):
        for tag in record_pointers(f"records/{number:064x}/main/{0:064x}"):
            del tags[tag]
    assert not quick(registry.host, 1).offers
    publish(registry.host, named(1, "one"))
    assert builds(quick(registry.host, 1)) == ["one"], "publishing it again completes it"
    assert verify(objects_at(registry.host), repair=True) == []
    assert builds(quick(registry.host, 2)) == ["two"]


@pytest.mark.parametrize("gone", [["a"], ["b"], ["c"], ["b", "c"], ["a", "b"], ["a", "b", "c"]])
def test_deleting_leaves_the_others_to_be_found(registry: FakeRegistry, gone: Sequence[str]) -> None:
    names: dict[str, str] = {}
    for build, scope in (("a", "main"), ("b", "main"), ("c", "pr/1")):
        publish(registry.host, named(1, build, created=float(ord(build))), trust=scope)
        (names[build],) = set(_records(registry)) - set(names.values())
    objects_at(registry.host).delete([names[build] for build in gone])
    left = [build for build in ("b", "a") if build not in gone]
    assert builds(quick(registry.host, 1)) == left[:1]
    assert builds(quick(registry.host, 1, "pr/1"))[:1] == ([] if "c" in gone else ["c"]) + (left[:1] if "c" in gone else [])
    assert not {names[build] for build in gone} & set(_records(registry))


def test_the_same_record_of_two_writers_at_once_goes_as_one(registry: FakeRegistry) -> None:
    name, data = _sealed(named(1, "one"))
    objects_at(registry.host, now=1000.0).put(name, whole(data))
    own = registry.tags["team/cache"].pop(tag_of(name))
    objects_at(registry.host, now=2000.0).put(name, whole(data))
    registry.tags["team/cache"][tag_of(name)] = own  # the first one's tag arrived last
    objects_at(registry.host).delete([name])
    assert not quick(registry.host, 1).offers
    assert not [tag for tag in registry.tags["team/cache"] if tag[0] in "rkl"]


def test_a_registry_whose_tags_do_not_move(registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(registry.host, named(1, "a"))
    registry.wrongs.fixed_tags = True
    publish(registry.host, named(1, "b"), named(2, "c"))
    assert builds(quick(registry.host, 1)) == ["a"]
    assert builds(quick(registry.host, 2)) == ["c"]
    assert sorted(builds(cache_at(registry.host).lookup([key(1)])[key(1)])) == ["a", "b"]


def test_neighbours_without_a_list(registry: FakeRegistry) -> None:
    publish(registry.host, named(1, "old", created=1.0))
    publish(registry.host, named(2, "new", created=2.0))
    publish(registry.host, msgspec.structs.replace(record(3, stage="other", position=7), build="moved"))
    publish(registry.host, named(4, "not believed", created=9.0), trust="pr/1")
    registry.asked.clear()
    place = Place("Dockerfile", "build", 1, 2, "RUN make")
    assert [one.build for one in cache_at(registry.host).neighbours(place, quick=True)] == ["new", "old", "moved"]
    assert not cache_at(registry.host).neighbours(Place("other", "x", 9, 9, "RUN nothing"), quick=True)
    assert lists(registry) == 0


def test_a_new_record_costs_no_more_than_its_tags(registry: FakeRegistry) -> None:
    """Each manifest is several files, made durable, in Debian's registry: two places of a record were a quarter of them."""
    publish(registry.host, named(1, "a"))
    registry.asked.clear()
    publish(registry.host, named(2, "b"))
    put = sorted(asked.path.rpartition("/")[2][:2] for asked in registry.asked if asked.method == "PUT" and "/manifests/" in asked.path)
    assert put == ["k.", "l.", "n.", "n.", "r."]
    assert registry.count("HEAD", "/blobs/") == 1, "of the two bytes that all manifests have; the record's own are not looked for"
    with cache_at(registry.host) as cache:
        cache.publish([Publication(named(3, "c"))], MemoryBlobs(), places=True)
    assert len([tag for tag in registry.tags["team/cache"] if tag.startswith("p.")]) == 2


@pytest.mark.skipif(shutil.which("docker-registry") is None, reason="docker-registry is not installed")
def test_on_debians_registry(tmp_path: Path) -> None:
    with docker_registry(tmp_path) as host:
        local = MemoryBlobs()
        layer = b"layer" * 1000
        local.keep(sha256(layer), layer)
        blobs = (BlobRef(sha256(layer), len(layer)),)
        for build, scope in (("a", "main"), ("b", "main"), ("c", "pr/1")):
            with cache_at(host, scope) as cache:
                cache.publish([Publication(named(1, build), blobs)], local)
        assert builds(quick(host, 1)) == ["b"]
        assert builds(quick(host, 1, "pr/1")) == ["c"]
        assert not quick(host, 2).offers
        newest = [name for name in _names(host) if builds(_answer(host, name)) == ["b"]]
        objects_at(host).delete(newest)
        assert builds(quick(host, 1)) == ["a"]
        assert verify(objects_at(host), bytes_too=True) == []
        prune(objects_at(host), 5e9, expiry=1.0, grace=0.0)
        assert not quick(host, 1).offers
        publish(host, named(1, "again"))
        assert builds(quick(host, 1)) == ["again"]


def _records(registry: FakeRegistry) -> list[str]:
    return _names(registry.host)


def _names(host: str) -> list[str]:
    return [entry.name for entry in objects_at(host).list("records/")]


def _answer(host: str, name: str) -> Answer:
    """As if this record were the only one."""
    cache = cache_at(host)
    return cache._answer(key(1), {name: cache.objects.get(name) or b""})


def _sealed(one: Record) -> tuple[str, bytes]:
    from lamina.cache.remote.envelope import Statement, seal

    name, data = seal(Statement(one, "main"), lambda _: ())
    assert name == record_name(one.key, "main", data)
    return name, data
