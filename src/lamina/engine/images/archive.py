"""Reading image archives: what `docker save` writes (before and since 25), podman's and skopeo's, and OCI layouts in a tar.

An archive with both manifest.json and index.json is read by manifest.json (it has the names) and takes the original manifest from
the index where one has the same config, so that a pulled image keeps its digest.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

import msgspec

from lamina.diagnostics.errors import LaminaError
from lamina.engine.images.errors import BadArchive
from lamina.engine.images.files import ArchiveFiles, Files, FolderFiles
from lamina.engine.images.incoming import CHUNK, IncomingImage, ingest_bytes
from lamina.engine.images.layout import DOCUMENT_LIMIT, Layout, check_layers, checked_config, descriptor_names
from lamina.engine.images.streamed import StreamedFiles
from lamina.engine.images.tar import TarIndex
from lamina.engine.images.turns import Turn, in_turns
from lamina.engine.images.unpacked import plain_stream
from lamina.layer.compress import sniff
from lamina.oci import typed
from lamina.oci.digest import DiffId, Digest, sha256
from lamina.oci.manifest import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Descriptor, Manifest, encode_manifest
from lamina.oci.platform import Platform
from lamina.oci.selection import is_image
from lamina.oci.unreadable import UNREADABLE
from lamina.store.protocols import BlobStore

_UNPACKED_LIMIT = 1 << 37  # bytes that a compressed archive may become: 128 GiB


class _Saved(msgspec.Struct):
    """One entry of manifest.json."""

    Config: str
    Layers: list[str] | None = None
    RepoTags: list[str] | None = None


def load_archive(
    source: Path | BinaryIO, blobs: BlobStore, platform: Platform, scratch: Path, also: Callable[[Files], None] | None = None
) -> tuple[IncomingImage, ...]:
    """All images of an archive (a file, a pipe) or layout directory, their bytes in `blobs`.

    `also` is called with docker's archive while it is open, after its images. `scratch`: a folder for a temporary copy when the source is compressed or cannot seek. Raises BadArchive, UnsupportedImage,
    ImageNotFound (nothing for `platform`); then no image is known, and blobs that were taken over are garbage.
    """
    with opened(source, scratch, blobs) as files:
        if files.read("manifest.json", DOCUMENT_LIMIT) is not None:
            images = _load_docker(files, blobs, platform)
            if also is not None:
                also(files)
            return images
        if files.read("index.json", DOCUMENT_LIMIT) is None:
            raise BadArchive(
                f"{files.label} is no image archive: it has neither manifest.json nor index.json",
                hint="the tar of a root filesystem is taken with 'lamina import'",
            )
        layout = Layout(files)
        entries = {d.digest: d for d in layout.index.manifests if is_image(d)}
        found = []
        for digest, descriptor in entries.items():
            names = tuple(n for d in layout.index.manifests if d.digest == digest for n in descriptor_names(d)[:1])
            found.append(layout.take(descriptor, platform, blobs, names))
        if not found:
            raise BadArchive(f"{files.label} has no images")
        return tuple(found)


@contextmanager
def opened(source: Path | BinaryIO, scratch: Path, blobs: BlobStore | None = None) -> Iterator[Files]:
    """A directory, tar file, compressed tar file or stream as Files. What cannot seek is copied into `scratch` first, or with `blobs` taken over
    as it comes."""
    if isinstance(source, Path):
        if source.is_dir():
            yield FolderFiles(source)
            return
        try:
            file = source.open("rb")
        except OSError as error:
            raise BadArchive(
                f"cannot read {source}: {error.strerror}", exit_code=66 if isinstance(error, FileNotFoundError) else None
            ) from error
        with file:
            yield from _opened_file(file, str(source), scratch, blobs)
    else:
        yield from _opened_file(source, "standard input", scratch, blobs)


def _opened_file(file: BinaryIO, label: str, scratch: Path, blobs: BlobStore | None) -> Iterator[Files]:
    if file.seekable():
        head = file.read(512)
        file.seek(0)
        if head[257:262] == b"ustar" or not sniff(head):
            yield ArchiveFiles(_indexed(file, label), label)
            return
    if blobs is not None:
        with plain_stream(file, label) as plain:
            yield StreamedFiles(plain, label, blobs, _UNPACKED_LIMIT)
        return
    with tempfile.TemporaryFile(dir=scratch) as copy:
        total = 0
        with plain_stream(file, label) as plain:
            while piece := plain.read(CHUNK):
                total += len(piece)
                if total > _UNPACKED_LIMIT:
                    raise BadArchive(f"{label}: uncompressed, this is more than {_UNPACKED_LIMIT} bytes")
                copy.write(piece)
        yield ArchiveFiles(_indexed(copy, label), label)


def _indexed(file: BinaryIO, label: str) -> TarIndex:
    try:
        return TarIndex(file)
    except BadArchive as error:
        raise BadArchive(f"{label}: {error.message}") from error


def _load_docker(files: Files, blobs: BlobStore, platform: Platform) -> tuple[IncomingImage, ...]:
    raw = files.read("manifest.json", DOCUMENT_LIMIT) or b""
    try:
        saved = typed.json(raw, type=list[_Saved])
    except UNREADABLE as error:
        raise BadArchive(f"{files.label}: manifest.json: {error}") from error
    if not saved:
        raise BadArchive(f"{files.label} has no images")
    originals = _originals(files, platform)
    return tuple(_load_saved(files, entry, originals, blobs, platform) for entry in saved)


def _originals(files: Files, platform: Platform) -> dict[Digest, tuple[Layout, Descriptor]]:
    """By config digest: the manifests that the archive has beside manifest.json. An unreadable index is not needed here."""
    if files.read("index.json", DOCUMENT_LIMIT) is None:
        return {}
    out: dict[Digest, tuple[Layout, Descriptor]] = {}
    try:
        layout = Layout(files)
        for descriptor in layout.index.manifests:
            if is_image(descriptor):
                raw, digest, manifest = layout.manifest(descriptor, platform)
                check_layers(files.label, manifest)
                out[manifest.config.digest] = (
                    layout,
                    Descriptor(media_type=manifest.media_type or OCI_MANIFEST, digest=digest, size=len(raw)),
                )
    except LaminaError:
        return {}
    return out


def _load_saved(
    files: Files, saved: _Saved, originals: dict[Digest, tuple[Layout, Descriptor]], blobs: BlobStore, platform: Platform
) -> IncomingImage:
    config = files.read(saved.Config, DOCUMENT_LIMIT)
    if config is None:
        raise BadArchive(f"{files.label}: the config {saved.Config!r} is missing")
    names = tuple(saved.RepoTags or ())
    original = originals.get(sha256(config))
    if original:
        layout, descriptor = original
        return layout.take(descriptor, platform, blobs, names)
    diff_ids = checked_config(config, files.label).diff_ids
    members = saved.Layers or []
    if len(members) != len(diff_ids):
        raise BadArchive(f"{files.label}: manifest.json has {len(members)} layers, the config {len(diff_ids)}")
    wanted = list(zip(members, diff_ids))
    taken = dict(zip(dict.fromkeys(wanted), in_turns([partial(_load_layer, files, *each, blobs) for each in dict.fromkeys(wanted)])))
    layers = tuple(taken[each] for each in wanted)
    config_digest = ingest_bytes(blobs, config)
    manifest = Manifest(
        schema_version=2,
        media_type=OCI_MANIFEST,
        config=Descriptor(media_type=OCI_CONFIG, digest=config_digest, size=len(config)),
        layers=layers,
    )
    raw = encode_manifest(manifest)
    return IncomingImage(raw, ingest_bytes(blobs, raw), OCI_MANIFEST, config, config_digest, layers, names)


def _load_layer(files: Files, name: str, diff_id: DiffId, blobs: BlobStore, turn: Turn) -> Descriptor:
    """A layer of docker's archive, plain or compressed; kept uncompressed, so its digest is its diffID, which is verified."""
    digest = Digest(diff_id)
    held = files.blob(name)
    if held is not None and held[0] == digest:
        return Descriptor(media_type=OCI_LAYER, digest=digest, size=held[1])
    with blobs.ingest() as writer:
        size = 0
        with turn:
            found = files.open(name)
            if found is None:
                raise BadArchive(f"{files.label}: the layer {name!r} is missing")
            file, _ = found
            with file, plain_stream(file, f"{files.label}: {name}") as plain:
                while piece := plain.read(CHUNK):
                    turn.go_on()
                    size += writer.write(piece)
        if writer.commit() != digest:
            # The blob is under its true name, where nothing refers to it.
            raise BadArchive(f"{files.label}: layer {name} is not what the config says ({diff_id})")
    return Descriptor(media_type=OCI_LAYER, digest=digest, size=size)
