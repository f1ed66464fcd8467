"""What an engine that serves does between requests."""

from __future__ import annotations

import io
import queue
import tarfile
import threading
from pathlib import Path

import pytest

from lamina.server import daemon as daemons
from lamina.server.daemon import Daemon
from lamina.store.keeping import keep
from lamina.store.local import LocalStore
from lamina.testing.engineapi import daemon_at, rows

pytestmark = pytest.mark.usefixtures("_at_once")


@pytest.fixture
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemons, "_MOMENT", 0.01)


def build(daemon: Daemon, data: bytes) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, content in {"Dockerfile": b"FROM scratch\nCOPY a.txt /\n", "a.txt": data}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    assert "Successfully built" in rows(daemon, "POST", "/build?t=made", made.getvalue())[-2]["stream"]


def layers(store: LocalStore) -> int:
    return len(store.layers.rows())


def test_the_store_is_looked_after_when_a_build_has_ended(tmp_path: Path) -> None:
    told: queue.Queue[bool] = queue.Queue()
    with daemon_at(tmp_path / "root", rung="none", after_builds=lambda store, grown: told.put(grown)) as daemon:
        build(daemon, b"a")
        assert told.get(timeout=90) is True
        build(daemon, b"a")
        assert told.get(timeout=90) is False


def test_not_while_somebody_uses_the_store(tmp_path: Path) -> None:
    told: queue.Queue[bool] = queue.Queue()
    with daemon_at(tmp_path / "root", rung="none", after_builds=lambda store, grown: told.put(grown)) as daemon:
        with daemon.store():
            build(daemon, b"a")
            looks = [timer for timer in threading.enumerate() if isinstance(timer, threading.Timer)]
            for look in looks:
                look.join(30)  # one has found a user, and begun the next
            assert told.empty()
        assert told.get(timeout=90) is True


def test_a_cap_holds_though_the_engine_has_looked_at_all_of_it(tmp_path: Path) -> None:
    told: queue.Queue[int] = queue.Queue()

    def after(store: LocalStore, grown: bool) -> None:
        keep(store, expiry=None, cap=1, grown=grown)
        told.put(layers(store))

    with daemon_at(tmp_path / "root", rung="none", after_builds=after) as daemon:
        build(daemon, b"a")
        assert told.get(timeout=90) == 1  # the image has it
        build(daemon, b"b")
        assert told.get(timeout=90) == 1  # the image before has no name any more


def test_an_engine_that_ends_begins_nothing_any_more(tmp_path: Path) -> None:
    told: queue.Queue[bool] = queue.Queue()
    with daemon_at(tmp_path / "root", rung="none", after_builds=lambda store, grown: told.put(grown)) as daemon:
        with daemon.store():
            build(daemon, b"a")
            daemon.closing = True
        for timer in [each for each in threading.enumerate() if isinstance(each, threading.Timer)]:
            timer.join(30)
    assert told.empty()
