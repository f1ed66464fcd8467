"""Logins that a client sends along: X-Registry-Auth (one registry) and X-Registry-Config (several). Used for that request only."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from lamina.server.errors import BadRequest

if TYPE_CHECKING:
    from lamina.registry.auth import Credentials

Given: TypeAlias = "Mapping[str, Credentials]"


def host_of(address: str) -> str:
    """`https://index.docker.io/v1/` and `docker.io` are one; a path is not part of it."""
    host = address.removeprefix("https://").removeprefix("http://").partition("/")[0]
    return "docker.io" if host in ("", "index.docker.io", "docker.io", "registry-1.docker.io") else host


def one(header: str, host: str) -> dict[str, Credentials]:
    """Of X-Registry-Auth, for the registry that the request is about."""
    found = _decoded(header)
    credentials = _credentials(found)
    return {} if credentials is None else {host: credentials}


def several(header: str) -> dict[str, Credentials]:
    """Of X-Registry-Config."""
    found: dict[str, Credentials] = {}
    for address, entry in _decoded(header).items():
        credentials = _credentials(entry) if isinstance(entry, dict) else None
        if credentials is not None:
            found[host_of(address)] = credentials
    return found


def _decoded(header: str) -> dict[str, Any]:
    """Docker's clients use URL-safe base64 with padding, others leave it away; `{}` and nothing are nothing."""
    if not header:
        return {}
    try:
        raw = base64.b64decode(header.replace("-", "+").replace("_", "/") + "=" * (-len(header) % 4))
        found = json.loads(raw or b"{}")
    except (ValueError, RecursionError, binascii.Error):
        raise BadRequest("the registry login in the request's header cannot be read") from None
    return found if isinstance(found, dict) else {}


def _credentials(entry: Mapping[str, Any]) -> Credentials | None:
    username, password = str(entry.get("username") or ""), str(entry.get("password") or "")
    token = str(entry.get("identitytoken") or "")
    if not (username or token):
        return None
    from lamina.registry.auth import Credentials

    return Credentials(username, password, token)


class GivenLogins:
    """A CredentialSource over what was sent along."""

    def __init__(self, given: Given) -> None:
        self._given = given

    def credentials(self, registry: str, repository: str) -> Credentials | None:
        return self._given.get(host_of(registry))
