"""Tokens for a registry: the distribution project's token flow, for strangers now and for users through a CredentialSource."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlencode, urlsplit

from lamina.registry.challenge import Challenge, parse_challenges
from lamina.registry.errors import RegistryProtocolError, RegistryUnauthorized, shown
from lamina.registry.transport import Transport

_TOKEN_LIMIT = 1 << 20
LOGIN_HINT = "the repository may not exist or may need a login; only public repositories can be read without credentials"


@dataclass(frozen=True, slots=True)
class Credentials:
    """For one registry. Never in a log, a repr or an error."""

    username: str = field(repr=False)
    password: str = field(repr=False)


class CredentialSource(Protocol):
    """Where credentials come from. Asked once per registry and process; may be slow (a credential helper)."""

    def credentials(self, registry: str) -> Credentials | None:
        """For the registry's name as references have it (`docker.io`, `localhost:5000`); None to stay anonymous."""
        ...


class Anonymous:
    """No credentials for anyone."""

    def credentials(self, registry: str) -> Credentials | None:
        return None


class Authenticator:
    """Answers challenges and remembers the answer per registry and repository. Thread-safe."""

    def __init__(self, transport: Transport, source: CredentialSource) -> None:
        self._transport = transport
        self._source = source
        self._known: dict[tuple[str, str], str] = {}
        self._lock = threading.Lock()

    def header(self, registry: str, repository: str) -> str:
        """The Authorization value that worked last time; empty when none was needed."""
        with self._lock:
            return self._known.get((registry, repository), "")

    def answer(self, registry: str, repository: str, headers: Iterable[str], refused: str) -> str:
        """The Authorization value for a 401 with these WWW-Authenticate headers. `refused` is the value that got the 401.

        Raises RegistryUnauthorized when there is no (further) answer.
        """
        with self._lock:
            known = self._known.get((registry, repository), "")
            if known and known != refused:
                return known  # another thread was faster
            challenges = [c for header in headers for c in parse_challenges(header)]
            value = self._solve(registry, repository, challenges)
            if not value or (value == refused):
                raise RegistryUnauthorized(f"{registry} refuses to show {repository}", hint=LOGIN_HINT)
            self._known[registry, repository] = value
            return value

    def _solve(self, registry: str, repository: str, challenges: list[Challenge]) -> str:
        credentials = self._source.credentials(registry)
        for challenge in challenges:
            if challenge.scheme == "bearer":
                return "Bearer " + self._token(registry, repository, challenge, credentials)
        if credentials and any(c.scheme == "basic" for c in challenges):
            return _basic(credentials)
        return ""

    def _token(self, registry: str, repository: str, challenge: Challenge, credentials: Credentials | None) -> str:
        realm = challenge.get("realm")
        parts = urlsplit(realm)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RegistryProtocolError(f"{registry} names no address where tokens can be had")
        query = [("scope", challenge.get("scope") or f"repository:{repository}:pull")]
        if challenge.get("service"):
            query.insert(0, ("service", challenge.get("service")))
        url = realm + ("&" if parts.query else "?") + urlencode(query)
        headers = {"Authorization": _basic(credentials)} if credentials else {}
        with self._transport.request("GET", url, headers) as answer:
            if answer.status in (401, 403):
                raise RegistryUnauthorized(f"{registry} gives no token for {repository}", hint=LOGIN_HINT)
            if answer.status != 200:
                raise RegistryProtocolError(f"{shown(realm)} answers {answer.status} instead of a token for {repository}")
            body = answer.read(_TOKEN_LIMIT)
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            document = None
        token = (document.get("token") or document.get("access_token")) if isinstance(document, dict) else None
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise RegistryProtocolError(f"{shown(realm)} sent no token for {repository}")
        return token


def _basic(credentials: Credentials) -> str:
    return "Basic " + base64.b64encode(f"{credentials.username}:{credentials.password}".encode()).decode()
