"""Pull, import, record, and layers that are unpacked when they are needed."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lamina.diagnostics.errors import LaminaError
from lamina.engine.images.errors import BadArchive, LayerMismatch
from lamina.engine.images.importing import import_rootfs, pull, split_layout_reference
from lamina.engine.images.layers import ensure_layer
from lamina.engine.images.recording import record_built
from lamina.layer.flavour import Flavour, IdMap
from lamina.layer.pack import diff_id
from lamina.oci.config import ImageConfig, RootFs, encode_config
from lamina.oci.digest import DiffId, LayerId
from lamina.oci.manifest import Manifest
from lamina.oci.platform import Platform
from lamina.oci.reference import Reference
from lamina.oci.selection import parse_checked
from lamina.registry.client import RegistryClient
from lamina.registry.errors import RegistryProtocolError
from lamina.registry.transport import Transport, TransportSettings
from lamina.store.layers import LayerFacts
from lamina.store.local import LocalStore
from lamina.testing.images import digest_of, serve, simple_image, tar_of
from lamina.testing.registry import MemoryRegistry

AMD = Platform("linux", "amd64")
FLAVOUR = Flavour("trusted") if os.geteuid() == 0 else Flavour("plain", IdMap("single"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    with LocalStore.open(tmp_path / "store", FLAVOUR, now=lambda: 1000.0) as found:
        yield found


@pytest.fixture
def registry() -> Iterator[MemoryRegistry]:
    with MemoryRegistry() as found:
        yield found


@pytest.fixture
def client() -> RegistryClient:
    return RegistryClient(Transport(TransportSettings(connect_timeout=60, read_timeout=60), sleep=lambda _: None))


def layers_of(store: LocalStore, digest: str) -> Manifest:
    found = parse_checked(store.blobs.read(digest))  # type: ignore[arg-type]  # a digest as the test computed it
    assert isinstance(found, Manifest)
    return found


@pytest.mark.parametrize("compression", ["gzip", "zstd", ""])
def test_pull_then_unpack(store: LocalStore, registry: MemoryRegistry, client: RegistryClient, compression: str) -> None:
    made = simple_image([tar_of({"d": None, "d/f": b"one"}), tar_of({"d": None, "d/g": b"two"})], compression=compression)
    serve(registry, "app", "1", made)
    reference = Reference.parse(f"{registry.host}/app:1")
    image = pull(store, client, reference, AMD)
    assert image.id == digest_of(made.config)
    assert image.manifest == made.digest
    assert store.images.by_name(str(reference)) == image
    assert store.blobs.read(image.manifest) == made.manifest
    assert not store.layers.present(image.layers)
    manifest = layers_of(store, made.digest)
    path = ensure_layer(store, DiffId(image.layers[0]), manifest.layers[0])
    assert (path / "d/f").read_bytes() == b"one"
    assert ensure_layer(store, DiffId(image.layers[0]), manifest.layers[0]) == path
    assert made.digest in store.layout.index.read_text()


def test_pull_without_layers(store: LocalStore, registry: MemoryRegistry, client: RegistryClient) -> None:
    made = simple_image([tar_of({"f": b"one"})])
    serve(registry, "app", "1", made)
    reference = Reference.parse(f"{registry.host}/app:1")
    image = pull(store, client, reference, AMD, layers=False)
    (layer,) = layers_of(store, made.digest).layers
    assert store.blobs.missing([layer.digest])
    assert made.digest not in store.layout.index.read_text()
    path = ensure_layer(store, DiffId(image.layers[0]), layer, lambda wanted: client.fetch_blob(reference, wanted, store.blobs))
    assert (path / "f").read_bytes() == b"one"


def test_a_config_that_lies_about_a_layer(store: LocalStore, registry: MemoryRegistry, client: RegistryClient) -> None:
    made = simple_image([tar_of({"f": b"one"})])
    serve(registry, "app", "1", made)
    pull(store, client, Reference.parse(f"{registry.host}/app:1"), AMD)
    wrong = DiffId(digest_of(b"another"))
    with pytest.raises(LayerMismatch):
        ensure_layer(store, wrong, layers_of(store, made.digest).layers[0])
    assert not store.layers.present([LayerId(wrong)])
    assert not list((store.layout.root / "active").iterdir())


def test_a_layer_that_is_no_archive(store: LocalStore) -> None:
    for data in (b"hello" * 300, gzip.compress(tar_of({"f": bytes(9000)}))[:-20], b"\x28\xb5\x2f\xfdnonsense"):
        with store.blobs.ingest() as writer:
            writer.write(data)
            digest = writer.commit()
        with pytest.raises(LaminaError):
            ensure_layer(store, DiffId(digest))
        assert not store.layers.present([LayerId(digest)])


def test_config_and_manifest_must_agree(store: LocalStore, registry: MemoryRegistry, client: RegistryClient) -> None:
    one, two = simple_image([tar_of({"f": b"1"})]), simple_image([tar_of({"f": b"1"}), tar_of({"g": b"2"})])
    size = f'"size": {len(two.config)}'.encode()
    text = two.manifest.replace(digest_of(two.config).encode(), digest_of(one.config).encode()).replace(
        size, f'"size": {len(one.config)}'.encode(), 1
    )
    registry.put_blob(one.config)
    registry.put_manifest("app", text, "application/vnd.oci.image.manifest.v1+json", "1")
    with pytest.raises(RegistryProtocolError, match="2 layers, its config 1"):
        pull(store, client, Reference.parse(f"{registry.host}/app:1"), AMD)
    assert store.images.all() == []


@pytest.mark.parametrize("pack", [lambda data: data, gzip.compress, bz2.compress, lzma.compress], ids=["plain", "gzip", "bzip2", "xz"])
def test_import(store: LocalStore, pack: Callable[[bytes], bytes]) -> None:
    tar = tar_of({"etc": None, "etc/name": b"x"})
    config = ImageConfig(os="linux", architecture="amd64")
    image = import_rootfs(store, io.BytesIO(pack(tar)), config, ["docker.io/library/root:1"])
    assert image.layers == (digest_of(tar),)
    path = ensure_layer(store, DiffId(image.layers[0]))
    assert (path / "etc/name").read_bytes() == b"x"
    assert image.manifest in store.layout.index.read_text()


@pytest.mark.parametrize("data", [b"", b"hello", tar_of({"f": bytes(5000)})[:3000], gzip.compress(bytes(5000), mtime=0)[:-9], bytes(10240)])
def test_import_of_something_else(store: LocalStore, data: bytes) -> None:
    with pytest.raises(BadArchive):
        import_rootfs(store, io.BytesIO(data), ImageConfig(os="linux", architecture="amd64"), ["docker.io/library/root:1"])
    assert store.images.all() == []


def test_a_built_image_is_listed_once_its_layers_are_blobs(store: LocalStore) -> None:
    active = store.layers.begin()
    (active.upper / "f").write_bytes(b"built")
    layer = LayerId("diff:" + "1" * 64)
    path = store.layers.commit(active, layer, LayerFacts())
    found, size = diff_id(path.parent, FLAVOUR)
    config = encode_config(ImageConfig(os="linux", architecture="amd64", rootfs=RootFs(diff_ids=(found,))))
    image = record_built(store, config, [(layer, found)], ["docker.io/library/app:1"])
    assert image.layers == (layer,)
    assert layers_of(store, image.manifest).layers[0].size == size
    assert image.manifest not in store.layout.index.read_text()
    assert record_built(store, config, [(layer, found)], [], sizes={found: size}).manifest == image.manifest


@pytest.mark.parametrize(
    ("text", "path", "tag", "digested"),
    [
        ("a/b", "a/b", "", False),
        ("a/b:1", "a/b", "1", False),
        ("a:b/c", "a:b/c", "", False),
        ("/x@sha256:" + "0" * 64, "/x", "", True),
    ],
)
def test_layout_references(text: str, path: str, tag: str, digested: bool) -> None:
    found = split_layout_reference(text)
    assert (found[0], found[1], found[2] is not None) == (Path(path), tag, digested)
