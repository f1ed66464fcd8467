"""`buildx du` and `buildx prune`: the cache beside images, as usage records."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lamina.server.buildkit.messages import PruneRequest, Timestamp, UsageRecord
from lamina.server.errors import BadRequest

if TYPE_CHECKING:
    from lamina.server.daemon import Daemon

_FILTER = re.compile(
    r"(?P<name>id|type|description|inuse|shared|private|mutable|immutable)(?:(?P<how>==|!=|~=|=)(?P<value>.*))?", re.DOTALL
)


def disk_usage(daemon: Daemon, filters: Sequence[str]) -> list[UsageRecord]:
    with daemon.store() as store:
        used = {layer for image in store.images.all() for layer in image.layers}
        found = [
            UsageRecord(
                id=row.id.partition(":")[2][:25],
                size=row.size,
                created=_time(row.created),
                last_used=_time(row.last_used),
                usage_count=1,
                description="layer of a build step",
                record_type="regular",
                shared=row.id in used,
            )
            for row in store.layers.rows()
            if row.id.startswith("diff:")
        ]
    for name, size, last, in_use in daemon.buildkit.folders.sizes():
        found.append(
            UsageRecord(
                id=name[:25],
                mutable=True,
                in_use=in_use,
                size=size,
                created=_time(last),
                last_used=_time(last),
                usage_count=1,
                description="local source for a client's folder",
                record_type="source.local",
            )
        )
    return [row for row in found if _matches(row, filters)]


def prune(daemon: Daemon, request: PruneRequest) -> list[UsageRecord]:
    """What was removed. Layers that images have stay."""
    from lamina.store.gc import prune as collect
    from lamina.store.policy import PrunePolicy

    age = request.keep_duration / 10**9 if request.keep_duration > 0 else None
    keep = request.keep_bytes or request.max_used_space or None
    if any(text.strip() for text in request.filter):
        raise BadRequest(
            "pruning by a filter is not supported, except until=DURATION: layers are found again by content, not by their number"
        )
    gone = _folders(daemon) if age is None and keep is None else []
    with daemon.store() as store:
        sizes = {str(row.id): row.size for row in store.layers.rows()}
        policy = PrunePolicy(daemon.now(), max_age=age, max_bytes=keep, everything=age is None and keep is None and request.all)
        found = collect(store, policy)
    for decision in found.decisions:
        if decision.remove:
            gone.append(
                UsageRecord(
                    id=decision.row.name.partition(":")[2][:25], size=sizes.get(decision.row.name, decision.row.size), record_type="regular"
                )
            )
    daemon.events.emit("builder", "prune", "", {"reclaimed": str(found.swept.freed)})
    return gone


def _folders(daemon: Daemon) -> list[UsageRecord]:
    before = daemon.buildkit.folders.sizes()
    daemon.buildkit.folders.clear()
    left = {name for name, *_ in daemon.buildkit.folders.sizes()}
    return [UsageRecord(id=name[:25], size=size, record_type="source.local") for name, size, *_ in before if name not in left]


def _time(seconds: float) -> Timestamp:
    return Timestamp(int(seconds), int(seconds % 1 * 10**9))


def _matches(row: UsageRecord, filters: Sequence[str]) -> bool:
    """Each text is a list of conditions, all of which must hold; one of the texts must."""
    wanted = [text for text in filters if text.strip()]
    return not wanted or any(all(_holds(row, part) for part in text.split(",")) for text in wanted)


def _holds(row: UsageRecord, text: str) -> bool:
    found = _FILTER.fullmatch(text.strip())
    if found is None:
        raise BadRequest(f"the filter {text!r} is not known: id, type, description, inuse, shared, private, mutable and immutable are")
    values: dict[str, str | bool] = {
        "id": row.id,
        "type": row.record_type,
        "description": row.description,
        "inuse": row.in_use,
        "shared": row.shared,
        "private": not row.shared,
        "mutable": row.mutable,
        "immutable": not row.mutable,
    }
    value, how, wanted = values[found["name"]], found["how"], (found["value"] or "").strip('"')
    if isinstance(value, bool):
        return value == (wanted.lower() not in ("false", "0") if how else True)
    if how == "~=":
        return wanted in value  # a pattern of a stranger is not run
    return (value != wanted) if how == "!=" else value == wanted
