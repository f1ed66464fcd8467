"""What images were built from, in a table that older stores lack."""

from __future__ import annotations

from lamina.oci.digest import sha256
from lamina.store.local import LocalStore
from lamina.store.refs import Image

ONE, TWO = sha256(b"one"), sha256(b"two")


def image(store: LocalStore, config: bytes, *names: str) -> None:
    digest, manifest = store.blobs.put(config), store.blobs.put(b"manifest of " + config)
    store.images.put(Image(digest, manifest, "linux/amd64", 1.0, 0, ()), names)


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
