"""Many requests at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, TypeVar

from lamina.cache.remote.errors import CacheDenied, CacheError
from lamina.cache.remote.protocols import SMALL

if TYPE_CHECKING:
    from lamina.cache.remote.protocols import ObjectStore

WIDTH = 16

_T = TypeVar("_T")
_R = TypeVar("_R")


def each(work: Callable[[_T], _R], items: Collection[_T], width: int = WIDTH) -> list[_R]:
    """`work` of every item, in their order. The first failure stops what has not begun and is raised."""
    if len(items) <= 1:
        return [work(item) for item in items]
    from concurrent.futures import ThreadPoolExecutor

    stopped = False

    def one(item: _T) -> list[_R]:
        nonlocal stopped
        if stopped:
            return []
        try:
            return [work(item)]
        except BaseException:
            stopped = True
            raise

    with ThreadPoolExecutor(min(width, len(items)), thread_name_prefix="requests") as pool:
        try:
            return [result for found in list(pool.map(one, items)) for result in found]
        except BaseException:  # Ctrl-C in the waiting thread, too
            stopped = True
            raise


def small(store: ObjectStore, name: str, limit: int = SMALL) -> bytes | None:
    """`get`, but one object that cannot be believed is no bytes in place of an error: it must not spoil the look at all others."""
    try:
        return store.get(name, limit)
    except CacheError as error:
        if error.transient or isinstance(error, CacheDenied):
            raise
        return b""


def gather_by_listing(store: ObjectStore, prefixes: Sequence[str]) -> dict[str, dict[str, bytes]]:
    """`gather` for backends that list a prefix cheaply: list, then get, both side by side."""
    listed = each(lambda prefix: [entry.name for entry in store.list(prefix)], prefixes)
    wanted = [(prefix, name) for prefix, names in zip(prefixes, listed) for name in names]
    found: dict[str, dict[str, bytes]] = {}
    for (prefix, name), data in zip(wanted, each(lambda pair: small(store, pair[1]), wanted)):
        if data is not None:
            found.setdefault(prefix, {})[name] = data
    return found
