"""A registry that breaks off anywhere, answers anything, lies about lengths or trickles: the right image or one clear error, and never a
half of anything in the store or in the registry."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.diagnostics.errors import LaminaError
from lamina.engine.images.importing import pull
from lamina.engine.registries.pushing import push
from lamina.layer.flavour import Flavour, IdMap
from lamina.oci.digest import Digest
from lamina.oci.platform import Platform
from lamina.oci.reference import Reference
from lamina.registry.auth import Credentials, Given
from lamina.registry.client import RegistryClient
from lamina.registry.errors import RegistryError, RegistryProtocolError, RegistryUnreachable
from lamina.registry.transport import Transport, TransportSettings
from lamina.store.local import LocalStore
from lamina.testing.fakeregistry import FakeRegistry
from lamina.testing.images import SimpleImage, digest_of, serve, simple_image, tar_of
from lamina.testing.images import push as push_simple
from lamina.testing.registry import MemoryRegistry

AMD = Platform("linux", "amd64")
FLAVOUR = Flavour("trusted") if os.geteuid() == 0 else Flavour("plain", IdMap("single"))
BIG = simple_image([tar_of({"f": os.urandom(1 << 21)})], compression="")
SECRET = "s3cret-of-the-registry"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    with LocalStore.open(tmp_path / "store", FLAVOUR, now=lambda: 1000.0) as found:
        yield found


@pytest.fixture
def registry() -> Iterator[MemoryRegistry]:
    with MemoryRegistry() as found:
        serve(found, "app", "1", BIG)
        yield found


def client(host: str = "", *, patience: float = 60) -> RegistryClient:
    transport = Transport(TransportSettings(connect_timeout=60, read_timeout=patience), sleep=lambda _: None)
    return RegistryClient(transport, Given(host, Credentials("me", SECRET)) if host else None)


def layer(image: SimpleImage) -> str:
    return digest_of(image.layers[0].blob)


def pulled(store: LocalStore, registry: MemoryRegistry, with_: RegistryClient | None = None) -> bytes:
    image = pull(store, with_ or client(), Reference.parse(f"{registry.host}/app:1"), AMD)
    return store.blobs.read(image.blobs[0])


@pytest.mark.parametrize("offset", [0, 1, 511, 65_535, 65_536, 1 << 20, len(BIG.layers[0].blob) - 1])
@pytest.mark.parametrize("ranges", [True, False])
def test_downloads_that_break_off_once(store: LocalStore, registry: MemoryRegistry, offset: int, ranges: bool) -> None:
    # Two blobs come: the first cut is for the config, which breaks off at once.
    registry.faults.tear = [0, offset]
    registry.faults.no_range = not ranges
    assert pulled(store, registry) == BIG.layers[0].blob


def test_a_length_that_is_too_short(store: LocalStore, registry: MemoryRegistry) -> None:
    registry.faults.stated_length[layer(BIG)] = len(BIG.layers[0].blob) - 1
    with pytest.raises(RegistryError):
        pulled(store, registry)
    assert store.blobs.missing([Digest(layer(BIG))])
    assert store.images.all() == []


@pytest.mark.parametrize("more", [1, 1 << 20])
def test_a_length_that_is_too_long(store: LocalStore, registry: MemoryRegistry, more: int) -> None:
    """All bytes have come and are proved when the connection ends: nothing is missing."""
    registry.faults.stated_length[layer(BIG)] = len(BIG.layers[0].blob) + more
    assert pulled(store, registry) == BIG.layers[0].blob


def test_a_blob_that_trickles(store: LocalStore, registry: MemoryRegistry) -> None:
    registry.faults.trickle.add(layer(BIG))
    with pytest.raises(RegistryUnreachable, match=r"less than 1024 bytes in a second|in time"):
        pulled(store, registry, client(patience=0.2))
    assert store.images.all() == []


def test_a_redirect_to_another_host_with_other_bytes(store: LocalStore, registry: MemoryRegistry) -> None:
    with MemoryRegistry() as other:
        for digest in BIG.blobs():
            other.blobs[digest] = b"something else"
        registry.faults.redirect_blobs = f"http://{other.host}"
        with pytest.raises(RegistryProtocolError):
            pulled(store, registry)
    assert store.images.all() == []


@pytest.mark.parametrize("status", [401, 403, 404, 409, 500])
def test_every_status_at_every_call_of_a_pull(tmp_path: Path, status: int) -> None:
    with FakeRegistry(users={"me": SECRET}, auth="token") as registry:
        push_simple_as(registry)
        for nth in range(9):
            registry.asked.clear()
            with LocalStore.open(tmp_path / f"s{nth}", FLAVOUR, now=lambda: 1000.0) as store:
                outcome = _with_one_wrong(registry, nth, status, lambda store=store: pull(store, client(registry.host), _at(registry), AMD))
                images = store.images.all()
            assert (outcome is None) == bool(images)
            if images:
                assert images[0].id == digest_of(BIG.config)


@pytest.mark.parametrize("status", [401, 403, 404, 409, 500])
def test_every_status_at_every_call_of_a_push(store: LocalStore, status: int) -> None:
    with MemoryRegistry() as source:
        serve(source, "app", "1", BIG)
        image = pull(store, client(), Reference.parse(f"{source.host}/app:1"), AMD)
    for nth in range(12):
        with FakeRegistry(users={"me": SECRET}, auth="token") as registry:
            outcome = _with_one_wrong(
                registry, nth, status, lambda registry=registry: push(store, client(registry.host), [image], _at(registry))
            )
            if outcome is None:
                _, raw = registry.manifests["app", registry.tags["app"]["1"]]
                assert raw == BIG.manifest
                assert all(registry.blobs["app", digest] == data for digest, data in BIG.blobs().items())
            else:
                assert "1" not in registry.tags.get("app", {}) or registry.tags["app"]["1"] == BIG.digest


def _at(registry: FakeRegistry) -> Reference:
    return Reference.parse(f"{registry.host}/app:1")


def push_simple_as(registry: FakeRegistry) -> None:
    registry.auth = ""
    push_simple(registry.host, "app", "1", BIG)
    registry.auth = "token"


def _with_one_wrong(registry: FakeRegistry, nth: int, status: int, action: object) -> LaminaError | None:
    """Run with the nth request answered by `status`. The error, which is one line and holds no secret; None when all went well."""
    registry.wrongs.nth = (nth, status)
    assert callable(action)
    failed: LaminaError | None = None
    try:
        action()
    except LaminaError as error:
        failed = error
    if failed is not None:
        said = f"{failed.message} {failed.hint}"
        assert SECRET not in said
        assert "\n" not in said
        assert not any(token in said for token in registry.granted)
    return failed
