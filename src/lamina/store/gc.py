"""The collector: what nobody needs goes at once, what the cache could do without goes by policy; and what takes how much room.

Everything is decided and taken away (database rows, then one rename per victim into tmp/) inside the standstill, while no
process can begin to use something; the slow removal comes after it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from lamina.oci.digest import Digest, LayerId
from lamina.store.errors import border
from lamina.store.idle import idle, take_away
from lamina.store.layers import LayerRow, measure
from lamina.store.layout import layer_of
from lamina.store.leases import live, standstill
from lamina.store.local import LocalStore, restore_ballast
from lamina.store.policy import Decision, PrunePolicy, PruneRow, plan_prune
from lamina.store.recovery import sweep_ownerless
from lamina.store.references import References, collect, projects, records
from lamina.store.removal import remove, take

_TOMBSTONE_DAYS = 30


class Swept(msgspec.Struct, frozen=True):
    """What a collection removed. `freed` = bytes of blobs and of files in layers and the like. `idle`: names as in store/idle.py."""

    layers: tuple[LayerId, ...] = ()
    blobs: tuple[Digest, ...] = ()
    leftovers: tuple[str, ...] = ()
    records: int = 0
    freed: int = 0
    idle: tuple[str, ...] = ()


class Pruned(msgspec.Struct, frozen=True):
    decisions: tuple[Decision, ...]
    swept: Swept


class Usage(msgspec.Struct, frozen=True):
    """One line of `du`. `shared` = of `size`, what others need too; `reclaimable` = what pruning everything would free."""

    kind: str  # "image", "record", "project", "layers", "blobs", "cache-mounts", "other", "database", "all"
    name: str
    size: int  # bytes
    shared: int = 0
    reclaimable: int = 0


def collect_garbage(store: LocalStore, *, dry_run: bool = False) -> Swept:
    """Remove what has no referrer and no living user: layers, blobs, tombstones, leftovers."""
    return prune(store, None, dry_run=dry_run).swept


def prune(store: LocalStore, policy: PrunePolicy | None, *, dry_run: bool = False) -> Pruned:
    """Collect garbage and, with a policy, layers of the cache, cache mounts, downloads and stat caches.

    Records that lose a layer become tombstones ("evicted").
    """
    layout, database = store.layout, store.database
    trash: list[Path] = []
    store.layers.flush()
    store.images.flush()
    with border(layout.root), store.lease.careful():
        whole = policy is not None and policy.project is None
        beside = idle(layout, database, dict(store.blobs.all())) if whole else []
        with standstill(layout):
            leases = live(layout)
            pins = frozenset().union(*leases.values())
            references = collect(layout, database)
            rows = store.layers.rows()
            of_cache = _prune_rows(store, rows, references, pins)
            if policy is not None and policy.project is not None:
                needed = projects(database)
                of_cache = [row for row in of_cache if needed.get(LayerId(row.name)) == {policy.project}]
            decisions = plan_prune([*of_cache, *beside], policy) if policy is not None else []
            names = {row.name for row in beside}
            going = {decision.row.name: decision.row for decision in decisions if decision.remove and decision.row.name in names}
            doomed = {LayerId(decision.row.name) for decision in decisions if decision.remove}
            layers = [row for row in rows if row.id not in pins and (row.id in doomed or row.id not in references.layers)]
            evicted = _evictions(store, {row.id for row in layers}, policy)
            if not dry_run:
                _bury(store, evicted, [row.id for row in layers])
                _drop_facts(store, references, pins, {row.id for row in layers}, policy)
                moved, urls = take_away(layout, going, _graves(store))
                trash += moved
                with database.write() as transaction:
                    transaction.many("DELETE FROM http WHERE url=?", [(url,) for url in urls])
                references = collect(layout, database)
            blobs = [(digest, size) for digest, size in store.blobs.all() if digest not in references.blobs and digest not in pins]
            unnamed = _unnamed(store, pins, {row.id for row in rows})
            if not dry_run:
                for path in [layout.layer(row.id) for row in layers] + unnamed:
                    grave = layout.tmp / store.lease.name()
                    if take(path, grave):
                        trash.append(grave)
                for digest, _ in blobs:
                    layout.blob(digest).unlink(missing_ok=True)
        for path in trash:
            remove(path)
        leftovers = [] if dry_run else sweep_ownerless(layout)
    if not dry_run:
        restore_ballast(layout)
        store.images.write_index()
    # A download's bytes are a blob and were counted there, if nothing else needs them.
    freed = sum(row.size for row in layers) + sum(size for _, size in blobs)
    freed += sum(row.size for row in going.values() if dry_run or not row.name.startswith("http:"))
    swept = Swept(
        tuple(row.id for row in layers), tuple(digest for digest, _ in blobs), tuple(leftovers), len(evicted), freed, tuple(going)
    )
    return Pruned(tuple(decisions), swept)


def prune_to_size(store: LocalStore, policy: PrunePolicy, *, dry_run: bool = False) -> tuple[Pruned, int]:
    """As `prune`, with `max_bytes` for all that the store takes on the disk: the database and its log, folders, listings, what images hold.
    -> (what went, bytes on the disk now; in a dry run those that would be left).

    Files that layers share count once, so it is measured again and goes on until it holds or nothing more may go.
    """
    if policy.max_bytes is None or policy.project is not None:
        done = prune(store, policy, dry_run=dry_run)
        store.database.compact()
        return done, on_disk(store.layout.root) - (done.swept.freed if dry_run else 0)
    decided: dict[str, Decision] = {}
    swept = Swept()
    goal = policy.max_bytes
    while True:
        before = on_disk(store.layout.root)
        counted = sum(each.row.size for each in prune(store, msgspec.structs.replace(policy, max_bytes=None), dry_run=True).decisions)
        # All that lies there beside what may be decided about.
        beside = max(0, before - counted)
        cap = max(0, goal - beside) if before > policy.max_bytes else None
        done = prune(store, msgspec.structs.replace(policy, max_bytes=cap), dry_run=dry_run)
        decided |= {decision.row.name: decision for decision in done.decisions}
        swept = _joined(swept, done.swept)
        if dry_run:
            return Pruned(tuple(decided.values()), swept), max(0, before - swept.freed)
        store.database.compact()
        left = on_disk(store.layout.root)
        if left <= policy.max_bytes or not (done.swept.layers or done.swept.blobs or done.swept.idle):
            return Pruned(tuple(decided.values()), swept), left
        goal = max(0, goal - (left - policy.max_bytes))  # files that layers share count in each of them


def _joined(one: Swept, other: Swept) -> Swept:
    return Swept(
        one.layers + other.layers,
        one.blobs + other.blobs,
        one.leftovers + other.leftovers,
        one.records + other.records,
        one.freed + other.freed,
        one.idle + other.idle,
    )


def on_disk(folder: Path) -> int:
    """Bytes that the file system gives for all below `folder`, itself included; a file with several names counts once. Follows nothing."""
    seen: set[tuple[int, int]] = set()
    total = os.lstat(folder).st_blocks * 512
    queue = [os.fsencode(folder)]
    while queue:
        try:
            found = os.scandir(queue.pop())
        except OSError:
            continue  # gone meanwhile, or not to be read
        with found:
            for entry in found:
                try:
                    about = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                if about.st_nlink > 1 and not entry.is_dir(follow_symlinks=False):
                    if (about.st_dev, about.st_ino) in seen:
                        continue
                    seen.add((about.st_dev, about.st_ino))
                total += about.st_blocks * 512
                if entry.is_dir(follow_symlinks=False):
                    queue.append(entry.path)
    return total


def du(store: LocalStore) -> list[Usage]:
    """Bytes by image, by record's own layer, by project, and by kind. "all" is what it takes on the disk, metadata and folders included."""
    references = collect(store.layout, store.database)
    rows = {row.id: row for row in store.layers.rows()}
    users: dict[LayerId, int] = {}
    stacks: list[tuple[str, list[LayerId]]] = []
    for image in store.images.all():
        stack = [layer for layer in dict.fromkeys(image.layers) if layer in rows]
        stacks.append((", ".join(image.names) or image.id[7:19], stack))
        for layer in stack:
            users[layer] = users.get(layer, 0) + 1
    out = [
        Usage("image", name, sum(rows[layer].size for layer in stack), sum(rows[layer].size for layer in stack if users[layer] > 1))
        for name, stack in stacks
    ]
    for layer in sorted(references.cached.keys() - references.images.keys()):
        if layer in rows:
            out.append(Usage("record", layer, rows[layer].size, 0, rows[layer].size))
    needed = projects(store.database)
    for project in sorted({name for names in needed.values() for name in names if name}):
        own = [rows[layer] for layer, names in needed.items() if project in names and layer in rows]
        alone = [row for row in own if needed[row.id] == {project}]
        size = sum(row.size for row in own)
        reclaimable = sum(row.size for row in alone if row.id not in references.images)
        out.append(Usage("project", project, size, size - sum(row.size for row in alone), reclaimable))
    free = sum(row.size for row in rows.values() if row.id not in references.images)
    out.append(Usage("layers", "", sum(row.size for row in rows.values()), 0, free))
    blobs = list(store.blobs.all())
    unneeded = sum(size for digest, size in blobs if digest not in references.blobs)
    out.append(Usage("blobs", "", sum(size for _, size in blobs), 0, unneeded))
    for kind, folder in (
        ("cache-mounts", store.layout.cachemounts),
        ("other", store.layout.http),
        ("other", store.layout.context),
    ):
        size = measure(folder)[1] if folder.is_dir() else 0
        out.append(Usage(kind, folder.name, size, 0, size))
    database = store.layout.database
    size = 0
    for path in database.parent.glob(f"{database.name}*"):
        with suppress(FileNotFoundError):  # its log goes with the last who uses it
            size += path.stat().st_size
    out.append(Usage("database", database.name, size))
    out.append(Usage("all", "", on_disk(store.layout.root)))
    return out


def _graves(store: LocalStore) -> Iterator[Path]:
    while True:
        yield store.layout.tmp / store.lease.name()


def _prune_rows(store: LocalStore, rows: Sequence[LayerRow], references: References, pins: frozenset[str]) -> list[PruneRow]:
    blobs = dict(store.blobs.all())
    out = []
    for row in rows:
        seconds, used = references.cached.get(row.id, (0.0, 0.0))
        size = row.size + (blobs.get(row.blob, 0) if row.blob is not None else 0)
        held = "a running build" if row.id in pins else references.images.get(row.id, "")
        out.append(PruneRow(row.id, size, row.created, max(row.last_used, used), seconds, held))
    return out


def _evictions(store: LocalStore, gone: set[LayerId], policy: PrunePolicy | None) -> list[tuple[str, str]]:
    """(record, fate) of living records that lose a layer, or that were not used for the policy's age."""
    out: list[tuple[str, str]] = []
    for record in records(store.database):
        if record.fate is not None:
            continue
        document = record.document()
        if policy is not None and policy.project is not None and (document is None or document.project != policy.project):
            if document is not None and any(layer.id in gone for layer in document.layers):
                out.append((record.id, "evicted"))
            continue
        old = policy is not None and policy.max_age is not None and policy.now - record.last_used > policy.max_age
        if document is None or any(layer.id in gone for layer in document.layers) or (policy is not None and policy.everything):
            out.append((record.id, "evicted"))
        elif old:
            out.append((record.id, "expired"))
    return out


def _bury(store: LocalStore, evicted: Sequence[tuple[str, str]], layers: Sequence[LayerId]) -> None:
    with store.database.write() as transaction:
        transaction.many("UPDATE records SET fate=? WHERE id=?", [(fate, record) for record, fate in evicted])
        transaction.many("DELETE FROM layers WHERE id=?", [(layer,) for layer in layers])
        limit = store.now() - _TOMBSTONE_DAYS * 86400
        transaction.run("DELETE FROM records WHERE fate IS NOT NULL AND last_used<?", (limit,))
        transaction.run("DELETE FROM selections WHERE last_used<?", (limit,))


def _drop_facts(store: LocalStore, references: References, pins: frozenset[str], gone: set[LayerId], policy: PrunePolicy | None) -> None:
    """Images without a name and pulled ones that lose a layer would only keep blobs that nothing can use.

    By age they go too, with old answers and downloads.
    """
    limit = -1.0
    if policy is not None and policy.project is None and (policy.everything or policy.max_age is not None):
        limit = math.inf if policy.everything else policy.now - (policy.max_age or 0.0)  # some are of a clock that was ahead
    with store.database.write() as transaction:
        lost = {manifest for manifest, layers in references.remotes.items() if layers & gone}
        transaction.many("DELETE FROM remotes WHERE manifest=?", [(manifest,) for manifest in lost])
        dangling = {image for image, layers in references.untagged.items() if layers & gone}
        dangling |= {row[0] for row in transaction.all(tuple[Digest], "SELECT id FROM images WHERE last_used<?", (limit,))}
        dangling &= references.untagged.keys() - pins
        transaction.many("DELETE FROM images WHERE id=?", [(image,) for image in dangling])
        transaction.run("DELETE FROM remotes WHERE checked<?", (limit,))
        transaction.run("DELETE FROM http WHERE checked<?", (limit,))
        transaction.run("DELETE FROM selections WHERE last_used<?", (limit,))


def _unnamed(store: LocalStore, pins: frozenset[str], known: set[LayerId]) -> list[Path]:
    """Folders in layers/ without a row, of no living process."""
    found = []
    for path in store.layout.layers.iterdir():
        layer = layer_of(path.name)
        if layer is None or (layer not in known and layer not in pins):
            found.append(path)
    return found
