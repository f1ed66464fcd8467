"""An inventory as SPDX 2.3 or CycloneDX 1.6, both JSON. The same image gives the same bytes: ids follow from its digest, the time is its own."""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import quote

from lamina.engine.attest.packages import Inventory, Package, System
from lamina.oci.digest import Digest
from lamina.version import __version__

Format = Literal["spdx", "cyclonedx"]
PREDICATES: dict[Format, str] = {"spdx": "https://spdx.dev/Document", "cyclonedx": "https://cyclonedx.org/bom"}
_NAMESPACE = uuid.UUID("7d0a4a4e-6b43-5d5e-9c2f-1a7f5b0c9e11")


def purl(package: Package, system: System) -> str:
    """The package URL (purl-spec, PURL-TYPES)."""
    qualifiers: dict[str, str] = {}
    namespace, name = "", package.name
    if package.ecosystem in ("deb", "apk", "rpm"):
        fallback = {"deb": "debian", "apk": "alpine", "rpm": ""}[package.ecosystem]
        namespace = (system.id or fallback).lower()
        name = name if package.ecosystem == "rpm" else name.lower()
        qualifiers["arch"] = package.architecture
        qualifiers["epoch"] = package.epoch
        qualifiers["distro"] = f"{system.id}-{system.version}" if system.id and system.version else ""
    elif package.ecosystem == "pypi":
        name = name.lower().replace("_", "-")
    elif name.startswith("@") and "/" in name:
        namespace, _, name = name.partition("/")
    path = "/".join(_encoded(part) for part in (namespace, name) if part)
    tail = "&".join(f"{key}={_encoded(value)}" for key, value in sorted(qualifiers.items()) if value)
    return f"pkg:{package.ecosystem}/{path}@{_encoded(package.version)}" + (f"?{tail}" if tail else "")


def _encoded(text: str) -> str:
    return quote(text, safe=":")


def image_purl(name: str, platform: str) -> str:
    """`pkg:docker/NAME@TAG?platform=…` of a full reference, as BuildKit names subjects."""
    repository, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        repository, tag = name, ""
    short = repository.removeprefix("docker.io/").removeprefix("library/")
    path = "/".join(quote(part, safe="") for part in short.split("/"))
    return f"pkg:docker/{path}" + (f"@{quote(tag, safe='')}" if tag else "") + f"?platform={quote(platform, safe='')}"


def moment(seconds: float) -> str:
    return datetime.fromtimestamp(max(0, int(seconds)), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def spdx(found: Inventory, name: str, manifest: Digest, created: float) -> dict[str, Any]:
    """The document of the image `name` with this manifest."""
    root = "SPDXRef-image"
    packages: list[dict[str, Any]] = [
        {
            "SPDXID": root,
            "name": name,
            "versionInfo": manifest,
            "primaryPackagePurpose": "CONTAINER",
            "downloadLocation": "NOASSERTION",
            "filesAnalyzed": False,
            "licenseConcluded": "NOASSERTION",
            "licenseDeclared": "NOASSERTION",
            "copyrightText": "NOASSERTION",
            "checksums": [{"algorithm": "SHA256", "checksumValue": manifest.partition(":")[2]}],
        }
    ]
    relationships = [{"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": root}]
    for number, package in enumerate(found.packages):
        identifier = f"SPDXRef-{package.ecosystem}-{number}-" + re.sub(r"[^A-Za-z0-9.-]", "-", package.name)
        row: dict[str, Any] = {
            "SPDXID": identifier,
            "name": package.name,
            "versionInfo": package.version,
            "downloadLocation": "NOASSERTION",
            "filesAnalyzed": False,
            "licenseConcluded": "NOASSERTION",
            "licenseDeclared": "NOASSERTION",
            "copyrightText": "NOASSERTION",
            "sourceInfo": f"read from {package.path}",
            "externalRefs": [
                {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl(package, found.system)}
            ],
        }
        if package.license:
            row["licenseComments"] = f"The package says: {package.license}"  # its own words, seldom an SPDX expression
        packages.append(row)
        relationships.append({"spdxElementId": root, "relationshipType": "CONTAINS", "relatedSpdxElement": identifier})
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": f"https://spdx.org/spdxdocs/lamina-{uuid.uuid5(_NAMESPACE, manifest)}",
        "creationInfo": {"created": moment(created), "creators": [f"Tool: lamina-{__version__}"]},
        "packages": packages,
        "relationships": relationships,
    }


def cyclonedx(found: Inventory, name: str, manifest: Digest, created: float) -> dict[str, Any]:
    """As `spdx`."""
    components: list[dict[str, Any]] = []
    if found.system.id:
        system: dict[str, Any] = {"type": "operating-system", "bom-ref": "os", "name": found.system.id}
        if found.system.version:
            system["version"] = found.system.version
        if found.system.name:
            system["description"] = found.system.name
        components.append(system)
    for number, package in enumerate(found.packages):
        row: dict[str, Any] = {
            "type": "library",
            "bom-ref": f"{package.ecosystem}-{number}",
            "name": package.name,
            "version": package.version,
            "purl": purl(package, found.system),
            "properties": [{"name": "lamina:path", "value": package.path}],
        }
        if package.license:
            row["licenses"] = [{"license": {"name": package.license}}]
        components.append(row)
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, manifest)}",
        "version": 1,
        "metadata": {
            "timestamp": moment(created),
            "tools": {"components": [{"type": "application", "name": "lamina", "version": __version__}]},
            "component": {"type": "container", "bom-ref": "image", "name": name, "version": manifest},
        },
        "components": components,
        "dependencies": [{"ref": "image", "dependsOn": [row["bom-ref"] for row in components]}],
    }
