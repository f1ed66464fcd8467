from __future__ import annotations

from pathlib import Path

from lamina.cache.record import LayerRef
from lamina.engine.layers import LayerKeeper
from lamina.engine.results import Filesystem
from lamina.layer.flavour import Flavour
from lamina.oci.digest import LayerId, StateId
from lamina.sandbox.protocols import CancelToken
from lamina.store.layers import LayerFacts
from lamina.store.local import LocalStore


def fetch(layer: LayerRef, cancel: CancelToken) -> bool:
    return False


def test_lower_folders_stand_once_at_their_upper_place(tmp_path: Path) -> None:
    with LocalStore.open(tmp_path / "root", Flavour("trusted"), now=lambda: 1.0) as store:
        names = [LayerId("diff:" + digit * 64) for digit in "123"]
        paths = {name: store.layers.commit(store.layers.begin(), name, LayerFacts()) for name in names}
        one, two, three = names
        layers = tuple(LayerRef(id=name) for name in (one, two, one, three, two))
        found = LayerKeeper(store, fetch).lowers(Filesystem(StateId("state"), "state", layers))
        assert found == [paths[one], paths[three], paths[two]]
        assert LayerKeeper(store, fetch).lowers(Filesystem(StateId("state"), "state", ())) == []


def test_only_layers_that_were_found_are_present(tmp_path: Path) -> None:
    with LocalStore.open(tmp_path / "root", Flavour("trusted"), now=lambda: 1.0) as store:
        one, two = (LayerId("diff:" + digit * 64) for digit in "12")
        store.layers.commit(store.layers.begin(), one, LayerFacts())
        keeper = LayerKeeper(store, fetch)
        assert keeper.all_present((LayerRef(id=one),))
        assert not keeper.all_present((LayerRef(id=one), LayerRef(id=two)))
        store.layers.commit(store.layers.begin(), two, LayerFacts())
        assert keeper.all_present((LayerRef(id=two), LayerRef(id=one)))
