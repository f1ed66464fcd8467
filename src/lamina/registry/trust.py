"""Which authorities a registry's TLS certificate may come from, and the certificate that a client shows.

Folders are laid out as docker documents /etc/docker/certs.d: HOST[:PORT]/*.crt are authorities, NAME.cert with NAME.key is the client's.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lamina.registry.errors import RegistryError

if TYPE_CHECKING:
    from ssl import SSLContext


class BadCertificates(RegistryError):
    """A certificate file that cannot be used; the message names it."""

    code = "registry/certificates"
    default_exit = 78


class OwnCertificates(msgspec.Struct, frozen=True):
    """What the folders have for one host. `pairs`: (certificate, key) of the client."""

    authorities: tuple[Path, ...]
    pairs: tuple[tuple[Path, Path], ...]


def own_certificates(folders: tuple[Path, ...], host: str) -> OwnCertificates | None:
    """The first folder that has something for `host` (name, or name:port). None where there is nothing."""
    for folder in folders:
        place = folder / host
        try:
            names = sorted(path.name for path in place.iterdir())
        except OSError:
            continue
        authorities = tuple(place / name for name in names if name.endswith(".crt"))
        pairs = []
        for name in names:
            if name.endswith(".cert"):
                key = name.removesuffix(".cert") + ".key"
                if key not in names:
                    raise BadCertificates(f"{place / name} has no key", hint=f"put it beside it: {place / key}")
                pairs.append((place / name, place / key))
        if authorities or pairs:
            return OwnCertificates(authorities, tuple(pairs))
    return None


def context_for(ca_file: Path | None, own: OwnCertificates | None) -> SSLContext | None:
    """The system's authorities and these. None: urllib3's default is enough. Raises BadCertificates."""
    if ca_file is None and own is None:
        return None
    import ssl

    context = ssl.create_default_context()
    for path in (*((ca_file,) if ca_file else ()), *(own.authorities if own else ())):
        try:
            context.load_verify_locations(path)
        except (OSError, ssl.SSLError) as error:
            raise BadCertificates(f"{path} cannot be used as a certificate authority: {error.strerror or error}") from error
    for certificate, key in own.pairs if own else ():
        try:
            context.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            raise BadCertificates(f"{certificate} cannot be used with its key: {error.strerror or error}") from error
    return context
