from __future__ import annotations

from collections.abc import Collection, Iterator

import pytest

from lamina.cache.record import Place
from lamina.cache.remote.envelope import BlobRef
from lamina.cache.remote.memory import MemoryObjects
from lamina.cache.remote.names import blob_name, key_prefix
from lamina.cache.remote.protocols import Body, whole
from lamina.cache.remote.shared import Publication, SharedCache
from lamina.cache.remote.trust import Trust
from lamina.oci.digest import Digest, sha256
from lamina.store.memory import MemoryBlobs
from lamina.store.protocols import BlobNotFound
from lamina.testing.conformance.recordcache import key, record


class Watched(MemoryObjects):
    """Keeps what was asked, in order."""

    def __init__(self) -> None:
        super().__init__(lambda: 1000.0)
        self.calls: list[str] = []

    def put(self, name: str, body: Body) -> bool:
        self.calls.append(f"put {name.partition('/')[0]}")
        return super().put(name, body)

    def stream(self, name: str) -> Iterator[bytes]:
        self.calls.append("stream")
        return super().stream(name)

    def list(self, prefix: str) -> Iterator[object]:  # type: ignore[override]  # only counted
        self.calls.append(f"list {prefix}")
        return super().list(prefix)

    def delete(self, names: Collection[str]) -> None:
        self.calls.append("delete")
        super().delete(names)


@pytest.fixture
def objects() -> Watched:
    return Watched()


@pytest.fixture
def local() -> MemoryBlobs:
    return MemoryBlobs()


def ref(local: MemoryBlobs, data: bytes) -> BlobRef:
    local.keep(sha256(data), data)
    return BlobRef(sha256(data), len(data))


def cache_of(objects: MemoryObjects, scope: str = "main", project: str = "") -> SharedCache:
    return SharedCache(objects, now=lambda: 2000.0, trust=Trust(scope), project=project)


def test_a_record_and_its_blobs_travel(objects: Watched, local: MemoryBlobs) -> None:
    layer = ref(local, b"layer")
    done = cache_of(objects, project="app").publish([Publication(record(1), (layer,))], local)
    assert (done.records, done.blobs, done.bytes) == (1, 1, 5)
    other = MemoryBlobs()
    reader = cache_of(objects, "pr/1")
    (offer,) = reader.lookup([key(1)])[key(1)].offers
    assert (offer.record, offer.scope, offer.project, offer.blobs) == (record(1), "main", "app", (layer,))
    assert "stream" not in objects.calls, "a lookup moves records only"
    fetched = reader.fetch_blobs(offer.blobs, other)
    assert (fetched.fetched, fetched.gone, fetched.bytes) == (frozenset([layer.digest]), frozenset[Digest](), 5)
    assert other.open(layer.digest).read() == b"layer"
    assert reader.fetch_blobs(offer.blobs, other).fetched == frozenset(), "what is here is not fetched"


def test_blobs_come_before_records(objects: Watched, local: MemoryBlobs) -> None:
    cache_of(objects).publish([Publication(record(n), (ref(local, b"%d" % n),)) for n in range(3)], local)
    kinds = [call for call in objects.calls if call.startswith("put")]
    assert kinds.index("put records") > max(index for index, call in enumerate(kinds) if call == "put blobs")


def test_a_blob_that_is_missing_here_keeps_the_record_back(objects: Watched, local: MemoryBlobs) -> None:
    with pytest.raises(BlobNotFound):
        cache_of(objects).publish([Publication(record(1), (BlobRef(sha256(b"nowhere"), 7),))], local)
    assert not [name for name in objects._objects if name.startswith("records/")]


def test_what_is_there_is_not_sent_again(objects: Watched, local: MemoryBlobs) -> None:
    publication = Publication(record(1), (ref(local, b"layer"),))
    cache_of(objects).publish([publication], local)
    again = cache_of(objects).publish([publication], local)
    assert (again.records, again.records_there, again.blobs, again.blobs_there, again.bytes) == (0, 1, 0, 1, 0)
    assert any(name.startswith("uses/") for name in objects._objects), "others' pruning is told that the blob is needed"


def test_scopes_lie_side_by_side(objects: Watched, local: MemoryBlobs) -> None:
    cache_of(objects, "main").publish([Publication(record(1, created=1.0))], local)
    cache_of(objects, "pr/17").publish([Publication(record(1, created=2.0, layer=2))], local)
    assert [offer.scope for offer in cache_of(objects, "pr/17").lookup([key(1)])[key(1)].offers] == ["pr/17", "main"]
    answer = cache_of(objects, "main").lookup([key(1)])[key(1)]
    assert [offer.scope for offer in answer.offers] == ["main"]
    assert [(one.scope, one.code) for one in answer.refusals] == [("pr/17", "not-trusted")]


def test_the_same_record_of_two_scopes_is_one_offer(objects: Watched, local: MemoryBlobs) -> None:
    for scope in ("main", "pr/17"):
        cache_of(objects, scope).publish([Publication(record(1))], local)
    assert len(cache_of(objects, "pr/17").lookup([key(1)])[key(1)].offers) == 1


def test_an_altered_record_is_refused_not_an_error(objects: Watched) -> None:
    objects.put(f"{key_prefix(key(1))}main/{1:064x}", whole(b"{}\n{}"))
    answer = cache_of(objects).lookup([key(1)])[key(1)]
    assert [one.code for one in answer.refusals] == ["damaged"]
    assert not answer.offers


def test_answers_are_remembered_misses_too(objects: Watched, local: MemoryBlobs) -> None:
    reader = cache_of(objects)
    reader.lookup([key(1), key(2)])
    count = len(objects.calls)
    assert not reader.lookup([key(2), key(1)])[key(1)].offers
    assert len(objects.calls) == count
    cache_of(objects).publish([Publication(record(1))], local)
    assert not reader.lookup([key(1)])[key(1)].offers
    assert reader.lookup([key(1)], again=True)[key(1)].offers
    reader.publish([Publication(record(2))], local)
    assert reader.lookup([key(2)])[key(2)].offers, "one's own publication is seen"


def test_gone_and_damaged_blobs_are_told(objects: Watched, local: MemoryBlobs) -> None:
    good, gone, bad, long = (ref(local, data) for data in (b"good", b"gone", b"bad!", b"long"))
    cache = cache_of(objects)
    cache.publish([Publication(record(1), (good, gone, bad, long))], local)
    objects.delete([blob_name(gone.digest)])
    objects._objects[blob_name(bad.digest)] = (b"evil", 1.0)
    objects._objects[blob_name(long.digest)] = (b"long and longer", 1.0)
    sink = MemoryBlobs()
    fetched = cache.fetch_blobs((good, gone, bad, long), sink)
    assert (fetched.fetched, fetched.gone) == (frozenset([good.digest]), frozenset([gone.digest, bad.digest, long.digest]))
    assert sink.missing([gone.digest, bad.digest, long.digest]) == {gone.digest, bad.digest, long.digest}
    cache.publish([Publication(record(2), (gone, bad, long))], local)
    assert cache.fetch_blobs((gone, bad, long), sink).gone == frozenset(), "who has the right bytes repairs"


def test_use_is_written_once(objects: Watched, local: MemoryBlobs) -> None:
    layer = ref(local, b"layer")
    cache_of(objects).publish([Publication(record(1), (layer,))], local)
    with cache_of(objects) as reader:
        (offer,) = reader.lookup([key(1)])[key(1)].offers
        reader.mark_used(offer)
        reader.mark_used(offer)
    (use,) = [name for name in objects._objects if name.startswith("uses/")]
    assert (objects.get(use) or b"").split() == sorted([offer.name.encode(), blob_name(layer.digest).encode()])


def test_neighbours_name_believed_records_only(objects: Watched, local: MemoryBlobs) -> None:
    cache_of(objects, "main").publish([Publication(record(1))], local)
    cache_of(objects, "pr/17").publish([Publication(record(2))], local)
    assert [one.key for one in cache_of(objects).neighbours(record().place)] == [key(1)]
    assert not cache_of(objects).neighbours(Place("other", "x", 9, 9, "RUN nothing"))


def test_forget_leaves_other_scopes_alone(objects: Watched, local: MemoryBlobs) -> None:
    for scope, layer in (("main", 1), ("pr/17", 2)):
        cache_of(objects, scope).publish([Publication(record(1, layer=layer))], local)
    assert cache_of(objects, "main").forget([key(1)]) == 1
    assert [offer.scope for offer in cache_of(objects, "pr/17").lookup([key(1)])[key(1)].offers] == ["pr/17"]


def test_progress_is_told(objects: Watched, local: MemoryBlobs) -> None:
    layer = ref(local, b"layer")
    told: list[tuple[Digest, int]] = []
    cache_of(objects).publish([Publication(record(1), (layer,))], local, on_bytes=lambda digest, count: told.append((digest, count)))
    cache_of(objects).fetch_blobs([layer], MemoryBlobs(), on_bytes=lambda digest, count: told.append((digest, count)))
    assert told == [(layer.digest, 5)] * 2
