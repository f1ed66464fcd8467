from __future__ import annotations

from collections.abc import Callable

from lamina.oci.digest import DiffId, Digest, StateId
from lamina.store.facts import HttpAnswer, PackedForm, RemoteAnswer, Selection, WatchAnswer
from lamina.store.local import LocalStore

D = Digest("sha256:" + "d" * 64)


def test_selections(store: LocalStore) -> None:
    state = StateId("state:1")
    assert store.facts.selection(state, "s") is None
    store.facts.set_selection(state, "s", Selection("m", None))
    store.facts.set_selection(state, "s", Selection("m2", D))
    assert store.facts.selection(state, "s") == Selection("m2", D)
    assert store.facts.selection(state, "t") is None


def test_answers_of_urls(store: LocalStore, clock: Callable[[], float]) -> None:
    assert store.facts.http("u") is None
    store.facts.set_http("u", D, '"etag"', None)
    assert store.facts.http("u") == HttpAnswer(D, '"etag"', None, clock())
    assert store.facts.watch("u") is None
    store.facts.set_watch("u", "v1")
    assert store.facts.watch("u") == WatchAnswer("v1", clock())


def test_remote_references_by_platform(store: LocalStore, clock: Callable[[], float]) -> None:
    store.facts.set_remote("debian:12", "linux/amd64", D)
    assert store.facts.remote("debian:12", "linux/amd64") == RemoteAnswer(D, clock())
    assert store.facts.remote("debian:12", "linux/arm64") is None


def test_what_layers_became_and_where_blobs_are(store: LocalStore) -> None:
    layer = DiffId("sha256:" + "1" * 64)
    assert store.facts.packed(layer, "gzip") is None
    assert store.facts.places(D) == ()
    store.facts.set_packed(layer, "gzip", D, 7)
    assert store.facts.packed(layer, "gzip") == PackedForm(D, 7)
    assert store.facts.packed(layer, "zstd") is None
    store.facts.add_place((D,), "r.example/a")
    store.facts.add_place((D,), "r.example/a")
    assert store.facts.places(D) == ("r.example/a",)
