"""What to keep, what to believe and what is too old: pure decisions over records, no clock and no disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from lamina.cache.record import Record
from lamina.cache.wording import age

DAY = 86400.0
DEFAULT_EXPIRY = 7 * DAY  # since last use, as in the services that people know


def too_old(record: Record, max_age: float | None, now: float) -> bool:
    """`max_age`: seconds since the record was made; 0 = every one is too old. One from further ahead than that was made by a wrong clock, or the
    clock is wrong now: its age is not known, so it is too old. A clock that went back by less makes none too old."""
    return max_age is not None and (max_age <= 0 or abs(now - record.created) > max_age)


def choose(records: Sequence[Record], *, present: Callable[[Record], bool], max_age: float | None, now: float) -> Record | None:
    """The one to use of those under one key, None if all are too old.

    The newest decides the content; among those of equal content (state) one whose layers are on this machine is taken.
    """
    fresh = sorted((r for r in records if not too_old(r, max_age, now)), key=lambda record: (-record.created, record.build))
    if not fresh:
        return None
    equal = [record for record in fresh if record.state == fresh[0].state]
    return next((record for record in equal if present(record)), equal[0])


class Item(msgspec.Struct, frozen=True):
    """One thing that pruning may remove. `size` bytes become free, `seconds` is what it takes to make it again."""

    name: str
    size: int
    last_used: float  # seconds since the epoch
    seconds: float
    leased: bool = False  # a live process or a kept image needs it


class Removal(msgspec.Struct, frozen=True):
    """`why` is a sentence for `cache prune`."""

    item: Item
    why: str


def value(item: Item, now: float) -> float:
    """Seconds to rebuild x recency, per byte. Recency halves with each day without use."""
    unused = max(0.0, now - item.last_used)
    recency: float = 0.5 ** (unused / DAY)
    return max(item.seconds, 0.001) * recency / max(item.size, 1)


def prune(items: Iterable[Item], now: float, *, expiry: float | None = DEFAULT_EXPIRY, cap: int | None = None) -> list[Removal]:
    """What goes, in order: all that was not used for longer than `expiry` seconds, then the least valuable until at most `cap`
    bytes are left. Leased items count and stay. None = no such limit.
    """
    removals: list[Removal] = []
    kept: list[Item] = []
    for item in sorted(items, key=lambda item: (item.last_used, item.name)):
        unused = now - item.last_used
        if not item.leased and expiry is not None and unused > expiry:
            removals.append(Removal(item, f"not used for {age(unused)}"))
        else:
            kept.append(item)
    if cap is not None:
        total = sum(item.size for item in kept)
        for item in sorted((i for i in kept if not i.leased and i.size), key=lambda i: (value(i, now), i.name)):
            if total <= cap:
                break
            total -= item.size
            why = f"over the size limit; {item.size} bytes, {item.seconds:.1f} s to make, last used {age(now - item.last_used)} ago"
            removals.append(Removal(item, why))
    return removals
