"""Tags of `oci://` that can be guessed, so that a lookup asks for what it wants and lists nothing: registries that ignore `last` answer
every listing with all their tags (docs/dev/shared-cache.md).

    k.<key>                     a record of the key, of any scope: without it there is none
    l.<key>.<scope>             a record of the key and scope
    n.<place>.<scope>.<0-3>     a record that was lately made at the place

Each names the manifest of a record that has its own tag too, and may be moved to another such record at any time: of two writers at once
either may win, and nothing is lost. A record gets its own tag first; where its writer was killed in between, it is as if it had not been
published, until somebody publishes it again or `verify --repair` completes it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import msgspec

from lamina.cache.remote.envelope import BadEnvelope, unseal
from lamina.cache.remote.names import RecordName, encode_scope, place_prefixes
from lamina.cache.remote.parallel import each
from lamina.cache.remote.protocols import Enough
from lamina.oci.digest import Digest, sha256

_SLOTS = 4  # records that are remembered of one place and scope, by their keys


class Found(msgspec.Struct, frozen=True):
    """What a tag names. `name` is empty: something, but no record of ours that this tag may name. `data`: the record's bytes where they
    stand in the manifest. `created`: seconds since the epoch."""

    digest: Digest
    raw: bytes
    name: str = ""
    data: bytes | None = None
    created: float = 0.0


class Tags(Protocol):
    """What is needed of the registry."""

    def read_tag(self, tag: str, fits: Callable[[str], bool]) -> Found | None:
        """None: there is no such tag. `fits`: whether it may name an object of this name."""
        ...

    def write_tag(self, tag: str, raw: bytes) -> None: ...
    def has_tag(self, tag: str) -> bool: ...
    def record_tags(self, key: str, *, recent: bool) -> Sequence[str]:
        """The own tags of the records of a short key."""
        ...

    def small(self, found: Found) -> bytes | None:
        """The bytes of a record; None when it is gone meanwhile."""
        ...


def short_key(name: str) -> str:
    """Of a record's name or of its prefix."""
    return name.split("/")[1][-40:]


def short_scope(component: str) -> str:
    return sha256(component.encode()).partition(":")[2][:16]


def record_pointers(name: str) -> tuple[str, str]:
    key = short_key(name)
    return f"k.{key}", f"l.{key}.{short_scope(name.split('/')[2])}"


class Pointers:
    def __init__(self, tags: Tags) -> None:
        self._tags = tags

    def publish(self, name: str, data: bytes, raw: bytes) -> None:
        """The record has got its own tag, and is the newest one of its key."""
        wanted = [*record_pointers(name), *_place_pointers(name, data)]
        each(lambda tag: self._tags.write_tag(tag, raw), wanted)

    def complete(self, name: str) -> None:
        """The record was there before. Its tag names what is missing."""
        missing = [tag for tag in record_pointers(name) if not self._tags.has_tag(tag)]
        found = self._tags.read_tag(own_tag(name), lambda there: there == name) if missing else None
        if found is not None and found.name:
            for tag in missing:
                self._tags.write_tag(tag, found.raw)

    def first(self, prefixes: Sequence[str], scopes: Sequence[str], enough: Enough, *, others: bool) -> dict[str, dict[str, bytes] | None]:
        """See Pointed.first; None for a prefix whose records must be listed."""
        return dict(zip(prefixes, each(lambda prefix: self._first(prefix, scopes, enough, others=others), prefixes)))

    def _first(self, prefix: str, scopes: Sequence[str], enough: Enough, *, others: bool) -> dict[str, bytes] | None:
        key = short_key(prefix)
        doubtful, found = others, dict[str, bytes]()
        for tag in (f"k.{key}", *(f"l.{key}.{short_scope(scope)}" for scope in scopes)):
            there = self._tags.read_tag(tag, lambda name, tag=tag: name.startswith(prefix) and tag in record_pointers(name))  # type: ignore[misc]  # mypy does not infer a default argument's type in a lambda
            if there is None:
                if tag.startswith("k."):
                    return {}
                continue
            data = self._tags.small(there) if there.name else None
            if data is None:
                doubtful = True
                continue
            if enough(there.name, data):
                return {there.name: data}
            found[there.name] = data
            doubtful = doubtful or there.name.split("/")[2] in scopes
        return None if doubtful else found

    def latest(self, places: Sequence[str], scopes: Sequence[str]) -> list[dict[str, bytes]]:
        wanted = [(place, scope, slot) for place in places for scope in scopes for slot in range(_SLOTS)]

        def one(asked: tuple[str, str, int]) -> tuple[str, bytes] | None:
            place, scope, slot = asked
            there = self._tags.read_tag(_place_tag(place, scope, slot), lambda name: name.split("/")[2] == scope)
            data = self._tags.small(there) if there is not None and there.name else None
            return None if data is None or there is None else (there.name, data)

        found: dict[str, dict[str, bytes]] = {place: {} for place in places}
        for (place, _, _), record in zip(wanted, each(one, wanted)):
            if record is not None:
                found[place][record[0]] = record[1]
        return [found[place] for place in places]

    def leave(self, names: Collection[str]) -> set[Digest]:
        """These records are about to be deleted: what points to them points to others where there are any. Returns further manifests of
        theirs, which two writers at once may have left."""
        left: set[Digest] = set()
        going = {own_tag(name) for name in names}
        for tag, survivors in self._survivors(names).items():
            there = self._tags.read_tag(tag, lambda name: own_tag(name) in going)
            if there is not None and there.name:
                left.add(there.digest)
                self._move(tag, survivors)
        return left

    def left(self, names: Collection[str]) -> None:
        """They are deleted. What others published meanwhile, and what its writer took for known, is found."""
        for tag, survivors in self._survivors(names).items():
            if survivors and not self._tags.has_tag(tag):
                self._move(tag, survivors)

    def _survivors(self, names: Collection[str]) -> dict[str, list[str]]:
        """Pointer -> own tags of records that it could name beside these."""
        going = {own_tag(name) for name in names}
        recent = False
        tags: dict[str, list[str]] = {}
        for key in {short_key(name) for name in names}:
            tags[key] = [tag for tag in self._tags.record_tags(key, recent=recent) if tag not in going]
            recent = True
        found: dict[str, list[str]] = {}
        for name in names:
            for pointer in record_pointers(name):
                stem = pointer.replace("l.", "r.", 1) + "." if pointer.startswith("l.") else "r."
                found[pointer] = [tag for tag in tags[short_key(name)] if tag.startswith(stem)]
        return found

    def _move(self, pointer: str, survivors: Sequence[str]) -> None:
        found = [there for tag in survivors if (there := self._tags.read_tag(tag, lambda name, tag=tag: own_tag(name) == tag))]  # type: ignore[misc]  # as above
        newest = max((there for there in found if there.name), key=lambda there: (there.created, there.name), default=None)
        if newest is not None:
            self._tags.write_tag(pointer, newest.raw)


def own_tag(name: str) -> str:
    """Of a record."""
    record = RecordName(name)
    return f"r.{short_key(name)}.{short_scope(encode_scope(record.scope))}.{record.digest}"


def _place_pointers(name: str, data: bytes) -> list[str]:
    try:
        record = unseal(name, data).statement.record
    except BadEnvelope:
        return []
    slot = int(record.key[-1], 16) % _SLOTS
    return [_place_tag(place, name.split("/")[2], slot) for place in place_prefixes(record.place)]


def _place_tag(place: str, scope: str, slot: int) -> str:
    return f"n.{place.split('/')[1]}.{short_scope(scope)}.{slot}"
