"""The cache API: a shared cache for those who have a token, each with its scopes, and a quota that holds. Pure handlers over an ObjectStore.

What is put is verified on the way in: a blob or record with other bytes than its name says is never stored, a record is only taken for a
scope that the token may write. The wire format is in docs/dev/shared-cache.md.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

import msgspec

from lamina.cache.remote.chunks import STORED, BadChunk, plain_chunk
from lamina.cache.remote.envelope import BadEnvelope, unseal
from lamina.cache.remote.errors import BadCacheSpec, CacheDenied, CacheError, CacheFull, ObjectGone
from lamina.cache.remote.http import ROOT, Gathered, Names, Prefixes
from lamina.cache.remote.mounts import unseal_mount
from lamina.cache.remote.names import checked, checked_prefix, digest_of_blob, kind_of, scope_of
from lamina.cache.remote.protocols import SMALL, Body, ObjectStore
from lamina.diagnostics.errors import LaminaError
from lamina.oci import typed

_DOCUMENT = 8 << 20  # bytes of a JSON request
_ANSWER = 32 << 20  # bytes of records in one answer
_USES = 16 << 20
_WORDS = {"mounts": "version of a cache mount"}
_D = TypeVar("_D")


class Token(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`sha256` of the token, hexadecimal: the file holds no secret. `read`, `write`: patterns of scopes. `delete`: may delete everything;
    otherwise only records of scopes that it writes."""

    sha256: str
    read: tuple[str, ...] = ("*",)
    write: tuple[str, ...] = ()
    delete: bool = False


class Access(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """The server's access file. `quota`: bytes, metadata included; 0: none. `anonymous_read`: scopes that strangers read."""

    tokens: dict[str, Token] = {}
    quota: int = 0
    anonymous_read: tuple[str, ...] = ()


def read_access(path: Path) -> Access:
    """BadCacheSpec names the file and what is wrong with it."""
    import tomllib

    try:
        return typed.convert(tomllib.loads(path.read_text(encoding="utf-8")), Access)
    except OSError as error:
        raise BadCacheSpec(f"{path} cannot be read: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise BadCacheSpec(f"{path}: {error}") from error


class CacheRequest(msgspec.Struct, frozen=True):
    """`path` as it was sent, without query. `body` is read at most once, `length` bytes of it (None: not told)."""

    method: str
    path: str
    query: Mapping[str, str]
    authorization: str
    length: int | None
    body: Callable[[], Iterator[bytes]]
    start: int = 0  # of the bytes that are asked for: `Range: bytes=START-`


class CacheReply(msgspec.Struct, frozen=True):
    """`length` None: sent in chunks."""

    status: int
    body: Iterable[bytes] = ()
    length: int | None = 0
    content_type: str = "application/json"
    content_range: str = ""


class _Refused(LaminaError):
    code = "server/cache-refused"

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class CacheApi:
    """Thread-safe."""

    def __init__(self, store: ObjectStore, access: Access) -> None:
        self._store = store
        self._access = access
        self._lock = threading.Lock()
        self._used: int | None = None  # bytes; counted with the first object that is put

    def __call__(self, request: CacheRequest) -> CacheReply:
        """Never raises for what a client or the store did."""
        try:
            return self._handle(request)
        except _Refused as error:
            return _json(error.status, {"message": error.message})
        except CacheDenied as error:
            return _json(403, {"message": error.message})
        except CacheFull as error:
            return _json(507, {"message": error.message})
        except CacheError as error:
            return _json(503 if error.transient else 400, {"message": error.message})

    def _handle(self, request: CacheRequest) -> CacheReply:
        if not request.path.startswith(ROOT + "/"):
            raise _Refused(404, "page not found")
        token = self._token(request.authorization)
        what, _, rest = request.path.removeprefix(ROOT + "/").partition("/")
        method = "GET" if request.method == "HEAD" else request.method
        if (method, what) == ("GET", "objects"):
            return self._get(token, checked(unquote(rest)), request.start, head=request.method == "HEAD")
        if (method, what) == ("PUT", "objects"):
            return self._put(token, checked(unquote(rest)), request)
        if (method, what, rest) == ("GET", "list", ""):
            return self._list(token, request.query.get("prefix", ""))
        if (method, what, rest) == ("POST", "gather", ""):
            return self._gather(token, _document(request, Prefixes).prefixes)
        if (method, what, rest) == ("POST", "stat", ""):
            names = [name for name in _document(request, Names).names if self._readable(token, checked(name))]
            return _json(200, self._store.stat(names))
        if (method, what, rest) == ("POST", "delete", ""):
            return self._delete(token, _document(request, Names).names)
        raise _Refused(404, "page not found")

    def _token(self, authorization: str) -> Token:
        kind, _, given = authorization.partition(" ")
        if not authorization:
            if self._access.anonymous_read:
                return Token("", self._access.anonymous_read)
            raise _Refused(401, "a token is needed")
        digest = hashlib.sha256(given.strip().encode("utf-8", "surrogateescape")).hexdigest()
        found = None
        for token in self._access.tokens.values():  # all of them: the time must not tell which one nearly fits
            if hmac.compare_digest(token.sha256.lower().encode(), digest.encode()):
                found = token
        if found is None or kind.lower() != "bearer":
            raise _Refused(401, "this token is not known")
        return found

    def _readable(self, token: Token, name: str) -> bool:
        scope = scope_of(name)
        return scope is None or _fits(scope, token.read)

    def _get(self, token: Token, name: str, start: int, *, head: bool) -> CacheReply:
        about = self._store.stat([name]).get(name) if self._readable(token, name) else None
        if about is None:
            raise _Refused(404, "not there")
        pieces: Iterable[bytes] = () if head else self._stream(name)
        if 0 < start < about.size and not head:
            content_range = f"bytes {start}-{about.size - 1}/{about.size}"
            return CacheReply(206, _behind(pieces, start), about.size - start, "application/octet-stream", content_range)
        return CacheReply(200, pieces, about.size, "application/octet-stream")

    def _stream(self, name: str) -> Iterator[bytes]:
        """The first piece is asked for at once, so that an object that was just pruned is a 404."""
        pieces = self._store.stream(name)
        try:
            first = next(pieces, b"")
        except ObjectGone:
            raise _Refused(404, "not there") from None

        def rest() -> Iterator[bytes]:
            yield first
            yield from pieces

        return rest()

    def _put(self, token: Token, name: str, request: CacheRequest) -> CacheReply:
        kind = kind_of(name)
        if request.length is None or request.length < 0:
            raise _Refused(411, "Content-Length is needed")
        scope = scope_of(name)
        allowed = _fits(scope, token.write) if scope is not None else bool(token.write) or (kind == "uses" and bool(token.sha256))
        if not allowed:
            what = "this cache" if scope is None else f"the scope {scope}"
            raise _Refused(403, f"this token may not write to {what}")
        most = {"records": SMALL, "uses": _USES, "places": 0, "chunks": STORED, "mounts": SMALL}.get(kind)
        if most is not None and request.length > most:
            raise _Refused(413, f"more than {most} bytes are no {_WORDS.get(kind, kind.removesuffix('s'))}")
        if self._store.exists([name]):
            return _json(412, {"message": "already there"})
        self._reserve(request.length)
        stored = False
        try:
            stored = self._store.put(name, self._checked_body(name, kind, request))
        finally:
            if not stored:
                self._reserve(-request.length)
        return _json(201 if stored else 412, {"message": "stored" if stored else "already there"})

    def _checked_body(self, name: str, kind: str, request: CacheRequest) -> Body:
        assert request.length is not None
        if kind == "blobs":
            return Body(request.length, lambda: _verified(name, request.body()))
        data = b"".join(request.body())
        try:
            if kind == "records":
                unseal(name, data)
            elif kind == "mounts":
                unseal_mount(name, data)
            elif kind == "chunks":
                plain_chunk(name, data)
        except (BadEnvelope, BadChunk) as error:
            raise _Refused(400, error.message) from error
        return Body(request.length, lambda: (data,))

    def _reserve(self, size: int) -> None:
        """Count bytes before they come, so that writers together do not go over the quota."""
        if not self._access.quota:
            return
        with self._lock:
            if self._used is None:
                self._used = sum(entry.size or 0 for entry in self._store.list(""))
            if size > 0 and self._used + size > self._access.quota:
                raise _Refused(507, f"the cache's quota of {self._access.quota} bytes is used up")
            self._used += size

    def _gather(self, token: Token, prefixes: tuple[str, ...]) -> CacheReply:
        found: dict[str, dict[str, str]] = {}
        total = 0
        for index, prefix in enumerate(prefixes):
            if total > _ANSWER:
                return _json(200, Gathered(found, prefixes[index:]))
            if kind_of(checked_prefix(prefix)) not in ("records", "mounts") or prefix.count("/") < 2:
                raise _Refused(400, "only the records of a key and the versions of a cache mount can be gathered")
            for name, data in self._store.gather([prefix]).get(prefix, {}).items():
                if self._readable(token, name):
                    found.setdefault(prefix, {})[name] = base64.b64encode(data).decode()
                    total += len(data)
        return _json(200, Gathered(found))

    def _list(self, token: Token, prefix: str) -> CacheReply:
        """One line for each object, the last one `end`: whoever does not see it has a part only."""
        checked_prefix(prefix)

        def lines() -> Iterator[bytes]:
            batch: list[str] = []
            for entry in self._store.list(prefix):
                if self._readable(token, entry.name):
                    batch.append(f"{entry.name} {entry.size or 0} {entry.modified or 0.0:.6f}\n")
                if len(batch) >= 1000:
                    yield "".join(batch).encode()
                    batch = []
            yield ("".join(batch) + "end\n").encode()

        return CacheReply(200, lines(), None, "text/plain; charset=us-ascii")

    def _delete(self, token: Token, names: tuple[str, ...]) -> CacheReply:
        for name in names:
            scope = scope_of(name)
            own = scope is not None and _fits(scope, token.write)
            if not token.delete and not own:
                raise _Refused(403, "this token may not delete that")
        self._store.delete(names)
        with self._lock:
            self._used = None
        return _json(200, {"deleted": len(names)})


def _verified(name: str, pieces: Iterable[bytes]) -> Iterator[bytes]:
    digest = digest_of_blob(name)
    algorithm = digest.partition(":")[0]
    found = hashlib.new(algorithm)
    for piece in pieces:
        found.update(piece)
        yield piece
    if f"{algorithm}:{found.hexdigest()}" != digest:
        raise _Refused(400, "other bytes than the name says; nothing was stored")


def _behind(pieces: Iterable[bytes], start: int) -> Iterator[bytes]:
    """Without the first `start` bytes."""
    for piece in pieces:
        if start < len(piece):
            yield piece[start:] if start else piece
        start = max(0, start - len(piece))


def _fits(scope: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(scope, pattern) for pattern in patterns)


def _document(request: CacheRequest, kind: type[_D]) -> _D:
    if request.length is None or not 0 <= request.length <= _DOCUMENT:
        raise _Refused(413, "a shorter document is needed")
    try:
        return typed.json(b"".join(request.body()), type=kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _Refused(400, f"not the document that is needed: {error}") from error


def _json(status: int, document: object) -> CacheReply:
    data = msgspec.json.encode(document)
    return CacheReply(status, (data,), len(data))
