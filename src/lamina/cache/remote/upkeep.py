"""What goes out of a shared cache, and whether what stays is sound.

All of it may run while others build. Records go before the blobs that they need; nothing younger than the grace period goes, nothing that
a build said it uses since then; and a reader that finds a blob gone has a miss, never an error.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable

import msgspec

from lamina.cache.policy import DEFAULT_EXPIRY, Item, value
from lamina.cache.remote.chunks import STORED, BadChunk, plain_chunk
from lamina.cache.remote.errors import CacheError, ObjectGone
from lamina.cache.remote.inventory import Inventory, Listed, Problem
from lamina.cache.remote.names import digest_of_blob, kind_of, shown, used_at
from lamina.cache.remote.parallel import each, small
from lamina.cache.remote.protocols import ObjectStore, Pointed
from lamina.cache.wording import age

GRACE = 3600.0  # seconds; a build that is younger than that is never disturbed
_BATCH = 500


class Removal(msgspec.Struct, frozen=True):
    """`what` is a step's text, or a blob's digest; `why` the rest of a sentence; `size` bytes become free (shared blobs: with the last one)."""

    name: str
    what: str
    why: str
    size: int
    project: str = ""


class Pruned(msgspec.Struct, frozen=True):
    removals: tuple[Removal, ...]
    freed: int
    left: int  # bytes
    spared: int  # records over the limits that stay because of the grace period


def prune(
    store: ObjectStore,
    now: float,
    *,
    expiry: float | None = DEFAULT_EXPIRY,
    cap: int | None = None,
    project: str | None = None,
    grace: float = GRACE,
    dry_run: bool = False,
) -> Pruned:
    """First what was not used for `expiry` seconds and versions of cache mounts that a later one has merged, then the least valuable until
    at most `cap` bytes lie there, metadata included.

    `project` limits all of it, the cap too, to the records of one project and what only they need. None = no such limit. `dry_run`
    says what would go (`prune --explain`). Blobs that no record needs go when they are older than the grace period.
    """
    inventory = Inventory(store, forgotten_before=0.0 if expiry is None else now - expiry - 86400)
    plan = _Plan(inventory, now, project, grace)
    if expiry is not None:
        for record in plan.candidates():
            unused = now - record.used
            if unused > expiry:
                plan.remove(record, f"not used for {age(unused)}")
        plan.spare(expiry)
    plan.retire()
    if cap is not None:
        plan.shrink(cap)
    plan.orphans()
    if not dry_run:
        plan.carry_out()
        store.sweep(now - 86400)
    return plan.result()


class _Plan:
    """What goes. Sizes are exact: a shared blob counts once and becomes free with the last record that needs it."""

    def __init__(self, inventory: Inventory, now: float, project: str | None, grace: float) -> None:
        self._inventory = inventory
        self._now = now
        self._grace = grace
        self._project = project
        self._needed: dict[str, int] = {}
        everything = (*inventory.records, *inventory.mounts)
        for record in everything:
            for name in record.needs:
                self._needed[name] = self._needed.get(name, 0) + 1
        self._gone: dict[str, Removal] = {}
        self._records: dict[str, Listed] = {}
        self._kept = {record.name: record for record in everything}
        self._spared: set[str] = set()
        self._places: dict[str, int] = {}
        for record in inventory.records:
            for name in record.places:
                self._places[name] = self._places.get(name, 0) + 1

    def candidates(self) -> list[Listed]:
        """Least recently used first; what is in its grace period is none."""
        found = []
        for record in sorted(self._kept.values(), key=lambda record: (record.used, record.name)):
            if self._project is not None and record.project != self._project:
                continue
            if self._now - record.used >= self._grace:
                found.append(record)
        return found

    def spare(self, unused: float) -> None:
        """Count what would go by a limit and is in its grace period: what was not used for longer than `unused` seconds."""
        for record in self._kept.values():
            if self._project in (None, record.project) and unused < self._now - record.used < self._grace:
                self._spared.add(record.name)

    def remove(self, record: Listed, why: str) -> None:
        del self._kept[record.name]
        self._records[record.name] = record
        size = record.size
        for name in record.needs:
            self._needed[name] -= 1
            if not self._needed[name] and name in self._inventory.objects and self._old(name):
                blob = Removal(name, shown(name), "only removed records need it", self._inventory.size(name))
                self._gone[name] = blob
                size += blob.size
        for name in record.places:
            self._places[name] -= 1
            if not self._places[name] and name in self._inventory.objects:
                self._gone[name] = Removal(name, name, "tells of removed records only", self._inventory.size(name))
                size += self._inventory.size(name)
        self._gone[record.name] = Removal(record.name, record.step, why, size, record.project)

    def retire(self) -> None:
        """Versions of cache mounts whose files are in a later version of the same scope, which is no longer in its grace period itself."""
        statements = self._inventory.statements
        later: dict[str, str] = {}
        for name in statements:
            if self._old(name):
                for old in statements[name].merged:
                    if old in statements and statements[old].scope == statements[name].scope:
                        later[old] = name
        for record in self.candidates():
            if record.name in later and later[record.name] in self._kept:
                self.remove(record, "a later version has its files")

    def shrink(self, cap: int) -> None:
        import heapq

        total = self._total()
        heap = [(self._value(record), record.name, record) for record in self.candidates()]
        heapq.heapify(heap)
        while total > cap and heap:
            worth, _, record = heapq.heappop(heap)
            now_worth = self._value(record)
            if heap and now_worth < worth:
                # Others that shared its blobs went: it holds more alone now, and is worth less for a byte.
                heapq.heappush(heap, (now_worth, record.name, record))
                continue
            unused = age(self._now - record.used)
            self.remove(record, f"over the size limit; {record.seconds:.1f} s to make, last used {unused} ago")
            total -= self._gone[record.name].size
        if total > cap:
            self.spare(-math.inf)

    def orphans(self) -> None:
        if self._project is not None:
            return
        for name in self._inventory.objects:
            kind = kind_of(name)
            if name in self._gone or not self._old(name):
                continue
            if kind in ("blobs", "chunks") and name not in self._needed:
                self._gone[name] = Removal(name, shown(name), "no record needs it", self._inventory.size(name))
            elif kind == "places" and name not in self._places:
                self._gone[name] = Removal(name, name, "its records are gone", self._inventory.size(name))
            elif kind == "uses" and self._now - used_at(name) > 30 * 86400:
                self._gone[name] = Removal(name, name, "too old to tell anything", self._inventory.size(name))

    def carry_out(self) -> None:
        """Records first. Before each batch: what builds have begun to use since the look stays."""
        store = self._inventory.store
        self._inventory.used_since()
        spared = {name for name, when in self._inventory.used.items() if self._now - when < self._grace}
        kept = [record for record in self._records.values() if record.name in spared]
        for record in kept:
            spared.update(record.needs)
            spared.update(record.places)
        for name in spared:
            self._gone.pop(name, None)
        self._delete([name for name in self._gone if kind_of(name) in ("records", "mounts")], store)
        late = self._inventory.used_since()
        for name in late:
            self._gone.pop(name, None)
        self._delete([name for name in self._gone if kind_of(name) not in ("records", "mounts")], store)

    def result(self) -> Pruned:
        freed = sum(self._inventory.size(name) for name in self._gone)
        total = sum(self._inventory.size(name) for name in self._inventory.objects)
        return Pruned(tuple(self._gone.values()), freed, total - freed, len(self._spared))

    def _delete(self, names: list[str], store: ObjectStore) -> None:
        for start in range(0, len(names), _BATCH):
            store.delete(names[start : start + _BATCH])

    def _old(self, name: str) -> bool:
        return self._now - self._inventory.last_used(name) >= self._grace

    def _total(self) -> int:
        if self._project is None:
            counted: Iterable[str] = self._inventory.objects
        else:
            counted = {name for r in self._kept.values() if r.project == self._project for name in (r.name, *r.needs, *r.places)}
        return sum(self._inventory.size(name) for name in counted if name not in self._gone)

    def _value(self, record: Listed) -> float:
        """Seconds to rebuild x recency, per byte that it alone would free or that it has its share of."""
        size = record.size + sum(self._inventory.size(name) // max(1, self._needed[name]) for name in record.needs)
        return value(Item(record.name, size, record.used, record.seconds), self._now)


def verify(
    store: ObjectStore, *, bytes_too: bool = False, repair: bool = False, on_object: Callable[[str], None] | None = None
) -> list[Problem]:
    """Every record readable and unaltered, its blobs there; with `bytes_too` every blob's bytes are read and hashed.

    `repair` deletes what is damaged, and records whose blobs are gone; they come back when somebody builds them again.
    """
    inventory = Inventory(store)
    problems = list(inventory.problems)
    bad: set[str] = set()
    if bytes_too:
        names = [name for name in inventory.objects if kind_of(name) in ("blobs", "chunks")]

        def check(name: str) -> bool:
            good = _sound(store, name)
            if on_object:
                on_object(name)
            return good

        bad = {name for name, good in zip(names, each(check, names, 4)) if not good}
        problems += [Problem(name, "blob-altered", f"the blob {shown(name)} has other bytes than its name says") for name in sorted(bad)]
    for record in (*inventory.records, *inventory.mounts):
        lost = [name for name in record.needs if name not in inventory.objects]
        if lost:
            message = f"{record.step[:60]!r} needs {len(lost)} blobs that are gone, {shown(lost[0])} among them"
            problems.append(Problem(record.name, "blob-gone", message))
    if repair:
        store.delete([problem.name for problem in problems])
        if isinstance(store, Pointed):
            damaged = {problem.name for problem in problems}
            store.complete([record.name for record in inventory.records if record.name not in damaged])
    return problems


def _sound(store: ObjectStore, name: str) -> bool:
    if kind_of(name) == "chunks":
        stored = small(store, name, STORED)
        try:
            return stored is None or bool(plain_chunk(name, stored))
        except BadChunk:
            return False
    digest = digest_of_blob(name)
    found = hashlib.new(digest.partition(":")[0])
    try:
        for piece in store.stream(name):
            found.update(piece)
    except ObjectGone:
        return True  # pruned meanwhile
    except CacheError as error:
        if error.transient:
            raise
        return False
    return f"{digest.partition(':')[0]}:{found.hexdigest()}" == digest
