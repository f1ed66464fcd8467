"""What a store does by itself after a build: what was not used for long goes, once a day; a size cap holds. Safe beside other builds, as pruning is."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from lamina.store.local import LocalStore

if TYPE_CHECKING:
    from lamina.store.gc import Pruned

_EVERY = 86400.0


class Kept(msgspec.Struct, frozen=True):
    """`left`: bytes on the disk; more than the cap only where images or running builds hold them."""

    pruned: Pruned
    left: int


def keep(store: LocalStore, *, expiry: float | None, cap: int | None, grown: bool) -> Kept | None:
    """None when it was not the time. `expiry`: seconds since the last use, None: nothing expires. `grown`: the store has something new, so the
    cap is looked at."""
    due = expiry is not None and _due(store)
    if not due and (cap is None or not grown):
        return None
    from lamina.store.gc import prune_to_size  # only when it is time: this is on the way of every build
    from lamina.store.policy import PrunePolicy

    pruned, left = prune_to_size(store, PrunePolicy(store.now(), expiry if due else None, cap if grown else None))
    return Kept(pruned, left)


def _due(store: LocalStore) -> bool:
    """Whether a day has gone since the last look; if so this is one. A store that was never looked at has a day's time."""
    note = store.layout.locks / "expiry"
    now = store.now()
    try:
        since = now - note.stat().st_mtime
    except FileNotFoundError:
        note.touch()
        since = 0.0
    else:
        if 0 <= since < _EVERY:
            return False
    os.utime(note, (now, now))
    return since != 0.0
