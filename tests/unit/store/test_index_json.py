"""The root is an image layout that other tools read in place."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from lamina.oci.digest import sha256
from lamina.store.local import LocalStore
from lamina.store.refs import Image

SKOPEO = shutil.which("skopeo")


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
    found = subprocess.run([SKOPEO, "inspect", source], capture_output=True, check=True, timeout=60)
    assert json.loads(found.stdout)["Digest"] == digest
    subprocess.run([SKOPEO, "copy", "--insecure-policy", source, f"dir:{tmp_path}/copy"], capture_output=True, check=True, timeout=60)
    assert (tmp_path / "copy" / sha256(layer)[7:]).read_bytes() == layer
