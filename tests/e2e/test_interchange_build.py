"""What `lamina build --output` writes carries the names of this build, and another tool reads it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest

from lamina.testing.project import Project

PODMAN = shutil.which("podman")


def names_in(archive: Path) -> list[str]:
    with tarfile.open(archive) as file:
        index = file.extractfile("index.json")
        assert index is not None
        return [manifest["annotations"]["io.containerd.image.name"] for manifest in json.load(index)["manifests"]]


def test_an_output_file_has_the_names_of_this_build_only(project: Project, tmp_path: Path) -> None:
    """The same image had been built as app:1 before: `build -t app:2 --output type=oci` wrote an archive that named app:1."""
    project.dockerfile("FROM base:1\nRUN echo hi > /hi\n")
    project.build("-t", "app:1")
    project.build("-t", "app:2", "-t", "app:3", "--output", f"type=oci,dest={tmp_path}/o.tar")
    assert names_in(tmp_path / "o.tar") == ["docker.io/library/app:2", "docker.io/library/app:3"]
    assert "app:2" not in project.run("images", "--format", "{{.Repository}}:{{.Tag}}").stdout.decode().split(), (
        "as buildx: a file is no name"
    )
    project.build("-t", "app:2", "--load", "--output", f"type=oci,dest={tmp_path}/o.tar")
    assert "app:2" in project.run("images", "--format", "{{.Repository}}:{{.Tag}}").stdout.decode().split()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="podman without root needs a user namespace of its own")
@pytest.mark.skipif(PODMAN is None, reason="podman is not installed (make test-deps)")
@pytest.mark.parametrize("form", ["docker", "oci"])
def test_podman_reads_and_writes(project: Project, tmp_path: Path, form: str, request: pytest.FixtureRequest) -> None:
    project.dockerfile("FROM base:1\nRUN echo hi > /hi\nLABEL a=b\n")
    image = project.build("-t", "app:1", "--output", f"type={form},dest={tmp_path}/out.tar").stdout.strip()
    short = tempfile.mkdtemp(prefix="podman-", dir="/tmp")  # podman takes no longer runroot than 50 characters
    request.addfinalizer(lambda: shutil.rmtree(short, ignore_errors=True))
    podman = [
        str(PODMAN),
        "--root",
        f"{tmp_path}/root",
        "--runroot",
        short,
        "--storage-driver",
        "vfs",
        "--cgroup-manager",
        "cgroupfs",
    ]
    subprocess.run([*podman, "load", "-i", f"{tmp_path}/out.tar"], check=True, capture_output=True)
    listed = subprocess.run(
        [*podman, "images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"], check=True, capture_output=True, text=True
    )
    assert listed.stdout.split() == ["docker.io/library/app:1", image]
    kind = {"docker": "docker-archive", "oci": "oci-archive"}[form]
    subprocess.run(
        [*podman, "save", "--format", kind, "-o", f"{tmp_path}/back.tar", "docker.io/library/app:1"], check=True, capture_output=True
    )
    other = Project(project.folder, tmp_path / "other")
    assert "app:1" in other.run("load", "-i", f"{tmp_path}/back.tar").stdout.decode()
