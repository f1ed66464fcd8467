"""The images of build containers and services: layer directories and config, fetched once each."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lamina.diagnostics.errors import LaminaError
from lamina.engine.bases import Bases
from lamina.engine.images.layers import ensure_layers
from lamina.oci.config import ImageConfig
from lamina.oci.platform import Platform
from lamina.oci.reference import Reference

if TYPE_CHECKING:
    from lamina.engine.engine import Engine
    from lamina.oci.manifest import Descriptor

HOST = "host"  # image: host


class Fetched(msgspec.Struct, frozen=True):
    """`lowers` top first, for an overlay. `said`: where it came from, in words."""

    name: str
    lowers: tuple[Path, ...]
    config: ImageConfig
    said: str
    host: bool = False


class Images:
    """Thread-safe. `renamed`: --image-map, by the name that the file has, with or without its tag."""

    def __init__(self, engine: Engine, platform: Platform, renamed: Mapping[str, str]) -> None:
        self._engine = engine
        self._platform = platform
        self._renamed = renamed
        self._bases = Bases(engine.store, engine.registry)
        self._lock = threading.Lock()
        self._turns: dict[str, threading.Lock] = {}
        self._found: dict[str, Fetched] = {}

    def name_of(self, name: str) -> str:
        if name in self._renamed:
            return self._renamed[name]
        bare = name.rpartition(":")[0] if ":" in name.rpartition("/")[2] else name
        return self._renamed.get(bare, name)

    def get(self, name: str) -> Fetched:
        """Raises registry errors, BaseNotFound."""
        name = self.name_of(name)
        with self._lock:
            turn = self._turns.setdefault(name, threading.Lock())
        with turn:
            if name not in self._found:
                try:
                    self._found[name] = self._fetch(name)
                except LaminaError as error:
                    if name not in error.message:
                        error.message = f"{name}: {error.message}"
                    error.hint = error.hint or "take another image with --image-map OLD=NEW"
                    raise
            return self._found[name]

    def _fetch(self, name: str) -> Fetched:
        if name == HOST:
            return Fetched(name, (), ImageConfig(), "this machine's own programs", host=True)
        resolved = self._bases.resolve(name, self._platform, pull_newer=False)
        image, config = self._bases.used[resolved.reference, self._platform]
        store = self._engine.store
        here = store.layers.present(image.layers)
        reference = Reference.parse(name).with_default_tag()

        def fetch(descriptor: Descriptor) -> None:
            self._engine.registry().fetch_blob(reference, descriptor, store.blobs)

        folders = ensure_layers(store, image, fetch)
        lowers = tuple(dict.fromkeys(folder / "diff" for folder in reversed(folders)))
        missing = len(set(image.layers)) - len(here)
        said = "was here" if not missing else f"{missing} layer{'s' if missing != 1 else ''} fetched or unpacked"
        return Fetched(reference.familiar, lowers, config, said)
