"""The recipe of a thousand CI files with the real docker command line on `lamina serve`: `docker save $(docker images -aq)`, `docker load` on a
machine that has nothing, `docker build`: every step hits, those of stages that were only copied from too."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from lamina.testing.engineserver import serving
from lamina.testing.project import Project

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="RUN steps are run as root here"),
    pytest.mark.skipif(not shutil.which("docker"), reason="the docker command line is not installed"),
]


def docker(host: str, *words: str) -> str:
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "DOCKER_HOST": host, "DOCKER_BUILDKIT": "0"}
    done = subprocess.run(["docker", *words], env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_whole_cache_by_ids(project: Project, busybox: Path, tmp_path: Path) -> None:
    project.dockerfile(
        "FROM base:1 AS tool\nCOPY word /word\nRUN tr a-z A-Z < /word > /tool\nFROM base:1\nCOPY --from=tool /tool /tool\nRUN cat /tool > /made\n"
    )
    project.write({"word": "word\n"})
    archive = str(tmp_path / "all.tar")
    with serving(tmp_path / "one" / "store") as host:
        docker(host, "import", str(busybox), "base:1")
        first = docker(host, "build", "-q", "-t", "app:1", str(project.folder)).strip()
        docker(host, "save", "-o", archive, *docker(host, "images", "-aq").split())
    with serving(tmp_path / "two" / "store") as host:
        docker(host, "load", "-i", archive)
        base = next(each for each in docker(host, "images", "-aq", "--no-trunc").split() if each != first)
        docker(host, "tag", base, "base:1")  # an archive by ids has no names
        said = docker(host, "build", "-t", "app:1", str(project.folder))
        assert said.count("Using cache") == 4, said
        assert docker(host, "images", "-q", "--no-trunc", "app:1").strip() == first
