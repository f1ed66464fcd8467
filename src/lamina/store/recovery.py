"""After a kill: what dead processes left in tmp/, active/ and layers/ goes; what they changed last shows in index.json."""

from __future__ import annotations

from collections.abc import Collection

from lamina.oci.digest import LayerId
from lamina.store.database import Database
from lamina.store.layout import Layout, layer_of
from lamina.store.leases import Lease, dead
from lamina.store.refs import Images
from lamina.store.removal import remove


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


def sweep(layout: Layout, owners: Collection[str] | None, keep: Collection[str] = ()) -> list[str]:
    """Remove what these leases own in tmp/ and active/; with None: whatever is not owned by one of `keep`. Returns the names."""
    gone = []
    for folder in (layout.active, layout.tmp):
        for path in folder.iterdir():
            owner = path.name.partition(".")[0]
            if owner in owners if owners is not None else owner not in keep:
                remove(path)
                gone.append(f"{folder.name}/{path.name}")
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
            if transaction.first(tuple[str], "SELECT id FROM layers WHERE id=?", (layer,)) is not None or not folder.exists():
                continue
            folder.rename(trash)
        remove(trash)
