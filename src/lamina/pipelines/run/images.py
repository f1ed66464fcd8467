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
from lamina.pipelines.model import Image

if TYPE_CHECKING:
    from lamina.engine.engine import Engine
    from lamina.oci.manifest import Descriptor
    from lamina.registry.auth import Credentials
    from lamina.registry.client import RegistryClient

HOST = "host"  # image: host


class Fetched(msgspec.Struct, frozen=True):
    """`lowers` top first, for an overlay. `said`: where it came from, in words."""

    name: str
    lowers: tuple[Path, ...]
    config: ImageConfig
    said: str
    host: bool = False


class _Given:
    """The login that the file gives for an image, for that image's registry only."""

    def __init__(self, host: str, login: Credentials) -> None:
        self._host = host
        self._login = login

    def credentials(self, registry: str, repository: str) -> Credentials | None:
        return self._login if registry == self._host else None


class Images:
    """Thread-safe. `renamed`: --image-map, by the name that the file has, with or without its tag."""

    def __init__(self, engine: Engine, platform: Platform, renamed: Mapping[str, str]) -> None:
        self._engine = engine
        self._platform = platform
        self._renamed = renamed
        self._lock = threading.Lock()
        self._turns: dict[str, threading.Lock] = {}
        self._found: dict[tuple[str, str], Fetched] = {}

    def name_of(self, name: str) -> str:
        if name in self._renamed:
            return self._renamed[name]
        bare = name.rpartition(":")[0] if ":" in name.rpartition("/")[2] else name
        return self._renamed.get(bare, name)

    def of(self, image: Image) -> Fetched:
        """With the login that the file gives for it; without one, with the machine's own. Raises registry errors, BaseNotFound."""
        if not image.username or not image.password or self.name_of(image.name) != image.name:
            return self.get(image.name)
        from lamina.registry.auth import Credentials

        return self.get(image.name, Credentials(image.username, image.password, ""))

    def get(self, name: str, login: Credentials | None = None) -> Fetched:
        """By its name. Raises as `of`."""
        name = self.name_of(name)
        known = (name, "" if login is None else login.username)
        with self._lock:
            turn = self._turns.setdefault(name, threading.Lock())
        with turn:
            if known not in self._found:
                try:
                    self._found[known] = self._fetch(name, login)
                except LaminaError as error:
                    if name not in error.message:
                        error.message = f"{name}: {error.message}"
                    error.hint = error.hint or "take another image with --image-map OLD=NEW"
                    raise
            return self._found[known]

    def _client(self, reference: Reference, login: Credentials | None) -> RegistryClient:
        own = self._engine.registry()
        if login is None:
            return own
        from lamina.registry.client import RegistryClient

        return RegistryClient(own.session.transport, _Given(reference.registry, login))

    def _fetch(self, name: str, login: Credentials | None) -> Fetched:
        if name == HOST:
            return Fetched(name, (), ImageConfig(), "this machine's own programs", host=True)
        reference = Reference.parse(name).with_default_tag()
        bases = Bases(self._engine.store, lambda: self._client(reference, login))
        resolved = bases.resolve(name, self._platform, pull_newer=False)
        image, config = bases.used[resolved.reference, self._platform]
        store = self._engine.store
        here = store.layers.present(image.layers)

        def fetch(descriptor: Descriptor) -> None:
            self._client(reference, login).fetch_blob(reference, descriptor, store.blobs)

        folders = ensure_layers(store, image, fetch)
        lowers = tuple(dict.fromkeys(folder / "diff" for folder in reversed(folders)))
        missing = len(set(image.layers)) - len(here)
        said = "was here" if not missing else f"{missing} layer{'s' if missing != 1 else ''} fetched or unpacked"
        if login is not None:
            said += f", as {login.username}"
        return Fetched(reference.familiar, lowers, config, said)
