"""`ADD https://…`: fetch one file, verify it, ask again cheaply; and ask whether a watched URL has changed.

Identity is the bytes. ETag and Last-Modified only save the transfer.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from lamina.diagnostics.errors import LaminaError
from lamina.oci.digest import Digest, parse_digest

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, PoolManager

MODE = 0o600  # of the fetched file in the image
_CHUNK = 1 << 20
_HEADERS = {"User-Agent": "lamina", "Accept-Encoding": "identity"}


class FetchFailed(LaminaError):
    """The URL gave no file: unreachable, refused or broken off. `transient` when trying again may help."""

    code = "http/fetch-failed"
    default_exit = 69


class ChecksumMismatch(LaminaError):
    """The bytes are not those that --checksum promises; nothing was kept."""

    code = "http/checksum-mismatch"
    default_exit = 65


class Answer(msgspec.Struct, frozen=True):
    """What a URL answered last. `digest` names bytes that the caller may still have."""

    etag: str
    last_modified: str
    digest: Digest


class Answers(Protocol):
    """The caller's memory of answers, by URL."""

    def get(self, url: str) -> Answer | None: ...
    def put(self, url: str, answer: Answer) -> None: ...


class Fetched(msgspec.Struct, frozen=True):
    """`path` is None when the bytes of `digest` are what the caller has already (not modified)."""

    path: Path | None
    digest: Digest
    filename: str
    mtime: float | None  # seconds, of Last-Modified
    size: int


def fetch(
    url: str, into: Path, *, checksum: Digest | None = None, answers: Answers | None = None, have: bool = False, timeout: float = 30.0
) -> Fetched:
    """Fetch `url` to the file `into` (made anew; removed again on failure) and verify `checksum`.

    `have`: the caller still has the bytes of the remembered answer, so "not modified" may be the answer.
    FetchFailed, ChecksumMismatch.
    """
    known = answers.get(url) if answers is not None else None
    headers = dict(_HEADERS)
    if known is not None and have and (checksum is None or checksum == known.digest):
        headers |= _conditions(known)
        if known.etag and _etag(url, timeout) == known.etag:  # some servers answer a conditional GET with the whole body
            return Fetched(None, known.digest, filename(url, None), http_date(known.last_modified), 0)
    with _request("GET", url, headers, timeout) as response:
        if response.status == 304 and known is not None:
            return Fetched(None, known.digest, filename(url, None), http_date(known.last_modified), 0)
        _expect(response, url)
        try:
            digest, size = _save(response, url, into, checksum)
            if checksum is not None and digest != checksum:
                raise ChecksumMismatch(
                    f"{_plain(url)} has the digest {digest}, not {checksum}", hint="the file changed, or --checksum is wrong"
                )
        except BaseException:
            into.unlink(missing_ok=True)
            raise
        modified = response.headers.get("Last-Modified", "")
        if answers is not None:
            answers.put(url, Answer(response.headers.get("ETag", ""), modified, digest))
        return Fetched(into, digest, filename(url, response.headers.get("Content-Disposition")), http_date(modified), size)


def _etag(url: str, timeout: float) -> str:
    """What HEAD says; "" when it says none."""
    with _request("HEAD", url, _HEADERS, timeout) as response:
        return response.headers.get("ETag", "") if response.status == 200 else ""


def probe(url: str, *, timeout: float = 15.0) -> str:
    """A short text that changes when the file behind a URL does: its ETag, else its Last-Modified, else the sha256 of its bytes.

    FetchFailed when there is no answer; the caller may then go by its old one.
    """
    with _request("HEAD", url, _HEADERS, timeout) as response:
        if response.status == 200:
            etag = response.headers.get("ETag", "")
            if etag:
                return f"etag:{etag.removeprefix('W/')}"
            modified = response.headers.get("Last-Modified", "")
            if modified:
                return f"modified:{modified}"
        elif response.status not in (403, 404, 405, 501):
            _expect(response, url)
    with _request("GET", url, _HEADERS, timeout) as response:
        _expect(response, url)
        hasher = hashlib.sha256()
        with _network(url):
            for chunk in response.stream(_CHUNK, decode_content=False):
                hasher.update(chunk)
        return f"sha256:{hasher.hexdigest()}"


class Seen(msgspec.Struct, frozen=True):
    """What HEAD says of a URL. `same`: it is what it was by ETag, else by date. `told`: the server gave one of them to compare.
    `size` None: not said."""

    same: bool
    told: bool
    size: int | None


def seen(url: str, etag: str, modified: str, *, timeout: float = 15.0) -> Seen:
    """Ask without reading. `etag` and `modified` are those of a download, "" where it had none. FetchFailed for no answer and for what is gone."""
    with _request("HEAD", url, _HEADERS, timeout) as response:
        if response.status in (403, 405, 501):
            return Seen(False, False, None)
        _expect(response, url)
        now, date = response.headers.get("ETag", ""), response.headers.get("Last-Modified", "")
        length = response.headers.get("Content-Length", "")
    size = int(length) if length.isascii() and length.isdecimal() and len(length) < 20 else None
    if etag and now:
        return Seen(etag == now, True, size)
    return Seen(bool(modified) and date == modified and not etag, bool(modified and date), size)


def digest_of(url: str, limit: int, *, timeout: float = 30.0) -> Digest | None:
    """Of the bytes that a URL gives now; None when they are more than `limit`. FetchFailed."""
    hasher = hashlib.sha256()
    size = 0
    with _request("GET", url, _HEADERS, timeout) as response:
        _expect(response, url)
        with _network(url):
            for chunk in response.stream(_CHUNK, decode_content=False):
                hasher.update(chunk)
                size += len(chunk)
                if size > limit:
                    return None
    return parse_digest(f"sha256:{hasher.hexdigest()}")


def filename(url: str, disposition: str | None) -> str:
    """BuildKit's rule: the server's Content-Disposition, else the last part of the URL's path, else "download"."""
    from urllib.parse import unquote, urlsplit

    for candidate in (_disposition(disposition or ""), unquote(urlsplit(url).path).rstrip("/").rpartition("/")[2]):
        name = candidate.replace("\\", "/").rpartition("/")[2]
        if name not in ("", ".", "..") and "\0" not in name:
            return name
    return "download"


def http_date(text: str) -> float | None:
    """Seconds since the epoch of an HTTP date, None if it is none."""
    if not text:
        return None
    from email.utils import parsedate_to_datetime

    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def _disposition(text: str) -> str:
    if not text:
        return ""
    from email.message import Message

    message = Message()
    message["Content-Disposition"] = text.replace("\r", " ").replace("\n", " ")
    try:
        return message.get_filename("") or ""
    except (TypeError, ValueError):  # Python's reader stumbles over one name told whole and in parts
        return ""


def _conditions(known: Answer) -> Mapping[str, str]:
    if known.etag:
        return {"If-None-Match": known.etag}
    return {"If-Modified-Since": known.last_modified} if known.last_modified else {}


def _pool(timeout: float) -> PoolManager:
    from urllib3 import PoolManager, Retry, Timeout

    retries = Retry(total=3, redirect=10, backoff_factor=0.2, status_forcelist=(502, 503, 504), raise_on_status=False)
    return PoolManager(num_pools=4, timeout=Timeout(connect=timeout, read=timeout), retries=retries)


@contextmanager
def _request(method: str, url: str, headers: Mapping[str, str], timeout: float) -> Iterator[BaseHTTPResponse]:
    with _pool(timeout) as pool:
        with _network(url):
            response = pool.request(method, url, headers=headers, preload_content=False)
        try:
            yield response
        finally:
            response.close()


@contextmanager
def _network(url: str) -> Iterator[None]:
    from urllib3.exceptions import HTTPError, MaxRetryError

    try:
        yield
    except ValueError as error:  # urllib3's LocationValueError, and Python's own of a redirect's address
        raise FetchFailed(f"cannot fetch {_plain(url)}: {error}") from error
    except HTTPError as error:
        reason = error.reason if isinstance(error, MaxRetryError) and error.reason is not None else error
        raise FetchFailed(f"cannot fetch {_plain(url)}: {_short(reason)}", hint="is the network up?", transient=True) from error


def _expect(response: BaseHTTPResponse, url: str) -> None:
    if response.status != 200:
        reason = f"{response.status} {response.reason or ''}".strip()
        raise FetchFailed(
            f"cannot fetch {_plain(url)}: the server answered {reason}", transient=response.status >= 500 or response.status == 429
        )


def _save(response: BaseHTTPResponse, url: str, into: Path, checksum: Digest | None) -> tuple[Digest, int]:
    algorithm = checksum.partition(":")[0] if checksum is not None else "sha256"
    hasher = hashlib.new(algorithm)
    size = 0
    try:
        fd = os.open(into, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
        with open(fd, "wb") as file, _network(url):
            for chunk in response.stream(_CHUNK, decode_content=False):
                hasher.update(chunk)
                file.write(chunk)
                size += len(chunk)
    except OSError as error:
        raise FetchFailed(f"cannot keep {_plain(url)}: {error.strerror or error}") from error
    return parse_digest(f"{algorithm}:{hasher.hexdigest()}"), size


def _plain(url: str) -> str:
    """The URL without a password or query, which may be secret."""
    from urllib.parse import urlsplit, urlunsplit

    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit((parts.scheme, host, parts.path, "", ""))
    except ValueError:
        return "the URL"


def _short(error: Exception) -> str:
    text = str(error)
    if "Name or service" in text or "getaddrinfo" in text or "resolve" in text:
        return "the host's name cannot be resolved"
    if "refused" in text:
        return "the connection was refused"
    if "timed out" in text:
        return "no answer in time"
    return text.rpartition(">: ")[2] or type(error).__name__
