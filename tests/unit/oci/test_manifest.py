from __future__ import annotations

import json

import pytest

from lamina.oci.manifest import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Index,
    InvalidDocument,
    Manifest,
    encode_manifest,
    parse_document,
)
from lamina.oci.platform import Platform

BLOB = {"mediaType": "x", "digest": "sha256:" + "1" * 64, "size": 3}


def raw(**fields: object) -> bytes:
    return json.dumps({"schemaVersion": 2, **fields}).encode()


@pytest.mark.parametrize("kind", [OCI_MANIFEST, DOCKER_MANIFEST])
def test_manifest_by_its_own_type(kind: str) -> None:
    found = parse_document(raw(mediaType=kind, config=BLOB, layers=[BLOB, BLOB]))
    assert isinstance(found, Manifest)
    assert found.media_type == kind
    assert [layer.size for layer in found.layers] == [3, 3]
    assert json.loads(encode_manifest(found)) == {"schemaVersion": 2, "mediaType": kind, "config": BLOB, "layers": [BLOB, BLOB]}


@pytest.mark.parametrize("kind", [OCI_INDEX, DOCKER_LIST])
def test_index_by_its_own_type(kind: str) -> None:
    entry = {**BLOB, "platform": {"os": "windows", "architecture": "amd64", "os.version": "10"}}
    found = parse_document(raw(mediaType=kind, manifests=[entry]))
    assert isinstance(found, Index)
    assert found.manifests[0].platform is not None
    assert found.manifests[0].platform.value == Platform("windows", "amd64", "", "10")


def test_without_a_type_the_server_or_the_shape_decides() -> None:
    assert isinstance(parse_document(raw(manifests=[])), Index)
    assert isinstance(parse_document(raw(config=BLOB, layers=[])), Manifest)
    assert parse_document(raw(config=BLOB, layers=[]), DOCKER_MANIFEST).media_type == DOCKER_MANIFEST


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"{}",
        raw(),
        raw(config=BLOB),
        raw(layers=[BLOB], manifests=[]),
        raw(mediaType=OCI_INDEX, config=BLOB, layers=[]),
        raw(mediaType=OCI_MANIFEST, manifests=[]),
        raw(schemaVersion=1, config=BLOB, layers=[]),
        raw(config={**BLOB, "size": "3"}, layers=[]),
    ],
)
def test_refused(document: bytes) -> None:
    with pytest.raises(InvalidDocument):
        parse_document(document)
