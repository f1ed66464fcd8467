"""What can go wrong between us and a registry, as the user reads it. URLs in messages have no query: it may hold a signature."""

from __future__ import annotations

from lamina.diagnostics.errors import LaminaError


class RegistryError(LaminaError):
    code = "registry/error"
    default_exit = 69


class RegistryUnreachable(RegistryError):
    """No connection, no answer in time, or an answer that asks to come back later. Always transient."""

    code = "registry/unreachable"
    default_exit = 69

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint, transient=True)


class RegistryNotFound(RegistryError):
    """The registry answered: there is no such repository, tag, manifest, platform or blob."""

    code = "registry/not-found"
    default_exit = 66


class RegistryUnauthorized(RegistryError):
    """The registry wants a login, or says that this repository does not exist for strangers."""

    code = "registry/unauthorized"
    default_exit = 77


class RegistryProtocolError(RegistryError):
    """The registry's answer breaks the distribution specification, lies about a digest, or asks for something unsafe."""

    code = "registry/protocol"
    default_exit = 76


def shown(url: str) -> str:
    """`url` for messages: without query, fragment and user information."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "an address that cannot be read"
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{port}{parts.path}"


class RegistryUnsupported(RegistryError):
    """Valid, but nothing that can be used here: foreign layers, manifests of schema 1."""

    code = "registry/unsupported"
    default_exit = 69
