"""Path caches between workers: each worker has a root of its own, all share one place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lamina.cache.remote.directory import DirectoryObjects
from lamina.cache.remote.errors import CacheUnavailable
from lamina.cache.remote.shared import SharedCache
from lamina.cache.remote.trust import Trust
from lamina.pipelines.caches.keeping import Held, Identity
from lamina.pipelines.remote.travelling import TravellingCaches

DEPS = Identity("deps", "vendor")


class Worker:
    def __init__(self, tmp_path: Path, name: str, now: float = 1000.0) -> None:
        self.tmp = tmp_path / name
        self.now = now
        self.said: list[str] = []
        objects = DirectoryObjects(tmp_path / "shared")
        self.cache = SharedCache(objects, now=lambda: self.now, trust=Trust("main"))
        self.caches = TravellingCaches(self.cache, self.tmp / "caches", "project", lambda: self.now)
        self.count = 0

    def restore(self, identity: Identity = DEPS, step: str = "step") -> tuple[Held, Path]:
        self.count += 1
        folder = self.tmp / f"folder{self.count}"
        folder.mkdir(parents=True)
        self.said.clear()
        return self.caches.restore(identity, folder, step, self.said.append), folder

    def save(self, held: Held, folder: Path) -> None:
        held.save(folder, self.said.append)

    def fill(self, files: dict[str, str], identity: Identity = DEPS, step: str = "step") -> None:
        held, folder = self.restore(identity, step)
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        self.save(held, folder)


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_what_one_worker_saves_another_one_finds(tmp_path: Path) -> None:
    one, two = Worker(tmp_path, "one"), Worker(tmp_path, "two")
    one.fill({"a/b": "1", "c": "2"}, step="Build")
    assert any("handed over to" in line for line in one.said)
    held, folder = two.restore()
    assert files(folder) == {"a/b": "1", "c": "2"}
    assert any(line.startswith('Cache "deps": hit: 2 files, saved by "Build"') for line in two.said)
    two.save(held, folder)
    assert two.said[-1].endswith("not saved: nothing in it changed")


def test_two_workers_that_save_at_once_overwrite_nothing(tmp_path: Path) -> None:
    one, two, three = (Worker(tmp_path, name) for name in ("one", "two", "three"))
    one.fill({"base": "0"})
    first, second = one.restore(), two.restore()
    (first[1] / "of-one").write_text("1")
    (second[1] / "of-two").write_text("2")
    one.save(*first)
    two.save(*second)
    held, folder = three.restore()
    assert files(folder) == {"base": "0", "of-one": "1", "of-two": "2"}
    assert any("merged with what" in line for line in three.said)
    (folder / "of-three").write_text("3")
    (folder / "base").unlink()
    three.save(held, folder)
    for worker in (one, two, Worker(tmp_path, "four")):
        assert files(worker.restore()[1]) == {"of-one": "1", "of-two": "2", "of-three": "3"}


def test_what_is_of_no_use_any_more_does_not_travel(tmp_path: Path) -> None:
    one = Worker(tmp_path, "one")
    for text in ("first", "second", "third"):
        one.fill({"f": text * 1000})
        one.now += 1
    late = Worker(tmp_path, "late")
    late.restore()
    assert len([path for path in (late.tmp / "caches").rglob("objects/*/*") if path.is_file()]) == 1


def test_a_miss_of_a_new_key_names_the_file_that_changed(tmp_path: Path) -> None:
    one, two = Worker(tmp_path, "one"), Worker(tmp_path, "two")
    before = Identity("deps", "vendor", "1" * 64, {"go.sum": "x", "other": "y"})
    after = Identity("deps", "vendor", "2" * 64, {"go.sum": "z", "other": "y"})
    one.fill({"a": "1"}, before)
    two.fill({"b": "1"}, after)
    assert 'Cache "deps": miss: its key is new because go.sum changed' in two.said
    assert files(two.restore(before)[1]) == {"a": "1"}
    assert files(one.restore(after)[1]) == {"b": "1"}


def test_a_place_that_does_not_answer_is_said_and_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Worker(tmp_path, "one")

    def away(*words: object) -> None:
        raise CacheUnavailable("nobody there")

    with monkeypatch.context() as patched:
        patched.setattr(one.cache.objects, "gather", away)
        one.fill({"a": "1"})
    assert any("was not asked: nobody there" in line for line in one.said)
    assert any("kept by this worker only: nobody there" in line for line in one.said)
    held, folder = one.restore()
    assert files(folder) == {"a": "1"}
    one.save(held, folder)  # unchanged, but nobody else has it yet
    assert files(Worker(tmp_path, "two").restore()[1]) == {"a": "1"}


def test_what_a_worker_has_not_used_for_a_week_goes_from_it(tmp_path: Path) -> None:
    one = Worker(tmp_path, "one")
    one.fill({"a": "1"})
    place = next((one.tmp / "caches").iterdir())
    used = os.stat(place / "turn").st_mtime
    one.now = used + 86400
    one.caches.collect()
    assert place.exists()
    one.now = used + 8 * 86400
    one.caches.collect()
    assert not place.exists()
    assert files(one.restore()[1]) == {"a": "1"}
