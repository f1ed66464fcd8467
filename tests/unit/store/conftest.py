"""A store in a temporary folder and a clock that tests set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.layer.flavour import Flavour
from lamina.store.local import LocalStore


class Clock:
    """Stands still until a test moves it."""

    def __init__(self) -> None:
        self.time = 1_000_000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(root: Path, clock: Clock) -> Iterator[LocalStore]:
    with LocalStore.open(root, Flavour("trusted"), now=clock) as opened:
        yield opened
