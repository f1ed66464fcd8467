"""Cache mounts that machines share: brought before the first step that uses one, handed over after a build that went well.

Beside a mount's `data` lies `shared`: for each place the versions whose files this mount has, so that a pull that brings nothing costs one
lookup. It is out of reach of steps.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lamina.cache.remote.chunked import read_chunk
from lamina.cache.remote.chunks import Ahead, BadChunk, Chunk
from lamina.cache.remote.errors import BadCacheSpec, CacheError, ObjectGone
from lamina.cache.remote.mountcache import MountOffer, all_versions, has_state, listing_of, publish, versions
from lamina.cache.remote.mounts import MERGES, ListingTooLong, Merge, MountFile, MountListing, merged
from lamina.diagnostics.errors import nearest
from lamina.engine.locks import try_lock
from lamina.engine.mountfiles import FilesChanged, listing, opened, place, scan, wanted_chunks
from lamina.oci import typed
from lamina.oci.unreadable import UNREADABLE

if TYPE_CHECKING:
    from lamina.cache.remote.shared import SharedCache

_STATE = "shared"
_MOST_HEADS = 64  # versions that one pull looks into
_DRESS = re.compile(r" mode=[0-7]+ owner=\d+:\d+$")
_OWNER = re.compile(r" mode=([0-7]{1,11}) owner=([0-9]{1,10}):([0-9]{1,10})$")


class MountRule(msgspec.Struct, frozen=True):
    """One `--cache-mounts`. `id` "": every mount that no other rule names."""

    id: str = ""
    merge: Merge = "union"


class Moved(msgspec.Struct, frozen=True):
    """Of one mount and place: files that came or lie in the version that went, and bytes on the wire."""

    files: int
    bytes: int


class _Known(msgspec.Struct):
    """`places`: names of versions by place."""

    places: dict[str, tuple[str, ...]] = {}


def parse_rule(text: str) -> MountRule:
    """`all`, `id=ID`, `merge=union|newest`, or both after a comma. BadCacheSpec."""
    found: dict[str, str] = {}
    for part in text.split(",") if text and text != "all" else ():
        name, equals, value = part.partition("=")
        if name not in ("id", "merge") or not equals or not value or name in found:
            raise BadCacheSpec(f"--cache-mounts: {part!r} is not understood", hint="for example --cache-mounts=id=go-build,merge=newest")
        found[name] = value
    merge = next((one for one in MERGES if one == found.get("merge", "union")), None)
    if merge is None:
        close = nearest(found["merge"], MERGES)
        hint = f"did you mean {close}?" if close else "union: every file of every version; newest: the latest version"
        raise BadCacheSpec(f"--cache-mounts: there is no rule {found['merge']!r}", hint=hint)
    return MountRule(found.get("id", ""), merge)


def rule_for(identifier: str, rules: Sequence[MountRule]) -> MountRule | None:
    """`identifier` as `CacheMounts` keeps it, or as the Dockerfile writes it."""
    written = _DRESS.sub("", identifier)
    named = next((rule for rule in rules if rule.id and rule.id in (written, identifier)), None)
    return named or next((rule for rule in rules if not rule.id), None)


def shareable(identifier: str) -> bool:
    """Not those on top of another filesystem (`from=`): they hold what an overlay needs. Ids are text elsewhere."""
    return " from=" not in identifier and identifier.isprintable()


def pull(cache: SharedCache, identifier: str, data: Path, rule: MountRule, warn: Callable[[str], None]) -> Moved:
    """Bring what the mount does not have or has older; nothing of the mount is removed. `data` must be there and not be taken away
    meanwhile. CacheErrors are those of a cache that does not answer."""
    answer = versions(cache, identifier)
    for why in answer.refused:
        warn(f"cache mount {identifier}: a version in {cache.where} is not used (not-trusted): {why}")
    return _pull(cache, identifier, answer.offers[:_MOST_HEADS], data, rule, warn)


def _pull(
    cache: SharedCache, identifier: str, offers: Sequence[MountOffer], data: Path, rule: MountRule, warn: Callable[[str], None]
) -> Moved:
    with opened(data) as root:
        local = scan(root)
        known = read_known(data) if local else _Known()
        have = set(known.places.get(cache.where, ()))
        if rule.merge == "newest":
            offers = offers[:1]
            latest = max((file.mtime for file in local), default=0)
            if offers and offers[0].name not in have and latest > offers[0].statement.created * 1e9:
                return Moved(0, 0)
        if {offer.name for offer in offers} <= have:
            return Moved(0, 0)
        listings: list[tuple[float, MountListing]] = []
        read: list[str] = []
        for offer in offers:
            try:
                listings.append((offer.statement.created, listing_of(cache, offer)))
                read.append(offer.name)
            except (ObjectGone, BadChunk) as error:
                warn(f"cache mount {identifier}: a version in {cache.where} is not used: {error.message}")
        chosen = merged(listings, rule.merge)
        moved, complete = _bring(cache, root, local, [one for _, one in listings], chosen)
        if complete:
            known.places[cache.where] = tuple(sorted((have & {offer.name for offer in offers}) | set(read)))
            write_known(data, known)
        else:
            warn(f"cache mount {identifier}: some of its files in {cache.where} are gone or damaged")
    return moved


def push(cache: SharedCache, identifier: str, data: Path, *, alone: bool = False) -> Moved | None:
    """Hand over the mount, unless a version there is the same or it is empty (then None). FilesChanged when somebody writes into it.

    `alone`: the new version takes the place of all that are there; otherwise of those whose files this mount has.
    """
    offers = versions(cache, identifier).offers
    with opened(data) as root:
        files = scan(root)
        if not any(file.kind == "f" for file in files) or has_state(offers, files):
            return None
        known = read_known(data)
        listed = listing(root, files)
        if has_state(offers, listed.files):
            return None
        there = {offer.name for offer in offers}
        retired = there if alone else there & set(known.places.get(cache.where, ()))
        try:
            sent = publish(cache, identifier, listed, lambda digests: wanted_chunks(root, listed, digests), sorted(retired))
        except BadChunk as error:
            raise FilesChanged from error
    known.places[cache.where] = (sent.name, *sorted(there & set(known.places.get(cache.where, ())) - retired))
    write_known(data, known)
    return Moved(len(listed.files), sent.bytes)


def _bring(
    cache: SharedCache,
    root: int,
    local: Sequence[MountFile],
    listings: Sequence[MountListing],
    chosen: Mapping[bytes, tuple[int, MountFile]],
) -> tuple[Moved, bool]:
    """(what came, whether everything did)."""
    here = {file.path: file for file in local}
    wanted: dict[int, list[MountFile]] = {}
    count = 0
    about = os.fstat(root)
    owner = about.st_uid, about.st_gid
    for path in sorted(chosen):
        number, file = chosen[path]
        mine = here.get(path)
        if mine is not None and (file.kind != "f" or mine.kind != "f" or mine.mtime >= file.mtime):
            continue
        if file.kind == "f":
            wanted.setdefault(number, []).append(file)
        else:
            place(root, file, (), owner)
    size = [0]
    complete = True
    for number, files in wanted.items():
        try:
            for file, pieces in _contents(cache, listings[number], {file.path for file in files}, size):
                count += place(root, file, pieces, owner)
        except (ObjectGone, BadChunk):
            complete = False
    return Moved(count, size[0]), complete


def _contents(
    cache: SharedCache, listed: MountListing, paths: set[bytes], size: list[int]
) -> Iterator[tuple[MountFile, list[bytes] | Iterator[bytes]]]:
    """The wanted files with their bytes, in the listing's order. Each file's bytes must be taken before the next file is asked for."""
    ends = list(accumulate(chunk.size for chunk in listed.chunks))
    spans: list[tuple[MountFile, int, int]] = []
    at = 0
    for file in listed.files:
        if file.path in paths:
            spans.append((file, at, at + file.size))
        at += file.size
    order: dict[int, None] = {}
    for _, begin, end in spans:
        if end > begin:
            order.update(dict.fromkeys(range(bisect_right(ends, begin), bisect_right(ends, end - 1) + 1)))
    lock = threading.Lock()

    def fetch(chunk: Chunk) -> bytes:
        data, stored = read_chunk(cache, chunk)
        with lock:
            size[0] += stored
        return data

    numbers = list(order)
    with Ahead([listed.chunks[number] for number in numbers], fetch) as arriving:
        coming = iter(numbers)
        current, held = -1, b""
        for file, begin, end in spans:
            pieces: list[bytes] = []
            while begin < end:
                number = bisect_right(ends, begin)
                while current != number:
                    current, held = next(coming), arriving.take()
                start = ends[number] - listed.chunks[number].size
                piece = held[begin - start : end - start]
                pieces.append(piece)
                begin += len(piece)
            yield file, pieces


class MountSharing:
    """The shared cache mounts of one build. Thread-safe."""

    def __init__(
        self,
        rules: Sequence[MountRule],
        readers: Callable[[], Sequence[SharedCache]],
        writers: Callable[[], Sequence[SharedCache]],
        lost: Callable[[SharedCache, CacheError], None],
        warn: Callable[[str, str], None],
    ) -> None:
        self._rules, self._readers, self._writers, self._lost = rules, readers, writers, lost
        self._warn = lambda text: warn(text, "cache-mount")
        self._lock = threading.Lock()
        self._each: dict[Path, threading.Lock] = {}
        self._used: dict[Path, tuple[str, bool]] = {}
        self.pulled = Moved(0, 0)
        self.pushed = Moved(0, 0)

    def arrive(self, identifier: str, data: Path, reset: bool) -> None:
        """A step is about to use this mount, whose lock the caller holds. `reset`: it was emptied on purpose, and stays so."""
        rule = rule_for(identifier, self._rules)
        if rule is None or not shareable(identifier):
            return
        with self._lock:
            turn = self._each.setdefault(data, threading.Lock())
        with turn:
            if data in self._used:
                return
            self._used[data] = identifier, reset
            if reset:
                write_known(data, _Known())
                return
            for cache in self._readers():
                try:
                    moved = pull(cache, identifier, data, rule, self._warn)
                except CacheError as error:
                    self._lost(cache, error)
                    continue
                with self._lock:
                    self.pulled = Moved(self.pulled.files + moved.files, self.pulled.bytes + moved.bytes)

    def finish(self) -> None:
        """Hand over what the build used and changed."""
        for data, (identifier, reset) in self._used.items():
            rule = rule_for(identifier, self._rules)
            alone = reset or (rule is not None and rule.merge == "newest")
            for cache in self._writers():
                try:
                    moved = push_locked(cache, identifier, data, self._warn, alone=alone)
                except CacheError as error:
                    self._lost(cache, error)
                    continue
                if moved is not None:
                    self.pushed = Moved(self.pushed.files + moved.files, self.pushed.bytes + moved.bytes)


def push_locked(cache: SharedCache, identifier: str, data: Path, warn: Callable[[str], None], *, alone: bool = False) -> Moved | None:
    """`push`, unless another build has the mount for itself or writes into it now: that one will hand it over."""
    try:
        lock = os.open(data.parent / "lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None  # pruned meanwhile
    try:
        if not try_lock(lock, fcntl.LOCK_SH):
            warn(f"cache mount {identifier} is in use and is not handed over")
            return None
        return push(cache, identifier, data, alone=alone) if data.is_dir() else None
    except FilesChanged:
        warn(f"cache mount {identifier} changed while it was read and is not handed over")
        return None
    except ListingTooLong as error:
        warn(f"cache mount {identifier} is not handed over: {error.message}")
        return None
    finally:
        os.close(lock)


def push_all(cache: SharedCache, folder: Path, rules: Sequence[MountRule], warn: Callable[[str], None]) -> dict[str, Moved | None]:
    """`lamina cache push --cache-mounts`: every mount of the store (`folder` is that of CacheMounts) that a rule names, by id."""
    done: dict[str, Moved | None] = {}
    for path in sorted(folder.glob("*/0/id")):
        identifier = path.read_text(encoding="utf-8", errors="surrogateescape")
        rule = rule_for(identifier, rules)
        if rule is not None and shareable(identifier):
            done[identifier] = push_locked(cache, identifier, path.parent / "data", warn, alone=rule.merge == "newest")
    return done


def pull_all(
    cache: SharedCache,
    hold: Callable[[str, int, int, int], AbstractContextManager[Path]],
    rules: Sequence[MountRule],
    warn: Callable[[str], None],
) -> dict[str, Moved]:
    """`lamina cache pull --cache-mounts`. `hold` makes the mount of an id with mode, uid and gid and keeps it."""
    done: dict[str, Moved] = {}
    for identifier, answer in sorted(all_versions(cache).items()):
        rule = rule_for(identifier, rules)
        if rule is None or not shareable(identifier):
            continue
        for why in answer.refused:
            warn(f"cache mount {identifier}: a version is not used (not-trusted): {why}")
        if answer.offers:
            with hold(identifier, *_dress(identifier)) as data:
                done[identifier] = _pull(cache, identifier, answer.offers[:_MOST_HEADS], data, rule, warn)
    return done


def _dress(identifier: str) -> tuple[int, int, int]:
    """Mode, uid and gid that an id tells; those of a plain mount where it tells none, or such as nothing can have."""
    found = _OWNER.search(identifier)
    if found is None or max(int(found[2]), int(found[3])) >= 1 << 32:
        return 0o755, 0, 0
    return int(found[1], 8) & 0o7777, int(found[2]), int(found[3])


def read_known(data: Path) -> _Known:
    try:
        handle = os.open(data.parent / _STATE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return _Known()
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return _Known()
        try:
            return typed.json(file.read(1 << 20), type=_Known)
        except UNREADABLE:
            return _Known()


def write_known(data: Path, known: _Known) -> None:
    temporary = data.parent / f".{_STATE}-{os.getpid()}-{threading.get_ident()}"
    temporary.write_bytes(msgspec.json.encode(known))
    os.replace(temporary, data.parent / _STATE)
