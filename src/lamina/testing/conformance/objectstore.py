"""What every ObjectStore below a shared cache must do. Derive a test class and give it two fixtures:

class TestMine(ObjectStoreSuite):
    @pytest.fixture
    def objects(self) -> Iterator[ObjectStore]: ...      # empty
    @pytest.fixture
    def other(self, objects) -> Iterator[ObjectStore]: ...   # another client of the same place
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator

from lamina.cache.remote.chunks import pack
from lamina.cache.remote.errors import CacheError, ObjectGone
from lamina.cache.remote.names import key_prefix
from lamina.cache.remote.protocols import Body, ObjectStore, whole
from lamina.testing.conformance.recordcache import key

_DATA = b"a layer, say" * 100_000  # more than one piece


def blob(data: bytes) -> str:
    """The name that these bytes have as a blob."""
    return f"blobs/sha256/{hashlib.sha256(data).hexdigest()}"


def doc(number: int, data: bytes, scope: str = "main") -> str:
    """The name of a record with these bytes under key `number`."""
    return f"{key_prefix(key(number))}{scope}/{hashlib.sha256(data).hexdigest()}"


def chunk(data: bytes) -> str:
    """The name that these plain bytes have as a chunk."""
    return f"chunks/zstd/{hashlib.sha256(data).hexdigest()}"


def version(number: int, data: bytes, scope: str = "main") -> str:
    """The name of a version of cache mount `number` with these bytes."""
    return f"mounts/{number:032x}/{scope}/{hashlib.sha256(data).hexdigest()}"


def _pieces(data: bytes) -> Callable[[], Iterator[bytes]]:
    return lambda: (data[start : start + 65536] for start in range(0, len(data), 65536))


class ObjectStoreSuite:
    """Run by pytest; needs nothing but the fixtures."""

    def test_empty(self, objects: ObjectStore) -> None:
        name = blob(b"nowhere")
        assert objects.get(name) is None
        assert objects.exists([name]) == set()
        assert objects.exists([]) == set()
        assert objects.stat([name]) == {}
        assert list(objects.list("")) == []
        assert list(objects.list("records/")) == []
        assert objects.gather([key_prefix(key(1))]) == {}
        objects.delete([name])
        try:
            list(objects.stream(name))
        except ObjectGone:
            return
        raise AssertionError("an absent object must raise ObjectGone")

    def test_bytes_come_back_for_everybody(self, objects: ObjectStore, other: ObjectStore) -> None:
        name = blob(_DATA)
        assert objects.put(name, Body(len(_DATA), _pieces(_DATA)))
        for each in (objects, other):
            assert b"".join(each.stream(name)) == _DATA
            assert each.exists([name, blob(b"nowhere")]) == {name}
            assert each.get(name) == _DATA
            found = each.stat([name, blob(b"nowhere")])
            assert set(found) == {name}
            assert found[name].size == len(_DATA)

    def test_the_empty_object(self, objects: ObjectStore) -> None:
        assert objects.put(blob(b""), whole(b""))
        assert objects.get(blob(b"")) == b""
        assert list(objects.stream(blob(b""))) in ([], [b""])
        assert objects.exists([blob(b"")]) == {blob(b"")}

    def test_put_creates_only(self, objects: ObjectStore, other: ObjectStore) -> None:
        name = doc(1, b"one")
        assert objects.put(name, whole(b"one"))
        assert not objects.put(name, whole(b"one"))
        assert not other.put(name, whole(b"one"))
        assert other.get(name) == b"one"

    def test_a_broken_source_leaves_nothing(self, objects: ObjectStore, other: ObjectStore) -> None:
        def broken() -> Iterator[bytes]:
            yield _DATA[:70000]
            raise KeyError("the source broke")

        name = blob(_DATA)
        try:
            objects.put(name, Body(len(_DATA), broken))
        except KeyError:
            pass
        else:
            raise AssertionError("the source's error must come out")
        assert other.exists([name]) == set()
        assert objects.put(name, Body(len(_DATA), _pieces(_DATA)))

    def test_a_source_of_another_length_leaves_nothing(self, objects: ObjectStore, other: ObjectStore) -> None:
        name = doc(1, b"whole")
        try:
            objects.put(name, Body(5, lambda: (b"who",)))
        except CacheError:
            pass
        else:
            raise AssertionError("too few bytes must be an error")
        assert other.exists([name]) == set()

    def test_longer_than_the_limit(self, objects: ObjectStore) -> None:
        objects.put(blob(_DATA), whole(_DATA))
        try:
            objects.get(blob(_DATA), limit=1000)
        except CacheError:
            return
        raise AssertionError("an object over the limit must be an error")

    def test_gather_takes_what_is_below_and_nothing_else(self, objects: ObjectStore, other: ObjectStore) -> None:
        names = {}
        for number in (1, 2, 3):
            for scope in ("main", "pr+17"):
                data = b"%d %s" % (number, scope.encode())
                names[doc(number, data, scope)] = data
        for name, data in names.items():
            objects.put(name, whole(data))
        prefixes = [key_prefix(key(number)) for number in (1, 2, 9)]
        found = other.gather(prefixes)
        assert set(found) == set(prefixes[:2])
        for prefix in prefixes[:2]:
            assert found[prefix] == {name: data for name, data in names.items() if name.startswith(prefix)}

    def test_versions_of_cache_mounts_are_gathered_too(self, objects: ObjectStore, other: ObjectStore) -> None:
        for number, scope in ((1, "main"), (1, "pr+17"), (2, "main")):
            data = b"%d %s" % (number, scope.encode())
            assert objects.put(version(number, data, scope), whole(data))
        prefix = f"mounts/{1:032x}/"
        assert sorted(other.gather([prefix])[prefix].values()) == [b"1 main", b"1 pr+17"]
        objects.delete([version(1, b"1 main")])
        assert sorted(other.gather([prefix])[prefix].values()) == [b"1 pr+17"]

    def test_chunks_come_back(self, objects: ObjectStore, other: ObjectStore) -> None:
        for data in (b"small", _DATA):
            stored = pack(data)
            assert objects.put(chunk(data), whole(stored))
            assert not other.put(chunk(data), whole(stored)), "write-once"
            assert other.get(chunk(data)) == stored
        assert other.exists([chunk(b"small"), chunk(_DATA), chunk(b"nowhere")]) == {chunk(b"small"), chunk(_DATA)}

    def test_gather_many(self, objects: ObjectStore, other: ObjectStore) -> None:
        for number in range(20):
            data = b"%d" % number
            objects.put(doc(number, data), whole(data))
        found = other.gather([key_prefix(key(number)) for number in range(60)])
        assert {prefix: list(each.values()) for prefix, each in found.items()} == {
            key_prefix(key(number)): [b"%d" % number] for number in range(20)
        }

    def test_what_came_after_a_first_look_is_found(self, objects: ObjectStore, other: ObjectStore) -> None:
        prefix = key_prefix(key(1))
        assert objects.gather([prefix]) == {}
        objects.put(doc(1, b"own"), whole(b"own"))
        assert set(objects.gather([prefix])[prefix].values()) == {b"own"}
        other.put(doc(1, b"foreign"), whole(b"foreign"))
        assert other.exists([doc(1, b"own")])
        assert set(other.gather([prefix])[prefix].values()) >= {b"foreign"}

    def test_list(self, objects: ObjectStore, other: ObjectStore) -> None:
        names = [
            doc(1, b"a"),
            doc(1, b"b", "x"),
            doc(2, b"c"),
            blob(b"d"),
            f"uses/0000001000-{7:016x}",
            f"places/{5:032x}/0000001000-{1:064x}",
            chunk(b"f"),
            version(1, b"g"),
            version(1, b"h", "x"),
            version(2, b"i"),
        ]
        bodies = [b"a", b"b", b"c", b"d", b"e", b"", pack(b"f"), b"g", b"h", b"i"]
        for name, data in zip(names, bodies):
            objects.put(name, whole(data))
        assert {entry.name for entry in other.list("")} == set(names)
        assert {entry.name for entry in other.list("records/")} == set(names[:3])
        assert {entry.name for entry in other.list(key_prefix(key(1)))} == set(names[:2])
        assert {entry.name for entry in other.list(key_prefix(key(1)) + "x/")} == {names[1]}
        assert {entry.name for entry in other.list("blobs/")} == {names[3]}
        assert {entry.name for entry in other.list("uses/")} == {names[4]}
        assert {entry.name for entry in other.list(f"places/{5:032x}/")} == {names[5]}
        assert other.get(names[5]) == b""
        assert {entry.name for entry in other.list("chunks/zstd/")} == {names[6]}
        assert {entry.name for entry in other.list("mounts/")} == set(names[7:10])
        assert {entry.name for entry in other.list(f"mounts/{1:032x}/")} == set(names[7:9])
        assert {entry.name for entry in other.list(f"mounts/{1:032x}/x/")} == {names[8]}
        sizes = {entry.name: entry.size for entry in other.list("") if entry.size is not None}
        assert all(size >= len(data) for name, data in zip(names, bodies) if (size := sizes.get(name)) is not None)

    def test_delete(self, objects: ObjectStore, other: ObjectStore) -> None:
        name, stays = doc(1, b"one"), doc(1, b"two")
        for each, data in ((name, b"one"), (stays, b"two")):
            objects.put(each, whole(data))
        objects.delete([name, doc(5, b"nowhere")])
        objects.delete([name])
        assert other.get(name) is None
        assert other.exists([name, stays]) == {stays}
        assert objects.put(name, whole(b"one"))
        assert other.get(name) == b"one"

    def test_deleting_one_of_two_names_with_equal_bytes(self, objects: ObjectStore) -> None:
        one, two = doc(1, b"same"), doc(2, b"same")
        objects.put(one, whole(b"same"))
        objects.put(two, whole(b"same"))
        objects.delete([one])
        assert objects.get(two) == b"same"
        assert objects.get(one) is None

    def test_names_that_are_none(self, objects: ObjectStore) -> None:
        for name in ("", "x", "blobs/sha256/..", "../etc/passwd", "records/x/main/y", blob(b"x").upper(), blob(b"x") + "/..", "tmp/x"):
            for ask in (lambda: objects.get(name), lambda: objects.put(name, whole(b"")), lambda: objects.delete([name])):  # noqa: B023  # called at once
                try:
                    ask()
                except CacheError:
                    continue
                raise AssertionError(f"{name!r} must be refused")

    def test_many_writers_lose_nothing(self, objects: ObjectStore, other: ObjectStore) -> None:
        created: list[str] = []
        failures: list[BaseException] = []

        def work(number: int) -> None:
            store = (objects, other)[number % 2]
            try:
                if store.put(blob(_DATA), whole(_DATA)):
                    created.append("shared")
                for round_ in range(3):
                    data = b"%d %d" % (number, round_)
                    assert store.put(doc(round_, data, f"s{number % 3}"), whole(data))
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures, failures
        assert created, "somebody was the first"
        found = objects.gather([key_prefix(key(round_)) for round_ in range(3)])
        assert sorted(data for each in found.values() for data in each.values()) == sorted(
            b"%d %d" % (number, round_) for number in range(8) for round_ in range(3)
        )
        assert objects.get(blob(_DATA)) == _DATA
