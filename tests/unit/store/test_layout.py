from __future__ import annotations

from pathlib import Path

import pytest

from lamina.oci.digest import Digest, LayerId
from lamina.store.errors import BadName
from lamina.store.layout import Layout, digest_of, layer_of

HEX = "0123456789abcdef" * 4


def test_names_become_paths_and_back() -> None:
    layout = Layout(Path("/root"))
    assert layout.blob(Digest(f"sha256:{HEX}")) == Path(f"/root/blobs/sha256/{HEX}")
    assert layout.blob(Digest(f"sha512:{HEX * 2}")) == Path(f"/root/blobs/sha512/{HEX * 2}")
    for layer in (LayerId(f"diff:{HEX}"), LayerId(f"sha256:{HEX}")):
        assert layer_of(layout.layer(layer).name) == layer
    assert digest_of("sha256", HEX) == f"sha256:{HEX}"


@pytest.mark.parametrize(
    "name", ["diff:", "diff:../../x", f"diff:{HEX}/..", f"diff:{HEX}\n", f"DIFF:{HEX}", f"diff:{HEX[1:]}", f"sha512:{HEX}", "\0"]
)
def test_hostile_names(name: str) -> None:
    layout = Layout(Path("/root"))
    with pytest.raises(BadName):
        layout.layer(LayerId(name))
    with pytest.raises(BadName):
        layout.blob(Digest(name))


@pytest.mark.parametrize("name", ["", "diff", f"diff-{HEX}x", f"x-{HEX}", f"diff:{HEX[1:]}", ".tmp"])
def test_folders_that_are_no_layer(name: str) -> None:
    assert layer_of(name) is None
    assert digest_of("sha256", name) is None
