from __future__ import annotations

import json

import pytest

from lamina.oci.manifest import Index, InvalidDocument
from lamina.oci.platform import Platform
from lamina.oci.selection import choose, offered, parse_checked

DIGEST = "sha256:" + "1" * 64


def index(*entries: dict[str, object]) -> Index:
    manifests = [{"digest": f"sha256:{n:064x}", "size": 1, **entry} for n, entry in enumerate(entries)]
    found = parse_checked(json.dumps({"schemaVersion": 2, "manifests": manifests}).encode())
    assert isinstance(found, Index)
    return found


def platform(architecture: str, variant: str = "", os: str = "linux") -> dict[str, object]:
    return {"platform": {"os": os, "architecture": architecture, "variant": variant}}


def test_attestations_are_no_images() -> None:
    attested = {**platform("amd64"), "annotations": {"vnd.docker.reference.type": "attestation-manifest"}}
    found = index(attested, platform("unknown", os="unknown"), platform("arm64"))
    assert choose(found, Platform("linux", "amd64")) is None
    assert choose(found, Platform("linux", "arm64")) is found.manifests[2]
    assert offered(found) == ("linux/arm64",)


def test_the_best_variant() -> None:
    found = index(platform("arm", "v5"), platform("arm", "v6"), platform("arm", "v8"))
    assert choose(found, Platform("linux", "arm", "v7")) is found.manifests[1]


def test_entries_without_a_platform() -> None:
    assert choose(index({}), Platform("linux", "amd64")) is not None
    assert choose(index({}, {}), Platform("linux", "amd64")) is None


@pytest.mark.parametrize("digest", ["sha256:1", "md5:" + "1" * 32, "sha256:../../../etc/passwd", "", "sha256:" + "A" * 64])
def test_digests_are_digests(digest: str) -> None:
    for document in ({"manifests": [{"digest": digest, "size": 1}]}, {"config": {"digest": digest, "size": 1}, "layers": []}):
        with pytest.raises(InvalidDocument):
            parse_checked(json.dumps({"schemaVersion": 2, **document}).encode())


def test_sizes_are_sizes() -> None:
    with pytest.raises(InvalidDocument, match="size -1"):
        parse_checked(json.dumps({"schemaVersion": 2, "manifests": [{"digest": DIGEST, "size": -1}]}).encode())
    with pytest.raises(InvalidDocument):
        parse_checked(b"[" * 100_000)
