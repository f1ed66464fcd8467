"""Requests to registries with everything that stands around one: https or http, the token flow, mirrors for reading.

Credentials go to the registry that they are for: an upload address on another host gets none, and a challenge from a host that a
redirect led to is not answered.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import msgspec

from lamina.oci import typed
from lamina.oci.reference import Reference
from lamina.oci.unreadable import UNREADABLE
from lamina.registry.auth import LOGIN_HINT, WRITE_HINT, Anonymous, Authenticator, CredentialSource, Scopes, scope
from lamina.registry.errors import RegistryError, RegistryNotFound, RegistryProtocolError, RegistryUnauthorized, RegistryUnreachable
from lamina.registry.hosts import endpoint
from lamina.registry.transport import Body, Response, Transport, joined, origin

_ERROR_LIMIT = 64 << 10


class _OneError(msgspec.Struct):
    code: object = ""
    message: object = ""


class _Errors(msgspec.Struct):
    errors: list[_OneError] = []


class Session:
    """Thread-safe. `mirrors`: registry -> HOST[:PORT][/PREFIX] that are asked before it, for reading only."""

    def __init__(
        self, transport: Transport, credentials: CredentialSource | None = None, mirrors: Mapping[str, tuple[str, ...]] | None = None
    ) -> None:
        self.transport = transport
        self._auth = Authenticator(transport, credentials or Anonymous())
        self._mirrors = dict(mirrors or {})
        self._schemes: dict[str, str] = {}
        self._lock = threading.Lock()

    def mirrors(self, registry: str) -> tuple[str, ...]:
        return self._mirrors.get(registry, ())

    def distrust_mirrors(self, registry: str) -> None:
        """Ask only the registry itself from now on: a mirror sent wrong bytes. Idempotent."""
        with self._lock:
            self._mirrors.pop(registry, None)

    def _leave(self, registry: str, mirror: str) -> None:
        """A mirror that is down costs one time-out, not one for each blob."""
        with self._lock:
            self._mirrors[registry] = tuple(each for each in self._mirrors.get(registry, ()) if each != mirror)

    @contextmanager
    def read(self, method: str, reference: Reference, path: str, headers: Mapping[str, str] | None = None) -> Iterator[Response]:
        """GET or HEAD of `/v2/REPOSITORY/path`: from the first mirror that has it, else from the registry."""
        with ExitStack() as stack:
            for mirror in self.mirrors(reference.registry):
                host, _, prefix = mirror.partition("/")
                there = Reference(host, f"{prefix}/{reference.repository}" if prefix else reference.repository)
                attempt = ExitStack()
                try:
                    answer = attempt.enter_context(self.ask(method, there, path, headers, retry=False))
                except RegistryUnreachable:
                    self._leave(reference.registry, mirror)
                    continue
                except RegistryError:
                    continue
                if answer.status in (200, 206):
                    stack.enter_context(attempt)
                    break
                attempt.close()
            else:
                answer = stack.enter_context(self.ask(method, reference, path, headers))
            yield answer

    @contextmanager
    def ask(
        self,
        method: str,
        reference: Reference,
        path: str,
        headers: Mapping[str, str] | None = None,
        *,
        actions: str = "pull",
        also: Scopes = (),
        body: Body | None = None,
        retry: bool = True,
    ) -> Iterator[Response]:
        """One request for `path` below the repository. `actions` and `also` (whole scopes) are what the token must be good for."""
        url = f"{self.base(reference.registry)}/v2/{reference.repository}/{path}"
        scopes = (scope(reference.repository, actions), *also)
        with self._authorised(method, url, reference, scopes, headers, body, retry=retry) as answer:
            yield answer

    @contextmanager
    def follow(
        self,
        method: str,
        url: str,
        reference: Reference,
        headers: Mapping[str, str] | None = None,
        *,
        actions: str,
        body: Body | None = None,
        retry: bool = True,
    ) -> Iterator[Response]:
        """One request to an address that the registry gave (an upload's Location, the next page). On another host without credentials."""
        if origin(url) == origin(self.base(reference.registry)):
            with self._authorised(method, url, reference, (scope(reference.repository, actions),), headers, body, retry=retry) as answer:
                yield answer
        else:
            with self.transport.request(method, url, headers, body=body, retry=retry) as answer:
                yield answer

    def absolute(self, answer: Response, location: str, reference: Reference) -> str:
        """A Location header as an address; RegistryProtocolError when there is none."""
        if not location:
            raise RegistryProtocolError(f"{reference.registry} names no address for the upload to {reference.repository}")
        return joined(answer.url, location)

    def check(self, registry: str) -> None:
        """The API's own address with these credentials: raises RegistryUnauthorized when they are not taken."""
        reference = Reference(registry, "")
        url = f"{self.base(registry)}/v2/"
        with self._authorised("GET", url, reference, (), None, None, retry=True) as answer:
            if answer.status in (401, 403):
                raise RegistryUnauthorized(f"{registry} refuses this user")
            if answer.status not in (200, 404):
                raise RegistryProtocolError(f"{registry} answers {answer.status}; is it a registry?")

    @contextmanager
    def _authorised(
        self,
        method: str,
        url: str,
        reference: Reference,
        scopes: Scopes,
        headers: Mapping[str, str] | None,
        body: Body | None,
        *,
        retry: bool,
    ) -> Iterator[Response]:
        registry = reference.registry
        value = self._auth.header(registry, scopes)
        for attempt in range(3):
            sent = {**(headers or {}), **({"Authorization": value} if value else {})}
            with self.transport.request(method, url, sent, body=body, retry=retry) as answer:
                # Whoever a redirect led to must not be able to ask for this registry's credentials.
                if answer.status != 401 or attempt == 2 or origin(answer.url) != origin(url):
                    yield answer
                    return
                challenges = answer.headers("WWW-Authenticate")
            value = self._auth.answer(registry, reference.repository, scopes, challenges, value)

    def base(self, registry: str) -> str:
        """https, or http for hosts that may: asked once which of both they speak."""
        host = endpoint(registry)
        if not self.transport.plain_allowed(host):
            return f"https://{host}"
        with self._lock:
            known = self._schemes.get(host)
            if known is None:
                known = self._schemes[host] = self._scheme(host)
        return f"{known}://{host}"

    def _scheme(self, host: str) -> str:
        try:
            with self.transport.request("GET", f"http://{host}/v2/") as answer:
                return "https" if answer.status == 400 else "http"
        except RegistryUnreachable:
            try:
                with self.transport.request("GET", f"https://{host}/v2/", retry=False):
                    return "https"
            except (RegistryUnreachable, RegistryProtocolError):
                pass
            raise


def expect(answer: Response, reference: Reference, what: str, *wanted: int, writing: bool = False) -> None:
    """Return when the status is one of `wanted` (200 by default); otherwise the error that it means, with the registry's own words."""
    if answer.status in (wanted or (200,)):
        return
    said = _said(answer)
    if answer.status in (401, 403):
        verb, hint = ("write to", WRITE_HINT) if writing else ("show", LOGIN_HINT)
        hint = hint.replace("REGISTRY", reference.registry)
        raise RegistryUnauthorized(f"{reference.registry} refuses to {verb} {reference.repository}{said}", hint=hint)
    if answer.status == 404 and not writing:
        raise RegistryNotFound(f"{reference}: the registry has no such {what}", hint="check the name and the tag")
    raise RegistryProtocolError(f"{reference}: the registry answers {answer.status} for its {what}{said}")


def _said(answer: Response) -> str:
    """The registry's errors in words, short and printable; empty where it gives none."""
    try:
        found = typed.json(answer.read(_ERROR_LIMIT), type=_Errors).errors
    except (*UNREADABLE, RegistryError):
        return ""
    words = [f"{each.message or each.code}" for each in found[:3]]
    text = "".join(sign if sign.isprintable() else " " for sign in "; ".join(words)).strip()
    return f" ({text[:200]})" if text else ""
