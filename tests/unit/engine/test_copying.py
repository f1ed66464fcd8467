"""From every kind of place to every other."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.engine.exporters.place import CannotWrite
from lamina.engine.images.errors import BadArchive, ImageNotFound
from lamina.engine.registries.copying import copy
from lamina.engine.registries.layouts import LayoutFolder
from lamina.engine.registries.places import BadPlace, Place, parse_place
from lamina.layer.flavour import Flavour, IdMap
from lamina.oci.digest import Digest
from lamina.oci.platform import Platform
from lamina.oci.reference import Reference
from lamina.registry.client import RegistryClient
from lamina.registry.errors import RegistryNotFound, RegistryProtocolError
from lamina.registry.referrers import referrers
from lamina.registry.transport import Transport, TransportSettings
from lamina.store.local import LocalStore
from lamina.testing.fakeregistry import FakeRegistry
from lamina.testing.images import OCI_INDEX, OCI_MANIFEST, digest_of, index_of, serve, simple_image, tar_of, write_layout
from lamina.testing.images import push as push_simple
from lamina.testing.registry import MemoryRegistry, push_manifest

AMD, ARM = Platform("linux", "amd64"), Platform("linux", "arm64")
FLAVOUR = Flavour("trusted") if os.geteuid() == 0 else Flavour("plain", IdMap("single"))
SIMPLE = simple_image([tar_of({"f": b"x" * 100_000}), tar_of({"g": b"y"})])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    with LocalStore.open(tmp_path / "store", FLAVOUR, now=lambda: 1000.0) as found:
        yield found


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as found:
        push_simple(found.host, "base", "1", SIMPLE)
        yield found


@pytest.fixture
def client() -> RegistryClient:
    return RegistryClient(Transport(TransportSettings(connect_timeout=60, read_timeout=60), sleep=lambda _: None))


class Copier:
    def __init__(self, store: LocalStore, client: RegistryClient) -> None:
        self.store = store
        self.client = client

    def __call__(self, source: str, target: str, platform: Platform | None = None) -> str:
        return copy(self.store, self.client, parse_place(source), parse_place(target), AMD, platform=platform).digest


@pytest.fixture
def copied(store: LocalStore, client: RegistryClient) -> Copier:
    return Copier(store, client)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("docker://debian:12", Place("docker", "debian:12")),
        ("oci:dir", Place("oci", "", Path("dir"))),
        ("oci:/a/dir:tag", Place("oci", "tag", Path("/a/dir"))),
        ("oci-archive:a.tar:app:1", Place("oci-archive", "app:1", Path("a.tar"))),
        (f"oci:dir@sha256:{'0' * 64}", Place("oci", f"@sha256:{'0' * 64}", Path("dir"))),
        ("docker-archive:a.tar:localhost:5000/app:1", Place("docker-archive", "localhost:5000/app:1", Path("a.tar"))),
        ("app:1", Place("store", "app:1")),
        ("localhost:5000/app", Place("store", "localhost:5000/app")),
    ],
)
def test_places(text: str, place: Place) -> None:
    assert parse_place(text) == place
    assert parse_place(str(place)) == place


@pytest.mark.parametrize("text", ["", "docker://", "oci:", "oci-archive::x", "containers-storage://x", "https://r.example/app"])
def test_no_places(text: str) -> None:
    with pytest.raises(BadPlace):
        parse_place(text)


def test_digests_stay_all_the_way(copied: Copier, registry: FakeRegistry, tmp_path: Path) -> None:
    where = f"docker://{registry.host}"
    for source, target in [
        (f"{where}/base:1", f"{where}/mounted:1"),
        (f"{where}/mounted:1", f"oci:{tmp_path}/dir:one"),
        (f"oci:{tmp_path}/dir:one", f"oci-archive:{tmp_path}/a.tar:two"),
        (f"oci-archive:{tmp_path}/a.tar", f"{where}/again:1"),
        (f"oci:{tmp_path}/dir@{SIMPLE.digest}", f"oci:{tmp_path}/other"),
        (f"{where}/again:1", "kept:1"),
        ("kept:1", f"{where}/last:1"),
    ]:
        assert copied(source, target) == SIMPLE.digest, (source, target)
    assert registry.manifests["last", SIMPLE.digest] == (OCI_MANIFEST, SIMPLE.manifest)
    assert registry.count("PATCH") == 0


def test_within_a_registry_blobs_are_mounted(store: LocalStore, client: RegistryClient, registry: FakeRegistry) -> None:
    registry.asked.clear()
    done = copy(store, client, parse_place(f"docker://{registry.host}/base:1"), parse_place(f"docker://{registry.host}/new:1"), AMD)
    assert (done.mounted, done.sent) == (3, 0)
    assert registry.count("GET", "/blobs/") == 0
    again = copy(store, client, parse_place(f"docker://{registry.host}/base:1"), parse_place(f"docker://{registry.host}/new:1"), AMD)
    assert again.unchanged


def test_docker_archives(copied: Copier, store: LocalStore, registry: FakeRegistry, tmp_path: Path) -> None:
    copied(f"docker://{registry.host}/base:1", f"docker-archive:{tmp_path}/d.tar:app:7")
    assert store.images.all() == [], "what only passed through is gone"
    copied(f"docker-archive:{tmp_path}/d.tar", f"docker://{registry.host}/back:1")
    copied(f"docker-archive:{tmp_path}/d.tar:app:7", "kept:1")
    assert [image.names for image in store.images.all()] == [("docker.io/library/kept:1",)]
    assert store.images.all()[0].id == digest_of(SIMPLE.config)
    with pytest.raises(ImageNotFound, match="no image app:8") as caught:
        copied(f"docker-archive:{tmp_path}/d.tar:app:8", "kept:2")
    assert "app:7" in str(caught.value.hint)


def test_an_index_with_all_of_it_or_one_platform(copied: Copier, registry: FakeRegistry, tmp_path: Path) -> None:
    arm = simple_image([tar_of({"f": b"arm"})], architecture="arm64")
    push_simple(registry.host, "base", "arm", arm)
    index = index_of([(SIMPLE, {"os": "linux", "architecture": "amd64"}), (arm, {"os": "linux", "architecture": "arm64"})])
    push_manifest(registry.host, "base", "all", index, OCI_INDEX)
    where = f"docker://{registry.host}"
    assert copied(f"{where}/base:all", f"oci:{tmp_path}/dir:all") == digest_of(index)
    assert copied(f"oci:{tmp_path}/dir:all", f"{where}/other:all") == digest_of(index)
    assert ("other", arm.digest) in registry.manifests
    assert copied(f"{where}/base:all", f"{where}/arm:1", ARM) == arm.digest
    assert copied(f"{where}/base:all", "kept:1", ARM) == arm.digest
    assert copied(f"{where}/base:all", "mine:1") == SIMPLE.digest
    with pytest.raises(ImageNotFound, match="s390x"):
        copied(f"{where}/base:all", f"{where}/none:1", Platform("linux", "s390x"))


def test_a_layout_keeps_its_other_images(copied: Copier, registry: FakeRegistry, tmp_path: Path) -> None:
    other = simple_image([tar_of({"o": b""})])
    write_layout(tmp_path / "dir", [(other, "other")])
    copied(f"docker://{registry.host}/base:1", f"oci:{tmp_path}/dir:new")
    copied(f"docker://{registry.host}/base:1", f"oci:{tmp_path}/dir:new")
    assert copied(f"oci:{tmp_path}/dir:other", "o:1") == other.digest
    assert copied(f"oci:{tmp_path}/dir:new", "n:1") == SIMPLE.digest
    copied(f"docker://{registry.host}/base:1", f"oci:{tmp_path}/dir:other")
    assert copied(f"oci:{tmp_path}/dir:other", "o:2") == SIMPLE.digest


def test_nothing_is_written_into_a_folder_of_other_things(copied: Copier, registry: FakeRegistry, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "file").write_text("mine")
    with pytest.raises(CannotWrite, match="no OCI layout"):
        copied(f"docker://{registry.host}/base:1", f"oci:{tmp_path}/home:1")


def test_damaged_sources_give_no_image(copied: Copier, registry: FakeRegistry, tmp_path: Path) -> None:
    with MemoryRegistry() as bad:
        serve(bad, "app", "1", SIMPLE)
        bad.faults.corrupt.add(digest_of(SIMPLE.layers[0].blob))
        for target in (f"oci:{tmp_path}/dir:1", f"oci-archive:{tmp_path}/a.tar", f"docker://{registry.host}/new:1", "kept:1"):
            with pytest.raises((RegistryProtocolError, BadArchive), match=r"other bytes|not sha256"):
                copied(f"docker://{bad.host}/app:1", target)
    assert "new" not in registry.tags
    assert not (tmp_path / "a.tar").exists()
    assert not (tmp_path / "dir" / "index.json").exists()
    write_layout(tmp_path / "broken", [(SIMPLE, "1")])
    blob = tmp_path / "broken" / "blobs" / "sha256" / digest_of(SIMPLE.layers[0].blob).removeprefix("sha256:")
    for data in (b"", blob.read_bytes() + b"x", bytes(len(blob.read_bytes()))):
        blob.write_bytes(data)
        for target in (f"docker://{registry.host}/new:1", f"oci:{tmp_path}/two:1"):
            with pytest.raises((RegistryProtocolError, BadArchive)):
                copied(f"oci:{tmp_path}/broken:1", target)
    assert "new" not in registry.tags


def test_sources_that_are_not_there(copied: Copier, registry: FakeRegistry, tmp_path: Path) -> None:
    with pytest.raises(RegistryNotFound):
        copied(f"docker://{registry.host}/none:1", f"oci:{tmp_path}/dir")
    with pytest.raises(BadArchive):
        copied(f"oci:{tmp_path}/none", "x:1")
    with pytest.raises(BadPlace, match="digest"):
        copied(f"docker://{registry.host}/base:1", f"oci:{tmp_path}/dir@{SIMPLE.digest}")


def signed(registry: FakeRegistry, repository: str, subject: bytes, kind: str, *, api: bool = True) -> str:
    """A signature as oras and cosign make them; its digest."""
    config, layer = registry.put_blob(repository, b"{}"), registry.put_blob(repository, kind.encode())
    document: dict[str, object] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": kind,
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": config, "size": 2},
        "layers": [{"mediaType": "text/plain", "digest": layer, "size": len(kind)}],
    }
    if api:
        document["subject"] = {"mediaType": OCI_MANIFEST, "digest": digest_of(subject), "size": len(subject)}
    raw = json.dumps(document).encode()
    reference = digest_of(raw) if api else digest_of(subject).replace(":", "-") + ".sig"
    return push_manifest(registry.host, repository, reference, raw, OCI_MANIFEST)


@pytest.mark.parametrize("api", [True, False], ids=["api", "fallback tag"])
def test_referrers_go_along_when_asked_for(
    store: LocalStore, client: RegistryClient, registry: FakeRegistry, tmp_path: Path, api: bool
) -> None:
    """A mirror of an image that had lost its signatures was refused by the cluster that checks them."""
    with FakeRegistry() as target:
        target.wrongs.no_referrers = not api
        arm = simple_image([tar_of({"f": b"arm"})], architecture="arm64")
        push_simple(registry.host, "base", "arm", arm)
        index = index_of([(SIMPLE, {"os": "linux", "architecture": "amd64"}), (arm, {"os": "linux", "architecture": "arm64"})])
        push_manifest(registry.host, "base", "all", index, OCI_INDEX)
        of_index = signed(registry, "base", index, "a/signature")
        of_arm = signed(registry, "base", arm.manifest, "a/sbom")
        of_signature = signed(registry, "base", registry.manifests["base", of_index][1], "a/time")
        by_tag = signed(registry, "base", index, "cosign", api=False)

        def copied(source: str, goal: str, referrers: bool = True) -> int:
            return copy(store, client, parse_place(source), parse_place(goal), AMD, with_referrers=referrers).referrers

        where, there = f"docker://{registry.host}/base:all", f"docker://{target.host}/mirror:1"
        assert copied(where, there, referrers=False) == 0
        assert ("mirror", of_index) not in target.manifests
        for source, goal in (
            (where, there),
            (where, f"oci:{tmp_path}/layout:one"),
            (f"oci:{tmp_path}/layout:one", f"oci-archive:{tmp_path}/a.tar:one"),
            (f"oci-archive:{tmp_path}/a.tar", f"docker://{target.host}/again:1"),
        ):
            assert copied(source, goal) == 4, (source, goal)
        for repository in ("mirror", "again"):
            for digest in (of_index, of_arm, of_signature, by_tag):
                assert target.manifests[repository, digest] == registry.manifests["base", digest]
            assert digest_of(index).replace(":", "-") + ".sig" in target.tags[repository]
            listed = referrers(client.session, Reference(target.host, repository), Digest(digest_of(index)))
            assert [each.digest for each in listed] == [of_index]


def test_what_is_listed_but_does_not_refer_is_left(
    store: LocalStore, client: RegistryClient, registry: FakeRegistry, tmp_path: Path
) -> None:
    """A registry may list what it likes."""
    registry.wrongs.no_referrers = True  # the list is the fallback tag's then
    other = signed(registry, "base", b"another image", "a/lie")
    size = len(registry.manifests["base", other][1])
    listed = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [{"mediaType": OCI_MANIFEST, "digest": other, "size": size}]}
    push_manifest(registry.host, "base", SIMPLE.digest.replace(":", "-"), json.dumps(listed).encode(), OCI_INDEX)
    source, target = parse_place(f"docker://{registry.host}/base:1"), parse_place(f"oci:{tmp_path}/layout:one")
    assert copy(store, client, source, target, AMD, with_referrers=True).referrers == 0


def test_places_that_keep_no_referrers(store: LocalStore, client: RegistryClient, registry: FakeRegistry, tmp_path: Path) -> None:
    for target in ("kept:1", f"docker-archive:{tmp_path}/d.tar"):
        with pytest.raises(BadPlace, match="refers"):
            copy(store, client, parse_place(f"docker://{registry.host}/base:1"), parse_place(target), AMD, with_referrers=True)


def test_two_begin_a_layout_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who was second between the first one's two looks made it say that the folder is a stranger's."""
    exists, folder, entered = Path.exists, tmp_path / "layout", list[Path]()

    def beside(path: Path) -> bool:
        found = exists(path)
        if path == folder / "oci-layout" and not entered:
            entered.append(path)
            LayoutFolder(folder)
        return found

    monkeypatch.setattr(Path, "exists", beside)
    LayoutFolder(folder)
    assert entered
    assert sorted(path.name for path in folder.iterdir()) == ["blobs", "oci-layout"]
