"""After a kill: what dead processes left in tmp/, active/ and layers/ goes; what they changed last shows in index.json."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from lamina.oci.digest import LayerId
from lamina.store.database import Database
from lamina.store.layout import Layout, layer_of
from lamina.store.leases import Lease, dead, live
from lamina.store.refs import Images
from lamina.store.removal import remove, take


def recover(layout: Layout, database: Database, lease: Lease, images: Images) -> int:
    """Clear up after processes that were killed; returns how many there were. One listing of a folder when there was none."""
    if not any(path.name != lease.id for path in layout.leases.iterdir()):
        return 0
    with dead(layout) as found:
        if found:
            sweep(layout, found)
            drop_unnamed(layout, database, lease)
            images.write_index()
        return len(found)


def sweep(layout: Layout, owners: Collection[str]) -> list[str]:
    """Remove what these leases own in tmp/ and active/. Returns the names."""
    return _remove(path for path in _belongings(layout) if _owner(path) in owners)


def sweep_ownerless(layout: Layout) -> list[str]:
    """Remove what no living lease owns in tmp/ and active/. Returns the names.

    Listed before the leases are: a process that begins meanwhile has its lease before it has anything else.
    """
    found = list(_belongings(layout))
    owners = live(layout)
    return _remove(path for path in found if _owner(path) not in owners)


def _belongings(layout: Layout) -> Iterable[Path]:
    for folder in (layout.active, layout.tmp):
        yield from folder.iterdir()


def _owner(path: Path) -> str:
    return path.name.partition(".")[0]


def _remove(paths: Iterable[Path]) -> list[str]:
    gone = []
    for path in paths:
        remove(path)
        gone.append(f"{path.parent.name}/{path.name}")
    return gone


def drop_unnamed(layout: Layout, database: Database, lease: Lease) -> None:
    """Layer folders without a row: of a process that died between rename and commit, or while it collected."""
    known = {row[0] for row in database.all(tuple[LayerId], "SELECT id FROM layers")}
    for folder in list(layout.layers.iterdir()):
        layer = layer_of(folder.name)
        if layer is None or layer in known:
            continue
        trash = layout.tmp / lease.name()
        with database.write() as transaction:  # who is about to give a folder its name does so inside a transaction, too
            if transaction.first(tuple[str], "SELECT id FROM layers WHERE id=?", (layer,)) is not None or not take(folder, trash):
                continue
        remove(trash)
