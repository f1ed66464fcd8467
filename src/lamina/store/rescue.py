"""A store whose database cannot be read any more: set it aside, begin a new one, keep the images that index.json lists."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from lamina.layer.flavour import Flavour
from lamina.oci import typed
from lamina.oci.digest import DiffId, Digest, LayerId
from lamina.oci.unreadable import UNREADABLE
from lamina.store.database import Database
from lamina.store.errors import StoreDamaged, border
from lamina.store.layout import Layout
from lamina.store.local import LocalStore, check_version
from lamina.store.locks import exclusive
from lamina.store.protocols import StoreError
from lamina.store.refs import Image


class _Platform(msgspec.Struct):
    os: str = "linux"
    architecture: str = "amd64"
    variant: str = ""


class _Entry(msgspec.Struct):
    digest: Digest
    platform: _Platform = msgspec.field(default_factory=_Platform)
    annotations: dict[str, str] = msgspec.field(default_factory=dict)


class _Index(msgspec.Struct):
    manifests: tuple[_Entry, ...] = ()


class _Described(msgspec.Struct):
    digest: Digest
    size: int = 0


class _Manifest(msgspec.Struct):
    config: _Described
    layers: tuple[_Described, ...] = ()


class _RootFs(msgspec.Struct):
    diff_ids: tuple[DiffId, ...] = ()


class _Config(msgspec.Struct):
    rootfs: _RootFs = msgspec.field(default_factory=_RootFs)


def rescue(root: Path, flavour: Flavour, *, now: Callable[[], float]) -> tuple[str, ...] | None:
    """None, and nothing done, while the database is sound. Else the names of the images that were kept.

    The cache's records and layer directories are lost: without their rows nothing says what they are. The old database stays
    beside the new one as `state.db.damaged`. OtherStore for a store that is not for us. No other process may be using the store.
    """
    layout = Layout(Path(os.path.abspath(root)))
    with border(layout.root):  # what a later lamina keeps there may look like damage
        check_version(layout.root, layout.version.read_text(encoding="utf-8", errors="replace"), flavour)
    try:
        database = Database(layout)
        sound = not database.integrity()
        database.close()
    except StoreDamaged:
        sound = False
    if sound:
        return None
    with border(layout.root):
        kept = _listed(layout)
        with exclusive(layout.locks / "create"):
            for tail in ("", "-wal", "-shm"):
                if (path := layout.root / f"state.db{tail}").exists():
                    path.rename(layout.root / f"state.db.damaged{tail}")
    names: list[str] = []
    with LocalStore.open(layout.root, flavour, now=now) as store:
        for entry in kept:
            image = _image(store, entry)
            name = entry.annotations.get("org.opencontainers.image.ref.name")
            if image is not None:
                store.images.put(image, [name] if name else [])
                names += [name] if name else []
    return tuple(names)


def _listed(layout: Layout) -> tuple[_Entry, ...]:
    try:
        return typed.json(layout.index.read_bytes(), type=_Index).manifests
    except (FileNotFoundError, *UNREADABLE):
        return ()


def _image(store: LocalStore, entry: _Entry) -> Image | None:
    """None when a blob is not here or not what it should be."""
    try:
        manifest = typed.json(store.blobs.read(entry.digest), type=_Manifest)
        config = typed.json(store.blobs.read(manifest.config.digest), type=_Config)
    except (StoreError, *UNREADABLE):
        return None
    platform = "/".join(part for part in (entry.platform.os, entry.platform.architecture, entry.platform.variant) if part)
    layers = tuple(LayerId(diff_id) for diff_id in config.rootfs.diff_ids)
    size = sum(layer.size for layer in manifest.layers)
    return Image(
        manifest.config.digest, entry.digest, platform, store.now(), size, layers, tuple(layer.digest for layer in manifest.layers)
    )
