"""skopeo's `docker-daemon:` both ways, against a real `lamina serve`: what an engine has goes out as it is, and comes in as it is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.testing.engineserver import serving
from lamina.testing.project import Project

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="steps of this test run as root"),
    pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed (make test-deps)"),
]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, seeded_store: Path) -> Iterator[str]:
    """An engine with base:1 and app:1, which has a layer more."""
    folder = tmp_path_factory.mktemp("skopeo")
    shutil.copytree(seeded_store, folder / "root", symlinks=True)
    (folder / "context").mkdir()
    (folder / "context" / "Dockerfile").write_text("FROM base:1\nRUN echo made > /made\nLABEL a=b\nCMD cat /made\n")
    done = Project(folder / "context", folder / "root").run("build", "-t", "app:1", ".")
    assert done.returncode == 0, done.stderr.decode()
    with serving(folder / "root") as address:
        yield address


def skopeo(*arguments: str) -> bytes:
    done = subprocess.run(["skopeo", *arguments], stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def test_out_of_the_engine_and_in_again(host: str, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    skopeo("copy", "--insecure-policy", "--src-daemon-host", host, "docker-daemon:app:1", f"oci:{layout}:app")
    config = json.loads(skopeo("inspect", "--config", f"oci:{layout}:app"))
    assert config["config"]["Labels"] == {"a": "b"}
    assert len(config["rootfs"]["diff_ids"]) == 2
    skopeo("copy", "--insecure-policy", "--dest-daemon-host", host, f"oci:{layout}:app", "docker-daemon:again:1")
    there = json.loads(skopeo("inspect", "--config", "--daemon-host", host, "docker-daemon:again:1"))
    assert there == config


def test_an_archive_of_docker_and_an_image_by_its_id(host: str, tmp_path: Path) -> None:
    archive = tmp_path / "app.tar"
    identity = json.loads(skopeo("inspect", "--raw", "--daemon-host", host, "docker-daemon:app:1"))["config"]["digest"]
    skopeo("copy", "--insecure-policy", "--src-daemon-host", host, f"docker-daemon:{identity}", f"docker-archive:{archive}:other:2")
    skopeo("copy", "--insecure-policy", "--dest-daemon-host", host, f"docker-archive:{archive}", "docker-daemon:other:2")
    again = json.loads(skopeo("inspect", "--raw", "--daemon-host", host, "docker-daemon:other:2"))
    assert again["config"]["digest"] == identity


def test_a_name_that_is_not_there_is_one_line(host: str, tmp_path: Path) -> None:
    done = subprocess.run(
        ["skopeo", "copy", "--insecure-policy", "--src-daemon-host", host, "docker-daemon:nothing:1", f"dir:{tmp_path}/d"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "nothing:1" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
