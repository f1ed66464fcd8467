"""Archives in and out, against archives that were made by other code."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lamina.diagnostics.errors import LaminaError
from lamina.engine.exporters.place import replacing
from lamina.engine.images.errors import BadArchive, ImageNotFound, LayerMismatch, UnsupportedImage
from lamina.engine.images.exporting import outgoing
from lamina.engine.images.importing import load
from lamina.engine.images.layers import PackLayer, pack_layer
from lamina.engine.images.outgoing import Sink, write_docker, write_oci, write_oci_folder
from lamina.engine.images.recording import record_built
from lamina.layer.flavour import Flavour, IdMap
from lamina.layer.pack import diff_id
from lamina.oci.config import ImageConfig, RootFs, encode_config
from lamina.oci.digest import LayerId
from lamina.oci.platform import Platform
from lamina.store.layers import LayerFacts
from lamina.store.local import LocalStore
from lamina.store.refs import Image
from lamina.testing.images import SimpleImage, digest_of, old_docker_archive, simple_image, tar_of, write_layout

AMD = Platform("linux", "amd64")
FLAVOUR = Flavour("trusted") if os.geteuid() == 0 else Flavour("plain", IdMap("single"))
NAME = "docker.io/library/app:1"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    with LocalStore.open(tmp_path / "store", FLAVOUR, now=lambda: 1000.0) as found:
        yield found


@pytest.fixture
def other(tmp_path: Path) -> Iterator[LocalStore]:
    with LocalStore.open(tmp_path / "other", FLAVOUR, now=lambda: 1000.0) as found:
        yield found


def two_layers(word: bytes = b"x") -> SimpleImage:
    return simple_image([tar_of({"base": b"same"}), tar_of({"top": word})])


def built(store: LocalStore) -> Image:
    active = store.layers.begin()
    (active.upper / "f").write_bytes(b"built")
    layer = LayerId("diff:" + "1" * 64)
    path = store.layers.commit(active, layer, LayerFacts())
    found, _ = diff_id(path.parent, FLAVOUR)
    config = encode_config(ImageConfig(os="linux", architecture="amd64", rootfs=RootFs(diff_ids=(found,))))
    return record_built(store, config, [(layer, found)], [NAME])


def test_old_docker_archive_with_two_images_and_a_shared_layer(store: LocalStore, tmp_path: Path) -> None:
    one, two = two_layers(b"1"), two_layers(b"2")
    path = tmp_path / "a.tar"
    path.write_bytes(old_docker_archive([(one, ["app:1", "other/app:x"]), (two, [])]))
    first, second = load(store, path, AMD)
    assert first.id == digest_of(one.config)
    assert set(first.names) == {NAME, "docker.io/other/app:x"}
    assert second.id == digest_of(two.config)
    assert second.names == ()
    assert first.layers[0] == second.layers[0]
    assert store.blobs.read(first.blobs[1]) == one.layers[1].plain


@pytest.mark.parametrize("pack", [lambda data: data, gzip.compress, bz2.compress, lzma.compress], ids=["plain", "gzip", "bzip2", "xz"])
def test_from_a_pipe(store: LocalStore, pack: Callable[[bytes], bytes]) -> None:
    data = pack(old_docker_archive([(two_layers(), ["app:1"])]))

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    (image,) = load(store, Pipe(data), AMD)
    assert image.names == (NAME,)


@pytest.mark.parametrize("cut", [0, 100, 700, 3000, 6000])
def test_cut_off_or_empty(store: LocalStore, tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(old_docker_archive([(two_layers(), ["app:1"])])[:cut])
    with pytest.raises(BadArchive) as caught:
        load(store, path, AMD)
    assert "\n" not in caught.value.message
    assert store.images.all() == []


@pytest.mark.parametrize("pack", [bz2.compress, lzma.compress], ids=["bzip2", "xz"])
def test_compressed_archives_in_files(store: LocalStore, tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "a.tar.packed"
    path.write_bytes(pack(old_docker_archive([(two_layers(), ["app:1"])])))
    assert [image.names for image in load(store, path, AMD)] == [(NAME,)]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BadArchive, match=r"a\.tar\.packed"):
        load(store, path, AMD)


def test_cut_off_gzip(store: LocalStore, tmp_path: Path) -> None:
    path = tmp_path / "a.tgz"
    path.write_bytes(gzip.compress(old_docker_archive([(two_layers(), ["app:1"])]))[:-30])
    with pytest.raises(BadArchive, match="cut off"):
        load(store, path, AMD)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"{}",
        b"[]",
        b"[{}]",
        b'[{"Config":"x"}]',
        b'[{"Config":"../../etc/passwd"}]',
        b"[" * 50_000,
        b'[{"Config":"c","Layers":["l"]}]',
    ],
)
def test_hostile_manifest_json(store: LocalStore, document: bytes) -> None:
    data = tar_of({"manifest.json": document, "c": b'{"rootfs":{"diff_ids":["sha256:1"]}}'})
    with pytest.raises(BadArchive):
        load(store, io.BytesIO(data), AMD)


def test_a_layer_that_is_another(store: LocalStore) -> None:
    image = two_layers()
    raw = old_docker_archive([(image, ["app:1"])])
    at = raw.index(b"same")
    with pytest.raises(BadArchive, match="not what the config says"):
        load(store, io.BytesIO(raw[:at] + b"evil" + raw[at + 4 :]), AMD)
    assert store.images.all() == []


def test_saved_and_loaded_again(store: LocalStore, other: LocalStore) -> None:
    (image,) = load(store, io.BytesIO(old_docker_archive([(two_layers(), ["app:1"])])), AMD)
    out = io.BytesIO()
    write_docker([outgoing(store, image, "plain")], out)
    again = io.BytesIO()
    write_docker([outgoing(store, image, "plain")], again)
    assert out.getvalue() == again.getvalue()
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
        names = tar.getnames()
        entries = json.load(tar.extractfile("manifest.json") or io.BytesIO())
        index = json.load(tar.extractfile("index.json") or io.BytesIO())
        repositories = json.load(tar.extractfile("repositories") or io.BytesIO())
    assert {"oci-layout", "index.json", "manifest.json", "repositories"} <= set(names)
    assert entries[0]["RepoTags"] == ["app:1"]
    assert set(entries[0]["Layers"]) <= set(names)
    assert index["manifests"][0]["annotations"]["io.containerd.image.name"] == NAME
    assert list(repositories) == ["app"]
    out.seek(0)
    assert load(other, out, AMD)[0].id == image.id
    assert load(other, out, AMD)[0].names == (NAME,)


def test_compressed_layers_leave_plain_for_docker_and_unchanged_for_oci(store: LocalStore, other: LocalStore, tmp_path: Path) -> None:
    made = two_layers()
    write_layout(tmp_path / "in", [(made, "1")])
    (image,) = load(store, tmp_path / "in", AMD)
    assert image.manifest == made.digest
    out = io.BytesIO()
    write_oci([outgoing(store, image, "stored", [NAME])], out)
    out.seek(0)
    assert load(other, out, AMD)[0].manifest == made.digest
    plain = outgoing(store, image, "plain", [NAME])
    assert [str(layer.digest) for layer in plain.layers] == [str(layer) for layer in image.layers]
    assert digest_of(plain.manifest) != made.digest


def test_a_built_layer_is_packed_on_its_way_out(store: LocalStore, other: LocalStore, tmp_path: Path) -> None:
    image = built(store)
    write_oci_folder([outgoing(store, image, "stored")], tmp_path)
    (loaded,) = load(other, tmp_path, AMD)
    assert loaded.manifest == image.manifest
    assert loaded.names == (NAME,)


def test_a_layer_directory_that_was_changed(store: LocalStore) -> None:
    image = built(store)
    path = store.layers.path(image.layers[0])
    assert path is not None
    (path / "f").write_bytes(b"evil!")
    with pytest.raises(LayerMismatch):
        outgoing(store, image, "plain")


def test_a_layer_directory_that_was_changed_and_whose_size_is_known(store: LocalStore, tmp_path: Path) -> None:
    image = built(store)
    path = store.layers.path(image.layers[0])
    assert path is not None
    found, size = diff_id(path.parent, FLAVOUR)
    store.layers.set_diff_id(image.layers[0], found, size)
    calls: list[int] = []

    def counted(store: LocalStore, layer: LayerId, sink: Sink, /) -> None:
        calls.append(1)
        pack_layer(store, layer, sink)

    write_docker([outgoing(store, image, "plain", pack=counted)], io.BytesIO())
    assert len(calls) == 1  # packed once
    (path / "f").write_bytes(b"evil!")
    target = tmp_path / "app.tar"
    with pytest.raises(LayerMismatch), replacing(target) as file:
        write_docker([outgoing(store, image, "plain")], file)
    assert list(tmp_path.glob("*app*")) == []


def test_a_layer_that_grows_while_it_is_written(store: LocalStore) -> None:
    image = built(store)
    calls: list[int] = []

    def growing(store: LocalStore, layer: LayerId, sink: Sink, /) -> None:
        from lamina.engine.images.layers import pack_layer

        pack_layer(store, layer, sink)
        calls.append(1)
        if len(calls) > 1:
            sink.write(b"more")

    pack: PackLayer = growing
    with pytest.raises(BadArchive, match="longer"):
        write_docker([outgoing(store, image, "plain", pack=pack)], io.BytesIO())


def test_a_layer_that_is_nowhere(store: LocalStore) -> None:
    (image,) = load(store, io.BytesIO(old_docker_archive([(two_layers(), ["app:1"])])), AMD)
    store.blobs.delete(image.blobs[0])
    with pytest.raises(ImageNotFound, match="not in the store"):
        outgoing(store, image, "plain")


@pytest.mark.parametrize("kind", ["application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "application/vnd.helm.chart"])
def test_layers_that_are_none(store: LocalStore, tmp_path: Path, kind: str) -> None:
    made = simple_image([tar_of({"f": b"1"})])
    raw = made.manifest.replace(made.layers[0].media_type.encode(), kind.encode())
    write_layout(tmp_path / "in", [(SimpleImage(made.config, raw, made.layers), "1")])
    with pytest.raises(UnsupportedImage):
        load(store, tmp_path / "in", AMD)


def test_no_archive_at_all(store: LocalStore, tmp_path: Path) -> None:
    with pytest.raises(BadArchive, match="neither manifest"):
        load(store, io.BytesIO(tar_of({"etc/passwd": b"x"})), AMD)
    with pytest.raises(LaminaError, match="No such file"):
        load(store, tmp_path / "nothing", AMD)
