"""Layer directories: `layers/<name>/diff` (+ `extra`), independent of what lies below them, read-only once they have their name.

A layer appears by one rename inside the transaction that writes its row, so a folder without a row is always the leftover
of a killed process. Files are not fsynced (a build of twenty steps would wait for the disk twenty times): the row remembers
under which boot the layer was written, and after a restart of the machine its first use compares names and bytes on disk with
the row. A layer that does not agree counts as absent and is made again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from lamina.oci.digest import DiffId, Digest, LayerId
from lamina.store.database import Database
from lamina.store.errors import border
from lamina.store.layout import Layout
from lamina.store.leases import Lease
from lamina.store.removal import remove, take
from lamina.store.standing import boot_id

UNKNOWN = -1
_CHUNK = 500  # SQLite's default limit of variables is 999


class LayerRow(msgspec.Struct, frozen=True, array_like=True):
    """What is known of a layer. `size` and `entries` as `measure` counts them; `diff` is the digest of its normalised diff."""

    id: LayerId
    size: int
    entries: int
    diff: str | None
    diff_id: DiffId | None
    blob: Digest | None
    created: float  # seconds since the epoch
    last_used: float
    boot: str | None  # written under this boot and not known to have reached the disk
    packed: int | None = None  # bytes of its tar, known once the diffID is


class LayerFacts(msgspec.Struct, frozen=True):
    """What its maker knows of a new layer; `extra` is the side table of the layer room (None: not needed); `measured` what `measure` would
    find, (names, bytes), where the maker has counted them."""

    diff: str | None = None
    diff_id: DiffId | None = None
    blob: Digest | None = None
    extra: bytes | None = None
    measured: tuple[int, int] | None = None


class ActiveLayer(msgspec.Struct, frozen=True):
    """A layer that is being made; only its owner sees it. Committed or discarded, at the latest with the store's closing."""

    path: Path

    @property
    def upper(self) -> Path:
        """Receives the files; has mode 0755."""
        return self.path / "layer" / "diff"

    @property
    def work(self) -> Path:
        """overlayfs' own folder, on the same file system as `upper`."""
        return self.path / "work"

    @property
    def extra(self) -> Path:
        """Where commit puts the side table; its maker may also write it here."""
        return self.path / "layer" / "extra"


class Layers:
    """Thread-safe. A layer that was asked for here stays until the store is closed."""

    def __init__(self, layout: Layout, database: Database, lease: Lease, now: Callable[[], float]) -> None:
        self._layout = layout
        self._database = database
        self._lease = lease
        self._now = now
        self._used: set[LayerId] = set()
        self._boot: str | None = None

    def begin(self) -> ActiveLayer:
        """A fresh, empty layer."""
        with border(self._layout.root):
            active = ActiveLayer(self._layout.active / self._lease.name())
            active.path.mkdir(0o700)
            active.work.mkdir(0o700)
            active.upper.parent.mkdir(0o700)
            active.upper.mkdir()
            active.upper.chmod(0o755)
        return active

    def commit(self, active: ActiveLayer, layer: LayerId, facts: LayerFacts, away: Callable[[Path], None] = remove) -> Path:
        """Give the layer its name, atomically, and return its `diff` folder. If it exists already the new one is discarded.

        `away` is given the rest of the active layer, which nobody needs any more; what is left of it the store's closing removes.
        """
        target = self._layout.layer(layer)
        with border(self._layout.root):
            if facts.extra is not None:
                active.extra.write_bytes(facts.extra)
            trash: Path | None = None
            entries, size = facts.measured or measure(active.upper)
            self._lease.pin((layer,))
            if self.path(layer) is None:
                trash = self._publish(active, layer, (size, entries), facts)
            else:
                self._complete(layer, facts)
            away(active.path)
            if trash is not None:
                remove(trash)
        self._used.add(layer)
        return target / "diff"

    def _publish(self, active: ActiveLayer, layer: LayerId, measured: tuple[int, int], facts: LayerFacts) -> Path | None:
        """Row and rename in one transaction; returns what stood in the way, to be removed."""
        target = self._layout.layer(layer)
        trash: Path | None = None
        now = self._now()
        moved = False
        try:
            with self._database.write() as transaction:
                row = transaction.first(LayerRow, "SELECT * FROM layers WHERE id=?", (layer,))
                if row is not None and row.boot in (None, self._this_boot()) and target.is_dir():
                    return None  # another process was first
                grave = self._layout.tmp / self._lease.name()
                if take(target, grave):  # of a process that was killed here, or torn by a power cut
                    trash = grave
                transaction.run(
                    "INSERT OR REPLACE INTO layers VALUES (?,?,?,?,?,?,?,?,?,NULL)",
                    (layer, *measured, facts.diff, facts.diff_id, facts.blob, now, now, self._this_boot()),
                )
                active.upper.parent.rename(target)
                moved = True
        except BaseException:
            with self._lease.careful():
                if moved and target.exists():
                    target.rename(active.upper.parent)
            raise
        return trash

    def _complete(self, layer: LayerId, facts: LayerFacts) -> None:
        """A layer that was here already learns what only its second maker knows."""
        if facts.diff or facts.diff_id or facts.blob:
            with self._database.write() as transaction:
                transaction.run(
                    "UPDATE layers SET diff=coalesce(diff,?), diff_id=coalesce(diff_id,?), blob=coalesce(blob,?) WHERE id=?",
                    (facts.diff, facts.diff_id, facts.blob, layer),
                )

    def discard(self, active: ActiveLayer) -> None:
        """Remove what was begun. Idempotent; also for trees with unreadable folders."""
        with border(self._layout.root):
            remove(active.path)

    def path(self, layer: LayerId) -> Path | None:
        """The layer's `diff` folder, protected from the collector from now on; None when it is not here."""
        return self.present((layer,)).get(layer)

    def extra(self, layer: LayerId) -> Path:
        """Where the layer's side table is, if it has one."""
        return self._layout.layer(layer) / "extra"

    def present(self, layers: Iterable[LayerId]) -> dict[LayerId, Path]:
        """Those that are here, with their `diff` folders."""
        wanted = list(dict.fromkeys(layers))
        found: dict[LayerId, Path] = {}
        with border(self._layout.root):
            folders = {layer: self._layout.layer(layer) / "diff" for layer in wanted}
            self._lease.pin(wanted)
            for row in self.rows(wanted):
                if folders[row.id].is_dir() and (row.boot is None or row.boot == self._this_boot() or self._survived(row)):
                    found[row.id] = folders[row.id]
                    self._used.add(row.id)
        return found

    def rows(self, layers: Iterable[LayerId] | None = None) -> list[LayerRow]:
        """Rows of these layers, or of all; says nothing about what is on disk."""
        if layers is None:
            return self._database.all(LayerRow, "SELECT * FROM layers")
        wanted = list(layers)
        found: list[LayerRow] = []
        for start in range(0, len(wanted), _CHUNK):
            chunk = wanted[start : start + _CHUNK]
            found += self._database.all(LayerRow, f"SELECT * FROM layers WHERE id IN ({','.join('?' * len(chunk))})", chunk)
        return found

    def row(self, layer: LayerId) -> LayerRow | None:
        return next(iter(self.rows((layer,))), None)

    def with_diff_id(self, diff_id: DiffId) -> LayerRow | None:
        """A layer whose tar has this diffID, whatever its name."""
        return self._database.first(LayerRow, "SELECT * FROM layers WHERE diff_id=? OR id=? LIMIT 1", (diff_id, diff_id))

    def set_diff_id(self, layer: LayerId, diff_id: DiffId, packed: int | None = None) -> None:
        """`packed`: bytes of the layer's tar, which whoever hashed it has counted."""
        self._set(layer, "diff_id", diff_id)
        if packed is not None:
            self._set(layer, "packed", packed)

    def set_diff(self, layer: LayerId, diff: str) -> None:
        """Record the digest of the normalised diff of a layer that came from elsewhere."""
        self._set(layer, "diff", diff)

    def set_blob(self, layer: LayerId, blob: Digest | None) -> None:
        """Record (or forget) the stored tar that the layer was packed into."""
        self._set(layer, "blob", blob)

    def flush(self) -> None:
        """Write when layers were used; done by the store's closing."""
        used, self._used = self._used, set()
        if used:
            now = self._now()
            with self._database.write() as transaction:
                transaction.many("UPDATE layers SET last_used=? WHERE id=? AND last_used<?", [(now, layer, now) for layer in used])

    def _set(self, layer: LayerId, column: str, value: str | int | None) -> None:
        with self._database.write() as transaction:
            transaction.run(f"UPDATE layers SET {column}=? WHERE id=?", (value, layer))

    def _this_boot(self) -> str:
        if self._boot is None:
            self._boot = boot_id()
        return self._boot

    def _survived(self, row: LayerRow) -> bool:
        """Whether a layer written before the machine's last start is all there; asked once per layer."""
        if not agrees(row, self._layout.layer(row.id) / "diff"):
            return False
        with self._database.write() as transaction:
            transaction.run("UPDATE layers SET boot=NULL WHERE id=?", (row.id,))
        return True


def measure(folder: Path) -> tuple[int, int]:
    """(names below `folder`, bytes in its regular files). A file with several names counts once per name. Follows nothing.

    With a folder that we may not read (an ordinary user outside of a user namespace) the names are UNKNOWN, the bytes what was seen. What goes
    meanwhile does not count: a step may be at work in a cache mount.
    """
    entries = size = 0
    unknown = False
    top = os.fsencode(folder)
    queue = [top]
    while queue:
        here = queue.pop()
        try:
            found = os.scandir(here)
        except PermissionError:
            unknown = True
            continue
        except FileNotFoundError:
            if here == top:
                raise
            continue
        with found:
            for entry in found:
                entries += 1
                if entry.is_dir(follow_symlinks=False):
                    queue.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    with suppress(FileNotFoundError):
                        size += entry.stat(follow_symlinks=False).st_size
    return UNKNOWN if unknown else entries, size


def agrees(row: LayerRow, folder: Path) -> bool:
    """Whether names and bytes on disk are those that the row was made with, as far as both could be counted."""
    entries, size = measure(folder)
    return UNKNOWN in (entries, row.entries) or (entries, size) == (row.entries, row.size)
