from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from lamina.oci.digest import Digest
from lamina.oci.manifest import Descriptor
from lamina.oci.platform import Platform
from lamina.oci.reference import Reference
from lamina.registry.client import RegistryClient
from lamina.registry.errors import (
    RegistryNotFound,
    RegistryProtocolError,
    RegistryUnauthorized,
    RegistryUnreachable,
    RegistryUnsupported,
)
from lamina.registry.transport import Transport, TransportSettings
from lamina.store.memory import MemoryBlobs
from lamina.testing.images import OCI_INDEX, OCI_MANIFEST, SimpleImage, digest_of, index_of, serve, simple_image, tar_of
from lamina.testing.registry import MemoryRegistry

AMD = Platform("linux", "amd64")
ARM = Platform("linux", "arm64", "v8")
LAYER = "application/vnd.oci.image.layer.v1.tar"


@pytest.fixture
def registry() -> Iterator[MemoryRegistry]:
    with MemoryRegistry() as found:
        yield found


@pytest.fixture
def client() -> RegistryClient:
    return RegistryClient(Transport(TransportSettings(connect_timeout=60, read_timeout=60), sleep=lambda _: None))


@pytest.fixture
def blobs() -> MemoryBlobs:
    return MemoryBlobs()


def reference(registry: MemoryRegistry, rest: str = "app:1") -> Reference:
    return Reference.parse(f"{registry.host}/{rest}")


def image(architecture: str = "amd64") -> SimpleImage:
    return simple_image([tar_of({"f": architecture.encode()})], architecture=architecture)


def blob(registry: MemoryRegistry, data: bytes, media_type: str = LAYER) -> Descriptor:
    return Descriptor(media_type=media_type, digest=Digest(registry.put_blob(data)), size=len(data))


def test_resolve_a_manifest(registry: MemoryRegistry, client: RegistryClient) -> None:
    made = image()
    serve(registry, "app", "1", made)
    found = client.resolve(reference(registry), AMD)
    assert found.raw == made.manifest
    assert found.digest == found.top == made.digest
    assert found.index_digest is None
    assert client.fetch_config(reference(registry), found.manifest.config) == made.config


def test_resolve_by_platform(registry: MemoryRegistry, client: RegistryClient) -> None:
    amd, arm = image("amd64"), image("arm64")
    for each in (amd, arm):
        serve(registry, "app", "", each)
    index = index_of([(amd, {"os": "linux", "architecture": "amd64"}), (arm, {"os": "linux", "architecture": "arm64", "variant": "v8"})])
    digest = registry.put_manifest("app", index, OCI_INDEX, "1")
    found = client.resolve(reference(registry), ARM)
    assert found.digest == arm.digest
    assert found.top == found.index_digest == digest
    assert found.index_raw == index
    assert client.digest_of(reference(registry)) == digest
    with pytest.raises(RegistryNotFound, match="no image for linux/s390x") as caught:
        client.resolve(reference(registry), Platform("linux", "s390x"))
    assert caught.value.hint is not None
    assert "linux/amd64" in caught.value.hint


def test_resolve_by_digest(registry: MemoryRegistry, client: RegistryClient) -> None:
    made = image()
    serve(registry, "app", "", made)
    assert client.resolve(reference(registry, f"app@{made.digest}"), AMD).raw == made.manifest


def test_unknown_tag(registry: MemoryRegistry, client: RegistryClient) -> None:
    with pytest.raises(RegistryNotFound, match="app:1"):
        client.resolve(reference(registry), AMD)


def test_digest_without_the_header(registry: MemoryRegistry, client: RegistryClient) -> None:
    made = image()
    serve(registry, "app", "1", made)
    registry.faults.no_digest_header = True
    assert client.digest_of(reference(registry)) == made.digest
    assert client.resolve(reference(registry), AMD).digest == made.digest


def test_a_lying_digest_header(registry: MemoryRegistry, client: RegistryClient) -> None:
    serve(registry, "app", "1", image())
    registry.faults.wrong_header = digest_of(b"other")
    with pytest.raises(RegistryProtocolError, match="other bytes"):
        client.resolve(reference(registry), AMD)
    registry.faults.wrong_header = "md5:nonsense"
    with pytest.raises(RegistryProtocolError, match="no digest"):
        client.resolve(reference(registry), AMD)


def test_another_manifest_than_asked_for(registry: MemoryRegistry, client: RegistryClient) -> None:
    made = image()
    serve(registry, "app", "", made)
    registry.faults.corrupt.add(made.digest)
    with pytest.raises(RegistryProtocolError, match="other bytes"):
        client.resolve(reference(registry, f"app@{made.digest}"), AMD)


def test_an_endless_manifest(registry: MemoryRegistry, client: RegistryClient) -> None:
    made = image()
    serve(registry, "app", "1", made)
    registry.faults.endless.add(made.digest)
    with pytest.raises(RegistryProtocolError, match="more than the"):
        client.resolve(reference(registry), AMD)


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b"null", b"[" * 100_000, b'{"schemaVersion":2,"layers":3}', b"\xff\xfe"])
def test_what_is_no_manifest(registry: MemoryRegistry, client: RegistryClient, raw: bytes) -> None:
    registry.put_manifest("app", raw, OCI_MANIFEST, "1")
    with pytest.raises(RegistryProtocolError):
        client.resolve(reference(registry), AMD)


def test_deeply_nested_indexes(registry: MemoryRegistry, client: RegistryClient) -> None:
    made = image()
    serve(registry, "app", "", made)
    raw, kind = made.manifest, OCI_MANIFEST
    for _ in range(6):
        entry = {
            "mediaType": kind,
            "digest": digest_of(raw),
            "size": len(raw),
            "platform": {"os": "linux", "architecture": "amd64"},
        }
        raw, kind = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}).encode(), OCI_INDEX
        registry.put_manifest("app", raw, kind, "1")
    with pytest.raises(RegistryProtocolError, match="nested"):
        client.resolve(reference(registry), AMD)


def test_schema_1(registry: MemoryRegistry, client: RegistryClient) -> None:
    registry.put_manifest("app", b"{}", "application/vnd.docker.distribution.manifest.v1+prettyjws", "1")
    with pytest.raises(RegistryUnsupported, match="schema 1"):
        client.resolve(reference(registry), AMD)


def test_tokens_for_strangers(registry: MemoryRegistry, client: RegistryClient) -> None:
    serve(registry, "app", "1", image())
    registry.faults.token = "tok"
    client.resolve(reference(registry), AMD)
    client.resolve(reference(registry), AMD)
    assert sum(seen.path.startswith("/token") for seen in registry.seen) == 1


def test_refused(registry: MemoryRegistry, client: RegistryClient) -> None:
    registry.faults.answers = [(200, {}), (401, {"WWW-Authenticate": 'Basic realm="x"'})]
    with pytest.raises(RegistryUnauthorized, match="refuses to show app") as caught:
        client.resolve(reference(registry), AMD)
    assert caught.value.hint is not None
    assert "login" in caught.value.hint


def test_a_token_service_on_plain_http_elsewhere(registry: MemoryRegistry, client: RegistryClient) -> None:
    registry.faults.answers = [(200, {}), (401, {"WWW-Authenticate": 'Bearer realm="http://10.0.0.1/token"'})]
    with pytest.raises(RegistryProtocolError, match="plain http"):
        client.resolve(reference(registry), AMD)


def test_fetch_and_skip_what_is_there(registry: MemoryRegistry, client: RegistryClient, blobs: MemoryBlobs) -> None:
    wanted = blob(registry, b"data" * 1000)
    client.fetch_blob(reference(registry), wanted, blobs)
    assert blobs.open(wanted.digest).read() == b"data" * 1000
    before = len(registry.seen)
    client.fetch_blob(reference(registry), wanted, blobs)
    assert len(registry.seen) == before


@pytest.mark.parametrize("no_range", [False, True])
def test_torn_connections_are_continued(registry: MemoryRegistry, client: RegistryClient, blobs: MemoryBlobs, no_range: bool) -> None:
    data = bytes(range(256)) * 4096
    wanted = blob(registry, data)
    registry.faults.tear = [300_000, 300_000]
    registry.faults.no_range = no_range
    got: list[int] = []
    client.fetch_blob(reference(registry), wanted, blobs, on_bytes=lambda _, count: got.append(count))
    assert blobs.open(wanted.digest).read() == data
    assert sum(got) == len(data)
    asked = [seen.headers.get("range") for seen in registry.seen if "/blobs/" in seen.path]
    assert len(asked) == 3
    assert asked[0] is None
    assert asked[1] == "bytes=300000-"


def test_torn_without_progress_ends(registry: MemoryRegistry, client: RegistryClient, blobs: MemoryBlobs) -> None:
    wanted = blob(registry, bytes(100_000))
    registry.faults.tear = [10] * 50
    with pytest.raises(RegistryUnreachable, match="broke"):
        client.fetch_blob(reference(registry), wanted, blobs)
    assert blobs.missing([wanted.digest])
    assert len(registry.seen) < 12


def test_wrong_bytes(registry: MemoryRegistry, client: RegistryClient, blobs: MemoryBlobs) -> None:
    wanted = blob(registry, b"data")
    registry.faults.corrupt.add(wanted.digest)
    with pytest.raises(RegistryProtocolError, match="other bytes"):
        client.fetch_blob(reference(registry), wanted, blobs)
    assert blobs.missing([wanted.digest])


@pytest.mark.parametrize(("stated", "word"), [(3, "longer"), (5, "has 4 bytes")])
def test_wrong_size(registry: MemoryRegistry, client: RegistryClient, blobs: MemoryBlobs, stated: int, word: str) -> None:
    wanted = Descriptor(media_type=LAYER, digest=Digest(registry.put_blob(b"data")), size=stated)
    with pytest.raises(RegistryProtocolError, match=word):
        client.fetch_blob(reference(registry), wanted, blobs)
    assert blobs.missing([wanted.digest])


def test_an_endless_blob(registry: MemoryRegistry, client: RegistryClient, blobs: MemoryBlobs) -> None:
    wanted = blob(registry, b"data")
    registry.faults.endless.add(wanted.digest)
    with pytest.raises(RegistryProtocolError, match="longer than its descriptor's 4 bytes"):
        client.fetch_blob(reference(registry), wanted, blobs)


def test_blobs_from_another_host_without_the_token(registry: MemoryRegistry, client: RegistryClient, blobs: MemoryBlobs) -> None:
    with MemoryRegistry() as store:
        wanted = blob(store, b"elsewhere")
        serve(registry, "app", "1", image())
        registry.faults.token = "tok"
        registry.faults.redirect_blobs = f"http://{store.host}"
        client.fetch_blob(reference(registry), wanted, blobs)
        assert all("authorization" not in seen.headers for seen in store.seen)


def test_foreign_layers(registry: MemoryRegistry, client: RegistryClient, blobs: MemoryBlobs) -> None:
    wanted = blob(registry, b"w", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")
    with pytest.raises(RegistryUnsupported, match="vendor"):
        client.fetch_blob(reference(registry), wanted, blobs)


def test_several_at_once(registry: MemoryRegistry, client: RegistryClient, blobs: MemoryBlobs) -> None:
    wanted = [blob(registry, bytes([n]) * 50_000) for n in range(8)]
    client.fetch_blobs(reference(registry), [*wanted, wanted[0]], blobs, parallel=3)
    assert not blobs.missing([w.digest for w in wanted])
    assert sum("/blobs/" in seen.path for seen in registry.seen) == 8


def test_one_failure_ends_all(registry: MemoryRegistry, client: RegistryClient, blobs: MemoryBlobs) -> None:
    wanted = [blob(registry, bytes([n]) * 50_000) for n in range(8)]
    registry.faults.corrupt.add(wanted[0].digest)
    with pytest.raises(RegistryProtocolError, match="other bytes"):
        client.fetch_blobs(reference(registry), wanted, blobs, parallel=1)
    assert sum("/blobs/" in seen.path for seen in registry.seen) == 1
