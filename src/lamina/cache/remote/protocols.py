"""The plug point below a shared cache: a flat namespace of write-once objects. Its twin is memory.py, its suite testing/conformance/objectstore.py."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

import msgspec

SMALL = 4 << 20  # bytes; more is no record
PIECE = 1 << 20


class Body(msgspec.Struct, frozen=True):
    """Bytes on their way out. `pieces` starts from the beginning each time it is called; an error from it means that nothing is put."""

    size: int
    pieces: Callable[[], Iterable[bytes]]


class Entry(msgspec.Struct, frozen=True):
    """`size`: bytes that it takes there. `modified`: seconds since the epoch by the backend's clock. None where listing does not tell it
    (`stat` does)."""

    name: str
    size: int | None = None
    modified: float | None = None


class Stat(msgspec.Struct, frozen=True):
    """`size` of the object's bytes; `overhead`: what the backend needs around them, as far as it tells."""

    size: int
    modified: float
    overhead: int = 0


class ObjectStore(Protocol):
    """Write-once objects (names.py). Thread-safe. Every method may raise CacheUnavailable, CacheDenied, CacheError.

    Objects are visible whole or not at all. There is no way to change one, and no index: N writers, any of them killed at any
    instruction, leave the union of what they completed.
    """

    where: str
    """For messages: what the user wrote, without credentials."""

    def put(self, name: str, body: Body) -> bool:
        """Create; False when it was there already (it stays what it was). CacheFull."""
        ...

    def get(self, name: str, limit: int = SMALL) -> bytes | None:
        """A small object whole; None when it is not there. CacheError when it is longer than `limit`."""
        ...

    def stream(self, name: str) -> Iterator[bytes]:
        """ObjectGone with the first piece when it is not there. The bytes are not verified."""
        ...

    def gather(self, prefixes: Sequence[str]) -> dict[str, dict[str, bytes]]:
        """Small objects below each prefix by name; prefixes without any are left out. In parallel or in one request. Never a listing of
        more than these prefixes where the backend allows it."""
        ...

    def exists(self, names: Collection[str]) -> set[str]: ...
    def stat(self, names: Collection[str]) -> dict[str, Stat]:
        """Those that are there."""
        ...

    def list(self, prefix: str) -> Iterator[Entry]:
        """In no order; foreign names are passed over. What comes or goes meanwhile may be in it or not."""
        ...

    def delete(self, names: Collection[str]) -> None:
        """Idempotent."""
        ...

    def sweep(self, older_than: float) -> int:
        """Remove what killed writers left (modified before `older_than`); returns how many."""
        ...

    def close(self) -> None: ...


Enough = Callable[[str, bytes], bool]
"""Of a record's object (name, bytes): whether no other one of its key is needed."""


@runtime_checkable
class Pointed(Protocol):
    """What an ObjectStore has beside where listing a prefix may cost as much as the whole list: names that can be guessed. They are hints:
    each leads to one of several objects that would do, and every object is found without them too."""

    def first(self, prefixes: Sequence[str], scopes: Sequence[str], enough: Enough, *, others: bool) -> dict[str, dict[str, bytes]]:
        """As `gather` of `records/<key>/` prefixes, but one record that is `enough` will do. `scopes`: components that are believed;
        `others`: there are more of them than can be named. Lists only where a record is there and none of those looked at is enough."""
        ...

    def latest(self, places: Sequence[str], scopes: Sequence[str]) -> list[dict[str, bytes]]:
        """Records that were lately made at each of the `places/<place>/`, by name; a few of each scope."""
        ...

    def complete(self, names: Collection[str]) -> None:
        """Make the guessable names of these records, where a writer was killed before it did."""
        ...


def whole(data: bytes) -> Body:
    return Body(len(data), lambda: (data,))
