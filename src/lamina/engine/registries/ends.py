"""The ends of a copy: what an image comes from, and what it goes to. Every byte stays what it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from lamina.engine.images.errors import BadArchive
from lamina.engine.images.incoming import CHUNK
from lamina.engine.images.layout import Layout, blob_name
from lamina.engine.registries.layouts import LayoutFolder, write_archive
from lamina.engine.registries.packing import LeavingImage, ensure_blob
from lamina.engine.registries.places import Place
from lamina.engine.registries.referring import Referring, in_layout, in_registry
from lamina.oci.digest import Digest, sha256
from lamina.oci.manifest import OCI_INDEX, OCI_MANIFEST, Descriptor, Index
from lamina.oci.reference import Reference
from lamina.oci.selection import parse_checked
from lamina.registry.client import ACCEPT, Document, RegistryClient
from lamina.registry.push import Outcome, Publisher
from lamina.store.local import LocalStore


class Source(Protocol):
    """Where an image comes from. `pieces` is called from several threads. Raises registry errors, BadArchive."""

    def top(self) -> Document:
        """The manifest or index that is to be copied, verified."""
        ...

    def document(self, descriptor: Descriptor) -> Document:
        """A manifest below an index, verified."""
        ...

    def pieces(self, descriptor: Descriptor) -> Iterator[bytes]:
        """A blob from its beginning; whoever takes it verifies it."""
        ...

    def referring(self, subject: Digest) -> Iterator[Referring]:
        """Signatures, attestations and the like: what says of itself that it refers to this."""
        ...


class Target(Protocol):
    """What an image goes to; `put` is called from several threads. Raises registry errors, CannotWrite, BadArchive for a source's wrong bytes."""

    def names(self, digest: Digest) -> bool:
        """Whether the target's name means this already."""
        ...

    def put(self, descriptor: Descriptor, pieces: Callable[[], Iterator[bytes]]) -> Outcome:
        """A blob, verified; `pieces` gives it from its beginning each time, and is not asked where the target has it."""
        ...

    def put_document(self, document: Document, *, top: bool) -> None:
        """When all that it names is there. With `top` it gets the target's name."""
        ...

    def put_referring(self, one: Referring, subject: Digest) -> None: ...


class FromRegistry:
    def __init__(self, client: RegistryClient, reference: Reference) -> None:
        self._client = client
        self._reference = reference

    def top(self) -> Document:
        return self._client.document(self._reference)

    def document(self, descriptor: Descriptor) -> Document:
        return self._client.document(Reference(self._reference.registry, self._reference.repository, digest=descriptor.digest))

    def pieces(self, descriptor: Descriptor) -> Iterator[bytes]:
        return self._client.pieces(self._reference, descriptor)

    def referring(self, subject: Digest) -> Iterator[Referring]:
        return in_registry(self._client, self._reference, subject)


class FromLayout:
    def __init__(self, layout: Layout, descriptor: Descriptor) -> None:
        self._layout = layout
        self._descriptor = descriptor

    def top(self) -> Document:
        return self.document(self._descriptor)

    def document(self, descriptor: Descriptor) -> Document:
        return _document(self._layout.document(descriptor), descriptor.media_type)

    def pieces(self, descriptor: Descriptor) -> Iterator[bytes]:
        found = self._layout.files.open(blob_name(descriptor.digest))
        if found is None:
            raise BadArchive(f"{self._layout.files.label}: blob {descriptor.digest} is missing")
        with found[0] as file:
            while piece := file.read(CHUNK):
                yield piece

    def referring(self, subject: Digest) -> Iterator[Referring]:
        return in_layout(self._layout, subject)


class FromStore:
    def __init__(self, store: LocalStore, image: LeavingImage) -> None:
        self._store = store
        self._image = image
        self._layers = {layer.descriptor.digest: layer for layer in image.layers}

    def top(self) -> Document:
        return _document(self._image.raw, self._image.media_type)

    def document(self, descriptor: Descriptor) -> Document:
        raise AssertionError("an image of the store has no index")

    def pieces(self, descriptor: Descriptor) -> Iterator[bytes]:
        layer = self._layers.get(descriptor.digest)
        if layer is not None:
            ensure_blob(self._store, layer)
        with self._store.blobs.open(descriptor.digest) as blob:
            while piece := blob.read(CHUNK):
                yield piece

    def referring(self, subject: Digest) -> Iterator[Referring]:
        return iter(())


class ToRegistry:
    def __init__(self, client: RegistryClient, reference: Reference, mount_from: tuple[str, ...]) -> None:
        self._publisher = Publisher(client.session)
        self._reference = reference
        self._mount_from = mount_from

    def names(self, digest: Digest) -> bool:
        return self._publisher.manifest_digest(self._reference, ACCEPT) == digest

    def put(self, descriptor: Descriptor, pieces: Callable[[], Iterator[bytes]]) -> Outcome:
        return self._publisher.push_blob(self._reference, descriptor, pieces, mount_from=self._mount_from)

    def put_document(self, document: Document, *, top: bool) -> None:
        plain = Reference(self._reference.registry, self._reference.repository, digest=document.digest)
        self._publisher.put_manifest(self._reference if top else plain, document.raw, document.media_type)

    def put_referring(self, one: Referring, subject: Digest) -> None:
        document, there = one.document, self._reference
        if one.tag:
            self._publisher.put_manifest(Reference(there.registry, there.repository, one.tag), document.raw, document.media_type)
        else:
            place = Reference(there.registry, there.repository, digest=document.digest)
            self._publisher.put_referrer(place, document.raw, document.media_type, subject, one.entry)


class ToLayout:
    def __init__(self, folder: LayoutFolder, tag: str) -> None:
        self._folder = folder
        self._tag = tag

    def names(self, digest: Digest) -> bool:
        return False  # its blobs are compared one by one, which costs nothing

    def put(self, descriptor: Descriptor, pieces: Callable[[], Iterator[bytes]]) -> Outcome:
        if self._folder.has(descriptor):
            return "there"
        self._folder.put(descriptor.digest, _exactly(descriptor, pieces()))
        return "sent"

    def put_document(self, document: Document, *, top: bool) -> None:
        descriptor = Descriptor(media_type=document.media_type, digest=document.digest, size=len(document.raw))
        self._folder.put(document.digest, (document.raw,))
        if top:
            self._folder.name(descriptor, self._tag)

    def put_referring(self, one: Referring, subject: Digest) -> None:
        self._folder.put(one.document.digest, (one.document.raw,))
        self._folder.name(one.entry, one.tag)


class ToArchive(ToLayout):
    """A layout of its own, which becomes the archive when the image is complete."""

    def __init__(self, folder: Path, place: Place) -> None:
        super().__init__(LayoutFolder(folder), place.name)
        self._place = place
        self._scratch = folder

    def put_document(self, document: Document, *, top: bool) -> None:
        super().put_document(document, top=top)
        if top:
            write_archive(self._scratch, self._place.file)


def _exactly(descriptor: Descriptor, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """A source that goes on and on must not fill the disk before its digest is found to be wrong."""
    left = descriptor.size
    for piece in pieces:
        left -= len(piece)
        if left < 0:
            raise BadArchive(f"blob {descriptor.digest} is longer than the {descriptor.size} bytes that are stated for it")
        yield piece


def _document(raw: bytes, media_type: str) -> Document:
    value = parse_checked(raw, media_type)
    return Document(raw, sha256(raw), value.media_type or (OCI_INDEX if isinstance(value, Index) else OCI_MANIFEST), value)
