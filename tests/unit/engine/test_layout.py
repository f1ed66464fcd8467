from __future__ import annotations

import json
import os
from pathlib import Path
from typing import BinaryIO

import pytest

from lamina.engine.images.errors import BadArchive, ImageNotFound
from lamina.engine.images.files import FolderFiles
from lamina.engine.images.layout import Layout
from lamina.oci.digest import Digest
from lamina.oci.platform import Platform
from lamina.store.memory import MemoryBlobs
from lamina.testing.images import OCI_INDEX, SimpleImage, digest_of, index_of, simple_image, tar_of, write_layout

AMD = Platform("linux", "amd64")


def image(word: bytes, architecture: str = "amd64") -> SimpleImage:
    return simple_image([tar_of({"f": word})], architecture=architecture)


def blob(root: Path, digest: str) -> Path:
    return root / "blobs" / "sha256" / digest.removeprefix("sha256:")


def test_by_tag_digest_and_default(tmp_path: Path) -> None:
    one, two = image(b"1"), image(b"2")
    write_layout(tmp_path, [(one, "1"), (two, "example.org/app:latest")])
    layout = Layout(FolderFiles(tmp_path))
    assert layout.select("1").digest == one.digest
    assert layout.select("latest").digest == two.digest
    assert layout.select().digest == two.digest
    assert layout.select(digest=Digest(one.digest)).digest == one.digest
    with pytest.raises(ImageNotFound, match="no image 3") as caught:
        layout.select("3")
    assert caught.value.hint is not None
    assert "example.org/app:latest" in caught.value.hint


def test_what_only_an_index_lists_is_found_and_closed(tmp_path: Path) -> None:
    """It was opened twice and closed once."""
    one = image(b"1")
    write_layout(tmp_path, [(one, "1")])
    (tmp_path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": []}))

    handed: list[BinaryIO] = []

    class Watched(FolderFiles):
        def open(self, name: str) -> tuple[BinaryIO, int] | None:
            found = super().open(name)
            if found is not None:
                handed.append(found[0])
            return found

    assert Layout(Watched(tmp_path)).select(digest=Digest(one.digest)).digest == one.digest
    assert handed
    assert all(file.closed for file in handed)


def test_several_and_no_latest(tmp_path: Path) -> None:
    write_layout(tmp_path, [(image(b"1"), "1"), (image(b"2"), "2")])
    with pytest.raises(ImageNotFound, match="several images"):
        Layout(FolderFiles(tmp_path)).select()


def test_through_an_index_of_platforms(tmp_path: Path) -> None:
    amd, arm = image(b"1"), image(b"2", "arm64")
    write_layout(tmp_path, [(amd, ""), (arm, "")])
    raw = index_of([(amd, {"os": "linux", "architecture": "amd64"}), (arm, {"os": "linux", "architecture": "arm64"})])
    blob(tmp_path, digest_of(raw)).write_bytes(raw)
    entry = {"mediaType": OCI_INDEX, "digest": digest_of(raw), "size": len(raw)}
    (tmp_path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    layout = Layout(FolderFiles(tmp_path))
    assert layout.take(layout.select(), Platform("linux", "arm64"), MemoryBlobs()).manifest_digest == arm.digest
    with pytest.raises(ImageNotFound, match="s390x"):
        layout.take(layout.select(), Platform("linux", "s390x"), MemoryBlobs())
    blob(tmp_path, arm.digest).unlink()
    assert layout.take(layout.select(), Platform("linux", "s390x"), MemoryBlobs()).manifest_digest == amd.digest


@pytest.mark.parametrize("what", ["config", "layer", "manifest"])
@pytest.mark.parametrize("how", ["missing", "damaged", "longer", "fifo"])
def test_damage(tmp_path: Path, what: str, how: str) -> None:
    made = image(b"1")
    write_layout(tmp_path, [(made, "1")])
    digest = {"config": digest_of(made.config), "layer": digest_of(made.layers[0].blob), "manifest": made.digest}[what]
    path = blob(tmp_path, digest)
    data = path.read_bytes()
    path.unlink()
    if how == "damaged":
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    elif how == "longer":
        path.write_bytes(data + b"x")
    elif how == "fifo":
        os.mkfifo(path)
    layout = Layout(FolderFiles(tmp_path))
    blobs = MemoryBlobs()
    with pytest.raises(BadArchive):
        layout.take(layout.select("1"), AMD, blobs)
    assert blobs.missing([Digest(made.digest)])


@pytest.mark.parametrize("text", ["", "[]", '{"schemaVersion":2,"manifests":[{"digest":"sha256:../../x","size":1}]}', "[" * 50_000])
def test_bad_index(tmp_path: Path, text: str) -> None:
    write_layout(tmp_path, [])
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(BadArchive):
        Layout(FolderFiles(tmp_path))


def test_a_folder_that_is_no_layout(tmp_path: Path) -> None:
    with pytest.raises(BadArchive, match="not an OCI image layout"):
        Layout(FolderFiles(tmp_path))
    with pytest.raises(BadArchive, match="leads out"):
        FolderFiles(tmp_path).open("../x")
