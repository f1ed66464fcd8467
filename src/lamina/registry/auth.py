"""Authorization for a registry: basic, or the distribution project's token flow (GET with scopes; POST with a refresh token)."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterable, Sequence
from typing import Protocol
from urllib.parse import urlencode

from lamina.registry.challenge import Challenge, parse_challenges
from lamina.registry.errors import RegistryProtocolError, RegistryUnauthorized, shown
from lamina.registry.transport import Transport, taken_apart

_TOKEN_LIMIT = 1 << 20
LOGIN_HINT = "the repository may not exist, or it may need a login: lamina login REGISTRY"
WRITE_HINT = "log in with a user who may write there: lamina login REGISTRY"


class Credentials:
    """For one registry. Either a name with its password or an identity token. Never in a log, a repr or an error."""

    __slots__ = ("identity_token", "password", "username")

    def __init__(self, username: str, password: str, identity_token: str = "") -> None:
        self.username = username
        self.password = password
        self.identity_token = identity_token

    def __repr__(self) -> str:
        return "Credentials(…)"


class CredentialSource(Protocol):
    """Where credentials come from. Asked once per registry, repository and process; may be slow (a credential helper)."""

    def credentials(self, registry: str, repository: str) -> Credentials | None:
        """For the registry's name as references have it (`docker.io`, `localhost:5000`); None to stay anonymous."""
        ...


class Anonymous:
    """No credentials for anyone."""

    def credentials(self, registry: str, repository: str) -> Credentials | None:
        return None


class Given:
    """The same credentials for one registry: what `login` tries out."""

    def __init__(self, registry: str, credentials: Credentials) -> None:
        self._registry = registry
        self._credentials = credentials

    def credentials(self, registry: str, repository: str) -> Credentials | None:
        return self._credentials if registry == self._registry else None


Scopes = tuple[str, ...]


def scope(repository: str, actions: str = "pull") -> str:
    """`repository:NAME:ACTIONS`; actions are "pull", "pull,push" or "delete,pull"."""
    return f"repository:{repository}:{actions}"


class Authenticator:
    """Answers challenges and remembers the answer per registry and scopes. Thread-safe."""

    def __init__(self, transport: Transport, source: CredentialSource) -> None:
        self._transport = transport
        self._source = source
        self._known: dict[tuple[str, Scopes], str] = {}
        self._lock = threading.Lock()

    def header(self, registry: str, scopes: Scopes) -> str:
        """The Authorization value that worked last time; empty when none was needed."""
        with self._lock:
            return self._known.get((registry, scopes), "")

    def answer(self, registry: str, repository: str, scopes: Scopes, headers: Iterable[str], refused: str) -> str:
        """The Authorization value for a 401 with these WWW-Authenticate headers. `refused` is the value that got the 401.

        Raises RegistryUnauthorized when there is no (further) answer.
        """
        with self._lock:
            known = self._known.get((registry, scopes), "")
            if known and known != refused:
                return known  # another thread was faster
            challenges = [c for header in headers for c in parse_challenges(header)]
            value = self._solve(registry, repository, scopes, challenges)
            if not value or (value == refused):
                raise RegistryUnauthorized(_refusal(registry, repository, scopes), hint=_hint(scopes).replace("REGISTRY", registry))
            self._known[registry, scopes] = value
            return value

    def _solve(self, registry: str, repository: str, scopes: Scopes, challenges: list[Challenge]) -> str:
        credentials = self._source.credentials(registry, repository)
        for challenge in challenges:
            if challenge.scheme == "bearer":
                return "Bearer " + self._token(registry, repository, scopes, challenge, credentials)
        if credentials and credentials.username and any(c.scheme == "basic" for c in challenges):
            return _basic(credentials)
        return ""

    def _token(self, registry: str, repository: str, scopes: Scopes, challenge: Challenge, credentials: Credentials | None) -> str:
        realm = challenge.get("realm")
        parts = taken_apart(realm)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RegistryProtocolError(f"{registry} names no address where tokens can be had")
        service = challenge.get("service")
        wanted = _united(scopes, challenge.get("scope").split())
        if credentials and credentials.identity_token:
            form = [("grant_type", "refresh_token"), ("client_id", "lamina"), ("refresh_token", credentials.identity_token)]
            form += [("service", service)] if service else []
            form += [("scope", " ".join(wanted))] if wanted else []
            method, url, data = "POST", realm, urlencode(form).encode()
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
        else:
            query = ([("service", service)] if service else []) + [("scope", each) for each in wanted]
            method, url, data = "GET", realm + ("&" if parts.query else "?") + urlencode(query) if query else realm, None
            headers = {"Authorization": _basic(credentials)} if credentials and credentials.username else {}

        def ask() -> bytes:
            with self._transport.request(method, url, headers, body=data, redirects=data is None) as answer:
                if answer.status in (400, 401, 403):
                    what = repository or registry
                    hint = _hint(scopes).replace("REGISTRY", registry)
                    raise RegistryUnauthorized(f"{registry} gives no token for {what}", hint=hint)
                if answer.status != 200:
                    raise RegistryProtocolError(f"{shown(realm)} answers {answer.status} instead of a token for {repository or registry}")
                return answer.read(_TOKEN_LIMIT)

        body = self._transport.whole(ask)
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            document = None
        token = (document.get("token") or document.get("access_token")) if isinstance(document, dict) else None
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise RegistryProtocolError(f"{shown(realm)} sent no token for {repository or registry}")
        return token


def _united(ours: Sequence[str], theirs: Sequence[str]) -> list[str]:
    """Ours, and of the challenge's scopes those that ours do not cover."""
    covered = set()
    for each in ours:
        name, _, actions = each.rpartition(":")
        covered |= {f"{name}:{action}" for action in actions.split(",")}
    found = list(ours)
    for each in theirs:
        name, _, actions = each.rpartition(":")
        if any(f"{name}:{action}" not in covered for action in actions.split(",")):
            found.append(each)
    return found


def _refusal(registry: str, repository: str, scopes: Scopes) -> str:
    if not repository:
        return f"{registry} refuses this user"
    return f"{registry} refuses to {'write to' if _writes(scopes) else 'show'} {repository}"


def _hint(scopes: Scopes) -> str:
    return WRITE_HINT if _writes(scopes) else LOGIN_HINT


def _writes(scopes: Scopes) -> bool:
    return any("push" in each or "delete" in each for each in scopes)


def _basic(credentials: Credentials) -> str:
    return "Basic " + base64.b64encode(f"{credentials.username}:{credentials.password}".encode()).decode()
