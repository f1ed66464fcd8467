"""What makes builds faster and is in no layer: cache mounts, stat caches of contexts, downloads. Pruned by the same policy as layers.

A name here is `cachemounts/HASH/N`, `context/HASH` or `http:URL`. The contents are no business of the store; each room fills its own.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lamina.oci.digest import Digest
from lamina.store.database import Database
from lamina.store.layers import measure
from lamina.store.layout import Layout
from lamina.store.policy import PruneRow
from lamina.store.removal import take

_HTTP = "http:"


def idle(layout: Layout, database: Database, blobs: dict[Digest, int]) -> list[PruneRow]:
    """One row for each. Nothing says what they would cost to make again, so under a size cap they go before layers do. Reads whole folders."""
    rows = [*_mounts(layout), *_stat_caches(layout)]
    for url, digest, checked in database.all(tuple[str, Digest, float], "SELECT url, digest, checked FROM http"):
        rows.append(PruneRow(_HTTP + url, blobs.get(digest, 0), checked, checked, label=f"download {_shown(url)}"))
    return rows


def _mounts(layout: Layout) -> Iterator[PruneRow]:
    """A step that holds a mount holds a lock on it (engine/cachemounts.py); its file `id` is written at each use."""
    for place in sorted(layout.cachemounts.glob("*/*")):
        try:
            identifier = (place / "id").read_text(encoding="utf-8", errors="replace")
            used = (place / "id").stat().st_mtime
        except OSError:
            identifier, used = "?", 0.0
        with _locked(place) as free:
            held = "" if free else "a running step"
        name = place.relative_to(layout.root).as_posix()
        yield PruneRow(name, measure(place)[1], used, used, held=held, label=f"cache mount {_shown(identifier)}")


def _stat_caches(layout: Layout) -> Iterator[PruneRow]:
    for path in sorted(layout.context.iterdir()):
        try:
            found = path.stat(follow_symlinks=False)
        except FileNotFoundError:  # a build beside us has given it its name, or another prune was first
            continue
        used = max(found.st_mtime, found.st_atime)  # a build that found nothing new only reads it
        yield PruneRow(path.relative_to(layout.root).as_posix(), found.st_size, found.st_mtime, used, label="stat cache of a context")


def take_away(layout: Layout, names: Iterable[str], grave: Iterator[Path]) -> tuple[list[Path], list[str]]:
    """Move what can be taken to names of `grave`; -> (where it lies now, URLs whose answers are to be deleted). What a step has begun to use stays."""
    moved: list[Path] = []
    urls: list[str] = []
    for name in names:
        if name.startswith(_HTTP):
            urls.append(name.removeprefix(_HTTP))
            continue
        path = layout.root / name
        if path.parent == layout.context:
            path.unlink(missing_ok=True)
            continue
        with _locked(path) as free:
            target = next(grave)
            if free and take(path, target):
                moved.append(target)
    return moved, urls


@contextmanager
def _locked(place: Path) -> Iterator[bool]:
    """Whether nobody uses the mount; nobody can begin to, then, until the block ends."""
    try:
        descriptor = os.open(place / "lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        yield True  # it was never taken
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(descriptor)


def _shown(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
