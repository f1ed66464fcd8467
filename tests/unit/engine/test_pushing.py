"""Images to a registry that keeps the specification strictly and counts what it is asked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.engine.exporters.output import BadOutput, parse_output
from lamina.engine.images.errors import ImageNotFound
from lamina.engine.images.importing import import_rootfs, pull
from lamina.engine.registries.packing import leaving
from lamina.engine.registries.pushing import names_to_push, push, push_output
from lamina.layer.flavour import Flavour, IdMap
from lamina.oci.config import ImageConfig
from lamina.oci.manifest import OCI_INDEX, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, Index, Manifest
from lamina.oci.platform import Platform
from lamina.oci.reference import Reference
from lamina.oci.selection import parse_checked
from lamina.registry.auth import Credentials, Given
from lamina.registry.client import RegistryClient
from lamina.registry.errors import RegistryUnauthorized, RegistryUnreachable
from lamina.registry.transport import Transport, TransportSettings
from lamina.store.local import LocalStore
from lamina.store.refs import Image
from lamina.testing.fakeregistry import FakeRegistry
from lamina.testing.images import digest_of, simple_image, tar_of
from lamina.testing.images import push as push_simple

AMD = Platform("linux", "amd64")
FLAVOUR = Flavour("trusted") if os.geteuid() == 0 else Flavour("plain", IdMap("single"))
TAR = tar_of({"etc": None, "etc/data": os.urandom(1 << 21)})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    with LocalStore.open(tmp_path / "store", FLAVOUR, now=lambda: 1000.0) as found:
        yield found


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as found:
        yield found


@pytest.fixture
def client() -> RegistryClient:
    return RegistryClient(transport())


def transport() -> Transport:
    return Transport(TransportSettings(connect_timeout=60, read_timeout=60), sleep=lambda _: None)


@pytest.fixture
def image(store: LocalStore, tmp_path: Path) -> Image:
    return made(store, tmp_path, "amd64")


def made(store: LocalStore, tmp_path: Path, architecture: str) -> Image:
    (tmp_path / "t").write_bytes(TAR)
    with (tmp_path / "t").open("rb") as source:
        return import_rootfs(store, source, ImageConfig(os="linux", architecture=architecture), ("docker.io/library/app:1",))


def at(registry: FakeRegistry, name: str = "team/app:1") -> Reference:
    return Reference.parse(f"{registry.host}/{name}")


def pushed_manifest(registry: FakeRegistry, repository: str = "team/app", tag: str = "1") -> Manifest:
    found = parse_checked(registry.manifests[repository, registry.tags[repository][tag]][1])
    assert isinstance(found, Manifest)
    return found


@pytest.mark.parametrize(("compression", "kind"), [("auto", OCI_LAYER_GZIP), ("gzip", OCI_LAYER_GZIP), ("zstd", OCI_LAYER_ZSTD)])
def test_what_is_there_costs_one_request(
    store: LocalStore, registry: FakeRegistry, client: RegistryClient, image: Image, compression: str, kind: str
) -> None:
    first = push(store, client, [image], at(registry), compression=compression)  # type: ignore[arg-type]  # one of the parameters above
    assert (first.sent, first.there, first.mounted, first.unchanged) == (2, 0, 0, False)
    assert [layer.media_type for layer in pushed_manifest(registry).layers] == [kind]
    registry.asked.clear()
    again = push(store, client, [image], at(registry), compression=compression)  # type: ignore[arg-type]  # as above
    assert again.unchanged
    assert again.digest == first.digest
    assert [each.method for each in registry.asked if each.path != "/v2/"] == ["HEAD"]


def test_a_new_tag_moves_no_blob(store: LocalStore, registry: FakeRegistry, client: RegistryClient, image: Image) -> None:
    push(store, client, [image], at(registry))
    registry.asked.clear()
    second = push(store, client, [image], at(registry, "team/app:2"))
    assert (second.sent, second.there) == (0, 2)
    assert registry.count("POST") == registry.count("PATCH") == 0


def test_nothing_is_packed_when_it_is_there(
    store: LocalStore, registry: FakeRegistry, client: RegistryClient, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(store, client, [image], at(registry))
    descriptor = leaving(store, image, "auto").layers[0].descriptor
    store.blobs.delete(descriptor.digest)
    monkeypatch.setattr("lamina.engine.registries.packing.Compressing", None)
    assert push(store, client, [image], at(registry, "team/app:2")).there == 2
    assert store.blobs.missing([descriptor.digest])


def test_another_repository_is_mounted(store: LocalStore, registry: FakeRegistry, client: RegistryClient, image: Image) -> None:
    push(store, client, [image], at(registry))
    other = push(store, client, [image], at(registry, "other:1"))
    assert (other.mounted, other.sent_bytes) == (1, len(store.blobs.read(image.id)))


def test_a_compressor_that_has_changed(store: LocalStore, registry: FakeRegistry, client: RegistryClient, image: Image) -> None:
    going = leaving(store, image, "gzip")
    wrong = digest_of(b"as an older library did it")
    store.facts.set_packed(going.layers[0].diff_id, "gzip", wrong, 7)  # type: ignore[arg-type]  # a digest as the test computed it
    push(store, client, [image], at(registry), compression="gzip")
    assert pushed_manifest(registry).layers[0].digest == going.layers[0].descriptor.digest


def test_a_pulled_image_leaves_as_it_came(store: LocalStore, registry: FakeRegistry, client: RegistryClient) -> None:
    for number, compression in enumerate(("gzip", "")):
        simple = simple_image([TAR], compression=compression)
        push_simple(registry.host, "base", f"{number}", simple)
        got = pull(store, client, at(registry, f"base:{number}"), AMD)
        assert push(store, client, [got], at(registry, f"moved:{number}")).digest == simple.digest


def test_layers_that_were_never_fetched(store: LocalStore, registry: FakeRegistry, client: RegistryClient) -> None:
    simple = simple_image([TAR])
    push_simple(registry.host, "base", "1", simple)
    got = pull(store, client, at(registry, "base:1"), AMD, layers=False)
    assert push(store, client, [got], at(registry, "moved:1")).mounted == 1
    with FakeRegistry() as other:
        assert push(store, client, [got], at(other)).sent == 2
    layer = got.blobs[0]
    store.blobs.delete(layer)
    registry.blobs.clear()
    with FakeRegistry() as third, pytest.raises(ImageNotFound, match="not in the store"):
        push(store, client, [got], at(third))


def test_several_platforms_are_an_index(
    store: LocalStore, registry: FakeRegistry, client: RegistryClient, image: Image, tmp_path: Path
) -> None:
    arm = made(store, tmp_path, "arm64")
    done = push(store, client, [image, arm], at(registry))
    kind, raw = registry.manifests["team/app", done.digest]
    index = parse_checked(raw)
    assert kind == OCI_INDEX
    assert isinstance(index, Index)
    assert [str(d.platform.value) for d in index.manifests if d.platform] == ["linux/amd64", "linux/arm64"]
    assert client.resolve(at(registry), Platform("linux", "arm64")).manifest.config.digest == arm.id
    assert push(store, client, [image, arm], at(registry)).unchanged


def test_a_push_that_is_cut_everywhere(store: LocalStore, registry: FakeRegistry, client: RegistryClient, image: Image) -> None:
    registry.wrongs.cut_uploads = [1000, 0, 500_000]
    registry.wrongs.cut_after = ["POST", "HEAD", "PUT"]
    push(store, client, [image], at(registry))
    assert client.resolve(at(registry), AMD).manifest.config.digest == image.id


def test_the_tag_moves_only_when_all_is_there(store: LocalStore, registry: FakeRegistry, client: RegistryClient, image: Image) -> None:
    registry.wrongs.cut_uploads = [0] * 1000
    with pytest.raises(RegistryUnreachable):
        push(store, client, [image], at(registry))
    assert registry.tags == {}
    registry.wrongs.cut_uploads.clear()
    push(store, client, [image], at(registry))


def test_strangers_may_not_push(store: LocalStore, image: Image) -> None:
    with FakeRegistry(users={"me": "s3cret"}, auth="token") as registry:
        with pytest.raises(RegistryUnauthorized, match="write"):
            push(store, RegistryClient(transport()), [image], at(registry))
        mine = RegistryClient(transport(), Given(registry.host, Credentials("me", "s3cret")))
        assert push(store, mine, [image], at(registry)).sent == 2


def test_outputs(store: LocalStore, registry: FakeRegistry, client: RegistryClient, image: Image) -> None:
    tags = (f"{registry.host}/a:1", f"{registry.host}/b")
    done = push_output(store, client, [image], parse_output("type=registry,compression=zstd"), tags)
    assert [str(each.reference) for each in done] == [f"{registry.host}/a:1", f"{registry.host}/b:latest"]
    assert pushed_manifest(registry, "a").layers[0].media_type == OCI_LAYER_ZSTD
    named = parse_output(f"type=image,push=true,name={registry.host}/c:3")
    assert [str(each) for each in names_to_push(named, tags)] == [f"{registry.host}/c:3"]
    assert parse_output("type=image,push=false").type == "image"


def test_outputs_that_say_too_little() -> None:
    with pytest.raises(BadOutput, match="nothing says where"):
        names_to_push(parse_output("type=registry"), ())
    with pytest.raises(BadOutput, match="digest"):
        names_to_push(parse_output("type=registry"), ("r.example/a@sha256:" + "0" * 64,))
    with pytest.raises(BadOutput, match="always pushes"):
        parse_output("type=registry,push=false")
    with pytest.raises(BadOutput, match="compression=best"):
        parse_output("type=registry,compression=best")
