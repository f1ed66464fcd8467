"""What a store does by itself after a build: what was not used for long goes, once a day; a size cap holds. Safe beside other builds, as pruning is."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from lamina.store.local import LocalStore
from lamina.store.standing import boot_id

if TYPE_CHECKING:
    from lamina.store.gc import Pruned

_EVERY = 86400.0


def since_boot() -> float:
    """Seconds that have truly gone since the machine started, sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Kept(msgspec.Struct, frozen=True):
    """`left`: bytes on the disk; more than the cap only where images or running builds hold them."""

    pruned: Pruned
    left: int


def keep(
    store: LocalStore, *, expiry: float | None, cap: int | None, grown: bool, running: Callable[[], float] = since_boot
) -> Kept | None:
    """None when it was not the time. `expiry`: seconds since the last use, None: nothing expires. `grown`: the store has something new, so the
    cap is looked at."""
    due = expiry is not None and _due(store, running)
    if not due and (cap is None or not grown):
        return None
    from lamina.store.gc import prune_to_size  # only when it is time: this is on the way of every build
    from lamina.store.policy import PrunePolicy

    pruned, left = prune_to_size(store, PrunePolicy(store.now(), expiry if due else None, cap if grown else None))
    return Kept(pruned, left)


def _due(store: LocalStore, running: Callable[[], float]) -> bool:
    """Whether a day has gone since the last look; if so this is one. A store that was never looked at has a day's time.

    Where the clock has gone further than the machine has run since, somebody has set it: nothing is thrown away for that. What is used in the
    next day counts as used then.
    """
    note = store.layout.locks / "expiry"
    now, here, gone = store.now(), boot_id(), running()
    try:
        since = now - note.stat().st_mtime
        boot, _, then = note.read_text(encoding="ascii", errors="replace").partition(" ")
    except FileNotFoundError:
        since, boot, then = 0.0, here, ""
    else:
        if 0 <= since < _EVERY:
            return False
    leapt = bool(here) and boot == here and then.isdigit() and since > gone - int(then) + _EVERY
    note.write_text(f"{here} {int(gone)}", encoding="ascii")
    os.utime(note, (now, now))
    return since > 0.0 and not leapt
