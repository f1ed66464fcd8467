from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from lamina.oci.digest import Digest
from lamina.oci.manifest import Descriptor
from lamina.oci.platform import Platform
from lamina.oci.reference import Reference
from lamina.registry.client import RegistryClient
from lamina.registry.errors import RegistryNotFound, RegistryProtocolError, RegistryUnsupported
from lamina.registry.transport import Transport, TransportSettings
from lamina.store.memory import MemoryBlobs
from lamina.testing.breaking import BreakingWay, Wrong
from lamina.testing.images import SimpleImage, serve, simple_image, tar_of
from lamina.testing.registry import MemoryRegistry, free_port

AMD = Platform("linux", "amd64")


@pytest.fixture
def registry() -> Iterator[MemoryRegistry]:
    with MemoryRegistry() as found:
        yield found


@pytest.fixture
def mirror() -> Iterator[MemoryRegistry]:
    with MemoryRegistry() as found:
        yield found


def client(registry: MemoryRegistry, *mirrors: str, foreign: bool = False) -> RegistryClient:
    transport = Transport(TransportSettings(connect_timeout=60, read_timeout=60), sleep=lambda _: None)
    return RegistryClient(transport, mirrors={registry.host: mirrors}, foreign=foreign)


def image() -> SimpleImage:
    return simple_image([tar_of({"f": b"x" * 1000})])


def fetch(with_: RegistryClient, reference: Reference) -> bytes:
    found = with_.resolve(reference, AMD)
    blobs = MemoryBlobs()
    with_.fetch_blob(reference, found.manifest.layers[0], blobs)
    return blobs.open(found.manifest.layers[0].digest).read()


def test_the_mirror_is_enough(registry: MemoryRegistry, mirror: MemoryRegistry) -> None:
    made = image()
    serve(mirror, "hub/app", "1", made)
    reference = Reference.parse(f"{registry.host}/app:1")
    assert fetch(client(registry, f"{mirror.host}/hub"), reference) == made.layers[0].blob
    assert registry.seen == []


def test_what_mirrors_lack_the_registry_has(registry: MemoryRegistry, mirror: MemoryRegistry) -> None:
    made = image()
    serve(registry, "app", "1", made)
    reference = Reference.parse(f"{registry.host}/app:1")
    with_ = client(registry, f"127.0.0.1:{free_port()}", mirror.host)
    assert fetch(with_, reference) == made.layers[0].blob
    assert mirror.seen
    assert with_.session.mirrors(registry.host) == (mirror.host,), "who does not answer is not asked again"


def test_a_mirror_that_lies_is_left(registry: MemoryRegistry, mirror: MemoryRegistry) -> None:
    made = image()
    for each in (registry, mirror):
        serve(each, "app", "1", made)
    mirror.faults.corrupt |= set(made.blobs())
    reference = Reference.parse(f"{registry.host}/app:1")
    with_ = client(registry, mirror.host)
    assert fetch(with_, reference) == made.layers[0].blob
    asked = len(mirror.seen)
    assert fetch(with_, reference) == made.layers[0].blob
    assert len(mirror.seen) == asked
    registry.faults.corrupt |= set(made.blobs())
    with pytest.raises(RegistryProtocolError, match="other bytes"):
        fetch(with_, reference)


def test_a_mirror_that_lies_to_two_threads_at_once_is_left_by_both(registry: MemoryRegistry, mirror: MemoryRegistry) -> None:
    """The second to notice found no mirror to blame any more, and the pull failed."""
    made = simple_image([tar_of({"f": b"x" * 1000}), tar_of({"g": b"y" * 1000})])
    for each in (registry, mirror):
        serve(each, "app", "1", made)
    mirror.faults.corrupt |= set(made.blobs())
    reference = Reference.parse(f"{registry.host}/app:1")
    with_ = client(registry, mirror.host)
    layers = with_.resolve(reference, AMD).manifest.layers
    both, begun = threading.Barrier(2, timeout=60), set[Digest]()

    def on_bytes(descriptor: Descriptor, _: int) -> None:
        if descriptor.digest not in begun:
            begun.add(descriptor.digest)
            both.wait()

    blobs = MemoryBlobs()
    with_.fetch_blobs(reference, layers, blobs, on_bytes=on_bytes)
    assert not blobs.missing([layer.digest for layer in layers])
    assert with_.session.mirrors(registry.host) == ()


def test_a_mirror_that_always_breaks_off_is_left(registry: MemoryRegistry) -> None:
    """Its torn answers were retried until the command failed, although the registry itself stood behind it."""
    made = image()
    serve(registry, "app", "1", made)
    with BreakingWay(registry.host, Wrong(0, "cut", 1, on=True)) as way:
        with_ = client(registry, way.host)
        assert fetch(with_, Reference.parse(f"{registry.host}/app:1")) == made.layers[0].blob
        assert with_.session.mirrors(registry.host) == ()


def test_foreign_layers_only_when_allowed(registry: MemoryRegistry, mirror: MemoryRegistry) -> None:
    data = b"vendor" * 100
    digest = Digest(mirror.put_blob(data))
    urls = (f"http://{mirror.host}/v2/x/blobs/sha256:{'0' * 64}", f"http://{mirror.host}/v2/x/blobs/{digest}")
    layer = Descriptor(media_type="application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", digest=digest, size=len(data), urls=urls)
    reference = Reference.parse(f"{registry.host}/app:1")
    with pytest.raises(RegistryUnsupported, match="vendor"):
        client(registry).fetch_blob(reference, layer, MemoryBlobs())
    assert mirror.seen == []
    blobs = MemoryBlobs()
    client(registry, foreign=True).fetch_blob(reference, layer, blobs)
    assert blobs.open(digest).read() == data
    assert registry.seen == []
    mirror.faults.corrupt.add(digest)
    with pytest.raises(RegistryProtocolError, match="other bytes"):
        client(registry, foreign=True).fetch_blob(reference, layer, MemoryBlobs())
    del mirror.blobs[digest]
    with pytest.raises(RegistryNotFound, match="not to be had"):
        client(registry, foreign=True).fetch_blob(reference, layer, MemoryBlobs())
