"""Builds of other processes on the same store: each says what it does in a file of its scratch folder, and who serves the store reads them all.

The file is there as long as its build runs and its process lives: the folder bears the name of the process's lease.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from lamina.oci import typed
from lamina.oci.unreadable import UNREADABLE
from lamina.server.running import LiveBuild

if TYPE_CHECKING:
    from lamina.store.local import LocalStore

_NAME = "build.live"
_LIMIT = 16 << 20  # bytes; what is larger was not written by us


def show(store: LocalStore, build: LiveBuild) -> None:
    """Appears whole or not at all. OSError."""
    place = store.scratch() / _NAME
    fresh = place.with_suffix(".new")
    fresh.write_bytes(typed.encode_json(build))
    fresh.rename(place)


def hide(store: LocalStore) -> None:
    with contextlib.suppress(OSError):
        (store.scratch() / _NAME).unlink(missing_ok=True)


def running(store: LocalStore) -> list[LiveBuild]:
    """Newest first. What cannot be read counts as absent."""
    places = [place for place in store.layout.tmp.glob(f"*/{_NAME}") if store.scratch() != place.parent]
    if not places:
        return []
    from lamina.store.leases import live

    alive = live(store.layout)
    found = [_read(place) for place in places if place.parent.name.partition(".")[0] in alive]
    return sorted((one for one in found if one is not None), key=lambda one: -one.started)


def get(store: LocalStore, identifier: str) -> LiveBuild | None:
    return next((one for one in running(store) if one.id == identifier), None)


def _read(place: Path) -> LiveBuild | None:
    try:
        file = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with open(file, "rb") as data:
        try:
            raw = data.read(_LIMIT + 1)
            return typed.json(raw, type=LiveBuild) if len(raw) <= _LIMIT else None
        except (OSError, *UNREADABLE):
            return None
