"""`--provenance` and `--sbom` on their way out: in the index of a registry and of a layout, nothing by default."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lamina.testing.fakeregistry import FakeRegistry

Lamina = Callable[..., Any]


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as found:
        yield found


def index_of(registry: FakeRegistry) -> dict[str, Any]:
    return dict(json.loads(registry.manifests["app", registry.tags["app"]["1"]][1]))


def statements(registry: FakeRegistry) -> dict[str, list[dict[str, Any]]]:
    """By the manifest that they are about."""
    found: dict[str, list[dict[str, Any]]] = {}
    for entry in index_of(registry)["manifests"]:
        notes = entry.get("annotations", {})
        if notes.get("vnd.docker.reference.type") == "attestation-manifest":
            manifest = json.loads(registry.manifests["app", entry["digest"]][1])
            layers = [json.loads(registry.blobs["app", layer["digest"]]) for layer in manifest["layers"]]
            found[notes["vnd.docker.reference.digest"]] = layers
    return found


def test_nothing_by_default(lamina: Lamina, app: Path, registry: FakeRegistry) -> None:
    assert lamina("build", "-q", "-t", f"{registry.host}/app:1", "--push", ".").code == 0
    assert "manifests" not in index_of(registry)


def test_build_push_with_both(lamina: Lamina, app: Path, registry: FakeRegistry) -> None:
    command = ("build", "-q", "-t", f"{registry.host}/app:1", "--push", "--provenance=max", "--sbom=spdx,cyclonedx", ".")
    said = lamina(*command)
    assert said.code == 0, said.err
    index = index_of(registry)
    image = index["manifests"][0]
    assert image["platform"]["os"] == "linux"
    about = statements(registry)
    assert list(about) == [image["digest"]]
    kinds = [each["predicateType"] for each in about[image["digest"]]]
    assert kinds == ["https://slsa.dev/provenance/v1", "https://spdx.dev/Document", "https://cyclonedx.org/bom"]
    for each in about[image["digest"]]:
        assert each["subject"][0]["digest"] == {"sha256": image["digest"][7:]}
        assert each["subject"][0]["name"].endswith("/app@1?platform=linux%2Famd64")
    steps = about[image["digest"]][0]["predicate"]["buildDefinition"]["internalParameters"]["steps"]
    assert [step["instruction"] for step in steps] == ["COPY a /a", "COPY b /b", "COPY --from=parts /a /copied", "WORKDIR /work"]
    registry.asked.clear()
    assert lamina(*command).code == 0
    assert registry.count("PUT") == registry.count("POST") == 0, "the same statements: the registry has them"


def test_it_can_be_pulled_and_built_upon(
    lamina: Lamina, app: Path, registry: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{registry.host}/app:1"
    assert lamina("build", "-q", "-t", name, "--push", "--sbom=spdx", ".").code == 0
    monkeypatch.setenv("LAMINA_ROOT", str(tmp_path / "elsewhere"))
    said = lamina("pull", name)
    assert said.code == 0, said.err
    (app / "Dockerfile").write_text(f"FROM {name}\nLABEL a=b\n")
    assert lamina("build", "-q", ".").code == 0


def test_push_of_an_image_that_is_here(lamina: Lamina, built: Path, registry: FakeRegistry) -> None:
    said = lamina("push", "--provenance", "min", "--sbom", "cyclonedx", "app:1", f"{registry.host}/app:1")
    assert said.code == 0, said.err
    (about,) = statements(registry).values()
    assert [each["predicateType"] for each in about] == ["https://slsa.dev/provenance/v1", "https://cyclonedx.org/bom"]


def test_each_platform_has_its_own(lamina: Lamina, app: Path, registry: FakeRegistry) -> None:
    name = f"{registry.host}/app:1"
    said = lamina("build", "-q", "-t", name, "--platform", "linux/amd64,linux/arm64", "--push", "--provenance=min", ".")
    assert said.code == 0, said.err
    images = [e["digest"] for e in index_of(registry)["manifests"] if e["platform"]["os"] == "linux"]
    assert sorted(statements(registry)) == sorted(images)
    assert len(images) == 2


def test_layouts_have_them_too(lamina: Lamina, app: Path) -> None:
    said = lamina("build", "-q", "-t", "app:1", "--provenance=min", "-o", "type=oci,dest=out/", ".")
    assert said.code == 0, said.err
    top = json.loads((app / "out" / "index.json").read_text())["manifests"]
    index = json.loads((app / "out" / "blobs" / "sha256" / top[0]["digest"][7:]).read_text())
    assert [e["platform"]["os"] for e in index["manifests"]] == ["linux", "unknown"]
    manifest = json.loads((app / "out" / "blobs" / "sha256" / index["manifests"][1]["digest"][7:]).read_text())
    assert all((app / "out" / "blobs" / "sha256" / layer["digest"][7:]).is_file() for layer in (manifest["config"], *manifest["layers"]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--provenance=much", "--push"], "--provenance much is not known"),
        (["--sbom=list", "--push"], "--sbom list is not known"),
        (["--sbom=spdx"], "needs an output that carries it"),
        (["--provenance=max", "--load"], "needs an output that carries it"),
    ],
)
def test_mistakes(lamina: Lamina, app: Path, options: list[str], words: str) -> None:
    said = lamina("build", "-t", "127.0.0.1:1/app:1", *options, ".")
    assert said.code == 2
    assert words in said.err


def test_no_provenance_of_what_was_not_built_here(lamina: Lamina, rootfs: Path, registry: FakeRegistry) -> None:
    assert lamina("import", str(rootfs), "base:1").code == 0
    said = lamina("push", "--provenance", "min", "base:1", f"{registry.host}/app:1")
    assert said.code == 1
    assert "nothing is known of how it was built" in said.err


def test_sbom_command(lamina: Lamina, app: Path) -> None:
    (app / "status").write_text("Package: bash\nStatus: install ok installed\nVersion: 5\nArchitecture: amd64\n")
    (app / "Dockerfile").write_text("FROM scratch\nCOPY status /var/lib/dpkg/status\n")
    assert lamina("build", "-q", "-t", "app:2", ".").code == 0
    assert lamina("sbom", "app:2").out.split() == ["TYPE", "NAME", "VERSION", "deb", "bash", "5"]
    assert json.loads(lamina("sbom", "--json", "app:2").out)["spdxVersion"] == "SPDX-2.3"
    assert json.loads(lamina("sbom", "--format", "cyclonedx", "app:2").out)["components"][0]["purl"] == "pkg:deb/debian/bash@5?arch=amd64"
