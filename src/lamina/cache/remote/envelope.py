"""A record as it travels: one line of signatures, then the statement (canonical JSON). Write-once, versioned; pure.

    {"format":1,"signatures":[{"key":"ci","algorithm":"hmac-sha256","value":"…"}]}\\n
    {"blobs":[…],"format":1,"project":"…","record":{…},"scope":"main"}

Signatures are over `CONTEXT` and the statement's bytes; the statement names its scope and (in the record) its key, so that an object that
was copied to another name is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Literal

import msgspec

from lamina.cache.record import Record
from lamina.cache.remote.errors import CacheError
from lamina.cache.remote.names import RecordName, blob_name, record_name
from lamina.oci.canonical import canonical
from lamina.oci.digest import Digest, LayerId
from lamina.oci.unreadable import UNREADABLE

FORMAT = 1
CONTEXT = b"lamina shared cache record 1\n"
_MOST_SIGNATURES = 16

Purpose = Literal["layer", "listing", "recipe"]


class BadEnvelope(CacheError):
    """The object is no record, or not the one that its name says."""

    code = "cache/bad-record"


class BlobRef(msgspec.Struct, frozen=True, omit_defaults=True):
    """A blob that a record needs. `size` in stored bytes; for a layer also which one it is and how it is compressed (its media type).

    With a `recipe` (a blob of the cache) the cache does not have the blob itself but chunks of which it is joined.
    """

    digest: Digest
    size: int
    purpose: Purpose = "layer"
    layer: LayerId | None = None
    media_type: str = ""
    recipe: Digest | None = None

    @property
    def stored(self) -> Digest:
        """The blob that lies in the cache."""
        return self.recipe or self.digest


class Statement(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is signed. The same record of the same writer is the same object: nothing in it says when it was published."""

    record: Record
    scope: str
    blobs: tuple[BlobRef, ...] = ()
    project: str = ""
    format: int = msgspec.field(default=FORMAT)


class Signature(msgspec.Struct, frozen=True):
    """`value` is hexadecimal."""

    key: str
    algorithm: Literal["hmac-sha256", "ed25519"]
    value: str


class _Header(msgspec.Struct, frozen=True):
    format: int
    signatures: tuple[Signature, ...] = ()


class Envelope(msgspec.Struct, frozen=True):
    """`body`: the statement's bytes as they were signed. `name` is the object's."""

    name: str
    statement: Statement
    body: bytes
    signatures: tuple[Signature, ...]
    size: int


_header = msgspec.json.Decoder(_Header)
_statement = msgspec.json.Decoder(Statement)


def seal(statement: Statement, sign: Callable[[bytes], tuple[Signature, ...]]) -> tuple[str, bytes]:
    """(name, bytes) of the object. `sign` gets what is to be signed; () leaves it unsigned."""
    body = canonical(statement)
    data = canonical(_Header(FORMAT, sign(CONTEXT + body))) + b"\n" + body
    return record_name(statement.record.key, statement.scope, data), data


def unseal(name: str, data: bytes) -> Envelope:
    """The bytes found under `name`. BadEnvelope when they are not what was put there, or of a newer format. Believes no signature."""
    parts = RecordName(name)
    if hashlib.sha256(data).hexdigest() != parts.digest:
        raise BadEnvelope(f"the record {parts.digest[:12]} was altered: its bytes do not have that digest")
    line, _, body = data.partition(b"\n")
    try:
        header = _header.decode(line)
        if header.format != FORMAT:
            raise BadEnvelope(f"the record {parts.digest[:12]} has the format {header.format}; {FORMAT} is known")
        statement = _statement.decode(body)
        for blob in statement.blobs:
            blob_name(blob.stored)
    except UNREADABLE as error:
        raise BadEnvelope(f"the record {parts.digest[:12]} cannot be read: {error}") from error
    except BadEnvelope:
        raise
    except CacheError as error:
        raise BadEnvelope(f"the record {parts.digest[:12]} needs a blob that cannot be: {error.message}") from error
    if statement.record.key != parts.key or statement.scope != parts.scope:
        raise BadEnvelope(f"the record {parts.digest[:12]} was made for another key or scope than it is found under")
    if len(header.signatures) > _MOST_SIGNATURES:
        raise BadEnvelope(f"the record {parts.digest[:12]} has {len(header.signatures)} signatures")
    return Envelope(name, statement, body, header.signatures, len(data))
