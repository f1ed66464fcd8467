"""A layer that unpacks to far more than it is: by gzip, and a thousand times worse by zstd. One clear line, nothing kept, no image."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lamina.engine.images import layers
from lamina.testing.commandline import Lamina
from lamina.testing.fakeregistry import FakeRegistry
from lamina.testing.images import push as push_simple
from lamina.testing.images import simple_image, tar_of
from lamina.testing.registry import push_manifest

LIMIT = 1 << 20  # in place of 128 GiB


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_bomb_of_zeros(lamina: Lamina, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str) -> None:
    if compression == "zstd" and not shutil.which("zstd"):
        pytest.skip("zstd is not installed")
    bomb = simple_image([tar_of({"small": b"x", "zeros": bytes(32 << 20)})], compression=compression)
    assert len(bomb.layers[0].blob) < 40_000
    monkeypatch.setattr(layers, "PLAIN_LIMIT", LIMIT)
    with FakeRegistry() as registry:
        push_simple(registry.host, "bomb", "1", bomb)
        (tmp_path / "Dockerfile").write_text(f"FROM scratch\nCOPY --from={registry.host}/bomb:1 /small /small\n")
        said = lamina("build", "--progress=plain", "-t", "made:1", str(tmp_path))
        assert said.code not in (0, 70), said
        assert sum("error: " in line for line in said.err.splitlines()) == 1, said
        assert str(LIMIT) in said.err
        assert "made:1" not in lamina("images", "--format", "{{.Repository}}:{{.Tag}}").out
    taken = sum(path.stat().st_size for path in (tmp_path / "store").rglob("*") if path.is_file())
    assert taken < 4 << 20, "what had been unpacked is gone"
    assert lamina("check").code == 0


def test_an_image_that_says_less_than_its_layers_have(lamina: Lamina, tmp_path: Path) -> None:
    """The manifest's size is what is taken from the wire, to the byte: more is not read, less is an error."""
    for change in (-1, 1):
        with FakeRegistry() as registry:
            image = simple_image([tar_of({"f": b"x" * 5000})])
            push_simple(registry.host, "app", "1", image)
            size = len(image.layers[0].blob)
            lie = image.manifest.replace(f'"size": {size}'.encode(), f'"size": {size + change}'.encode())
            assert lie != image.manifest
            registry.manifests.clear()
            registry.tags.clear()
            push_manifest(registry.host, "app", "1", lie, "application/vnd.oci.image.manifest.v1+json")
            said = lamina("pull", f"{registry.host}/app:1")
            assert said.code == 76
            assert len(said.err.strip().splitlines()) == 1
            assert lamina("images", "-q").out == ""
            assert lamina("check").code == 0
