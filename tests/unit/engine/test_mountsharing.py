"""Cache mounts on their way between machines: what is read, what is written, and where nothing is ever written."""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from lamina.cache.remote import mounts as mounts_module
from lamina.cache.remote.chunks import Chunk, pack
from lamina.cache.remote.errors import BadCacheSpec, CacheError, CacheUnavailable
from lamina.cache.remote.memory import MemoryObjects
from lamina.cache.remote.mountcache import publish, versions
from lamina.cache.remote.mounts import MountFile, MountListing
from lamina.cache.remote.protocols import whole
from lamina.cache.remote.shared import SharedCache
from lamina.engine.mountfiles import FilesChanged, cuts, listing, opened, place, scan, wanted_chunks
from lamina.engine.mountsharing import MountRule, MountSharing, parse_rule, pull, pull_all, push, push_locked, rule_for, shareable

UNION = MountRule()


class World:
    def __init__(self, folder: Path) -> None:
        self.time = 2_000_000_000.0
        self.objects = MemoryObjects(lambda: self.time)
        self.folder = folder
        self.said: list[str] = []

    def cache(self) -> SharedCache:
        return SharedCache(self.objects, now=lambda: self.time)

    def machine(self, name: str, files: dict[str, str] | None = None) -> Path:
        data = self.folder / name / "data"
        data.mkdir(parents=True)
        (data.parent / "lock").touch()
        for path, text in (files or {}).items():
            (data / path).parent.mkdir(parents=True, exist_ok=True)
            (data / path).write_text(text)
        return data

    def push(self, data: Path, *, alone: bool = False) -> bool:
        with self.cache() as cache:
            return push(cache, "m", data, alone=alone) is not None

    def pull(self, data: Path, rule: MountRule = UNION) -> int:
        with self.cache() as cache:
            return pull(cache, "m", data, rule, self.said.append).files

    def heads(self) -> int:
        with self.cache() as cache:
            return len(versions(cache, "m").offers)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def texts(data: Path) -> dict[str, str]:
    return {str(path.relative_to(data)): path.read_text() for path in data.rglob("*") if path.is_file() and not path.is_symlink()}


def test_there_and_back_with_what_is_kept(world: World) -> None:
    one = world.machine("one", {"a": "1", "sub/b": "2" * 3_000_000, "sub/empty": ""})
    (one / "sub/link").symlink_to("../a")
    (one / "dangling").symlink_to("/no/where")
    os.mkfifo(one / "pipe")
    (one / "a").chmod(0o4751)
    (one / "sub").chmod(0o2711)
    os.utime(one / "a", ns=(0, 1_234_567_890_123_456_789))
    assert world.push(one)
    two = world.machine("two")
    assert world.pull(two) == 3
    assert texts(two) == texts(one)
    assert os.readlink(two / "sub/link") == "../a"
    assert os.readlink(two / "dangling") == "/no/where"
    assert not (two / "pipe").exists()
    assert stat.S_IMODE((two / "a").stat().st_mode) == 0o751
    assert stat.S_IMODE((two / "sub").stat().st_mode) == 0o711
    assert (two / "a").stat().st_mtime_ns == 1_234_567_890_123_456_789
    assert not world.push(two), "the same files are no new version"
    assert world.pull(two) == 0


def test_names_that_are_no_text(world: World) -> None:
    one = world.machine("one")
    name = os.path.join(os.fsencode(one), b"\xff\n\xfe")
    with open(name, "w") as file:
        file.write("x")
    world.push(one)
    two = world.machine("two")
    world.pull(two)
    assert os.listdir(os.fsencode(two)) == [b"\xff\n\xfe"]


def test_nothing_local_is_removed_and_the_newest_of_a_path_stays(world: World) -> None:
    one, two = world.machine("one", {"same": "old", "other": "from one"}), world.machine("two", {"same": "new", "own": "mine"})
    os.utime(one / "same", (1, 1))
    world.push(one)
    world.pull(two)
    assert texts(two) == {"same": "new", "own": "mine", "other": "from one"}
    world.push(two)
    assert world.heads() == 1, "it has merged the other"
    world.pull(one)
    assert texts(one) == texts(two)


def test_a_file_that_a_later_build_removed_stays_removed(world: World) -> None:
    one = world.machine("one", {"a": "1", "b": "2"})
    world.push(one)
    (one / "a").unlink()
    world.push(one)
    two = world.machine("two")
    world.pull(two)
    assert texts(two) == {"b": "2"}


def test_writers_that_do_not_know_each_other_lose_nothing(world: World) -> None:
    for number in range(4):
        world.push(world.machine(f"w{number}", {f"f{number}": str(number)}))
    assert world.heads() == 4
    data = world.machine("reader")
    world.pull(data)
    assert texts(data) == {f"f{number}": str(number) for number in range(4)}
    (data / "more").write_text("x")
    world.push(data)
    assert world.heads() == 1


def test_newest_is_a_whole_version_and_leaves_what_is_newer_here(world: World) -> None:
    newest = MountRule("", "newest")
    world.push(world.machine("one", {"a": "1"}))
    world.time += 10
    world.push(world.machine("two", {"b": "2"}))
    data = world.machine("three")
    world.pull(data, newest)
    assert texts(data) == {"b": "2"}
    own = world.machine("four", {"own": "x"})
    os.utime(own / "own", (world.time + 5, world.time + 5))
    assert world.pull(own, newest) == 0


def test_a_mount_that_was_emptied_gets_its_files_again(world: World) -> None:
    data = world.machine("one", {"a": "1"})
    world.push(data)
    (data / "a").unlink()
    assert world.pull(data) == 1


def test_only_new_files_move(world: World) -> None:
    one = world.machine("one", {f"f{number:03d}": str(number) * 5000 for number in range(200)})
    for number, path in enumerate(sorted(one.iterdir())):
        os.utime(path, (number, number))
    with world.cache() as cache:
        first = push(cache, "m", one)
    (one / "new").write_text("new" * 5000)
    with world.cache() as cache:
        second = push(cache, "m", one)
    assert first is not None
    assert second is not None
    before = {entry.name for entry in world.objects.list("chunks/")}
    assert len(before) > 8
    listed = list(world.objects.list("mounts/"))
    assert len(listed) == 2
    with opened(one) as root:
        files = scan(root)
        new = listing(root, files)
        old = listing(root, [file for file in files if file.path != b"new"])
    fresh = set(new.chunks) - set(old.chunks)
    assert len(fresh) <= 2


def test_an_empty_mount_is_no_version(world: World) -> None:
    assert not world.push(world.machine("one"))
    (world.machine("two") / "folder").mkdir()
    assert not list(world.objects.list("mounts/"))


@pytest.mark.parametrize("trap", ["link", "file", "pipe", "linked file"])
def test_what_is_in_the_way_is_neither_followed_nor_replaced(world: World, tmp_path: Path, trap: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("precious")
    world.push(world.machine("one", {"sub/file": "evil"}))
    data = world.machine("two")
    if trap == "link":
        (data / "sub").symlink_to(outside)
    elif trap == "file":
        (data / "sub").write_text("own")
    elif trap == "pipe":
        os.mkfifo(data / "sub")
    else:
        (data / "sub").mkdir()
        (data / "sub/file").symlink_to(outside / "file")
    world.pull(data)
    assert (outside / "file").read_text() == "precious"
    assert sorted(os.listdir(outside)) == ["file"]


def test_a_version_whose_own_link_leads_outside_writes_nothing_there(world: World, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    data = world.machine("two")
    with opened(data) as root:
        assert place(root, MountFile(b"a", "l", 0o777, 0, 0, os.fsencode(outside)), (), (0, 0))
        assert not place(root, MountFile(b"a/file", "f", 0o644, 1, 1), (b"x",), (0, 0))
        assert not place(root, MountFile(b"a/folder", "d", 0o755, 0), (), (0, 0))
    assert os.listdir(outside) == []


def test_the_listing_of_a_link_is_the_link(world: World, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    one = world.machine("one", {"a": "1"})
    (one / "s").symlink_to(tmp_path / "secret")
    (one / "d").symlink_to(tmp_path)
    world.push(one)
    assert all(data != b"secret" for data, _ in world.objects._objects.values())
    with opened(one) as root:
        assert {file.path: file.kind for file in scan(root)} == {b"a": "f", b"s": "l", b"d": "l"}


def test_a_file_that_changes_while_it_is_read(world: World) -> None:
    one = world.machine("one", {"a": "1" * 1000, "b": "2"})
    with opened(one) as root:
        files = scan(root)
        listed = listing(root, files)
        (one / "a").write_text("3" * 1000)
        with pytest.raises(FilesChanged):
            list(wanted_chunks(root, listed, {chunk.digest for chunk in listed.chunks}))
        (one / "b").unlink()
        assert [file.path for file in scan(root)] == [b"a"]


def test_bytes_of_a_listing_are_those_of_its_files() -> None:
    files = [MountFile(b"%d" % number, "f", 0o644, number, number * 40_000) for number in range(60)]
    parts = [part for group in cuts(files) for part in group]
    assert sum(length for _, _, length in parts) == sum(file.size for file in files)
    assert all(sum(length for _, _, length in group) <= 2 << 20 for group in cuts(files))


def test_a_damaged_chunk_costs_its_files_only(world: World) -> None:
    one = world.machine("one", {"a": "1", "big": "2" * (3 << 20)})
    world.push(one)
    victim = max(world.objects.list("chunks/"), key=lambda entry: entry.modified or 0).name
    world.objects.delete([victim])
    world.objects.put(victim, whole(pack(b"other")))
    two = world.machine("two")
    world.pull(two)
    assert any("gone or damaged" in text for text in world.said)
    assert all(text in ("1", "2" * (3 << 20)) for text in texts(two).values())


def test_a_listing_that_lies_brings_nothing(world: World) -> None:
    data = b"x"
    evil = MountListing((MountFile(b"../../escaped", "f", 0o755, 1, 1),), (Chunk(hashlib.sha256(data).hexdigest(), 1),))
    with world.cache() as cache:
        publish(cache, "m", evil, lambda wanted: [(evil.chunks[0], data)] if wanted else [], ())
    two = world.machine("two")
    assert world.pull(two) == 0
    assert any("impossible entry" in text for text in world.said)
    assert not list(world.folder.rglob("escaped"))


def test_a_mount_that_somebody_has_alone_is_not_handed_over(world: World) -> None:
    one = world.machine("one", {"a": "1"})
    handle = os.open(one.parent / "lock", os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with world.cache() as cache:
            assert push_locked(cache, "m", one, world.said.append) is None
    finally:
        os.close(handle)
    assert world.said == ["cache mount m is in use and is not handed over"]


def test_too_many_files_are_said_and_left(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts_module, "DOCUMENT", 100)
    one = world.machine("one", {f"f{number}": "1" for number in range(50)})
    with world.cache() as cache:
        assert push_locked(cache, "m", one, world.said.append) is None
    assert "not handed over: the list of 50 files" in world.said[0]
    assert not list(world.objects.list(""))


class Broken(MemoryObjects):
    def gather(self, prefixes: object) -> dict[str, dict[str, bytes]]:
        raise CacheUnavailable("away")


def test_a_cache_that_is_away_is_lost_once(world: World) -> None:
    lost: list[CacheError] = []
    cache = SharedCache(Broken(), now=lambda: 0.0)
    mounts = MountSharing([UNION], lambda: (cache,), lambda: (), lambda _, error: lost.append(error), lambda text, code: None)
    data = world.machine("one", {"a": "1"})
    mounts.arrive("m", data, False)
    mounts.arrive("m", data, False)
    assert len(lost) == 1


def test_a_forced_step_keeps_its_empty_mount_and_its_version_takes_over(world: World) -> None:
    world.push(world.machine("one", {"bad": "1"}))
    data = world.machine("two")
    cache = world.cache()
    mounts = MountSharing([UNION], lambda: (cache,), lambda: (cache,), lambda _, error: None, lambda text, code: None)
    mounts.arrive("m", data, True)
    assert texts(data) == {}
    (data / "good").write_text("2")
    mounts.finish()
    three = world.machine("three")
    world.pull(three)
    assert texts(three) == {"good": "2"}


def test_rules() -> None:
    assert parse_rule("all") == MountRule()
    assert parse_rule("id=go,merge=newest") == MountRule("go", "newest")
    assert parse_rule("merge=union") == MountRule("", "union")
    for text in ("id", "id=", "x=1", "id=a,id=b", "merge=latest"):
        with pytest.raises(BadCacheSpec):
            parse_rule(text)
    rules = [MountRule("go", "newest"), MountRule()]
    assert rule_for("go", rules) == rules[0]
    assert rule_for("go mode=755 owner=0:0", rules) == rules[0]
    assert rule_for("npm", rules) == rules[1]
    assert rule_for("npm", rules[:1]) is None
    assert shareable("go mode=755 owner=0:0")
    assert not shareable("go from=diff:abc")
    assert not shareable("g\udcff")


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def test_the_notes_beside_a_mount_may_be_anything(world: World) -> None:
    data = world.machine("one", {"a": "1"})
    world.push(world.machine("two", {"b": "2"}))
    for junk in (b"", b"\xff", b"[]", msgspec.json.encode({"places": {"memory": ["x"]}})):
        (data.parent / "shared").write_bytes(junk)
        (data / "b").unlink(missing_ok=True)
        assert world.pull(data) == 1


def test_owners_that_nothing_can_have_are_not_asked_for(world: World) -> None:
    """One such id in a cache ended the pull of all mounts with a traceback."""
    source = world.machine("source", {"a": "1"})
    many = "9" * 5000
    with world.cache() as cache:
        for owner in ("1000660000:7", "9999999999:0", f"{many}:0"):
            push(cache, f"m mode=750 owner={owner}", source)
    asked: dict[str, tuple[int, int, int]] = {}

    @contextmanager
    def hold(identifier: str, mode: int, uid: int, gid: int) -> Iterator[Path]:
        asked[identifier[:30]] = mode, uid, gid
        yield world.machine(f"target{len(asked)}")

    with world.cache() as cache:
        assert {moved.files for moved in pull_all(cache, hold, [UNION], world.said.append).values()} == {1}
    assert asked == {
        "m mode=750 owner=1000660000:7": (0o750, 1000660000, 7),
        "m mode=750 owner=9999999999:0": (0o755, 0, 0),
        f"m mode=750 owner={many}"[:30]: (0o755, 0, 0),
    }
