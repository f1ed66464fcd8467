"""Images of the store to a registry. What it has is neither packed nor sent: an image that is there costs one request."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import msgspec

from lamina.cache.remote.parallel import each
from lamina.engine.attest.attached import Attached, Attest
from lamina.engine.exporters.output import BadOutput
from lamina.engine.images.incoming import CHUNK
from lamina.engine.images.indexing import IndexEntry, index_over
from lamina.engine.registries.packing import Compression, LeavingImage, LeavingLayer, ensure_blob, leaving
from lamina.engine.request import Output
from lamina.oci.digest import Digest, sha256
from lamina.oci.manifest import OCI_INDEX, OCI_MANIFEST, Descriptor
from lamina.oci.reference import Reference
from lamina.registry.client import ACCEPT, RegistryClient, is_foreign
from lamina.registry.errors import RegistryError
from lamina.registry.push import Outcome, Publisher
from lamina.store.local import LocalStore
from lamina.store.refs import Image

_PARALLEL = 4


class Pushed(msgspec.Struct, frozen=True):
    """`digest` is what the reference names now. Blobs by what became of them: sent (with their bytes), mounted, there already."""

    reference: Reference
    digest: Digest
    sent: int = 0
    sent_bytes: int = 0
    mounted: int = 0
    there: int = 0
    unchanged: bool = False  # the reference named it before


OnBlob = Callable[[Descriptor, Outcome], None]
"""Called from several threads."""


class _Changed(Exception):
    """A layer was compressed to other bytes than were noted: the manifest must be made again."""


def push(
    store: LocalStore,
    client: RegistryClient,
    images: Sequence[Image],
    reference: Reference,
    *,
    compression: Compression = "auto",
    on_blob: OnBlob | None = None,
    attest: Attest | None = None,
) -> Pushed:
    """The images (one, or one for each platform: then below an index) under `reference`. With `attest`, what it gives goes into the index.

    The tag moves last, when everything that it names is there. Raises registry errors, ImageNotFound, LayerMismatch.
    """
    reference = reference.with_default_tag()
    for attempt in range(3):
        try:
            return _Push(store, client, reference, compression, on_blob, attest).run(images)
        except _Changed:
            if attempt == 2:
                raise RegistryError(f"{reference}: a layer is compressed to other bytes each time") from None
    raise AssertionError("unreachable")


def push_output(
    store: LocalStore,
    client: RegistryClient,
    images: Sequence[Image],
    output: Output,
    tags: Sequence[str],
    attest: Attest | None = None,
) -> tuple[Pushed, ...]:
    """`--output type=registry`: under each of its names, else under each of the build's tags."""
    attrs = dict(output.attrs)
    compression = msgspec.convert(attrs.get("compression", "auto"), Compression)
    return tuple(push(store, client, images, name, compression=compression, attest=attest) for name in names_to_push(output, tags))


def names_to_push(output: Output, tags: Sequence[str]) -> tuple[Reference, ...]:
    """Where a build's image will go; BadOutput when nothing names a place. Asked before the build begins."""
    names = [name.strip() for name in dict(output.attrs).get("name", "").split(",") if name.strip()] or tags
    if not names:
        raise BadOutput("the image is to be pushed, and nothing says where", hint="name it: -t REGISTRY/NAME:TAG")
    found = tuple(dict.fromkeys(Reference.parse(name).with_default_tag() for name in names))
    for reference in found:
        if reference.digest:
            raise BadOutput(f"{reference}: an image is pushed under a tag, not under a digest")
    return found


class _Push:
    def __init__(
        self,
        store: LocalStore,
        client: RegistryClient,
        reference: Reference,
        compression: Compression,
        on_blob: OnBlob | None,
        attest: Attest | None = None,
    ) -> None:
        self._store = store
        self._client = client
        self._publisher = Publisher(client.session)
        self._reference = reference
        self._compression = compression
        self._on_blob = on_blob
        self._attest = attest
        self._lock = threading.Lock()
        self._counts: Counter[Outcome] = Counter()
        self._bytes = 0

    def run(self, images: Sequence[Image]) -> Pushed:
        going = [leaving(self._store, image, self._compression) for image in images]
        beside = self._beside(images, going)
        single = len(going) == 1 and not beside
        raw, media_type = (going[0].raw, going[0].media_type) if single else (_index(going, beside), OCI_INDEX)
        digest = sha256(raw)
        if self._publisher.manifest_digest(self._reference, ACCEPT) == digest:
            return Pushed(self._reference, digest, unchanged=True)
        self._blobs(going)
        for attached in beside:
            for descriptor, data in attached.blobs:
                self._note(descriptor, self._publisher.push_blob(self._reference, descriptor, lambda data=data: (data,)))  # type: ignore[misc]  # as below
        if not single:
            for data, kind in (*((each.raw, each.media_type) for each in going), *((each.raw, OCI_MANIFEST) for each in beside)):
                there = Reference(self._reference.registry, self._reference.repository, digest=sha256(data))
                self._publisher.put_manifest(there, data, kind)
        self._publisher.put_manifest(self._reference, raw, media_type)
        return Pushed(self._reference, digest, self._counts["sent"], self._bytes, self._counts["mounted"], self._counts["there"])

    def _beside(self, images: Sequence[Image], going: Sequence[LeavingImage]) -> list[Attached]:
        if self._attest is None:
            return []
        named = [msgspec.structs.replace(image, names=(str(self._reference),)) for image in images]
        found = [self._attest(image, sha256(each.raw)) for image, each in zip(named, going)]
        return [each for each in found if each is not None]

    def _blobs(self, going: Sequence[LeavingImage]) -> None:
        """Layers in parallel, then configs. The first failure stops the others."""
        layers = {one.descriptor.digest: one for image in going for one in image.layers if not is_foreign(one.descriptor)}
        each(self._layer, layers.values(), _PARALLEL)
        for image in {image.manifest.config.digest: image for image in going}.values():
            data = image.config
            self._note(image.manifest.config, self._publisher.push_blob(self._reference, image.manifest.config, lambda data=data: (data,)))  # type: ignore[misc]  # mypy does not infer a default argument's type in a lambda
        self._store.facts.add_place(tuple(layers), self._reference.name)

    def _layer(self, layer: LeavingLayer) -> None:
        descriptor = layer.descriptor
        places = self._store.facts.places(descriptor.digest)
        own = self._reference.registry + "/"
        mounts = [place.removeprefix(own) for place in places if place.startswith(own)]

        def pieces() -> Iterator[bytes]:
            self._present(layer, places)
            with self._store.blobs.open(descriptor.digest, verify=False) as blob:  # the upload hashes what it sends
                while piece := blob.read(CHUNK):
                    yield piece

        self._note(descriptor, self._publisher.push_blob(self._reference, descriptor, pieces, mount_from=mounts))

    def _present(self, layer: LeavingLayer, places: Sequence[str]) -> None:
        """The layer's blob here: as it came, packed, or, where only its manifest was ever fetched, from a registry that has it."""
        descriptor = layer.descriptor
        if not self._store.blobs.missing([descriptor.digest]):
            return
        if not layer.made and descriptor.digest != Digest(layer.diff_id):
            for place in places:
                try:
                    self._client.fetch_blob(Reference.parse(place), descriptor, self._store.blobs)
                    return
                except RegistryError:
                    continue
        if ensure_blob(self._store, layer).digest != descriptor.digest:
            raise _Changed

    def _note(self, descriptor: Descriptor, outcome: Outcome) -> None:
        with self._lock:
            self._counts[outcome] += 1
            self._bytes += descriptor.size if outcome == "sent" else 0
        if self._on_blob:
            self._on_blob(descriptor, outcome)


def _index(images: Sequence[LeavingImage], beside: Sequence[Attached]) -> bytes:
    entries = []
    for image in images:
        config = image.parsed
        platform = {"architecture": config.architecture, "os": config.os or "linux", "variant": config.variant}
        entries.append(IndexEntry(image.raw, image.media_type, platform))
    return index_over(entries, [each.descriptor for each in beside])
