"""A build of the command line as others see it: the file in its scratch folder, and who reads it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from lamina.cache.reason import Reason
from lamina.cli.shown import Shown
from lamina.engine.engine import Engine
from lamina.engine.request import ListedStep, StepEnded, StepOutput, StepStarted
from lamina.layer.flavour import Flavour
from lamina.server import elsewhere
from lamina.server.running import LiveBuild
from lamina.store.local import LocalStore


class FakeEngine:
    """As much of an engine as is looked at."""

    def __init__(self, store: LocalStore) -> None:
        self.store = store
        self.build_id = "20260102-030405-abcdef"
        self.on_steps = None
        self.clock = 100.0

    def now(self) -> float:
        return self.clock


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[tuple[LocalStore, LocalStore]]:
    """(of the process that builds, of the one that serves)"""
    with (
        LocalStore.open(tmp_path / "root", Flavour("trusted"), now=lambda: 5.0) as one,
        LocalStore.open(tmp_path / "root", Flavour("trusted"), now=lambda: 5.0) as other,
    ):
        yield one, other


def seen(store: LocalStore, wanted: int) -> LiveBuild:
    """The build once it shows so many steps that are not waiting."""
    pause = threading.Event()
    for _ in range(6000):
        for one in elsewhere.running(store):
            if sum(step.state != "waiting" for step in one.steps) >= wanted:
                return one
        pause.wait(0.01)
    raise AssertionError("it was not shown")


def test_a_build_is_shown_while_it_runs(stores: tuple[LocalStore, LocalStore]) -> None:
    own, other = stores
    engine = FakeEngine(own)
    shown = Shown(cast(Engine, engine), "app:1", first=0.0, every=0.01)
    assert elsewhere.running(other) == []
    with shown.showing():
        found = seen(other, 0)
        assert (found.id, found.title, found.client, found.started) == ("20260102-030405-abcdef", "app:1", "lamina build", 100.0)
        assert engine.on_steps is not None
        engine.on_steps((ListedStep(0, "", 2, "RUN make \udcff", "RUN", True, 1), ListedStep(0, "", 3, "RUN test", "RUN", True, 2)))
        engine.clock = 110.0
        shown.report(StepStarted(1, "RUN make"))
        shown.report(StepOutput(1, "stdout", b"compiling\xff\n"))
        found = seen(other, 1)
        assert [(step.state, step.started) for step in found.steps] == [("running", 110.0), ("waiting", 0.0)]
        assert elsewhere.get(other, found.id) is not None
        assert elsewhere.get(other, "another") is None
        shown.report(StepEnded(1, "RUN make", "ran", Reason("x", "y"), 1.0, 0.0))
        shown.report(StepStarted(2, "RUN test"))
        found = seen(other, 2)
        assert found.steps[0].log == b"compiling\xff\n"
        # Who builds does not see its own file: it is shown by what it has in memory.
        assert elsewhere.running(own) == []
    assert elsewhere.running(other) == []


def test_a_build_that_ends_at_once_writes_nothing(stores: tuple[LocalStore, LocalStore], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elsewhere, "show", lambda store, build: pytest.fail("written"))
    shown = Shown(cast(Engine, FakeEngine(stores[0])), "app:1", first=600.0)
    with shown.showing():
        pass
    assert list(stores[0].layout.tmp.glob("*/*")) == []


def test_output_that_waits_has_a_bound(stores: tuple[LocalStore, LocalStore]) -> None:
    shown = Shown(cast(Engine, FakeEngine(stores[0])), "app:1", first=600.0)
    with shown.showing():
        for _ in range(100):
            shown.report(StepOutput(1, "stdout", b"x" * 100_000))
        assert len(shown._queue) < 15


@pytest.mark.parametrize("raw", [b"", b"{}", b"[" * 100_000, b'{"id": 5}', b"\xff\xfe", b'"' + b"x" * (17 << 20)])
def test_what_cannot_be_read_is_not_there(stores: tuple[LocalStore, LocalStore], raw: bytes) -> None:
    own, other = stores
    (own.scratch() / "build.live").write_bytes(raw)
    assert elsewhere.running(other) == []


def test_what_a_dead_process_left_is_not_shown(stores: tuple[LocalStore, LocalStore]) -> None:
    own, other = stores
    elsewhere.show(own, LiveBuild("x", "t", "c", 1.0))
    assert [one.id for one in elsewhere.running(other)] == ["x"]
    place = own.scratch()
    place.rename(place.with_name("0123456789abcdef.1.1"))
    assert elsewhere.running(other) == []


def test_a_link_is_not_followed(stores: tuple[LocalStore, LocalStore], tmp_path: Path) -> None:
    own, other = stores
    elsewhere.show(own, LiveBuild("x", "t", "c", 1.0))
    file = own.scratch() / "build.live"
    file.rename(tmp_path / "moved")
    file.symlink_to(tmp_path / "moved")
    assert elsewhere.running(other) == []
