"""An image on its way out, and the three forms it can take: docker's archive, an OCI layout in a tar, an OCI layout directory.

docker's archive is the hybrid that docker 25 and later write: manifest.json and repositories for those who read docker's form,
an OCI layout over the same blobs for the others. Its layers are plain, so `blobs/sha256/X` is a layer by its diffID and every
reader (docker load with either image store, podman, skopeo) finds what it expects. The same images are the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

import msgspec

from lamina.engine.images.tar import TarOut
from lamina.oci.canonical import canonical
from lamina.oci.digest import DiffId, Digest, sha256
from lamina.oci.manifest import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST

OCI_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


class Sink(Protocol):
    def write(self, data: bytes | memoryview, /) -> int: ...


class OutgoingLayer(msgspec.Struct, frozen=True):
    """One layer's bytes in one form. `copy` writes exactly `size` bytes with this digest, and may be called again."""

    digest: Digest
    size: int
    media_type: str
    copy: Callable[[Sink], None]


class OutgoingIndex(msgspec.Struct, frozen=True):
    """One index over the images, with what stands beside them: the layout then lists it in their place. `blobs`: small ones, by digest."""

    raw: bytes
    blobs: dict[Digest, bytes]


class OutgoingImage(msgspec.Struct, frozen=True):
    """`names`: (full name, familiar name) of each tag, e.g. ("docker.io/library/a:1", "a:1"); empty = only the digest.

    `manifest` refers to `layers` in this order. `platform`: fields for the index, as the image spec has them.
    """

    config: bytes
    manifest: bytes
    media_type: str
    layers: tuple[OutgoingLayer, ...]
    names: tuple[tuple[str, str], ...]
    platform: dict[str, str]


def plain_manifest(config: bytes, layers: Sequence[OutgoingLayer]) -> bytes:
    """An OCI manifest over layers as they are in `layers`; canonical JSON, so its digest is stable."""
    return canonical(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": OCI_CONFIG, "digest": sha256(config), "size": len(config)},
            "layers": [{"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size} for layer in layers],
        }
    )


def write_docker(
    images: Sequence[OutgoingImage], out: BinaryIO, more: Sequence[OutgoingLayer] = (), documents: Mapping[str, bytes] | None = None
) -> None:
    """docker's archive. All layers must be plain (media type …layer.v1.tar), so that digest and diffID are one.

    `more` blobs and `documents` go in beside what the images need; other readers pass over them.
    """
    for image in images:
        if any(layer.media_type != OCI_LAYER for layer in image.layers):
            raise ValueError("docker's archive takes plain layers")
    repositories: dict[str, dict[str, str]] = {}
    entries = []
    for image in images:
        top = image.layers[-1].digest if image.layers else sha256(image.config)
        for _, familiar in image.names:
            repository, _, tag = familiar.rpartition(":")
            repositories.setdefault(repository, {})[tag] = top.partition(":")[2]
        entries.append(
            {
                "Config": _blob(sha256(image.config)),
                "RepoTags": [familiar for _, familiar in image.names] or None,
                "Layers": [_blob(layer.digest) for layer in image.layers],
            }
        )
    own = {"manifest.json": canonical(entries), "repositories": canonical(repositories)}
    _write_tar(images, out, {**(documents or {}), **own}, more)


def write_oci(images: Sequence[OutgoingImage], out: BinaryIO, index: OutgoingIndex | None = None) -> None:
    """An OCI layout in a tar; layers in the form that the manifests name."""
    _write_tar(images, out, {}, _small(index), index)


def write_oci_folder(images: Sequence[OutgoingImage], folder: Path, index: OutgoingIndex | None = None) -> None:
    """An OCI layout into an existing empty folder."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for digest, _, write in _blobs(images, _small(index)):
        with (blobs / digest.partition(":")[2]).open("xb") as file:
            write(file)
    (folder / "oci-layout").write_bytes(OCI_LAYOUT)
    (folder / "index.json").write_bytes(_index(images, index))


def _write_tar(
    images: Sequence[OutgoingImage],
    out: BinaryIO,
    documents: Mapping[str, bytes],
    more: Sequence[OutgoingLayer] = (),
    index: OutgoingIndex | None = None,
) -> None:
    tar = TarOut(out)
    tar.folder("blobs")
    tar.folder("blobs/sha256")
    for digest, size, write in _blobs(images, more):
        with tar.member(_blob(digest), size) as member:
            write(member)
    for name, data in sorted({**documents, "index.json": _index(images, index), "oci-layout": OCI_LAYOUT}.items()):
        tar.data(name, data)
    tar.close()


def _blobs(images: Sequence[OutgoingImage], more: Sequence[OutgoingLayer] = ()) -> list[tuple[Digest, int, Callable[[Sink], None]]]:
    """Every blob once, sorted by digest."""
    out: dict[Digest, tuple[int, Callable[[Sink], None]]] = {layer.digest: (layer.size, layer.copy) for layer in more}
    for image in images:
        for layer in image.layers:
            out[layer.digest] = (layer.size, layer.copy)
        for data in (image.config, image.manifest):
            out[sha256(data)] = (len(data), _writer(data))
    return [(digest, *out[digest]) for digest in sorted(out)]


def _small(index: OutgoingIndex | None) -> tuple[OutgoingLayer, ...]:
    """The index and what stands beside its images."""
    if index is None:
        return ()
    return tuple(OutgoingLayer(sha256(data), len(data), "", _writer(data)) for data in (index.raw, *index.blobs.values()))


def _writer(data: bytes) -> Callable[[Sink], None]:
    def write(sink: Sink) -> None:
        sink.write(data)

    return write


def _index(images: Sequence[OutgoingImage], index: OutgoingIndex | None = None) -> bytes:
    entries: list[dict[str, object]] = []
    if index is not None:
        # One entry for each name; platforms stand in the index itself.
        images = (OutgoingImage(b"", index.raw, OCI_INDEX, (), images[0].names, {}),)
    for image in images:
        entry: dict[str, object] = {"mediaType": image.media_type, "digest": sha256(image.manifest), "size": len(image.manifest)}
        if image.platform:
            entry["platform"] = image.platform
        entries.extend(
            {
                **entry,
                "annotations": {"io.containerd.image.name": full, "org.opencontainers.image.ref.name": full.rpartition(":")[2]},
            }
            for full, _ in image.names
        )
        if not image.names:
            entries.append(entry)
    return canonical({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})


def _blob(digest: Digest | DiffId) -> str:
    return "blobs/sha256/" + digest.partition(":")[2]
