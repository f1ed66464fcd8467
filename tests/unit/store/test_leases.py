from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from lamina.layer.flavour import Flavour
from lamina.store.layout import Layout
from lamina.store.leases import Lease, dead, forget, hand_over, live, standstill
from lamina.store.local import LocalStore


@pytest.fixture
def layout(root: Path) -> Layout:
    LocalStore.open(root, Flavour("trusted"), now=lambda: 1.0).close()
    return Layout(root)


def test_a_lease_lives_until_it_is_closed(layout: Layout) -> None:
    lease = Lease(layout)
    lease.pin(["one", "two"])
    lease.pin(["two", "three"])
    assert live(layout) == {lease.id: {"one", "two", "three"}}
    with dead(layout) as found:
        assert found == {}
    lease.close()
    lease.close()
    assert live(layout) == {}
    assert os.listdir(layout.leases) == []


def test_a_lease_of_a_killed_process_is_dead(layout: Layout) -> None:
    (layout.leases / "0123").write_text("one\ntwo\nthr")
    assert live(layout) == {}
    with dead(layout) as found:
        assert found == {"0123": {"one", "two"}}
    assert os.listdir(layout.leases) == []


def test_a_pin_waits_for_the_collector(layout: Layout) -> None:
    lease = Lease(layout)
    done = threading.Event()

    def pin() -> None:
        lease.pin(["one"])
        done.set()

    with standstill(layout):
        thread = threading.Thread(target=pin)
        thread.start()
        assert not done.wait(0.05)
        assert live(layout) == {lease.id: frozenset()}
    assert done.wait(90)
    thread.join()
    assert live(layout) == {lease.id: {"one"}}
    lease.close()


def test_pins_that_are_released_protect_no_longer(layout: Layout) -> None:
    lease = Lease(layout)
    lease.pin(["one", "two", "three"])
    lease.release(["two", "never pinned"])
    assert live(layout) == {lease.id: {"two"}}
    lease.pin(["one"])
    assert live(layout) == {lease.id: {"one", "two"}}
    lease.close()


def test_two_collectors(layout: Layout) -> None:
    with standstill(layout) as first, standstill(layout, wait=False) as second:
        assert first
        assert not second


def test_names_are_fresh_and_begin_with_the_lease(layout: Layout) -> None:
    lease = Lease(layout)
    names = {lease.name() for _ in range(10)}
    assert len(names) == 10
    assert {name.partition(".")[0] for name in names} == {lease.id}
    lease.close()


def test_a_lease_that_is_handed_over_lives_as_long_as_its_descriptor(layout: Layout) -> None:
    identifier, descriptor = hand_over(layout, ["one"])
    other = os.dup(descriptor)
    os.close(descriptor)
    assert live(layout) == {identifier: {"one"}}
    os.close(other)
    assert live(layout) == {}
    with dead(layout) as found:
        assert found == {identifier: {"one"}}
    identifier, descriptor = hand_over(layout, ["two"])
    forget(layout, identifier)
    forget(layout, identifier)
    forget(layout, "../state.db")
    os.close(descriptor)
    assert os.listdir(layout.leases) == []
    assert layout.database.exists()
