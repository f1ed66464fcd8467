"""`s3://bucket/prefix` (extra `s3`: obstore): objects are created with `If-None-Match: *`.

A blob of more than 16 MiB goes up in parts; where its bytes are the same under the same name, whoever finishes last changes nothing.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from lamina.cache.remote.errors import BadCacheSpec, CacheDenied, CacheError, CacheUnavailable, ObjectGone
from lamina.cache.remote.names import checked, checked_prefix, known
from lamina.cache.remote.parallel import each, gather_by_listing
from lamina.cache.remote.protocols import SMALL, Body, Entry, Stat

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import S3Store

_IN_PARTS = 16 << 20
_PART = 8 << 20
_PAGE = 1000  # names
_PART_TIME = 60.0  # seconds at least for one of them
_PROGRESS = 64 << 10
_MAX_TEARS = 3  # broken answers without any byte in between
_CAUSES = {
    "body error": "the answer broke off",
    "error sending request": "no answer, or not in time",
    "redirect": "the server redirects, and says nowhere to",
}
_AROUND = re.compile(r"Generic S3 error: |Error performing (\w+ request: )?|[A-Z]+ https?://\S+ in .* - ")
_STATUS = re.compile(r"status code: ([0-9]{3})")
_WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before further attempts at a server that was there a moment ago
_FINAL = (400, 401, 403, 404, 405, 501)
_T = TypeVar("_T")


class _Broken(CacheUnavailable):
    """An answer that began and did not end; the library repeats only what does not begin."""


class S3Objects:
    """See ObjectStore."""

    def __init__(
        self,
        store: S3Store,
        where: str,
        sender: S3Store | None = None,
        *,
        patience: float = 20.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`sender` is for what is long on its way out. `patience`: seconds that a server is waited for which was there before."""
        self._store = store
        self._sender = sender or store
        self.where = where
        self._conditions = True  # until the server shows that it knows none
        self._answered = False
        self._patience = patience
        self._sleep = sleep

    @classmethod
    def open(
        cls, bucket: str, prefix: str, options: Mapping[str, str], environment: Mapping[str, str], *, timeout: float = 20.0
    ) -> S3Objects:
        """`options`: region, endpoint. `timeout`: seconds for one answer; a blob may take longer, as long as it comes on. Proxies are those of
        the process (HTTPS_PROXY, NO_PROXY), authorities the system's and SSL_CERT_FILE's. Credentials are AWS's variables of `environment`,
        else what the machine or role gives."""
        try:
            from obstore.store import S3Store
        except ImportError:
            raise BadCacheSpec("s3:// caches need the extra `s3`", hint="pip install 'lamina[s3]'") from None
        config: dict[str, str] = {name: value for name, value in options.items() if name in ("region", "endpoint")}
        for variable, name in (
            ("AWS_ACCESS_KEY_ID", "access_key_id"),
            ("AWS_SECRET_ACCESS_KEY", "secret_access_key"),
            ("AWS_SESSION_TOKEN", "session_token"),
            ("AWS_ENDPOINT_URL_S3", "endpoint"),
            ("AWS_ENDPOINT_URL", "endpoint"),
            ("AWS_REGION", "region"),
            ("AWS_DEFAULT_REGION", "region"),
        ):
            if environment.get(variable):
                config.setdefault(name, environment[variable])
        plain = config.get("endpoint", "").startswith("http://")
        where = f"s3://{bucket}/{prefix}".rstrip("/")

        def made(seconds: float) -> S3Store:
            return S3Store(
                bucket,
                prefix=prefix or None,
                config=config,  # type: ignore[arg-type]  # a TypedDict of these names
                # Of one request with its body: the library knows no time-out for the next byte.
                client_options={
                    "allow_http": plain,
                    "timeout": timedelta(seconds=seconds),
                    "connect_timeout": timedelta(seconds=min(timeout, 10)),
                },
                retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=timeout)},
            )

        try:
            return cls(made(timeout), where, made(max(_PART_TIME, 3 * timeout)), patience=timeout)
        except Exception as error:
            raise BadCacheSpec(f"{where}: {_plain(error)}") from error

    def put(self, name: str, body: Body) -> bool:
        from obstore.exceptions import AlreadyExistsError, GenericError, NotSupportedError, PreconditionError

        checked(name)
        with self._border():
            if self._stat(name) is not None:
                return False
            if body.size > _IN_PARTS:
                self._ask(lambda: self._sender.put(name, _exact(self.where, body), use_multipart=True, chunk_size=_PART, max_concurrency=2))
                return True
            data = b"".join(_exact(self.where, body))
            try:
                if self._conditions:
                    self._ask(lambda: self._sender.put(name, data, mode="create", use_multipart=False))
                    return True
            except (AlreadyExistsError, PreconditionError):
                return False
            except (NotSupportedError, GenericError) as error:
                if not isinstance(error, NotSupportedError) and _status(error) != 501:
                    raise
                self._conditions = False
            # A server that knows no conditions: same name, same bytes.
            self._ask(lambda: self._sender.put(name, data, use_multipart=False))
            return True

    def get(self, name: str, limit: int = SMALL) -> bytes | None:
        return self._whole(lambda: self._get(name, limit))

    def _get(self, name: str, limit: int) -> bytes | None:
        from obstore.exceptions import NotFoundError

        try:
            found = self._ask(lambda: self._store.get(checked(name)))
        except (NotFoundError, FileNotFoundError):
            return None
        if found.meta["size"] > limit:
            raise CacheError(f"{self.where}: {name} has more than {limit} bytes")
        return bytes(found.bytes())

    def stream(self, name: str) -> Iterator[bytes]:
        """Goes on where an answer broke or took too long, as long as each brings something."""
        got, tears = 0, 0
        while True:
            begin = got
            try:
                for piece in self._from(name, got):
                    got += len(piece)
                    yield piece
                return
            except CacheUnavailable:
                tears = tears + 1 if got == begin else 0
                if tears >= (_MAX_TEARS if got else 1):  # the library itself repeats what does not even begin
                    raise

    def _from(self, name: str, start: int) -> Iterator[bytes]:
        from obstore.exceptions import NotFoundError

        with self._border():
            try:
                found = self._ask(lambda: self._store.get(checked(name), options={"range": {"offset": start}} if start else None))
            except (NotFoundError, FileNotFoundError) as error:
                raise ObjectGone(f"{self.where} has no {name}") from error
            for piece in found.stream(min_chunk_size=_PROGRESS):
                yield bytes(piece)

    def gather(self, prefixes: Sequence[str]) -> dict[str, dict[str, bytes]]:
        return gather_by_listing(self, prefixes)

    def exists(self, names: Collection[str]) -> set[str]:
        return set(self.stat(names))

    def stat(self, names: Collection[str]) -> dict[str, Stat]:
        listed = [checked(name) for name in names]
        return {name: found for name, found in zip(listed, each(self._stat, listed)) if found is not None}

    def list(self, prefix: str) -> Iterator[Entry]:
        below = checked_prefix(prefix).rstrip("/") or None
        last: str | None = None
        while True:
            page = self._whole(partial(self._page, below, last))
            for found in page:
                if known(found["path"]):
                    yield Entry(found["path"], found["size"], found["last_modified"].timestamp())
            if len(page) < _PAGE:
                return
            last = page[-1]["path"]

    def delete(self, names: Collection[str]) -> None:
        from obstore.exceptions import NotFoundError

        listed = [checked(name) for name in names]
        if listed:
            with self._border():
                try:
                    self._ask(lambda: self._store.delete(listed))
                except (NotFoundError, FileNotFoundError):
                    pass

    def sweep(self, older_than: float) -> int:
        """Uploads in parts that were left are for the bucket's life-cycle rule."""
        return 0

    def close(self) -> None:
        pass

    def _stat(self, name: str) -> Stat | None:
        from obstore.exceptions import NotFoundError

        with self._border():
            try:
                found = self._ask(lambda: self._store.head(name))
            except (NotFoundError, FileNotFoundError):
                return None
            return Stat(found["size"], found["last_modified"].timestamp())

    def _whole(self, work: Callable[[], _T]) -> _T:
        """An answer that is small; asked for again when it broke off."""
        for _ in range(_MAX_TEARS - 1):
            try:
                with self._border():
                    return work()
            except _Broken:
                continue
        with self._border():
            return work()

    def _page(self, below: str | None, after: str | None) -> Sequence[ObjectMeta]:
        return self._ask(lambda: next(iter(self._store.list(below, offset=after, chunk_size=_PAGE)), []))

    def _ask(self, request: Callable[[], _T]) -> _T:
        """The answer. A server that has answered before and does not now may be starting again: it is waited for.

        One that never answered is not: obstore has tried a few times, and a build should not wait long for a cache.
        """
        from obstore.exceptions import GenericError

        begun = time.monotonic()
        for wait in _WAITS:
            try:
                found = request()
            except GenericError as error:
                if not self._answered or _status(error) in _FINAL or time.monotonic() - begun + wait > self._patience:
                    raise
                self._sleep(wait * (0.75 + random.random() / 2))
                continue
            except Exception:
                self._answered = True  # it says that something is not there, or is there already
                raise
            self._answered = True
            return found
        return request()

    @contextmanager
    def _border(self) -> Iterator[None]:
        """obstore's errors become ours, without the keys that they may show."""
        from obstore import exceptions

        try:
            yield
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
            raise CacheDenied(f"{self.where} refuses these credentials", hint="AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY") from error
        except (exceptions.NotFoundError, FileNotFoundError) as error:
            raise CacheError(f"{self.where}: there is no such bucket", hint="buckets are not made by lamina: make it first") from error
        except exceptions.GenericError as error:
            if _status(error) in (401, 403):
                raise CacheDenied(f"{self.where} refuses these credentials") from error
            if _status(error) == 404:
                raise CacheError(f"{self.where}: there is no such bucket", hint="buckets are not made by lamina: make it first") from error
            broken = _Broken if "body error" in str(error) else CacheUnavailable
            raise broken(f"{self.where}: {_plain(error)}") from error
        except exceptions.BaseError as error:
            raise CacheError(f"{self.where}: {_plain(error)}") from error


def _exact(where: str, body: Body) -> Iterator[bytes]:
    size = 0
    for piece in body.pieces():
        size += len(piece)
        yield piece
    if size != body.size:
        raise CacheError(f"{where}: {size} bytes came in place of {body.size}")


def _status(error: BaseException) -> int:
    """The HTTP status in an error's first line; obstore has no other place for it. 0: none."""
    found = _STATUS.search(str(error).partition("\n")[0])
    return int(found[1]) if found else 0


def _plain(error: BaseException) -> str:
    """What went wrong, without what the library says around it: addresses with their queries, times, its debug output."""
    status = _status(error)
    if status:
        return f"the server answers {status}" + (" (too many requests)" if status == 429 else "")
    text = str(error).strip().partition("\n")[0]
    for part, words in _CAUSES.items():
        if part in text:
            return words
    from lamina.cache.wording import shorten

    return shorten(_AROUND.sub("", text), 200)
