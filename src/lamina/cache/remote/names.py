"""Names of objects: the one namespace that all backends keep (docs/dev/shared-cache.md). Pure.

    records/<key>/<scope>/<digest>    a signed record; <digest>: sha256 of the object's bytes
    mounts/<id>/<scope>/<digest>      a signed version of a cache mount; <id>: 32 digits of sha256 over its id
    blobs/<algorithm>/<hex>           a blob
    chunks/zstd/<hex>                 a part of something larger; <hex>: sha256 of its plain bytes, stored is one frame of zstd
    uses/<seconds>-<random>           names that a build used, one a line
    places/<place>/<seconds>-<key>    an empty object: then a record with this key was made at this place, or from this text

Names are lower-case ASCII but for the scope's component, have no empty, `.` or `..` component and are at most 400 characters long.
"""

from __future__ import annotations

import hashlib
import re
from typing import Literal

from lamina.cache.record import CacheKey, Place, Record
from lamina.cache.remote.errors import BadCacheSpec, CacheError
from lamina.oci.digest import Digest

Kind = Literal["records", "blobs", "uses", "places", "chunks", "mounts"]
KINDS: tuple[Kind, ...] = ("records", "blobs", "uses", "places", "chunks", "mounts")

_HEX = "[0-9a-f]{64}"
_SCOPE = r"[A-Za-z0-9_+=-][A-Za-z0-9_+=.-]{0,199}"
_NAME = re.compile(
    rf"(?P<records>records/(?P<key>{_HEX})/(?P<scope>{_SCOPE})/(?P<digest>{_HEX}))"
    rf"|(?P<mounts>mounts/[0-9a-f]{{32}}/{_SCOPE}/{_HEX})"
    rf"|(?P<chunks>chunks/zstd/{_HEX})"
    r"|(?P<blobs>blobs/(?P<algorithm>sha256|sha384|sha512)/(?P<hex>[0-9a-f]{64,128}))"
    r"|(?P<uses>uses/[0-9]{10}-[0-9a-f]{16})"
    rf"|(?P<places>places/[0-9a-f]{{32}}/[0-9]{{10}}-{_HEX})",
    re.ASCII,
)
_PREFIX = re.compile(
    rf"(records/({_HEX}/({_SCOPE}/)?)?|mounts/([0-9a-f]{{32}}/({_SCOPE}/)?)?|chunks/(zstd/)?|blobs/((sha256|sha384|sha512)/)?"
    r"|uses/|places/([0-9a-f]{32}/)?)?",
    re.ASCII,
)
_LENGTHS = {"sha256": 64, "sha384": 96, "sha512": 128}
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
_LONGEST_SCOPE = 100  # characters


def known(name: str) -> bool:
    """Whether `name` is one of the forms above. Everything else in a backend is foreign and left alone."""
    found = _NAME.fullmatch(name)
    if found is None:
        return False
    if found["blobs"] is not None:
        return _LENGTHS[found["algorithm"]] == len(found["hex"])
    return "=" not in name or _is_scope(name.split("/")[2])


def checked(name: str) -> str:
    """`name`; CacheError when it is none: nothing else is ever made into a path, tag or URL."""
    if not known(name):
        raise CacheError(f"{name[:80]!r} is no name of a cache object")
    return name


def known_prefix(prefix: str) -> bool:
    """Whether names begin with `prefix`, which ends at a component: `records/<key>/`, `blobs/`, or nothing for all."""
    return _PREFIX.fullmatch(prefix) is not None


def checked_prefix(prefix: str) -> str:
    """`prefix`; CacheError when no name begins with it."""
    if not known_prefix(prefix):
        raise CacheError(f"{prefix[:80]!r} is no prefix of cache objects")
    return prefix


def kind_of(name: str) -> str:
    return name.partition("/")[0]


def blob_name(digest: Digest) -> str:
    return checked("blobs/" + digest.replace(":", "/", 1))


def digest_of_blob(name: str) -> Digest:
    _, algorithm, text = checked(name).split("/")
    return Digest(f"{algorithm}:{text}")


def chunk_name(digest: str) -> str:
    """`digest`: sha256 of the plain bytes, 64 hexadecimal digits."""
    return checked(f"chunks/zstd/{digest}")


def mount_prefix(identifier: str) -> str:
    """Hashed: what people call their cache mounts is not for everybody's listing."""
    return checked_prefix(f"mounts/{hashlib.sha256(identifier.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}/")


def mount_name(identifier: str, scope: str, data: bytes) -> str:
    return checked(f"{mount_prefix(identifier)}{encode_scope(scope)}/{hashlib.sha256(data).hexdigest()}")


def scope_of(name: str) -> str | None:
    """The scope that a name tells; None for names without one."""
    return decode_scope(checked(name).split("/")[2]) if kind_of(name) in ("records", "mounts") else None


def shown(name: str) -> str:
    """For messages and lists: a blob's digest, a chunk's, or the name itself."""
    if kind_of(name) == "blobs":
        return digest_of_blob(name)
    return f"chunk {name.rpartition('/')[2][:12]}" if kind_of(name) == "chunks" else name


def key_prefix(key: CacheKey) -> str:
    return checked_prefix(f"records/{key.removeprefix('sha256:')}/")


def record_name(key: CacheKey, scope: str, data: bytes) -> str:
    return checked(f"{key_prefix(key)}{encode_scope(scope)}/{hashlib.sha256(data).hexdigest()}")


class RecordName:
    """A record's name taken apart."""

    __slots__ = ("digest", "key", "name", "scope")

    def __init__(self, name: str) -> None:
        _, key, scope, digest = checked(name).split("/")
        self.name = name
        self.key = CacheKey(f"sha256:{key}")
        self.scope = decode_scope(scope)
        self.digest = digest


def place_prefixes(place: Place) -> tuple[str, str]:
    """Where records of the same spot are told, and where those of the same text. Hashed: names of Dockerfiles are not for everybody."""
    return _place("spot", place.dockerfile, place.stage, str(place.position)), _place("text", place.text)


def _place(*words: str) -> str:
    return f"places/{hashlib.sha256(chr(0).join(words).encode('utf-8', 'surrogateescape')).hexdigest()[:32]}/"


def place_names(record: Record) -> tuple[str, str]:
    spot, text = place_prefixes(record.place)
    made = f"{min(9_999_999_999, max(0, int(record.created))):010d}-{record.key.removeprefix('sha256:')}"
    return checked(spot + made), checked(text + made)


def placed_key(name: str) -> CacheKey:
    return CacheKey(f"sha256:{checked(name).rpartition('-')[2]}")


def uses_name(now: float, random: str) -> str:
    return checked(f"uses/{int(now):010d}-{random}")


def used_at(name: str) -> float:
    """Seconds since the epoch, of a `uses/` name."""
    return float(checked(name).removeprefix("uses/").partition("-")[0])


def check_scope(scope: str) -> str:
    """`scope`; BadCacheSpec when it is empty, too long or not printable. `main`, `pr/17`, any name of a branch."""
    if not scope or len(scope) > _LONGEST_SCOPE or not scope.isprintable() or len(encode_scope(scope)) > 200:
        raise BadCacheSpec(f"{scope[:40]!r} is not a scope", hint="for example scope=main or scope=pr/17, at most 100 characters")
    return scope


def encode_scope(scope: str) -> str:
    """One component: `/` becomes `+`, a dot stays except at the beginning, other bytes outside of A-Za-z0-9_- become `=XX`."""
    letters = []
    for index, letter in enumerate(scope):
        if letter in _PLAIN or (letter == "." and index):
            letters.append(letter)
        elif letter == "/":
            letters.append("+")
        else:
            letters += [f"={byte:02X}" for byte in letter.encode("utf-8", "surrogateescape")]
    return "".join(letters)


def _is_scope(text: str) -> bool:
    try:
        decode_scope(text)
    except CacheError:
        return False
    return True


def decode_scope(text: str) -> str:
    """CacheError when `text` is not what `encode_scope` makes: one scope has one name."""
    data = bytearray()
    index = 0
    while index < len(text):
        if text[index] == "=":
            pair = text[index + 1 : index + 3]
            if not re.fullmatch("[0-9A-F]{2}", pair):
                raise CacheError(f"{text!r} is no scope")
            data.append(int(pair, 16))
            index += 3
        else:
            data += b"/" if text[index] == "+" else text[index].encode("ascii", "replace")
            index += 1
    scope = data.decode("utf-8", "surrogateescape")
    if encode_scope(scope) != text:
        raise CacheError(f"{text!r} is no scope")
    return scope
