"""Where in a store an engine has its containers, volumes and networks: by the addresses that it listens at."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from lamina.sandbox import kept


def place_of(hosts: Sequence[str]) -> str:
    return ",".join(hosts) or "activated"


def folder_of(root: Path, place: str) -> Path:
    return root / "engines" / hashlib.sha256(place.encode()).hexdigest()[:16]


class Waiting(msgspec.Struct, frozen=True):
    """Containers that run on while no engine is there, and the address of the engine that they wait for ("" where it is not known)."""

    place: str
    containers: tuple[str, ...]  # ids


def waiting(root: Path) -> list[Waiting]:
    """Of a store."""
    found = []
    for folder in sorted((root / "engines").glob("*")):
        running = tuple(place.name for place in kept.running_in(folder / "containers"))
        if running and not _served(folder):
            try:
                place = (folder / "place").read_text(errors="replace")
            except OSError:
                place = ""
            found.append(Waiting(place, running))
    return found


def _served(folder: Path) -> bool:
    try:
        lock = os.open(folder / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
