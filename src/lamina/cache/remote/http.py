"""`http(s)://server[/path]`: a lamina cache server (server/cacheapi.py; the wire format is in docs/dev/shared-cache.md)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar
from urllib.parse import quote

import msgspec

from lamina.cache.remote.errors import CacheDenied, CacheError, CacheFull, CacheUnavailable, ObjectGone
from lamina.cache.remote.names import checked, checked_prefix, known
from lamina.cache.remote.protocols import SMALL, Body, Entry, Stat
from lamina.oci import typed
from lamina.oci.unreadable import UNREADABLE
from lamina.registry.errors import RegistryError, RegistryUnreachable, shown
from lamina.registry.transport import Body as Sent
from lamina.registry.transport import Response, Torn, Transport, Trickle

ROOT = "/lamina-cache/v1"
_T = TypeVar("_T")
_NAMES = 1000  # of one request
_LARGE = 256 << 20
_MAX_TEARS = 6  # broken connections without much progress in between
_PROGRESS = 64 << 10
_LINE = 4 << 10  # bytes of one line of a list; names have at most 400


class Gathered(msgspec.Struct, frozen=True):
    """Answer of /gather: base64 by prefix and name; `left`: prefixes that did not fit and are to be asked for again."""

    found: dict[str, dict[str, str]]
    left: tuple[str, ...] = ()


class Names(msgspec.Struct, frozen=True):
    names: tuple[str, ...]


class Prefixes(msgspec.Struct, frozen=True):
    prefixes: tuple[str, ...]


class _Said(msgspec.Struct):
    message: str = ""


class HttpObjects:
    """See ObjectStore. The token goes to this server only, never along with a redirect."""

    def __init__(self, transport: Transport, url: str, token: str = "") -> None:
        self._transport = transport
        self._base = url.rstrip("/") + ROOT
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.where = shown(url).rstrip("/")

    def put(self, name: str, body: Body) -> bool:
        """Asks before it sends: what is there costs no upload."""
        if self.exists([name]):
            return False
        headers = {"Content-Length": str(body.size), "If-None-Match": "*", "Content-Type": "application/octet-stream"}

        def pieces() -> Iterator[bytes]:
            size = 0
            for piece in body.pieces():
                size += len(piece)
                if size > body.size:
                    break
                yield piece
            if size != body.size:
                raise CacheError(f"{self.where}: {size} bytes came in place of {body.size}")

        sent: Sent = pieces if body.size else b"".join(pieces())
        with self._ask("PUT", self._url(name), sent, headers) as answer:
            return self._expect(answer, 201, 412) == 201

    def get(self, name: str, limit: int = SMALL) -> bytes | None:
        def read(answer: Response) -> bytes | None:
            if self._expect(answer, 200, 404) == 404:
                return None
            length = answer.header("Content-Length")
            if length.isascii() and length.isdecimal() and int(length[:20]) > limit:
                raise CacheError(f"{self.where}: {name} has more than {limit} bytes")
            return answer.read(limit)

        return self._whole("GET", self._url(name), read)

    def stream(self, name: str) -> Iterator[bytes]:
        """Goes on where a connection broke, as long as each brings something."""
        got, tears = 0, 0
        while True:
            begin = got
            try:
                for piece in self._from(name, got):
                    got += len(piece)
                    yield piece
                return
            except Torn as torn:
                tears = tears + 1 if got - begin < _PROGRESS else 1
                if tears >= _MAX_TEARS or isinstance(torn, Trickle):
                    raise CacheUnavailable(torn.message, hint=torn.hint) from torn

    def _from(self, name: str, start: int) -> Iterator[bytes]:
        with self._raw("GET", self._url(name), headers={"Range": f"bytes={start}-"} if start else {}) as answer:
            if self._expect(answer, 200, 206, 404) == 404:
                raise ObjectGone(f"{self.where} has no {name}")
            if answer.status == 206 and not answer.header("Content-Range").startswith(f"bytes {start}-"):
                raise CacheError(f"{self.where} continues {name} at another place")
            skip = start if answer.status == 200 else 0  # a server that knows no ranges sends from the beginning
            for piece in answer.chunks():
                if skip < len(piece):
                    yield piece[skip:] if skip else piece
                skip = max(0, skip - len(piece))

    def gather(self, prefixes: Sequence[str]) -> dict[str, dict[str, bytes]]:
        """One request for all of them, mostly."""
        left = tuple(checked_prefix(prefix) for prefix in prefixes)
        gathered: dict[str, dict[str, bytes]] = {}
        while left:
            answer = self._post("gather", Prefixes(left), Gathered)
            for prefix, objects in answer.found.items():
                for name, text in objects.items():
                    if known(name) and name.startswith(prefix) and prefix in left:
                        gathered.setdefault(prefix, {})[name] = self._decoded(text)
            if len(answer.left) >= len(left):
                raise CacheError(f"{self.where} does not answer a lookup to its end")
            left = answer.left
        return gathered

    def exists(self, names: Collection[str]) -> set[str]:
        return set(self.stat(names))

    def stat(self, names: Collection[str]) -> dict[str, Stat]:
        listed = [checked(name) for name in names]
        found: dict[str, Stat] = {}
        for start in range(0, len(listed), _NAMES):
            found.update(self._post("stat", Names(tuple(listed[start : start + _NAMES])), dict[str, Stat]))
        return {name: found[name] for name in listed if name in found}

    def list(self, prefix: str) -> Iterator[Entry]:
        with self._ask("GET", f"{self._base}/list?prefix={quote(checked_prefix(prefix))}") as answer:
            self._expect(answer, 200)
            rest, ended = b"", False
            for piece in answer.chunks():
                *lines, rest = (rest + piece).split(b"\n")
                if len(rest) > _LINE:
                    raise CacheError(f"{self.where}: the list cannot be read; is it a lamina cache?")
                for line in lines:
                    words = line.decode("ascii", "replace").split(" ")
                    ended = words == ["end"]
                    if len(words) == 3 and known(words[0]) and words[0].startswith(prefix):
                        try:
                            yield Entry(words[0], int(words[1]), float(words[2]))
                        except ValueError:
                            continue
            if not ended:
                raise CacheUnavailable(f"{self.where}: the list broke off")

    def delete(self, names: Collection[str]) -> None:
        listed = [checked(name) for name in names]
        for start in range(0, len(listed), _NAMES):
            self._post("delete", Names(tuple(listed[start : start + _NAMES])), dict[str, int])

    def sweep(self, older_than: float) -> int:
        """The server's own matter."""
        return 0

    def close(self) -> None:
        self._transport.close()

    def _url(self, name: str) -> str:
        return f"{self._base}/objects/{quote(checked(name))}"

    def _post(self, what: str, document: object, kind: type[_T]) -> _T:
        headers = {"Content-Type": "application/json"}

        def read(answer: Response) -> bytes:
            self._expect(answer, 200)
            return answer.read(_LARGE)

        raw = self._whole("POST", f"{self._base}/{what}", read, msgspec.json.encode(document), headers)
        try:
            return typed.json(raw, type=kind)
        except UNREADABLE as error:
            raise CacheError(f"{self.where}: the answer cannot be read; is it a lamina cache?") from error

    def _decoded(self, text: str) -> bytes:
        try:
            return base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise CacheError(f"{self.where}: the answer cannot be read") from error

    def _whole(
        self, method: str, url: str, read: Callable[[Response], _T], body: Sent | None = None, headers: Mapping[str, str] | None = None
    ) -> _T:
        """An answer that is small; asked for again when it broke off."""

        def ask() -> _T:
            with self._raw(method, url, body, headers) as answer:
                return read(answer)

        try:
            return self._transport.whole(ask)
        except Torn as torn:
            raise CacheUnavailable(torn.message, hint=torn.hint) from torn

    @contextmanager
    def _ask(self, method: str, url: str, body: Sent | None = None, headers: Mapping[str, str] | None = None) -> Iterator[Response]:
        try:
            with self._raw(method, url, body, headers) as answer:
                yield answer
        except Torn as torn:
            raise CacheUnavailable(torn.message, hint=torn.hint) from torn

    @contextmanager
    def _raw(self, method: str, url: str, body: Sent | None = None, headers: Mapping[str, str] | None = None) -> Iterator[Response]:
        """Torn is left to the caller, all other errors become ours."""
        try:
            with self._transport.request(method, url, {**self._headers, **(headers or {})}, body=body) as answer:
                yield answer
        except Torn:
            raise
        except RegistryUnreachable as error:
            raise CacheUnavailable(error.message, hint=error.hint) from error
        except RegistryError as error:
            raise CacheError(error.message, hint=error.hint) from error

    def _expect(self, answer: Response, *wanted: int) -> int:
        """The status, when it is one of `wanted`; otherwise the error that it means, with the server's own words."""
        if answer.status in wanted and (answer.status not in (404, 412) or answer.header("X-Lamina-Cache")):
            return answer.status
        said = self._said(answer)
        if answer.status in (401, 403):
            raise CacheDenied(f"{self.where}: {said or 'refused'}", hint="token-file=PATH or token-env=NAME gives the server's token")
        if answer.status in (413, 507):
            raise CacheFull(f"{self.where}: {said or 'no space left'}")
        if answer.status >= 500:
            raise CacheUnavailable(f"{self.where} answers {answer.status}{': ' + said if said else ''}")
        hint = None if said else "is there a `lamina serve --cache` behind this address?"
        raise CacheError(f"{self.where} answers {answer.status}{': ' + said if said else ''}", hint=hint)

    def _said(self, answer: Response) -> str:
        try:
            message = typed.json(answer.read(64 << 10), type=_Said).message
        except (*UNREADABLE, RegistryError):
            return ""
        return "".join(sign for sign in message if sign.isprintable())[:200]
