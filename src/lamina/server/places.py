"""Where in a store an engine has its containers, volumes and networks: by the addresses that it listens at."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path


def place_of(hosts: Sequence[str]) -> str:
    return ",".join(hosts) or "activated"


def folder_of(root: Path, place: str) -> Path:
    return root / "engines" / hashlib.sha256(place.encode()).hexdigest()[:16]
