from __future__ import annotations

import hashlib
import io
import random
import tarfile
import threading
from collections.abc import Callable, Iterable, Iterator

import msgspec
import pytest

from lamina.cache.remote import chunked
from lamina.cache.remote.chunks import LARGEST, BadChunk, Chunk, Recipe, dump, join, load_recipe, pack, plain_chunk, unpack
from lamina.cache.remote.envelope import BlobRef
from lamina.cache.remote.errors import ObjectGone
from lamina.cache.remote.inventory import Inventory, usage
from lamina.cache.remote.memory import MemoryObjects
from lamina.cache.remote.names import blob_name, chunk_name, known
from lamina.cache.remote.protocols import whole
from lamina.cache.remote.shared import Publication, SharedCache
from lamina.cache.remote.upkeep import prune, verify
from lamina.oci.digest import Digest, LayerId, sha256
from lamina.store.memory import MemoryBlobs
from lamina.testing.conformance.recordcache import key, record

cutting = pytest.importorskip("lamina.cache.remote.cutting")
needs_cutter = pytest.mark.skipif(not cutting.available(), reason="the extra `chunks` is not installed")
DAY = 86400.0
KNOWN = [666955, 530388, 656994, 561926, 731028, 559334, 597606, 764090, 1062815, 741860, 565884, 381580, 568148]


def chunk(data: bytes) -> Chunk:
    return Chunk(hashlib.sha256(data).hexdigest(), len(data))


def tar(files: Iterable[tuple[str, bytes]], mtime: float = 1.0) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), mtime
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def pieces(data: bytes, size: int = 100_003) -> Callable[[], Iterator[bytes]]:
    return lambda: (data[start : start + size] for start in range(0, len(data), size))


def files(count: int, seed: int = 1, size: int = 60_000) -> list[tuple[str, bytes]]:
    source = random.Random(seed)
    return [(f"usr/lib/file{number}", source.randbytes(source.randrange(size))) for number in range(count)]


def by_hand(data: bytes, runs: tuple[int, ...], *cuts: tuple[bytes, ...]) -> Recipe:
    return Recipe(sha256(data), len(data), "by hand", (tuple(map(chunk, cuts[0])), tuple(map(chunk, cuts[1]))), runs)


def test_strands_are_woven() -> None:
    recipe = by_hand(b"AAbbbCCd", (2, 3, 2, 1), (b"AAC", b"C"), (b"bb", b"bd"))
    held = {chunk(part).digest: part for part in (b"AAC", b"C", b"bb", b"bd")}
    assert b"".join(join(load_recipe(dump(recipe)), lambda one: held[one.digest])) == b"AAbbbCCd"


def test_a_chunk_that_comes_often_is_fetched_once() -> None:
    recipe = by_hand(b"z" * 40, (0, 40), (), (b"z",) * 40)
    asked: list[str] = []
    lock = threading.Lock()

    def fetch(one: Chunk) -> bytes:
        with lock:
            asked.append(one.digest)
        return b"z"

    assert b"".join(join(recipe, fetch)) == b"z" * 40
    assert len(asked) == 1


def test_an_error_of_one_chunk_comes_out() -> None:
    def fetch(one: Chunk) -> bytes:
        raise ObjectGone("gone")

    with pytest.raises(ObjectGone):
        list(join(by_hand(b"ab", (1, 1), (b"a",), (b"b",)), fetch))
    with pytest.raises(BadChunk, match="promised"):
        list(join(by_hand(b"ab", (1, 1), (b"a",), (b"b",)), lambda one: b"longer"))


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"size": 7},
        {"runs": (2, 3, 2)},
        {"runs": (2, -3, 2, 7)},
        {"strands": ((Chunk("..", 8),), ())},
        {"strands": ((Chunk("a" * 64, LARGEST + 1),), ())},
        {"strands": ((Chunk("a" * 64, 0),), ())},
    ],
    ids=["format", "size", "runs", "negative", "name", "large", "empty"],
)
def test_recipes_that_cannot_be(change: dict[str, object]) -> None:
    recipe = by_hand(b"AAbbbCCd", (2, 3, 2, 1), (b"AAC", b"C"), (b"bb", b"bd"))
    with pytest.raises(BadChunk):
        load_recipe(dump(msgspec.structs.replace(recipe, **change)))


def test_stored_bytes_that_cannot_be() -> None:
    for stored in (b"", b"not zstd", pack(b"x" * 1000)[:-3], pack(b"x") + b"more", pack(b"x") + pack(b"y")):
        with pytest.raises(BadChunk):
            unpack(stored, 1 << 20)
    with pytest.raises(BadChunk, match="more than 1000 bytes"):
        unpack(pack(bytes(100 << 20)), 1000)
    with pytest.raises(BadChunk, match="other bytes"):
        plain_chunk(chunk_name("a" * 64), pack(b"x"))
    assert plain_chunk(chunk(b"x").name, pack(b"x")) == b"x"
    for document in (b"", b"{}", b"[1", b'{"digest":1}'):
        with pytest.raises(BadChunk):
            load_recipe(pack(document))


def test_names() -> None:
    assert known(chunk(b"x").name)
    assert not known("chunks/gzip/" + "a" * 64)
    assert not known("chunks/zstd/" + "A" * 64)


@needs_cutter
@pytest.mark.parametrize("size", [511, 512, 100_003, 1 << 22])
def test_any_bytes_come_together_again(size: int) -> None:
    for data in (
        b"",
        b"x",
        random.Random(3).randbytes(3 << 20),
        tar(files(60)),
        tar(files(3, size=4000)) + b"trailing" * 999,
        bytes(5 << 20),
    ):
        recipe = cutting.cut(pieces(data, size)())
        assert recipe.digest == sha256(data)
        held = {one.digest: part for one, part in cutting.chunks_of(recipe, pieces(data, size * 3)(), {c.digest for c in recipe.chunks()})}
        assert {hashlib.sha256(part).hexdigest() for part in held.values()} == set(held)
        assert b"".join(join(load_recipe(dump(recipe)), lambda one, held=held: held[one.digest])) == data  # type: ignore[misc]  # bound at once


@needs_cutter
def test_where_the_cuts_are_does_not_depend_on_the_pieces() -> None:
    data = tar(files(100))
    assert cutting.cut(pieces(data, 4096)()) == cutting.cut(pieces(data, 1 << 20)())


@needs_cutter
def test_known_cuts() -> None:
    """A release of the library that cuts elsewhere would share nothing with what lies in caches."""
    recipe = cutting.cut(pieces(random.Random(11).randbytes(8 << 20))())
    assert [one.size for one in recipe.strands[1]] == KNOWN


@needs_cutter
def test_new_times_and_a_changed_file_leave_most_chunks_alone() -> None:
    old = files(200)
    new = [*old[:100], ("usr/lib/changed", random.Random(9).randbytes(50_000)), *old[101:]]
    before, after = cutting.cut(pieces(tar(old, 1.0))()), cutting.cut(pieces(tar(new, 1234567.5))())
    fresh = set(after.chunks()) - set(before.chunks())
    assert sum(one.size for one in fresh) < 0.3 * after.size


class World:
    """A backend with a clock, and layers on a machine."""

    def __init__(self) -> None:
        self.time = 1_000_000.0
        self.objects = MemoryObjects(lambda: self.time)

    def cache(self) -> SharedCache:
        return SharedCache(self.objects, now=lambda: self.time)

    def send(self, data: bytes, *, saving: bool) -> chunked.Sent | None:
        recipe = cutting.cut(pieces(data)())
        with self.cache() as cache:
            return chunked.send(cache, recipe, chunked.streamed(pieces(data), recipe), saving=saving)

    def publish(self, number: int, data: bytes) -> BlobRef:
        sent = self.send(data, saving=False)
        assert sent is not None
        ref = BlobRef(sha256(data), len(data), "layer", LayerId(f"diff:{number:064x}"), "", sent.recipe)
        with self.cache() as cache:
            cache.publish([Publication(record(number, position=number), (ref,))], MemoryBlobs())
        return ref


@pytest.fixture
def world() -> World:
    return World()


@needs_cutter
def test_there_and_back(world: World) -> None:
    data = tar(files(100))
    ref = world.publish(1, data)
    assert not world.objects.exists([blob_name(ref.digest)]), "the blob itself does not lie there"
    local = MemoryBlobs()
    with world.cache() as cache:
        (offer,) = cache.lookup([key(1)])[key(1)].offers
        assert offer.blobs == (ref,)
        done = cache.fetch_blobs(offer.blobs, local)
    assert done.fetched == {ref.digest}
    with local.open(ref.digest) as file:
        assert file.read() == data
    assert 0 < done.bytes <= usage(Inventory(world.objects)).total


@needs_cutter
def test_what_the_machine_has_does_not_move(world: World) -> None:
    data = tar(files(100))
    ref = world.publish(1, data)
    recipe = cutting.cut(pieces(data)())
    held = {one.digest: part for one, part in cutting.chunks_of(recipe, pieces(data)(), {one.digest for one in recipe.chunks()})}
    world.objects.delete([one.name for one in recipe.chunks()])
    with world.cache() as cache:
        done = cache.fetch_blobs([ref], MemoryBlobs(), have=lambda _: lambda one: held[one.digest])
    assert done.fetched == {ref.digest}
    assert done.bytes < 10_000, "the recipe alone"


@needs_cutter
def test_chunks_only_where_they_save(world: World) -> None:
    one, other = tar(files(400)), tar(files(400, seed=2))
    assert world.send(one, saving=True) is None
    assert not list(world.objects.list("chunks/")), "nothing was sent to find out"
    first = world.send(one, saving=False)
    assert first is not None
    assert first.chunks == first.of
    assert world.send(other, saving=True) is None
    second = world.send(tar([*files(400), ("new", b"x" * 9000)], 2.0), saving=True)
    assert second is not None
    assert second.chunks < second.of
    assert second.bytes < 0.3 * first.bytes


@needs_cutter
def test_bytes_that_change_meanwhile_make_no_recipe(world: World) -> None:
    data = tar(files(100))
    recipe = cutting.cut(pieces(data)())
    with world.cache() as cache, pytest.raises(BadChunk, match="changed while"):
        chunked.send(cache, recipe, chunked.streamed(pieces(data[:200_000] + b"!" + data[200_001:]), recipe), saving=False)
    assert not list(world.objects.list("blobs/"))


@needs_cutter
@pytest.mark.parametrize("damage", ["altered", "gone", "recipe altered", "recipe gone", "recipe of another"])
def test_damage_is_a_blob_that_is_gone_and_is_mended_by_sending_again(world: World, damage: str) -> None:
    data, other = tar(files(60)), tar(files(60, seed=5))
    ref = world.publish(1, data)
    assert ref.recipe is not None
    victim = cutting.cut(pieces(data)()).chunks()[0].name
    if damage.startswith("recipe"):
        victim = blob_name(ref.recipe)
    if damage == "recipe of another":
        sent = world.send(other, saving=False)
        assert sent is not None
        ref = msgspec.structs.replace(ref, recipe=sent.recipe)
    else:
        world.objects.delete([victim])
        if damage.endswith("altered"):
            world.objects.put(victim, whole(pack(b"other bytes")))
    local = MemoryBlobs()
    with world.cache() as cache:
        done = cache.fetch_blobs([ref], local)
        assert done.gone == {ref.digest}
        assert local.missing([ref.digest]) == {ref.digest}, "nothing half-made is kept"
        if damage == "recipe of another":
            return
        problems = {problem.damage for problem in verify(world.objects, bytes_too=True)}
        assert problems == ({"blob-altered"} if damage.endswith("altered") else {"blob-gone"})
        recipe = cutting.cut(pieces(data)())
        chunked.send(cache, recipe, chunked.streamed(pieces(data), recipe), saving=False)
        assert cache.fetch_blobs([ref], local).fetched == {ref.digest}
    assert verify(world.objects, bytes_too=True) == []


@needs_cutter
def test_pruning_keeps_the_chunks_of_what_stays(world: World) -> None:
    old, new = tar(files(100)), tar(files(99), 2.0)
    world.publish(1, old)
    world.time += 5 * DAY
    ref = world.publish(2, new)
    world.time += 4 * DAY
    pruned = prune(world.objects, world.time)
    assert {listed.key for listed in Inventory(world.objects).records} == {key(2)}
    assert any(one.name.startswith("chunks/") for one in pruned.removals), "those that only the old one had"
    with world.cache() as cache:
        assert cache.fetch_blobs([ref], MemoryBlobs()).fetched == {ref.digest}
        cache.mark_used(cache.lookup([key(2)])[key(2)].offers[0])
    assert verify(world.objects, bytes_too=True) == []
    world.time += 6 * DAY
    assert not any(one.name.startswith(("chunks/", "records/")) for one in prune(world.objects, world.time).removals), "used meanwhile"
    world.time += 8 * DAY
    prune(world.objects, world.time)
    assert [entry.name for entry in world.objects.list("") if not entry.name.startswith("uses/")] == []


@needs_cutter
def test_chunks_that_a_writer_relies_on_stay(world: World) -> None:
    """It has found the chunks of an expired record and has not put its own record yet."""
    world.publish(1, tar(files(100)))
    world.time += 9 * DAY
    assert world.send(tar(files(100), 2.0), saving=True) is not None
    prune(world.objects, world.time)
    kept = {entry.name for entry in world.objects.list("chunks/")}
    assert {one.name for one in cutting.cut(pieces(tar(files(100), 2.0))()).chunks()} <= kept


@needs_cutter
def test_usage_counts_chunks(world: World) -> None:
    world.publish(1, tar(files(50)))
    found = usage(Inventory(world.objects))
    assert found.chunks > 1
    assert found.orphans == 0
    assert found.total == found.record_bytes + found.blob_bytes + found.chunk_bytes + found.other_bytes + found.mount_bytes
    world.send(tar(files(50, seed=4)), saving=False)
    assert usage(Inventory(world.objects)).orphans > 0


def test_old_records_have_the_bytes_they_had() -> None:
    """A blob without a recipe is written as before there were recipes."""
    assert b"recipe" not in msgspec.json.encode(BlobRef(Digest("sha256:" + "a" * 64), 1))
