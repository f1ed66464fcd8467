"""Dockerfiles lowered against images that do not exist."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TypeVar, cast

from lamina.dockerfile import DockerfileError, parse
from lamina.dockerfile.lower import Lowered, LoweredStep, Needs, Options, ResolvedBase, lower
from lamina.dockerfile.lower.values import BaseKey
from lamina.graph.ops import ExecOp, FileOp, Op
from lamina.graph.vertex import Vertex, walk
from lamina.oci.config import ContainerConfig, ImageConfig
from lamina.oci.digest import Digest

Kind = TypeVar("Kind", bound=Op)
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
STUB = ContainerConfig(env=(PATH,), working_dir="/")


def lowered(text: str, options: Options | None = None, images: Mapping[str, ContainerConfig] | None = None) -> Lowered:
    """`images`: config by normalised reference; every other image has STUB. The digest of an image is the sha256 of its reference.

    Raises DockerfileError, LoweringError."""
    document = parse(text)
    if document.errors:
        raise DockerfileError(document.errors)
    bases: dict[BaseKey, ResolvedBase] = {}
    while True:
        found = lower(document, options or Options(), bases)
        if isinstance(found, Lowered):
            return found
        assert isinstance(found, Needs)
        for reference, platform in found.references:
            config = (images or {}).get(reference, STUB)
            image = ImageConfig(os=platform.os, architecture=platform.architecture, variant=platform.variant, config=config)
            digest = Digest("sha256:" + hashlib.sha256(reference.encode()).hexdigest())
            bases[reference, platform] = ResolvedBase(reference, digest, image)


def vertices(found: Lowered, kind: type[Kind]) -> list[Vertex]:
    """Those of one kind of operation that the target needs, inputs first."""
    return [vertex for vertex in walk((found.target,)) if isinstance(vertex.op, kind)]


def runs(found: Lowered) -> list[ExecOp]:
    return [cast(ExecOp, vertex.op) for vertex in vertices(found, ExecOp)]


def file_ops(found: Lowered) -> list[FileOp]:
    return [cast(FileOp, vertex.op) for vertex in vertices(found, FileOp)]


def history(found: Lowered) -> list[str]:
    return [entry.created_by for entry in found.config.history]


def step(found: Lowered, text: str) -> LoweredStep:
    """The row whose text begins with `text`."""
    return next(row for row in found.steps if row.step.text.startswith(text))
