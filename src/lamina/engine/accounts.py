"""What each step of one build came to."""

from __future__ import annotations

import msgspec

from lamina.cache.reason import Reason, Verdict
from lamina.cache.record import CacheKey, KeyParts, Place
from lamina.engine.listed import Listed


class Account(msgspec.Struct):
    """What became of one vertex."""

    number: int
    parts: KeyParts | None = None
    key: CacheKey | None = None
    reason: Reason | None = None
    verdict: Verdict | None = None
    seconds: float = 0.0
    saved: float = 0.0
    fetch_bytes: int = 0
    state: str | None = None
    error: str | None = None
    place: Place | None = None
    listings: dict[int, Listed] = msgspec.field(default_factory=dict)
