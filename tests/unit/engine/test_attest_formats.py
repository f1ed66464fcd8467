"""SBOMs and statements as the formats' own libraries read them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lamina.cache.record import CacheKey, KeyParts, Place, Record
from lamina.engine.attest.attached import IN_TOTO, Statement, attach
from lamina.engine.attest.packages import Inventory, Package, System
from lamina.engine.attest.provenance import provenance
from lamina.engine.attest.sbom import cyclonedx, image_purl, purl, spdx
from lamina.engine.freshness.origins import BaseUse, GitUse, Origin, StageUse, StepUse, UrlUse
from lamina.engine.freshness.recipe import Recipe
from lamina.oci.canonical import canonical
from lamina.oci.digest import StateId, sha256

MANIFEST = sha256(b"manifest")
FOUND = Inventory(
    System("debian", "12", "Debian GNU/Linux 12 (bookworm)"),
    (
        Package("apk", "musl", "1.2.4-r2", "x86_64", license="MIT", path="/lib/apk/db/installed"),
        Package("deb", "libstdc++6", "1:12.2.0-14+deb12u1", "amd64", source="gcc-12", path="/var/lib/dpkg/status"),
        Package("npm", "@types/node", "20.1.0", license="(MIT OR whatever)", path="/app/node_modules/@types/node/package.json"),
        Package("pypi", "Flask_SQLAlchemy", "3.0.1+local.1", path="/x/METADATA"),
        Package("rpm", "bash", "5.2.26-3.fc40", "x86_64", epoch="1", path="/var/lib/rpm/rpmdb.sqlite"),
    ),
)


@pytest.mark.parametrize("package", FOUND.packages, ids=lambda p: p.name)
def test_package_urls_are_canonical(package: Package) -> None:
    from packageurl import PackageURL

    text = purl(package, FOUND.system)
    assert PackageURL.from_string(text).to_string() == text
    assert PackageURL.from_string(text).version == package.version


def test_names_of_images() -> None:
    assert image_purl("docker.io/library/app:1", "linux/amd64") == "pkg:docker/app@1?platform=linux%2Famd64"
    assert image_purl("127.0.0.1:5000/team/app:1", "linux/arm64/v8") == "pkg:docker/127.0.0.1%3A5000/team/app@1?platform=linux%2Farm64%2Fv8"


@pytest.mark.parametrize("found", [FOUND, Inventory(System(), ())], ids=["packages", "nothing"])
def test_cyclonedx_is_valid(found: Inventory) -> None:
    from cyclonedx.model.bom import Bom
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = canonical(cyclonedx(found, "app:1", MANIFEST, 1_700_000_000.5)).decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bom: Any = Bom.from_json(json.loads(text))  # type: ignore[attr-defined]  # made by a decorator of the library
    assert {str(c.purl) for c in bom.components if c.purl} == {purl(p, found.system) for p in found.packages}
    assert bom.metadata.component.version == MANIFEST


@pytest.mark.parametrize("found", [FOUND, Inventory(System(), ())], ids=["packages", "nothing"])
def test_spdx_is_valid(found: Inventory) -> None:
    from spdx_tools.spdx.parser.jsonlikedict.json_like_dict_parser import JsonLikeDictParser
    from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

    document = JsonLikeDictParser().parse(spdx(found, "app:1", MANIFEST, 1_700_000_000.5))  # type: ignore[no-untyped-call]  # theirs
    assert validate_full_spdx_document(document, "SPDX-2.3") == []
    assert len(document.packages) == len(found.packages) + 1
    assert document.creation_info.created.year == 2023


def test_the_same_image_is_the_same_document() -> None:
    assert spdx(FOUND, "app:1", MANIFEST, 5.0) == spdx(FOUND, "app:1", MANIFEST, 5.0)
    assert cyclonedx(FOUND, "app:1", MANIFEST, 5.0)["serialNumber"] != cyclonedx(FOUND, "app:1", sha256(b"x"), 5.0)["serialNumber"]


ORIGIN = Origin(
    "linux/amd64",
    "Dockerfile",
    Recipe(folder="/home/me/secret-project", target="prod", args={"V": "1"}, labels={"a": "b"}),
    (BaseUse("docker.io/library/debian:12", "linux/amd64", sha256(b"c"), sha256(b"m"), "x", sha256(b"top")),),
    (UrlUse("https://example.com/a.tar", sha256(b"u")),),
    (GitUse("https://example.com/r.git", "v1", "c" * 40),),
    (StageUse("prod", "docker.io/library/debian:12"),),
    (StepUse("prod", "RUN make", "sha256:k"),),
)
RECORD = Record(
    CacheKey("sha256:k"),
    KeyParts(1, {}, ()),
    Place("Dockerfile", "prod", 1, 2, "RUN make"),
    StateId("s"),
    (),
    "d",
    1000.0,
    60.0,
    "host",
    "build-7",
)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_provenance_is_slsa_in_an_in_toto_statement(mode: Any) -> None:
    from google.protobuf import json_format  # type: ignore[import-untyped]  # made by protoc, without types
    from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance  # type: ignore[import-untyped]  # as above
    from in_toto_attestation.v1.statement_pb2 import Statement as Message  # type: ignore[import-untyped]  # as above

    predicate = provenance(ORIGIN, {"sha256:k": RECORD}, mode)
    read = json_format.ParseDict(predicate, Provenance())
    assert [d.uri for d in read.build_definition.resolved_dependencies] == [
        "pkg:docker/debian@12?platform=linux%2Famd64",
        "https://example.com/a.tar",
        "git+https://example.com/r.git@v1",
    ]
    assert read.run_details.metadata.invocation_id == "build-7"
    assert (read.run_details.metadata.started_on.seconds, read.run_details.metadata.finished_on.seconds) == (940, 1000)
    subject = [{"name": "app", "digest": {"sha256": MANIFEST[7:]}}]
    document = {"_type": "https://in-toto.io/Statement/v1", "subject": subject, "predicateType": "https://slsa.dev/provenance/v1"}
    message = json_format.ParseDict({**document, "predicate": predicate}, Message())
    assert message.subject[0].digest["sha256"] == MANIFEST[7:]
    assert ("RUN make" in str(predicate)) == (mode == "max")
    assert "secret-project" not in str(predicate), "no path of the machine"
    assert "host" not in str(predicate).replace("https", "")


def test_provenance_without_records_has_no_times() -> None:
    assert provenance(ORIGIN, {}, "min")["runDetails"]["metadata"] == {}


def test_the_manifest_beside_the_image_is_buildkits() -> None:
    found = attach(MANIFEST, [Statement("https://slsa.dev/provenance/v1", b"{}")])
    manifest = json.loads(found.raw)
    (layer,) = manifest["layers"]
    assert layer["mediaType"] == IN_TOTO
    assert layer["annotations"] == {"in-toto.io/predicate-type": "https://slsa.dev/provenance/v1"}
    assert found.descriptor.annotations == {
        "vnd.docker.reference.digest": MANIFEST,
        "vnd.docker.reference.type": "attestation-manifest",
    }
    assert found.descriptor.platform is not None
    assert (found.descriptor.platform.os, found.descriptor.platform.architecture) == ("unknown", "unknown")
    blobs = {descriptor.digest: data for descriptor, data in found.blobs}
    assert {manifest["config"]["digest"], layer["digest"]} == set(blobs)
    assert all(sha256(data) == digest for digest, data in blobs.items())
