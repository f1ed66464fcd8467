"""What a user means by an image, and an image as docker shows it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from lamina.diagnostics.errors import LaminaError
from lamina.oci.config import History, parse_config
from lamina.oci.platform import Platform
from lamina.oci.reference import Reference
from lamina.store.local import LocalStore
from lamina.store.refs import Image


def find_image(store: LocalStore, text: str) -> Image:
    """By name (short or full, tag latest), id or the beginning of one. Raises ImageNotFound, AmbiguousImage."""
    names: tuple[str, ...] = ()
    try:
        names = (str(Reference.parse(text).with_default_tag()),)
    except LaminaError:
        pass
    return store.images.find(text, names)


def inspect(store: LocalStore, image: Image) -> dict[str, Any]:
    """The document of `docker image inspect`, as far as it is about the image."""
    raw = json.loads(store.blobs.read(image.id))
    config = raw.get("config") or {}
    return {
        "Id": image.id,
        "RepoTags": [Reference.parse(name).familiar for name in image.names],
        "RepoDigests": [],
        "Comment": (raw.get("history") or [{}])[-1].get("comment", ""),
        "Created": raw.get("created") or _rfc3339(image.created),
        "Author": raw.get("author", ""),
        "Config": config,
        "Architecture": raw.get("architecture", ""),
        **({"Variant": raw["variant"]} if raw.get("variant") else {}),
        "Os": raw.get("os", ""),
        "Size": image.size,
        "RootFS": {"Type": "layers", "Layers": (raw.get("rootfs") or {}).get("diff_ids", [])},
        "Descriptor": {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": image.manifest},
    }


def history(store: LocalStore, image: Image) -> list[tuple[History, int]]:
    """(entry, bytes of its layer), newest first."""
    config = parse_config(store.blobs.read(image.id))
    sizes = {row.id: row.size for row in store.layers.rows(image.layers)}
    layers = iter(image.layers)
    rows = []
    for entry in config.history:
        layer = None if entry.empty_layer else next(layers, None)
        rows.append((entry, sizes.get(layer, 0) if layer is not None else 0))
    return rows[::-1]


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def find_platforms(store: LocalStore, text: str, platform: Platform | None) -> tuple[Image, ...]:
    """The images that a name has, one for each platform and sorted by it; by id the one. Raises ImageNotFound, AmbiguousImage."""
    from lamina.store.refs import ImageNotFound

    first = find_image(store, text)
    try:
        name = str(Reference.parse(text).with_default_tag())
    except LaminaError:
        name = ""
    found = tuple(sorted((i for i in store.images.all() if name in i.names), key=lambda image: image.platform)) or (first,)
    if platform is None:
        return found
    chosen = tuple(image for image in found if image.platform == str(platform.normalised()))
    if not chosen:
        there = ", ".join(image.platform for image in found)
        raise ImageNotFound(f"{text} is not here for {platform}", hint=f"it is here for {there}")
    return chosen
