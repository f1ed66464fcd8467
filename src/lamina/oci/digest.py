"""Digests as types: mypy keeps a diffID, a chainID and the digest of stored bytes apart. All are `algorithm:hex`."""

from __future__ import annotations

import hashlib
import re
from typing import NewType

from lamina.diagnostics.errors import LaminaError

Digest = NewType("Digest", str)
"""Hash of *stored* bytes (a blob: compressed layer, config, manifest)."""
DiffId = NewType("DiffId", str)
"""Hash of a layer's *uncompressed* tar (image spec, config.md)."""
ChainId = NewType("ChainId", str)
"""Hash over a stack of diffIDs (image spec, config.md)."""
StateId = NewType("StateId", str)
"""lamina's content id of a whole filesystem, free of mtimes: H(parent state, layer's normalised diff)."""
LayerId = NewType("LayerId", str)
"""Name of a layer directory: `diff:HEX` (digest of the normalised diff, for layers built here) or `sha256:HEX` (the diffID of a foreign layer)."""

_LENGTHS = {"sha256": 64, "sha384": 96, "sha512": 128}
_FORM = re.compile(r"([a-z0-9]+):([0-9a-f]+)")


class InvalidDigest(LaminaError):
    code = "oci/invalid-digest"
    default_exit = 2


def parse_digest(text: str) -> Digest:
    """`text` as a Digest; raises InvalidDigest (unknown algorithm, wrong length, upper case)."""
    found = _FORM.fullmatch(text)
    if not found or _LENGTHS.get(found[1]) != len(found[2]):
        raise InvalidDigest(f"{text!r} is not a digest", hint="a digest looks like sha256: followed by 64 hexadecimal digits")
    return Digest(text)


def sha256(data: bytes) -> Digest:
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


def chain(diff_ids: list[DiffId] | tuple[DiffId, ...]) -> ChainId | None:
    """The chainID of a stack, bottom first; None for an empty one."""
    current: str | None = None
    for diff_id in diff_ids:
        current = diff_id if current is None else sha256(f"{current} {diff_id}".encode())
    return None if current is None else ChainId(current)
