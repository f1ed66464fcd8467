from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from lamina.layer.flavour import Flavour
from lamina.oci.digest import Digest, sha256
from lamina.store.local import LocalStore
from lamina.store.refs import AmbiguousImage, Image, ImageInUse, ImageNotFound, Images

SKOPEO = shutil.which("skopeo")
APP, WEB = "docker.io/library/app:1", "docker.io/library/web:1"


def image(store: LocalStore, number: int, *names: str, platform: str = "linux/amd64", blobs: tuple[Digest, ...] = ()) -> Image:
    config = store.blobs.put(json.dumps({"config": number, "platform": platform}).encode())
    manifest = store.blobs.put(
        json.dumps({"schemaVersion": 2, "config": {"digest": config}, "layers": [{"digest": blob} for blob in blobs]}).encode()
    )
    made = Image(config, manifest, platform, float(number), 10 * number, (), blobs)
    store.images.put(made, names)
    return made


def index(root: Path) -> dict[str, str]:
    document = json.loads((root / "index.json").read_text())
    return {entry.get("annotations", {}).get("org.opencontainers.image.ref.name", ""): entry["digest"] for entry in document["manifests"]}


def test_by_name_by_id_by_prefix(store: LocalStore) -> None:
    one = image(store, 1, APP)
    for text in (APP, one.id, one.id[7:], one.id[7:19]):
        assert store.images.find(text).id == one.id
    assert store.images.find("app:1", ["app:1", APP]).names == (APP,)
    assert store.images.by_id(one.manifest) == store.images.by_id(one.id) == store.images.by_name(APP)


def test_nothing_found_names_the_nearest(store: LocalStore) -> None:
    image(store, 1, APP)
    with pytest.raises(ImageNotFound) as caught:
        store.images.find("ap:1", ["docker.io/library/ap:1"])
    assert caught.value.hint == f"did you mean {APP}?"
    with pytest.raises(ImageNotFound):
        store.images.find("deadbeef")
    with pytest.raises(ImageNotFound):
        store.images.find("\udcff")  # bytes that are no UTF-8


def test_an_ambiguous_beginning_lists_candidates(store: LocalStore) -> None:
    with store.database.write() as transaction:
        for tail in "01":
            digest = "sha256:" + "ab" * 31 + "c" + tail
            transaction.run("INSERT INTO images VALUES (?,?,'linux/amd64',0,0,'[]','[]',0)", (digest, digest))
    with pytest.raises(AmbiguousImage) as caught:
        store.images.find("abab")
    assert caught.value.hint is not None
    assert caught.value.hint.count("abab") >= 2


def test_a_name_moves_and_its_image_stays_without_one(store: LocalStore, root: Path) -> None:
    old, new = image(store, 1, APP), image(store, 2)
    store.images.tag(new.id, [APP])
    assert store.images.find(APP).id == new.id
    assert {one.id: one.names for one in store.images.all()} == {new.id: (APP,), old.id: ()}
    assert index(root) == {APP: new.manifest, "": old.manifest}


def test_untag_removes_the_image_with_its_last_name(store: LocalStore, root: Path) -> None:
    one = image(store, 1, APP, WEB)
    assert store.images.untag(APP).deleted == ()
    assert index(root) == {WEB: one.manifest}
    assert store.images.untag(WEB).deleted == (one.id,)
    assert store.images.all() == []
    assert index(root) == {}
    with pytest.raises(ImageNotFound):
        store.images.untag(WEB)


def test_remove_by_id(store: LocalStore) -> None:
    one = image(store, 1, APP, WEB)
    with pytest.raises(ImageInUse, match="several names"):
        store.images.remove(one.id)
    removed = store.images.remove(one.id, force=True)
    assert removed.untagged == (APP, WEB)
    assert removed.deleted == (one.id,)
    with pytest.raises(ImageNotFound):
        store.images.remove(one.id)
    lonely = image(store, 2, APP)
    assert store.images.remove(lonely.id).deleted == (lonely.id,)


def test_one_name_for_several_platforms(store: LocalStore) -> None:
    amd = image(store, 1, APP)
    arm = image(store, 2, APP, platform="linux/arm64/v8")
    assert store.images.find(APP, platform="linux/amd64").id == amd.id
    assert store.images.find(APP, platform="linux/arm64/v8").id == arm.id
    assert store.images.untag(APP).deleted == (amd.id, arm.id) or store.images.all() == []


def test_tagging_what_is_not_here(store: LocalStore) -> None:
    with pytest.raises(ImageNotFound):
        store.images.tag(Digest("sha256:" + "0" * 64), [APP])


def test_an_image_that_is_not_packed_is_not_in_the_view(store: LocalStore, root: Path) -> None:
    data = b"layer"
    absent = sha256(data)
    one = image(store, 1, APP, blobs=(absent,))
    assert index(root) == {}
    store.blobs.put(data)
    store.images.write_index()
    assert index(root) == {APP: one.manifest}


def test_the_view_has_platform_size_and_media_type(store: LocalStore, root: Path) -> None:
    image(store, 1, APP, platform="linux/arm/v7")
    (entry,) = json.loads((root / "index.json").read_text())["manifests"]
    assert entry["platform"] == {"architecture": "arm", "os": "linux", "variant": "v7"}
    assert entry["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert entry["size"] == store.blobs.size(entry["digest"])


def test_packing_an_image_shows_in_the_view_at_the_latest_with_the_closing(root: Path) -> None:
    absent = sha256(b"layer")
    with LocalStore.open(root, Flavour("trusted"), now=lambda: 1.0) as store:
        one = image(store, 1, APP, blobs=(absent,))
    assert index(root) == {}
    with LocalStore.open(root, Flavour("trusted"), now=lambda: 1.0) as store:
        store.blobs.put(b"layer")
    assert index(root) == {APP: one.manifest}


def test_putting_the_same_image_again_writes_nothing(store: LocalStore, root: Path) -> None:
    image(store, 1, APP, WEB)
    before = (root / "index.json").stat().st_mtime_ns
    (changes,) = store.database.all(tuple[int], "SELECT total_changes()")
    image(store, 1, APP)
    assert store.database.all(tuple[int], "SELECT total_changes()") == [changes]
    assert (root / "index.json").stat().st_mtime_ns == before
    image(store, 1, "docker.io/library/third:1")
    assert store.images.find(APP).names == (APP, "docker.io/library/third:1", WEB)


@pytest.mark.skipif(SKOPEO is None, reason="needs skopeo (make test-deps)")
def test_skopeo_reads_the_store_in_place(store: LocalStore, root: Path, tmp_path: Path) -> None:
    assert SKOPEO is not None
    layer = bytes(10240)  # an empty tar
    config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [sha256(layer)]}}
    raw = json.dumps(config).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": store.blobs.put(raw), "size": len(raw)},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": store.blobs.put(layer), "size": len(layer)}],
    }
    digest = store.blobs.put(json.dumps(manifest).encode())
    store.images.put(Image(sha256(raw), digest, "linux/amd64", 1.0, 0, (), (sha256(layer),)), ["docker.io/library/app:1"])
    source = f"oci:{root}:docker.io/library/app:1"
    found = subprocess.run([SKOPEO, "inspect", source], capture_output=True, check=True, timeout=180)
    assert json.loads(found.stdout)["Digest"] == digest
    subprocess.run([SKOPEO, "copy", "--insecure-policy", source, f"dir:{tmp_path}/copy"], capture_output=True, check=True, timeout=180)
    assert (tmp_path / "copy" / sha256(layer)[7:]).read_bytes() == layer


def test_images_that_are_not_whole_cost_no_look_at_the_others(store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build in a store of two hundred images spent a tenth of its time on an index.json that was to stay as it was."""
    whole, blob = image(store, 1, APP), sha256(b"layer")
    made: list[bytes] = []
    tell = Images.index

    def counted(images: Images) -> bytes:
        made.append(tell(images))
        return made[-1]

    monkeypatch.setattr(Images, "index", counted)
    lacking = image(store, 2, WEB, blobs=(blob,))
    image(store, 3, WEB, blobs=(blob,))
    store.blobs.put(b"a listing")
    image(store, 4, blobs=(blob,))
    assert made == []
    assert index(root) == {APP: whole.manifest}
    image(store, 5, APP, blobs=(blob,))
    assert len(made) == 1, "a whole image lost its name"
    assert index(root) == {"": whole.manifest}
    store.blobs.put(b"layer")
    store.images.put(lacking)
    assert len(made) == 2, "the blob came that it lacked"
    assert lacking.manifest in {entry["digest"] for entry in json.loads((root / "index.json").read_text())["manifests"]}
