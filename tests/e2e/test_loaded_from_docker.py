"""An image that plain docker built and saved is a cache: `docker save app | lamina load`, and a build takes over the layers of its RUNs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from lamina.testing import dockerd
from lamina.testing.project import Project

pytestmark = [
    pytest.mark.docker,
    pytest.mark.root,
    pytest.mark.skipif(dockerd.why_not() is not None, reason=dockerd.why_not() or ""),
]

DOCKERFILE = """
FROM base:1
ENV GREETING=hello
ARG V=1
WORKDIR /app
RUN echo $GREETING $V > greeting; head -c 16 /dev/urandom > random
COPY a.txt dir ./
USER worker
RUN cat greeting a.txt > /tmp/made
CMD ["cat", "/tmp/made"]
"""


@pytest.fixture(params=["1", "0"], ids=["buildkit", "classic"])
def archive(request: pytest.FixtureRequest, project: Project, busybox: Path, tmp_path: Path) -> Path:
    """The Dockerfile built and saved by docker, upon the same base."""
    project.dockerfile(DOCKERFILE)
    project.write({"a.txt": "a\n", "dir/b": "b\n"})
    with dockerd.daemon() as daemon:
        daemon.docker("import", str(busybox), "base:1")
        subprocess.run(
            [dockerd.CLIENT, "build", "--network=host", "-t", "app:1", str(project.folder)],
            env={**os.environ, "DOCKER_HOST": f"unix://{daemon.socket}", "DOCKER_BUILDKIT": request.param},
            check=True,
            capture_output=True,
        )
        daemon.docker("save", "-o", str(tmp_path / "app.tar"), "app:1")
    return tmp_path / "app.tar"


def test_its_runs_are_taken_over(project: Project, archive: Path, tmp_path: Path) -> None:
    assert project.run("load", "-i", str(archive)).returncode == 0
    first = project.build("--output", f"type=local,dest={tmp_path}/out")
    assert [(row.text.split(" ", 2)[1], row.code) for row in first.rows if row.text.startswith("RUN")] == [
        ("echo", "adopted"),
        ("cat", "adopted"),
    ]
    assert "app:1" in first.row("RUN echo").message
    again = project.build()
    assert again.verdicts() == "CCCC"
    assert (tmp_path / "out" / "tmp" / "made").read_text() == "hello 1\na\n"
    # Random bytes come out of docker's layer, not of a run of ours.
    other = project.build("--no-cache", "--output", f"type=local,dest={tmp_path}/fresh")
    assert other.verdicts() == "Cxxx"
    assert (tmp_path / "out" / "app" / "random").read_bytes() != (tmp_path / "fresh" / "app" / "random").read_bytes()


@pytest.mark.parametrize(
    ("old", "new"),
    [("GREETING=hello", "GREETING=bye"), ("V=1", "V=2"), ("WORKDIR /app", "WORKDIR /app2"), ("echo $GREETING", "echo -n $GREETING")],
    ids=["env", "arg", "folder", "command"],
)
def test_another_history_is_another_step(project: Project, archive: Path, old: str, new: str) -> None:
    project.run("load", "-i", str(archive))
    project.dockerfile(DOCKERFILE.replace(old, new))
    assert project.build().row("RUN echo").verdict == "ran"


def test_another_content_below_is_another_step(project: Project, archive: Path) -> None:
    project.run("load", "-i", str(archive))
    project.write({"a.txt": "changed\n"})
    outcome = project.build()
    assert outcome.row("RUN echo").code == "adopted"
    assert outcome.row("RUN cat").verdict == "ran"
