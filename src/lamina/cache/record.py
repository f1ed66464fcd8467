"""What a key leads to, in plain form, so that two records can be compared in words. Versioned documents, write-once."""

from __future__ import annotations

from typing import Any, NewType

import msgspec

from lamina.oci.digest import DiffId, Digest, LayerId, StateId

CacheKey = NewType("CacheKey", str)
"""sha256 over the canonical JSON of KeyParts; docs/dev/keys.md."""

KEY_SCHEMA = 1


class LayerRef(msgspec.Struct, frozen=True, omit_defaults=True):
    """One layer of a result. `content` is the digest of its normalised diff (built here) or its diffID (foreign)."""

    id: LayerId
    size: int = 0  # bytes of file content
    diff_id: DiffId | None = None  # None while it is still being hashed
    blob: Digest | None = None  # stored (compressed) form where one exists
    empty: bool = False
    packed: int = 0  # bytes of the plain tar, 0 = not counted yet
    blob_size: int = 0  # bytes of `blob`
    recipe: Digest | None = None  # of a shared cache: how `blob` is joined of chunks


class InputPart(msgspec.Struct, frozen=True, omit_defaults=True):
    """One input of an operation as the key sees it.

    kind: "filesystem" (id = state id), "files" (id = Merkle digest of the selected paths), "url" (id = digest of the bytes), "git" (commit),
    "watch" (ETag or digest), "image" (chainID).
    """

    kind: str
    id: str
    label: str = ""  # for words only, outside the key: "context", "stage build", a URL, a base reference
    listing: Digest | None = None  # blob with the Listing behind a "files" id, to name paths; outside the key


class KeyParts(msgspec.Struct, frozen=True):
    """The preimage of a key: schema version, the operation as plain data, the inputs in order (labels and listings left out)."""

    schema: int
    op: dict[str, Any]
    inputs: tuple[InputPart, ...]


class Place(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where in which Dockerfile; finds the nearest earlier record. Outside of the key."""

    dockerfile: str  # its name as given relative to the context
    stage: str  # name, or number as text
    position: int  # of the instruction inside the stage
    line: int
    text: str


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """key -> resulting filesystem. `state` is the content id of the whole result, `layers` are bottom first and complete."""

    key: CacheKey
    parts: KeyParts
    place: Place
    state: StateId
    layers: tuple[LayerRef, ...]
    diff: str  # digest of the normalised diff that this step made
    created: float  # seconds since the epoch
    seconds: float  # how long it took
    host: str
    build: str  # id of the build that wrote it
    schema: int = KEY_SCHEMA
    project: str = ""  # whose build wrote it, for accounting on this machine; not in what is handed over
