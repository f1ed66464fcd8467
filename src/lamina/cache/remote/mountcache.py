"""Versions of cache mounts in a shared cache: found, believed or refused, and put there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec

from lamina.cache.remote.chunked import read_document, send_chunks, send_document
from lamina.cache.remote.chunks import Chunk
from lamina.cache.remote.envelope import BadEnvelope
from lamina.cache.remote.errors import CacheError
from lamina.cache.remote.mounts import (
    CONTEXT,
    MountFile,
    MountListing,
    MountStatement,
    dump_listing,
    heads,
    load_listing,
    seal_mount,
    state_of,
    unseal_mount,
)
from lamina.cache.remote.names import blob_name, mount_prefix, scope_of
from lamina.cache.remote.parallel import small
from lamina.cache.remote.protocols import whole
from lamina.oci.digest import sha256

if TYPE_CHECKING:
    from lamina.cache.remote.shared import SharedCache


class MountOffer(msgspec.Struct, frozen=True):
    """A version that is believed."""

    name: str
    statement: MountStatement


class MountAnswer(msgspec.Struct, frozen=True):
    """`offers`: newest first, none of which another one has merged. `refused`: why others are not believed, in words, each once."""

    offers: tuple[MountOffer, ...] = ()
    refused: tuple[str, ...] = ()


class MountSent(msgspec.Struct, frozen=True):
    """`bytes` that went out; `chunks`: how many of how many `of`. `new` is False where the same version was there."""

    name: str
    new: bool
    bytes: int
    chunks: int
    of: int


def versions(cache: SharedCache, identifier: str) -> MountAnswer:
    """Of one cache mount. One request or listing, no list of files."""
    prefix = mount_prefix(identifier)
    return _believed(cache, cache.objects.gather([prefix]).get(prefix, {})).get(identifier, MountAnswer())


def all_versions(cache: SharedCache) -> dict[str, MountAnswer]:
    """Of every cache mount that lies there, by its id."""
    found: dict[str, bytes] = {}
    for entry in cache.objects.list("mounts/"):
        data = small(cache.objects, entry.name)
        if data is not None:
            found[entry.name] = data
    return _believed(cache, found)


def listing_of(cache: SharedCache, offer: MountOffer) -> MountListing:
    """Verified. ObjectGone, BadChunk. Says first that the version is in use."""
    cache.announce([offer.name, blob_name(offer.statement.listing)])
    return load_listing(read_document(cache, offer.statement.listing))


def publish(
    cache: SharedCache,
    identifier: str,
    listing: MountListing,
    wanted: Callable[[set[str]], Iterable[tuple[Chunk, bytes]]],
    merged: Sequence[str],
) -> MountSent:
    """Chunks first, then the list of files, then the version. `merged`: names of versions that this one stands for; those of other scopes
    are left out. BadChunk when `wanted` gives other bytes than the listing says, ListingTooLong: no version is put."""
    document = dump_listing(listing)
    chunks = {chunk.name: chunk for chunk in listing.chunks}
    there = cache.announce(list(chunks), ahead=True) if chunks else set()
    count, size = send_chunks(cache, chunks, there, wanted)
    size += send_document(cache, document)
    scope = cache.trust.scope
    statement = MountStatement(
        identifier=identifier,
        scope=scope,
        listing=sha256(document),
        created=cache.now(),
        files=sum(file.kind == "f" for file in listing.files),
        size=sum(file.size for file in listing.files),
        state=listing.state(),
        merged=tuple(sorted(name for name in merged if scope_of(name) == scope)),
        project=cache.project,
    )
    version, data = seal_mount(statement, cache.trust.sign)
    new = cache.objects.put(version, whole(data))
    return MountSent(version, new, size + len(data) * new, count, len(chunks))


def has_state(offers: Sequence[MountOffer], files: Sequence[MountFile]) -> bool:
    """Whether one of the versions is these files."""
    state = state_of(files)
    return any(offer.statement.state == state for offer in offers)


def _believed(cache: SharedCache, found: dict[str, bytes]) -> dict[str, MountAnswer]:
    offers: dict[str, list[MountOffer]] = {}
    refused: dict[str, dict[str, None]] = {}
    for name, data in found.items():
        try:
            envelope = unseal_mount(name, data)
        except BadEnvelope:
            continue  # `verify` tells; whose it was is not known
        except CacheError:
            continue  # foreign
        statement = envelope.statement
        why = cache.trust.doubt(statement.scope, envelope.signatures, CONTEXT + envelope.body)
        if why is None:
            offers.setdefault(statement.identifier, []).append(MountOffer(name, statement))
        else:
            refused.setdefault(statement.identifier, {})[why] = None
    answers: dict[str, MountAnswer] = {}
    for identifier in {*offers, *refused}:
        listed = offers.get(identifier, [])
        kept = [listed[index] for index in heads([one.statement for one in listed], [one.name for one in listed])]
        kept.sort(key=lambda one: (-one.statement.created, one.name))
        answers[identifier] = MountAnswer(tuple(kept), tuple(refused.get(identifier, {})))
    return answers
