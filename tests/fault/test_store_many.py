"""Eight processes at once on one root."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from lamina.cache.index import LocalRecords
from lamina.layer.flavour import Flavour
from lamina.oci.digest import LayerId, sha256
from lamina.store.check import check
from lamina.store.gc import collect_garbage
from lamina.store.layers import LayerFacts
from lamina.store.local import LocalStore
from lamina.store.refs import Image
from lamina.testing.conformance.recordcache import key, record

PROCESSES, ROUNDS = 8, 12


def layer(number: int) -> LayerId:
    return LayerId(f"diff:{number:064x}")


def open_(root: Path) -> LocalStore:
    return LocalStore.open(root, Flavour("trusted"), now=time.time)


def together(act: Callable[[int], None]) -> None:
    """Run in PROCESSES forked children; all must succeed."""
    children = []
    for number in range(PROCESSES):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                act(number)
                code = 0
            except BaseException as error:
                print(f"process {number}: {error!r}", file=sys.stderr)
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * PROCESSES


def test_the_same_and_different_things(tmp_path: Path) -> None:
    root = tmp_path / "store"  # all of them try to create it

    def act(number: int) -> None:
        for round_ in range(ROUNDS):
            with open_(root) as store:
                records = LocalRecords(store.database, store.now)
                for what in (round_, 1000 * (number + 1) + round_):  # everybody's and our own
                    data = b"%d" % what * 50000
                    blob = store.blobs.put(data)
                    assert store.blobs.read(blob) == data
                    active = store.layers.begin()
                    (active.upper / "file").write_bytes(b"%d" % what)
                    path = store.layers.commit(active, layer(what), LayerFacts())
                    assert (path / "file").read_bytes() == b"%d" % what
                    records.publish(record(what, layer=what))
                    assert records.lookup([key(what)])
                    store.images.put(Image(blob, blob, "linux/amd64", 1.0, 1, (layer(what),)), [f"n:{what}"])
                if number == 0:
                    collect_garbage(store)

    together(act)
    with open_(root) as store:
        assert check(store) == []
        assert len(store.images.all()) == ROUNDS * (PROCESSES + 1)
        assert len(LocalRecords(store.database, store.now).records()) == ROUNDS * (PROCESSES + 1)
        assert store.blobs.read(sha256(b"0" * 50000)) == b"0" * 50000
    assert os.listdir(root / "tmp") == os.listdir(root / "active") == os.listdir(root / "leases") == []


def test_a_step_runs_in_one_process_only(tmp_path: Path) -> None:
    root, log = tmp_path / "store", tmp_path / "log"
    open_(root).close()
    log.touch()

    def act(number: int) -> None:
        with open_(root) as store:
            records = LocalRecords(store.database, store.now)
            for step in range(5):
                with store.locks.key(key(step), lambda: False):
                    if records.lookup([key(step)]):
                        continue
                    with open(log, "a", encoding="ascii") as out:
                        out.write(f"{step}\n")
                    records.publish(record(step))

    together(act)
    assert sorted(log.read_text().split()) == ["0", "1", "2", "3", "4"]
