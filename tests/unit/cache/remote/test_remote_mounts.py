from __future__ import annotations

import hashlib
from collections.abc import Iterator

import msgspec
import pytest

from lamina.cache.remote.chunks import BadChunk, Chunk, pack
from lamina.cache.remote.envelope import BadEnvelope
from lamina.cache.remote.inventory import Inventory, usage
from lamina.cache.remote.memory import MemoryObjects
from lamina.cache.remote.mountcache import all_versions, listing_of, publish, versions
from lamina.cache.remote.mounts import (
    MountFile,
    MountListing,
    dump_listing,
    load_listing,
    merged,
    seal_mount,
    state_of,
    unseal_mount,
)
from lamina.cache.remote.protocols import Entry, whole
from lamina.cache.remote.shared import SharedCache
from lamina.cache.remote.trust import MacKey, Trust
from lamina.cache.remote.upkeep import prune, verify

DAY = 86400.0


def file(path: bytes, data: bytes = b"x", mtime: int = 1, mode: int = 0o644) -> MountFile:
    return MountFile(path, "f", mode, mtime, len(data))


def folder(path: bytes) -> MountFile:
    return MountFile(path, "d", 0o755, 0)


def chunk(data: bytes) -> Chunk:
    return Chunk(hashlib.sha256(data).hexdigest(), len(data))


class World:
    def __init__(self) -> None:
        self.time = 1_000_000.0
        self.objects = MemoryObjects(lambda: self.time)

    def cache(self, trust: Trust | None = None) -> SharedCache:
        return SharedCache(self.objects, now=lambda: self.time, trust=trust)

    def put(self, data: bytes, *, merged: tuple[str, ...] = (), trust: Trust | None = None, identifier: str = "go") -> str:
        listing = MountListing((file(b"f" + data, data, int(self.time)),), (chunk(data),))
        with self.cache(trust) as cache:
            return publish(cache, identifier, listing, lambda wanted: [(chunk(data), data)] if wanted else [], merged).name


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize(
    "entry",
    [
        file(b"../x"),
        file(b"/etc/passwd"),
        file(b"a//b"),
        file(b"a/./b"),
        file(b""),
        file(b"a\0b"),
        file(b"a/" * 2049 + b"b"),
        file(b"n" * 256),
        file(b"a", mode=0o4755),
        MountFile(b"a", "f", 0o644, 1 << 63 - 1, 1),
        MountFile(b"a", "f", 0o644, 1, -1),
        MountFile(b"a", "d", 0o755, 0, 1),
        MountFile(b"a", "l", 0o777, 0, 0, b""),
        MountFile(b"a", "l", 0o777, 0, 0, b"x" * 5000),
        MountFile(b"a", "f", 0o644, 0, 1, b"target"),
    ],
    ids=lambda entry: f"{entry.kind}-{entry.path[:12]!r}-{entry.mode:o}-{entry.size}",
)
def test_entries_that_cannot_be(entry: MountFile) -> None:
    with pytest.raises(BadChunk, match="impossible entry"):
        load_listing(dump_listing(MountListing((entry,), (chunk(b"x"),))))


def test_listings_that_cannot_be() -> None:
    good = MountListing((folder(b"a"), file(b"a/b")), (chunk(b"x"),))
    assert load_listing(dump_listing(good)) == good
    for bad in (
        msgspec.structs.replace(good, format=2),
        msgspec.structs.replace(good, chunks=()),
        msgspec.structs.replace(good, files=(*good.files, MountFile(b"a/b", "f", 0o644, 1))),
        msgspec.structs.replace(good, chunks=(Chunk("../../x", 1),)),
    ):
        with pytest.raises(BadChunk):
            load_listing(dump_listing(bad))
    for stored in (b"", b"x", pack(b""), pack(b"\xc1"), pack(msgspec.msgpack.encode({"files": []}))):
        with pytest.raises(BadChunk):
            load_listing(stored)
    device = msgspec.msgpack.encode({"files": [[b"a", "c", 0o644, 1, 0, b""]], "chunks": [], "format": 1})
    with pytest.raises(BadChunk):
        load_listing(pack(device))


def test_union_takes_the_newest_of_every_path() -> None:
    old = MountListing((folder(b"d"), file(b"d/a", mtime=5), file(b"d/b", mtime=1)), ())
    new = MountListing((folder(b"d"), file(b"d/a", mtime=3), file(b"d/b", mtime=2), file(b"c", mtime=1)), ())
    chosen = merged([(1.0, old), (2.0, new)], "union")
    assert {path: which for path, (which, _) in chosen.items()} == {b"d": 1, b"d/a": 0, b"d/b": 1, b"c": 1}
    assert {path: which for path, (which, _) in merged([(1.0, old), (2.0, new)], "newest").items()} == dict.fromkeys(
        (b"d", b"d/a", b"d/b", b"c"), 1
    )
    assert merged([], "union") == {}


def test_what_lies_below_a_file_or_a_link_is_left_out() -> None:
    one = MountListing((folder(b"a"), file(b"a/b")), ())
    two = MountListing((MountFile(b"a", "l", 0o777, 0, 0, b"/etc"),), ())
    assert set(merged([(1.0, one), (2.0, two)], "union")) == {b"a"}
    assert set(merged([(2.0, one), (1.0, two)], "union")) == {b"a", b"a/b"}
    assert set(merged([(1.0, MountListing((two.files[0], file(b"a/passwd")), ()))], "union")) == {b"a"}


def test_the_state_is_of_what_is_there_not_of_the_order() -> None:
    assert state_of([file(b"a"), file(b"b")]) == state_of([file(b"b"), file(b"a")])
    assert state_of([file(b"a")]) != state_of([file(b"a", mode=0o600)])


def test_versions_lie_side_by_side_until_one_has_merged_them(world: World) -> None:
    one, two = world.put(b"1"), world.put(b"2")
    with world.cache() as cache:
        assert {offer.name for offer in versions(cache, "go").offers} == {one, two}
        assert versions(cache, "other").offers == ()
    world.time += 1
    both = world.put(b"12", merged=(one, two))
    with world.cache() as cache:
        (offer,) = versions(cache, "go").offers
        assert offer.name == both
        assert listing_of(cache, offer).files[0].path == b"f12"
        assert set(all_versions(cache)) == {"go"}


def test_a_version_of_another_scope_merges_none_of_ours(world: World) -> None:
    one = world.put(b"1")
    world.put(b"2", merged=(one,), trust=Trust("pr/7"))
    forged = unseal_mount(one, world.objects.get(one) or b"").statement
    forged = msgspec.structs.replace(forged, scope="pr/7", created=2.0, merged=(one,))
    name, data = seal_mount(forged, lambda _: ())
    world.objects.put(name, whole(data))
    with world.cache() as cache:
        answer = versions(cache, "go")
    assert [offer.name for offer in answer.offers] == [one]
    assert answer.refused == ("a build of scope main does not believe the scope pr/7",)
    world.time += 2 * DAY
    prune(world.objects, world.time)
    assert world.objects.exists([one])


def test_signatures_are_asked_for(world: World) -> None:
    world.put(b"1")
    signed = world.put(b"2", trust=Trust("main", signer=MacKey("ci", b"0123456789abcdef")))
    with world.cache(Trust("main", signer=MacKey("ci", b"0123456789abcdef"))) as cache:
        answer = versions(cache, "go")
        assert [offer.name for offer in answer.offers] == [signed]
        assert answer.refused == ("it is not signed",)
    with world.cache(Trust("main", signer=MacKey("ci", b"another secret 1"))) as cache:
        assert versions(cache, "go").offers == ()


def test_altered_and_copied_versions_are_refused(world: World) -> None:
    name = world.put(b"1")
    data = world.objects.get(name) or b""
    for where, what in (
        (name, data + b" "),
        (name.replace("/main/", "/pr+7/"), data),
        ("mounts/" + "0" * 32 + name[len("mounts/") + 32 :], data),
    ):
        with pytest.raises(BadEnvelope):
            unseal_mount(where, what)
    newer = data.replace(b'"format":1', b'"format":2', 1)
    with pytest.raises(BadEnvelope, match="format 2"):
        unseal_mount(name.rpartition("/")[0] + "/" + hashlib.sha256(newer).hexdigest(), newer)


def test_a_version_that_is_published_during_the_look_is_no_damage(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks and lists come first, the version last: whoever looks at versions first sees all that they need."""
    listed = world.objects.list

    def busy(prefix: str) -> Iterator[Entry]:
        found = list(listed(prefix))
        if prefix == "chunks/":
            monkeypatch.undo()
            world.put(b"late")
        return iter(found)

    monkeypatch.setattr(world.objects, "list", busy)
    assert verify(world.objects) == []
    assert list(world.objects.list("mounts/")), "it is there now"


def test_upkeep(world: World) -> None:
    one = world.put(b"1")
    two = world.put(b"2", identifier="npm")
    found = usage(Inventory(world.objects))
    assert (found.mounts, found.chunks, found.orphans, found.records) == (2, 2, 0, 0)
    assert verify(world.objects, bytes_too=True) == []
    world.time += 100
    three = world.put(b"11", merged=(one,))
    assert not prune(world.objects, world.time).removals, "the later version may still be in the grace period"
    world.time += 2 * 3600
    (removal, *_) = [one for one in prune(world.objects, world.time).removals if one.name.startswith("mounts/")]
    assert (removal.name, removal.why) == (one, "a later version has its files")
    assert world.objects.exists([one, two, three, chunk(b"1").name, chunk(b"2").name, chunk(b"11").name]) == {
        two,
        three,
        chunk(b"2").name,
        chunk(b"11").name,
    }
    with world.cache() as cache:
        (offer,) = versions(cache, "go").offers
    world.time += 6 * DAY
    with world.cache() as cache:
        listing_of(cache, offer)
    world.time += 5 * DAY
    prune(world.objects, world.time)
    assert world.objects.exists([two, three, chunk(b"11").name]) == {three, chunk(b"11").name}, "what was pulled counts as used"
    assert verify(world.objects, bytes_too=True) == []
    world.objects.delete([chunk(b"11").name])
    world.objects.put(chunk(b"11").name, whole(pack(b"other")))
    assert {problem.name for problem in verify(world.objects, bytes_too=True)} == {chunk(b"11").name}
    verify(world.objects, bytes_too=True, repair=True)
    verify(world.objects, repair=True)
    assert not list(world.objects.list("mounts/"))
