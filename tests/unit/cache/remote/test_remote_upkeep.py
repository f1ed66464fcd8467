from __future__ import annotations

import pytest

from lamina.cache.remote.envelope import BlobRef, Statement, seal
from lamina.cache.remote.inventory import Inventory, usage
from lamina.cache.remote.memory import MemoryObjects
from lamina.cache.remote.mounts import MountStatement, seal_mount
from lamina.cache.remote.names import blob_name
from lamina.cache.remote.protocols import ObjectStore, whole
from lamina.cache.remote.shared import Publication, SharedCache
from lamina.cache.remote.trust import Trust
from lamina.cache.remote.upkeep import prune, verify
from lamina.oci.digest import Digest, sha256
from lamina.store.memory import MemoryBlobs
from lamina.testing.conformance.recordcache import key, record

DAY = 86400.0


class World:
    """A backend with a clock."""

    def __init__(self) -> None:
        self.time = 1_000_000.0
        self.objects = MemoryObjects(lambda: self.time)
        self.local = MemoryBlobs()

    def cache(self, project: str = "") -> SharedCache:
        return SharedCache(self.objects, now=lambda: self.time, trust=Trust("main"), project=project)

    def publish(self, number: int, *blobs: bytes, seconds: float = 1.5, project: str = "") -> None:
        import msgspec

        refs = []
        for data in blobs:
            self.local.keep(sha256(data), data)
            refs.append(BlobRef(sha256(data), len(data)))
        one = msgspec.structs.replace(record(number, position=number, text=f"RUN {number}"), seconds=seconds)
        self.cache(project).publish([Publication(one, tuple(refs))], self.local)

    def use(self, number: int) -> None:
        with self.cache() as cache:
            (offer,) = cache.lookup([key(number)])[key(number)].offers
            cache.mark_used(offer)

    def keys(self) -> set[str]:
        return {listed.key for listed in Inventory(self.objects).records}


@pytest.fixture
def world() -> World:
    return World()


def test_expiry_counts_from_the_last_use(world: World) -> None:
    for number in (1, 2, 3):
        world.publish(number, b"blob %d" % number)
    world.time += 5 * DAY
    world.use(2)
    world.time += 4 * DAY
    world.publish(4)
    pruned = prune(world.objects, world.time)
    assert world.keys() == {key(2), key(4)}
    assert {one.what: one.why for one in pruned.removals if one.name.startswith("records/")} == {
        "RUN 1": "not used for 9 days",
        "RUN 3": "not used for 9 days",
    }
    assert world.objects.exists([blob_name(sha256(b"blob %d" % number)) for number in (1, 2, 3)]) == {blob_name(sha256(b"blob 2"))}
    assert verify(world.objects, bytes_too=True) == []


def test_explaining_removes_nothing(world: World) -> None:
    world.publish(1, b"x")
    world.time += 9 * DAY
    before = set(world.objects._objects)
    pruned = prune(world.objects, world.time, dry_run=True)
    assert pruned.removals
    assert pruned.freed > 0
    assert set(world.objects._objects) == before


def test_the_cap_holds_including_metadata(world: World) -> None:
    for number in range(10):
        world.publish(number, bytes([number]) * 10_000, seconds=float(number + 1))
    world.time += 2 * 3600
    cap = 60_000
    pruned = prune(world.objects, world.time, cap=cap)
    total = usage(Inventory(world.objects)).total
    assert total <= cap
    assert pruned.left == total
    assert world.keys() == {key(number) for number in range(10 - len(world.keys()), 10)}, "what was quickest to make went first"


def test_recent_use_outweighs(world: World) -> None:
    for number in (1, 2):
        world.publish(number, bytes([number]) * 1000, seconds=10.0)
    world.time += 3 * DAY
    world.use(1)
    world.time += DAY
    prune(world.objects, world.time, cap=usage(Inventory(world.objects)).total - 1)
    assert world.keys() == {key(1)}


def test_shared_blobs_go_with_the_last_record(world: World) -> None:
    world.publish(1, b"shared", b"own 1")
    world.publish(2, b"shared", b"own 2")
    world.time += 5 * DAY
    world.use(1)
    world.time += 5 * DAY
    prune(world.objects, world.time)
    assert world.keys() == {key(1)}
    assert world.objects.exists([blob_name(sha256(data)) for data in (b"shared", b"own 1", b"own 2")]) == {
        blob_name(sha256(b"shared")),
        blob_name(sha256(b"own 1")),
    }


def test_what_is_young_or_just_used_stays(world: World) -> None:
    world.publish(1, b"x" * 1000)
    world.objects.put(blob_name(sha256(b"on its way")), whole(b"on its way"))
    pruned = prune(world.objects, world.time + 60, expiry=0, cap=0)
    assert pruned.removals == ()
    assert pruned.spared == 1
    assert prune(world.objects, world.time + 60, expiry=7 * DAY, cap=10**9).spared == 0, "no limit wants it"
    assert prune(world.objects, world.time + 60, expiry=None, cap=0).spared == 1
    world.time += DAY
    world.use(1)
    assert [one.what for one in prune(world.objects, world.time + 60, expiry=0, cap=0).removals] == [sha256(b"on its way")]


class Busy(MemoryObjects):
    """A build says that it uses something while pruning decides."""

    def __init__(self, world: World, number: int) -> None:
        super().__init__(lambda: world.time)
        self._objects = world.objects._objects
        self._world, self._number = world, number
        self.decided = False

    def list(self, prefix: str):  # type: ignore[no-untyped-def]  # an iterator of Entry, as above
        found = list(super().list(prefix))
        if prefix == "places/" and not self.decided:
            self.decided = True
            self._world.use(self._number)
        return iter(found)


def test_what_is_used_meanwhile_stays(world: World) -> None:
    for number in (1, 2):
        world.publish(number, b"x%d" % number)
    world.time += 9 * DAY
    busy: ObjectStore = Busy(world, 1)
    prune(busy, world.time)
    assert world.keys() == {key(1)}
    assert verify(world.objects) == []


def test_projects(world: World) -> None:
    world.publish(1, b"common" * 100, b"a" * 1000, project="a")
    world.publish(2, b"common" * 100, b"b" * 2000, project="b")
    found = usage(Inventory(world.objects))
    assert [(one.project, one.records, one.shared) for one in found.projects] == [("a", 1, 600), ("b", 1, 600)]
    assert found.projects[1].own - found.projects[0].own == 1000
    assert found.total == found.record_bytes + found.blob_bytes + found.other_bytes
    assert found.orphans == 0
    world.time += DAY
    prune(world.objects, world.time, expiry=3600, project="b")
    assert world.keys() == {key(1)}
    assert world.objects.exists([blob_name(sha256(b"common" * 100)), blob_name(sha256(b"b" * 2000))]) == {
        blob_name(sha256(b"common" * 100))
    }


def test_verify_finds_and_repairs(world: World) -> None:
    for number in range(4):
        world.publish(number, b"blob %d" % number)
    names = {listed.key: listed.name for listed in Inventory(world.objects).records}
    world.objects.delete([blob_name(sha256(b"blob 1"))])
    world.objects._objects[blob_name(sha256(b"blob 2"))] = (b"evil", 1.0)
    world.objects._objects[names[key(3)]] = (b"evil", 1.0)
    assert {problem.damage for problem in verify(world.objects)} == {"blob-gone", "altered"}
    found = verify(world.objects, bytes_too=True, repair=True)
    assert sorted(problem.damage for problem in found) == ["altered", "blob-altered", "blob-gone"]
    again = verify(world.objects, bytes_too=True, repair=True)
    assert [problem.damage for problem in again] == ["blob-gone"], "the record whose blob was altered"
    assert verify(world.objects, bytes_too=True) == []
    assert world.keys() == {key(0)}


def test_the_facade(world: World) -> None:
    world.publish(1, b"x", project="app")
    cache = world.cache()
    assert [(one.step, one.project) for one in cache.ls("app")] == [("RUN 1", "app")]
    assert cache.ls("other") == []
    assert cache.du().records == 1
    assert cache.verify() == []
    assert cache.lookup([key(1)])[key(1)].offers
    world.time += 9 * DAY
    assert cache.prune(dry_run=True).removals
    cache.prune()
    assert not cache.lookup([key(1)])[key(1)].offers, "what was remembered went too"


def test_a_clock_that_is_ahead_keeps_nothing_for_ever(world: World) -> None:
    world.publish(1)
    (listed,) = Inventory(world.objects).records
    world.objects.put(f"uses/9999999999-{1:016x}", whole(f"{listed.name}\n".encode()))
    world.time += 9 * DAY
    prune(world.objects, world.time)
    assert world.keys() == set()


def planted_record(world: World, digest: str) -> str:
    """A record that needs a blob with this digest; the name that it lies under."""
    statement = Statement(record(9), "main", (BlobRef(Digest(digest), 1),))
    name, data = seal(statement, lambda _: ())
    world.objects.put(name, whole(data))
    return name


def test_a_record_that_needs_what_cannot_be_does_not_end_the_look_at_the_others(world: World) -> None:
    """One such record, by anybody who may write: prune, ls, du and verify failed for everybody until it was found and removed by hand."""
    world.publish(1, b"blob")
    name = planted_record(world, "sha256:../../../etc/passwd")
    assert world.keys() == {key(1)}
    assert [(problem.name, problem.damage) for problem in verify(world.objects, repair=True)] == [(name, "unreadable")]
    assert verify(world.objects) == []


def test_a_mount_that_needs_what_cannot_be_does_not_end_the_look_at_the_others(world: World) -> None:
    world.publish(1, b"blob")
    statement = MountStatement("id", "main", Digest("sha256:short"), 0.0, 0, 0, "")
    name, data = seal_mount(statement, lambda _: ())
    world.objects.put(name, whole(data))
    assert world.keys() == {key(1)}
    assert [(problem.name, problem.damage) for problem in verify(world.objects)] == [(name, "unreadable")]
