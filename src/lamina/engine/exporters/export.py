"""One `--output` carried out: the image into the form and place that it names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from lamina.cache.index import LocalRecords
from lamina.engine.attest.attached import Attest
from lamina.engine.exporters.output import BadOutput
from lamina.engine.exporters.place import new_folder, replacing
from lamina.engine.exporters.rootfs import write_local, write_rootfs_tar
from lamina.engine.images.exporting import Form, outgoing
from lamina.engine.images.indexing import IndexEntry, index_over
from lamina.engine.images.layers import ensure_layers
from lamina.engine.images.outgoing import OutgoingImage, OutgoingIndex, write_docker, write_oci, write_oci_folder
from lamina.engine.request import Output
from lamina.layer.view import LayerView
from lamina.oci.digest import sha256
from lamina.store.local import LocalStore
from lamina.store.refs import Image


def export(store: LocalStore, images: Sequence[Image], output: Output, stdout: BinaryIO, attest: Attest | None = None) -> tuple[str, ...]:
    """Write `images` as `output` says; `stdout` is used when it has no dest. Returns warnings (paths that could not be made).

    Files and OCI directories appear complete or not at all. type=image has nothing to do: the store has it already; type=registry is
    engine/registries/pushing.py's. tar and local
    take exactly one image. Layers that are not here must have been fetched.
    """
    match output.type:
        case "image" | "registry":
            return ()
        case "tar" | "local":
            if len(images) != 1:
                raise BadOutput(f"type={output.type} writes one image, not {len(images)}", hint="name one platform, or use type=oci")
            view = LayerView(ensure_layers(store, images[0]), store.flavour)
            if output.type == "local":
                skipped = write_local(view, _dest(output))
                return tuple(f"{path} was left out: making devices is not permitted" for path in skipped)
            if output.dest is None:
                write_rootfs_tar(view, stdout)
            else:
                with replacing(output.dest) as out:
                    write_rootfs_tar(view, out)
        case "docker" | "oci":
            attrs = dict(output.attrs)
            names = attrs["name"].split(",") if attrs.get("name") else None
            form: Form = "plain" if output.type == "docker" else "stored"
            leaving = [outgoing(store, image, form, None if names is None else [full_name(n) for n in names]) for image in images]
            index = _index(images, leaving, attest) if output.type == "oci" else None
            _write(leaving, output, stdout, folder=attrs.get("tar") == "false", index=index)
    return ()


def _index(images: Sequence[Image], leaving: Sequence[OutgoingImage], attest: Attest | None) -> OutgoingIndex | None:
    """One index over several platforms, or over what has attestations; None where the layout's own index is enough."""
    beside = [found for image, each in zip(images, leaving) if attest and (found := attest(image, sha256(each.manifest))) is not None]
    if len(leaving) == 1 and not beside:
        return None
    blobs = {descriptor.digest: data for attached in beside for descriptor, data in attached.blobs}
    blobs |= {attached.descriptor.digest: attached.raw for attached in beside}
    entries = [IndexEntry(each.manifest, each.media_type, each.platform) for each in leaving]
    return OutgoingIndex(index_over(entries, [attached.descriptor for attached in beside]), blobs)


def save(
    store: LocalStore, images: Sequence[tuple[Image, Sequence[str] | None]], out: BinaryIO, records: LocalRecords | None = None
) -> None:
    """docker's archive of several images, each with these full names (None: all that it has). With `records` it carries the cache of the builds
    that made them (images/carried.py)."""
    from lamina.engine.images.carried import ENTRY, pack_records

    cargo = pack_records(store, records, [image for image, _ in images]) if records is not None else None
    leaving = [outgoing(store, image, "plain", names) for image, names in images]
    if cargo is None:
        write_docker(leaving, out)
    else:
        write_docker(leaving, out, cargo.layers, {ENTRY: cargo.entry})


def full_name(text: str) -> str:
    """A user's name for an image, normalised, with its tag. Raises InvalidReference."""
    from lamina.oci.reference import Reference

    return str(Reference.parse(text.strip()).with_default_tag())


def _write(leaving: Sequence[OutgoingImage], output: Output, stdout: BinaryIO, *, folder: bool, index: OutgoingIndex | None) -> None:
    if folder:
        with new_folder(_dest(output)) as made:
            write_oci_folder(leaving, made, index)
        return

    def write(out: BinaryIO) -> None:
        if output.type == "docker":
            write_docker(leaving, out)
        else:
            write_oci(leaving, out, index)

    if output.dest is None:
        write(stdout)
        return
    with replacing(output.dest) as out:
        write(out)


def _dest(output: Output) -> Path:
    if output.dest is None:
        raise BadOutput(f"type={output.type} writes a directory and needs dest=DIR")
    return output.dest
