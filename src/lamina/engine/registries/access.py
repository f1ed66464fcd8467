"""The registry client of a command: with the logins, settings and certificates that the environment leads to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lamina.registry.auth import CredentialSource
    from lamina.registry.client import RegistryClient

_CERTIFICATES = (Path("/etc/containers/certs.d"), Path("/etc/docker/certs.d"))


def client_for(
    environment: Mapping[str, str] | None,
    proxies: Mapping[str, str],
    ca: Path | None,
    insecure: Sequence[str],
    patience: float | None = None,
) -> RegistryClient:
    """`patience`: seconds that one request may take with its repetitions (None: as long as it takes). `environment` says where logins and registries.toml lie (None: neither is read). Raises BadRegistrySettings; logins are read with the
    first challenge."""
    from lamina.registry.client import RegistryClient
    from lamina.registry.configuration import RegistrySettings, read_settings, settings_file
    from lamina.registry.hosts import Proxies
    from lamina.registry.logins import LENT, LentLogins, Logins, login_files
    from lamina.registry.transport import Transport, TransportSettings

    settings = RegistrySettings() if environment is None else read_settings(settings_file(environment))
    transport = TransportSettings(
        proxies=Proxies.from_environment(proxies),
        plain_http=frozenset((*insecure, *settings.insecure)),
        ca_file=ca,
        certificates=() if environment is None else _CERTIFICATES,
    )
    if patience is not None:
        from dataclasses import replace

        transport = replace(transport, patience=patience, read_timeout=patience, connect_timeout=min(patience, transport.connect_timeout))
    logins: CredentialSource | None = None if environment is None else Logins(login_files(environment))
    if environment is not None and environment.get(LENT):
        logins = LentLogins(environment[LENT], logins)
    return RegistryClient(Transport(transport), logins, mirrors=settings.mirrors, foreign=settings.foreign_layers)
