"""Base images: where they come from, what is asked of a registry, and that stored documents are not trusted."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lamina.diagnostics.errors import LaminaError
from lamina.engine.bases import BaseNotFound, Bases
from lamina.engine.images.importing import import_rootfs
from lamina.graph.ops import ImageOp
from lamina.layer.flavour import Flavour, IdMap
from lamina.oci.config import ImageConfig
from lamina.oci.manifest import InvalidDocument
from lamina.oci.platform import Platform
from lamina.registry.client import RegistryClient
from lamina.registry.transport import Transport, TransportSettings
from lamina.store.local import LocalStore
from lamina.testing.images import serve, simple_image, tar_of, write_layout
from lamina.testing.registry import MemoryRegistry

AMD, ARM = Platform("linux", "amd64"), Platform("linux", "arm64")
FLAVOUR = Flavour("trusted") if os.geteuid() == 0 else Flavour("plain", IdMap("single"))


class Never:
    def cancelled(self) -> bool:
        return False

    def on_cancel(self, act: Callable[[], None]) -> Callable[[], None]:
        return lambda: None


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    with LocalStore.open(tmp_path / "store", FLAVOUR, now=lambda: 1000.0) as found:
        yield found


def bases(store: LocalStore) -> Bases:
    return Bases(store, lambda: RegistryClient(Transport(TransportSettings(attempts=1, connect_timeout=2.0))))


def imported(store: LocalStore, name: str = "docker.io/library/base:1", word: bytes = b"x") -> None:
    import_rootfs(store, io.BytesIO(tar_of({"f": word})), ImageConfig(os="linux", architecture="amd64"), [name])


def test_an_image_of_the_store_is_taken_without_asking(store: LocalStore) -> None:
    imported(store)
    found = bases(store)
    resolved = found.resolve("base:1", AMD, pull_newer=False)
    assert resolved.config.architecture == "amd64"
    assert found.unanswered == {}
    filesystem = found.filesystem(ImageOp("base:1", resolved.digest, AMD))
    assert len(filesystem.layers) == 1
    assert filesystem.label == f"base:1@{resolved.digest}"


def test_pull_has_nothing_to_ask_for_an_image_that_was_made_here(store: LocalStore) -> None:
    imported(store)
    assert bases(store).resolve("base:1", AMD, pull_newer=True).config.architecture == "amd64"


def test_the_state_follows_from_the_layers_alone(store: LocalStore) -> None:
    imported(store)
    imported(store, "docker.io/library/other:1")
    imported(store, "docker.io/library/changed:1", b"y")
    found = bases(store)
    states = []
    for name in ("base:1", "other:1", "changed:1"):
        resolved = found.resolve(name, AMD, pull_newer=False)
        states.append(found.filesystem(ImageOp(name, resolved.digest, AMD)).state)
    assert states[0] == states[1] != states[2]


def test_another_platform_is_refused(store: LocalStore) -> None:
    imported(store)
    with pytest.raises(BaseNotFound, match="is an image for linux/amd64, not for linux/arm64") as caught:
        bases(store).resolve("base:1", ARM, pull_newer=False)
    assert "--platform=linux/amd64" in (caught.value.hint or "")


@pytest.fixture
def registry() -> Iterator[MemoryRegistry]:
    with MemoryRegistry() as running:
        yield running


def test_a_pulled_image_comes_without_its_layers_until_they_are_needed(store: LocalStore, registry: MemoryRegistry) -> None:
    reference = f"{registry.host}/team/base:1"
    serve(registry, "team/base", "1", simple_image([tar_of({"f": b"from the registry"})]))
    found = bases(store)
    resolved = found.resolve(reference, AMD, pull_newer=False)
    filesystem = found.filesystem(ImageOp(reference, resolved.digest, AMD))
    (layer,) = filesystem.layers
    assert found.missing_bytes({layer.id: layer}) > 0
    assert found.fetch(layer, Never())
    assert found.missing_bytes({layer.id: layer}) == 0
    path = store.layers.path(layer.id)
    assert path is not None
    assert (path / "f").read_bytes() == b"from the registry"


def test_a_moved_tag_is_followed_and_an_unmoved_one_is_one_request(store: LocalStore, registry: MemoryRegistry) -> None:
    reference = f"{registry.host}/team/base:1"
    serve(registry, "team/base", "1", simple_image([tar_of({"f": b"one"})]))
    first = bases(store).resolve(reference, AMD, pull_newer=False)
    registry.seen.clear()
    assert bases(store).resolve(reference, AMD, pull_newer=False).digest == first.digest
    assert [seen.method for seen in registry.seen if "/manifests/" in seen.path] == ["HEAD"]
    serve(registry, "team/base", "1", simple_image([tar_of({"f": b"two"})]))
    assert bases(store).resolve(reference, AMD, pull_newer=False).digest != first.digest


def test_a_registry_that_went_away_leaves_the_local_image_in_use_and_says_so(store: LocalStore) -> None:
    with MemoryRegistry() as running:
        reference = f"{running.host}/team/base:1"
        serve(running, "team/base", "1", simple_image([tar_of({"f": b"one"})]))
        first = bases(store).resolve(reference, AMD, pull_newer=False)
    found = bases(store)
    assert found.resolve(reference, AMD, pull_newer=False).digest == first.digest
    assert list(found.unanswered) == [reference]
    with pytest.raises(LaminaError):
        bases(store).resolve(reference, AMD, pull_newer=True)


def test_a_layout(store: LocalStore, tmp_path: Path) -> None:
    write_layout(tmp_path / "layout", [(simple_image([tar_of({"f": b"x"})]), "v1")])
    found = bases(store)
    resolved = found.resolve(f"oci-layout://{tmp_path}/layout:v1", AMD, pull_newer=False)
    (layer,) = found.filesystem(ImageOp(f"oci-layout://{tmp_path}/layout:v1", resolved.digest, AMD)).layers
    assert found.fetch(layer, Never())


def test_a_stored_manifest_that_is_damaged_is_one_clear_error(store: LocalStore) -> None:
    imported(store)
    image = store.images.find("docker.io/library/base:1", ("docker.io/library/base:1",))
    path = store.layout.blob(image.manifest)
    path.chmod(0o600)
    for document in (
        b'{"schemaVersion": 2, "manifests": []}',
        b'{"schemaVersion": 2, "config": {"digest": "no", "size": -1}, "layers": []}',
        b"[",
    ):
        path.write_bytes(document)
        with pytest.raises((InvalidDocument, LaminaError)) as caught:
            bases(store).resolve("base:1", AMD, pull_newer=False)
        assert "\n" not in caught.value.message


def test_a_layer_that_nobody_knows(store: LocalStore) -> None:
    from lamina.cache.record import LayerRef
    from lamina.oci.digest import LayerId

    assert not bases(store).fetch(LayerRef(LayerId("sha256:" + "0" * 64)), Never())
