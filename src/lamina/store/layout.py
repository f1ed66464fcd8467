"""The only place that knows a path of the store. docs/dev/disk-format.md explains each of them."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from lamina.oci.digest import Digest, LayerId
from lamina.store.errors import BadName

FORMAT = 1
_NAME = re.compile(r"(?:diff|sha256):[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}")
_FOLDERS = ("blobs/sha256", "layers", "active", "tmp", "locks", "leases", "context", "http", "cachemounts")


class Layout(msgspec.Struct, frozen=True):
    """Paths below `root`. Names come from outside, so they are checked here: BadName for what is no digest."""

    root: Path

    @property
    def version(self) -> Path:
        return self.root / "VERSION"

    @property
    def database(self) -> Path:
        return self.root / "state.db"

    @property
    def index(self) -> Path:
        return self.root / "index.json"

    @property
    def oci_layout(self) -> Path:
        return self.root / "oci-layout"

    @property
    def ballast(self) -> Path:
        """Room that is given up when the disk is full, so that pruning can write what it must."""
        return self.root / "ballast"

    @property
    def blobs(self) -> Path:
        return self.root / "blobs"

    @property
    def layers(self) -> Path:
        return self.root / "layers"

    @property
    def active(self) -> Path:
        return self.root / "active"

    @property
    def tmp(self) -> Path:
        return self.root / "tmp"

    @property
    def locks(self) -> Path:
        return self.root / "locks"

    @property
    def leases(self) -> Path:
        return self.root / "leases"

    @property
    def context(self) -> Path:
        """Stat caches of contexts; theirs who read contexts."""
        return self.root / "context"

    @property
    def http(self) -> Path:
        return self.root / "http"

    @property
    def cachemounts(self) -> Path:
        return self.root / "cachemounts"

    def folders(self) -> list[Path]:
        """Folders that every store has; the caller makes their parents too."""
        return [self.root / name for name in _FOLDERS]

    def foreign(self) -> bool:
        """Whether the root has something that no store has before it has a VERSION."""
        own = {name.partition("/")[0] for name in _FOLDERS} | {
            "VERSION",
            "VERSION.new",
            "oci-layout",
            "index.json",
            "ballast",
            "lost+found",
            "pipelines",  # a run on a cluster makes these two, and no store
            "workers",
        }
        return any(path.name not in own for path in self.root.iterdir())

    def blob(self, digest: Digest) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise BadName(f"{digest!r} is not a digest that a blob can have")
        algorithm, _, hexadecimal = digest.partition(":")
        return self.blobs / algorithm / hexadecimal

    def layer(self, layer: LayerId) -> Path:
        """The layer's folder, which holds `diff/` and, where needed, `extra`."""
        if not _NAME.fullmatch(layer):
            raise BadName(f"{layer!r} is not the name of a layer")
        return self.layers / layer.replace(":", "-", 1)


def layer_of(name: str) -> LayerId | None:
    """The layer that a folder in `layers/` is named after; None for a foreign name."""
    text = name.replace("-", ":", 1)
    return LayerId(text) if _NAME.fullmatch(text) else None


def digest_of(algorithm: str, name: str) -> Digest | None:
    """The digest that a file in `blobs/<algorithm>/` is named after; None for a foreign name."""
    text = f"{algorithm}:{name}"
    return Digest(text) if _DIGEST.fullmatch(text) else None
