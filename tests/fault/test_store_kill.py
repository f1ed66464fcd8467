"""kill -9 and failing system calls at every step: afterwards the store is sound and what was acknowledged is there."""

from __future__ import annotations

import errno
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from lamina.cache.index import LocalRecords
from lamina.layer.flavour import Flavour
from lamina.oci.digest import LayerId, sha256
from lamina.store.check import check
from lamina.store.errors import border
from lamina.store.gc import prune
from lamina.store.layers import LayerFacts
from lamina.store.local import LocalStore
from lamina.store.policy import PrunePolicy
from lamina.store.protocols import StoreError
from lamina.store.refs import Image
from lamina.testing.conformance.recordcache import key, record

TRUSTED = Flavour("trusted")
_STEPS = ("rename", "replace", "fsync", "unlink", "mkdir", "rmdir", "write", "open", "close", "chmod", "fchmod")


def layer(number: int) -> LayerId:
    return LayerId(f"diff:{number:064x}")


def open_(root: Path) -> LocalStore:
    return LocalStore.open(root, TRUSTED, now=lambda: 1000.0)


def work(root: Path, number: int, acknowledge: Callable[[str], object]) -> None:
    """What a step of a build does to a store, and what `rmi` and the collector undo."""
    with open_(root) as store:
        blob = store.blobs.put(b"blob %d" % number)
        acknowledge(f"blob {number}")
        active = store.layers.begin()
        with border(root):  # as the layer room does it
            (active.upper / "sub").mkdir()
            (active.upper / "sub" / "file").write_bytes(b"%d" % number)
            (active.work / "work").mkdir(mode=0)
        store.layers.commit(active, layer(number), LayerFacts(extra=b"side"))
        acknowledge(f"layer {number}")
        LocalRecords(store.database, store.now).publish(record(number, layer=number))
        acknowledge(f"record {number}")
        store.images.put(Image(blob, blob, "linux/amd64", 1.0, 1, (layer(number),)), ["a:1"])
        acknowledge(f"image {number}")
    with open_(root) as store:
        store.images.untag("a:1")
        store.images.put(Image(blob, blob, "linux/amd64", 1.0, 1, ()), [f"b:{number}"])
        prune(store, PrunePolicy(1000.0, everything=True))
        acknowledge("end")


def assert_sound(root: Path) -> None:
    with open_(root) as store:
        assert check(store) == []
        assert os.listdir(root / "tmp") == os.listdir(root / "active") == []
        assert not [name for name in os.listdir(root / "locks") if name.startswith("key-")]


def in_child(act: Callable[[], None]) -> int:
    """Exit status of a forked child that does this; 70 for an unexpected error. Negative: killed by that signal."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            act()
            code = 0
        except StoreError:
            code = 74
        except BaseException as error:
            traceback.print_exception(error, file=sys.stderr)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def trip(number: int, act: Callable[[], None]) -> None:
    """From now on the `number`-th of the system calls in _STEPS is preceded by `act`. For a process that is thrown away."""
    left = number

    def guard(original: Callable[..., object]) -> Callable[..., object]:
        def guarded(*args: object, **named: object) -> object:
            nonlocal left
            left -= 1
            if left == 0:
                act()
            return original(*args, **named)

        return guarded

    for name in _STEPS:
        setattr(os, name, guard(getattr(os, name)))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail(code: int) -> Callable[[], None]:
    def act() -> None:
        raise OSError(code, os.strerror(code))

    return act


@pytest.mark.parametrize("fresh", [True, False], ids=["a new store", "a store in use"])
def test_killed_before_each_step(tmp_path: Path, fresh: bool) -> None:
    root = tmp_path / "store"
    for number in range(1, 1000):
        if fresh:
            root = tmp_path / f"store{number}"

        def act(number: int = number, root: Path = root) -> None:
            trip(number, die)
            work(root, number, lambda line: None)

        code = in_child(act)
        assert code in (0, -signal.SIGKILL), f"step {number}"
        assert_sound(root)
        if code == 0:
            assert number > 50
            return
    raise AssertionError("never came to the end")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS], ids=["ENOSPC", "EIO", "EROFS"])
def test_each_step_fails_once(tmp_path: Path, code: int) -> None:
    """Each with EIO; with the others, which go the same way, every third. $LAMINA_EVERY_CALL: all."""
    root = tmp_path / "store"
    open_(root).close()
    for number in range(1, 1000, 1 if code == errno.EIO or os.environ.get("LAMINA_EVERY_CALL") else 3):

        def act(number: int = number) -> None:
            trip(number, fail(code))
            work(root, number, lambda line: None)

        status = in_child(act)
        assert status in (0, 74), f"step {number}: a traceback instead of one clear error"
        assert_sound(root)
        if status == 0 and number > 150:
            return
    raise AssertionError("never came to the end")


def test_killed_at_any_time(tmp_path: Path) -> None:
    root = tmp_path / "store"
    open_(root).close()
    chance = random.Random(7)
    for round_ in range(25):
        read, write = os.pipe()

        def act(round_: int = round_, write: int = write) -> None:
            with open_(root) as store:
                records = LocalRecords(store.database, store.now)
                for number in range(round_ * 1000, round_ * 1000 + 1000):
                    store.blobs.put(b"%d" % number * 1000)
                    os.write(write, f"blob {number}\n".encode())
                    active = store.layers.begin()
                    (active.upper / "file").write_bytes(b"x" * number)
                    store.layers.commit(active, layer(number), LayerFacts())
                    os.write(write, f"layer {number}\n".encode())
                    records.publish(record(number, layer=number))
                    os.write(write, f"record {number}\n".encode())

        child = os.fork()
        if child == 0:
            try:
                act()
            finally:
                os._exit(1)
        os.close(write)
        first = os.read(read, 1)  # it is at work
        time.sleep(chance.random() * 0.03)
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        with os.fdopen(read, "rb") as acknowledged:
            lines = (first + acknowledged.read()).decode().splitlines()
        assert_sound(root)
        with open_(root) as store:
            records = LocalRecords(store.database, store.now)
            for line in lines:
                kind, _, text = line.partition(" ")
                number = int(text)
                if kind == "blob":
                    assert not store.blobs.missing([sha256(b"%d" % number * 1000)])
                elif kind == "layer":
                    assert store.layers.path(layer(number)) is not None
                else:
                    assert records.lookup([key(number)])
