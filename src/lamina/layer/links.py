"""Follow symbolic links inside a root by names alone: no link, '..' or absolute text leaves it."""

from __future__ import annotations

from collections.abc import Callable

from lamina.layer.entry import Entry, Kind

Lookup = Callable[[bytes], Entry | None]
"""Metadata of exactly this path, no link followed anywhere; None when absent."""

MAX_LINKS = 255  # as Linux and Go's filepath do, bounded


def follow(lookup: Lookup, path: bytes, *, last: bool = True, missing: bool = False) -> bytes | None:
    """The path without links; the final name is followed if `last`. None for a loop, and unless `missing` for an absent name.

    With `missing`, names from the first absent one on are kept as they are ('..' still removes one), as Go's fs.RootPath does.
    """
    todo = [part for part in reversed(path.split(b"/")) if part not in (b"", b".")]
    done: list[bytes] = []
    budget = MAX_LINKS
    while todo:
        part = todo.pop()
        if part == b"..":
            if done:
                done.pop()
            continue
        here = b"/".join([*done, part])
        entry = lookup(here)
        if entry is None:
            if not missing:
                return None
        elif entry.kind is Kind.SYMLINK and (todo or last):
            budget -= 1
            if budget < 0:
                return None
            if entry.link.startswith(b"/"):
                done.clear()
            todo.extend(p for p in reversed(entry.link.split(b"/")) if p not in (b"", b"."))
            continue
        done.append(part)
    return b"/".join(done)


def clean(path: bytes) -> bytes:
    """A path inside a root in plain form: no leading or trailing slash, no '.', no '..' (clamped at the root, by name)."""
    done: list[bytes] = []
    for part in path.split(b"/"):
        if part == b"..":
            if done:
                done.pop()
        elif part not in (b"", b"."):
            done.append(part)
    return b"/".join(done)
