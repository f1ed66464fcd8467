from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from lamina.cache.remote.adapters import RemoteBlobs, RemoteRecords
from lamina.cache.remote.directory import DirectoryObjects
from lamina.cache.remote.errors import CacheDenied, CacheError, CacheFull
from lamina.cache.remote.memory import MemoryObjects
from lamina.cache.remote.names import key_prefix
from lamina.cache.remote.protocols import ObjectStore, whole
from lamina.cache.remote.shared import Publication, SharedCache
from lamina.store.memory import MemoryBlobs
from lamina.store.removal import remove
from lamina.testing.conformance.blobstore import BlobStoreSuite
from lamina.testing.conformance.objectstore import ObjectStoreSuite, blob, doc
from lamina.testing.conformance.recordcache import RecordCacheSuite, key, record


class TestMemoryObjects(ObjectStoreSuite):
    @pytest.fixture
    def objects(self) -> ObjectStore:
        return MemoryObjects()

    @pytest.fixture
    def other(self, objects: ObjectStore) -> ObjectStore:
        return objects


class TestDirectoryObjects(ObjectStoreSuite):
    @pytest.fixture
    def objects(self, tmp_path: Path) -> ObjectStore:
        return DirectoryObjects(tmp_path / "cache")

    @pytest.fixture
    def other(self, tmp_path: Path, objects: ObjectStore) -> ObjectStore:
        return DirectoryObjects(tmp_path / "cache")


class TestDirectoryBlobs(BlobStoreSuite):
    @pytest.fixture
    def blobs(self, tmp_path: Path) -> RemoteBlobs:
        return RemoteBlobs(DirectoryObjects(tmp_path / "cache"))


class TestDirectoryRecords(RecordCacheSuite):
    @pytest.fixture
    def records(self, tmp_path: Path) -> RemoteRecords:
        return RemoteRecords(SharedCache(DirectoryObjects(tmp_path / "cache"), now=lambda: 5000.0))


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    objects = DirectoryObjects(tmp_path)
    assert objects.put(blob(b"x"), whole(b"x"))
    assert not objects.put(blob(b"x"), whole(b"x"))
    assert objects.get(blob(b"x")) == b"x"
    assert os.listdir(tmp_path / "tmp") == []


def test_a_link_whose_answer_was_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.link

    def lost(*args: object, **kwargs: object) -> None:
        real(*args, **kwargs)  # type: ignore[arg-type]  # passed through
        raise FileExistsError

    monkeypatch.setattr(os, "link", lost)
    objects = DirectoryObjects(tmp_path)
    assert objects.put(blob(b"x"), whole(b"x")), "it was ours after all"
    assert objects.get(blob(b"x")) == b"x"


def test_links_of_others_lead_nowhere(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    root = tmp_path / "cache"
    objects = DirectoryObjects(root)
    objects.put(blob(b"x"), whole(b"x"))
    name = doc(1, b"y")
    folder = root / Path(name).parent.parent
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.symlink_to(outside)
    with pytest.raises(CacheError):
        objects.put(name, whole(b"y"))
    planted = root / blob(b"z")
    planted.symlink_to(outside / "secret")
    with pytest.raises(CacheError):
        objects.get(blob(b"z"))
    assert objects.exists([blob(b"z")]) == set()
    assert [entry.name for entry in objects.list("")] == [blob(b"x")]
    assert sorted(os.listdir(outside)) == ["secret"]


def test_a_pipe_in_the_way_does_not_hang(tmp_path: Path) -> None:
    objects = DirectoryObjects(tmp_path)
    objects.put(blob(b"x"), whole(b"x"))
    os.mkfifo(tmp_path / blob(b"y"))
    with pytest.raises(CacheError):
        objects.get(blob(b"y"))


def test_a_folder_of_another_format_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "format").write_text("lamina shared cache 9\n")
    with pytest.raises(CacheError, match="something else"):
        DirectoryObjects(tmp_path).put(blob(b"x"), whole(b"x"))
    assert sorted(os.listdir(tmp_path)) == ["format"]


def test_a_format_that_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    """A pipe of that name let every writer hang, a link to an endless device filled its memory."""
    os.mkfifo(tmp_path / "format")
    reader = os.open(tmp_path / "format", os.O_RDWR)  # so that opening it to read would succeed
    try:
        with pytest.raises(CacheError):
            DirectoryObjects(tmp_path).put(blob(b"x"), whole(b"x"))
    finally:
        os.close(reader)
    (tmp_path / "format").unlink()
    (tmp_path / "format").symlink_to("/proc/self/mountinfo")
    with pytest.raises(CacheError, match="a link"):
        DirectoryObjects(tmp_path).put(blob(b"x"), whole(b"x"))


def test_folders_of_others_are_not_read(tmp_path: Path) -> None:
    """Folders in folders by the thousand ended a prune with a RecursionError."""
    objects = DirectoryObjects(tmp_path)
    objects.put(blob(b"x"), whole(b"x"))
    here = os.open(tmp_path / "blobs", os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("deep", dir_fd=here)
        below = os.open("deep", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    try:
        assert [entry.name for entry in objects.list("")] == [blob(b"x")]
    finally:
        remove(tmp_path / "blobs")


def test_a_record_in_a_scope_that_cannot_be_is_foreign(tmp_path: Path) -> None:
    """It was listed, and then its name could not be taken apart: prune, ls, du and verify failed for everybody."""
    cache = SharedCache(DirectoryObjects(tmp_path), now=lambda: 1.0)
    cache.publish([Publication(record(1))], MemoryBlobs())
    folder = tmp_path / key_prefix(key(1))
    (folder / "=zz").mkdir()
    (folder / "=zz" / f"{1:064x}").write_bytes(b"x")
    assert [listed.key for listed in cache.ls()] == [key(1)]
    assert cache.verify() == []


def test_leftovers_of_killed_writers_are_swept(tmp_path: Path) -> None:
    objects = DirectoryObjects(tmp_path)
    objects.put(blob(b"x"), whole(b"x"))
    left = tmp_path / "tmp" / "1-abc"
    left.write_bytes(b"half")
    assert objects.sweep(time.time() - 3600) == 0
    os.utime(left, (1, 1))
    assert objects.sweep(time.time() - 3600) == 1
    assert os.listdir(tmp_path / "tmp") == []
    assert objects.get(blob(b"x")) == b"x"


@pytest.mark.parametrize(("number", "kind"), [(28, CacheFull), (122, CacheFull), (13, CacheDenied), (30, CacheDenied)])
def test_errors_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[CacheError]) -> None:
    objects = DirectoryObjects(tmp_path)
    objects.put(blob(b"x"), whole(b"x"))

    def full(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(kind):
            objects.put(blob(b"y"), whole(b"y"))
    assert os.listdir(tmp_path / "tmp") == []
    assert objects.exists([blob(b"y")]) == set()


def test_pruning_of_empty_folders_does_not_hurt_writers(tmp_path: Path) -> None:
    objects, pruner = DirectoryObjects(tmp_path), DirectoryObjects(tmp_path)
    stop = threading.Event()
    extra = doc(1, b"extra")

    def prune() -> None:
        while not stop.is_set():
            pruner.put(extra, whole(b"extra"))
            pruner.delete([extra])

    thread = threading.Thread(target=prune)
    thread.start()
    try:
        for number in range(100):
            data = b"%d" % number
            assert objects.put(doc(1, data), whole(data))
            assert objects.get(doc(1, data)) == data
            objects.delete([doc(1, data)])
    finally:
        stop.set()
        thread.join()


def test_a_planted_record_does_not_spoil_the_others(tmp_path: Path) -> None:
    cache = SharedCache(DirectoryObjects(tmp_path), now=lambda: 1.0)
    cache.publish([Publication(record(1))], MemoryBlobs())
    folder = tmp_path / key_prefix(key(1)) / "main"
    (folder / f"{1:064x}").symlink_to("/etc/passwd")
    (folder / f"{2:064x}").write_bytes(b"x" * (5 << 20))
    (folder / "foreign").write_bytes(b"x")
    answer = cache.lookup([key(1)], again=True)[key(1)]
    assert [offer.record for offer in answer.offers] == [record(1)]
    assert [refusal.code for refusal in answer.refusals] == ["damaged"]
    assert [problem.name.rpartition("/")[2] for problem in cache.verify()] == [f"{2:064x}"]
