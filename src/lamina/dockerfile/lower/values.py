"""What lowering takes and gives."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import msgspec

from lamina.diagnostics.diagnostic import Diagnostic
from lamina.diagnostics.errors import LaminaError
from lamina.graph.vertex import Step, Vertex
from lamina.oci.config import ImageConfig
from lamina.oci.digest import Digest
from lamina.oci.platform import Platform


class LoweringError(LaminaError):
    """The file is well formed and cannot be built: an unknown stage, a bad variable, an impossible mount."""

    code = "dockerfile/lower"
    default_exit = 2


class ResolvedBase(msgspec.Struct, frozen=True):
    """An image that a reference was resolved to. `reference` is the normalised text."""

    reference: str
    digest: Digest
    config: ImageConfig


def ascii_url(url: str) -> str:
    """Bytes that are no UTF-8 as %XX: no database, no request takes them otherwise."""
    return url if url.isascii() else re.sub("[\udc80-\udcff]", lambda byte: f"%{ord(byte[0]) - 0xDC00:02X}", url)


BaseKey = tuple[str, Platform]
"""(normalised reference, platform)."""


class Needs(msgspec.Struct, frozen=True):
    """Lowering cannot go on without these: resolve them, add them to `bases`, call again."""

    references: frozenset[BaseKey]


class Options(msgspec.Struct, frozen=True):
    """`contexts` are names of named contexts that are directories; `images` map a name to the image (a reference, `oci-layout://…`,
    `scratch`) that replaces it.

    `args` without a value were given as bare names that the environment does not have: they count as not given.
    """

    target: str | None = None
    args: Mapping[str, str | None] = msgspec.field(default_factory=dict)
    build_platform: Platform = Platform("linux", "amd64")
    platform: Platform = Platform("linux", "amd64")
    platform_given: bool = False  # asked for by the user, not just this machine's: then the image says so whatever its base is
    labels: Mapping[str, str] = msgspec.field(default_factory=dict)
    contexts: frozenset[str] = frozenset()
    images: Mapping[str, str] = msgspec.field(default_factory=dict)
    network: Literal["default", "none", "host"] = "default"
    extra_hosts: tuple[tuple[str, str], ...] = ()
    shm_size: int = 0
    ulimits: tuple[tuple[str, int, int], ...] = ()
    arg_scope: Literal["declared", "named"] = "declared"


class LoweredStep(msgspec.Struct, frozen=True):
    """One instruction (or ONBUILD trigger). `needed` is False in stages that the target does not reach; `kind` is its keyword."""

    step: Step
    vertex: Vertex | None
    needed: bool
    kind: str


class ArgUse(msgspec.Struct, frozen=True):
    """A build argument: how many RUNs have it in their environment (and key), and how many of them name it."""

    name: str
    in_keys: int
    named: int


class Lowered(msgspec.Struct, frozen=True):
    """`target` is None for an empty filesystem. `layered` has one vertex for each layer that the target's own stages add, in order,
    as the config's history has entries without `empty_layer`."""

    target: Vertex | None
    config: ImageConfig
    steps: tuple[LoweredStep, ...]
    warnings: tuple[Diagnostic, ...] = ()
    arg_uses: tuple[ArgUse, ...] = ()
    base_layers: int = 0  # layers of the final chain that come from the base image
    history_vertices: tuple[Vertex | None, ...] = ()  # for each history entry after the base's: the vertex that made it
