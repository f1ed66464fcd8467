"""Builds for several platforms from the command line."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamina.diagnostics.errors import LaminaError
from lamina.engine.platforms import check_runs_here
from lamina.oci.platform import Platform
from lamina.testing.fakeregistry import FakeRegistry
from lamina.testing.images import simple_image, tar_of, write_layout

Lamina = Callable[..., Any]
BOTH = "linux/amd64,linux/arm64"


def read(archive: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    with tarfile.open(archive) as tar:
        files = {m.name: f.read() for m in tar.getmembers() if (f := tar.extractfile(m)) is not None}
    return json.loads(files["index.json"]), files


def test_one_index_over_both(lamina: Lamina, app: Path, tmp_path: Path) -> None:
    said = lamina("build", "-q", "-t", "app:1", "--platform", BOTH, "-o", "type=oci,dest=out.tar", "--load", ".")
    assert said.code == 0, said.err
    top, files = read(app / "out.tar")
    (entry,) = top["manifests"]
    assert entry["mediaType"] == "application/vnd.oci.image.index.v1+json"
    index = json.loads(files["blobs/sha256/" + entry["digest"][7:]])
    assert [each["platform"]["architecture"] for each in index["manifests"]] == ["amd64", "arm64"]
    for each in index["manifests"]:
        manifest = json.loads(files["blobs/sha256/" + each["digest"][7:]])
        assert len(files["blobs/sha256/" + manifest["config"]["digest"][7:]]) == manifest["config"]["size"]
    assert [line.split()[1] for line in said.out.splitlines()] == ["linux/amd64", "linux/arm64"]
    listed = lamina("images")
    assert "PLATFORM" in listed.out
    assert "linux/arm64" in listed.out


def test_read_again_for_either(lamina: Lamina, app: Path) -> None:
    assert lamina("build", "-q", "-t", "app:1", "--platform", BOTH, "-o", "type=oci,dest=out/", ".").code == 0
    (app / "next").mkdir()
    (app / "next" / "Dockerfile").write_text("FROM base\nLABEL a=b\n")
    for platform in BOTH.split(","):
        said = lamina("build", "-q", "--platform", platform, "--build-context", f"base=oci-layout://{app}/out:1", "next")
        assert said.code == 0, said.err
        assert json.loads(lamina("inspect", said.out.strip()).out)[0]["Architecture"] == platform.split("/")[1]


def test_a_later_build_of_one_platform_replaces_the_name(lamina: Lamina, app: Path) -> None:
    def platforms() -> list[str]:
        return sorted(row["Platform"] for row in json.loads(lamina("images", "--json").out))

    assert lamina("build", "-q", "-t", "app:1", "--platform", BOTH, ".").code == 0
    assert platforms() == ["linux/amd64", "linux/arm64"]
    assert lamina("build", "-q", "-t", "app:1", "--platform", "linux/arm64", ".").code == 0
    assert platforms() == ["linux/arm64"]
    with FakeRegistry() as registry:
        assert lamina("tag", "app:1", f"{registry.host}/app:1").code == 0
        assert lamina("push", f"{registry.host}/app:1").code == 0
        manifest = json.loads(registry.manifests["app", registry.tags["app"]["1"]][1])
    assert "manifests" not in manifest, "one image, no index of what was built before"
    assert lamina("build", "-q", "-t", "app:1", "--platform", BOTH, ".").code == 0
    assert platforms() == sorted(["linux/arm64", "linux/amd64", "linux/arm64"])
    assert lamina("build", "-q", "-t", "app:1", "--platform", BOTH.partition(",")[0], "-o", "type=oci,dest=x.tar", ".").code == 0
    assert len(platforms()) == 3, "an output that is no image of the store changes no name"


def test_pushed_as_one_index(lamina: Lamina, app: Path) -> None:
    with FakeRegistry() as registry:
        said = lamina("build", "-q", "-t", f"{registry.host}/app:1", "--platform", BOTH, "--push", ".")
        assert said.code == 0, said.err
        index = json.loads(registry.manifests["app", registry.tags["app"]["1"]][1])
    assert [each["platform"]["architecture"] for each in index["manifests"]] == ["amd64", "arm64"]


def test_a_run_of_a_foreign_platform_is_one_clear_line(lamina: Lamina, app: Path) -> None:
    write_layout(app / "base", [(simple_image([tar_of({"etc": None})], architecture="s390x"), "1")])
    (app / "Dockerfile").write_text("FROM base\nRUN true\n")
    said = lamina("build", "--progress=plain", "--platform", "linux/s390x", "--build-context", f"base=oci-layout://{app}/base:1", ".")
    assert said.code == 69
    assert "linux/s390x cannot run on this machine" in said.err
    assert "Traceback" not in said.err


def test_plan_of_both(lamina: Lamina, app: Path) -> None:
    said = lamina("plan", "--json", "--platform", BOTH, ".")
    assert said.code == 3
    assert len([s for s in json.loads(said.out)["steps"] if s["verdict"] in ("miss", "unknown")]) == 8


@pytest.mark.parametrize(
    ("entry", "runs"),
    [
        ("enabled\ninterpreter /usr/bin/qemu-s390x\nflags: OCF\n", True),
        ("enabled\ninterpreter /usr/bin/qemu-s390x\nflags: OC\n", False),
        ("disabled\ninterpreter /usr/bin/qemu-s390x\nflags: F\n", False),
        (None, False),
    ],
)
def test_emulators(tmp_path: Path, entry: str | None, runs: bool) -> None:
    if entry is not None:
        (tmp_path / "qemu-s390x").write_text(entry)
    if runs:
        check_runs_here(Platform("linux", "s390x"), tmp_path)
    else:
        with pytest.raises(LaminaError, match="cannot run"):
            check_runs_here(Platform("linux", "s390x"), tmp_path)
