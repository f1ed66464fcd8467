"""Base images: the store's own, an oci-layout, a registry's. Lowering needs their configs, running their layers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lamina.cache import keys
from lamina.cache.record import LayerRef
from lamina.diagnostics.errors import LaminaError
from lamina.dockerfile.lower import ResolvedBase
from lamina.engine.results import Filesystem
from lamina.graph.ops import ImageOp
from lamina.oci.config import ImageConfig, parse_config
from lamina.oci.digest import DiffId, Digest, LayerId, chain
from lamina.oci.manifest import Descriptor, InvalidDocument, Manifest
from lamina.oci.platform import Platform
from lamina.oci.reference import Reference
from lamina.oci.selection import choose, parse_checked
from lamina.sandbox.protocols import CancelToken
from lamina.store.local import LocalStore
from lamina.store.refs import Image

if TYPE_CHECKING:
    from lamina.engine.freshness.lockfile import Lock
    from lamina.registry.client import RegistryClient


class BaseNotFound(LaminaError):
    code = "engine/base-not-found"
    default_exit = 69


class _Known(msgspec.Struct, frozen=True):
    image: Image
    diff_ids: tuple[DiffId, ...]
    manifest: Manifest
    reference: Reference | None  # where layers that are not here come from


class Bases:
    """Thread-safe. `client` gives the one client for registries; it is asked when one is needed."""

    def __init__(self, store: LocalStore, client: Callable[[], RegistryClient], pins: Lock | None = None) -> None:
        self._store = store
        self._registry = client
        self._pins = pins  # --locked: the only digests that tags may stand for
        self._lock = threading.Lock()
        self._known: dict[Digest, _Known] = {}
        self.made_here: set[str] = set()  # references whose image was built, loaded or imported here: nobody is asked about it
        self.used: dict[tuple[str, Platform], tuple[Image, ImageConfig]] = {}  # what each reference came to
        self.locked: dict[str, Digest] = {}  # what each was held to
        self.unanswered: dict[str, str] = {}  # references whose registry did not answer: the local image was used
        self._origins: dict[LayerId, tuple[Descriptor, Reference | None]] = {}

    def resolve(self, text: str, platform: Platform, *, pull_newer: bool) -> ResolvedBase:
        """The image of a reference, `oci-layout://…` or `docker-image://…`.

        An image that was made here is taken without asking. A pulled one too, unless its tag has moved (one HEAD; offline it is taken as it
        is); `pull_newer` insists on the registry's answer. A single-platform mismatch is refused. Raises registry errors, BaseNotFound.
        """
        if text.startswith("oci-layout://"):
            from lamina.engine.images.importing import from_layout, split_layout_reference

            path, tag, digest = split_layout_reference(text.removeprefix("oci-layout://"))
            image = from_layout(self._store, Path(path), platform, tag=tag, digest=digest)
            return self._learn(text, image, None, platform)
        reference = Reference.parse(text).with_default_tag()
        if self._pins is not None and reference.digest is None:
            return self._held(reference, platform, self._pins.image(str(reference)))
        if not pull_newer:
            local = self._local(reference, platform)
            if local is not None and not self._moved(reference, platform):
                return self._learn(str(reference), local, reference, platform)
        elif reference.registry == "docker.io" and self._only_local(reference, platform):
            local = self._local(reference, platform)
            assert local is not None
            return self._learn(str(reference), local, reference, platform)
        from lamina.engine.images.importing import pull

        image = pull(self._store, self._registry(), reference, platform, layers=False)
        return self._learn(str(reference), image, reference, platform)

    def _held(self, reference: Reference, platform: Platform, digest: Digest) -> ResolvedBase:
        """The image that the tag stood for when it was locked, wherever it points now. Nobody is asked where that image is here."""
        known = self._store.facts.remote(str(reference), str(platform))
        image = self._local(reference, platform)
        if image is not None and known is None and image.manifest == digest:
            return self._learn(str(reference), image, reference, platform)  # made here
        exact = msgspec.structs.replace(reference, digest=digest)
        if known is None or known.manifest != digest or image is None:
            image = self._by_digest(digest, platform)
        if image is None:
            from lamina.engine.freshness.lockfile import Drift
            from lamina.engine.images.importing import pull
            from lamina.registry.errors import RegistryError

            try:
                image = pull(self._store, self._registry(), exact, platform, layers=False)
            except RegistryError as error:
                why = f"{reference.familiar} is locked to {digest[:19]}, which is not to be had: {error.message}"
                raise Drift(why, hint="`lamina lock` takes what is there now") from error
        self.locked[str(reference)] = digest
        return self._learn(str(reference), image, exact, platform)

    def _by_digest(self, digest: Digest, platform: Platform) -> Image | None:
        """An image that is here, by the digest of its index, manifest or config."""
        if self._store.blobs.missing([digest]):
            return None
        try:
            document = parse_checked(self._store.blobs.read(digest))
        except InvalidDocument:
            return self._store.images.by_id(digest)
        if isinstance(document, Manifest):
            return self._store.images.by_id(digest)
        chosen = choose(document, platform)
        return None if chosen is None else self._store.images.by_id(chosen.digest)

    def _moved(self, reference: Reference, platform: Platform) -> bool:
        """Whether the tag of a pulled image points elsewhere now. One HEAD; a registry that does not answer leaves the local image in use,
        and `unanswered` says so. Images that were built, loaded or imported here are not asked about."""
        known = self._store.facts.remote(str(reference), str(platform))
        if known is None and reference.digest is None:
            self.made_here.add(str(reference))
        if known is None or reference.digest is not None:
            return False
        from lamina.registry.errors import RegistryError

        try:
            return self._registry().digest_of(reference) != known.manifest
        except RegistryError as error:
            self.unanswered[reference.familiar] = error.message
            return False

    def _only_local(self, reference: Reference, platform: Platform) -> bool:
        """An image that was built or imported here and never pulled has nothing to be newer."""
        return self._local(reference, platform) is not None and self._store.facts.remote(str(reference), str(platform)) is None

    def _local(self, reference: Reference, platform: Platform) -> Image | None:
        if reference.digest is not None:
            return self._store.images.by_id(reference.digest)
        exact = self._store.images.by_name(str(reference), str(platform))
        other = exact or self._store.images.by_name(str(reference))
        if other is None or exact is not None or platform.runs(Platform.parse(other.platform)):
            return other
        # Pulled for another platform: its registry may have this one too. What was made here is refused with its platform.
        return None if self._store.facts.remote(str(reference), other.platform) is not None else other

    def _learn(self, text: str, image: Image, reference: Reference | None, platform: Platform) -> ResolvedBase:
        config = parse_config(self._store.blobs.read(image.id))
        own = Platform(config.os or "linux", config.architecture or platform.architecture, config.variant)
        if not platform.runs(own):
            raise BaseNotFound(f"{text} is an image for {own}, not for {platform}", hint=f"give --platform={own}, or another base")
        manifest = parse_checked(self._store.blobs.read(image.manifest))
        if not isinstance(manifest, Manifest):
            raise InvalidDocument(f"the manifest of {text} is an index", hint="pull or load the image again")
        known = _Known(image, config.diff_ids, manifest, reference)
        with self._lock:
            self._known[image.manifest] = known
            self.used[text, platform] = (image, config)
            for layer, descriptor in zip(image.layers, manifest.layers):
                self._origins.setdefault(layer, (descriptor, reference))
        return ResolvedBase(text, image.manifest, config)

    def filesystem(self, op: ImageOp) -> Filesystem:
        known = self._known[op.digest]
        state = keys.base_state(chain(known.diff_ids))
        layers = tuple(LayerRef(id=layer, diff_id=d) for layer, d in zip(known.image.layers, known.diff_ids))
        name = Reference.parse(op.reference).familiar if "://" not in op.reference else op.reference
        return Filesystem(state, state, layers, None, label=f"{name}@{op.digest}")

    def fetch(self, layer: LayerRef, cancel: CancelToken) -> bool:
        """Extract a foreign layer, fetching its blob where it is not here. False when nobody knows where it comes from."""
        from lamina.engine.images.layers import ensure_layer

        found = self._origins.get(layer.id)
        stored = found[0] if found else None
        reference = found[1] if found else None

        def get(descriptor: Descriptor) -> None:
            assert reference is not None
            self._registry().fetch_blob(reference, descriptor, self._store.blobs)

        digest = stored.digest if stored else Digest(layer.id)
        if self._store.blobs.missing([digest]) and reference is None:
            return False
        ensure_layer(self._store, DiffId(layer.id), stored, get if reference is not None else None)
        return True

    def missing_bytes(self, layers: Mapping[LayerId, object]) -> int:
        """What would be fetched to have these layers here."""
        here = self._store.layers.present(layers)
        total = 0
        for layer in layers:
            found = self._origins.get(layer)
            if layer not in here and found is not None and self._store.blobs.missing([found[0].digest]):
                total += found[0].size
        return total

    def descriptors(self) -> dict[DiffId, Descriptor]:
        """The stored forms of the bases' layers."""
        return {d: descriptor for known in self._known.values() for d, descriptor in zip(known.diff_ids, known.manifest.layers)}
