"""A disk that is full and one that cannot be written: real ones, mounted in a mount namespace of a forked child."""

from __future__ import annotations

import ctypes
import os
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from lamina.cache.index import LocalRecords
from lamina.diagnostics.errors import LaminaError
from lamina.layer.flavour import Flavour
from lamina.oci.digest import LayerId, sha256
from lamina.store.check import check
from lamina.store.errors import DiskFull, StoreReadOnly
from lamina.store.gc import prune
from lamina.store.layers import LayerFacts
from lamina.store.local import LocalStore
from lamina.store.policy import PrunePolicy
from lamina.testing.conformance.recordcache import record

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")]

_NEWNS, _RDONLY, _REMOUNT, _BIND, _PRIVATE = 0x20000, 1, 32, 4096, 1 << 18 | 1 << 14


def mount(source: str, target: Path, kind: str, flags: int, data: str = "") -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source.encode(), os.fsencode(target), kind.encode(), flags, data.encode()) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))


def apart(act: Callable[[], None]) -> None:
    """Run in a forked child with mounts of its own."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.unshare(_NEWNS) != 0:
                raise OSError(ctypes.get_errno(), "unshare")
            mount("none", Path("/"), "", _PRIVATE)
            act()
            code = 0
        except BaseException:
            traceback.print_exc(file=sys.stderr)
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def open_(root: Path) -> LocalStore:
    return LocalStore.open(root, Flavour("trusted"), now=lambda: 1000.0)


def layer(number: int) -> LayerId:
    return LayerId(f"diff:{number:064x}")


def refused(act: Callable[[], object]) -> LaminaError | None:
    try:
        act()
    except LaminaError as error:
        return error
    return None


def test_a_full_disk_is_one_clear_error_and_leaves_a_sound_store(tmp_path: Path) -> None:
    def act() -> None:
        mount("tmpfs", tmp_path, "tmpfs", 0, "size=2m")
        root = tmp_path / "store"
        with open_(root) as store:
            small = store.blobs.put(b"before")
            for size in (4_000_000, 1_000_000, 500_000):
                error = refused(partial(store.blobs.put, os.urandom(size)))
                assert error is None or isinstance(error, DiskFull), error
                assert error is None or (error.hint is not None and "prune" in error.hint)
            errors = []
            records = LocalRecords(store.database, store.now)
            for number in range(400):  # until not even a row has room
                active = refused(partial(_layer, store, number))
                done = refused(partial(records.publish, record(number, text="x" * 9000, layer=number)))
                errors += [error for error in (active, done) if error is not None]
            assert errors
            assert all(isinstance(error, DiskFull) for error in errors), [
                repr(error) for error in errors if not isinstance(error, DiskFull)
            ][:3]
            assert store.blobs.read(small) == b"before"
        for path in (root / "blobs" / "sha256").iterdir():
            if path.name != small[7:]:
                path.unlink()
        with open_(root) as store:
            found = [finding for finding in check(store) if finding.code != "check/record-orphaned"]
            assert found == []
            assert store.blobs.put(b"after") == sha256(b"after")
        assert os.listdir(root / "tmp") == os.listdir(root / "active") == []

    apart(act)


def _open_and_close(root: Path) -> None:
    open_(root).close()


def _layer(store: LocalStore, number: int) -> None:
    active = store.layers.begin()
    try:
        with open(active.upper / "file", "wb") as out:
            out.write(b"x" * 100)
    except OSError:
        store.layers.discard(active)
        return
    store.layers.commit(active, layer(number), LayerFacts())


def test_a_full_disk_at_the_beginning(tmp_path: Path) -> None:
    def act() -> None:
        for pages in (1, 2, 4, 8, 12, 16, 24):
            place = tmp_path / str(pages)
            place.mkdir()
            mount("tmpfs", place, "tmpfs", 0, f"size={pages * 4096},nr_inodes=64")
            error = refused(partial(_open_and_close, place / "store"))
            assert error is None or isinstance(error, DiskFull), (pages, error)

    apart(act)


def test_a_full_disk_can_be_pruned(tmp_path: Path) -> None:
    def act() -> None:
        mount("tmpfs", tmp_path, "tmpfs", 0, "size=16m")
        root = tmp_path / "store"
        with open_(root) as store:
            for number in range(100):
                _layer(store, number)
                LocalRecords(store.database, store.now).publish(record(number, layer=number))
        try:
            with open(tmp_path / "filler", "wb", buffering=0) as out:
                while out.write(bytes(4096)):
                    pass
        except OSError:
            pass
        assert isinstance(refused(partial(_open_and_close, root)), DiskFull)
        with LocalStore.open(root, Flavour("trusted"), now=lambda: 1000.0, making_room=True) as store:
            assert len(prune(store, PrunePolicy(1000.0, everything=True)).swept.layers) == 100
            assert store.layout.ballast.exists()
        (tmp_path / "filler").unlink()
        with open_(root) as store:
            assert check(store) == []
            assert store.layers.rows() == []

    apart(act)


def test_a_read_only_store(tmp_path: Path) -> None:
    root = tmp_path / "store"
    with open_(root) as store:
        store.blobs.put(b"x")

    def act() -> None:
        mount(str(root), root, "", _BIND)
        mount("none", root, "", _BIND | _REMOUNT | _RDONLY)
        error = refused(lambda: open_(root))
        assert isinstance(error, StoreReadOnly), error
        fresh = refused(lambda: open_(root / "deeper"))
        assert isinstance(fresh, StoreReadOnly), fresh

    apart(act)


def test_a_store_without_permission(tmp_path: Path) -> None:
    place = tmp_path / "theirs"
    place.mkdir(mode=0o700)

    def act() -> None:
        os.setresgid(12345, 12345, 12345)
        os.setresuid(12345, 12345, 12345)
        error = refused(lambda: open_(place / "store"))
        assert error is not None
        assert error.code == "store/permission", error

    apart(act)
