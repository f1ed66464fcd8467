"""What a vertex yields: a filesystem (layers that may not be here yet) or a source of files."""

from __future__ import annotations

import msgspec

from lamina.cache.record import LayerRef, Record
from lamina.layer.tree import FileTree
from lamina.oci.digest import StateId


class Filesystem(msgspec.Struct, frozen=True):
    """Result of FROM, RUN, COPY, WORKDIR, --link. `layers` are bottom first and complete.

    `identity` is what keys of dependants see: the state id, or with cut-off switched off the definition id.
    `tainted`: something that this result was made from ran in this build, so a dependant that hits does so by cut-off.
    """

    state: StateId
    identity: str
    layers: tuple[LayerRef, ...]
    record: Record | None = None
    tainted: bool = False
    forced: bool = False  # cut-off switched off: it was made by a forced step, so what stands on it runs too, as in BuildKit
    label: str = ""  # for words: "debian:12", "stage build"


class Files(msgspec.Struct, frozen=True):
    """Result of a context, URL or git source. `id` is set where the whole source has one (bytes of a URL, a commit)."""

    tree: FileTree | None
    kind: str  # "context", "url", "git"
    label: str
    id: str | None = None


Result = Filesystem | Files
