"""What images were built from, in a table that older stores lack."""

from __future__ import annotations

from lamina.oci.digest import LayerId, sha256
from lamina.store.local import LocalStore
from lamina.store.refs import Image

ONE, TWO = sha256(b"one"), sha256(b"two")


def image(store: LocalStore, config: bytes, *names: str, layers: int = 0, created: float = 1.0) -> Image:
    digest, manifest = store.blobs.put(config), store.blobs.put(b"manifest of " + config)
    made = Image(digest, manifest, "linux/amd64", created, 0, (LayerId(ONE),) * layers)
    store.images.put(made, names)
    return made


def test_a_store_without_the_table_knows_nothing(store: LocalStore) -> None:
    assert store.origins.all() == []
    assert store.origins.of(ONE) is None


def test_one_document_for_each_name(store: LocalStore) -> None:
    image(store, b"one", "a", "b")
    store.origins.put(ONE, ("a",), b"A")
    store.origins.put(ONE, ("b",), b"B")
    assert [(row.name, row.doc) for row in store.origins.all()] == [("a", b"A"), ("b", b"B")]
    assert (store.origins.of(ONE, "a"), store.origins.of(ONE)) == (b"A", b"B")


def test_an_image_without_a_name_has_one_too(store: LocalStore) -> None:
    image(store, b"one")
    store.origins.put(ONE, (), b"A")
    assert store.origins.of(ONE) == b"A"


def test_documents_of_removed_images_go(store: LocalStore) -> None:
    image(store, b"one", "a")
    store.origins.put(ONE, ("a",), b"A")
    store.images.untag("a")
    assert store.origins.all() == []
    image(store, b"two", "b")
    store.origins.put(TWO, ("b",), b"B")
    assert store.origins.of(ONE) is None


def test_unknown_are_those_that_nobody_accounts_for(store: LocalStore) -> None:
    """Each build that ran something asked this of every image by itself: with hundreds of images that was most of a small build."""
    archived, older = image(store, b"3", "a", layers=2, created=3.0), image(store, b"1", layers=1)
    assert store.origins.unknown(0) == [archived.id, older.id]
    built, pulled = image(store, b"4", layers=1, created=4.0), image(store, b"5", layers=1, created=5.0)
    store.origins.put(built.id, (), b"{}")
    store.facts.set_remote("b", "linux/amd64", pulled.manifest)
    assert store.origins.unknown(0) == [archived.id, older.id]
    assert store.origins.unknown(1) == [archived.id], "an image that is no more than the base has nothing to take over"
    assert store.origins.unknown(2) == []
