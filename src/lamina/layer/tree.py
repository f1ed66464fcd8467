"""A readable file tree: a build context, a stack of layers, a fetched file. What COPY and bind mounts select from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO, Protocol

from lamina.layer.entry import Entry


class FileTree(Protocol):
    """Paths are bytes, relative to the root, "" for the root itself, no trailing slash. Never leaves its root, whatever symlinks say."""

    def entry(self, path: bytes) -> Entry | None:
        """Metadata (lstat-like) of exactly this name; parents that are symlinks are followed inside the root. None when absent."""
        ...

    def resolve(self, path: bytes) -> bytes | None:
        """The name without symlinks, the last one followed too, inside the root; None when absent or a loop."""
        ...

    def children(self, path: bytes) -> Sequence[bytes]:
        """Base names in a folder, sorted."""
        ...

    def open(self, path: bytes) -> BinaryIO:
        """A regular file's bytes (the final name is not followed)."""
        ...

    def content(self, path: bytes) -> str:
        """sha256 hex of a regular file's bytes; cached where that is safe."""
        ...
