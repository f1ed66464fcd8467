"""Looking after the cache: which records a selector means, forgetting them, pruning."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from lamina.cache.freshness import matches
from lamina.cache.index import LocalRecords
from lamina.cache.record import CacheKey, Record
from lamina.diagnostics.errors import LaminaError, nearest
from lamina.graph.vertex import Step
from lamina.oci import typed
from lamina.store.local import LocalStore


class NothingSelected(LaminaError):
    code = "cache/selector"
    default_exit = 2


def selected(records: Sequence[Record], selector: str) -> list[Record]:
    """Records of a stage, of `stage:N` (the N of its step's "[stage N/M]"), or whose instruction begins so. Raises NothingSelected."""
    found = [record for record in records if matches(selector, _step(record))]
    if not found:
        stages = sorted({record.place.stage for record in records if record.place.stage})
        near = nearest(selector, stages)
        raise NothingSelected(
            f"{selector!r} selects no record",
            hint=f"did you mean {near!r}?"
            if near
            else "give a stage, stage:N or the beginning of an instruction; lamina cache ls lists them",
        )
    return found


def forget(records: LocalRecords, selectors: Sequence[str], *, everything: bool = False) -> int:
    """These records are not used again; returns how many."""
    known = records.records()
    chosen = known if everything else [record for selector in selectors for record in selected(known, selector)]
    return records.forget(sorted({record.key for record in chosen}))


def _step(record: Record) -> Step:
    place = record.place
    number = int(place.stage) if place.stage.isdecimal() else 0
    name = "" if place.stage.isdecimal() else place.stage
    return Step(number if not name else 0, name, place.position, 0, place.line, place.text)


def records_of(store: LocalStore, records: LocalRecords, images: Sequence[str]) -> list[Record]:
    """The living records of the builds that made these images (as a user names them); all for none. ImageNotFound."""
    if not images:
        return records.records()
    from lamina.engine.images.finding import find_image

    ids = {find_image(store, text).id for text in images}
    steps = [step for log in store.builds.last() if ids & set(log.images) for step in typed.json(log.steps, type=list[_Keyed])]
    found = records.lookup(list(dict.fromkeys(step.key for step in steps if step.key)))
    return [newest[0] for newest in found.values()]


class _Keyed(msgspec.Struct):
    key: CacheKey | None = None
