"""`lamina plan --cache-from` on a machine that has nothing: what it may reuse, from where, and the bytes to fetch; then a build fetches that."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.testing.images import busybox_tar, push, simple_image
from lamina.testing.project import Project
from lamina.testing.registry import docker_registry

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="RUN steps are run as root here"),
    pytest.mark.skipif(not shutil.which("docker-registry"), reason="docker-registry is not installed"),
    pytest.mark.skipif(not shutil.which("busybox"), reason="busybox is not installed"),
]


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "registry").mkdir()
    with docker_registry(tmp_path / "registry") as host:
        push(host, "base", "1", simple_image([busybox_tar()]))
        yield host


def test_what_a_job_may_reuse(tmp_path: Path, registry: str) -> None:
    folder = tmp_path / "context"
    folder.mkdir()
    here, there = Project(folder, tmp_path / "here"), Project(folder, tmp_path / "there")
    here.dockerfile(f"FROM {registry}/base:1\nRUN head -c 5000 /dev/urandom > /random\nCOPY word /word\n")
    here.write({"word": "word\n"})
    cache = f"oci://{registry}/cache"
    here.build("--cache-to", cache)
    done = there.run("plan", "--json", "--cache-from", cache, ".")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["complete"] is True
    (base,) = plan["images"]
    run, copy = plan["steps"][1:]
    assert base["reference"] == f"{registry}/base:1"
    assert 5000 < run["fetch_bytes"] < 6000
    assert plan["fetch_bytes"] == base["fetch_bytes"] + run["fetch_bytes"] + copy["fetch_bytes"]
    assert f"found in oci://{registry}/cache" in run["reason"]["message"]
    said = there.run("plan", "--cache-from", cache, ".").stdout.decode()
    assert "all cached: a build would run nothing, " in said
    assert "to fetch" in said
    (folder / "word").write_text("other\n")
    done = there.run("plan", "--json", "--cache-from", cache, ".")
    assert done.returncode == 3
    assert json.loads(done.stdout)["steps"][2]["reason"]["code"] == "file-changed"
    assert json.loads(here.run("plan", "--json", ".").stdout)["images"][0].get("fetch_bytes") == 0
