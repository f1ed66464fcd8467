"""The options of every command that talks to registries, and the client for those that need no store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lamina.cli.options import Option
from lamina.cli.settings import Settings

if TYPE_CHECKING:
    from lamina.registry.transport import Transport

F = TypeVar("F", bound=Callable[..., Any])

REGISTRY = (
    Option(
        ("--registry-ca",),
        "registry_ca",
        "Certificates of a private authority to trust for registries.",
        kind="file",
        metavar="FILE",
        env="LAMINA_REGISTRY_CA",
    ),
    Option(
        ("--insecure-registry",),
        "insecure_registries",
        "Speak to this registry without TLS (loopback always may).",
        many=True,
        metavar="HOST[:PORT]",
        env="LAMINA_INSECURE_REGISTRY",
    ),
)
_COMPRESSION = Option(
    ("--compression",),
    "compression",
    "Of layers that were never compressed (auto: gzip); others stay as they came.",
    choices=("auto", "gzip", "zstd", "none"),
    default="auto",
)


def registry_options(function: F) -> F:
    from lamina.cli.commands.declaring import declared

    return declared(REGISTRY)(function)


def compression_option(function: F) -> F:
    from lamina.cli.commands.declaring import declared

    return declared((_COMPRESSION,))(function)


def transport(settings: Settings, registry_ca: Path | None, insecure_registries: tuple[str, ...]) -> Transport:
    """What a command without a store speaks through."""
    from lamina.engine.registries.access import client_for

    return client_for(settings.environment, settings.proxies, registry_ca, insecure_registries).session.transport


def registry_name(text: str) -> str:
    """A registry as references have it, from what a user types (`https://registry.example/`). Raises InvalidReference."""
    from lamina.oci.reference import DOCKER_IO, Reference

    name = text.removeprefix("https://").removeprefix("http://").rstrip("/").removesuffix("/v1").removesuffix("/v2")
    if name in ("", DOCKER_IO, "index.docker.io", "registry-1.docker.io"):
        return DOCKER_IO
    if "/" in name:
        from lamina.cli.inputs import BadOption

        raise BadOption(f"{text!r} is not a registry", hint=f"log in to the registry: {name.partition('/')[0]}")
    # A host without a dot or a port would be read as the first part of a repository.
    return Reference.parse(f"{name}/x").registry if "." in name or ":" in name or name == "localhost" else name
