"""Images into the store: pulled, loaded, built, or made from a root filesystem. The image's row comes last: it makes it visible."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from lamina.cache.index import LocalRecords
from lamina.engine.images.archive import load_archive, opened
from lamina.engine.images.errors import BadArchive
from lamina.engine.images.files import Files
from lamina.engine.images.incoming import CHUNK, IncomingImage, ingest_bytes
from lamina.engine.images.layout import Layout, check_layers, checked_config
from lamina.engine.images.recording import built_manifest, record
from lamina.engine.images.tar import scan
from lamina.engine.images.unpacked import plain_stream
from lamina.oci.config import History, ImageConfig, RootFs, encode_config
from lamina.oci.digest import DiffId, Digest
from lamina.oci.manifest import OCI_LAYER, OCI_MANIFEST, Descriptor
from lamina.oci.platform import Platform
from lamina.oci.reference import Reference
from lamina.store.local import LocalStore
from lamina.store.refs import Image

if TYPE_CHECKING:
    from lamina.registry.client import OnBytes, RegistryClient, Resolved  # a build of what is here needs no registry

_ROOTFS_MEMBERS = 20_000_000


def pull(
    store: LocalStore,
    client: RegistryClient,
    reference: Reference,
    platform: Platform,
    *,
    layers: bool = True,
    names: Sequence[str] | None = None,
    on_bytes: OnBytes | None = None,
) -> Image:
    """The image of `reference` into the store, under its own name unless `names` says otherwise; layers stay packed.

    With layers=False only manifest and config come; `ensure_layer` fetches a layer when something needs it.
    """
    reference = reference.with_default_tag()
    resolved = client.resolve(reference, platform)
    incoming = fetch_head(store, client, resolved)
    if layers:
        client.fetch_blobs(reference, incoming.layers, store.blobs, on_bytes=on_bytes)
    if names is None:
        names = (str(reference),) if reference.tag and not reference.digest else ()
    image = record(store, incoming, names)
    store.facts.set_remote(str(reference), str(platform), resolved.top)
    store.facts.add_place(image.blobs, reference.name)
    return image


def fetch_head(store: LocalStore, client: RegistryClient, resolved: Resolved) -> IncomingImage:
    """Manifest, index and config of what was resolved into the blobs, checked against each other."""
    from lamina.registry.errors import RegistryProtocolError

    reference, manifest = resolved.reference, resolved.manifest
    raw = client.fetch_config(reference, manifest.config)
    try:
        check_layers(str(reference), manifest)
        config = checked_config(raw, str(reference))
    except BadArchive as error:
        raise RegistryProtocolError(error.message) from error
    if len(config.diff_ids) != len(manifest.layers):
        raise RegistryProtocolError(f"{reference}: the manifest has {len(manifest.layers)} layers, its config {len(config.diff_ids)}")
    digest = ingest_bytes(store.blobs, raw, manifest.config.digest)
    ingest_bytes(store.blobs, resolved.raw, resolved.digest)
    if resolved.index_raw is not None:
        ingest_bytes(store.blobs, resolved.index_raw, resolved.index_digest)
    return IncomingImage(resolved.raw, resolved.digest, resolved.media_type, raw, digest, tuple(manifest.layers))


class Loaded(msgspec.Struct, frozen=True):
    """`records`: steps of builds that came with the images; `wrong`: what of them is not believed, in words."""

    images: tuple[Image, ...]
    records: int = 0
    wrong: tuple[str, ...] = ()


def load(store: LocalStore, source: Path | BinaryIO, platform: Platform) -> tuple[Image, ...]:
    """All images of an archive or layout directory, with the names that they have there. All of them, or none.

    A name that is no reference (a bare tag of an OCI layout) is not taken over.
    """
    return load_with_cache(store, source, platform, None).images


def load_with_cache(store: LocalStore, source: Path | BinaryIO, platform: Platform, records: LocalRecords | None) -> Loaded:
    """As `load`; with `records` the build cache that the archive carries (carried.py) is taken over too."""
    from lamina.engine.images.carried import Carried, adopt, read_carried, take_layers

    cargo: list[Carried] = []

    def also(files: Files) -> None:
        found = read_carried(files)
        if found is not None:
            take_layers(files, store, found)
            cargo.append(found)

    incoming = load_archive(source, store.blobs, platform, store.scratch(), also if records is not None else None)
    named = [(each, [n for n in map(_full_name, each.names) if n]) for each in incoming]
    images = tuple(record(store, each, names) for each, names in named)
    if records is None or not cargo:
        return Loaded(images)
    taken, wrong = adopt(store, records, cargo[0], incoming)
    return Loaded(images, taken, wrong)


def from_layout(store: LocalStore, path: Path, platform: Platform, *, tag: str = "", digest: Digest | None = None) -> Image:
    """The image that `oci-layout://path[:tag|@digest]` means (a directory or a tar), into the store without a name."""
    with opened(path, store.scratch()) as files:
        layout = Layout(files)
        return record(store, layout.take(layout.select(tag, digest), platform, store.blobs), ())


def split_layout_reference(text: str) -> tuple[Path, str, Digest | None]:
    """`path[:tag|@digest]` of an oci-layout:// reference. A colon belongs to a tag when no slash follows."""
    from lamina.oci.digest import parse_digest

    path, at, digest = text.rpartition("@")
    if at and digest.startswith("sha"):
        return Path(path), "", parse_digest(digest)
    path, colon, tag = text.rpartition(":")
    if colon and "/" not in tag and path:
        return Path(path), tag, None
    return Path(text), "", None


def import_rootfs(
    store: LocalStore,
    source: BinaryIO,
    config: ImageConfig,
    names: Sequence[str] = (),
    *,
    label: str = "the archive",
    comment: str = "",
) -> Image:
    """A root filesystem's tar (plain, gzip or zstd) becomes an image of one layer. `config`: everything but rootfs and history.

    The tar is checked from end to end before anything names it: BadArchive when it is none, damaged or cut off.
    """
    if not (config.os and config.architecture):
        raise ValueError("an image needs a platform")
    size = 0
    with plain_stream(source, label) as plain, store.blobs.ingest() as writer:
        while piece := plain.read(CHUNK):
            size += writer.write(piece)
        layer = writer.commit()
    with store.blobs.open(layer) as tar:
        try:
            found = scan(tar, _ROOTFS_MEMBERS)
        except BadArchive as error:
            raise BadArchive(f"{label}: {error.message}") from error
    if not found:
        raise BadArchive(f"{label} is empty")
    history = History(created=config.created, created_by="lamina import", comment=comment or f"Imported from {label}")
    config = msgspec.structs.replace(config, rootfs=RootFs(diff_ids=(DiffId(layer),)), history=(history,))
    raw = encode_config(config)
    descriptor = Descriptor(media_type=OCI_LAYER, digest=layer, size=size)
    manifest = built_manifest(raw, [descriptor])
    incoming = IncomingImage(
        manifest,
        ingest_bytes(store.blobs, manifest),
        OCI_MANIFEST,
        raw,
        ingest_bytes(store.blobs, raw),
        (descriptor,),
    )
    return record(store, incoming, names)


def _full_name(name: str) -> str | None:
    """A reference with a tag, normalised; None for a bare tag such as `latest` or for what is no reference."""
    from lamina.diagnostics.errors import LaminaError

    if ":" not in name.rpartition("/")[2]:
        return None
    try:
        reference = Reference.parse(name)
    except LaminaError:
        return None
    return None if reference.digest else str(reference)
