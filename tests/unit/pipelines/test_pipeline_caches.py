"""Caches of steps: versions side by side, their merge, and Bitbucket's single slot."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lamina.diagnostics.span import Source, Span
from lamina.pipelines.caches.keeping import Identity, identify
from lamina.pipelines.caches.slots import SlotCaches
from lamina.pipelines.caches.versions import Entry, Version, VersionedCaches, merged
from lamina.pipelines.model import Cache, Text

SPAN = Span(Source("f", ""), 1)
NODE = Identity("node", "node_modules")
DAY = 86400.0


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def caches(tmp_path: Path, clock: Clock) -> VersionedCaches:
    return VersionedCaches(tmp_path / "caches", clock)


def put(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    folder.mkdir(exist_ok=True)
    return folder


def tree(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def save(caches: VersionedCaches, folder: Path, step: str, identity: Identity = NODE) -> list[str]:
    said: list[str] = []
    caches.restore(identity, folder, step, lambda line: None).save(folder, said.append)
    return said


def restored(caches: VersionedCaches, folder: Path, identity: Identity = NODE) -> tuple[dict[str, str], list[str]]:
    said: list[str] = []
    folder.mkdir()
    caches.restore(identity, folder, "reader", said.append)
    return tree(folder), said


def test_what_was_saved_comes_back_with_modes_times_and_links(caches: VersionedCaches, tmp_path: Path) -> None:
    source = put(tmp_path / "a", {"x/y": "1", "run": "2"})
    (source / "run").chmod(0o755)
    (source / "link").symlink_to("x/y")
    os.utime(source / "run", (5, 5))
    save(caches, source, "one")
    files, said = restored(caches, tmp_path / "b")
    assert files == {"x/y": "1", "run": "2", "link": "1"}
    status = (tmp_path / "b" / "run").stat()
    assert (status.st_mode & 0o777, status.st_mtime) == (0o755, 5)
    assert os.readlink(tmp_path / "b" / "link") == "x/y"
    assert said[-1] == 'Cache "node": hit: 3 files, saved by "one" just now'


def test_siblings_are_merged_and_the_next_save_makes_them_one(caches: VersionedCaches, tmp_path: Path, clock: Clock) -> None:
    one, two = put(tmp_path / "1", {}), put(tmp_path / "2", {})
    held = [caches.restore(NODE, folder, step, lambda line: None) for folder, step in ((one, "one"), (two, "two"))]
    put(one, {"a": "1", "both": "old"})
    put(two, {"b": "2", "both": "new"})
    held[0].save(one, lambda line: None)
    clock.now += 60
    held[1].save(two, lambda line: None)
    files, said = restored(caches, tmp_path / "3")
    assert files == {"a": "1", "b": "2", "both": "new"}
    assert said[-1] == 'Cache "node": hit: 3 files, saved by "two" just now, merged with what "one" saved beside it'
    assert len(caches.rows()) == 2
    save(caches, tmp_path / "3", "three")
    assert [(row.step, row.files, row.head) for row in caches.rows()] == [("three", 3, True)]


def test_nothing_is_saved_when_nothing_changed(caches: VersionedCaches, tmp_path: Path) -> None:
    save(caches, put(tmp_path / "a", {"x": "1"}), "one")
    (tmp_path / "b").mkdir()
    assert save(caches, tmp_path / "b", "two") == ['Cache "node: node_modules": not saved: nothing in it changed']


def test_a_change_with_the_same_size_and_time_is_seen(caches: VersionedCaches, tmp_path: Path) -> None:
    save(caches, put(tmp_path / "a", {"x": "1111"}), "one")
    (tmp_path / "b").mkdir()
    held = caches.restore(NODE, tmp_path / "b", "two", lambda line: None)
    before = (tmp_path / "b" / "x").stat()
    (tmp_path / "b" / "x").write_text("2222")
    os.utime(tmp_path / "b" / "x", ns=(before.st_atime_ns, before.st_mtime_ns))
    held.save(tmp_path / "b", lambda line: None)
    assert restored(caches, tmp_path / "c")[0] == {"x": "2222"}


def test_what_a_step_removed_is_gone(caches: VersionedCaches, tmp_path: Path) -> None:
    save(caches, put(tmp_path / "a", {"x": "1", "y": "2"}), "one")
    (tmp_path / "b").mkdir()
    held = caches.restore(NODE, tmp_path / "b", "two", lambda line: None)
    (tmp_path / "b" / "x").unlink()
    held.save(tmp_path / "b", lambda line: None)
    assert restored(caches, tmp_path / "c")[0] == {"y": "2"}


def test_an_empty_folder_gives_no_cache(caches: VersionedCaches, tmp_path: Path) -> None:
    assert save(caches, put(tmp_path / "a", {}), "one") == ['Cache "node: node_modules": Skipping upload for empty cache']
    assert caches.rows() == []


def test_what_is_used_stays_and_what_is_not_expires(caches: VersionedCaches, tmp_path: Path, clock: Clock) -> None:
    save(caches, put(tmp_path / "a", {"x": "1"}), "one")
    clock.now += 6 * DAY
    assert restored(caches, tmp_path / "b")[0] == {"x": "1"}
    clock.now += 6 * DAY
    assert restored(caches, tmp_path / "c")[0] == {"x": "1"}
    clock.now += 8 * DAY
    files, said = restored(caches, tmp_path / "d")
    assert files == {}
    assert said[-1] == 'Cache "node": miss: it was not used for 7 days and has expired'
    assert caches.collect() == 1
    assert caches.rows() == []


def test_a_key_is_its_files_and_the_miss_names_them(caches: VersionedCaches, tmp_path: Path) -> None:
    cache = Cache("node", SPAN, "node_modules", (Text("**/lock", SPAN), Text("gone", SPAN)))
    clone = put(tmp_path / "clone", {"lock": "1", "p/lock": "1"})
    first = identify(cache, clone)
    assert set(first.key_files) == {"lock", "p/lock", "gone"}
    save(caches, put(tmp_path / "a", {"x": "1"}), "one", first)
    put(clone, {"p/lock": "2", "q/lock": "3"})
    second = identify(cache, clone)
    assert second.key != first.key
    said = restored(caches, tmp_path / "b", second)[1]
    assert said[-1] == 'Cache "node": miss: its key is new because p/lock changed, q/lock is new'
    assert restored(caches, tmp_path / "c", first)[0] == {"x": "1"}


def test_removing_frees_only_what_nobody_else_has(caches: VersionedCaches, tmp_path: Path) -> None:
    save(caches, put(tmp_path / "a", {"x": "same"}), "one")
    save(caches, put(tmp_path / "b", {"y": "same", "z": "own"}), "two", Identity("pip", "~/.cache/pip"))
    assert caches.remove(["pip"]) == 1
    assert restored(caches, tmp_path / "c")[0] == {"x": "same"}
    assert len(list((tmp_path / "caches" / "objects").glob("*/*"))) == 1


def test_a_lost_content_is_said_and_the_rest_comes(caches: VersionedCaches, tmp_path: Path) -> None:
    save(caches, put(tmp_path / "a", {"x": "1", "y": "2"}), "one")
    lost = next(path for path in (tmp_path / "caches" / "objects").glob("*/*") if path.read_text() == "1")
    lost.unlink()
    files, said = restored(caches, tmp_path / "b")
    assert files == {"y": "2"}
    assert said[-1].endswith("1 of them are lost and left out")


def test_a_version_written_by_somebody_else_cannot_leave_the_folder(caches: VersionedCaches, tmp_path: Path) -> None:
    held = put(tmp_path / "a", {"x": "1"})
    save(caches, held, "one")
    digest = next((tmp_path / "caches" / "objects").glob("*/*")).name
    entries = (Entry("../out", 0o644, 1, 0, 0, 0, digest),)
    caches.publish(NODE, Version("node", "n", "", {}, 2_000_000.0, "bad", (), 1, entries))
    (tmp_path / "b").mkdir()
    with pytest.raises(Exception, match="does not stay below"):
        caches.restore(NODE, tmp_path / "b", "reader", lambda line: None)
    assert not (tmp_path / "out").exists()


def test_many_savers_at_once_lose_nothing(caches: VersionedCaches, tmp_path: Path) -> None:
    folders = [put(tmp_path / f"s{number}", {}) for number in range(8)]
    held = [caches.restore(NODE, folder, folder.name, lambda line: None) for folder in folders]
    for folder in folders:
        put(folder, {folder.name: folder.name, "shared": "x"})
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda pair: pair[0].save(pair[1], lambda line: None), zip(held, folders)))
    assert set(restored(caches, tmp_path / "all")[0]) == {"shared", *(folder.name for folder in folders)}


def test_a_newer_folder_wins_over_an_older_file() -> None:
    def version(created: float, *paths: str) -> Version:
        return Version("n", "p", "", {}, created, "s", (), 0, tuple(Entry(path, 0o644, 0, 0, 0, 0, "d") for path in paths))

    assert [entry.path for entry in merged([version(2, "a/b"), version(1, "a", "c")])] == ["a/b", "c"]
    assert [entry.path for entry in merged([version(2, "a"), version(1, "a/b", "c")])] == ["a", "c"]


# Bitbucket's own


def slot_save(slots: SlotCaches, folder: Path, existed: bool = False) -> list[str]:
    said: list[str] = []
    held = slots.restore(NODE, folder, "s", lambda line: None)
    held.save(folder, said.append)
    return said


def test_the_first_save_wins_and_the_second_fails(tmp_path: Path, clock: Clock) -> None:
    slots = SlotCaches(tmp_path / "slots", clock)
    folders = [put(tmp_path / name, {}) for name in ("a", "b")]
    held = [slots.restore(NODE, folder, "s", lambda line: None) for folder in folders]
    for folder in folders:
        put(folder, {folder.name: "x"})
    said: list[list[str]] = [[], []]
    for one, folder, lines in zip(held, folders, said):
        one.save(folder, lines.append)
    assert said[0][-1].startswith('Cache "node: node_modules": Uploaded ')
    assert 'Cache "node: node_modules": Upload failed' in said[1]
    (tmp_path / "c").mkdir()
    assert slot_save(slots, tmp_path / "c") == [
        "You already have a 'node' cache so we won't create it again",
        'Cache "node": Skipping upload for existing cache',
    ]
    assert tree(tmp_path / "c") == {"a": "x"}


def test_a_slot_expires_a_week_after_it_was_made_used_or_not(tmp_path: Path, clock: Clock) -> None:
    slots = SlotCaches(tmp_path / "slots", clock)
    slot_save(slots, put(tmp_path / "a", {"x": "1"}))
    for days, there in ((6, True), (2, False)):
        clock.now += days * DAY
        (tmp_path / f"r{days}").mkdir()
        slots.restore(NODE, tmp_path / f"r{days}", "s", lambda line: None)
        assert bool(tree(tmp_path / f"r{days}")) is there


def test_what_is_too_large_is_not_saved(tmp_path: Path, clock: Clock) -> None:
    slots = SlotCaches(tmp_path / "slots", clock, largest=10)
    assert "is more than" in slot_save(slots, put(tmp_path / "a", {"x": "1"}))[-1]
    assert slots.rows() == []
