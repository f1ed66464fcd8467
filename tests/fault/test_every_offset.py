"""A registry whose answers break off: at every byte of the small ones, at samples of the big ones. Once costs a repetition; always, one clear
line. No byte is taken unproved."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from lamina.diagnostics.errors import LaminaError
from lamina.engine.images.importing import pull
from lamina.layer.flavour import Flavour, IdMap
from lamina.oci.platform import Platform
from lamina.oci.reference import Reference
from lamina.registry.auth import Credentials, Given
from lamina.registry.client import RegistryClient
from lamina.registry.errors import RegistryError, RegistryProtocolError, RegistryUnreachable
from lamina.registry.transport import Transport, TransportSettings
from lamina.store.local import LocalStore
from lamina.store.memory import MemoryBlobs
from lamina.testing.breaking import BreakingWay, Wrong
from lamina.testing.fakeregistry import FakeRegistry
from lamina.testing.images import digest_of, simple_image, tar_of
from lamina.testing.images import push as push_simple

AMD = Platform("linux", "amd64")
FLAVOUR = Flavour("trusted") if os.geteuid() == 0 else Flavour("plain", IdMap("single"))
SMALL = simple_image([tar_of({"f": b"x"})])
BIG = simple_image([tar_of({"f": os.urandom(1 << 20)})], compression="")
SECRET = "s3cret-of-the-registry"


@pytest.fixture(scope="module")
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry(users={"me": SECRET}) as found:
        push_simple(found.host, "app", "small", SMALL)
        push_simple(found.host, "app", "big", BIG)
        found.auth = "token"
        yield found


def fetched(way: BreakingWay, tag: str = "small") -> MemoryBlobs:
    """All of the image, by the calls that `pull` makes."""
    transport = Transport(TransportSettings(connect_timeout=60, read_timeout=60), sleep=lambda _: None)
    client = RegistryClient(transport, Given(way.host, Credentials("me", SECRET)))
    try:
        reference = Reference.parse(f"{way.host}/app:{tag}")
        found = client.resolve(reference, AMD)
        blobs = MemoryBlobs()
        with blobs.ingest(found.manifest.config.digest) as writer:
            writer.write(client.fetch_config(reference, found.manifest.config))
            writer.commit()
        client.fetch_blobs(reference, found.manifest.layers, blobs)
        assert found.digest == (SMALL if tag == "small" else BIG).digest
        return blobs
    finally:
        transport.close()


def bodies(registry: FakeRegistry, tag: str) -> list[tuple[int, str, int]]:
    """(number, path, size) of the answers with a body."""
    with BreakingWay(registry.host) as way:
        fetched(way, tag)
        return [(number, sight.path, sight.size) for number, sight in enumerate(way.seen) if sight.size and sight.status == 200]


def test_at_every_byte_of_what_is_small(registry: FakeRegistry) -> None:
    """A manifest that was torn used to end the command at the first break; blobs were continued."""
    found = bodies(registry, "small")
    assert [path.partition("?")[0].split("/")[-2] for _, path, _ in found] == ["", "manifests", "blobs", "blobs"]
    with BreakingWay(registry.host) as way:
        client = RegistryClient(
            Transport(TransportSettings(read_timeout=60), sleep=lambda _: None), Given(way.host, Credentials("me", SECRET))
        )
        reference = Reference.parse(f"{way.host}/app:small")
        manifest = client.resolve(reference, AMD).manifest

        def layer() -> bytes:
            blobs = MemoryBlobs()
            client.fetch_blob(reference, manifest.layers[0], blobs)
            return blobs.open(manifest.layers[0].digest).read()

        asks: list[tuple[Callable[[], bytes], bytes]] = [
            (lambda: client.resolve(reference, AMD).raw, SMALL.manifest),
            (lambda: client.fetch_config(reference, manifest.config), SMALL.config),
            (layer, SMALL.layers[0].blob),
        ]
        for ask, whole in asks:
            for offset in range(len(whole)):
                way.count, way.wrong = 0, Wrong(0, "cut", offset)
                assert ask() == whole, (way.seen[-1].path, offset)
                assert way.count == 2


def test_at_every_byte_of_a_token(registry: FakeRegistry) -> None:
    """It used to end the command too; half a token is never shown."""
    number, path, size = bodies(registry, "small")[0]
    assert path.startswith("/token")
    for offset in range(size):
        with BreakingWay(registry.host, Wrong(number, "cut", offset)) as way:
            transport = Transport(TransportSettings(read_timeout=60), sleep=lambda _: None)
            client = RegistryClient(transport, Given(way.host, Credentials("me", SECRET)))
            assert client.digest_of(Reference.parse(f"{way.host}/app:small")) == SMALL.digest
            assert way.count > number
            transport.close()


@pytest.mark.parametrize("tag", ["small", "big"])
def test_always_at_an_offset(registry: FakeRegistry, tmp_path: Path, tag: str) -> None:
    """A registry that never gets beyond a byte: an end, not an endless loop, and no image."""
    for number, path, size in bodies(registry, tag):
        for offset in sorted({0, 1, size // 2, size - 1}):
            place = tmp_path / f"{tag}{number}-{offset}"
            with (
                BreakingWay(registry.host, Wrong(number, "cut", offset, on=True)) as way,
                LocalStore.open(place, FLAVOUR, now=lambda: 1000.0) as store,
            ):
                transport = Transport(TransportSettings(read_timeout=60), sleep=lambda _: None)
                client = RegistryClient(transport, Given(way.host, Credentials("me", SECRET)))
                try:
                    pull(store, client, Reference.parse(f"{way.host}/app:{tag}"), AMD)
                    failed = None
                except LaminaError as error:
                    failed = error
                if failed is None:  # the connection was broken, but each time with progress: it was continued
                    assert size > 60_000 or path == "/v2/", (path, offset)
                    assert store.blobs.read(store.images.all()[0].blobs[0]) == BIG.layers[0].blob or path == "/v2/"
                else:
                    assert isinstance(failed, RegistryError), (path, offset, failed)
                    assert "\n" not in failed.message
                    assert SECRET not in failed.message
                    assert store.images.all() == []


def test_a_blob_of_some_size_at_samples(registry: FakeRegistry) -> None:
    number, _, size = max(bodies(registry, "big"), key=lambda body: body[2])
    with BreakingWay(registry.host) as way:
        for offset in (0, 1, 511, 4096, 65_535, 65_536, 262_144, 262_145, size - 1):
            way.count, way.wrong = 0, Wrong(number, "cut", offset)
            assert not fetched(way, "big").missing([digest_of(BIG.layers[0].blob)])  # type: ignore[list-item]  # a Digest is a str


def test_more_than_was_announced(registry: FakeRegistry) -> None:
    """Bytes behind the end are of nobody: they are neither the blob's nor the beginning of the next answer."""
    for number, _, _ in bodies(registry, "small"):
        with BreakingWay(registry.host, Wrong(number, "long", 100)) as way:
            fetched(way)


def test_byte_by_byte(registry: FakeRegistry, tmp_path: Path) -> None:
    """Slow is no error; below 1 KiB in a second for longer than one waits for a byte is."""
    # A busy machine may also be silent for that long.
    transport = Transport(TransportSettings(read_timeout=0.1, attempts=2), sleep=lambda _: None)
    for number, path, size in bodies(registry, "small")[1:]:
        if size < 120:
            continue
        with BreakingWay(registry.host, Wrong(number, "trickle", on=True)) as way:
            client = RegistryClient(transport, Given(way.host, Credentials("me", SECRET)))
            reference = Reference.parse(f"{way.host}/app:small")
            with LocalStore.open(tmp_path / str(number), FLAVOUR, now=lambda: 1000.0) as store:
                with pytest.raises(RegistryUnreachable, match=r"less than 1024 bytes in a second|in time"):
                    pull(store, client, reference, AMD)
                assert store.images.all() == [], path


def test_secrets_of_the_login_went_to_the_registry_only(registry: FakeRegistry) -> None:
    """The password is for the token service; blobs and manifests see a token of one repository."""
    packed = base64.b64encode(f"me:{SECRET}".encode()).decode()
    with BreakingWay(registry.host) as way:
        fetched(way)
        with_password = {sight.path.partition("?")[0] for sight in way.seen if packed in sight.text}
        assert with_password == {"/token"}


def test_sizes_that_lie(registry: FakeRegistry) -> None:
    """A layer that is longer or shorter than its manifest says, although its digest is right."""
    for change in (-1, 1, 10**12):
        with BreakingWay(registry.host) as way:
            transport = Transport(TransportSettings(read_timeout=60), sleep=lambda _: None)
            client = RegistryClient(transport, Given(way.host, Credentials("me", SECRET)))
            reference = Reference.parse(f"{way.host}/app:small")
            found = client.resolve(reference, AMD)
            lie = msgspec.structs.replace(found.manifest.layers[0], size=found.manifest.layers[0].size + change)
            blobs = MemoryBlobs()
            with pytest.raises(RegistryProtocolError):
                client.fetch_blobs(reference, [lie], blobs)
            assert blobs.missing([lie.digest])
