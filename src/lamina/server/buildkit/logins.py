"""Logins at registries that a client has: they stay with it until a registry wants one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from lamina.registry.auth import Credentials

if TYPE_CHECKING:
    from lamina.server.buildkit.sessions import Session


class SessionLogins(Mapping[str, Credentials]):
    """The client's logins, asked for when a registry wants one."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __getitem__(self, host: str) -> Credentials:
        found = self._session.credentials("registry-1.docker.io" if host == "docker.io" else host)
        if found is None:
            raise KeyError(host)
        user, secret = found
        return Credentials(user, secret) if user else Credentials("", "", secret)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 1  # there may be some
